"""Log-mel frames: clips a second against librosa, and a large data set through the store.

    python benchmarks/features.py --rounds 5                # 200 clips against librosa
    python benchmarks/features.py --clips 30987 --rounds 0  # a development set's worth of clips

The clips are noise of 10 s at 16 kHz, 16 bits. Against librosa, programs take turns on the same
200 files, and each turn is timed from the file to the frames in memory: librosa (soundfile and
librosa.feature.melspectrogram, clip by clip), torchaudio's own transform (batches of 8), ours on
one thread, and ours into a new store (threads as many as cores, checksum, fsync). Given are clips
a second, of the fastest and of the median turn, and clips a second of processor time, which
says more where the cores are shared.

Then a folder of --clips hard links to these files goes through what a run does, in processes of
its own: `first` finds, fingerprints and computes all of them, `again` maps and verifies what is
stored and gathers every window once, in minibatches of 512. With --threads, `threads` computes
them before, without the processes that `first` starts for a large set. Each says its seconds, the
load of the machine, and its peak memory: all of it, what is left without the pages of the map,
which the kernel takes back when it needs them, and that of the processes it started, together.
The store takes 0.16 MB a clip. Prints lines of JSON.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from asdgan._system import parallel
from asdgan._system.parallel import usable_cores
from asdgan.config import compose
from asdgan.data import clips as tables
from asdgan.data import frames as log_mels
from asdgan.data.frames import LogMel, log_mel, stored_frames
from asdgan.data.wav import import_torchaudio, read_wav
from asdgan.data.windows import Windows

RATE, SECONDS, FILES = 16_000, 10, 200


def config():
    return compose.compose(["model=dcase_ae", "dataset=folder", "dataset.root=unused"])


def noise(folder):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(FILES):
        samples = generator.normal(0, 0.1, RATE * SECONDS)
        soundfile.write(folder / f"{number:03d}.wav", samples, RATE, subtype="PCM_16")
    return sorted(folder.iterdir())


def linked(paths, root, count):
    for number in range(count):
        folder = root / "train" / f"{number // 1000:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(paths[number % len(paths)], folder / f"{number:05d}.wav")


def programs(paths, features, folder, cores):
    import librosa

    mel = import_torchaudio().transforms.MelSpectrogram(
        RATE, features.n_fft, hop_length=features.hop, n_mels=features.mels, norm="slaney",
        mel_scale="slaney",
    )  # fmt: skip
    root = folder / "turns"
    linked(paths, root, len(paths))
    table = tables.clip_table(root, "folder", root.name)
    turn = iter(range(1000))

    def by_librosa():
        for path in paths:
            samples, _ = soundfile.read(path, dtype="float32")
            energy = librosa.feature.melspectrogram(
                y=samples, sr=RATE, n_fft=features.n_fft, hop_length=features.hop,
                n_mels=features.mels, power=2.0, pad_mode="reflect",
            )  # fmt: skip
            10 * np.log10(energy + features.eps)

    def batches():
        for first in range(0, len(paths), 8):
            some = [
                read_wav(p, sample_rate=RATE, resample=False) for p in paths[first : first + 8]
            ]
            yield torch.from_numpy(np.stack(some))

    def by_torchaudio():
        for samples in batches():
            10 * (mel(samples) + features.eps).log10()

    def ours():
        for samples in batches():
            log_mel(samples, features)

    def ours_stored():
        stored_frames(
            table, features, store=folder / f"store_{next(turn)}", data="", threads=cores,
            on_clip=None,
        )  # fmt: skip

    return {
        "librosa": by_librosa,
        "torchaudio": by_torchaudio,
        "ours, one thread": ours,
        f"ours, {cores} threads, stored": ours_stored,
    }


def compared(paths, folder, rounds, cores):
    named = programs(paths, LogMel(**config().features), folder, cores)
    seconds, used = {name: [] for name in named}, dict.fromkeys(named, 0.0)
    for program in named.values():
        program()  # compiles, loads, warms the page cache
    for _ in range(rounds):
        for name, program in named.items():
            began, before = time.perf_counter(), time.process_time()
            program()
            seconds[name].append(time.perf_counter() - began)
            used[name] += time.process_time() - before
    rates = {
        name: [round(len(paths) / min(mine)), round(len(paths) / statistics.median(mine))]
        for name, mine in seconds.items()
    }
    by_processor = {name: round(len(paths) * rounds / spent) for name, spent in used.items()}
    return {"clips": len(paths), "clips/s": rates, "clips/processor s": by_processor}


def own(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(dict(line.split(":") for line in lines)["RssAnon"].split()[0]) // 1024


def memory():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"peak_mb": peak, "own_mb": own("self")}


def started():
    """What the processes that this one started hold together, in MB."""
    lists = Path("/proc/self/task").glob("*/children")
    return sum(own(process) for path in lists for process in path.read_text().split())


def streamed(folder, part):
    """One pass over the linked clips, as a run makes it."""
    chosen, root = config(), folder / "set"
    store = folder / ("threads" if part == "threads" else "store")
    most, counted = [0], itertools.count()

    def on_clip(_):
        if next(counted) % 500 == 0:
            most[0] = max(most[0], started())

    if part == "threads":
        log_mels.MANY = float("inf")
    said, began = {"part": part, "before": memory()}, time.perf_counter()
    table = tables.clip_table(root, "folder", root.name)
    data = tables.fingerprint(table, store / "digests.json")
    said |= {"clips": len(table), "table_s": round(time.perf_counter() - began, 1)}
    middle = time.perf_counter()
    frames = stored_frames(
        table, LogMel(**chosen.features), store=store, data=data,
        threads=usable_cores(), on_clip=on_clip,
    )  # fmt: skip
    spent = time.perf_counter() - middle
    said |= {"frames_s": round(spent, 1), "clips/s": round(len(table) / spent)}
    if part == "again":
        middle = time.perf_counter()
        windows = Windows(frames, table, length=chosen.windows.frames, stride=1)
        for picks in torch.arange(len(windows)).split(512):
            windows.gather(picks)
        spent = time.perf_counter() - middle
        said |= {"gather_s": round(spent, 1), "gathered clips/s": round(len(table) / spent)}
    whole = time.perf_counter() - began
    said |= {"seconds": round(whole, 1), "whole clips/s": round(len(table) / whole)}
    parallel.dismiss()  # so that what they took is counted
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN)
    said["processor_s"] = round(time.process_time(), 1)  # imports included
    said["processor_s, started"] = round(theirs.ru_utime + theirs.ru_stime, 1)
    said |= {"load": os.getloadavg()[0], **memory(), "started_mb": most[0]}
    print(json.dumps(said))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns against librosa; 0: none")
    parser.add_argument("--clips", type=int, default=3000, help="through the store; 0: none")
    parser.add_argument("--folder", type=Path, help="where the store may lie; a temporary folder")
    parser.add_argument("--threads", action="store_true", help="compute by threads alone too")
    parser.add_argument("--part", choices=("threads", "first", "again"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.part:
        return streamed(chosen.folder, chosen.part)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder, cores = Path(name), usable_cores()
        paths = noise(folder / "noise")
        if chosen.rounds:
            print(json.dumps(compared(paths, folder, chosen.rounds, cores)), flush=True)
        if chosen.clips:
            linked(paths, folder / "set", chosen.clips)
            for part in (*["threads"] * chosen.threads, "first", "again"):
                command = [sys.executable, __file__, "--folder", name, "--part", part]
                subprocess.run(command, check=True)
                shutil.rmtree(folder / "threads", ignore_errors=True)


if __name__ == "__main__":
    main()
