"""Compiled to machine code, does a step still give the plain step's losses? And what does it cost?

    python checks/compiled_steps.py [model ...] [--lanes 0 64] [--batch 16]

Every stackable detector of conf/model/ at real size (or those named), as a single run (0 lanes)
and as a stack. Prints the first step's greatest relative difference of a loss, the seconds that
compiling took, and the fastest step of each; exits with 1 where a loss differs by more than 1e-4
or the compiler failed. Each compilation takes a minute or so, which is why this is no test of the
suite.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from small_models import STACKABLE, learn

from asdgan.config import compose


def detector_of(name, lanes):
    """The model at its defaults with dropout, its optimisers made."""
    config = compose.compose(
        [f"model={name}", "dataset=folder", "dataset.root=unused", "dropout=0.25"]
    )
    if lanes:
        config.seed = [0] * lanes
    detector = compose.build(config)
    detector.configure_optimizers()
    return detector


def fastest(detector, windows, steps):
    """Seconds of the quickest of some steps."""
    times = []
    for step in range(1, steps):
        began = time.perf_counter()
        learn(detector, windows, range(step, step + 1))
        times.append(time.perf_counter() - began)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=STACKABLE, help="default: all")
    parser.add_argument("--lanes", type=int, nargs="+", default=[0])
    parser.add_argument("--batch", type=int, default=16)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    failures = []
    logging.getLogger("asdgan").addHandler(Overheard(failures))
    windows = torch.randn(chosen.batch, 640, generator=torch.Generator().manual_seed(5))
    for name in chosen.models:
        for lanes in chosen.lanes:
            plain, compiled = detector_of(name, lanes), detector_of(name, lanes)
            compiled.compile_steps(chosen.batch)
            began = time.perf_counter()
            (ours,) = learn(compiled, windows, range(1))
            took = time.perf_counter() - began
            (theirs,) = learn(plain, windows, range(1))
            apart = max(
                float(((ours[key] - value).abs() / (value.abs() + 1e-6)).max())
                for key, value in theirs.items()
            )
            ratio = fastest(plain, windows, 30) / fastest(compiled, windows, 30)
            print(
                f"{name:14} {lanes or 'no':>3} lanes  apart by {apart:.1e}  "
                f"compiled in {took:.0f} s  then {ratio:.2f} times as fast",
                flush=True,
            )
            if apart > 1e-4:
                failures.append(f"{name} with {lanes} lanes: losses apart by {apart:.1e}")
    print("\n".join(failures) or "all agree")
    return 1 if failures else 0


class Overheard(logging.Handler):
    """Collects what the detectors warn of."""

    def __init__(self, said):
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record):
        self._said.append(record.getMessage())


if __name__ == "__main__":
    raise SystemExit(main())
