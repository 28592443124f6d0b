import csv
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from asdgan.results.metrics import MAX_FPR, auc_pauc, judge, overall


def both(labels):
    """The labels, each class in them at least once."""
    labels[:2] = 0, 1
    return labels


def sklearn_says(scores, labels, max_fpr):
    return roc_auc_score(labels, scores), roc_auc_score(labels, scores, max_fpr=max_fpr)


@pytest.mark.parametrize("levels", [1, 2, 3, 10, 1_000_000])
@pytest.mark.parametrize("max_fpr", [0.001, 0.1, 1 / 3, 1.0])
def test_areas_agree_with_sklearn_under_ties_and_tiny_counts(levels, max_fpr):
    generator = np.random.default_rng(levels)
    for clips in (2, 3, 5, 11, 60, 400):
        labels = both(generator.integers(0, 2, clips))
        scores = generator.integers(0, levels, (7, clips)) / 7
        found = np.stack(auc_pauc(scores, labels, max_fpr), axis=-1)
        expected = [sklearn_says(lane, labels, max_fpr) for lane in scores]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("anomalies", [1, 9, 100])
@pytest.mark.parametrize("normals", [1, 9, 10, 11, 100])
def test_areas_agree_with_sklearn_where_the_cut_falls_on_and_beside_a_clip(normals, anomalies):
    generator = np.random.default_rng(normals * anomalies)
    labels = np.repeat([0, 1], [normals, anomalies])
    scores = generator.integers(0, 8, (20, len(labels))).astype(float)
    found = np.stack(auc_pauc(scores, labels, 0.1), axis=-1)
    expected = [sklearn_says(lane, labels, 0.1) for lane in scores]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_equal_scores_give_exactly_chance():
    auc, pauc = auc_pauc(np.zeros(13), both(np.zeros(13, dtype=int)), 0.1)
    assert auc == 0.5
    assert pauc == pytest.approx(0.5, abs=1e-15)


def test_higher_means_stranger():
    assert [area.item() for area in auc_pauc([0.0, 1.0], [0, 1], 0.1)] == [1, 1]
    assert auc_pauc([1.0, 0.0], [0, 1], 0.1)[0] == 0


def test_scores_one_ulp_apart_are_no_tie():
    assert auc_pauc([1e8, np.nextafter(1e8, np.inf)], [0, 1], 0.1)[0] == 1


def test_areas_do_not_change_with_the_order_of_clips_or_lanes():
    generator = np.random.default_rng(0)
    labels, scores = both(generator.integers(0, 2, 50)), generator.integers(0, 9, (4, 50)) / 2
    order = generator.permutation(50)
    expected = auc_pauc(scores, labels, 0.1)
    np.testing.assert_array_equal(
        auc_pauc(scores[::-1][:, order], labels[order], 0.1), [area[::-1] for area in expected]
    )


@pytest.mark.parametrize("lanes", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_areas_keep_the_shape_of_the_lanes(lanes):
    scores = np.random.default_rng(0).normal(size=(*lanes, 5))
    for labels in ([0, 1, 0, 1, 1], [0] * 5):
        assert [area.shape for area in auc_pauc(scores, labels, 0.1)] == [lanes, lanes]
    assert auc_pauc(np.empty((*lanes, 0)), [], 0.1)[0].shape == lanes


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_one_class_only_is_nan_and_never_chance(labels):
    auc, pauc = auc_pauc(np.zeros((1, len(labels))), labels, 0.1)
    assert np.isnan([auc, pauc]).all()


def test_scores_that_are_not_finite_are_counted_and_refused():
    with pytest.raises(ValueError, match="2 NaN and 1 infinite among 4 anomaly scores"):
        auc_pauc([[np.nan, 0.0], [np.nan, -np.inf]], [0, 1], 0.1)
    with pytest.raises(ValueError, match="1 NaN and 0 infinite among 2"):
        judge([[np.nan, 0.0]], ["00", "00"], ["unknown", "normal"])


@pytest.mark.parametrize(
    ("scores", "labels", "max_fpr", "message"),
    [
        (np.zeros(3), [0, 1], 0.1, r"scores of shape \(3,\) do not fit labels of shape \(2,\)"),
        (0.0, [], 0.1, "do not fit"),
        (np.zeros(2), [0, 2], 0.1, r"labels must be 0 or 1, found \[0, 2\]"),
        (np.zeros(2), [0, 1], 0.0, r"max_fpr must lie in \(0, 1\], found 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(scores, labels, max_fpr, message):
    with pytest.raises(ValueError, match=message):
        auc_pauc(scores, labels, max_fpr)


def test_a_machine_type_is_the_mean_of_its_sections():
    sections = ["02"] * 4 + ["00"] * 2
    labels = ["normal", "anomaly", "anomaly", "normal", "anomaly", "normal"]
    row, flat = judge([[0, 1, 2, 1, 0, 1], [0] * 6], sections, labels)
    assert list(row["sections"]) == ["00", "02"]
    assert row["sections"]["02"]["auc"] == 0.875
    assert (row["auc"], row["clips"], flat["auc"]) == (0.4375, 6, 0.5)


def test_a_section_of_one_class_is_undefined_with_a_reason_and_in_no_mean():
    sections, labels = ["00", "00"] + ["02"] * 12, ["normal", "anomaly"] + ["normal"] * 12
    (row,) = judge([np.arange(14)], sections, labels)
    assert (row["auc"], row["clips"]) == (1.0, 2)
    assert row["sections"]["02"] == {
        "auc": None,
        "pauc": None,
        "normal": 12,
        "anomaly": 0,
        "reason": "id_02: 12 normal, 0 anomaly clips; an AUC needs both",
    }


def test_unknown_clips_are_left_out_of_judging():
    labels = ["normal", "anomaly", "unknown"]
    (row,) = judge([[0.0, 1.0, 9.0]], ["00"] * 3, labels)
    assert (row["auc"], row["clips"], row["sections"]["00"]["normal"]) == (1.0, 2, 1)


def test_without_any_label_there_is_a_reason_and_no_number():
    (row,) = judge([[0.0, 1.0]], ["01", "01"], ["unknown"] * 2)
    assert (row["auc"], row["pauc"], row["clips"]) == (None, None, 0)
    assert row["reason"] == "id_01: 0 normal, 0 anomaly clips (2 unlabelled); an AUC needs both"


def test_without_any_clip_there_is_a_reason_and_no_number():
    first, second = judge(np.empty((2, 0)), [], [])
    assert first["auc"] is None
    assert second["reason"] == "no test clips"


def test_a_strange_label_is_refused():
    with pytest.raises(ValueError, match=r"labels must be .*, found \['odd'\]"):
        judge([[0.0]], ["00"], ["odd"])


def test_sections_that_do_not_fit_the_scores_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\) do not fit 1 sections and 2 labels"):
        judge([[0.0, 1.0]], ["00"], ["normal", "anomaly"])


def test_pooled_areas_are_those_of_all_labelled_clips_at_once():
    generator = np.random.default_rng(0)
    labels = ["normal", "anomaly", "unknown"] * 8
    scores, sections = generator.normal(size=(1, 24)).round(1), ["00"] * 12 + ["02"] * 12
    known = [place for place, label in enumerate(labels) if label != "unknown"]
    truth = [labels[place] == "anomaly" for place in known]
    pooled = judge(scores, sections, labels)[0]["pooled"]
    assert pooled["auc"] == pytest.approx(roc_auc_score(truth, scores[0, known]), abs=1e-12)
    partial = roc_auc_score(truth, scores[0, known], max_fpr=0.1)
    assert pooled["pauc"] == pytest.approx(partial, abs=1e-12)
    assert judge(scores[:, :3], sections[:3], ["normal"] * 3)[0]["pooled"]["auc"] is None


def test_overall_weights_machine_types_by_judged_clips():
    judged = {
        "fan": {"auc": 0.9, "pauc": 0.8, "clips": 300},
        "valve": {"auc": 0.5, "pauc": 0.6, "clips": 100},
        "pump": {"auc": None, "pauc": None, "clips": 0},
    }
    means = overall(judged)
    assert means["auc_weighted"] == pytest.approx((0.9 * 3 + 0.5) / 4, abs=1e-15)
    assert means["pauc_weighted"] == pytest.approx(0.75, abs=1e-15)
    assert (means["auc_mean"], means["pauc_mean"]) == pytest.approx((0.7, 0.7), abs=1e-15)
    assert (means["machine_types"], means["undefined"]) == (["fan", "valve"], ["pump"])


def test_spread_over_machine_types_is_that_of_each_mean():
    aucs, clips = np.array([0.9, 0.5, 0.7]), [300, 100, 50]
    rows = zip(("fan", "pump", "valve"), aucs.tolist(), clips, strict=True)
    means = overall({name: {"auc": auc, "pauc": 0.5, "clips": n} for name, auc, n in rows})
    assert means["auc_mean_std"] == pytest.approx(aucs.std(), abs=1e-15)
    assert means["auc_weighted_std"] == pytest.approx(np.repeat(aucs, clips).std(), abs=1e-15)
    assert means["pauc_mean_std"] == means["pauc_weighted_std"] == 0


def test_overall_of_nothing_defined_is_none():
    means = overall({"pump": {"auc": None, "pauc": None, "clips": 0}})
    assert means["auc_weighted"] is means["pauc_mean"] is means["auc_weighted_std"] is None
    assert means["undefined"] == ["pump"]


def test_permuted_labels_give_an_auc_near_chance():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(50, 500))
    auc, pauc = auc_pauc(scores, generator.permutation(np.repeat([0, 1], 250)), MAX_FPR)
    assert math.isclose(auc.mean(), 0.5, abs_tol=0.01)
    assert math.isclose(pauc.mean(), 0.5, abs_tol=0.01)


def evaluator_2020(shared):
    """(machine type, id, expected areas, scores, labels) of one genuine submission."""
    case, system = shared / "evaluator_cases" / "2020", "Haunschmid_CPJKU_task2_1"
    truth, machine_type = {}, ""
    with open(case / "ground_truth" / "eval_data_list.csv", newline="") as file:
        for name, *said in csv.reader(file):
            machine_type = machine_type if said else name
            truth[machine_type, name] = said
    with open(case / "expected" / f"result_{system}.csv", newline="") as file:
        for row in csv.reader(file):
            if len(row) == 1:
                (machine_type,) = row
            elif row and row[0].isdigit():
                name = f"anomaly_score_{machine_type}_id_{row[0]}.csv"
                with open(case / "systems" / system / name, newline="") as scores:
                    clips = [
                        (truth[machine_type, clip][1], value) for clip, value in csv.reader(scores)
                    ]
                yield row[1:], [float(value) for _, value in clips], [int(one) for one, _ in clips]


def test_areas_are_those_of_the_organisers_evaluator(shared):
    cases = list(evaluator_2020(shared))
    found = [auc_pauc(scores, labels, MAX_FPR) for _, scores, labels in cases]
    expected = [[float(area) for area in areas] for areas, _, _ in cases]
    assert len(cases) == 18
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
