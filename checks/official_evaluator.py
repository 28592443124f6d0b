"""Do the organisers' own evaluators accept our submissions, and read our numbers in them?

    python checks/official_evaluator.py YEAR EVALUATOR_FOLDER [--python PYTHON]

EVALUATOR_FOLDER is where a person has cloned the evaluator of that year, with its ground truth;
it is copied, and not written to. PYTHON is an interpreter that has what the evaluator imports
(pandas, scikit-learn, scipy, and from 2023 on matplotlib, seaborn, librosa and distutils).

An evaluation set is made whose test clips are called as that ground truth calls them: a fifth of
a second of noise each, anomalies a little quieter. An autoencoder learns from it for an epoch
without any label, `asdgan submission` writes what it says, once for each way to fit a threshold,
and the evaluator is run on those folders as it would be on a team's. Each step is the command
that a person types.

Exits with 1 unless the evaluator ends well, judges every submission, and each number that it
writes is the one of `asdgan judge` to 1e-9. Two lines are let off, and counted: a machine type's
source and target means of 2022, which that evaluator cuts from the wrong columns, and the
confidence interval of 2022 on, which the judge does not give.

Last figures, two cores shared with much else, 90 to 150 s a year; numbers that agree, for each
fit, of so many clips: 2020: 48 of 7,103 (no decisions then); 2021: 290 of 8,635; 2022: 301 of
4,200, 71 let off; 2023: 231 of 1,400, 1 let off; 2024, one machine type of its nine: 51 of 200, 1
let off. None differs by more than 5e-16. But in 2024 anomalies were then louder, and few
decisions hit one; with quieter ones, on one or two machine types of 2021 to 2024, all agrees too.
The program of 2021 was an early one, which writes no official score. That of 2025 was not to be
had: 2024's stood in, with the published list of 2025 as ground truth, laid out as its README has
it: 261 of 1,600, 1 let off.
"""

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from asdgan.results.challenge.ground_truth import truth_of
from asdgan.results.challenge.score_files import stem

ROOT = Path(__file__).resolve().parent.parent
NEAR = 1e-9
SAMPLES, RATE = 3200, 16000  # 0.2 s
TRAINING = 20  # clips of a section
QUIETER = 0.75  # an anomaly: what lies farther below 0 dB is stranger to a net of one epoch
SMALL = (
    "features.mels=16", "features.n_fft=512", "features.hop=256", "model.hidden_width=16",
    "batch=64", "epochs=1", "trainer.compile=false", "logger=none",
)  # fmt: skip
FITS = {2020: ("none",)}  # from 2021 on both
WRONG = {2022: ("source harmonic mean", "target harmonic mean")}  # those of a machine type
NOT_OURS = ("official score ci95",)


def noise(path, generator, gain=1.0):
    """A wav of noise whose level is not that of the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    level = 0.05 * gain * generator.uniform(0.7, 1.3)
    soundfile.write(path, level * generator.standard_normal(SAMPLES), RATE, subtype="PCM_16")


def training_names(year, section):
    """What the clips of a section are called that a detector learns from."""
    if year == 2020:
        return [f"normal_id_{section}_{number:08d}" for number in range(TRAINING)]
    domains = itertools.islice(itertools.cycle(("source", "target")), TRAINING)
    return [
        f"section_{section}_{domain}_train_normal_{number:04d}_vel_6"
        for number, domain in enumerate(domains)
    ]


def evaluation_set(year, evaluator, root):
    """Writes the clips of the ground truth, and some to learn from; gives how many of each."""
    generator = np.random.default_rng(year)
    counts = {"train": 0, "test": 0}
    truths = truth_of(evaluator, year, ())
    for name, section in dict.fromkeys((place.machine_type, place.section) for place in truths):
        counts["train"] += TRAINING
        for clip in training_names(year, section):
            noise(root / "eval_data" / name / "train" / f"{clip}.wav", generator)
    for place, truth in truths.items():
        folder = f"{place.domain}_test" if place.domain else "test"
        home = root / "eval_data" / place.machine_type / folder
        counts["test"] += len(truth.clips)
        for clip, anomalous in zip(truth.clips, truth.anomalous, strict=True):
            noise(home / f"{stem(clip)}.wav", generator, QUIETER if anomalous else 1.0)
    return counts


def ask(*words, cwd=ROOT, python=sys.executable):
    """Runs Python on these words, as a person would; what it says is shown where it fails."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path} if cwd == ROOT else dict(os.environ)
    done = subprocess.run(
        [python, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        asked = " ".join(map(str, words))
        raise SystemExit(f"{asked} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def evaluated(year, evaluator, submissions, folder, python):
    """What the evaluator writes of each submission, as rows of its CSV file."""
    bench = folder / "evaluator"
    shutil.copytree(evaluator, bench, ignore=shutil.ignore_patterns("teams*", ".git"))
    (program,) = bench.glob("*evaluator.py")
    teams = bench / "teams" / ("team" if year >= 2022 else "")
    for fit, outdir in submissions.items():
        shutil.copytree(outdir, teams / f"system_{fit}")
    said = ask(program.name, cwd=bench, python=python)
    results = {
        fit: bench / "teams" / f"result_system_{fit}.csv"
        if year == 2020
        else bench / "teams_result" / f"system_{fit}_result.csv"
        for fit in submissions
    }
    lack = [path.name for path in results.values() if not path.exists()]
    if lack:
        raise SystemExit(f"{program.name} wrote no {', '.join(lack)}:\n{said}")
    return {fit: by_line(path) for fit, path in results.items()}


def number(cell):
    """The number of a cell, None where it holds a word."""
    try:
        return float(cell)
    except ValueError:
        return None


def by_line(path):
    """From the machine type (empty: all) and the words of a line to its numbers, in order."""
    found, machine_type = {}, ""
    with path.open(newline="") as file:
        for row in csv.reader(file):
            if len(row) < 2:
                machine_type = "".join(row)
                continue
            # A section's number, or its id, is a name.
            words = (row[0], *(cell for cell in row[1:] if number(cell) is None))
            values = [value for cell in row[1:] if (value := number(cell)) is not None]
            found[machine_type, *filter(None, words)] = values
    return found


def compared(year, theirs, ours):
    """How many numbers agree, by how much they differ at worst, what is let off, what is wrong."""
    agreed, worst, let_off, complaints = 0, 0.0, 0, []
    for line, values in theirs.items():
        if line[1] in NOT_OURS or (line[0] and line[1] in WRONG.get(year, ())):
            let_off += len(values)
            continue
        mine = ours.get(line)
        if mine is None or len(mine) != len(values):
            complaints.append(f"{' '.join(line)}: {values} there, {mine} here")
            continue
        apart = max((abs(a - b) for a, b in zip(values, mine, strict=True)), default=0.0)
        worst = max(worst, apart)
        agreed += len(values) if apart <= NEAR else 0
        if not apart <= NEAR:
            complaints.append(f"{' '.join(line)}: {values} there, {mine} here")
    return {"agreed": agreed, "worst": worst, "let off": let_off, "complaints": complaints}


def main():
    parser = argparse.ArgumentParser(description="Runs an evaluator on our submissions.")
    parser.add_argument("year", type=int, choices=range(2020, 2026))
    parser.add_argument("evaluator", type=Path, metavar="EVALUATOR_FOLDER")
    parser.add_argument("--python", default=sys.executable, help="that the evaluator runs in")
    chosen = parser.parse_args()
    year, evaluator, began = chosen.year, chosen.evaluator.resolve(), time.monotonic()
    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        counts = evaluation_set(year, evaluator, folder / "data")
        ask(
            "-m", "asdgan.run", "model=dcase_ae", f"dataset=dcase{year}", "dataset.subset=eval",
            f"dataset.root={folder / 'data'}", "machine=all", f"outputs={folder}", *SMALL,
        )  # fmt: skip
        submissions = {fit: folder / fit for fit in FITS.get(year, ("gamma", "quantile"))}
        for fit, outdir in submissions.items():
            words = ("asdgan", "submission", folder, "--year", year, outdir, "--decision", fit)
            ask("-m", *words)
        theirs = evaluated(year, evaluator, submissions, folder, chosen.python)
        found = {}
        for fit, outdir in submissions.items():
            csv_file = folder / f"{fit}.csv"
            words = ("asdgan", "judge", year, outdir, "--truth", evaluator, "--csv", csv_file)
            ask("-m", *words)
            found[fit] = compared(year, theirs[fit], by_line(csv_file))
    seconds = round(time.monotonic() - began)
    print(json.dumps({"year": year, **counts, **found, "seconds": seconds}, indent=1))
    return int(any(one["complaints"] or not one["agreed"] for one in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
