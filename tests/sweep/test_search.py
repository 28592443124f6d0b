"""Searches from a command line to a best trial: what is asked, what it is worth, what is kept."""

import math
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import light_jobs
import optuna
import pytest
from small_plant import PLANT, TINY

from asdgan.config import compose, traits
from asdgan.errors import BadInput
from asdgan.report import board
from asdgan.results import ledger
from asdgan.sweep import grid, plan, sweep
from asdgan.sweep import job as planned
from asdgan.sweep import study as search

LR = "lr=tag(log,interval(1e-5,1e-2))"
BEST = 4e-4


def worth(stack, lane, epochs):
    """A planted AUC: highest at one learning rate, and a little higher with every epoch."""
    lr = stack.lanes[lane].get("lr", stack.config.lr)
    return round(max(0.0, 0.9 - (math.log10(lr / BEST)) ** 2 / 4 + 0.01 * math.log10(epochs)), 9)


def made_up(jobs):
    """Writes the rows that jobs would write, without training."""
    for path, number in jobs:
        job = plan.job_of(path, number)
        folder = path.parent.parent.parent / "runs" / job.stack.folder
        for reading in range(len(job.stack.readings)):
            light_jobs.write(job, reading, folder, worth)


@pytest.fixture
def go(plant, tmp_path):
    """Searches in this process, with made-up results unless told otherwise."""

    def go(*typed, launch=made_up, outputs=tmp_path):
        own = (f"dataset.root={plant}", f"outputs={outputs}", "logger=none", "model=ganomaly")
        return sweep.sweep(
            [*typed, *PLANT, *TINY, *own], launch, slots=1, on_gpu=False, show=board.show_sweep
        )

    return go


def trials_of(outputs):
    """Every trial of the one study below a folder: how it ended, its settings, its value."""
    (path,) = (outputs / "sweeps").glob("*/study.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.load_study(study_name=None, storage=storage)
    return [(one.state.name, one.params, one.value) for one in study.trials]


def rows_of(outputs):
    found, _ = ledger.read_all(outputs / "runs")
    return [row for one in found for row in one.rows]


def test_a_search_finds_a_planted_optimum_and_tells_how_it_was_chosen(go, tmp_path, capsys):
    assert go("sweep.search=tpe", "sweep.trials=40", "sweep.ask=8", LR, "epochs=1") == 0
    said = capsys.readouterr().out
    assert "best is the highest AUC weighted by test clips (oracle)" in said
    assert "40 of 40 trials" in said
    assert "chosen among 40 (oracle)" in said
    best = max(trials_of(tmp_path), key=lambda one: one[2])
    assert abs(math.log10(best[1]["lr"] / BEST)) < 0.1


def test_every_trial_is_the_point_that_its_settings_are_alone(go, plant, tmp_path):
    typed = ("sweep.search=random", "sweep.trials=6", LR, "latent=4,8", "seed=0,1", "epochs=1,2")
    assert go(*typed, "sweep.reduction=1") == 0
    found = {row["signature"] for row in rows_of(tmp_path)}
    assert len(found) == 6 * 2 * 2
    for _, values, _ in trials_of(tmp_path):
        for seed, epochs in ((0, 1), (1, 2)):
            config = compose.compose(
                [
                    *(f"{key}={value!r}".replace("'", "") for key, value in values.items()),
                    f"seed={seed}", f"epochs={epochs}", "model=ganomaly", *PLANT, *TINY,
                    f"dataset.root={plant}",
                ]
            )  # fmt: skip
            told = traits.of(config.model._target_)
            data = rows_of(tmp_path)[0]["data"]
            name = ledger.signature(compose.identity(config, "fan"), told.recipe, data)
            assert name in found


def test_the_same_call_has_nothing_to_do_and_one_of_more_trials_goes_on(go, tmp_path, capsys):
    typed = ("sweep.search=tpe", "sweep.ask=4", LR, "epochs=1")
    assert go(*typed, "sweep.trials=8") == 0
    before = trials_of(tmp_path)
    capsys.readouterr()
    assert go(*typed, "sweep.trials=8") == 0
    assert "nothing to do: 8 done, 0 failed" in capsys.readouterr().out
    assert go(*typed, "sweep.trials=12") == 0
    after = trials_of(tmp_path)
    assert after[:8] == before
    assert [state for state, *_ in after] == ["COMPLETE"] * 12


def test_a_search_that_is_stopped_asks_what_it_would_have_asked(go, tmp_path):
    typed = ("sweep.search=tpe", "sweep.trials=24", "sweep.ask=6", LR, "latent=4,8", "epochs=1")
    assert go(*typed, outputs=tmp_path / "whole") == 0
    rounds = []

    def stopped(jobs):
        rounds.append(len(jobs))
        made_up(jobs[: len(rounds) % 2])  # a round is cut after its first job, or before it
        if len(rounds) < 5:
            raise KeyboardInterrupt
        made_up(jobs[len(rounds) % 2 :])

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            go(*typed, launch=stopped)
    assert go(*typed, launch=stopped) == 0
    assert trials_of(tmp_path) == trials_of(tmp_path / "whole")


def test_a_damaged_study_is_made_anew_from_its_results(go, tmp_path, caplog):
    typed = ("sweep.search=tpe", "sweep.trials=9", "sweep.ask=3", LR, "epochs=1,2,4")
    assert go(*typed) == 0
    before = trials_of(tmp_path)
    (path,) = (tmp_path / "sweeps").glob("*/study.journal")
    path.write_bytes(b"\x00" * 100 + path.read_bytes()[100:])
    assert go(*typed, launch=None) == 0  # nothing is started
    assert trials_of(tmp_path) == before
    assert "was put aside as study.journal.damaged" in caplog.text


def test_one_trial_in_three_goes_on_at_each_number_of_epochs(go, tmp_path):
    typed = ("sweep.search=random", "sweep.trials=9", "sweep.ask=9", LR, "epochs=1,3,9")
    assert go(*typed) == 0
    found = rows_of(tmp_path)
    by = {n: {row["settings"]["lr"] for row in found if row["epochs"] == n} for n in (1, 3, 9)}
    assert [len(by[n]) for n in (1, 3, 9)] == [9, 3, 1]
    assert by[9] < by[3] < by[1]
    best = sorted(by[1], key=lambda lr: abs(math.log10(lr / BEST)))
    assert by[3] == set(best[:3])
    states = [state for state, *_ in trials_of(tmp_path)]
    assert (states.count("COMPLETE"), states.count("PRUNED")) == (1, 8)


def test_trials_that_go_on_train_on_from_where_they_stood(go, tmp_path, caplog):
    """With real trainings: the best third of 24 is trained to the end, and no state is left."""

    def here(jobs):
        for path, number in jobs:
            planned.run(path, number, lambda _: None)

    caplog.set_level("INFO", "asdgan")
    typed = ("sweep.search=random", "sweep.trials=6", "sweep.ask=6", LR, "epochs=1,2")
    assert go(*typed, launch=here) == 0
    assert caplog.text.count("going on after 1 epochs") == 1
    assert len(rows_of(tmp_path)) == 8
    assert not list((tmp_path / "runs").rglob("checkpoint_*"))


def test_a_trial_that_fails_fails_alone_and_is_tried_again_by_the_next_call(go, tmp_path, capsys):
    typed = ("sweep.search=random", "sweep.trials=4", "sweep.ask=4", "lr=1e-4,1e-3", "latent=4,8")

    def one_fails(jobs):
        plan.fail(*jobs[0], "raised", "ValueError: planted")
        made_up(jobs[1:])

    assert go(*typed, "epochs=1", launch=one_fails) == 1
    states = [state for state, *_ in trials_of(tmp_path)]
    assert 0 < states.count("FAIL") < 4
    assert "raised: ValueError: planted" in capsys.readouterr().out
    assert go(*typed, "epochs=1", "sweep.retry=never", launch=None) == 1
    assert "nothing to do: " in capsys.readouterr().out
    assert go(*typed, "epochs=1") == 0
    ended = [state for state, *_ in trials_of(tmp_path)]
    assert ended.count("COMPLETE") == 4


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """The address of an empty database."""
    return request.getfixturevalue(f"{request.param}_address")


@pytest.fixture
def sqlite_address(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def postgresql_address():
    """A server of its own, that nobody else can reach."""
    pytest.importorskip("psycopg", reason="the extra asdgan[postgres] is not installed")
    if shutil.which("initdb") is None:
        pytest.skip("no PostgreSQL server is installed (initdb)")
    folder = Path(tempfile.mkdtemp(prefix="asdgan-postgres-"))
    owner = {}
    if os.getuid() == 0:  # which it refuses to run as
        owner = {"user": "nobody"}
        shutil.chown(folder, "nobody")

    def command(*words):
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, **owner)
        assert done.returncode == 0, done.stderr

    where = str(folder / "data")
    command("initdb", "-D", where, "-U", "asdgan", "-A", "trust", "--no-sync")
    own = f"-k {folder} -c listen_addresses= -c fsync=off"
    command("pg_ctl", "-D", where, "-o", own, "-l", str(folder / "log"), "-w", "start")
    yield f"postgresql://asdgan@/postgres?host={folder}"
    command("pg_ctl", "-D", where, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_a_database_keeps_the_study_too(go, tmp_path, database, capsys):
    typed = ("sweep.search=random", "sweep.ask=2", LR, "epochs=1", f"sweep.storage='{database}'")
    assert go(*typed, "sweep.trials=2") == 0
    assert go(*typed, "sweep.trials=4") == 0
    capsys.readouterr()
    assert go(*typed, "sweep.trials=4") == 0
    assert "nothing to do: 4 done, 0 failed" in capsys.readouterr().out
    assert len(rows_of(tmp_path)) == 4
    for path in (tmp_path / "sweeps").rglob("plan.json"):
        assert database not in path.read_text()  # it may hold a password


def test_a_trial_is_worth_the_mean_over_seeds_weighted_by_clips():
    def row(auc, clips, loss=0.0):
        return {"auc": auc, "pauc": auc / 2, "clips": clips, "losses": {"val/s": [9, loss]},
                "primary": "s", "model": "m"}  # fmt: skip

    rows = {"fan": [row(0.5, 100, 1), row(0.7, 100, 2)], "valve": [row(0.9, 300, 5)]}
    assert search.value_of(rows, "auc") == pytest.approx((0.6 * 100 + 0.9 * 300) / 400)
    assert search.value_of(rows, "pauc") == pytest.approx((0.3 * 100 + 0.45 * 300) / 400)
    assert search.value_of(rows, "val_loss") == pytest.approx((1.5 + 5) / 2)
    rows["slider"] = [row(0.9, 10) | {"auc": None}]
    assert search.value_of(rows, "auc") == pytest.approx((0.6 * 100 + 0.9 * 300) / 400)


@pytest.mark.parametrize(
    ("typed", "kind"),
    [
        ("latent=interval(8,64)", "IntDistribution(high=64, log=False, low=8, step=1)"),
        ("latent=tag(log,interval(8,64))", "IntDistribution(high=64, log=True, low=8, step=1)"),
        ("latent=range(8,65,8)", "IntDistribution(high=64, log=False, low=8, step=8)"),
        ("dropout=interval(0,0.5)", "FloatDistribution(high=0.5, log=False, low=0.0, step=None)"),
        ("init=normal,glorot_uniform", "CategoricalDistribution(choices=('normal',"),
    ],
)  # fmt: skip
def test_what_varies_is_what_was_typed(typed, kind):
    base = ["model=ganomaly", "dataset=folder", "dataset.root=unused", "sweep.search=tpe"]
    (found,) = grid.expand([*base, typed]).dimensions
    assert str(found.distribution()).startswith(kind)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([LR], "an interval has no end of values; that needs a search (sweep.search=tpe)"),
        (["sweep.trials=3"], "sweep.trials belongs to a search; add sweep.search=tpe"),
        (["sweep.search=grid"], "sweep.search=grid: tpe, random or null is expected"),
        (["sweep.search=tpe"], "sweep.search=tpe: nothing varies"),
        (["sweep.search=tpe", "seed=0,1"], "sweep.search=tpe: nothing varies"),
        (["sweep.search=tpe", LR, "seed=interval(0,9)"], "an interval has no end of values; list"),
        (["sweep.search=tpe", "lr=interval(1,1)"], "from a lower to a higher value"),
        (["sweep.search=tpe", "lr=tag(log,interval(0,1))"], "interval begins above 0"),
        (["sweep.search=tpe", "lr=interval(-1,1)"], "lr=-1.0: a number above 0 is expected"),
        (["sweep.search=tpe", "latent=choice(8,x)"], "latent=x: a whole number"),
        (["sweep.search=tpe", "latnt=choice(8,16)"], "did you mean latent?"),
        (["sweep.search=tpe", "windows.frames=interval(0,5)"], "windows.frames=0: a whole number"),
        (["sweep.search=tpe", "dataset.seconds=2,3"], "not over dataset.seconds"),
        (["sweep.search=tpe", LR, "sweep.trials=0"], "sweep.trials=0: a whole number of at"),
    ],
)
def test_what_no_search_can_mean_is_refused_before_anything_starts(typed, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        grid.expand(["model=ganomaly", "dataset=folder", "dataset.root=unused", *typed])


def test_a_loss_of_held_out_windows_needs_some(go):
    typed = ("sweep.search=tpe", LR, "sweep.objective=val_loss")
    with pytest.raises(BadInput, match="none are held out: add windows"):
        go(*typed)


def test_a_storage_that_does_not_answer_is_named(go):
    with pytest.raises(BadInput, match=r"sweep\.storage=nowhere://x: "):
        go("sweep.search=tpe", LR, "sweep.storage=nowhere://x")


def test_a_name_that_another_search_has_is_refused(go):
    typed = ("sweep.search=random", "sweep.trials=1", "sweep.name=mine", "epochs=1")
    assert go(*typed, LR) == 0
    with pytest.raises(BadInput, match=r"searches lr, not latent; give this search another"):
        go(*typed, "latent=4,8")
