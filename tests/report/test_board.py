import csv
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from asdgan._system.files import write_json
from asdgan.report import board
from asdgan.results import ledger
from asdgan.results.failures import failures_in, write_failure

SCORES = {
    "clip": np.array(["a.wav"]),
    "section": np.array(["00"]),
    "label": np.array(["normal"]),
    "score/latent": np.zeros((1, 1)),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here


@pytest.fixture
def show(tmp_path, capsys):
    """Runs the board over the results of this test; gives what it printed."""

    def run(*arguments):
        assert board.main([str(tmp_path), *arguments]) == 0
        return capsys.readouterr().out

    return run


def add(root, auc=0.75, *, settings=(), clips=100, **other):
    """Stores one point; what is not said is the same everywhere."""
    settings = {"batch": 512, "lr": 0.001, **dict(settings)}
    row = {
        "model": "ganomaly",
        "recipe": 1,
        "release": "dcase2020",
        "data": f"{other.get('machine_type', 'fan')}-data",
        "machine_type": "fan",
        "settings": settings,
        "seed": 0,
        "epochs": 10,
        "selection": {"settings": "named", "checkpoint": "last"},
        "primary": "latent",
        "auc": auc,
        "pauc": None if auc is None else auc / 2,
        "sections": {"00": {"auc": auc, "pauc": auc, "normal": 1, "anomaly": 1}},
        "clips": clips,
        "commit": "abcdef0123456789",
        **other,
    }
    named = {key: row[key] for key in ("model", "recipe", "machine_type", "seed", "epochs")}
    row["signature"] = ledger.signature({**settings, **named}, 1, row["data"])
    folder = root / "runs" / str(len(list(root.rglob("*.json"))))
    return ledger.write(
        folder, epochs=row["epochs"], rows=[row], scores=SCORES, weights=None, config=""
    )


def lines(text):
    return [line for line in text.splitlines() if line.strip()[:1].isdigit()]


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_lines_stand_best_first_with_what_varies(tmp_path, show):
    add(tmp_path, 0.6, settings={"batch": 16})
    add(tmp_path, 0.9, settings={"batch": 128})
    text = show()
    assert "every line: epochs 10, lr 0.001, primary latent, recipe 1" in text
    assert [line.split()[:3] for line in lines(text)] == [
        ["1", "ganomaly", "128"],
        ["2", "ganomaly", "16"],
    ]


def test_one_setting_over_machine_types_is_one_line_weighted_by_clips(tmp_path, show):
    for machine_type, auc, clips in (("fan", 0.9, 300), ("pump", 0.5, 100), ("valve", 0.7, 100)):
        add(tmp_path, auc, clips=clips, machine_type=machine_type)
    show("--csv", str(tmp_path / "a.csv"))
    (line,) = read_csv(tmp_path / "a.csv")
    assert float(line["auc"]) == pytest.approx((0.9 * 3 + 0.5 + 0.7) / 5, abs=1e-15)
    assert float(line["auc_mean"]) == pytest.approx(0.7, abs=1e-15)
    assert (line["machine_types"], line["clips"]) == ("fan pump valve", "500")
    assert "3 types" in show()


def test_seeds_are_one_line_with_mean_and_spread(tmp_path, show):
    for seed, auc in enumerate((0.7, 0.8, 0.9)):
        add(tmp_path, auc, seed=seed, settings={"seed": seed})
    (line,) = lines(show())
    assert "0.8000 ± 0.1000" in line
    assert "0.4000 ± 0.0500" in line


def test_a_seed_that_lacks_a_machine_type_adds_no_spread_and_is_said(tmp_path, show):
    add(tmp_path, 0.6, machine_type="fan")
    add(tmp_path, 0.8, machine_type="pump")
    add(tmp_path, 0.6, machine_type="fan", seed=1)
    (line,) = lines(show())
    assert "0.7000 " in line
    assert "±" not in line
    assert "1 of 2 seeds lack a machine type" in line


def test_another_component_judges_where_it_is_asked_for(tmp_path, show):
    other = {"recon_l1": {"auc": 0.9, "pauc": 0.8}, "latent": {"auc": 0.6, "pauc": 0.3}}
    add(tmp_path, 0.6, components=other, settings={"batch": 16})
    add(tmp_path, 0.7, components={"latent": {"auc": 0.7, "pauc": 0.35}})
    text = show("--score", "recon_l1")
    first, second = lines(text)
    assert first.split()[2] == "16"
    assert "0.9000" in first
    assert "0.8000" in first
    assert "undefined" in second
    assert "ganomaly has no score recon_l1" in show("--score", "recon_l1", "--by", "point")
    assert "primary recon_l1" in text
    assert show("--score", "latent").splitlines()[1:] == show().splitlines()[1:]


def test_flags_that_differ_in_a_number_only_are_said_once_with_the_lowest(tmp_path):
    for epoch, name in ((10, "fan"), (9, "pump"), (10, "valve"), (12, "slider")):
        flags = [f"discriminator saturated at epoch {epoch}", "constant"]
        add(tmp_path, machine_type=name, flags=flags)
    board.main([str(tmp_path), "--csv", str(tmp_path / "a.csv")])
    (line,) = csv.DictReader((tmp_path / "a.csv").read_text().splitlines())
    said = "constant; discriminator saturated at epoch 9, and 2 like it"
    assert line["notes"] == said


def test_all_clips_of_a_machine_type_at_once_judge_where_it_is_asked_for(tmp_path, show):
    add(tmp_path, 0.75, pooled={"auc": 0.6125, "pauc": 0.55})
    assert "0.7500" in show()
    assert "0.6125" in show("--pooled")
    assert "0.7500" not in show("--pooled", "--by", "point")
    assert board.main([str(tmp_path), "--pooled", "--score", "latent"]) == 2


def test_a_component_that_no_result_has_is_refused_with_those_there_are(tmp_path, capsys):
    add(tmp_path, components={"latent": {"auc": 0.6, "pauc": 0.3}, "recon_l2": {}})
    assert board.main([str(tmp_path), "--score", "combined"]) == 2
    said = capsys.readouterr().err
    assert "--score combined: no result has it; there are latent, recon_l2" in said


def test_what_ails_a_run_stands_in_its_notes(tmp_path, show):
    add(tmp_path, flags=["discriminator saturated at epoch 4"])
    (line,) = lines(show("--csv", str(tmp_path / "a.csv")))
    assert "saturated" in line
    assert read_csv(tmp_path / "a.csv")[0]["notes"] == "discriminator saturated at epoch 4"


def test_a_missing_machine_type_is_said(tmp_path, show):
    add(tmp_path, 0.6, machine_type="fan")
    add(tmp_path, 0.8, machine_type="pump")
    add(tmp_path, 0.9, machine_type="fan", settings={"batch": 16})
    first, second = lines(show())
    assert "1 of 2 types" in first
    assert "missing: pump" in first
    assert "missing" not in second


def test_a_mean_below_chance_is_shown_and_marked(tmp_path, show):
    add(tmp_path, 0.4)
    (line,) = lines(show())
    assert "0.4000" in line
    assert "below 0.5" in line


def test_an_undefined_machine_type_is_shown_and_in_no_mean(tmp_path, show):
    add(tmp_path, 0.8, machine_type="fan")
    add(tmp_path, None, machine_type="pump", clips=0)
    (line,) = lines(show())
    assert "0.8000" in line
    assert "undefined: pump" in line


def test_a_setting_without_any_area_stands_last(tmp_path, show):
    add(tmp_path, None, settings={"batch": 1})
    add(tmp_path, 0.1, settings={"batch": 2})
    assert [line.split()[2] for line in lines(show())] == ["2", "1"]
    assert "undefined" in show("--sort", "pauc")


def test_releases_are_ranked_apart(tmp_path, show):
    add(tmp_path, 0.8)
    add(tmp_path, 0.6, release="folder", data="other")
    assert [line.split()[0] for line in lines(show())] == ["1", "1"]
    assert show().index("dcase2020: AUC") < show().index("folder: AUC")


def test_a_small_sample_is_not_averaged_with_the_full_data(tmp_path, show):
    add(tmp_path, 0.9, data="small", train_clips=18, clips=42)
    add(tmp_path, 0.7, data="full", train_clips=3675, clips=1875)
    assert ["0.9000" in line for line in lines(show())] == [True, False]


@pytest.mark.parametrize("other", [{"recipe": 2}, {"epochs": 20}, {"primary": "recon_l1"}])
def test_what_changes_a_result_parts_the_lines(tmp_path, show, other):
    add(tmp_path, 0.8, data="a")
    add(tmp_path, 0.7, data="b", machine_type="pump", **other)
    assert len(lines(show())) == 2
    assert next(iter(other)) in show()


def test_how_settings_were_chosen_parts_the_lines(tmp_path, show):
    add(tmp_path, 0.8)
    chosen = {"settings": "oracle", "checkpoint": "val_loss"}
    add(tmp_path, 0.7, machine_type="pump", selection=chosen)
    first, second = lines(show())
    assert "named/last" in first
    assert "oracle/val_loss" in second


def test_a_setting_of_one_model_only_is_no_column(tmp_path, show):
    add(tmp_path, 0.8, settings={"model.lambda_adv": 1})
    add(tmp_path, 0.7, model="dcase_ae", settings={"batch": 16})
    text = show()
    assert "ganomaly: model.lambda_adv 1" in text
    assert "batch" in next(line for line in text.splitlines() if line.startswith("rank"))


def test_numbers_that_are_equal_are_one_setting(tmp_path, show):
    add(tmp_path, 0.8, settings={"lr": 1})
    add(tmp_path, 0.7, settings={"lr": 1.0}, machine_type="pump")
    add(tmp_path, 0.6, settings={"lr": "1"})
    assert len(lines(show())) == 2


def test_by_point_gives_a_line_a_point_with_its_sections(tmp_path, show):
    sections = {
        "00": {"auc": 0.9, "pauc": 0.9, "normal": 1, "anomaly": 1},
        "02": {"auc": None, "pauc": None, "normal": 1, "anomaly": 0, "reason": "id_02: one class"},
    }
    add(tmp_path, 0.9, sections=sections, seed=3)
    add(tmp_path, 0.8)
    add(tmp_path, 0.7, machine_type="pump")
    first, second, third = lines(show("--by", "point"))
    assert "id_00 0.9000  id_02 undefined" in first
    assert "id_02: one class" in first
    assert [line.split()[0] for line in (first, second, third)] == ["1", "2", "1"]


def test_by_machine_type_gives_mean_and_spread_over_seeds(tmp_path, show):
    for seed, auc in enumerate((0.7, 0.8, 0.9)):
        add(tmp_path, auc, seed=seed)
        add(tmp_path, auc - 0.2, seed=seed, machine_type="pump")
    show("--by", "machine_type", "--csv", str(tmp_path / "a.csv"))
    fan, pump = read_csv(tmp_path / "a.csv")
    assert (fan["machine_type"], pump["machine_type"], fan["seeds"]) == ("fan", "pump", "3")
    assert [float(pump[key]) for key in ("auc", "auc_sd", "pauc_sd")] == pytest.approx(
        [0.6, 0.1, 0.05], abs=1e-15
    )
    assert fan["per_id"] == "id_00 0.8000"


def test_a_seed_without_an_area_is_said_and_in_no_mean(tmp_path, show):
    for seed, auc in enumerate((0.7, 0.9, None)):
        add(tmp_path, auc, seed=seed)
    (line,) = lines(show("--by", "machine_type"))
    assert "0.8000 ± 0.1414" in line
    assert "1 of 3 seeds undefined" in line


def grid(root):
    """Fan is best at batch 16, pump at 128; of two seeds each, and pump has more clips."""
    for seed, low in enumerate((0.0, 0.02)):
        for batch, fan, pump in ((16, 0.9, 0.6), (128, 0.8, 0.7), (512, 0.4, 0.3)):
            other = {"seed": seed, "settings": {"batch": batch}}
            add(root, fan - low, clips=100, **other)
            add(root, pump - low, clips=300, machine_type="pump", **other)


def best_of(root, show, *arguments):
    text = show("--by", "best", "--csv", str(root / "a.csv"), *arguments)
    return text, read_csv(root / "a.csv")


def test_by_best_gives_the_settings_that_won_on_each_machine_type(tmp_path, show):
    grid(tmp_path)
    text, (fan, pump, *_) = best_of(tmp_path, show)
    assert [(one["machine_type"], one["batch"]) for one in (fan, pump)] == [
        ("fan", "16"),
        ("pump", "128"),
    ]
    assert float(fan["auc"]) == pytest.approx(0.89, abs=1e-15)
    assert (fan["chosen_among"], fan["seeds"], fan["selection"]) == ("3", "2", "oracle/last")
    assert "dcase2020: best settings per machine type by AUC; oracle: test labels chose" in text


def test_by_best_ends_with_the_means_of_the_winners(tmp_path, show):
    grid(tmp_path)
    _, (*_, weighted, plain) = best_of(tmp_path, show)
    assert (weighted["machine_type"], plain["machine_type"]) == ("weighted mean", "plain mean")
    assert float(weighted["auc"]) == pytest.approx((0.89 + 3 * 0.69) / 4, abs=1e-15)
    assert float(plain["auc"]) == pytest.approx((0.89 + 0.69) / 2, abs=1e-15)
    for mean in (weighted, plain):
        assert (mean["clips"], mean["selection"], mean["batch"]) == ("400", "oracle/last", "")


def test_by_best_of_one_setting_is_no_choice(tmp_path, show):
    add(tmp_path, 0.8)
    add(tmp_path, 0.7, seed=1)
    text, table = best_of(tmp_path, show)
    assert [line["selection"] for line in table] == ["named/last"] * 3
    assert table[0]["chosen_among"] == "1"
    assert "oracle/" not in text


def test_by_best_chooses_by_the_mean_over_seeds_of_the_area_asked_for(tmp_path, show):
    for seed, pauc in enumerate((0.9, 0.1)):
        add(tmp_path, 0.8, pauc=pauc, seed=seed, settings={"batch": 1})
        add(tmp_path, 0.6, pauc=0.55, seed=seed, settings={"batch": 2})
    assert best_of(tmp_path, show)[1][0]["batch"] == "1"
    assert best_of(tmp_path, show, "--sort", "pauc")[1][0]["batch"] == "2"


def test_by_best_ranks_detectors_and_says_what_they_lack(tmp_path, show):
    add(tmp_path, 0.6, model="egbad")
    add(tmp_path, 0.7, model="egbad", machine_type="pump")
    add(tmp_path, 0.9)
    _, table = best_of(tmp_path, show)
    assert [(line["rank"], line["model"]) for line in table] == [
        *[("1", "ganomaly")] * 3,
        *[("2", "egbad")] * 4,
    ]
    assert [line["notes"] for line in table] == ["", *["missing: pump"] * 2, *[""] * 4]


def test_by_best_never_prefers_what_is_undefined(tmp_path, show):
    add(tmp_path, None, settings={"batch": 1})
    add(tmp_path, 0.1, settings={"batch": 2})
    add(tmp_path, None, machine_type="pump", settings={"batch": 1})
    add(tmp_path, None, machine_type="pump", settings={"batch": 2})
    _, (fan, pump, weighted, _) = best_of(tmp_path, show)
    assert (fan["batch"], fan["selection"]) == ("2", "oracle/last")
    assert (pump["auc"], pump["selection"]) == ("", "named/last")
    assert (weighted["auc"], weighted["notes"]) == ("0.1", "below 0.5; undefined: pump")


def test_by_best_keeps_a_small_sample_apart_from_the_full_data(tmp_path, show):
    add(tmp_path, 0.9, data="small", train_clips=18)
    add(tmp_path, 0.7, data="full", train_clips=3675)
    _, table = best_of(tmp_path, show)
    assert [line["auc"] for line in table] == [*["0.9"] * 3, *["0.7"] * 3]
    assert {line["selection"] for line in table} == {"named/last"}


def fail(root, *names, kind="nan", reason="losses were not finite", **other):
    said = {"model": "ganomaly", "machine_type": "fan", "settings": {"lr": 0.1}, **other}
    return write_failure(
        root / "runs" / names[0], signatures=names, kind=kind, reason=reason, **said
    )


def test_failures_are_counted_by_reason_the_most_frequent_first(tmp_path, show):
    add(tmp_path)
    fail(tmp_path, "1" * 16, kind="killed", reason="signal 9", machine_type="pump")
    fail(tmp_path, "2" * 16, "3" * 16)
    fail(tmp_path, "4" * 16)
    failed = [line for line in show().splitlines() if line.startswith("failed")]
    assert failed == [
        "failed: 3 points of ganomaly on fan: nan: losses were not finite",
        "failed: 1 point of ganomaly on pump: killed: signal 9",
    ]


def test_a_failed_point_that_has_a_result_by_now_is_no_failure(tmp_path, show):
    path = add(tmp_path)
    name = ledger.read(path).rows[0]["signature"]
    fail(tmp_path, name)
    assert "failed" not in show()
    fail(tmp_path, "1" * 16, name)
    assert "failed: 1 point of" in show()


def test_many_reasons_are_cut_short_and_counted(tmp_path, show):
    for number in range(12):
        fail(tmp_path, f"{number:016x}", reason=f"reason {number}")
    text = show("--markdown", str(tmp_path / "a.md"))
    assert "failed: 4 more points, for 4 other reasons" in text
    assert (tmp_path / "a.md").read_text().count("- failed: ") == 9


def test_conditions_hold_for_failures_too_where_their_settings_are_known(tmp_path, show):
    add(tmp_path, settings={"lr": 0.2})
    fail(tmp_path, "1" * 16)
    fail(tmp_path, "2" * 16, "3" * 16)
    assert "failed: 3 points" in show("--where", "model=ganomaly")
    assert "failed: 2 points" in show("--where", "lr=0.2")


def test_a_damaged_failure_is_reported(tmp_path, show):
    path = fail(tmp_path, "1" * 16)
    path.write_bytes(path.read_bytes().replace(b"nan", b"lie"))
    assert f"not counted: {path}: checksum" in show()


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep of four points: one done, one failed, one failed and mended, one to come."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "outputs"
    names = [
        ledger.read(add(home, auc, settings={"batch": batch})).rows[0]["signature"]
        for batch, auc in ((1, 0.9), (2, 0.8), (3, 0.7))
    ]
    fail(home, "1" * 16)
    fail(home, "2" * 16, reason="of another sweep")
    fail(home, names[1])
    points = [names[0], names[1], "1" * 16, "0" * 16]  # not all of them a job's: some were done
    write_json(home / "sweeps" / "table4" / "plan.json", {"points": points})
    return home / "sweeps" / "table4"


@pytest.mark.parametrize("place", ["table4", "outputs/sweeps/table4", "{}", "."])
def test_a_sweep_is_found_by_name_or_folder_and_only_its_points_count(
    sweep, place, capsys, monkeypatch
):
    if place == ".":
        monkeypatch.chdir(sweep)
    assert board.main([place.format(sweep)]) == 0
    text = capsys.readouterr().out
    assert "2 of 4 points done, 1 failed" in text
    assert [line.split()[2] for line in lines(text)][:2] == ["1", "2"]
    assert "failed: 1 point of ganomaly on fan: nan: losses were not finite" in text
    assert "another sweep" not in text


def test_a_sweep_without_any_result_says_so(sweep, capsys):
    shutil.rmtree(sweep.parent.parent / "runs")
    assert board.main(["table4"]) == 0
    assert "0 of 4 points done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tabel4", "no sweep and no folder tabel4; did you mean 'table4'?"),
        ("nothing", "(sweeps below outputs/sweeps: table4); name the one"),
    ],
)
def test_an_unknown_sweep_is_one_sentence_with_those_there_are(sweep, capsys, name, message):
    assert board.main([name]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_plan_that_is_none_is_one_sentence(sweep, capsys):
    for body in ({}, {"points": 3}, {"points": ["fan"]}):
        write_json(sweep / "plan.json", body)
        assert board.main(["table4"]) == 2
        assert "plan.json is not a plan" in capsys.readouterr().err
    (sweep / "plan.json").write_text("{}")
    assert board.main(["table4"]) == 2
    assert "plan.json: no checksum inside" in capsys.readouterr().err


def test_show_prints_results_that_were_read_already(tmp_path, capsys):
    add(tmp_path, 0.8)
    results, _ = ledger.read_all(tmp_path)
    fail(tmp_path, "1" * 16)
    failures, _ = failures_in(tmp_path)
    wanted = {"1" * 16, *(row["signature"] for one in results for row in one.rows)}
    assert board.show(results, failures, wanted=wanted) == 1
    text = capsys.readouterr().out
    assert "0.8000" in text
    assert "1 of 2 points done, 1 failed" in text


def test_lanes_of_a_stack_and_single_runs_are_one_setting(tmp_path, show):
    rows = []
    for seed in (0, 1):
        path = add(tmp_path / "single", 0.7, seed=seed, settings={"lr": 0.1})
        rows += [{**ledger.read(path).rows[0], "seed": seed + 2, "signature": f"{seed:016x}"}]
    scores = {**SCORES, "score/latent": np.zeros((2, 1))}
    folder = tmp_path / "runs" / "stack"
    ledger.write(folder, epochs=10, rows=rows, scores=scores, weights=None, config="")
    show("--csv", str(tmp_path / "a.csv"))
    assert [line["seeds"] for line in read_csv(tmp_path / "a.csv")] == ["4"]


def test_sort_by_pauc(tmp_path, show):
    add(tmp_path, 0.9, settings={"batch": 1}, pauc=0.5)
    add(tmp_path, 0.8, settings={"batch": 2}, pauc=0.6)
    assert [line.split()[2] for line in lines(show("--sort", "pauc"))] == ["2", "1"]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("batch=16", 1),
        ("batch=16.0", 1),
        ("model=ganomaly", 2),
        ("drop=true", 1),
        ("drop=null", 1),
        ("seed=0", 2),
        ("selection.settings=named", 2),
        ("batch=many", 0),
    ],
)
def test_where_keeps_the_rows_that_say_so(tmp_path, show, condition, kept):
    add(tmp_path, settings={"batch": 16, "drop": True})
    add(tmp_path, settings={"drop": None})
    text = show("--where", condition)
    assert len(lines(text)) == kept
    assert kept or "none of 2 points has batch=many" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "bacth=16"], "no result has a setting 'bacth'; did you mean 'batch'?"),
        (["--where", "batch"], "'batch' is not KEY=VALUE"),
        (["--by", "machine"], "invalid choice: 'machine'"),
        (["--csv", "{}/runs"], "irectory"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_exit_2(tmp_path, capsys, arguments, message):
    add(tmp_path)
    assert board.main([str(tmp_path), *(one.format(tmp_path) for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    assert board.main([str(tmp_path / "gone")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_an_empty_folder_says_how_to_make_a_first_run(tmp_path, show, monkeypatch, capsys):
    assert "make a first one: python -m asdgan.run model=ganomaly" in show()
    monkeypatch.chdir(tmp_path)
    assert board.main([]) == 0
    assert "no results under outputs" in capsys.readouterr().out


def test_damaged_results_are_reported_and_not_counted(tmp_path, show):
    path = add(tmp_path, 0.8)
    path.write_bytes(path.read_bytes().replace(b"0.8", b"0.9"))
    add(tmp_path, 0.6, settings={"batch": 16})
    text = show()
    assert len(lines(text)) == 1
    assert f"not counted: {path}: checksum" in text


def test_a_point_in_two_results_counts_once(tmp_path, show):
    for _ in range(2):
        add(tmp_path, 0.8)
    text = show()
    assert "±" not in text
    assert "1 rows repeat a point of another result and are not counted" in text


def test_top_leaves_out_lines_and_says_how_many(tmp_path, show):
    for batch in range(5):
        add(tmp_path, 0.3 + batch / 10, settings={"batch": batch})
    text = show("--top", "2")
    assert len([line for line in lines(text) if "ganomaly" in line]) == 2
    assert "3 more lines, 2 of them below 0.5: --top 0 prints them all" in text
    assert len(lines(show("--top", "0"))) == 5


def test_top_counts_within_each_machine_type(tmp_path, show):
    for machine_type in ("fan", "pump"):
        for batch in (1, 2):
            add(tmp_path, machine_type=machine_type, settings={"batch": batch})
    shown = lines(show("--by", "machine_type", "--top", "1"))
    assert [line.split()[1] for line in shown[:2]] == ["fan", "pump"]


def test_names_are_never_markup_or_terminal_commands(tmp_path, show):
    add(tmp_path, model="[red]x[/red]\x1b[31m\n\u202e", settings={"[b]": "[/]"})
    text = show()
    assert r"[red]x[/red]\x1b[31m\n\u202e" in text
    assert "[b] [/]" in text
    assert "\x1b" not in text


def test_csv_cells_cannot_be_formulas_and_numbers_stay_numbers(tmp_path, show):
    add(tmp_path, 0.4, model="=cmd()", settings={"a": "-1+1", "b": -1.5})
    add(tmp_path, 0.8, settings={"a": "@x", "b": 2})
    show("--csv", str(tmp_path / "a.csv"))
    _, low = read_csv(tmp_path / "a.csv")
    assert (low["model"], low["a"], low["b"], low["auc"]) == ("'=cmd()", "'-1+1", "-1.5", "0.4")


def test_markdown_cells_are_neither_markup_nor_html(tmp_path, show):
    add(tmp_path, model="a|b\n<img src=x>`*[l](u)")
    show("--markdown", str(tmp_path / "a.md"))
    text = (tmp_path / "a.md").read_text()
    assert r"a\|b\\n&lt;img src=x&gt;\`\*\[l\](u)" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert len(table) == 3


def test_the_module_runs_without_torch_and_answers_help(tmp_path):
    add(tmp_path)
    code = (
        "import sys; from asdgan.report.board import main; main(sys.argv[1:]); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "hydra", "sklearn"} & set(done.stdout.split())
    with pytest.raises(SystemExit, match="0"):
        board.main(["--help"])
