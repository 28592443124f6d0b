"""Intervals and paired differences against clips drawn one by one, and against known truths."""

import math

import numpy as np
import pytest
from interval_coverage import CASES, held
from scipy import stats

from asdgan.results import bootstrap, intervals, metrics
from asdgan.results.challenge import official
from asdgan.results.intervals import TypeScores, compared, delong, delong_p_value, interval


def made(name="fan", *, seeds=1, clips=60, worth=1.0, seed=0, ties=True, words=None):
    """Two sections and two domains of clips; anomalies score higher by `worth`."""
    generator = np.random.default_rng([seed, *name.encode()])
    labels = words or generator.choice(["normal", "anomaly", "unknown"], clips, p=[0.5, 0.4, 0.1])
    scores = generator.normal(size=(seeds, clips)) + worth * (np.array(labels) == "anomaly")
    return TypeScores(
        name,
        np.round(scores, 1) if ties else scores,
        tuple("00" if number % 3 else "02" for number in range(clips)),
        tuple(labels),
        tuple("source" if number % 2 else "target" for number in range(clips)),
    )


def redrawn(one, wanted, draws, seed=0):
    """The clips of each draw of a machine type, as `intervals` draws them."""
    _, strata = intervals._plan(one, wanted)
    generator = np.random.default_rng([seed, *one.machine_type.encode()])
    counts = bootstrap._counts(strata, len(one.labels), draws, generator).astype(int)
    return [np.repeat(np.arange(len(one.labels)), count) for count in counts.T]


def taken(one, clips):
    """A machine type of these clips only, any of them several times."""
    fields = (one.sections, one.labels, one.domains)
    return TypeScores(
        one.machine_type, one.scores[:, clips], *(tuple(f[c] for c in clips) for f in fields)
    )


@pytest.fixture
def bare(monkeypatch):
    """Draws as they are, not widened."""
    monkeypatch.setattr(intervals, "widened", lambda drawn, plan: drawn)


# Draws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", metrics.AREAS)
def test_a_draw_has_the_area_of_its_clips_ties_included(bare, area):
    one = made(seeds=2)
    value = intervals._estimate([one], area, "weighted", 40, 0, None)
    drawn = value[1][0].drawn
    for number, clips in enumerate(redrawn(one, [(area, None, None)], 40)):
        again = taken(one, clips)
        rows = metrics.judge(again.scores, again.sections, again.labels)
        assert drawn[:, number] == pytest.approx([row[area] for row in rows], abs=1e-12)


@pytest.mark.parametrize("year", [2021, 2022, 2025])
def test_a_draw_has_the_official_score_of_its_clips(bare, year):
    types = [made("fan", clips=90), made("pump", clips=80)]
    drawn = intervals._official(types, 30, 0, year)[1][0].drawn
    each = [redrawn(one, intervals.COMPARED[year], 30) for one in types]
    for number in range(30):
        again = [taken(one, some[number]) for one, some in zip(types, each, strict=True)]
        sections = [part for one in again for part in intervals._sections(one, 0)]
        score = official.OFFICIAL[year](sections)["overall"][official.SCORE]
        assert drawn[0, number] == pytest.approx(score, abs=1e-12)


def test_a_draw_keeps_how_many_clips_of_each_kind_a_section_has_and_no_unknown_one():
    one = made()
    known = np.flatnonzero(np.array(one.labels) != "unknown")
    kinds = sorted((one.sections[clip], one.labels[clip]) for clip in known)
    for clips in redrawn(one, [("auc", None, None)], 20):
        assert sorted((one.sections[clip], one.labels[clip]) for clip in clips) == kinds
        assert len(set(clips)) < len(clips)


def test_many_clips_are_drawn_block_by_block(bare, monkeypatch):
    one = made(clips=200)
    monkeypatch.setattr(bootstrap, "BLOCK", 200 * 7)
    drawn = intervals._estimate([one], "auc", "mean", 100, 0, None)[1][0].drawn
    assert len(np.unique(drawn)) > 50
    assert drawn.mean() == pytest.approx(interval([one], area="auc").value, abs=0.02)


def test_the_spread_of_draws_is_that_of_delong():
    one = made(clips=600, ties=False, words=["normal", "anomaly"] * 300)
    parts = intervals._estimate([one], "auc", "weighted", 2000, 0, None)[1]
    variance = 0.0
    for section in ("00", "02"):
        mine = np.array(one.sections) == section
        truth = np.array(one.labels)[mine] == "anomaly"
        variance += delong(one.scores[0, mine], truth)[1][0, 0] / 4
    assert intervals._spread(parts).clips == pytest.approx(variance, rel=0.1)


# Values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", metrics.AREAS)
@pytest.mark.parametrize("mean", intervals.MEANS)
def test_the_value_is_that_of_the_board_to_the_last_bit(area, mean):
    types = [made("fan", seeds=3), made("pump", seeds=2, clips=90, worth=0.3)]
    judged = {}
    for one in types:
        rows = metrics.judge(one.scores, one.sections, one.labels)
        means = {key: math.fsum(row[key] for row in rows) / len(rows) for key in metrics.AREAS}
        judged[one.machine_type] = {**means, "clips": rows[0]["clips"]}
    found = interval(types, area=area, mean=mean, draws=50)
    assert found.value == metrics.overall(judged)[f"{area}_{mean}"]
    assert found.low < found.value < found.high


def test_an_official_value_is_the_mean_over_seeds_of_the_official_score():
    types = [made("fan", seeds=2), made("pump", seeds=2)]
    scores = [
        official.official_2022([part for one in types for part in intervals._sections(one, seed)])
        for seed in (0, 1)
    ]
    found = interval(types, area="official", year=2023, draws=50)
    assert found.value == sum(one["overall"][official.SCORE] for one in scores) / 2
    assert found.low < found.value < found.high


def test_what_is_undefined_has_no_interval_and_counts_in_no_mean():
    lone = made("pump", words=["normal"] * 60)
    both = [made("fan"), lone]
    assert interval([lone], area="auc") is None
    assert interval([], area="auc") is None
    assert interval(both, area="auc") == interval(both[:1], area="auc")
    assert interval(both, area="official", year=2022) is None
    assert interval([made()], area="official", year=2020) is None
    assert compared([lone], [lone], area="pauc") is None
    assert delong_p_value(lone, lone) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"area": "f1"}, "area must be one of auc, pauc, official, found 'f1'"),
        ({"area": "auc", "mean": "median"}, "mean must be one of weighted, mean"),
        ({"area": "official"}, "needs its year, 2020 to 2025, found None"),
        ({"area": "auc", "draws": 1}, "draws must be 2 at least and level in .0, 1., found 1"),
        ({"area": "auc", "level": 95}, "level in .0, 1., found 1000, 95"),
        ({"area": "official", "year": 2022}, "as many seeds in each type, found .1, 2."),
    ],
)
def test_what_is_no_question_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        interval([made("fan"), made("pump", seeds=2)], **arguments)


def test_intervals_stay_in_range_and_an_area_that_no_draw_moves_is_a_point():
    near = interval([made(worth=3.0)], area="auc")
    assert near.value < near.high < 1.0
    apart = interval([made(worth=99.0)], area="auc")
    assert (apart.low, apart.value, apart.high) == (1.0, 1.0, 1.0)


def test_a_type_is_drawn_the_same_whatever_stands_beside_it():
    fan, pump = made("fan"), made("pump")
    one, other = (interval(types, area="auc") for types in ([fan, pump], [pump, fan]))
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


# Seeds ------------------------------------------------------------------------------------------


def test_seeds_that_agree_are_as_sure_as_one():
    one = made()
    several = TypeScores(
        one.machine_type, np.repeat(one.scores, 4, axis=0), one.sections, one.labels, one.domains
    )
    a, b = (interval([types], area="pauc") for types in (one, several))
    assert (a.low, a.value, a.high) == pytest.approx((b.low, b.value, b.high), abs=1e-12)


def test_what_seeds_disagree_about_is_counted_once():
    """By hand: 4 seeds of variance 8, which is 10 and 14 in two draws, whose means are 1 and 5."""
    found = np.array([1.0, 1.0, -1.0, -1.0]) * math.sqrt(6)
    drawn = np.stack([1 + found * math.sqrt(10 / 8), 5 + found * math.sqrt(14 / 8)], axis=1)
    assert np.var(found, ddof=1) == pytest.approx(8)
    spread = intervals._spread([intervals._Part(0.5, found, drawn)])
    assert spread.clips == pytest.approx(0.25 * 8)
    assert spread.seeds == pytest.approx(0.25 * 8 / 4)
    assert spread.common == pytest.approx(0.25 * (8 - (12 - 8) / 4))
    assert spread.freedom == pytest.approx(3 + 1)
    normal, student = stats.norm.ppf(0.975), stats.t.ppf(0.975, 4)
    half = math.sqrt(normal**2 * spread.common + student**2 * spread.seeds)
    assert intervals._half(spread, 0.025) == pytest.approx(half)


@pytest.mark.parametrize(
    ("title", "repeats"),
    [
        ("AUC 0.9", 300),
        ("pAUC at AUC 0.8", 300),
        ("AUC, 2 seeds of other worth", 300),
        ("official score", 200),
        ("AUC, B better, 2 seeds", 200),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(title, repeats):
    """A small `coverage_check`; the bounds are 3 deviations of a count beyond its own."""
    (case,) = (one for one in CASES if one.title == title)
    share = held(case, repeats, draws=100)[1]
    slack = 3 * math.sqrt(0.95 * 0.05 / repeats)
    assert 0.93 - slack <= share <= min(0.97 + slack, 1 - 1 / repeats)


# Pairs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", intervals.AREAS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_identical_rows_are_tied(area, seeds):
    types = [made("fan", seeds=seeds), made("pump", seeds=seeds)]
    found = compared(types, types, area=area, year=2022)
    assert (found.difference.value, found.p_value, found.tied) == (0.0, 1.0, True)
    assert found.a == found.b == interval(types, area=area, year=2022).value


def test_a_clearly_better_row_is_not_tied_and_pairs_turn_around():
    words = ["normal", "anomaly"] * 60
    good = made(clips=120, worth=3.0, words=words)
    bad = made(clips=120, worth=0.2, words=words, seed=1)
    found, turned = compared([good], [bad], area="auc"), compared([bad], [good], area="auc")
    assert found.p_value < 1e-6
    assert not found.tied
    assert found.difference.low > 0
    assert turned.difference.high == pytest.approx(-found.difference.low, abs=1e-12)
    assert turned.p_value == pytest.approx(found.p_value)


@pytest.mark.parametrize("seeds", [(1, 1), (2, 3)])
def test_an_interval_of_level_1_less_p_ends_at_0(seeds):
    words = ["normal", "anomaly"] * 40
    a, b = (
        made(clips=80, seeds=count, worth=worth, words=words, seed=count)
        for count, worth in zip(seeds, (1.3, 0.9), strict=True)
    )
    p = compared([a], [b], area="auc").p_value
    assert 0.0 < p < 0.9
    edge = compared([a], [b], area="auc", level=1 - p).difference
    assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0.0, abs=1e-9)
    assert compared([a], [b], area="auc", level=1 - 0.9 * p).tied
    assert not compared([a], [b], area="auc", level=1 - 1.1 * p).tied


def test_rows_on_other_clips_are_no_pair():
    with pytest.raises(ValueError, match="needs the same clips in the same order"):
        compared([made()], [made(seed=1)], area="auc")
    with pytest.raises(ValueError, match="needs the same clips"):
        compared([made()], [], area="auc")


# DeLong -----------------------------------------------------------------------------------------


def placements(scores, truth):
    """The share of the other class that each clip beats, pair by pair."""
    beats = [[0.5 + 0.5 * np.sign(a - n) for n in scores[~truth]] for a in scores[truth]]
    return np.mean(beats, axis=1), np.mean(beats, axis=0)


def test_delong_agrees_with_every_pair_of_clips():
    one, truth = made(seeds=2, clips=40), np.arange(40) % 3 == 0
    aucs, covariance = delong(one.scores[0], truth, one.scores[1])
    sides = [placements(scores, truth) for scores in one.scores]
    direct = sum(np.cov([pair[k] for pair in sides]) / len(sides[0][k]) for k in (0, 1))
    assert covariance == pytest.approx(direct, abs=1e-14)
    areas, _ = metrics.auc_pauc(one.scores, truth.astype(int), 1.0)
    assert aucs == pytest.approx(areas, abs=1e-14)
    alone = delong(one.scores[0], truth)
    assert (alone[0][0], alone[1][0, 0]) == pytest.approx((aucs[0], covariance[0, 0]), abs=1e-14)


def test_delong_of_seeds_is_of_their_mean():
    one, truth = made(seeds=3, clips=40), np.arange(40) % 2 == 0
    aucs, covariance = delong(one.scores, truth)
    sides = [placements(scores, truth) for scores in one.scores]
    means = [np.mean([pair[k] for pair in sides], axis=0) for k in (0, 1)]
    assert aucs[0] == pytest.approx(means[0].mean(), abs=1e-14)
    direct = sum(mean.var(ddof=1) / len(mean) for mean in means)
    assert covariance[0, 0] == pytest.approx(direct, abs=1e-14)


def test_delong_needs_two_clips_of_each_class():
    with pytest.raises(ValueError, match="found 3 normal and 1 anomalous"):
        delong([1, 2, 3, 4], [0, 0, 0, 1])
    with pytest.raises(ValueError, match="3 scores do not fit 4 labels"):
        delong([1, 2, 3], [0, 1, 0, 1])


def test_delong_and_the_draws_give_much_the_same_p_value():
    words = ["normal", "anomaly"] * 150
    a, b = (made(clips=300, worth=w, words=words, seed=w) for w in (1, 2))
    p = compared([a], [b], area="auc").p_value
    assert delong_p_value(a, b) == pytest.approx(p, rel=0.6)
    assert delong_p_value(a, a) == 1.0
