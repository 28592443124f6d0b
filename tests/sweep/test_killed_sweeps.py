"""Whole sweeps whose jobs die, and whole sweeps that are killed."""

import json
import os
import random
import re
import time
from pathlib import Path
from types import SimpleNamespace

import light_jobs
import pytest
from processes import are_gone, descendants, kill, start
from small_plant import PLANT, TINY

from asdgan.errors import BadInput
from asdgan.report import board
from asdgan.results import ledger
from asdgan.results.failures import failures_in
from asdgan.sweep import plan
from asdgan.sweep import sweep as drive
from asdgan.sweep.launchers import local

FOUR = ("seed=0,1,2,3", "epochs=1", "sweep.lanes=1", "sweep.slots=2")
DEATHS = {
    "raises": ("raised", r"ValueError: no such fan \(light_jobs\.py:\d+\)"),
    "sys_exit": ("exit", "exited with code 3 before finishing"),
    "os_exit": ("exit", "its process ended with code 4 before finishing"),
    "sigkill": ("killed", "killed by SIGKILL; out of memory is a usual cause"),
    "sigsegv": ("killed", r"killed by SIGSEGV; its stack is in .*worker_0[01]\.log"),
    "memory_error": ("memory", r"MemoryError \(light_jobs\.py:\d+\)"),
    "gpu_memory": ("memory", r"OutOfMemoryError: CUDA out of memory\. Tried .*"),
    "not_finite": ("nan", r"FloatingPointError: loss_g at step 12 .*"),
    "hangs": ("hung", "no sign of life for 5 s; its stacks are in .*"),
}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Sweeps of light jobs with the local launcher; gives the exit code."""
    light_jobs.lighten(monkeypatch.setattr)
    light_jobs.recordings(tmp_path / "plant")
    return lambda *typed: light_jobs.answer(tmp_path, *typed)


def doom(folder, *words):
    """Says how each job of the next plan ends; "" for well."""
    (folder / "sweeps" / "light").mkdir(parents=True, exist_ok=True)
    (folder / "sweeps" / "light" / "deaths.json").write_text(json.dumps(words))


def seeds(folder):
    found, refused = ledger.read_all(folder / "runs", verify=True)
    assert not refused
    return sorted(row["seed"] for one in found for row in one.rows)


def failed(folder):
    found, refused = failures_in(folder / "runs")
    assert not refused
    return found


@pytest.mark.parametrize("death", DEATHS)
def test_a_job_that_dies_is_marked_and_the_others_have_their_rows(sweep, tmp_path, death, capsys):
    kind, reason = DEATHS[death]
    doom(tmp_path, "", death, "", "")
    assert sweep(*FOUR, f"sweep.timeout={5 if kind == 'hung' else 60}") == 1
    (one,) = failed(tmp_path)
    assert one.kind == kind
    assert re.fullmatch(reason, one.reason)
    assert one.settings["seed"] == 1
    assert seeds(tmp_path) == [0, 2, 3]
    assert f"plant ganomaly: 1 points failed, {kind}: {one.reason}" in capsys.readouterr().out


def test_the_next_call_tries_a_failed_job_again(sweep, tmp_path, capsys):
    doom(tmp_path, "", "os_exit", "", "")
    assert sweep(*FOUR) == 1
    doom(tmp_path, "")
    assert sweep(*FOUR) == 0
    assert "4 points, 3 done before, 1 to run" in capsys.readouterr().out
    assert seeds(tmp_path) == [0, 1, 2, 3]


def test_a_failed_job_is_not_tried_again_where_that_was_forbidden(sweep, tmp_path, capsys):
    doom(tmp_path, "", "sigkill", "", "")
    assert sweep(*FOUR) == 1
    doom(tmp_path, "")
    assert sweep(*FOUR, "sweep.retry=never") == 1
    assert "nothing to do: 3 done, 1 failed" in capsys.readouterr().out
    assert seeds(tmp_path) == [0, 2, 3]


def test_twenty_equal_failures_stop_the_sweep(sweep, tmp_path, capsys):
    doom(tmp_path, *["raises"] * 25)
    assert sweep("seed=range(0,25)", "epochs=1", "sweep.lanes=1", "sweep.slots=1") == 2
    said = "20 jobs failed alike and none succeeded, so the sweep stops: raised: ValueError: no"
    assert said in capsys.readouterr().err
    assert len(failed(tmp_path)) == 20


def test_a_launch_reads_no_job_before_its_turn(monkeypatch, sweep, tmp_path):
    read = []
    monkeypatch.setattr(local.Pool, "run", lambda *_: None)
    monkeypatch.setattr(plan, "job_of", lambda *job: read.append(job))
    config = drive.expanded(light_jobs.line(tmp_path, *FOUR)).parts[0].config
    with local.Crew(config) as crew:
        crew.launch([(tmp_path / "plan.json", number) for number in range(3)])
    assert not read


def test_failures_that_differ_in_numbers_only_are_equal(monkeypatch):
    monkeypatch.setattr(plan, "fail", lambda *_: None)
    endings = local.Endings()
    for number in range(19):
        endings.note(Path("plan.json"), number, ("killed", f"see worker_{number % 4:02d}.log"))
    with pytest.raises(BadInput, match="20 jobs failed alike"):
        endings.note(Path("plan.json"), 19, ("killed", "see worker_15.log"))


def test_stacks_that_can_be_halved_do_not_stop_a_sweep(monkeypatch):
    two = SimpleNamespace(stack=SimpleNamespace(lanes=[{}, {}]))
    monkeypatch.setattr(plan, "fail", lambda *_: None)
    monkeypatch.setattr(plan, "job_of", lambda *_: two)
    endings = local.Endings()
    for number in range(30):
        endings.note(Path("plan.json"), number, ("memory", "CUDA out of memory"))


def test_a_failure_keeps_its_kind_where_the_disk_has_another_clock(sweep, tmp_path):
    def launch(jobs):
        plan.fail(*jobs[0], "raised", "ValueError: planted")
        (record,) = (tmp_path / "runs").rglob("failure_*.json")
        os.utime(record, (1, 1))

    line = light_jobs.line(tmp_path, "epochs=1")
    assert drive.sweep(line, launch, slots=1, on_gpu=False, show=board.show_sweep) == 1
    assert [one.kind for one in failed(tmp_path)] == ["raised"]


# The command itself, and its plug ----------------------------------------------------------------


def results(folder):
    """The bytes of every file of every result; all of them verify."""
    found, refused = ledger.read_all(folder, verify=True)
    assert not refused
    paths = [one.path.parent / name for one in found for name in (one.path.name, *one.files)]
    return {path: path.read_bytes() for path in paths}


def cut(command, runs, chance, *, alone):
    """Kills a command, or all its processes, at a random instant after its next result."""
    before = {*runs.rglob("epochs_*.json")}
    while command.poll() is None and before == {*runs.rglob("epochs_*.json")}:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 0.5))
    below = descendants(command.pid)
    kill([command.pid, *([] if alone else below)], chance)
    assert are_gone(below)
    command.communicate()


@pytest.mark.slow
def test_a_command_that_is_killed_again_and_again_loses_nothing(plant, tmp_path):
    chance, runs, kept = random.Random(0), tmp_path / "outputs" / "runs", {}
    typed = [
        "-m", "model=ganomaly", "lr=1e-4,2e-4", "seed=range(0,8)", "epochs=1,20,40,60,80",
        "sweep.lanes=8", "sweep.slots=1", *PLANT, *TINY, f"dataset.root={plant}",
    ]  # fmt: skip
    for alone in (False, True, False):
        cut(start("-m", "asdgan.run", *typed, folder=tmp_path), runs, chance, alone=alone)
        found = results(runs)
        assert found.items() >= kept.items()
        kept = found
    last = start("-m", "asdgan.run", *typed, folder=tmp_path)
    said, _ = last.communicate()
    assert last.returncode == 0, said
    assert "80 of 80 points done" in said
    assert results(runs).items() >= kept.items()
    (log,) = (tmp_path / "outputs" / "sweeps").glob("*/logs/worker_00.log")
    assert "going on after" in log.read_text()
