"""How long a finished grid takes to say that there is nothing to do, and what the planner holds.

    python benchmarks/restart.py --machine fan,all

Plans the 2024 paper's grid of GANomaly (41,472 points a machine type) on the demo plant, writes a
made-up result for every point as the jobs would (losses of every epoch and all components, test
clips cut to one), and gives the same command again in a process of its own. Prints a line of JSON
for each choice of machine types: seconds and peak memory of the first plan and of the restart.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

OWN = """
import json, resource, sys, time
from asdgan import run
began = time.perf_counter()
code = run.main(sys.argv[1:])
used = [resource.getrusage(who).ru_maxrss // 1024 for who in (
    resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([code, round(time.perf_counter() - began, 1), *used]))
"""


def timed(words, folder):
    """What a command said, its seconds, and peak MB: its own, and of what it started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", OWN, *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, figures = done.stdout.rstrip().rpartition("\n")[::2]
    code, _, own, children = json.loads(figures)
    if code:
        raise SystemExit(said)
    return said, round(time.perf_counter() - began, 1), own, children


def made_up(jobs):
    """Writes the rows of some jobs."""
    import light_jobs

    from asdgan.sweep import plan

    chance = random.Random(0)
    row = light_jobs.row

    def whole(stack, lane, epochs, auc):
        losses = {f"train/loss_{name}": [chance.random() for _ in range(epochs)] for name in "gd"}
        components = {
            name: {"auc": auc, "pauc": auc} for name in ("recon_l1", "recon_l2", "latent")
        }
        return row(stack, lane, epochs, auc) | {"losses": losses, "components": components}

    light_jobs.row = whole
    for path, number in jobs:
        job = plan.job_of(path, number)
        folder = path.parent.parent.parent / "runs" / job.stack.folder
        for reading in range(len(job.stack.readings)):
            light_jobs.write(job, reading, folder)
    light_jobs.row = row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", default="fan,all", help="one after the other")
    parser.add_argument("--board", action="store_true", help="then time the board on the results")
    chosen = parser.parse_args()
    from asdgan.config import compose
    from asdgan.report import board
    from asdgan.sweep import sweep
    from asdgan.training import machine_data

    os.fsync = lambda _: None  # made to be read, not to outlive a power cut
    with tempfile.TemporaryDirectory(prefix="asdgan-restart-") as scratch:
        folder = Path(scratch)
        made = compose.compose([f"outputs={folder}"])
        plant = machine_data.root_of(made, lambda *_: lambda _count=1: None)
        for machine in chosen.machine.split(","):
            outputs = folder / machine
            typed = (
                "model=ganomaly", f"machine={machine}", f"dataset.root={plant}",
                f"outputs={outputs}", "sweep.file=table3",
            )  # fmt: skip
            words = ["-m", *typed]
            said, *first = timed([*words, "sweep.dry_run=true"], folder)
            planned = re.search(r"([\d,]+) points.*planned in ([\d.]+) s", said)
            points = int(planned[1].replace(",", ""))
            sweep.sweep(typed, made_up, slots=2, on_gpu=False, show=board.show_sweep)
            said, *again = timed(words, folder)
            if f"nothing to do: {points} done, 0 failed" not in said:
                raise SystemExit(said)
            told = {
                "machine": machine, "points": points, "planned_s": float(planned[2]),
                "plan_own_mb": first[1], "restart_s": again[0], "restart_own_mb": again[1],
            }  # fmt: skip
            if chosen.board:
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "asdgan", "board", str(outputs)],
                    cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stdout=subprocess.DEVNULL, check=True,
                )  # fmt: skip
                told["board_s"] = round(time.perf_counter() - began, 1)
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
