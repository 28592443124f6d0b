"""Is the demo plant hard enough, and fair? Trains `dcase_ae` on it and prints AUC and pAUC.

    python tests/demo_difficulty.py --plants 0 1 2 --seeds 0 1 2

Every machine type's AUC must lie between 0.60 and 0.98 for every plant seed and training seed, or
the exit code is 1. A point that is done is read back, so a call that was cut goes on where it was.

Last figures (asdgan 0.1.0, plant recipe 2, torch 2.13.0, one x86-64 processor with AVX-512;
plant 0, training seeds 0, 1 and 2; the other plants have not been run at this recipe):

    fan          AUC 0.763 0.747 0.773  pAUC 0.643
    pump         AUC 0.800 0.773 0.807  pAUC 0.649
    slider       AUC 0.643 0.707 0.677  pAUC 0.573
    valve        AUC 0.723 0.783 0.817  pAUC 0.579
    ToyCar       AUC 0.723 0.717 0.727  pAUC 0.561
    ToyConveyor  AUC 0.730 0.687 0.760  pAUC 0.608
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asdgan import demo, ledger

LOW, HIGH = 0.60, 0.98


def train(plant: int, seed: int, outputs: Path) -> None:
    """Runs every machine type once, into `outputs`."""
    subprocess.run(
        [
            *(sys.executable, "-m", "asdgan.run", "model=dcase_ae", "dataset=demo"),
            *(f"dataset.plant_seed={plant}", f"seed={seed}", f"outputs={outputs}"),
        ],
        check=True,
    )


def rows_of(outputs: Path, seeds: Sequence[int]) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of one plant by machine type and training seed."""
    results, refused = ledger.read_all(outputs / "runs")
    for path, reason in refused:
        sys.exit(f"{path}: {reason}")
    rows = [row for result in results for row in result.rows]
    return {(row["machine_type"], row["seed"]): row for row in rows if row["seed"] in seeds}


def main() -> int:
    """Trains what is missing, prints the table, and says whether the law holds."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--plants", type=int, nargs="+", default=[0, 1, 2])
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    words.add_argument("--outputs", type=Path, default=Path("outputs/difficulty"))
    asked = words.parse_args()
    broken = []
    for plant in asked.plants:
        outputs = (asked.outputs / f"plant_{plant}").absolute()
        for seed in asked.seeds:
            train(plant, seed, outputs)
        rows = rows_of(outputs, asked.seeds)
        for machine_type in demo.SECTIONS:
            of_type = [rows[machine_type, seed] for seed in asked.seeds]
            aucs = [row["auc"] for row in of_type]
            paucs = [row["pauc"] for row in of_type]
            said = " ".join(f"{auc:.3f}" for auc in aucs)
            print(f"plant {plant}  {machine_type:<12} AUC {said}  pAUC {np.mean(paucs):.3f}")
            if not all(LOW <= auc <= HIGH for auc in aucs):
                broken.append(f"plant {plant} {machine_type}")
    if broken:
        print(f"outside {LOW:.2f} to {HIGH:.2f}: {', '.join(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
