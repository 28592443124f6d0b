"""One optimiser step of GANomaly: asdgan's, alone and as a stack, against what a user would write.

    python benchmarks/step.py --lanes 8,16,64 --batch 16,128,512 --threads 1 --rounds 5

Several programs take turns in one process, on equal windows, and each step is timed by itself,
less the time in which the machine stood still (see `Stops`). Given are the median step and the
fastest, per lane, and the ratios of either to the plain loop.

- plain: PyTorch modules, the repository's order of calls, four passes through D, two default
  Adams, minibatches by indexing a materialised array (kinder than a DataLoader);
- lightning: the same nets as an ordinary LightningModule, automatic logging, a DataLoader;
- one lane: asdgan's detector for a single run, windows gathered and noise drawn as in training;
- 8 lanes, 16 lanes, ...: the same detector as a stack.

With --device cuda the moments between two steps mean nothing, as the host runs ahead: a turn is
timed from its first step to the end of the device's work, and its mean step counts as one.

All of it runs with glibc's allocator set as the workers of a sweep have it.

--precision sets the matrix products of asdgan's side; the plain loop is timed at both, so that
its own gain stands beside it. --compile compiles asdgan's step; the first call is timed apart.
Prints a line of JSON for the whole, and one for each batch size as soon as it is measured.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import threading
import time
import warnings

import pytorch_lightning as pl
import torch
from plain import LENGTH, MELS, Module, Plain

from asdgan.config import compose
from asdgan.data.frames import Frames
from asdgan.data.windows import WindowData, Windows
from asdgan.nn import health
from asdgan.nn.lanes import Noise
from asdgan.sweep.launchers.local import ALLOCATION


def ours(lanes, compiled, batch, device):
    config = compose.compose(["model=ganomaly", "dataset=folder", "dataset.root=unused"])
    if lanes:
        config.seed = [0] * lanes
    detector = compose.build(config).to(device)
    detector.configure_optimizers()
    if compiled:
        detector.compile_steps(batch)
    return detector


class Stops(threading.Thread):
    """Knows when the processor was taken away.

    On a machine that is lent out twice a program may stand still for a third of a second, ten
    times in a long step. This thread shares the one core of the steps and wakes every 2 ms; where
    it wakes 30 ms late or more, nothing ran. Steps without a stop are taken as they are; of a
    program whose every step has one, the stops are taken off.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.gaps = []
        self.start()

    def run(self):
        last = time.perf_counter()
        while True:
            time.sleep(0.002)
            now = time.perf_counter()
            if now - last > 0.032:
                self.gaps.append((last + 0.002, now))
            last = now

    def less(self, steps):
        """Seconds of each of some steps, given as pairs of moments."""
        clean = [step for step in steps if self.net(*step) == step[1] - step[0]]
        return [self.net(*step) for step in (clean if len(clean) > 4 else steps)]

    def net(self, began, ended):
        """Seconds between two moments, less the stops between them."""
        stood = 0.0
        for start, end in reversed(self.gaps):
            if end < began:
                break
            stood += max(0.0, min(end, ended) - max(start, began))
        return ended - began - stood


def timed(step):
    began = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return began, time.perf_counter()


def turn(device, steps_of_turn):
    """The steps of a turn; on a GPU its mean step."""
    if device == "cpu":
        return steps_of_turn()
    torch.cuda.synchronize()
    steps = steps_of_turn()
    torch.cuda.synchronize()
    began = steps[0][0]
    return [(began, began + (time.perf_counter() - began) / len(steps))]


def turn_of_ours(detector, data, steps):
    noise = Noise(detector.seeds, uniforms=0, normals=0)
    times, epoch = [], 0

    def step(i, batch):
        draw = noise.draw(batch.step, batch.windows.shape[-2], like=batch.windows)
        detector.learn(batch, draw)
        if i % health.EVERY == 0:
            health.of_minibatch(detector.vitals)

    while len(times) < steps:
        for block in data.blocks(epoch):
            minibatches = iter(block)
            began = time.perf_counter()  # gathering a block's windows is part of its steps
            for i, batch in enumerate(minibatches):
                step(i, batch)
                times.append((began, time.perf_counter()))
                began = time.perf_counter()
                if len(times) == steps:
                    return times
            detector.between_blocks()
        epoch += 1
    return times


def turn_of_plain(plain, x, batch, steps):
    order = torch.randperm(len(x))
    starts = [(i * batch) % (len(x) - batch) for i in range(steps)]
    times = []
    for s in starts:
        began = time.perf_counter()
        plain.step(x[order[s : s + batch]])
        times.append((began, time.perf_counter()))
    return times


class Stopwatch(pl.Callback):
    """The time from the end of one step to the end of the next: loading and logging are in it."""

    def __init__(self):
        self.ends = []

    def on_train_batch_end(self, *_):
        self.ends.append(time.perf_counter())


def turn_of_lightning(module, loader, steps, device):
    watch = Stopwatch()
    trainer = pl.Trainer(
        max_steps=2 * (steps + 1),  # a step of each of the two optimisers counts
        accelerator="gpu" if device == "cuda" else device,
        logger=False,
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return list(itertools.pairwise(watch.ends))


def measure(batch, chosen, stops):
    torch.manual_seed(0)
    frames = torch.randn(64 * 313, MELS)
    starts = torch.arange(65) * 313
    clips = [
        type("Clip", (), dict(section="00", domain=None, attributes=(), path=i)) for i in range(64)
    ]
    device = chosen.device
    windows = Windows(Frames(frames, starts), clips, length=LENGTH, stride=1)
    everything = torch.arange(len(windows))
    x = windows.gather(everything).to(device)
    windows.to(device)
    data = WindowData(windows, train=everything, held=everything[:0], seeds=[0], batch=batch)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x.cpu()), batch_size=batch, shuffle=True
    )
    plain, module = Plain().to(device), Module()
    stacks = {lanes: ours(lanes, chosen.compile, batch, device) for lanes in (0, *chosen.lanes)}
    few = chosen.steps if device == "cuda" else max(8, chosen.steps * 16 // batch)
    precision = torch.set_float32_matmul_precision
    precision(chosen.precision)
    first = {
        _name(lanes): round(stops.net(*timed(lambda d=stack: turn_of_ours(d, data, 1))), 1)
        for lanes, stack in stacks.items()
    }
    steps = {name: [] for name in ("plain", "plain, medium", "lightning", *first)}
    began = time.perf_counter()
    for _ in range(chosen.rounds):
        precision("highest")
        steps["plain"] += turn(device, lambda: turn_of_plain(plain, x, batch, few))
        steps["lightning"] += turn(device, lambda: turn_of_lightning(module, loader, few, device))
        precision("medium")
        steps["plain, medium"] += turn(device, lambda: turn_of_plain(plain, x, batch, few))
        precision(chosen.precision)
        for lanes, stack in stacks.items():
            fewer = max(3, few // max(1, lanes // 8)) if device == "cpu" else few
            steps[_name(lanes)] += turn(device, lambda s=stack, f=fewer: turn_of_ours(s, data, f))
    ended = time.perf_counter()
    time.sleep(0.1)  # the last stop is written down when it ends
    stood = 1 - stops.net(began, ended) / (ended - began)
    said = {"batch": batch, "first_step_s": first, "share_stood_still": round(stood, 2)}
    each = {name: lanes for lanes in stacks if (name := _name(lanes)) and lanes}
    steps = {
        name: [seconds / each.get(name, 1) for seconds in stops.less(taken)]
        for name, taken in steps.items()
    }
    for middle, of in (("median", statistics.median), ("fastest", min)):
        ms = {program: 1e3 * of(times) for program, times in steps.items()}
        said[middle] = {
            "ms_per_lane_step": {program: round(value, 3) for program, value in ms.items()},
            "times_plain": {
                program: round(ms["plain"] / value, 2) for program, value in ms.items()
            },
        }
    return said


def _name(lanes):
    return f"{lanes} lanes" if lanes else "one lane"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", default="8,16,64", help="sizes of stacks")
    parser.add_argument("--batch", default="16,128,512")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80, help="plain steps a turn at batch 16")
    parser.add_argument("--precision", choices=("highest", "medium"), default="highest")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen = parser.parse_args()
    if not os.environ.keys() >= ALLOCATION.keys():  # read when a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATION})
    chosen.lanes = [int(lanes) for lanes in chosen.lanes.split(",")]
    torch.set_num_threads(chosen.threads)
    if chosen.threads == 1 and chosen.device == "cpu":  # on the core where the stops are watched
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    stops = Stops()
    warnings.filterwarnings("ignore")
    import logging

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    said = {
        "lanes": chosen.lanes,
        "threads": chosen.threads,
        "precision": chosen.precision,
        "compiled": chosen.compile,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if chosen.device == "cuda" else None,
        "onednn_max_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }
    print(json.dumps(said), flush=True)
    for batch in chosen.batch.split(","):
        print(json.dumps(measure(int(batch), chosen, stops)), flush=True)


if __name__ == "__main__":
    main()
