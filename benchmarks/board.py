"""How long the board takes over many results, and how much memory.

Run from the checkout: `python benchmarks/board.py`. It writes results as a grid's stacks leave
them (a file per stack and reading, 288 rows each, losses of every epoch, test clips cut to two),
then runs `asdgan board` on them in a process of its own, once per view. The view that
reads clip scores is measured with as many as a machine type has: `--by selection --clips 1875`.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from asdgan.results import ledger

MACHINE_TYPES = {
    "fan": ("00", "02", "04", "06"),
    "pump": ("00", "02", "04", "06"),
    "slider": ("00", "02", "04", "06"),
    "valve": ("00", "02", "04", "06"),
    "ToyCar": ("01", "02", "03", "04"),
    "ToyConveyor": ("01", "02", "03"),
}
READINGS = (10, 20, 30, 90)
SHAPES = tuple(itertools.product((16, 128, 512, 1024), (3, 4, 5), (8, 16, 32)))
LANES = tuple(
    itertools.product(
        (1e-3, 5e-4, 2e-4, 1e-4), (0.0, 0.25), (0.5, 0.9), (1, 50), (1, 25, 50), (1, 25, 50)
    )
)
LOSSES = tuple(f"train/{name}" for name in ("loss_g", "loss_d", "adv", "con", "lat"))
LANE_AXES = ("lr", "dropout", "beta1", "lambda_adv", "lambda_con", "lambda_lat")
SETTINGS = {
    "detector": "ganomaly",
    "init": "glorot_uniform",
    "windows.frames": 5,
    "windows.stride": 1,
    "windows.val_split": "none",
    "windows.val_fraction": 0.1,
    "windows.val_seed": 0,
    "features.sample_rate": 16000,
    "features.n_fft": 1024,
    "features.hop": 512,
    "features.mels": 128,
    "features.power": 2.0,
    "features.mel_scale": "slaney",
    "features.mel_norm": "slaney",
    "features.pad_mode": "reflect",
    "features.floor": "add",
    "features.eps": 2.220446049250313e-16,
    "features.resample": False,
    "optimizer._target_": "asdgan.nn.lanes.adam",
    "optimizer._partial_": True,
    "optimizer.beta2": 0.999,
    "optimizer.eps": 1e-08,
    "model.hidden_width": 128,
    "model.init_std": 0.02,
    "model.bn_momentum": 0.1,
    "model.bn_eps": 1e-05,
    "model.reset_below": 1e-05,
    "model.primary": "recon_l1",
    "model.pool": "mean",
    "dataset.release": "dcase2020",
    "trainer.dtype": "float32",
    "trainer.precision": "highest",
}


def rows_of(chance, seed, shape, machine_type, epochs, held):
    """The rows of one stack at one reading."""
    batch, hidden_layers, latent = shape
    sections = MACHINE_TYPES[machine_type]
    data = f"{len(machine_type):064x}"
    for lane in LANES:
        settings = {
            **SETTINGS,
            "machine": machine_type,
            "seed": seed,
            "epochs": epochs,
            "batch": batch,
            "hidden_layers": hidden_layers,
            "latent": latent,
            **dict(zip(LANE_AXES, lane, strict=True)),
        }
        areas = [
            dict(zip(("auc", "pauc"), pair, strict=True))
            for pair in chance.uniform(0.4, 0.9, (len(sections), 2)).tolist()
        ]
        mean = {area: float(np.mean([one[area] for one in areas])) for area in ("auc", "pauc")}
        yield {
            "signature": ledger.signature(settings, 1, data),
            "model": "ganomaly",
            "recipe": 1,
            "release": "dcase2020",
            "data": data,
            "machine_type": machine_type,
            "settings": settings,
            "seed": seed,
            "epochs": epochs,
            "selection": {"settings": "named", "checkpoint": "last"},
            "primary": "recon_l1",
            **mean,
            "sections": {
                name: {**one, "normal": 100, "anomaly": 300}
                for name, one in zip(sections, areas, strict=True)
            },
            "clips": 400 * len(sections),
            "components": {
                name: mean for name in ("recon_l1", "recon_l2", "latent_l1", "latent_l2")
            },
            "train_clips": 3000 + 100 * len(machine_type),
            "test_clips": 400 * len(sections),
            "losses": {
                name: chance.uniform(0, 10, epochs).tolist()
                for name in (*LOSSES, *(["val/recon_l1"] if held else []))
            },
            "health": {
                **{
                    name: [float(f"{one:.3g}") for one in chance.uniform(0, 1, epochs)]
                    for name in ("d_real", "d_fake", "balance", "spread")
                },
                **{name: [0] * epochs for name in ("dead", "births")},
            },
            "seconds": 21.796,
            "device": "cuda",
            "threads": 1,
            "commit": "0123456789abcdef",
            "versions": {"asdgan": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
            "flags": [],
        }


def scores_of(chance, machine_type, clips):
    """Scores by chance of the test clips of a machine type, 100 normal ones a section or fewer."""
    sections = MACHINE_TYPES[machine_type][: max(1, clips // 4)]
    numbers = np.arange(clips)
    normal = numbers // len(sections) < min(100, max(1, clips // len(sections) // 2))
    return {
        "clip": np.char.add(machine_type, numbers.astype(str)),
        "section": np.array(sections)[numbers % len(sections)],
        "label": np.where(normal, "normal", "anomaly"),
        "score/recon_l1": chance.uniform(0, 10, (len(LANES), clips)),
    }


def write(root, count, clips):
    """Results of at least `count` rows below `root`; gives how many rows there are."""
    chance, written = np.random.default_rng(0), 0
    for seed, shape, machine_type, epochs in itertools.product(
        range(count), SHAPES, MACHINE_TYPES, READINGS
    ):
        rows = list(rows_of(chance, seed, shape, machine_type, epochs, held=clips > 2))
        scores = scores_of(chance, machine_type, clips)
        folder = root / "runs" / f"{machine_type}-ganomaly-{seed}-{'-'.join(map(str, shape))}"
        ledger.write(folder, epochs=epochs, rows=rows, scores=scores, weights=None, config="")
        written += len(rows)
        if written >= count:
            return written


def measure(arguments):
    """Wall clock and processor seconds, and peak memory in MB, of one board."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "asdgan", "board", *arguments], stdout=subprocess.PIPE, text=True
    )
    printed = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"the board failed: {printed}")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="5000,250000", help="at least so many, by comma")
    parser.add_argument("--by", default="settings,machine_type,best", help="views, by comma")
    parser.add_argument("--clips", type=int, default=2, help="test clips of a machine type")
    parser.add_argument("--keep", type=Path, help="folder of the results, reused when it is there")
    chosen = parser.parse_args()
    print("rows        view             seconds   processor   peak MB   results MB")
    for count in map(int, chosen.rows.split(",")):
        with tempfile.TemporaryDirectory(prefix="asdgan-board-") as scratch:
            root = (chosen.keep or Path(scratch)) / str(count)
            if root.exists():
                rows = count
            else:
                os.fsync = lambda _: None  # made to be read, not to outlive a power cut
                rows = write(root, count, chosen.clips)
            size = sum(path.stat().st_size for path in root.rglob("epochs_*.json")) / 1e6
            for view in chosen.by.split(","):
                wall, busy, peak = measure([str(root), "--by", view])
                print(f"{rows:9,}   {view:14}{wall:10.1f}{busy:12.1f}{peak:10.0f}{size:13.0f}")


if __name__ == "__main__":
    main()
