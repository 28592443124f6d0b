"""Published tables beside planted results: what is counted, what is compared, what is refused."""

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asdgan.config import compose, traits
from asdgan.report import formats, published, tables
from asdgan.report.requested import asked
from asdgan.results import intervals, ledger, metrics, points
from asdgan.sweep import grid, plan, sweep_file
from asdgan.training.stack import Stack

SIZES = published.sizes(grid.SWEEPS)
TYPES = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")
TABLE_4 = {  # AUC and pAUC per cent, planted
    "fan": (91.5, 74.0), "pump": (70.25, 55.0), "slider": (88.0, 80.0),
    "ToyCar": (93.0, 76.5), "ToyConveyor": (80.0, 75.5), "valve": (85.0, 60.0),
}  # fmt: skip


SCORES = np.random.default_rng(0).normal(size=40) + np.repeat([0, 1], 20)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASDGAN_DATA", raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here


@pytest.fixture
def run(capsys):
    """Runs the command; gives what it printed."""

    def ask(*words):
        assert tables.main(list(words)) == 0
        return capsys.readouterr().out

    return ask


@pytest.fixture
def few(monkeypatch):
    """A list of two tables only, which takes less time."""
    monkeypatch.setattr(sweep_file, "names", lambda folder: ["table4", "table5"])


def rows_of(run, *words):
    return list(csv.DictReader(io.StringIO(run(*words, "--format", "csv"))))


def only(rows, machine_type, section="", **more):
    (row,) = (
        row
        for row in rows
        if (row["machine_type"], row["section"]) == (machine_type, section)
        and all(row[key] == value for key, value in more.items())
    )
    return row


def plant(sweep, areas, *typed, clips=None, sections=None, chosen="named"):
    """Stores a result for each point of a sweep on the machine types that `areas` names."""
    for number, part in enumerate(
        grid.expand([f"sweep.file={sweep}", "sweep.dry_run=true", *typed]).parts
    ):
        types = TYPES if part.machine == "all" else [part.machine]
        for name in [name for one in types for name in ([one] if isinstance(one, str) else one)]:
            if name in areas:
                size = clips or SIZES["dcase2020", "dev", name]
                store(part, name, areas[name], size, sections, f"{number}{chosen}", chosen)


def store(part, name, area, clips, sections, place, chosen):
    config = part.config
    auc, pauc = (value / 100 for value in area)
    lanes = tuple(dict(zip(part.axes, row, strict=True)) for row in part.rows)
    told = traits.of(config.model._target_)
    stack = Stack(config, name, f"{name}-data", told.recipe, lanes, part.readings)
    names = plan.signatures(part, plan.Heard(name, stack.data), told)
    for reading, epochs in enumerate(part.readings):
        rows = [
            {
                "signature": names[lane][reading],
                "model": config.detector,
                "recipe": told.recipe,
                "release": config.dataset.release,
                "data": stack.data,
                "machine_type": name,
                "settings": stack.settings(lane, epochs),
                "seed": stack.settings(lane, epochs)["seed"],
                "epochs": epochs,
                "selection": {"settings": chosen, "checkpoint": "last"},
                "primary": "latent",
                "auc": auc - 0.01 * lane,
                "pauc": pauc - 0.01 * lane,
                "sections": sections
                or {"00": {"auc": auc, "pauc": pauc, "normal": 1, "anomaly": 1}},
                "clips": clips[1],
                "train_clips": clips[0],
                "test_clips": clips[1],
            }
            for lane in range(len(lanes))
        ]  # fmt: skip
        scores = {
            "clip": np.array([f"{number}.wav" for number in range(40)]),
            "section": np.repeat("00", 40),
            "label": np.repeat(["normal", "anomaly"], 20),
            "domain": np.tile(["source", "target"], 20),
            "score/latent": np.tile(SCORES, (len(rows), 1)),
        }
        folder = (
            Path("outputs/runs") / f"{name}-{config.detector}-{place}-{rows[0]['seed']}-{epochs}"
        )
        ledger.write(folder, epochs=epochs, rows=rows, scores=scores, weights=None, config="")


# The list ---------------------------------------------------------------------------------------


def test_parts_of_a_table_may_train_on_other_clips_and_each_is_counted(run, monkeypatch):
    monkeypatch.setattr(sweep_file, "names", lambda folder: ["aegan_ad_2020"])
    plant("aegan_ad_2020", {"fan": (77.0, 60.0), "valve": (70.0, 55.0)})  # of dev, and of both
    (row,) = (row for row in rows_of(run) if row["table"] == "aegan_ad_2020")
    assert (row["done"], row["total"]) == ("2", "6")
    assert row["missing"] == "aegan_ad_repository (pump, slider, ToyCar, ToyConveyor)"


def test_every_sweep_file_and_every_other_file_of_results_is_listed(run):
    listed = {row["table"]: row for row in rows_of(run)}
    assert set(listed) == {path.stem for path in grid.SWEEPS.glob("*.yaml")} | {
        "coelho", "neto2023", "tampere",
    }  # fmt: skip
    assert listed["table3"]["total"] == str(41_472 * 6 * 2)
    assert [listed[f"table{n}"]["total"] for n in (4, 5, 6, 7)] == ["6", "6", "30", "30"]
    assert {row["done"] for row in listed.values()} == {"0"}


def test_an_ensemble_of_a_table_is_counted_and_stands_beside_its_number(run, monkeypatch):
    names = ["dcase_ae", "table4", "table5", "table7"]
    monkeypatch.setattr(sweep_file, "names", lambda folder: names)
    plant("table7", {"slider": (92, 81)}, "model=gmade_ensemble", "seed=0,1")
    (row,) = (row for row in rows_of(run) if row["table"] == "table7")
    assert row["done"] == "1"  # of its one seed
    assert "gmade_ensemble (fan, pump, ToyCar, ToyConveyor, valve)" in row["missing"]
    assert row["no block for"] == ""
    row = only(rows_of(run, "table7"), "slider", model="gmade_ensemble")
    assert (row["auc_ours"], row["seeds"]) == ("91.5", "2")
    assert "the best of the table on many types" in row["note"]


def test_a_grid_says_what_its_best_number_owes_to_the_choice(run):
    few = ("model=ganomaly", "machine=fan", "hidden_layers=3", "lambda_adv=1", "lambda_con=50")
    typed = (*few, "lambda_lat=1", "batch=512", "epochs=10,20")
    plant("table3_quick", {"fan": (90, 80)}, *typed)
    said = run("table3_quick", *few).partition("owe to the choice, per cent")[2]
    lines = [line.split() for line in said.splitlines() if line.startswith("ganomaly")]
    assert [line[1] for line in lines] == ["fan", "weighted", "plain"]
    assert lines[0][2] == "2"  # settings that were chosen among
    assert "owe to the choice" not in run("table4")


def test_points_are_counted_whichever_sweep_ran_them(run, monkeypatch):
    names = ["dcase_ae", "table3_quick", "table4", "table5", "table7"]
    monkeypatch.setattr(sweep_file, "names", lambda folder: names)
    plant("table4", {"fan": (90, 80), "ToyCar": (80, 70)})
    listed = {row["table"]: row["done"] for row in rows_of(run)}
    done = {name: count for name, count in listed.items() if count != "0"}
    assert done == dict.fromkeys(["table3_quick", "table4", "table7"], "2")


def test_what_is_missing_is_said_with_the_command_that_runs_it(run, few):
    plant("table4", {"fan": (90, 80), "ToyCar": (80, 70)})
    listed = {row["table"]: row for row in rows_of(run)}
    assert listed["table4"]["missing"] == "ganomaly (pump, slider, ToyConveyor, valve)"
    assert listed["table4"]["run"] == "python -m asdgan.run -m sweep=table4"
    assert "asdgan data fetch dcase2020" in listed["table4"]["data"]


def test_a_table_that_is_done_has_nothing_to_run(run, few):
    plant("table4", TABLE_4)
    row = {row["table"]: row for row in rows_of(run)}["table4"]
    assert (row["done"], row["missing"], row["run"]) == ("6", "", "")


def test_a_detector_without_a_yaml_is_waited_for(run, few):
    listed = {row["table"]: row for row in rows_of(run)}
    for table in tables.tables():
        yamls = {name: compose.CONF / "model" / f"{name}.yaml" for name in table.systems()}
        lack = [f"model {name}" for name, yaml in yamls.items() if not yaml.exists()]
        assert listed[table.name]["waits for"] == ", ".join(lack)
    assert "model dense_ae" in listed["coelho"]["waits for"]


def test_what_is_typed_is_part_of_the_command_and_of_the_points(run, few):
    plant("table4", {"fan": (90, 80)}, "epochs=1")
    typed = {row["table"]: row for row in rows_of(run, "epochs=1")}["table4"]
    assert (typed["done"], typed["run"]) == ("1", "python -m asdgan.run -m sweep=table4 epochs=1")
    assert {row["table"]: row for row in rows_of(run)}["table4"]["done"] == "0"


def test_of_data_at_hand_only_its_own_results_count(run, few, tmp_path):
    plant("table4", {"fan": (90, 80)})
    for name in ("train/normal_id_00_00000000.wav", "test/anomaly_id_00_00000000.wav"):
        path = tmp_path / "data" / "dcase2020" / "dev_data" / "fan" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    row = {row["table"]: row for row in rows_of(run)}["table4"]
    assert (row["done"], row["data"].split(": ")[0]) == (
        "0", "data/dcase2020 has no pump, slider, ToyCar, ToyConveyor, valve",
    )  # fmt: skip
    assert row["run"] == "python -m asdgan.run -m sweep=table4 machine=fan"


def test_what_is_counted_is_what_the_planner_finds_done():
    typed = ("machine=fan", "batch=16,32", "hidden_layers=3")
    plant(
        "table3_quick", {"fan": (90, 80)}, *typed, "model=ganomaly", "lambda_adv=1", "epochs=10,30"
    )
    gathered = points.gather(ledger.read_all(Path("outputs"))[0])
    sweep = asked("table3_quick", typed, gathered, SIZES)
    every = {
        name
        for part in sweep.grid.parts
        for lane in plan.signatures(
            part, plan.Heard("fan", "fan-data"), traits.of(part.config.model._target_)
        )
        for name in lane
    }
    assert len(every & gathered.done) == sweep.counted(gathered.done).total() == 2 * 4 * 2


# Ours beside theirs -----------------------------------------------------------------------------


def test_bounds_are_held_against_ours_and_means_are_those_of_metrics(run):
    plant("table4", TABLE_4)
    rows = rows_of(run, "table4")
    fan, pump = only(rows, "fan"), only(rows, "pump")
    assert (fan["auc_theirs"], fan["auc_bound"], fan["pauc_bound"]) == (">90", "met", "not met")
    assert (pump["auc_bound"], pump["pauc_bound"]) == ("not met", "met")
    weights = np.array([SIZES["dcase2020", "dev", name][1] for name in TABLE_4])
    aucs = np.array([auc for auc, _ in TABLE_4.values()])
    mean = only(rows, "weighted mean")
    assert float(mean["auc_ours"]) == pytest.approx((aucs * weights).sum() / weights.sum())
    assert float(mean["auc_difference"]) == pytest.approx(float(mean["auc_ours"]) - 88.16)
    assert float(only(rows, "std")["auc_ours"]) == pytest.approx(aucs.std())
    assert float(only(rows, "weighted std")["auc_ours"]) == pytest.approx(
        np.repeat(aucs, weights).std()
    )
    assert float(only(rows, "mean")["auc_ours"]) == pytest.approx(aucs.mean())


def test_settings_that_the_paper_chose_are_published_whatever_the_row_says(run):
    plant("table4", {"fan": (90, 80)})
    row = only(rows_of(run, "table4"), "fan")
    assert (row["settings"], row["checkpoint"], row["seeds"]) == ("published", "last", "1")


def test_seeds_run_by_hand_and_by_the_sweep_are_one_line(run):
    plant("table4", {"fan": (90, 80)}, "seed=1")
    plant("table4", {"fan": (92, 80)}, "seed=2", chosen="published")
    row = only(rows_of(run, "table4"), "fan")
    assert (row["settings"], row["seeds"], row["chosen_among"]) == ("published", "2", "1")
    assert float(row["auc_ours"]) == pytest.approx(91.0)


def test_numbers_and_sections_of_the_baseline_stand_beside_ours(run):
    sections = {
        "00": {"auc": 0.5, "pauc": 0.6, "normal": 1, "anomaly": 1},
        "02": {"auc": None, "pauc": None, "normal": 1, "anomaly": 0},
    }
    plant("dcase_ae", {"fan": (66.0, 53.0)}, sections=sections)
    rows = [row for row in rows_of(run, "dcase_ae") if row["source"].startswith("Coelho")]
    assert float(only(rows, "fan")["auc_difference"]) == pytest.approx(66.0 - 65.83)
    assert float(only(rows, "fan", "00")["pauc_difference"]) == pytest.approx(60 - 49.37)
    assert only(rows, "fan", "02")["auc_ours"] == only(rows, "pump")["auc_ours"] == ""
    assert only(rows, "weighted mean")["auc_theirs"] == "73.76"
    assert (only(rows, "std")["auc_theirs"], only(rows, "mean")["pauc_theirs"]) == (
        "6.67",
        "59.66",
    )


def test_a_mean_of_fewer_types_is_shown_without_a_difference(run):
    plant("table4", {"fan": (90, 80), "pump": (70, 60)})
    mean = only(rows_of(run, "table4"), "weighted mean")
    assert (mean["auc_theirs"], mean["auc_difference"]) == ("88.16", "")
    assert "ours of 2 of 6 types" in mean["note"]


def test_a_mean_that_the_source_prints_stands_beside_the_one_worked_out(run):
    rows = rows_of(run, "auddsr")
    mean = only(rows, "mean", model="auddsr")
    assert (mean["pauc_theirs"], "pAUC printed 71.45" in mean["note"]) == ("71.42", True)
    assert only(rows, "mean over ids", model="glow_aff")["auc_theirs"] == "85.20"


def test_lost_cells_say_so(run):
    rows = rows_of(run, "table7")
    row = only(rows, "fan", model="dcase_ae")
    assert (row["auc_theirs"], row["note"]) == ("lost", "the body of the table is lost")


def test_seeds_are_a_mean_and_their_number(run):
    plant("table4", {"fan": (90, 80)}, "seed=0,1,2")
    row = only(rows_of(run, "table4"), "fan")
    assert (row["seeds"], row["chosen_among"]) == ("3", "1")
    assert float(row["auc_ours"]) == pytest.approx(89.0)
    assert only(rows_of(run, "table4", "seed=1"), "fan")["auc_ours"] == "89.0"


def test_of_a_grid_the_best_stands_and_test_labels_chose_it(run):
    plant(
        "table3_quick", {"fan": (90, 80)}, "model=ganomaly", "machine=fan", "batch=16", "epochs=10"
    )
    row = only(rows_of(run, "table3_quick", "model=ganomaly"), "fan", model="ganomaly")
    assert (row["settings"], row["chosen_among"], row["auc_ours"]) == ("oracle", "16", "90.0")


def test_intervals_are_those_of_the_clip_scores(run):
    plant("table4", {"fan": (90, 80), "pump": (70, 60)})
    rows = rows_of(run, "table4")
    labels = ("normal",) * 20 + ("anomaly",) * 20
    told = (SCORES[None], ("00",) * 40, labels, (None,) * 40)
    types = [intervals.TypeScores(name, *told) for name in ("fan", "pump")]
    for kind, some, mean in (("fan", types[:1], "mean"), ("weighted mean", types, "weighted")):
        row, wanted = only(rows, kind), intervals.interval(some, area="auc", mean=mean)
        found = [float(row["auc_low"]) / 100, float(row["auc_high"]) / 100]
        assert found == pytest.approx([wanted.low, wanted.high])


def test_official_scores_stand_beside_published_ones(run):
    areas = dict.fromkeys(
        ["bearing", "fan", "gearbox", "slider", "ToyCar", "ToyTrain", "valve"], (90, 80)
    )
    plant("aithu_sc", areas, clips=(10, 40))
    labels, domains = ("normal",) * 20 + ("anomaly",) * 20, ("source", "target") * 20
    fan = intervals.TypeScores("fan", SCORES[None], ("00",) * 40, labels, domains)
    wanted = intervals.interval([fan], area="official", year=2022)
    row = only(rows_of(run, "aithu_sc"), "fan", model="sc")
    found = [row[f"official_2022_{name}"] for name in ("ours", "low", "high", "difference")]
    told = [wanted.value, wanted.low, wanted.high, wanted.value - 0.8064]
    assert [float(one) for one in found] == pytest.approx([100 * one for one in told])


# What may not be compared -----------------------------------------------------------------------


def test_rows_of_another_release_are_shown_when_asked_for_and_not_compared(run):
    plant("table4", TABLE_4, "dataset=demo")
    assert "91.50" not in run("table4")
    text = run("table4", "dataset=demo")
    assert "ours are on demo dev, theirs on dcase2020 dev: they are not comparable" in text
    rows = rows_of(run, "table4", "dataset=demo")
    assert only(rows, "fan")["auc_ours"] == "91.5"
    assert {row["auc_difference"] + row["auc_bound"] for row in rows} == {""}


def test_a_part_of_the_release_is_not_compared(run):
    plant("table4", {"fan": (95, 80)}, clips=(18, 42))
    assert "fan: ours on 18 of 3675 training clips and 42 of 1875 test clips" in run("table4")
    assert only(rows_of(run, "table4"), "fan")["auc_bound"] == ""


def test_other_settings_than_the_tables_are_said(run):
    plant("table4", {"fan": (95, 80)}, "epochs=1")
    assert "ours with epochs=1: not as the table has it" in run("table4", "epochs=1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tabel4"], "no table 'tabel4'; there are .* did you mean 'table4'"),
        (["table4", "table5"], "one table at a time, not table4 and table5"),
        (["table4", "epocs=1"], "epocs: no such setting; did you mean epochs"),
        (["table4", "dataset=demo,dcase2020"], "give dataset one value"),
        (["--format", "pdf"], "invalid choice: 'pdf'"),
    ],
)
def test_bad_input_is_refused(capsys, words, said):
    assert tables.main(words) == 2
    assert re.search(said, capsys.readouterr().err)


# Dresses ----------------------------------------------------------------------------------------


def test_a_file_holds_what_is_printed(run, tmp_path):
    plant("table4", TABLE_4)
    for kind in formats.FORMATS:
        assert run("table4", "--format", kind, "--out", str(tmp_path / kind)) == ""
        assert "88.16" in (tmp_path / kind).read_text()
    assert (tmp_path / "csv").read_text() == run("table4", "--format", "csv")


def test_latex_and_markdown_escape_what_they_would_read(run):
    latex, markdown = run("table7", "--format", "latex"), run("table7", "--format", "markdown")
    assert r"fan & $>$75 & $>$64" in latex
    assert r"skip\_ganomaly" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{table}") == 5
    assert "| fan | &gt;75 | &gt;64 |" in markdown


def test_a_bad_cell_is_refused_with_its_file(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    head = ",".join([*published.KEYS, "auc", *published.PLACE])
    (folder / "bad.csv").write_text(f"{head}\nx,dcase2020,dev,fan,,9o,s,t,,\n")
    with pytest.raises(published.BadInput, match=r"bad.csv: '9o' is neither a number nor a bound"):
        published.read(tmp_path, "bad")


def test_every_released_number_of_results_reads(run):
    for name in published.names(grid.SWEEPS):
        entries = published.read(grid.SWEEPS, name)
        assert entries
        for entry in entries:
            assert all(
                0 <= (cell.value or 0) <= 100
                for key, cell in entry.cells.items()
                if key in metrics.AREAS
            )


def test_the_list_starts_no_torch(tmp_path, repository):
    code = (
        "import sys; from asdgan.report import tables; from asdgan.sweep import sweep_file; "
        "sweep_file.names = lambda folder: ['table4']; "
        "tables.main([]); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"
