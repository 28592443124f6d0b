"""Finished runs put together: by hand, from the ledger, and as a result like any other."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load
from small_models import SMALLER

from asdgan import run
from asdgan.config import compose
from asdgan.deploy import score, submission
from asdgan.errors import BadInput
from asdgan.models.gmade_ensemble import GmadeEnsemble
from asdgan.report import board
from asdgan.results import ledger
from asdgan.results.choose import Stored
from asdgan.results.failures import failures_in
from asdgan.results.threshold import usual_threshold
from asdgan.sweep import job as planned
from asdgan.sweep import plan
from asdgan.sweep import sweep as drive
from asdgan.training import ensembles as ensemble

PLANT = (
    "machine=fan", "dataset.seconds=3", "dataset.ids=2", "dataset.train_clips=3",
    "dataset.test_clips=2", "features.mels=16", "trainer.compile=false", "logger=none",
)  # fmt: skip
DENSITY = ["epochs=2", "batch=64", f"model.hidden_width={SMALLER['model.hidden_width']}"]
CLASSES = [
    "epochs=1", "windows.stride=16", "windows.test_stride=8", "model.last=32",
    f"model.blocks={SMALLER['model.blocks']}",
]  # fmt: skip


def line(folder, *typed):
    """The command line of a small ensemble."""
    members = [
        f"model.members.{name}={json.dumps(typed)}"
        for name, typed in (("gmade", DENSITY), ("id_classifier", CLASSES))
    ]
    keys = {one.partition("=")[0] for one in typed}
    members = [one for one in members if one.partition("=")[0] not in keys]
    return ["model=gmade_ensemble", *PLANT, f"outputs={folder}", *members, *typed]


def put_together(folder, *typed):
    (kept,) = run.run(compose.compose(line(folder, *typed)))
    return kept


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An ensemble's result, and the folder of all outputs."""
    folder = tmp_path_factory.mktemp("ensemble")
    return put_together(folder, "model.weight=0.3"), folder


def stored(folder, signature):
    """A row and the arrays beside it."""
    path, row = ledger.find(folder / "runs", signature)
    return row, ledger.read_scores(ledger.read(path))


def trainings(folder):
    return {
        path: path.stat().st_mtime_ns
        for name in ("gmade", "id_classifier")
        for path in (folder / "runs").glob(f"fan-{name}-*/epochs_*.json")
    }


def test_scores_are_the_weighted_mean_of_members_standardised_by_hand(made):
    kept, folder = made
    arrays = ledger.read_scores(ledger.read(kept.path))
    wanted = {"score": 0.0, "train_score": 0.0}
    for name, weight in (("gmade", 0.3), ("id_classifier", 0.7)):
        row, own = stored(folder, kept.row["members"][name]["signature"])
        training = own[f"train_score/{row['primary']}"][0]
        for kind, place in (("score", "section"), ("train_score", "train_section")):
            raw = own[f"{kind}/{row['primary']}"][0]
            for section in ("00", "02"):
                normal = training[own["train_section"] == section]
                here = own[place] == section
                raw[here] = (raw[here] - np.mean(normal)) / np.std(normal)
            wanted[kind] = wanted[kind] + weight * raw
    for kind, values in wanted.items():
        np.testing.assert_allclose(arrays[f"{kind}/combined"][0], values, rtol=1e-12)


def test_its_row_says_what_its_members_are_and_judges_each(made):
    row = made[0].row
    assert row["settings"]["model.weight"] == 0.3
    assert row["settings"]["gmade.epochs"] == 2
    assert row["settings"]["id_classifier.windows.frames"] == 64
    assert row["settings"]["features.mels"] == 16
    assert not [key for key in row["settings"] if key.startswith(("windows.", "model.members"))]
    assert set(row["components"]) == {"combined", "gmade", "id_classifier"}
    assert (row["auc"], row["clips"]) == (row["components"]["combined"]["auc"], 8)


def test_a_second_call_and_another_weight_train_nothing(made, caplog):
    kept, folder = made
    caplog.set_level("INFO", logger="asdgan")
    before = trainings(folder)
    assert len(before) == 2
    again, other = (put_together(folder, f"model.weight={weight}") for weight in (0.3, 0.6))
    assert "fan: gmade done before, read back from" in caplog.text
    assert (again.row, again.path) == (kept.row, kept.path)
    assert other.row["signature"] != kept.row["signature"]
    assert other.row["members"] == kept.row["members"]
    assert trainings(folder) == before


def test_a_member_that_was_run_by_itself_is_taken(made, tmp_path):
    config = compose.compose(["model=gmade", *PLANT, f"outputs={tmp_path}", *DENSITY])
    (alone,) = run.run(config)
    before = trainings(tmp_path)
    kept = put_together(tmp_path)
    assert kept.row["members"]["gmade"]["signature"] == alone.row["signature"]
    assert before.items() < trainings(tmp_path).items()


def test_another_setting_of_a_member_is_another_ensemble(made):
    def name(*typed):
        config = compose.compose(line(made[1], *typed))
        told = ensemble.identity(config, ensemble.members_of(config), "fan")
        return ledger.signature(told, 1, "data")

    other = f"model.members.gmade={json.dumps([*DENSITY, 'lr=0.01'])}"
    same = f"model.members.gmade={json.dumps([*DENSITY[::-1], 'lr=0.001'])}"
    first = name()
    assert name(same, "trainer.train_scores=false") == first
    assert len({first, name(other), name("seed=1", "model.weight=0.4")}) == 3


def test_it_scores_new_wavs_as_it_did_its_own_clips(made):
    kept, folder = made
    result = ledger.read(kept.path)
    ready, arrays = score.scorer(Stored(kept.row, result, 0)), ledger.read_scores(result)
    (plant,) = (folder / "demo").glob("*/dev_data")
    for clip, value in zip(arrays["clip"], arrays["score/combined"][0], strict=True):
        assert ready.score(plant / clip) == pytest.approx(value, rel=1e-4, abs=1e-4)
    assert usual_threshold(arrays["train_score/combined"][0]) is not None


def test_the_leaderboard_and_a_submission_take_it_like_any_other(made, tmp_path, capsys):
    kept, folder = made
    assert board.main([str(folder / "runs"), "--where", "model=gmade_ensemble"]) == 0
    assert kept.row["signature"][:8] in capsys.readouterr().out
    run_of = str(kept.path)
    assert submission.main([run_of, "--year", "2020", str(tmp_path / "sent")]) == 0
    rows = (tmp_path / "sent" / "anomaly_score_fan_id_00.csv").read_text().splitlines()
    assert len(rows) == 4


def test_a_member_that_is_gone_is_named(made, tmp_path):
    kept, _ = made
    apart = tmp_path / "runs" / kept.path.parent.name
    apart.mkdir(parents=True)
    for path in kept.path.parent.iterdir():
        (apart / path.name).write_bytes(path.read_bytes())
    result = ledger.read(apart / kept.path.name)
    with pytest.raises(BadInput, match=r"its member gmade \(point [0-9a-f]{16}\) is not below"):
        score.scorer(Stored(result.rows[0], result, 0))


def test_a_member_without_scores_of_training_clips_is_refused(tmp_path):
    typed = ["model=gmade", *PLANT, f"outputs={tmp_path}", *DENSITY, "trainer.train_scores=false"]
    run.run(compose.compose(typed))
    with pytest.raises(BadInput, match="gmade has no scores of training clips to standardise by"):
        put_together(tmp_path)


def test_standards_are_those_of_each_section():
    known = ensemble.standards(np.array([1.0, 3.0, 10.0, 10.5]), ["0", "0", "1", "1"], "x")
    assert known == {"0": [2.0, 1.0], "1": [10.25, 0.25]}
    assert ensemble.standardised(np.array([4.0, 10.0]), ["0", "1"], known).tolist() == [2, -1]


def test_scores_without_spread_and_sections_without_training_clips_are_refused():
    with pytest.raises(BadInput, match=r"gmade: the scores of the 2 training clips of section 01"):
        ensemble.standards(np.array([1.0, 2.0, 5.0, 5.0]), ["00", "00", "01", "01"], "gmade")
    with pytest.raises(BadInput, match=r"no training clip is of section '04'.*there are 00"):
        ensemble.standardised(np.array([1.0]), ["04"], {"00": [0.0, 1.0]})


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ('model.members.gmade=["features.mels=8"]', "model.members.gmade: features.mels=8: all"),
        ('model.members.gmade=["lambda_con=1"]', "model.members.gmade: lambda_con=1: gmade has"),
        ('model.members.gmade=["epoch=1"]', "model.members.gmade: epoch: no such setting"),
        (
            "epochs=3",
            "epochs=3: gmade_ensemble has no such setting (its members",
        ),
        ("model.weight=1.5", "model.weight=1.5: a number from 0 to 1"),
        ("model.primary=nll", "model.primary=nll is none of the scores combined, gmade, id_class"),
    ],
)
def test_what_is_wrong_with_an_ensemble_is_said_before_anything_is_trained(tmp_path, typed, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        put_together(tmp_path, typed)
    assert not list(tmp_path.rglob("epochs_*.json"))


def test_weights_are_convex_and_two_members_are_needed():
    made = GmadeEnsemble(seed=0, members={"a": [], "b": []}, weight=0.25, primary="combined")
    found = made.combine({"a": np.array([4.0, 0.0]), "b": np.array([0.0, 8.0])})
    assert found["combined"].tolist() == [1.0, 6.0]
    with pytest.raises(BadInput, match="names a; gmade_ensemble takes two"):
        GmadeEnsemble(seed=0, members={"a": []}, weight=0.5, primary="combined")


def test_a_member_whose_losses_are_not_finite_leaves_no_ensemble(tmp_path):
    typed = f"model.members.gmade={json.dumps([*DENSITY, 'lr=1e38'])}"
    with pytest.raises(FloatingPointError, match="no result for fan"):
        put_together(tmp_path, typed)
    assert not list((tmp_path / "runs").glob("fan-gmade_ensemble-*"))


# In a sweep -------------------------------------------------------------------------------------

FOUR = ("seed=0,1", "model.weight=0.3,0.6", "sweep.name=four")


def here(jobs):
    """Does jobs in this process."""
    for path, number in jobs:
        planned.run(path, number, lambda _: None)


def sweep(folder, *typed, launch=here):
    return drive.sweep(line(folder, *typed), launch, slots=1, on_gpu=False, show=board.show_sweep)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep of four ensembles of two members at two seeds, and what it trained.

    It is killed once its members are trained, and called again with nobody to train any.
    """
    folder, jobs = tmp_path_factory.mktemp("swept"), []

    def killed(some):
        jobs.extend(plan.job_of(*one) for one in some)
        here(some)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(folder, *FOUR, launch=killed)
    assert not ensembles(folder)
    assert sweep(folder, *FOUR, launch=None) == 0
    return folder, jobs


def copied(swept, folder, *without):
    """Copies all of a sweep but results whose folders are called like this."""
    shutil.copytree(swept[0], folder, ignore=shutil.ignore_patterns(*without), dirs_exist_ok=True)


def rows(folder):
    found, refused = ledger.read_all(folder / "runs", verify=True)
    assert not refused
    return {row["signature"]: row for one in found for row in one.rows}


def ensembles(folder):
    return [row for row in rows(folder).values() if row["model"] == "gmade_ensemble"]


def test_a_sweep_trains_each_member_once_and_in_stacks(swept):
    folder, jobs = swept
    trained = [(job.stack.config.detector, len(job.stack.lanes)) for job in jobs]
    assert sorted(trained) == [("gmade", 2), ("id_classifier", 1), ("id_classifier", 1)]
    asked = {(row["seed"], row["settings"]["model.weight"]) for row in ensembles(folder)}
    assert asked == {(0, 0.3), (0, 0.6), (1, 0.3), (1, 0.6)}
    for row in ensembles(folder):
        members = [rows(folder)[one["signature"]] for one in row["members"].values()]
        assert {one["seed"] for one in members} == {row["seed"]}


def test_an_ensemble_of_a_sweep_is_the_point_that_it_is_alone(made, swept):
    alone, ours = made[0].row, rows(swept[0])[made[0].row["signature"]]
    same = ("settings", "seed", "epochs", "data", "recipe", "primary", "clips", "selection")
    assert {key: ours[key] for key in same} == {key: alone[key] for key in same}
    theirs, mine = (stored(at, alone["signature"])[1] for at in (made[1], swept[0]))
    np.testing.assert_allclose(mine["score/combined"], theirs["score/combined"], rtol=1e-3)


def test_the_board_counts_a_sweeps_ensembles_and_their_members(swept, monkeypatch, capsys):
    monkeypatch.setattr(board.points, "OUTPUTS", swept[0])
    assert board.main(["four", "--by", "selection", "--where", "model=gmade_ensemble"]) == 0
    assert "an ensemble has no held-out clips" in capsys.readouterr().out
    assert board.main(["four", "--intervals"]) == 0
    assert "8 of 8 points done" in capsys.readouterr().out


def test_of_a_sweep_the_ensemble_scores_wavs_whose_members_kept_their_weights(swept):
    (stack,) = swept[0].glob("runs/fan-gmade-*/epochs_*.json")
    (heavy,) = {name.partition("/")[0] for name in load(ledger.read_weights(ledger.read(stack)))}
    found = {}  # an ensemble whose gmade has weights, and one whose gmade has none
    for path in swept[0].glob("runs/*ensemble*/epochs_*.json"):
        result = ledger.read(path)
        row = result.rows[0]
        found[row["members"]["gmade"]["signature"] == heavy] = Stored(row, result, 0)
    assert score.scorer(found[True]).members.keys() == {"gmade", "id_classifier"}
    with pytest.raises(BadInput, match=r"^member gmade of gmade_ensemble: .* were not kept"):
        score.scorer(found[False])


def test_what_of_a_sweep_is_missing_is_put_together_by_the_next_call(swept, tmp_path, capsys):
    copied(swept, tmp_path, "*ensemble*")
    before = trainings(tmp_path)
    assert sweep(tmp_path, *FOUR, launch=None) == 0
    said = capsys.readouterr().out
    assert "8 points, 4 done before, 4 ensembles to put together of their members" in said
    assert trainings(tmp_path) == before
    assert rows(tmp_path).keys() == rows(swept[0]).keys()
    assert sweep(tmp_path, *FOUR, launch=None) == 0
    assert "nothing to do: 8 done, 0 failed" in capsys.readouterr().out


def test_a_member_that_fails_is_named_by_its_ensembles_and_the_others_go_on(
    swept, tmp_path, capsys
):
    def fail(jobs):
        for job in jobs:
            plan.fail(*job, "killed", "planted")

    (doomed,) = (one.stack for one in swept[1] if one.stack.lanes[0]["seed"] == 1)
    copied(swept, tmp_path, "*ensemble*", doomed.folder)
    assert sweep(tmp_path, *FOUR, launch=fail) == 1
    assert {row["seed"] for row in ensembles(tmp_path)} == {0}
    failed = failures_in(tmp_path / "runs")[0]
    assert sorted(one.kind for one in failed) == ["killed", "member", "member"]
    said = r"its member id_classifier \(point [0-9a-f]{16}\) has no result: killed: planted"
    assert all(re.fullmatch(said, one.reason) for one in failed if one.kind == "member")
    assert "5 of 8 points done, 3 failed" in capsys.readouterr().out
    assert sweep(tmp_path, *FOUR) == 0
    assert len(ensembles(tmp_path)) == 4


def test_an_ensemble_that_cannot_be_put_together_fails_alone(swept, tmp_path):
    copied(swept, tmp_path, "*ensemble*")
    typed = [*PLANT, f"outputs={tmp_path}", *CLASSES, "trainer.train_scores=false", "seed=2"]
    run.run(compose.compose(["model=id_classifier", *typed]))
    assert sweep(tmp_path, "seed=0,2") == 1
    assert [row["seed"] for row in ensembles(tmp_path)] == [0]
    (failed,) = failures_in(tmp_path / "runs")[0]
    assert failed.kind == "raised"
    assert "remove that result, and the same command makes it anew" in failed.reason


def test_a_dry_run_names_its_ensembles_and_starts_nothing(tmp_path, capsys):
    assert sweep(tmp_path, *FOUR, "sweep.dry_run=true", launch=None) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 to run on 1 machine type, as 3 stacks of up to 2 lanes, 4 ensembles to put" in said
    assert not (tmp_path / "runs").exists()


def test_members_that_scored_other_clips_are_not_put_together(made):
    config = compose.compose(line(made[1]))
    one = ensemble.Ensemble(config, "fan", {}, 1, "0" * 16)
    of = [ensemble.scored_by(made[0], "gmade_ensemble") for _ in range(2)]
    other = replace(of[1], row={**of[1].row, "data": "fewer", "train_clips": 5})
    said = r"did not score the same clips \(6 and 5 of training, 8 and 8 of test\)"
    with pytest.raises(BadInput, match=said):
        ensemble.put_together(one, {"gmade": of[0], "id_classifier": other})


def test_bad_clips_are_left_out_of_an_ensembles_clips_too(made, tmp_path):
    (plant,) = (made[1] / "demo").glob("*/dev_data")
    root = shutil.copytree(plant, tmp_path / "plant")
    min((root / "fan" / "test").iterdir()).write_bytes(b"no sound")
    typed = [one for one in line(tmp_path) if not one.startswith("dataset.")]
    other = ["dataset=dcase2020", f"dataset.root={root}", "dataset.bad_clips=skip"]
    (kept,) = run.run(compose.compose([*typed, *other]))
    assert kept.row["test_clips"] == 7
    assert kept.row["flags"][0] == "gmade: bad clips left out: 0 of training, 1 of test"
