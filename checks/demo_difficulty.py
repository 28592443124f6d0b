"""Is the demo plant hard enough, and fair? Trains `dcase_ae` on it and prints AUC and pAUC.

    python checks/demo_difficulty.py --plants 0 1 2 --seeds 0 1 2

Every machine type's AUC, averaged over the training seeds, must lie between 0.60 and 0.98 for
every plant seed, or the exit code is 1. A point that is done is read back, so a call that was cut
goes on where it was.

Last figures (asdgan 0.1.0, plant recipe 2, torch 2.13.0, one x86-64 processor with AVX-512; AUC of
training seeds 0, 1 and 2, and the mean pAUC). Single trainings went as low as 0.567:

                 plant 0                   plant 1                   plant 2
    fan          0.763 0.747 0.773  0.643  0.707 0.643 0.757  0.585  0.567 0.693 0.707  0.550
    pump         0.800 0.773 0.807  0.649  0.580 0.757 0.680  0.567  0.823 0.723 0.813  0.673
    slider       0.643 0.707 0.677  0.573  0.737 0.700 0.730  0.567  0.740 0.703 0.740  0.620
    valve        0.723 0.783 0.817  0.579  0.893 0.883 0.790  0.731  0.873 0.917 0.847  0.678
    ToyCar       0.723 0.717 0.727  0.561  0.703 0.677 0.737  0.515  0.770 0.767 0.733  0.602
    ToyConveyor  0.730 0.687 0.760  0.608  0.777 0.857 0.843  0.561  0.803 0.633 0.660  0.596
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asdgan.data.demo import sounds
from asdgan.results import ledger

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
        for machine_type in sounds.SECTIONS:
            of_type = [rows[machine_type, seed] for seed in asked.seeds]
            aucs = [row["auc"] for row in of_type]
            paucs = [row["pauc"] for row in of_type]
            said = " ".join(f"{auc:.3f}" for auc in aucs)
            print(f"plant {plant}  {machine_type:<12} AUC {said}  pAUC {np.mean(paucs):.3f}")
            if not LOW <= np.mean(aucs) <= HIGH:
                broken.append(f"plant {plant} {machine_type}")
    if broken:
        print(f"outside {LOW:.2f} to {HIGH:.2f}: {', '.join(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
