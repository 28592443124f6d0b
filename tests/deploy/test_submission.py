"""A result of the ledger as the challenge's own files, and back through the judge."""

import csv
import os

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from small_plant import TINY

from asdgan import run
from asdgan._system.files import read_json, write_json
from asdgan.config import compose
from asdgan.deploy import submission
from asdgan.results import ledger, metrics
from asdgan.results.challenge import judge

SOURCE_AND_TARGET = ("source", "target")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here


def clips_of(year, machine, count=30):
    """Name, section, domain and label of test clips, as the year's release has them."""
    generator = np.random.default_rng(year)
    for section in ("00", "02"):
        for number in range(count):
            label = ("normal", "anomaly")[number % 2]
            domain = SOURCE_AND_TARGET[int(generator.integers(2))]
            if year == 2020:
                yield f"{machine}/test/{label}_id_{section}_{number:08d}.wav", section, "", label
            else:
                name = f"section_{section}_{domain}_test_{label}_{number:04d}"
                folder = f"{domain}_test" if year == 2021 else "test"
                yield f"{machine}/{folder}/{name}.wav", section, domain, label


def add(root, year=2022, machine="fan", rows=1, train=True, seed=0, **other):
    """Stores a result of made-up scores; gives its path and its rows."""
    generator = np.random.default_rng([year, seed])
    names, sections, domains, labels = map(
        np.array, zip(*clips_of(year, machine), strict=True)
    )  # fmt: skip
    strange = labels == "anomaly"
    scores = generator.integers(0, 99, (rows, len(names))) / 7 + 5.0 * strange
    arrays = {
        "clip": names, "section": sections, "domain": domains, "label": labels,
        "score/latent": scores,
    }  # fmt: skip
    if train:
        arrays["train_section"] = np.array(["00"] * 50)
        arrays["train_score/latent"] = generator.gamma(2.0, 3.0, (rows, 50))
    found = []
    for lane, judged in enumerate(metrics.judge(scores, sections.tolist(), labels.tolist())):
        row = {
            "model": "ganomaly", "recipe": 1, "release": f"dcase{year}", "data": f"{machine}-data",
            "machine_type": machine, "settings": {"batch": 16 << lane}, "seed": seed,
            "epochs": 10, "selection": {"settings": "named", "checkpoint": "last"},
            "primary": "latent", **{k: judged[k] for k in ("auc", "pauc", "sections", "clips")},
            **other,
        }  # fmt: skip
        settings = {**row["settings"], "seed": seed, "machine": machine, "at": len(found)}
        found.append({**row, "signature": ledger.signature(settings, 1, f"{year}{other}")})
    folder = root / "runs" / f"{machine}-{found[0]['signature']}"
    path = ledger.write(
        folder, epochs=10, rows=found, scores=arrays, weights=None, config=""
    )  # fmt: skip
    return path, found, arrays


def submit(root, *arguments, year=2022, out="out"):
    return submission.main([str(root), "--year", str(year), str(root / out), *arguments])


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


# Files ------------------------------------------------------------------------------------------

KINDS = ("anomaly_score", "decision_result")
BOTH = [f"{kind}_fan_section_{section}" for kind in KINDS for section in ("00", "02")]
NAMES = {
    2020: {"anomaly_score_fan_id_00.csv", "anomaly_score_fan_id_02.csv"},
    2021: {f"{name}_{domain}_test.csv" for name in BOTH for domain in SOURCE_AND_TARGET},
    **{year: {f"{name}_test.csv" for name in BOTH} for year in range(2022, 2026)},
}


@pytest.mark.parametrize("year", sorted(NAMES))
def test_each_year_has_its_names_and_every_clip_once_in_order(tmp_path, year):
    _, _, arrays = add(tmp_path, year)
    assert submit(tmp_path, year=year) == 0
    written = {path.name: read(path) for path in (tmp_path / "out").glob("*.csv")}
    assert set(written) == NAMES[year]
    for kind in {name.split("_fan_")[0] for name in written}:
        rows = [row for name, part in written.items() if name.startswith(kind) for row in part]
        assert sorted(clip for clip, _ in rows) == sorted(
            name.rpartition("/")[2] for name in arrays["clip"]
        )
    for rows in written.values():
        assert [clip for clip, _ in rows] == sorted(clip for clip, _ in rows)
    assert submit(tmp_path, year=year) == 0  # the same again, over itself


@pytest.mark.parametrize("year", [2020, 2022, 2023, 2024, 2025])
def test_the_judge_finds_the_areas_of_the_ledger_again(tmp_path, year):
    rows = {machine: add(tmp_path, year, machine)[1][0] for machine in ("fan", "ToyCar")}
    assert submit(tmp_path, year=year) == 0
    report = judge.judged(year, tmp_path / "out")
    section, auc = ("id", "AUC") if year == 2020 else ("section", "AUC (all)")
    for machine, row in rows.items():
        for line in report["machines"][machine]["sections"]:
            stored = row["sections"][line[section]]
            found = line[auc], line["pAUC"]
            assert found == pytest.approx((stored["auc"], stored["pauc"]), abs=1e-15)
    if year == 2020:
        means = report["overall"]["arithmetic mean over machine types"]
        areas = [row["auc"] for row in rows.values()]
        assert means["AUC"] == pytest.approx(np.mean(areas), abs=1e-15)


def test_the_domains_of_2021_are_judged_apart(tmp_path):
    _, _, arrays = add(tmp_path, 2021)
    assert submit(tmp_path, year=2021) == 0
    for line in judge.judged(2021, tmp_path / "out")["machines"]["fan"]["sections"]:
        mine = (arrays["section"] == line["section"]) & (arrays["domain"] == line["domain"])
        labels, scores = arrays["label"][mine] == "anomaly", arrays["score/latent"][0, mine]
        areas = [roc_auc_score(labels, scores), roc_auc_score(labels, scores, max_fpr=0.1)]
        assert [line["AUC"], line["pAUC"]] == pytest.approx(areas, abs=1e-12)


def test_scores_come_back_to_the_last_digit(tmp_path):
    _, _, arrays = add(tmp_path)
    assert submit(tmp_path) == 0
    ours = dict(zip(arrays["clip"], arrays["score/latent"][0], strict=True))
    for path in (tmp_path / "out").glob("anomaly_score*"):
        for clip, value in read(path):
            assert float(value) == ours[f"fan/test/{clip}"]


@pytest.mark.parametrize("fit", ["gamma", "quantile"])
def test_decisions_are_by_a_threshold_on_training_scores(tmp_path, fit):
    _, _, arrays = add(tmp_path)
    assert submit(tmp_path, "--decision", fit, "--quantile", "0.8") == 0
    train = arrays["train_score/latent"][0]
    limit = np.quantile(train, 0.8)
    if fit == "gamma":
        limit = stats.gamma(*stats.gamma.fit(train)).ppf(0.8)
    ours = dict(zip(arrays["clip"], arrays["score/latent"][0], strict=True))
    for path in (tmp_path / "out").glob("decision_result*"):
        for clip, value in read(path):
            assert value == str(int(ours[f"fan/test/{clip}"] > limit))
    (point,) = read_json(tmp_path / "out" / "submission.json")["points"]
    assert point["threshold"]["value"] == pytest.approx(limit, rel=1e-12)
    assert (point["threshold"]["fit"], point["threshold"]["quantile"]) == (fit, 0.8)


def test_a_gamma_threshold_finds_the_quantile_of_gamma_scores():
    scores = np.random.default_rng(0).gamma(3.0, 2.0, 20_000) + 5.0
    found = submission.threshold(scores, "gamma", 0.9)
    assert found.value == pytest.approx(stats.gamma(3.0, 5.0, 2.0).ppf(0.9), rel=0.02)


@pytest.mark.parametrize(
    ("scores", "fit", "message"),
    [
        (np.ones(5), "gamma", "all 5 scores are equal"),
        (np.array([1.0, np.nan]), "quantile", "1 of 2 scores are finite"),
        (np.array([]), "quantile", "0 of 0 scores are finite"),
    ],
)
def test_scores_that_no_threshold_fits_are_refused(scores, fit, message):
    with pytest.raises(ValueError, match=message):
        submission.threshold(scores, fit, 0.9)


# Which point ------------------------------------------------------------------------------------


def record_of(root):
    return read_json(root / "out" / "submission.json")["points"]


def test_several_points_are_refused_with_what_they_differ_in(tmp_path, capsys):
    add(tmp_path, rows=2)
    assert submit(tmp_path) == 2
    said = capsys.readouterr().err
    assert "holds 2 points on fan, which differ in batch (16, 32); say which by --where" in said
    assert "--choose auc (oracle: test labels choose) or --choose val_loss (label_free)" in said
    assert not (tmp_path / "out").exists()


def test_a_condition_leaves_the_point_and_its_own_scores(tmp_path):
    _, rows, arrays = add(tmp_path, rows=2)
    assert submit(tmp_path, "--where", "batch=32") == 0
    (point,) = record_of(tmp_path)
    assert point["signature"] == rows[1]["signature"]
    assert (point["selection"]["settings"], point["chosen_by"]) == ("named", None)
    first = read(tmp_path / "out" / "anomaly_score_fan_section_00_test.csv")[0]
    at = arrays["clip"].tolist().index(f"fan/test/{first[0]}")
    assert float(first[1]) == arrays["score/latent"][1, at]


@pytest.mark.parametrize("area", ["auc", "pauc"])
def test_choosing_by_an_area_is_said_to_be_oracle(tmp_path, capsys, area):
    _, rows, _ = add(tmp_path, rows=4)
    assert submit(tmp_path, "--choose", area) == 0
    (point,) = record_of(tmp_path)
    best = max(rows, key=lambda row: row[area])
    assert point["signature"] == best["signature"]
    assert (point["selection"]["settings"], point["chosen_among"]) == ("oracle", 4)
    assert f"oracle: best of 4 by {area}" in capsys.readouterr().out


def held_out(value):
    return {"losses": {"val/latent": [9.0, value]}}


def test_choosing_by_held_out_windows_is_label_free(tmp_path):
    add(tmp_path, seed=0, **held_out(0.5))
    _, (best,), _ = add(tmp_path, seed=1, **held_out(0.1))
    assert submit(tmp_path, "--choose", "val_loss") == 0
    (point,) = record_of(tmp_path)
    assert point["signature"] == best["signature"]
    assert point["selection"] == {"settings": "label_free", "checkpoint": "last"}


@pytest.mark.parametrize("before", ["oracle", "published"])
def test_labels_that_may_have_chosen_before_are_not_forgotten(tmp_path, before):
    for seed in (0, 1):
        chosen = {"settings": before, "checkpoint": "last"}
        add(tmp_path, seed=seed, selection=chosen, **held_out(0.1))
    assert submit(tmp_path, "--choose", "val_loss") == 0
    assert record_of(tmp_path)[0]["selection"]["settings"] == before


def test_a_sweep_is_found_by_name_and_says_what_it_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "outputs"
    _, (row,), _ = add(home)
    add(home, seed=1)  # of another sweep
    points = [row["signature"], "0" * 16]
    write_json(home / "sweeps" / "mine" / "plan.json", {"points": points})
    assert submission.main(["mine", "--year", "2022", "out"]) == 0
    assert "1 of 2 points of mine are done" in capsys.readouterr().out
    assert record_of(tmp_path)[0]["signature"] == row["signature"]


def test_one_result_is_named_by_its_file_or_its_folder(tmp_path):
    path, (row,), _ = add(tmp_path)
    add(tmp_path, seed=1)
    for place in (path, path.parent):
        assert submission.main([str(place), "--year", "2022", str(tmp_path / "out")]) == 0
        assert record_of(tmp_path)[0]["signature"] == row["signature"]


# What is refused --------------------------------------------------------------------------------


def refused(root, capsys, *arguments, year=2022, out="out"):
    assert submit(root, *arguments, year=year, out=out) == 2
    said = capsys.readouterr().err
    assert said.startswith("asdgan submission: ")
    assert said.count("\n") == 1
    assert not list((root / "out").glob("*_fan_*"))
    return said


def test_results_of_another_year_are_refused(tmp_path, capsys):
    add(tmp_path, 2022)
    said = refused(tmp_path, capsys, year=2023)
    assert "is a result on dcase2022, and --year is 2023; a submission scores" in said


@pytest.mark.parametrize("year", [2020, 2021, 2022])
def test_renamed_clips_are_refused_where_evaluators_go_by_the_order_of_names(
    tmp_path, capsys, year
):
    add(tmp_path, year, settings={"dataset.subset": "eval"})
    said = refused(tmp_path, capsys, year=year)
    assert "clips of the evaluation set have original names (fan/" in said
    assert f"evaluator of {year} would sort into another order than its truth; unpack" in said


@pytest.mark.parametrize("year", [2023, 2024, 2025])
def test_renamed_clips_are_submitted_where_evaluators_know_both_names(tmp_path, year):
    add(tmp_path, year, settings={"dataset.subset": "eval"})
    assert submit(tmp_path, year=year) == 0
    clip, _ = read(tmp_path / "out" / "anomaly_score_fan_section_00_test.csv")[0]
    assert clip.startswith("section_00_source_test_anomaly_")


def test_results_of_two_releases_need_a_word(tmp_path, capsys):
    add(tmp_path, 2022)
    add(tmp_path, 2023)
    said = refused(tmp_path, capsys)
    assert "results on dcase2022 and dcase2023; say which by --where release=..." in said


def test_without_training_scores_there_are_scores_alone(tmp_path, capsys):
    add(tmp_path, train=False)
    assert "has no scores of training clips" in refused(tmp_path, capsys)
    assert submit(tmp_path, "--decision", "none") == 0
    names = {path.name.split("_fan_")[0] for path in (tmp_path / "out").glob("*.csv")}
    assert names == {"anomaly_score"}


def test_files_of_another_submission_are_not_mixed_in(tmp_path, capsys):
    add(tmp_path)
    other = tmp_path / "out" / "anomaly_score_pump_section_00_test.csv"
    other.parent.mkdir()
    other.write_text("section_00_0000.wav,1\n")
    assert "holds 1 files of another submission (anomaly_score_pump" in refused(tmp_path, capsys)


def test_names_that_a_submission_cannot_tell_apart_are_refused(tmp_path, capsys):
    path, (row,), arrays = add(tmp_path, seed=3)
    arrays["clip"][:2] = "fan/test/a/1.wav", "fan/test/b/1.wav"
    arrays["section"][:2] = "00"
    row["signature"] = "1" * 16
    ledger.write(
        path.parent.with_name("b"), epochs=10, rows=[row], scores=arrays, weights=None, config=""
    )
    said = refused(tmp_path, capsys, "--where", f"signature={'1' * 16}")
    assert "two clips of fan are called 1.wav" in said


@pytest.mark.parametrize(
    ("arguments", "year", "message"),
    [
        (["--quantile", "1"], 2022, "--quantile 1.0 is not between 0 and 1"),
        (["--decision", "gamma"], 2020, "the challenge of 2020 took no decisions"),
        (["--where", "batch=99"], 2022, "no result with batch=99 in"),
        (["--where", "bacht=16"], 2022, "did you mean 'batch'"),
        (["--choose", "val_loss"], 2022, "no score of held-out windows; train with windows.val"),
        ([], 2021, "files of 2021 are named by domain"),
        ([], 2030, "invalid choice: 2030"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, capsys, arguments, year, message):
    other = {"release": "folder"} if year == 2021 else {}
    add(tmp_path, 2020 if year in (2020, 2021) else 2022, rows=2 if "val_loss" in arguments else 1,
        **other)  # fmt: skip
    assert message in refused(tmp_path, capsys, *arguments, year=year)


def test_a_damaged_result_is_never_submitted(tmp_path, capsys):
    path, *_ = add(tmp_path)
    scores = path.with_suffix(".scores.npz")
    scores.write_bytes(scores.read_bytes()[:-1])
    assert "sha256 is not the one stated" in refused(tmp_path, capsys)
    path.write_text("{}")
    assert submission.main([str(path), "--year", "2022", str(tmp_path / "out")]) == 2
    assert "a result is an epochs_*.json" in capsys.readouterr().err
    add(tmp_path, machine="ToyCar")
    assert submit(tmp_path) == 0
    assert f"not looked at: {path}" in capsys.readouterr().out


def test_a_run_of_the_demo_plant_is_submitted_and_judged(tmp_path, plant):
    """From wavs to official numbers: the areas of the ledger's row come back."""
    typed = ["model=dcase_ae", f"dataset.root={plant}", f"outputs={tmp_path}", "epochs=1"]
    config = compose.compose([*typed, "machine=fan", "logger=none", *TINY])
    (kept,) = run.run(config)
    for year in (2020, 2022):
        ask = [str(tmp_path), "--year", str(year), str(tmp_path / str(year))]
        assert submission.main([*ask, *(["--decision", "quantile"] if year == 2022 else [])]) == 0
    line = judge.judged(2020, tmp_path / "2020")["machines"]["fan"]["sections"][0]
    assert (line["AUC"], line["pAUC"]) == pytest.approx(
        (kept.row["auc"], kept.row["pauc"]), abs=1e-15
    )
    assert (tmp_path / "2022" / "decision_result_fan_section_00_test.csv").exists()
