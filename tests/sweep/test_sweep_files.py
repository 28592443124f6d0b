"""The sweep files as they stand, and the published numbers that ours are set beside."""

import csv
from collections import Counter
from statistics import fmean, harmonic_mean

import pytest

from asdgan.config import compose
from asdgan.results import metrics
from asdgan.sweep import grid, sweep_file

# Files that print means of their own numbers, and how many areas those are.
MEANS_PRINTED = {"aithu": 8, "auddsr": 15, "coelho": 23, "dcase_ae": 24}
# Columns that may be empty without a word; one paper says by how much three numbers are worse.
BESIDE = {"machine_type", "section", "page", "note", "auc_worse_than_baseline"}
TRUNCATED = 0.0101  # some papers round the second decimal, others cut there
LIKE_FOR_LIKE = ("epochs", "hidden_layers", "lambda_adv", "lambda_con", "lambda_lat", "batch")
MEANS = {"": fmean, "mean": fmean, "harmonic mean": harmonic_mean}
# Where the printed mean is not that of the printed numbers, and its note says so.
UNLIKE = {("auddsr", "mean", "pauc"), ("conv_ae", "pump", "auc")}


def table(repository, name):
    with (repository / "sweeps" / "published" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def measures(row):
    return [name for name in row if name.startswith(("auc", "pauc", "official"))]


def sweep(name, *typed):
    return grid.expand([f"sweep.file={name}", "sweep.dry_run=true", *typed])


def means_of(rows, kind):
    """The rows that one kind of printed mean is over, by that mean's row."""
    for row in rows:
        same = [r for r in rows if all(r[k] == row[k] for k in ("model", "source"))]
        if kind == "" and not row["section"]:
            own = [r for r in same if r["machine_type"] == row["machine_type"] and r["section"]]
        elif kind and row["machine_type"] == kind:
            own = [r for r in same if r["machine_type"] not in (*MEANS, "mean over ids")]
        else:
            continue
        if own:
            yield row, own


@pytest.mark.parametrize("name", MEANS_PRINTED)
def test_typed_numbers_give_the_averages_that_their_source_prints(repository, name):
    rows, held = table(repository, name), 0
    for kind, mean in MEANS.items():
        for row, own in means_of(rows, kind):
            for area in measures(row):
                if (row["model"], row["machine_type"], area) in UNLIKE:
                    assert "as printed" in row["note"]
                    continue
                found = mean([float(r[area]) for r in own])
                assert found == pytest.approx(float(row[area]), abs=TRUNCATED), (row, area)
                held += 1
    assert held == MEANS_PRINTED[name]


def test_every_empty_cell_says_why(repository):
    paths = sorted((repository / "sweeps" / "published").glob("*.csv"))
    assert len(paths) >= 13
    for path in paths:
        for row in table(repository, path.stem):
            empty = {name for name, value in row.items() if not value} - BESIDE
            assert not empty or row["note"], (path.stem, row)


def test_the_sizes_of_table_2_give_the_shares_it_prints_and_those_of_each_id(repository):
    by_id = Counter()
    for row in table(repository, "coelho_sizes"):
        if row["subset"] == "dev":
            by_id[row["machine_type"]] += int(row["train"])
    for row in table(repository, "table2"):
        train, test = int(row["train"]), int(row["test"])
        assert 100 * train / (train + test) == pytest.approx(
            float(row["train_percent"]), abs=TRUNCATED
        )
        assert 100 * test / (train + test) == pytest.approx(
            float(row["test_percent"]), abs=TRUNCATED
        )
        assert by_id[row["machine_type"]] == train


def test_published_means_and_spreads_of_the_baseline_are_those_of_metrics(repository):
    clips = {row["machine_type"]: int(row["test"]) for row in table(repository, "table2")}
    judged = {
        row["machine_type"]: {
            "auc": float(row["auc"]),
            "pauc": float(row["pauc"]),
            "clips": clips[row["machine_type"]],
        }
        for row in table(repository, "dcase_ae")
        if row["source"].startswith("Coelho") and not row["section"]
    }
    found = metrics.overall(judged)
    assert found["auc_weighted"] == pytest.approx(73.76, abs=0.005)
    assert found["pauc_weighted"] == pytest.approx(60.60, abs=0.005)
    assert (found["auc_mean"], found["pauc_mean"]) == pytest.approx((73.51, 59.66), abs=0.005)
    assert found["auc_weighted_std"] == pytest.approx(6.0, abs=0.05)
    assert found["auc_mean_std"] == pytest.approx(6.7, abs=0.05)


# Sweep files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sweep_file.names(grid.SWEEPS))
def test_every_sweep_composes_and_says_what_it_is(repository, name):
    said = sweep_file.read(grid.SWEEPS, name)
    assert len(said.about) > 40
    for other in said.published:
        assert (repository / "sweeps" / "published" / f"{other}.csv").is_file()
    assert sweep(name).points >= 1


@pytest.mark.parametrize("name", ["table4", "table5"])
def test_best_settings_are_one_point_a_type_and_the_values_of_the_paper(repository, name):
    parts = {part.config.machine: part for part in sweep(name).parts}
    rows = table(repository, name)
    assert sorted(parts) == sorted(row["machine_type"] for row in rows)
    for row in rows:
        part = parts[row["machine_type"]]
        lost = [key for key in LIKE_FOR_LIKE if not row[key]]
        read = {key: float(row[key] or ("3" if key == "hidden_layers" else "1")) for key in lost}
        wanted = {key: float(row[key]) for key in LIKE_FOR_LIKE if row[key]} | read
        assert {key: part.config[key] for key in LIKE_FOR_LIKE} == wanted
        assert (part.points, part.config.detector) == (1, row["model"])
        assert part.config.selection.settings == "published"
        assert all(key in row["note"] for key in lost)


@pytest.mark.parametrize("name", ["table4", "table5"])
def test_best_settings_stand_in_the_papers_grid(repository, name):
    values = {row["setting"]: row["values"].split() for row in table(repository, "table3")}
    for part in sweep(name).parts:
        for key, listed in values.items():
            assert str(part.config[key]).removesuffix(".0") in listed


def test_the_papers_grid_has_the_values_of_its_table(repository):
    (block,) = sweep_file.read(grid.SWEEPS, "table3").blocks
    typed = dict(line.split("=") for line in block.lines)
    for row in table(repository, "table3"):
        assert typed[row["setting"]].split(",") == row["values"].split()


def test_the_quick_grid_has_what_the_papers_constants_leave():
    parts = sweep("table3_quick").parts
    points = Counter()
    for part in parts:
        points[part.config.detector] += part.points
    assert points == {"ganomaly": 384, "skip_ganomaly": 384}
    for part in parts:
        fixed = [part.config[key] for key in ("lr", "latent", "dropout", "init", "beta1")]
        assert fixed == [0.0002, 8, 0, "glorot_uniform", 0.5]


def test_tables_6_and_7_are_the_best_settings_and_the_other_systems():
    every = Counter(part.config.detector for part in sweep("table7").parts)
    assert every == {
        "ganomaly": 6, "skip_ganomaly": 6, "dcase_ae": 1, "egbad": 1, "gmade_ensemble": 1,
    }  # fmt: skip
    assert Counter(part.config.detector for part in sweep("table6").parts) == every
    assert {path.stem for path in (compose.CONF / "model").glob("*.yaml")} >= set(every)


def test_one_machine_type_of_a_table_is_asked_for_by_name():
    (part,) = sweep("table4", "machine=ToyCar").parts
    assert (part.machine, part.config.epochs, part.config.batch) == (("ToyCar",), 90, 512)
