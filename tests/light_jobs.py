"""Sweeps of light jobs: everything is the real thing, but no network is built or trained.

A job writes the rows of its points by the ledger, with scores by chance, so that a second run of
the same job shows in every byte. Workers import this file: what drives a sweep is imported late.
"""

import json
import os
import random
import time
import wave
from pathlib import Path

import failing_jobs
import numpy as np

from asdgan.results import ledger
from asdgan.sweep import plan

SECONDS = 0.03  # of a job's work, at most


def recordings(folder):
    """A data set: two short recordings, to train on."""
    (folder / "normal").mkdir(parents=True)
    for number in (0, 1):
        with wave.open(str(folder / "normal" / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(bytes([number, 0]) * 16000)
    return folder


def lighten(patch=setattr):
    """Has the sweeps of this process do light jobs, and believe that models can be built."""
    from asdgan.sweep import building
    from asdgan.sweep.launchers import local

    patch(local, "TARGET", "light_jobs:do")
    patch(building, "unbuildable", lambda configs: [None] * len(configs))


def line(folder, *typed):
    """The command line of a sweep over the recordings in a folder."""
    return (
        "model=ganomaly", "dataset=folder", f"dataset.root={folder / 'plant'}", "sweep.name=light",
        "trainer.accelerator=cpu", f"outputs={folder}", *typed,
    )  # fmt: skip


def launcher(folder, *typed):
    """The local launcher as Hydra would set it up."""
    from asdgan.sweep import sweep
    from hydra_plugins.asdgan_sweep import LocalLauncher

    sweep.expanded(line(folder, *typed))
    return LocalLauncher()


def answer(folder, *typed, by=None):
    """`python -m asdgan.run -m` without Hydra's own start: gives the exit code.

    By the local launcher, or by one that is given.
    """
    from asdgan.report import board
    from asdgan.sweep import sweep

    return sweep.answer(
        line(folder, *typed), by or launcher(folder, *typed), show=board.show_sweep
    )


def do(path, number, beat):
    """The job that workers do: dies as `deaths.json` beside the plan says, or writes its rows."""
    beat("begun")
    job = plan.job_of(path, number)
    deaths = path.parent / "deaths.json"
    if deaths.exists() and (word := json.loads(deaths.read_text())[number]):
        getattr(failing_jobs, word)(path.parent, number, beat)
    with (path.parent / "begun.txt").open("a") as file:
        file.write(f"{job.stack.folder}\n")
    folder = Path(job.stack.config.outputs) / "runs" / job.stack.folder
    for reading in range(len(job.stack.readings)):
        time.sleep(random.uniform(0, SECONDS))
        write(job, reading, folder)


def chance(stack, lane, epochs):
    """An area that no second run repeats."""
    return random.random()


def write(job, reading, folder, area=chance):
    """Writes one reading, unless it is there."""
    wanted, epochs = set(job.wanted), job.stack.readings[reading]
    rows = [
        row(job.stack, lane, epochs, area(job.stack, lane, epochs))
        for lane, names in enumerate(job.signatures)
        if names[reading] in wanted and not ledger.find(folder, names[reading])
    ]
    if rows:
        scores = {
            "clip": np.array(["0.wav"]),
            "section": np.array(["00"]),
            "label": np.array(["normal"]),
            "score/recon_l1": np.frombuffer(os.urandom(len(rows)), np.uint8).reshape(-1, 1),
        }
        ledger.write(folder, epochs=epochs, rows=rows, scores=scores, weights=None, config="")


def row(stack, lane, epochs, auc):
    """A row of a point as a job writes it."""
    settings = stack.settings(lane, epochs)
    return {
        "signature": stack.signature(lane, epochs),
        "model": stack.config.detector,
        "recipe": stack.recipe,
        "release": stack.config.dataset.release,
        "data": stack.data,
        "machine_type": stack.machine_type,
        "settings": settings,
        "seed": settings["seed"],
        "epochs": epochs,
        "selection": dict(stack.config.selection),
        "primary": "recon_l1",
        "auc": auc,
        "pauc": auc,
        "sections": {"00": {"auc": auc, "pauc": auc, "normal": 1, "anomaly": 1}},
        "clips": 1,
    }
