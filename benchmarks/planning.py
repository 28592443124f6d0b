"""Planning a sweep of 500 points: ours against Hydra's own basic sweeper and launcher.

    python benchmarks/planning.py --points 500

Ours is a dry run up to the moment at which jobs would start, the trial of shapes included. Hydra's
composes the same config for each point and calls a function that does nothing, so that only its
own work is counted. Each is a process of its own; prints a line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OURS = """
import resource, sys
from asdgan.sweep import estimate, sweep as _
estimate.estimate = lambda jobs, *, slots: (0.0, "not timed")
from asdgan import run
code = run.main(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
HYDRAS = """
import resource, sys
import hydra
from asdgan.config import compose
@hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="run")
def nothing(config):
    pass
nothing()
print(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def timed(program, words, folder):
    """Seconds and peak MB of a program."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    code, memory = (done.stdout or "1 0").split()[-2:]
    if done.returncode or int(code):
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return round(seconds, 1), int(memory)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=500)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        typed = [
            "-m", "model=ganomaly", "machine=fan", f"seed=range(0,{chosen.points // 4})",
            "batch=16,512", "latent=8,16",
        ]  # fmt: skip
        ours = timed(OURS, [*typed, "sweep.dry_run=true"], folder)
        basic = ["hydra/sweeper=basic", "hydra/launcher=basic"]
        theirs = timed(HYDRAS, [*typed, *basic], folder)
    told = {
        "points": chosen.points // 4 * 4,
        "ours_s": ours[0],
        "hydras_s": theirs[0],
        "times": round(theirs[0] / ours[0], 1),
        "ours_mb": ours[1],
        "hydras_mb": theirs[1],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
