"""On a GPU: does a stack give what a CPU gives, the same bits twice, and the same after a stop?

    python checks/gpu_against_cpu.py

Needs a CUDA device and nothing else: the demo plant is made in a temporary folder. Exits with 1
where a claim fails. What is claimed:

1. Every stackable detector of conf/model/, without noise: losses of its first step, and clip
   scores from equal weights, agree with a CPU's in float64 to 1e-9.
2. A stack on the GPU gives the same bits in a second run, and when it is stopped after any of
   its blocks and goes on from its checkpoint.
3. A lane is the same bit for bit whichever lanes stand beside it in a stack of 8.
4. `-m` on the GPU writes rows of the GPU, the planning process never holds a piece of it, and
   with its memory taken by somebody else, a stack that does not fit is halved until it does.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from small_models import STACKABLE

from asdgan.config import compose
from asdgan.data.windows import Batch
from asdgan.errors import Stopped
from asdgan.nn.lanes import Noise
from asdgan.results import ledger
from asdgan.training import machine_data, train

SMALL = [
    "dataset=demo",
    "dataset.train_clips=4",
    "dataset.test_clips=4",
    "dataset.seconds=2",
    "machine=fan",
]
failures = []


def claim(text, holds, found=""):
    print(f"{'yes' if holds else 'NO '}  {text}  {found}", flush=True)
    if not holds:
        failures.append(text)


def detector_of(name, lanes, *changes, device):
    config = compose.compose([f"model={name}", "dataset=folder", "dataset.root=unused", *changes])
    if lanes:
        config.seed = [*range(lanes)]
    torch.manual_seed(0)
    detector = compose.build(config).double().to(device)
    detector.configure_optimizers()
    return detector


def losses_and_scores(name, device):
    detector = detector_of(name, 4, "dropout=0", device=device)
    seen = torch.Generator().manual_seed(5)
    windows = torch.randn(4, 32, 640, generator=seen, dtype=torch.float64).to(device)
    _, normals = detector.noise_columns()
    drawn = torch.randn(4, 32, normals, generator=seen, dtype=torch.float64) if normals else None
    draw = Noise(detector.seeds, uniforms=0, normals=0).draw(0, 32, like=windows)
    draw.normal = None if drawn is None else drawn.to(device)
    picks = torch.arange(32).expand(4, 32)
    with torch.no_grad():
        before = detector.score_windows(Batch(windows, picks, None, 0))
    losses = detector.learn(Batch(windows, picks, None, 0), draw)
    return {**before, **losses}


def apart(one, other):
    return max(
        float(((one[key].cpu() - other[key].cpu()).abs() / (other[key].cpu().abs() + 1e-9)).max())
        for key in other
    )


def stack(outputs, seeds, stop_after=None, saved=None):
    """Final parameters of a stack trained on the plant, maybe stopped after some blocks."""
    config = compose.compose(
        [
            *SMALL,
            "model=skip_ganomaly",
            "epochs=2",
            "dropout=0.2",
            "batch=4",
            f"outputs={outputs}",
            "trainer.accelerator=gpu",
        ]
    )
    config.seed = seeds
    heard = machine_data.listen(
        config,
        machine_data.root_of(config, lambda *_: lambda _n: None),
        "fan",
        lambda *_: lambda _n: None,
    )
    blocks = []

    def step(count, note):
        blocks.append(count)
        if stop_after is not None and len(blocks) == stop_after:
            raise Stopped("as asked")

    try:
        saving = saved and train.Saving(saved, [*map(str, seeds)], [saved], first=2)
        detector = train.fit(config, heard.train, saving=saving, on_steps=step)
    except Stopped:
        return None, len(blocks)
    return {name: value.cpu() for name, value in detector.state_dict().items()}, len(blocks)


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def check_bits(outputs):
    whole, blocks = stack(outputs, [*range(8)])
    again, _ = stack(outputs, [*range(8)])
    claim("a second run gives the same bits", equal(whole, again))
    for at in sorted({1, blocks // 2, blocks - 1}):
        saved = outputs / f"stopped_{at}"
        stopped, _ = stack(outputs, [*range(8)], stop_after=at, saved=saved)
        resumed, _ = stack(outputs, [*range(8)], saved=saved)
        held = stopped is None and saved.exists() and equal(whole, resumed)
        claim(f"stopped after {at} of {blocks} blocks, it goes on to the same bits", held)
    other, _ = stack(outputs, [0, *range(20, 27)])
    lane = all(torch.equal(value[0], other[name][0]) for name, value in whole.items())
    claim("a lane is the same beside other lanes", lane)


class Sweep:
    """The real command with -m, run to its end; who held memory of the GPU meanwhile is seen."""

    def __init__(self, outputs, *typed):
        outputs.mkdir(parents=True, exist_ok=True)
        log = outputs / "said.txt"
        command = [sys.executable, "-m", "asdgan.run", "-m", f"outputs={outputs}", *SMALL, *typed]
        here = str(Path(__file__).resolve().parent.parent)
        self.holders = set()
        began = time.perf_counter()
        with log.open("w") as said:
            process = subprocess.Popen(
                command,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=outputs,
                env={**os.environ, "PYTHONPATH": here},
            )
            while process.poll() is None:
                self.holders |= holders()
                time.sleep(0.3)
        self.seconds = time.perf_counter() - began
        self.code, self.parent, self.said = process.returncode, process.pid, log.read_text()
        found, _ = ledger.read_all(outputs / "runs")
        self.rows = [row for result in found for row in result.rows]


def holders():
    """Processes that hold memory of a GPU, as the driver sees them."""
    done = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {int(pid) for pid in done.stdout.split() if pid.isdecimal()}


def check_sweep(outputs):
    sweep = Sweep(
        outputs, "model=ganomaly", "lr=1e-4,2e-4", "seed=range(0,4)", "epochs=1,2", "batch=4"
    )
    devices = {row["device"] for row in sweep.rows}
    good = sweep.code == 0 and len(sweep.rows) == 16 and devices == {"cuda:0"}
    claim("-m writes the rows of a GPU", good, f"{len(sweep.rows)} rows, {devices}")
    claim("the planning process holds none of its memory", sweep.parent not in sweep.holders)
    if not good:
        print(sweep.said[-3000:])
    again = Sweep(
        outputs, "model=ganomaly", "lr=1e-4,2e-4", "seed=range(0,4)", "epochs=1,2", "batch=4"
    )
    claim("the second call has nothing to do", "nothing to do: 16 done" in again.said)


def check_memory(outputs, left_mb):
    """A stack of 256 lanes where somebody leaves `left_mb` of the GPU's memory."""
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - (left_mb << 20), dtype=torch.uint8, device="cuda")
    sweep = Sweep(outputs, "model=ganomaly", "seed=range(0,256)", "epochs=1", "batch=64")
    del taken
    lanes = sorted({row["lanes"] for row in sweep.rows})
    good = sweep.code == 0 and len(sweep.rows) == 256 and max(lanes, default=256) < 256
    claim(f"with {left_mb} MB left, 256 lanes are halved and finish", good, f"stacks of {lanes}")
    if not good:
        print(sweep.said[-3000:])
        print(subprocess.getoutput(f"tail -n 30 {outputs}/sweeps/*/logs/*"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--left-mb", type=int, default=1500, help="of the GPU, for check 4")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was checked")
        return 1
    train.quiet_libraries()
    print(torch.__version__, torch.cuda.get_device_name())
    for name in STACKABLE:
        found = apart(losses_and_scores(name, "cuda"), losses_and_scores(name, "cpu"))
        claim(f"{name} agrees with a CPU", found < 1e-9, f"{found:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        check_bits(Path(folder) / "bits")
        check_sweep(Path(folder) / "sweep")
        check_memory(Path(folder) / "memory", chosen.left_mb)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
