"""The board's intervals and comparisons, from stored scores to what is printed."""

import csv
import os
import re

import numpy as np
import pytest
from small_plant import TINY

from asdgan import run
from asdgan._system.files import read_json
from asdgan.config import compose
from asdgan.report import board
from asdgan.results import intervals, ledger, metrics


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here


@pytest.fixture
def show(tmp_path, capsys):
    """Runs the board over the results of this test; gives what it printed."""

    def run(*arguments):
        assert board.main([str(tmp_path), "--draws", "200", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


def add(root, worth=1.0, *, machine_type="fan", seeds=(0,), stored=(), **other):
    """Stores a result with a row a seed; anomalies score higher by `worth`; gives its path."""
    common = np.random.default_rng([*machine_type.encode()])
    labels = common.choice(["normal", "anomaly"], 120)
    clips = common.normal(size=120) + worth * (labels == "anomaly")
    own = [np.random.default_rng([seed, int(99 * worth)]).normal(size=120) for seed in seeds]
    arrays = {
        "clip": np.array([f"{machine_type}/{number}.wav" for number in range(120)]),
        "section": np.array(["00", "02"] * 60),
        "domain": np.array(["source", "source", "target"] * 40),
        "label": labels,
        "score/latent": np.array([clips + 0.3 * noise for noise in own]),
        **dict(stored),
    }  # fmt: skip
    rows = []
    judged = metrics.judge(arrays["score/latent"], arrays["section"].tolist(), labels.tolist())
    for seed, areas in zip(seeds, judged, strict=True):
        row = {
            "model": "ganomaly", "recipe": 1, "release": "dcase2020", "machine_type": machine_type,
            "data": f"{machine_type}-data", "settings": {"batch": 16}, "seed": seed, "epochs": 10,
            "selection": {"settings": "named", "checkpoint": "last"}, "primary": "latent",
            **{key: areas[key] for key in ("auc", "pauc", "sections", "clips")}, **other,
        }  # fmt: skip
        named = {**{key: str(row[key]) for key in row if key != "sections"}, "worth": worth}
        rows.append({**row, "signature": ledger.signature(named, 1, row["data"])})
    folder = root / "runs" / rows[0]["signature"]
    return ledger.write(folder, epochs=10, rows=rows, scores=arrays, weights=None, config="")


def pair(root, **other):
    """Two lines of two machine types: batch 16 is good, batch 128 is not."""
    for machine_type in ("fan", "pump"):
        add(root, 2.0, machine_type=machine_type, **other)
        add(root, 0.5, machine_type=machine_type, settings={"batch": 128}, **other)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def figures(lines, area, machine_type):
    (line,) = (
        one for one in lines if (one["area"], one["machine_type"]) == (area, machine_type)
    )  # fmt: skip
    keys = ("a", "b", "difference", "low", "high", "p_value")
    return [float(line[key]) for key in keys], line["better"]


# Comparing --------------------------------------------------------------------------------------


def test_two_lines_are_compared_by_type_and_over_all(tmp_path, show):
    pair(tmp_path, seeds=(0, 1))
    text = show("--compare", "batch=16", "batch=128", "--csv", tmp_path / "a.csv")
    assert re.search("A: batch=16 .ganomaly, signature [0-9a-f]{8}, 2 seeds.", text)
    lines = read(tmp_path / "a.csv")
    means = ["fan", "pump", "weighted mean", "plain mean"]
    assert [line["machine_type"] for line in lines] == 2 * means
    (a, b, difference, low, high, p), better = figures(lines, "auc", "weighted mean")
    assert difference == pytest.approx(a - b)
    assert 0 < low < difference < high
    assert (better, p < 1e-4) == ("A", True)
    assert all(float(line["delong"]) < 1e-4 for line in lines[:2])


def test_what_is_compared_is_what_was_stored(tmp_path, show):
    paths = [add(tmp_path, w, seeds=(0, 1, 2), settings={"batch": w}) for w in (1.0, 1.2)]
    names = [ledger.read(path).rows[0]["signature"] for path in paths]
    show("--compare", *(name[:8] for name in names), "--csv", tmp_path / "a.csv")
    found, _ = figures(read(tmp_path / "a.csv"), "pauc", "fan")
    sides = []
    for path in paths:
        stored = ledger.read_scores(ledger.read(path))
        texts = [tuple(stored[name].tolist()) for name in ("section", "label", "domain")]
        sides.append([intervals.TypeScores("fan", stored["score/latent"], *texts)])
    outcome = intervals.compared(*sides, area="pauc", draws=200)
    apart = outcome.difference
    expected = [outcome.a, outcome.b, apart.value, apart.low, apart.high, outcome.p_value]
    assert found == expected


def test_a_line_is_tied_with_itself(tmp_path, show):
    path = add(tmp_path, seeds=(0, 1))
    name = ledger.read(path).rows[1]["signature"]
    lines = [line for line in show("--compare", name[:4], name).splitlines() if " fan " in line]
    assert len(lines) == 2
    for line in lines:
        assert "+0.0000" in line
        assert "1.0000" in line
        assert line.rstrip().endswith("tied")


def test_machine_types_that_are_not_in_both_lines_are_named(tmp_path, show):
    pair(tmp_path)
    add(tmp_path, 1.0, machine_type="valve", settings={"batch": 128})
    add(tmp_path, 1.0, machine_type="slider")
    add(tmp_path, 1.0, machine_type="ToyCar")
    add(tmp_path, 1.0, machine_type="ToyCar", data="small", settings={"batch": 128})
    text = show("--compare", "batch=16", "batch=128")
    said = "not compared: missing in A: valve; missing in B: slider; other clips: ToyCar"
    assert said in text
    assert "fan" in text


def test_the_official_score_of_the_year_is_compared_too(tmp_path, show):
    pair(tmp_path, release="dcase2022", seeds=(0, 1))
    show("--compare", "batch=16", "batch=128", "--csv", tmp_path / "a.csv")
    found, better = figures(read(tmp_path / "a.csv"), "official score 2022", "all of these")
    assert 0 < found[3] < found[2] < found[4]
    assert better == "A"


def test_the_best_settings_of_detectors_are_compared_and_said_to_be_flattered(tmp_path, show):
    pair(tmp_path)
    pair(tmp_path, model="dcase_ae")
    text = show("--by", "best", "--compare", "model=ganomaly", "model=dcase_ae")
    assert "test labels chose the settings of A, which flatters it" in text
    assert "tied" in text


def test_conditions_hold_for_both_lines(tmp_path, show):
    pair(tmp_path, seeds=(0, 1))
    text = show("--compare", "batch=16", "batch=128", "--where", "machine_type=pump")
    assert "pump" in text
    assert "fan" not in text
    assert "weighted mean" not in text


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("model=ganomaly", "batch=128"), "names 2 lines, which differ in batch (16, 128); add"),
        (("batch=16", "batch=512"), "--compare 'batch=512': no such line in"),
        (("batch=16", "0000"), "--compare '0000': no such line in"),
        (("batch=16", "skip"), "'skip' names no line; it takes the beginning of a signature"),
        (("batch=16", "bacth=16"), "no result has a setting 'bacth'; did you mean 'batch'?"),
        (("batch=16", "batch=128", "--markdown", "a.md"), "neither --intervals nor --markdown"),
        (
            ("batch=16", "batch=128", "--by", "selection"),
            "--by selection takes neither --intervals",
        ),
        (("batch=16", "batch=128", "--draws", "1"), "--draws 1: a spread needs 2 at least"),
    ],
)
def test_what_names_no_two_lines_is_one_sentence(tmp_path, capsys, typed, message):
    pair(tmp_path)
    assert board.main([str(tmp_path), "--compare", *typed]) == 2
    out, error = capsys.readouterr()
    assert message in error
    assert (out, error.count("\n")) == ("", 1)


def test_lines_that_differ_in_their_data_only_are_told_apart_by_it(tmp_path, capsys):
    add(tmp_path, data="large", train_clips=9)
    add(tmp_path, data="small")
    assert board.main([str(tmp_path), "--compare", "batch=16", "batch=16,data=small"]) == 2
    assert "names 2 lines, which differ in data (large, small)" in capsys.readouterr().err


def test_lines_without_common_clips_are_refused(tmp_path, capsys):
    add(tmp_path, 1.0)
    add(tmp_path, 1.0, machine_type="pump", settings={"batch": 128})
    assert board.main([str(tmp_path), "--compare", "batch=16", "batch=128"]) == 2
    error = capsys.readouterr().err
    assert "no clips in common (missing in A: pump; missing in B: fan)" in error


def test_other_labels_of_the_same_clips_are_refused(tmp_path, capsys):
    add(tmp_path, 1.0)
    labels = np.array(["normal", "anomaly"] * 60)
    add(tmp_path, 1.0, settings={"batch": 128}, stored={"label": labels})
    assert board.main([str(tmp_path), "--compare", "batch=16", "batch=128"]) == 2
    assert "A and B did not score the same clips of fan" in capsys.readouterr().err


def test_damaged_scores_are_one_sentence(tmp_path, capsys):
    pair(tmp_path)
    (path, *_) = sorted(tmp_path.rglob("*.npz"))
    path.write_bytes(b"no scores")
    assert board.main([str(tmp_path), "--compare", "batch=16", "batch=128"]) == 2
    assert "sha256 is not the one stated" in capsys.readouterr().err


# Intervals --------------------------------------------------------------------------------------


def test_intervals_stand_beside_the_areas_that_are_printed(tmp_path, show):
    pair(tmp_path, seeds=(0, 1))
    text = show("--intervals", "--top", "1", "--csv", tmp_path / "a.csv")
    first, second = read(tmp_path / "a.csv")
    for area in metrics.AREAS:
        low, value, high = (float(first[key]) for key in (f"{area}_low", area, f"{area}_high"))
        assert low < value < high
        assert f"{low:.4f} to {high:.4f}" in text
        assert second[f"{area}_low"] == ""  # of a line that is not printed
    assert "95 % intervals: 200 draws of the clips" in text
    assert "AUC 95 %" in text


@pytest.mark.parametrize("by", ["machine_type", "point", "best"])
def test_every_view_has_intervals_around_its_areas(tmp_path, show, by):
    pair(tmp_path, seeds=(0, 1))
    show("--intervals", "--by", by, "--csv", tmp_path / "a.csv")
    lines = read(tmp_path / "a.csv")
    assert {"fan", "pump"} <= {line["machine_type"] for line in lines}
    for line in lines:
        assert float(line["auc_low"]) < float(line["auc"]) < float(line["auc_high"])


def test_a_line_without_an_area_has_no_interval(tmp_path, show):
    add(tmp_path, stored={"label": np.array(["normal"] * 120)}, auc=None, pauc=None)
    text = show("--intervals", "--markdown", tmp_path / "a.md")
    assert "undefined" in text
    assert " to " not in text.splitlines()[-1]
    assert "AUC 95 %" in (tmp_path / "a.md").read_text()


def test_seeds_on_other_clips_are_refused(tmp_path, capsys):
    add(tmp_path)
    add(tmp_path, seeds=(1,), stored={"section": np.array(["00"] * 120)})
    assert board.main([str(tmp_path), "--intervals"]) == 2
    assert "seeds of fan did not score the same clips" in capsys.readouterr().err


def test_runs_of_the_demo_plant_have_intervals_and_are_compared(tmp_path, plant, capsys):
    """From wavs to a verdict."""
    typed = ["model=dcase_ae", f"dataset.root={plant}", f"outputs={tmp_path}", "machine=fan"]
    for epochs in (1, 2):
        run.run(compose.compose([*typed, f"epochs={epochs}", "logger=none", *TINY]))
    assert board.main([str(tmp_path), "--compare", "epochs=1", "epochs=2"]) == 0
    text = capsys.readouterr().out
    assert "AUC   fan" in text
    assert board.main([str(tmp_path), "--intervals"]) == 0
    rows = [read_json(path)["rows"][0] for path in sorted(tmp_path.rglob("epochs_*.json"))]
    assert f"{rows[0]['auc']:.4f}" in text
    assert re.search(r"[01]\.[0-9]{4} to [01]\.[0-9]{4}", capsys.readouterr().out)
