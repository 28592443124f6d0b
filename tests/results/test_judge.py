"""The official numbers: the organisers' own cases, made-up submissions, and what is refused."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from asdgan.results.challenge import judge, official
from asdgan.results.challenge.score_files import DECISIONS, SCORES, TRUTH, Place, file_name

WRONG_IN_2022 = {"source harmonic mean", "target harmonic mean"}  # per machine type: cut elsewhere


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here


# The organisers' cases --------------------------------------------------------------------------

# Written by the baseline itself: its means are laid out by other columns than the evaluator's.
BASELINES_OWN = "returncode13_ae_result_as_published"
CASES = [
    (2020, "systems/Haunschmid_CPJKU_task2_1", ".", "result_Haunschmid_CPJKU_task2_1"),
    (2020, "systems/Haunschmid_CPJKU_task2_2", "ground_truth", "result_Haunschmid_CPJKU_task2_2"),
    (2021, "systems_dev/jeff_ae", ".", "jeff_ae_result_official_evaluator"),
    (
        2021,
        "systems_dev/jeff_ae",
        "ground_truth_dev_sections_00_02",
        "jeff_ae_result_as_published",
    ),
    (2021, "systems_dev/yokaji_ae", ".", "yokaji_ae_result_official_evaluator"),
    (2021, "systems_dev/yokaji_ae", None, "yokaji_ae_result_as_published"),
    (2022, "systems/Xiao_HEU-HIT_task2_1", ".", "Xiao_HEU-HIT_task2_1_result"),
    (2022, "systems/Xiao_HEU-HIT_task2_2", "ground_truth_data", "Xiao_HEU-HIT_task2_2_result"),
    (2022, "systems_dev/returncode13_ae", ".", "returncode13_ae_result_official_evaluator"),
    (2022, "systems_dev/returncode13_ae", None, BASELINES_OWN),
    (2023, "systems_synthetic/pseudo_a", ".", "pseudo_a_result"),
    (2023, "systems_synthetic/pseudo_a", "eval_data_list_2023.csv", "pseudo_a_result"),
    (2023, "systems_synthetic/pseudo_a", "ground_truth_data", "pseudo_a_result"),
    (2024, "systems_synthetic/pseudo_a", ".", "pseudo_a_result"),
    (2024, "systems_synthetic/pseudo_a", "eval_data_list_2024.csv", "pseudo_a_result"),
]


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def numbers(report, path=()):
    """Every number of a report by its place."""
    if isinstance(report, dict | list):
        pairs = report.items() if isinstance(report, dict) else enumerate(report)
        return {k: v for key, item in pairs for k, v in numbers(item, (*path, key)).items()}
    return {path: report}


def comparable(shared, year, name):
    """What the evaluator says and we say too."""
    path = shared / "evaluator_cases" / str(year) / "expected" / f"{name}.json"
    left_out = {"official score ci95"}
    return {
        place: value
        for place, value in numbers(json.loads(path.read_text())).items()
        if not left_out & set(place)
        and not (year == 2022 and place[0] == "machines" and set(place) & WRONG_IN_2022)
        and not (name == BASELINES_OWN and "sections" not in place)
    }


@pytest.mark.parametrize(("year", "system", "truth", "expected"), CASES)
def test_the_numbers_are_those_of_the_organisers_evaluator(shared, year, system, truth, expected):
    case = shared / "evaluator_cases" / str(year)
    wanted = comparable(shared, year, expected)
    found = numbers(judge.judged(year, case / system, truth and case / truth))
    worst = max(
        abs(value - found[place]) for place, value in wanted.items() if not isinstance(value, str)
    )
    assert len(wanted) > 30
    assert worst < 1e-9
    assert all(found[place] == value for place, value in wanted.items() if isinstance(value, str))


def test_the_result_file_has_the_organisers_layout(shared, tmp_path, capsys):
    case = shared / "evaluator_cases"
    for year, system, name in (
        (2020, "systems/Haunschmid_CPJKU_task2_1", "result_Haunschmid_CPJKU_task2_1"),
        (2021, "systems_dev/jeff_ae", "jeff_ae_result_official_evaluator"),
        (2024, "systems_synthetic/pseudo_a", "pseudo_a_result"),
    ):
        ask = [str(year), str(case / str(year) / system), "--truth", str(case / str(year))]
        assert judge.main([*ask, "--csv", str(tmp_path / "a.csv")]) == 0
        ours = read(tmp_path / "a.csv")
        theirs = read(case / str(year) / "expected" / f"{name}.csv")
        theirs = [row for row in theirs if row[:1] != ["official score ci95"]]
        for our, their in zip(ours, theirs, strict=False):
            assert len(our) == len(their)
            for one, other in zip(our, their, strict=True):
                assert one == other or float(one) == pytest.approx(float(other), abs=1e-9)
        assert len(ours) >= len(theirs) - 1
    assert "official score 2024: 0.7134042363" in capsys.readouterr().out


def test_the_list_of_2022_that_contradicts_the_labels_is_refused(shared, capsys):
    case = shared / "evaluator_cases" / "2022"
    ask = ["2022", str(case / "systems" / "Xiao_HEU-HIT_task2_1"), "--truth"]
    assert judge.main([*ask, str(case / "eval_data_list_2022.csv")]) == 2
    assert "wrong for about half of the clips of ToyCar and ToyTrain" in capsys.readouterr().err


def test_the_truth_of_2025_is_read_from_its_list(shared, tmp_path):
    """Scores that name the anomalies are perfect, whichever of its two names a clip goes by."""
    source = shared / "evaluator_cases" / "2025" / "eval_data_list_2025.csv"
    files, machine = {}, ""
    for row in read(source):
        machine = machine if len(row) > 1 else row[0]
        if len(row) > 1:
            name = row[len(files) % 2]
            files.setdefault(machine, []).append((name, float("anomaly" in row[1])))
    for machine, rows in files.items():
        write(tmp_path / file_name(SCORES, 2025, Place(machine, "00")), rows)
    report = judge.judged(2025, tmp_path, source.parent)
    assert len(report["machines"]) == 8
    assert report["overall"]["official score"] == pytest.approx(1.0, abs=1e-12)


# Made-up submissions ----------------------------------------------------------------------------


def write(path, rows, ends="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name},{value}{ends}" for name, value in rows), newline="")


def clip_of(year, section, domain, number):
    if year == 2020:
        return f"id_{section}_{number:08d}.wav"
    return f"section_{section}_{domain}_test_{number:04d}.wav" if year == 2021 else (
        f"section_{section}_{number:04d}.wav"
    )  # fmt: skip


@pytest.fixture
def made(tmp_path):
    """Makes a submission and its truth; gives their folders and what was drawn."""

    def make(year, seed=0, clips=24, sections=("00", "03"), ends="\n"):
        generator = np.random.default_rng(seed)
        drawn = {}
        scores, truth = tmp_path / "scores", tmp_path / "truth"
        for machine in ("fan", "ToyCar"):
            for section in sections:
                for domain in ("source", "target") if year == 2021 else ("",):
                    labels = generator.permutation(np.arange(clips) % 2)
                    target = generator.permutation(np.arange(clips) % 3 == 0).astype(int)
                    values = generator.integers(0, 12, clips) / 7 + labels / 3
                    decided = (values > np.median(values)).astype(int)
                    names = [clip_of(year, section, domain, i) for i in range(clips)]
                    place = Place(machine, section, domain)
                    order = generator.permutation(clips)  # rows may stand in any order
                    for kind, said in ((SCORES, values), (DECISIONS, decided)):
                        rows = [(names[i], said[i]) for i in order]
                        write(scores / file_name(kind, year, place), rows, ends)
                    for kind, said in (("data", labels), ("domain", target)):
                        if year >= 2021 and (kind == "data" or year >= 2022):
                            path = truth / f"ground_truth_{kind}" / file_name(TRUTH, year, place)
                            write(path, zip(names, said, strict=True), ends)
                    drawn[place] = (names, values, labels, target, decided)
        if year == 2020:
            write_list(truth / "eval_data_list.csv", drawn, ends)
        return scores, truth, drawn

    return make


def write_list(path, drawn, ends):
    lines, words = [], ("normal", "anomaly")
    for machine in dict.fromkeys(place.machine_type for place in drawn):
        lines.append(machine)
        for place, (names, _, labels, *_) in drawn.items():
            if place.machine_type == machine:
                pairs = zip(names, labels, strict=True)
                lines += [f"{name},{words[label]}_{name},{label}" for name, label in pairs]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + ends for line in lines), newline="")


def hmean(values):
    floored = np.maximum(values, np.finfo(float).eps)
    return len(floored) / np.sum(1 / floored)


@pytest.mark.parametrize("year", [2022, 2023, 2024, 2025])
def test_from_2022_on_a_domain_meets_all_anomalies(made, year):
    scores, truth, drawn = made(year, seed=year)
    report = judge.judged(year, scores, truth)
    expected = []
    for place, (_, values, labels, target, decided) in drawn.items():
        line = report["machines"][place.machine_type]["sections"][int(place.section != "00")]
        for number, domain in enumerate(("source", "target")):
            some, inside = (target == number) | (labels == 1), target == number
            auc = roc_auc_score(labels[some], values[some])
            f1 = f1_score(labels[inside], decided[inside])
            assert line[f"AUC ({domain})"] == pytest.approx(auc, abs=1e-12)
            assert line[f"F1 score ({domain})"] == pytest.approx(f1, abs=1e-12)
            expected.append(auc)
        expected.append(roc_auc_score(labels, values, max_fpr=0.1))
        assert line["pAUC"] == pytest.approx(expected[-1], abs=1e-12)
        assert line["AUC (all)"] == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    assert report["overall"]["official score"] == pytest.approx(hmean(expected), abs=1e-12)


def test_a_machine_types_source_mean_holds_source_values_only(made):
    report = judge.judged(2022, *made(2022)[:2])
    for machine in report["machines"].values():
        for domain in ("source", "target"):
            own = [line[f"AUC ({domain})"] for line in machine["sections"]]
            found = machine["means"][f"{domain} harmonic mean"]["AUC"]
            assert found == pytest.approx(hmean(own), abs=1e-12)


def test_in_2021_a_domain_stays_by_itself(made):
    scores, truth, drawn = made(2021, seed=1)
    report = judge.judged(2021, scores, truth)
    expected = []
    for place, (_, values, labels, _, decided) in drawn.items():
        lines = report["machines"][place.machine_type]["sections"]
        (line,) = (
            one
            for one in lines
            if (one["section"], one["domain"]) == (place.section, place.domain)
        )
        areas = [roc_auc_score(labels, values), roc_auc_score(labels, values, max_fpr=0.1)]
        assert [line["AUC"], line["pAUC"]] == pytest.approx(areas, abs=1e-12)
        assert line["precision"] == pytest.approx(precision_score(labels, decided), abs=1e-12)
        assert line["recall"] == pytest.approx(recall_score(labels, decided), abs=1e-12)
        expected += areas
    assert report["overall"]["official score"] == pytest.approx(hmean(expected), abs=1e-12)


def test_in_2020_means_are_arithmetic_and_there_is_no_official_score(made, capsys):
    scores, truth, drawn = made(2020)
    assert judge.main(["2020", str(scores), "--truth", str(truth)]) == 0
    out = capsys.readouterr().out
    aucs = [roc_auc_score(labels, values) for _, values, labels, *_ in drawn.values()]
    assert f"{np.mean(aucs):.10f}" in out
    assert f"{aucs[0]:.10f}" in out
    assert "2020 has no official score" in out


def test_an_auc_of_zero_enters_the_harmonic_mean_at_machine_epsilon():
    assert official.harmonic_mean([0.0, 1.0]) == pytest.approx(2 * np.finfo(float).eps, rel=1e-12)
    assert official.harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3, abs=1e-15)


def test_line_ends_a_byte_order_mark_and_a_heading_change_nothing(made):
    scores, truth, _ = made(2023)
    plain = judge.judged(2023, scores, truth)
    for folder in (scores, truth / "ground_truth_data", truth / "ground_truth_domain"):
        for path in folder.iterdir():
            text = path.read_text().replace("\n", "\r\n")
            path.write_bytes(b"\xef\xbb\xbffile_name, score\r\n" + text.encode() + b"\r\n")
    assert judge.judged(2023, scores, truth) == plain


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name.removesuffix(".wav"),
        lambda name: f"dev_data/fan/test/{name}",
        lambda name: f"C:\\data\\{name}",
        lambda name: name.replace("_00_", "_00_test_").replace("_03_", "_03_test_"),
    ],
)
def test_clips_may_be_spelt_as_the_organisers_spell_them_elsewhere(made, spell):
    scores, truth, _ = made(2022)
    plain = judge.judged(2022, scores, truth)
    for path in scores.iterdir():
        rows = [line.split(",") for line in path.read_text().splitlines()]
        write(path, [(spell(name), value) for name, value in rows])
    assert judge.judged(2022, scores, truth) == plain


@pytest.mark.parametrize("year", [2023, 2024, 2025])
def test_clips_may_go_by_the_original_names_that_lie_beside_the_truth(made, year):
    scores, truth, _ = made(year)
    plain = judge.judged(year, scores, truth)
    for path in (truth / "ground_truth_data").iterdir():
        names = [row[0] for row in read(path)]
        # Numbered the other way round, as the organisers' original names are in another order.
        renamed = {
            name: f"{name[:11]}source_test_normal_{99 - at:04d}_car_A1"
            for at, name in enumerate(names)
        }
        write(truth / "ground_truth_attributes" / path.name, renamed.items())
        for kind in (SCORES, DECISIONS):
            said = scores / path.name.replace(TRUTH, kind)
            write(said, [(f"{renamed[name]}.wav", value) for name, value in read(said)])
    assert judge.judged(year, scores, truth) == plain


def test_file_names_of_the_later_baselines_are_known_and_plain_ones_go_first(made):
    scores, truth, _ = made(2023)
    plain = judge.judged(2023, scores, truth)
    for path in list(scores.iterdir()):
        kind, _, rest = path.name.partition("_fan_")
        if rest:
            tail = f"{rest.removesuffix('.csv')}_seed13711_id(0_)_Eval.csv"
            shutil.copy(path, scores / f"{kind}_DCASE2023T2fan_{tail}")
            write(path, [("nobody.wav", 0)]) if "section_00" in rest else path.unlink()
    with pytest.raises(ValueError, match=r"anomaly_score_fan_section_00_test\.csv"):
        judge.judged(2023, scores, truth)
    for path in scores.glob("*_fan_section_00_test.csv"):
        path.unlink()
    assert judge.judged(2023, scores, truth) == plain
    one = next(scores.glob("anomaly_score_DCASE2023T2fan_section_00*"))
    shutil.copy(one, scores / one.name.replace("13711", "2"))
    with pytest.raises(ValueError, match="are about the same section; keep one"):
        judge.judged(2023, scores, truth)


def test_without_decisions_there_are_areas_only(made):
    scores, truth, _ = made(2022)
    whole = judge.judged(2022, scores, truth)
    (scores / file_name(DECISIONS, 2022, Place("fan", "03"))).unlink()
    report = judge.judged(2022, scores, truth)
    assert report["notes"] == [
        "no precision, recall and F1: decision_result_fan_section_03_test.csv missing"
    ]
    for path in scores.glob(f"{DECISIONS}*"):
        path.unlink()
    assert judge.judged(2022, scores, truth) == {**report, "notes": []}
    assert report["overall"]["official score"] == whole["overall"]["official score"]
    assert "precision" not in report["overall"]["harmonic mean"]


def test_a_section_of_one_class_is_undefined_with_a_reason_and_so_is_the_score(made, capsys):
    scores, truth, _ = made(2022)
    path = truth / "ground_truth_data" / file_name(TRUTH, 2022, Place("fan", "03"))
    path.write_text(path.read_text().replace(",1", ",0"))
    written = truth.parent / "a.json"
    assert judge.main(["2022", str(scores), "--truth", str(truth), "--json", str(written)]) == 0
    out = capsys.readouterr().out
    assert "fan 03: 24 normal, 0 anomaly clips; an AUC needs both" in out
    assert "official score 2022: undefined" in out
    fan = json.loads(written.read_text())["machines"]["fan"]
    assert fan["sections"][1]["AUC (all)"] is None
    defined = [fan["sections"][0][f"AUC ({domain})"] for domain in ("source", "target")]
    assert fan["means"]["harmonic mean"]["AUC"] == pytest.approx(hmean(defined), abs=1e-12)


def test_what_has_no_truth_is_noted_and_what_lies_about_is_not(made):
    scores, truth, _ = made(2022)
    shutil.copy(
        scores / "anomaly_score_fan_section_00_test.csv",
        scores / "anomaly_score_fan_section_09_test.csv",
    )
    (scores / "fan.meta.yaml").write_text("label: fan")
    report = judge.judged(2022, scores, truth)
    assert report["notes"] == [
        "not judged, no ground truth for it: anomaly_score_fan_section_09_test.csv"
    ]


def test_missing_files_are_named_together_and_may_be_left_out(made):
    scores, truth, _ = made(2022)
    gone = [file_name(SCORES, 2022, Place("fan", section)) for section in ("00", "03")]
    for name in gone:
        (scores / name).unlink()
    with pytest.raises(ValueError, match=rf"lacks 2 of 4 score files .*: {', '.join(gone)}; add"):
        judge.judged(2022, scores, truth)
    report = judge.judged(2022, scores, truth, partial=True)
    assert list(report["machines"]) == ["ToyCar"]
    assert report["notes"] == [f"judged: 2 of 4 files; missing: {', '.join(gone)}"]


def test_the_truth_of_another_set_is_told_from_missing_files(made):
    scores, truth, _ = made(2022)
    for path in scores.iterdir():
        path.rename(path.with_name(path.name.replace("section_0", "section_1")))
    with pytest.raises(ValueError, match=r"no scores for any section .* of another set\?"):
        judge.judged(2022, scores, truth, partial=True)


def test_two_truths_in_one_folder_are_told_apart_by_the_sections_that_have_scores(made):
    scores, truth, _ = made(2022)
    plain = judge.judged(2022, scores, truth)
    for role in ("data", "domain"):
        for path in (truth / f"ground_truth_{role}").iterdir():
            other = path.name.replace("_00_", "_07_").replace("_03_", "_08_")
            write(truth / f"dev_ground_truth_{role}" / other, [("a.wav", 0)])
    assert judge.judged(2022, scores, truth) == plain


# What is refused --------------------------------------------------------------------------------


def edit(old, new):
    """Changes the scores of one section, the first place only."""

    def change(scores, truth):
        path = scores / file_name(SCORES, 2022, Place("fan", "00"))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def set_score(value):
    def change(scores, truth):
        path = scores / file_name(SCORES, 2022, Place("fan", "00"))
        first, *rest = path.read_text().splitlines(keepends=True)
        path.write_text("".join([f"{first.split(',')[0]},{value}\n", *rest]))

    return change


def lose_a_row(scores, truth):
    path = scores / file_name(SCORES, 2022, Place("fan", "00"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def double_a_row(scores, truth):
    path = scores / file_name(SCORES, 2022, Place("fan", "00"))
    path.write_text(path.read_text() + "".join(path.read_text().splitlines(keepends=True)[:1]))


def empty(scores, truth):
    (scores / file_name(SCORES, 2022, Place("fan", "00"))).write_text("")


def binary(scores, truth):
    (scores / file_name(SCORES, 2022, Place("fan", "00"))).write_bytes(b"\xff\xfe\x00\x81")


def bad_decision(scores, truth):
    path = scores / file_name(DECISIONS, 2022, Place("fan", "00"))
    path.write_text(path.read_text().replace(",1\n", ",2\n", 1))


def bad_label(scores, truth):
    path = truth / "ground_truth_data" / file_name(TRUTH, 2022, Place("fan", "00"))
    path.write_text(path.read_text().replace(",1\n", ",anomaly\n", 1))


def no_domains(scores, truth):
    shutil.rmtree(truth / "ground_truth_domain")


def half_the_domains(scores, truth):
    (truth / "ground_truth_domain" / file_name(TRUTH, 2022, Place("fan", "00"))).unlink()


def no_truth(scores, truth):
    shutil.rmtree(truth)


def truth_without_labels(scores, truth):
    shutil.rmtree(truth / "ground_truth_data")


def no_scores(scores, truth):
    shutil.rmtree(scores)
    scores.mkdir()


def scores_one_folder_down(scores, truth):
    scores.rename(scores.with_name("team"))
    scores.mkdir()
    scores.with_name("team").rename(scores / "team_1")


def names_of_2021(scores, truth):
    for path in list(scores.iterdir()):
        path.rename(path.with_name(path.name.replace("_test", "_source_test")))


FILE = r"anomaly_score_fan_section_00_test\.csv"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_score("nan"), rf"{FILE} line 1: 'nan' is no anomaly score \(section_00_00"),
        (set_score("-inf"), rf"{FILE} line 1: '-inf' is no anomaly score"),
        (set_score("loud"), rf"{FILE} line 1: 'loud' is no anomaly score"),
        (set_score(""), rf"{FILE} line 1: 1 columns in 'section_00_00"),
        (set_score("0,5"), rf"{FILE} line 1: 3 columns"),
        (lose_a_row, rf"{FILE}: of 24 clips in \S+: 1 missing \(section_00_00"),
        (double_a_row, rf"{FILE}: of 24 clips in \S+: 1 doubled \(section_00_00"),
        (
            edit("section_00_0003", "section_00_0099"),
            rf"{FILE}: .*1 missing \(section_00_0003\.wav\), 1 unknown \(section_00_0099\.wav\)",
        ),
        (edit("section_00_0003", "section_03_0003"), "1 unknown"),
        (empty, rf"{FILE} has no rows"),
        (binary, rf"{FILE} is no CSV text"),
        (bad_decision, r"decision_result_fan_section_00_test\.csv line \d+: '2' is no decision"),
        (bad_label, r"ground_truth_fan_section_00_test\.csv line \d+: 'anomaly' is no label"),
        (no_domains, "need domains; put ground_truth_domain"),
        (half_the_domains, r"ground_truth_domain lacks ground_truth_fan_section_00_test\.csv"),
        (no_truth, r"truth does not exist; name the folder"),
        (
            truth_without_labels,
            r"no ground truth of 2022 in \S+: it should hold ground_truth_data",
        ),
        (no_scores, r"scores holds no anomaly_score_\*\.csv of 2022; 2022 calls them like"),
        (scores_one_folder_down, r"did you mean \S+team_1\?"),
        (names_of_2021, r"is a name of 2021, not of 2022; judge that year"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_path(made, capsys, change, message):
    scores, truth, _ = made(2022)
    change(scores, truth)
    assert judge.main(["2022", str(scores), "--truth", str(truth)]) == 2
    said = capsys.readouterr()
    with pytest.raises(ValueError, match=message):
        raise ValueError(said.err)
    assert said.err.startswith("asdgan judge: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fan,fan,fan", "is no clip,original name of 2020 below a machine type"),
        ("a.wav,section_00_source_test_normal_0000.wav", "name that year's list"),
        ("id_00_00000099.wav,normal_id_00_00000099.wav,1", "label 1 contradicts"),
        ("id_00_00000001.wav,normal_id_00_00000001.wav,0", "stands there more than once"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(made, line, message):
    scores, truth, _ = made(2020, sections=("00",))
    path = truth / "eval_data_list.csv"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ValueError, match=message):
        judge.judged(2020, scores, truth)


def test_names_that_say_no_label_need_a_truth(made):
    scores, _, _ = made(2022)
    with pytest.raises(ValueError, match=r"does not say its label and domain; give --truth DIR"):
        judge.judged(2022, scores)


def test_a_year_that_never_was_is_refused(capsys):
    assert judge.main(["2019", "scores"]) == 2
    assert "invalid choice: 2019" in capsys.readouterr().err
