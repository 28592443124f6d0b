"""A sweep of 48 points against one plain Lightning process per point.

    python benchmarks/sweep.py --batch 16,128,512 --epochs 1,2,3,9

Twelve settings (two learning rates, two lambda_con, three seeds), each read at four numbers of
epochs, of GANomaly on the fans of the demo plant. Ours is the command of README, in a fresh
folder: imports, planning, features, training, scoring, judging and the leaderboard are in its
time. The plain program (benchmarks/plain_point.py) is started once a core for each number of
epochs, side by side, and its 48 points are taken to cost twelve times that over the cores. The
plant is made beforehand. Prints a line of JSON for each batch size.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AXES = ("lr=1e-4,2e-4", "lambda_con=1,50", "seed=0,1,2")
LANES = 12


def timed(*commands, folder):
    """Seconds until commands that run side by side have ended, and what the first one said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(said[0][-2000:])
    return time.perf_counter() - began, said[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", default="16,128,512")
    parser.add_argument("--epochs", default="1,2,3,9")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the plant's clips")
    chosen = parser.parse_args()
    readings = [int(text) for text in chosen.epochs.split(",")]
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        from asdgan.config import compose
        from asdgan.training import machine_data

        made = compose.compose([f"dataset.seconds={chosen.seconds}", f"outputs={folder}"])
        plant = machine_data.root_of(made, lambda *_: lambda _count=1: None)
        for batch in map(int, chosen.batch.split(",")):
            outputs = Path(folder) / f"batch_{batch}"
            command = [
                "-m", "asdgan.run", "-m", "model=ganomaly", "machine=fan", *AXES,
                f"epochs={chosen.epochs}", f"batch={batch}", f"dataset.root={plant}",
                f"dataset.seconds={chosen.seconds}", f"outputs={outputs}",
            ]  # fmt: skip
            ours, said = timed(command, folder=folder)
            points = LANES * len(readings)
            if f"{points} of {points} points done" not in said:
                raise SystemExit(said[-2000:])
            plain, each = 0.0, {}
            for epochs in readings:
                program = [
                    str(ROOT / "benchmarks" / "plain_point.py"), str(plant),
                    "--batch", str(batch), "--epochs", str(epochs),
                ]  # fmt: skip
                each[epochs], words = timed(*[program] * cores, folder=folder)
                assert re.search(r"AUC [\d.]+", words), words
                plain += each[epochs] * LANES / cores
            told = {
                "batch": batch,
                "cores": cores,
                "ours_s": round(ours, 1),
                "plain_s": round(plain, 1),
                "times": round(plain / ours, 2),
                "plain_process_s": {key: round(value, 1) for key, value in each.items()},
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
