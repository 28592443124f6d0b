"""Sweeps from plan to results: nothing lost, nothing done twice, every row the point's own."""

import math
import os
import re
import shutil
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
from processes import start
from small_plant import PLANT, TINY

from asdgan import run
from asdgan.config import compose
from asdgan.errors import BadInput, Stopped
from asdgan.report import board
from asdgan.results import ledger
from asdgan.results.failures import failures_in
from asdgan.sweep import job as planned
from asdgan.sweep import memory, plan
from asdgan.sweep import sweep as drive
from asdgan.sweep.workers import worker

GRID = ("model=ganomaly", "lr=1e-4,2e-4", "dropout=0.25", "seed=0,1,2,3", "epochs=1,2")
POINTS = 16


@pytest.fixture
def sweep(plant, tmp_path):
    """Sweeps in this process; what launches the jobs can be another's."""

    def go(*typed, launch=None, outputs=tmp_path):
        own = (f"dataset.root={plant}", f"outputs={outputs}", "logger=none")
        return drive.sweep(
            [*typed, *PLANT, *TINY, *own],
            launch or here,
            slots=1,
            on_gpu=False,
            show=board.show_sweep,
        )

    return go


def here(jobs):
    for path, number in jobs:
        planned.run(path, number, lambda _: None)


def rows(outputs):
    found, refused = ledger.read_all(outputs / "runs")
    assert not refused
    return {row["signature"]: row for one in found for row in one.rows}


def scores(outputs):
    """The scores of every point, by signature."""
    found, _ = ledger.read_all(outputs / "runs")
    return {
        row["signature"]: {
            name: values[place]
            for name, values in ledger.read_scores(one).items()
            if name.startswith("score/")
        }
        for one in found
        for place, row in enumerate(one.rows)
    }


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    return all(
        np.array_equal(ours[key][name], theirs[key][name]) for key in ours for name in ours[key]
    )


def test_every_point_has_the_row_that_it_has_when_it_runs_alone(sweep, plant, tmp_path, capsys):
    assert sweep(*GRID) == 0
    said = capsys.readouterr().out
    assert f"{POINTS} points, 0 done before, {POINTS} to run on 1 machine type, as 1 stack" in said
    assert f"{POINTS} of {POINTS} points done" in said
    found = rows(tmp_path)
    assert len(found) == POINTS
    typed = ["model=ganomaly", "lr=2e-4", "dropout=0.25", "seed=2", "epochs=2", *PLANT, *TINY]
    alone = tmp_path / "alone"
    config = compose.compose([*typed, f"dataset.root={plant}", f"outputs={alone}", "logger=none"])
    (kept,) = run.run(config)
    ours = found[kept.row["signature"]]
    same = ("settings", "seed", "epochs", "data", "model", "recipe", "primary", "clips")
    assert {key: ours[key] for key in same} == {key: kept.row[key] for key in same}
    theirs = scores(alone)[kept.row["signature"]]
    for name, values in scores(tmp_path)[kept.row["signature"]].items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-3, err_msg=name)


def test_what_is_done_is_not_done_again_and_what_is_damaged_is(sweep, tmp_path, capsys):
    assert sweep(*GRID) == 0
    before = scores(tmp_path)
    capsys.readouterr()
    assert sweep(*GRID) == 0
    assert f"nothing to do: {POINTS} done, 0 failed" in capsys.readouterr().out
    path = next((tmp_path / "runs").rglob("epochs_00001.json"))
    path.write_text(path.read_text().replace("0", "1", 1))
    assert sweep(*GRID) == 0
    assert f"{POINTS // 2} done before, {POINTS // 2} to run" in capsys.readouterr().out
    assert equal(scores(tmp_path), before)


def test_a_wider_grid_runs_its_new_points_only(sweep, tmp_path, capsys):
    assert sweep("model=ganomaly", "seed=0,1", "epochs=1") == 0
    capsys.readouterr()
    assert sweep("model=ganomaly", "seed=0,1,2", "epochs=1,2") == 0
    assert "6 points, 2 done before, 4 to run" in capsys.readouterr().out
    assert len(rows(tmp_path)) == 6


def test_a_job_that_is_stopped_anywhere_goes_on_bit_for_bit(sweep, tmp_path):
    typed = ("model=ganomaly", "lr=1e-4,2e-4", "seed=0,1,2,3", "epochs=1,6")
    assert sweep(*typed, outputs=tmp_path / "whole") == 0
    left = 0  # beats of training until the next stop; none at 0

    def beat(note):
        nonlocal left
        if note.startswith("epoch") and left:
            left -= 1
            if not left:
                raise Stopped("asked to stop")

    def stopped(jobs):
        for path, number in jobs:
            try:
                planned.run(path, number, beat)
            except Stopped:
                raise KeyboardInterrupt from None

    for stop in (1, 2, 3):  # the first beat of a training that goes on tells of what was done
        left = stop
        with pytest.raises(KeyboardInterrupt):
            sweep(*typed, launch=stopped)
        assert list((tmp_path / "runs").rglob("checkpoint_*"))
    left = 0
    assert sweep(*typed, launch=stopped) == 0
    assert equal(scores(tmp_path), scores(tmp_path / "whole"))
    assert not list((tmp_path / "runs").rglob("checkpoint_*"))


def test_a_stack_without_some_of_its_lanes_goes_on_from_its_checkpoint(sweep, tmp_path, caplog):
    """Ten lanes are stopped in their fourth epoch; eight of them are asked for later."""
    wide = ("model=ganomaly", "lr=1e-4,2e-4", "seed=range(0,5)", "sweep.lanes=10")
    fewer = ("model=ganomaly", "lr=1e-4,2e-4", "seed=range(0,4)")

    with pytest.raises(KeyboardInterrupt):
        sweep(*wide, "epochs=1,6", launch=stopping_after(3))
    caplog.set_level("INFO", "asdgan")
    assert sweep(*fewer, "epochs=6") == 0
    assert "going on after 3 epochs" in caplog.text
    assert sweep(*fewer, "epochs=6", outputs=tmp_path / "whole") == 0
    found, whole = scores(tmp_path), scores(tmp_path / "whole")
    assert equal({name: found[name] for name in whole}, whole)


def test_a_training_of_fewer_epochs_than_its_checkpoint_has_begins_anew(sweep, tmp_path, caplog):
    typed = ("model=ganomaly", "seed=0,1")

    with pytest.raises(KeyboardInterrupt):
        sweep(*typed, "epochs=6", launch=stopping_after(4))
    caplog.set_level("INFO", "asdgan")
    assert sweep(*typed, "epochs=2") == 0
    assert "going on after" not in caplog.text
    assert {row["epochs"] for row in rows(tmp_path).values()} == {2}
    assert sweep(*typed, "epochs=6") == 0
    assert "going on after 4 epochs" in caplog.text


def stopping_after(beats):
    """A launch whose first job is asked to stop after so many beats of training."""
    told = []

    def beat(note):
        told.extend([note] if note.startswith("epoch") else [])
        if len(told) == beats:
            raise Stopped("asked to stop")

    def launch(jobs):
        with suppress(Stopped):
            planned.run(*jobs[0], beat)
        raise KeyboardInterrupt

    return launch


def with_memory_for(free, monkeypatch):
    """Launches jobs as workers do, on a machine that has so many bytes free."""
    monkeypatch.setattr(memory, "free_bytes", lambda **_: free)
    tried = []

    def launch(jobs):
        for path, number in jobs:
            tried.append(len(plan.job_of(path, number).stack.lanes))
            try:
                planned.run(path, number, lambda _: None)
            except MemoryError as error:
                plan.fail(path, number, *worker.verdict(error, planned.__file__))

    return launch, tried


def test_a_stack_that_memory_is_too_small_for_is_halved_until_it_fits(
    sweep, tmp_path, monkeypatch, capsys
):
    lane = memory.lane_bytes(compose.compose([*GRID[:1], "dropout=0.25", *PLANT, *TINY]))
    launch, tried = with_memory_for(3.5 * lane, monkeypatch)
    assert sweep(*GRID, launch=launch) == 0
    assert tried == [8, 4, 4, 2, 2, 2, 2]
    assert len(rows(tmp_path)) == POINTS
    assert f"{POINTS} of {POINTS} points done\n" in capsys.readouterr().out


def test_one_lane_that_does_not_fit_is_a_failure(sweep, monkeypatch, capsys):
    launch, tried = with_memory_for(1000, monkeypatch)
    assert sweep("model=ganomaly", "seed=0,1", "epochs=1", launch=launch) == 1
    assert tried == [2, 1, 1]
    said = capsys.readouterr().out
    assert "0 of 2 points done, 2 failed" in said
    assert "a lane takes about" in " ".join(said.split())


WEIGHED = """
import resource, sys
from asdgan.config import compose
from asdgan.training import train
from asdgan.sweep import memory, noise
train.quiet_libraries()
config = compose.compose(
    ["model=ganomaly", "dataset=folder", "dataset.root=unused", "epochs=1", "batch=512"])
lane = memory.lane_bytes(config)
config.seed = [0] * 32
heard = noise.windows(config, 2048)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train.fit(config, heard).score_clips(heard)
print(lane, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 32)
"""


def test_what_a_lane_is_said_to_take_is_what_a_stack_of_them_takes(tmp_path):
    process = start("-c", WEIGHED, folder=tmp_path)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    estimated, taken = map(float, said.split()[-2:])
    assert 0.6 * taken < estimated < 1.6 * taken


def test_a_failure_is_kept_and_tried_again_unless_told_not_to(sweep, tmp_path, capsys):
    def broken(jobs):
        for path, number in jobs:
            plan.fail(path, number, "raised", "ValueError: planted (model.py:1)")

    assert sweep(*GRID, launch=broken) == 1
    assert "raised: ValueError: planted (model.py:1)" in capsys.readouterr().out
    assert sweep(*GRID, "sweep.retry=never") == 1
    assert f"nothing to do: 0 done, {POINTS} failed" in capsys.readouterr().out
    assert sweep(*GRID) == 0
    assert len(rows(tmp_path)) == POINTS


def test_a_lane_that_meets_nan_fails_alone(sweep, tmp_path, capsys):
    typed = ("model=ganomaly", "lr=1e-4,1e30", "seed=0,1,2,3", "epochs=1,2")
    assert sweep(*typed) == 1
    found = rows(tmp_path)
    assert {row["settings"]["lr"] for row in found.values()} == {1e-4}
    assert len(found) == 8
    failed, _ = failures_in(tmp_path / "runs")
    assert {one.kind for one in failed} == {"nan"}
    assert {one.settings["lr"] for one in failed} == {1e30}
    assert "8 of 16 points done, 8 failed" in capsys.readouterr().out


def test_jobs_know_what_was_typed_of_their_sweep(sweep):
    kept = []

    def look(jobs):
        kept.extend(plan.job_of(*job).stack.config.sweep.keep_weights for job in jobs)

    assert sweep("model=ganomaly", "seed=0,1", "epochs=1", "sweep.keep_weights=2", launch=look)
    assert kept == [2]


def test_clips_that_changed_after_the_plan_are_not_trained_on(plant, tmp_path, capsys):
    own = tmp_path / "own"
    shutil.copytree(plant, own)

    def late(jobs):
        (wav, *_) = sorted(own.rglob("fan/test/*.wav"))
        wav.write_bytes(sorted(own.rglob("fan/test/*.wav"))[1].read_bytes())
        here(jobs)

    typed = [*GRID, *PLANT, *TINY, f"dataset.root={own}", f"outputs={tmp_path}"]
    with pytest.raises(BadInput, match="not those that were planned for; start the sweep again"):
        drive.sweep(typed, late, slots=1, on_gpu=False, show=board.show_sweep)


def test_a_sweep_is_not_started_twice_at_once(sweep, capsys):
    def second(jobs):
        with pytest.raises(BadInput, match="this sweep is running already"):
            sweep("model=ganomaly", "seed=0,1", "epochs=1")
        here(jobs)

    assert sweep("model=ganomaly", "seed=0,1", "epochs=1", launch=second) == 0


def test_a_dry_run_says_how_long_and_writes_nothing(sweep, tmp_path, capsys):
    assert sweep(*GRID, "sweep.dry_run=true", launch=None) == 0
    said = capsys.readouterr().out
    hours = re.search(r"about ([\d.,]+) hours of training with 1 jobs at once", said)
    assert hours is not None
    assert math.isfinite(float(hours[1].replace(",", "")))
    assert "nothing started" in said
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "sweeps").exists()


def test_a_dry_run_knows_the_demo_plant_before_it_is_made(tmp_path, capsys):
    typed = [*GRID, *PLANT, *TINY, f"outputs={tmp_path}", "sweep.dry_run=true"]
    assert drive.sweep(typed, here, slots=1, on_gpu=False, show=board.show_sweep) == 0
    said = capsys.readouterr().out
    assert "hours of training" in said
    assert "not there yet" not in said


def test_remains_of_writers_that_were_killed_are_cleared(sweep, tmp_path):
    assert sweep("model=ganomaly", "seed=0,1", "epochs=1") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    old, new = folder / ".a.part", folder / ".b.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (1, 1))
    next(folder.glob("epochs_*.json")).unlink()
    assert sweep("model=ganomaly", "seed=0,1", "epochs=1") == 0
    assert not old.exists()
    assert new.exists()  # somebody may still be writing it


# The command itself, its workers, and the keyboard -----------------------------------------------


def test_the_command_is_interrupted_and_goes_on_and_nothing_is_lost(plant, tmp_path):
    """As a person would: -m, Ctrl-C in the middle, the same line again."""
    typed = [
        "-m", *GRID[:-1], "epochs=1,40", "lambda_con=1,50", "sweep.lanes=8", "sweep.slots=1",
        *PLANT, *TINY, f"dataset.root={plant}",
    ]  # fmt: skip
    begun = start("-m", "asdgan.run", *typed, folder=tmp_path)
    runs = tmp_path / "outputs" / "runs"
    while not list(runs.glob("*/epochs_00001.json")) and begun.poll() is None:
        time.sleep(0.1)
    begun.send_signal(signal.SIGINT)
    said, _ = begun.communicate(timeout=600)
    assert begun.returncode == 130, said
    assert "what was finished is kept, and the same command goes on from there" in said
    assert "Traceback" not in said
    kept = {path: path.read_bytes() for path in runs.rglob("epochs_*.json")}
    assert kept
    (saved,) = runs.rglob("checkpoint_*")
    again = start("-m", "asdgan.run", *typed, folder=tmp_path)
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert "32 of 32 points done" in said
    assert {path: path.read_bytes() for path in kept} == kept
    assert not saved.exists()
    logs = next((tmp_path / "outputs" / "sweeps").glob("*/logs/worker_00.log")).read_text()
    assert "going on after" in logs
