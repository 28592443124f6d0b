"""How sure an area is: 95 % intervals over clips and seeds, and paired differences of two rows.

Clips: a draw takes those of each section anew (`resample`), the same for every seed and for both
rows of a comparison; official scores draw each domain apart.

Seeds: the variance of a mean over seeds is that of the draws, plus the spread between the seeds
over their number. Where seeds disagree about clips both have counted it, so what the draws add to
the spread between seeds is taken off the first. Machine types are trained apart: their seeds add
up as independent. With one seed an interval speaks of clips only.

Half an interval's width is the root of two squares: the normal quantile times the deviation over
clips, and Student's times that over seeds, which few seeds know badly; it is never less than the
draws alone say. Student's degrees of freedom are Satterthwaite's and a half for each machine type,
but one at least: his own are estimated too low. With them alone, 98.6 % of intervals over two
seeds that hardly differ held the truth; with one quantile for the sum, 87 % where seeds differ
most. An area's interval is symmetric in its logit and stays in range; a difference's is symmetric
as it stands.

`checks/interval_coverage.py` measures how often they hold the truth; percentiles of the draws did
so less often (91 % for an AUC of 0.98, 74 % with two seeds). Two seeds of one machine type that
differ by far more than the clips explain remain too few: 89 to 94 %. Where no draw moves an area
(all clips are told apart, say) its interval is that point: the clips at hand cannot say more.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from asdgan.results import metrics
from asdgan.results.bootstrap import (
    Compared,
    Floats,
    Places,
    TypeScores,
    by_section,
    drawn_areas,
    widened,
)
from asdgan.results.challenge import official
from asdgan.results.metrics import MAX_FPR

AREAS = (*metrics.AREAS, "official")
MEANS = ("weighted", "mean")
DRAWS, LEVEL = 1000, 0.95
LOWEST = {"auc": 0.0, "pauc": float(metrics.standardised(0.0, MAX_FPR)), "official": 0.0}
_EACH_DOMAIN = [("auc", "source", None), ("auc", "target", None), ("pauc", None, None)]
# An area, the domain of its normal clips, that of its anomalies; None: both.
COMPARED: dict[int, list[tuple[str, str | None, str | None]]] = {
    2021: [(area, domain, domain) for domain in official.DOMAINS for area in metrics.AREAS],
    **dict.fromkeys(range(2022, 2026), _EACH_DOMAIN),
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A value, the mean over seeds, and where the truth lies at this level of confidence."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two rows on the same clips.

    Attributes:
        a: The first row's value.
        b: The second's.
        difference: a - b with its interval.
        p_value: Two-sided; 1 where the rows are identical.
        tied: The interval holds 0.
    """

    a: float
    b: float
    difference: Interval
    p_value: float
    tied: bool


class _Part(NamedTuple):
    """What counts with one weight and has seeds of its own: a machine type of a row."""

    weight: float
    found: Floats  # (seeds,)
    drawn: Floats  # (seeds, draws)


class _Spread(NamedTuple):
    """Variances of a mean over seeds.

    Attributes:
        clips: Of the draws.
        common: Likewise, without what seeds disagree about.
        seeds: Between the seeds over their number.
        freedom: What the last knows of itself, in degrees of freedom.
    """

    clips: float
    common: float
    seeds: float
    freedom: float


def interval(
    types: Sequence[TypeScores],
    *,
    area: str,
    mean: str = "weighted",
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    year: int | None = None,
) -> Interval | None:
    """An area over machine types, and how sure it is.

    Args:
        types: Each machine type once.
        area: One of `AREAS`; for `official` each type needs the same number of seeds.
        mean: Over machine types: `weighted` by judged test clips or the plain `mean`, as in
            `metrics.overall`; an official score has its own.
        draws: Of clips, two at least.
        seed: Of the draws.
        level: In (0, 1).
        year: Whose official score is meant.

    Returns:
        None where the area is undefined: no machine type has a section with both classes, one of
        an official score's values lacks a class, or the year, 2020, has no official score.

    Raises:
        ValueError: An argument is none of those above, or the scores are none.
    """
    _refuse(area, mean, draws, level, year)
    estimate = _estimate(types, area, mean, draws, seed, year)
    if estimate is None:
        return None
    value, parts = estimate
    half, lowest = _half(_spread(parts), (1.0 - level) / 2.0), LOWEST[area]
    room = (value - lowest) * (1.0 - value) / (1.0 - lowest)  # of a step in the logit
    if half == 0.0 or room <= 0.0:
        return Interval(value, value, value, level)
    place = math.log((value - lowest) / (1.0 - value))
    low, high = (
        lowest + (1.0 - lowest) * 0.5 * (1.0 + math.tanh((place + step) / 2.0))
        for step in (-half / room, half / room)
    )
    return Interval(value, low, high, level)


def compared(
    a: Sequence[TypeScores],
    b: Sequence[TypeScores],
    *,
    area: str,
    mean: str = "weighted",
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    year: int | None = None,
) -> Comparison | None:
    """The difference of two rows on the same clips, which are drawn for both at once.

    Args:
        a: A row, each machine type once.
        b: Another one on the same clips; it may have another number of seeds.
        area: As for `interval`, and so are all that follow.
        mean: Over machine types.
        draws: Of clips.
        seed: Of the draws.
        level: Of confidence.
        year: Of an official score.

    Returns:
        None where the area is undefined.

    Raises:
        ValueError: The clips are not the same, or as for `interval`.
    """
    _refuse(area, mean, draws, level, year)
    if [_clips(one) for one in a] != [_clips(one) for one in b]:
        raise ValueError("a paired comparison needs the same clips in the same order")
    first = _estimate(a, area, mean, draws, seed, year)
    second = _estimate(b, area, mean, draws, seed, year)
    if first is None or second is None:
        return None
    parts = [*first[1], *(part._replace(weight=-part.weight) for part in second[1])]
    value, spread = first[0] - second[0], _spread(parts)
    half = _half(spread, (1.0 - level) / 2.0)
    difference = Interval(value, value - half, value + half, level)
    tied = abs(value) <= half
    return Comparison(first[0], second[0], difference, _p_value(value, spread), tied)


def _refuse(area: str, mean: str, draws: int, level: float, year: int | None) -> None:
    for name, value, known in (("area", area, AREAS), ("mean", mean, MEANS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, found {value!r}")
    if area == "official" and year not in official.OFFICIAL:
        raise ValueError(f"an official score needs its year, 2020 to 2025, found {year}")
    if draws < 2 or not 0.0 < level < 1.0:
        raise ValueError(f"draws must be 2 at least and level in (0, 1), found {draws}, {level}")


def _clips(one: TypeScores) -> tuple[object, ...]:
    return one.machine_type, one.sections, one.labels, one.domains


# Spread -----------------------------------------------------------------------------------------


def _spread(parts: Sequence[_Part]) -> _Spread:
    """That of the weighted sum of parts."""
    clips = float(np.var(sum(part.weight * part.drawn.mean(axis=0) for part in parts), ddof=1))
    between, added, squares, groups = 0.0, 0.0, 0.0, 0
    for part in parts:
        if (seeds := len(part.found)) > 1:
            own = part.weight**2 / seeds * float(np.var(part.found, ddof=1))
            drawn = part.weight**2 / seeds * float(np.var(part.drawn, axis=0, ddof=1).mean())
            between, added = between + own, added + drawn - own
            squares += own**2 / (seeds - 1)
            groups += 1
    freedom = between**2 / squares + max(1.0, groups / 2.0) if squares else math.inf
    return _Spread(clips, max(0.0, clips - max(0.0, added)), between, freedom)


def _half(spread: _Spread, tail: float) -> float:
    """Half the width of an interval that leaves out this share at each end."""
    from scipy import special  # takes as long to load as the rest of a board

    normal, student = special.ndtri(tail), 0.0
    if spread.seeds:
        student = special.stdtrit(spread.freedom, tail)
    joined = normal**2 * spread.common + student**2 * spread.seeds
    return math.sqrt(max(normal**2 * spread.clips, joined))


def _p_value(value: float, spread: _Spread) -> float:
    """The share outside the interval that ends at 0."""
    low, high = -300.0, 0.0  # powers of ten
    for _ in range(60):
        middle = (low + high) / 2.0
        wider = _half(spread, 10.0**middle / 2.0) > abs(value)
        low, high = (middle, high) if wider else (low, middle)
    return 10.0**high if value else 1.0


# Draws ------------------------------------------------------------------------------------------


def _estimate(
    types: Sequence[TypeScores], area: str, mean: str, draws: int, seed: int, year: int | None
) -> tuple[float, list[_Part]] | None:
    """The value, and the parts that it is the weighted sum of; None where it is undefined."""
    if area == "official":
        return _official(types, draws, seed, int(year or 0))
    judged, rows = {}, {}
    for one in types:
        lanes = metrics.judge(one.scores, one.sections, one.labels)
        rows[one.machine_type] = lanes
        judged[one.machine_type] = {
            "clips": lanes[0]["clips"],
            **{
                name: None if lanes[0][name] is None else statistics.fmean(r[name] for r in lanes)
                for name in metrics.AREAS
            },
        }
    whole = metrics.overall(judged)
    value, counted = whole[f"{area}_{mean}"], whole["machine_types"]
    if value is None:
        return None
    weights = {name: judged[name]["clips"] if mean == "weighted" else 1 for name in counted}
    total = sum(weights.values())
    parts = []
    for one in types:
        if one.machine_type in weights:
            found = np.array([row[area] for row in rows[one.machine_type]])
            drawn = _values(one, [(area, None, None)], draws, seed).mean(axis=0)
            parts.append(_Part(weights[one.machine_type] / total, found, drawn))
    return value, parts


def _official(
    types: Sequence[TypeScores], draws: int, seed: int, year: int
) -> tuple[float, list[_Part]] | None:
    counts = sorted({len(one.scores) for one in types})
    if len(counts) > 1:
        raise ValueError(f"an official score needs as many seeds in each type, found {counts}")
    if year not in COMPARED or not types:
        return None
    found = []
    for number in range(counts[0]):
        sections = [section for one in types for section in _sections(one, number)]
        found.append(official.OFFICIAL[year](sections)["overall"][official.SCORE])
    if None in found:
        return None
    values = np.concatenate([_values(one, COMPARED[year], draws, seed) for one in types])
    drawn = len(values) / (1.0 / np.maximum(values, official.EPSILON)).sum(axis=0)
    return statistics.fmean(found), [_Part(1.0, np.array(found), drawn)]


def _sections(one: TypeScores, number: int) -> list[official.Section]:
    """The sections of a machine type as official scores take them."""
    sections = []
    for section, (normal, anomalous) in by_section(one).items():
        mine = np.sort(np.concatenate([normal, anomalous]))
        domains = [one.domains[clip] for clip in mine]
        target = None if None in domains else np.array(domains) == "target"
        labels = np.array(one.labels)[mine] == "anomaly"
        scores = np.asarray(one.scores[number], dtype=np.float64)[mine]
        sections.append(official.Section(one.machine_type, section, scores, labels, target))
    return sections


def _values(
    one: TypeScores,
    wanted: Sequence[tuple[str, str | None, str | None]],
    draws: int,
    seed: int,
) -> Floats:
    """What the areas of each section may be, shape (areas, seeds, draws)."""
    plan, strata = _plan(one, wanted)
    scores = np.asarray(one.scores, dtype=np.float64)
    return widened(
        drawn_areas(scores, plan, strata, draws, [seed, *one.machine_type.encode()]), plan
    )


def _plan(
    one: TypeScores, wanted: Sequence[tuple[str, str | None, str | None]]
) -> tuple[list[Compared], list[Places]]:
    """What is compared in sections of both classes, and the clips that are drawn together."""
    domains = np.array([domain or "" for domain in one.domains], dtype=str)
    apart = official.DOMAINS if len(wanted) > 1 else [None]

    def within(clips: Places, domain: str | None) -> Places:
        return clips if domain is None else clips[domains[clips] == domain]

    plan, strata = [], []
    for normal, anomalous in by_section(one).values():
        if len(normal) and len(anomalous):
            plan += [
                Compared(area, within(normal, of_normal), within(anomalous, of_anomalous))
                for area, of_normal, of_anomalous in wanted
            ]
            strata += [within(clips, name) for clips in (normal, anomalous) for name in apart]
    return plan, strata


# DeLong -----------------------------------------------------------------------------------------


def delong(
    scores_a: ArrayLike, labels: ArrayLike, scores_b: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """AUCs of one or two detectors on the same clips, and their covariance over clips.

    Args:
        scores_a: Shape (clips,), or (seeds, clips) for the mean AUC over seeds.
        labels: Shape (clips,), 1 for an anomaly, 0 for a normal clip; two of each at least.
        scores_b: Of the second detector, likewise.

    Returns:
        The AUCs, shape (detectors,), and their covariance, shape (detectors, detectors).

    Raises:
        ValueError: There are fewer clips of a class, or the shapes disagree.

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988.
    """
    truth = np.asarray(labels) == 1
    if min(truth.sum(), (~truth).sum()) < 2:
        raise ValueError(
            f"DeLong's variance needs two clips of each class, found {int((~truth).sum())} normal "
            f"and {int(truth.sum())} anomalous"
        )
    placed = []
    for scores in (scores_a, scores_b):
        if scores is not None:
            rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
            if rows.shape[1] != len(truth):
                raise ValueError(f"{rows.shape[1]} scores do not fit {len(truth)} labels")
            sides = [(row[truth], row[~truth]) for row in rows]
            anomalous = np.mean([_beaten(mine, others) for mine, others in sides], axis=0)
            normal = 1.0 - np.mean([_beaten(others, mine) for mine, others in sides], axis=0)
            placed.append((anomalous, normal))
    aucs = np.array([anomalous.mean() for anomalous, _ in placed])
    covariance = sum(
        np.atleast_2d(np.cov([one[side] for one in placed], ddof=1)) / len(placed[0][side])
        for side in (0, 1)
    )
    return aucs, np.asarray(covariance)


def _beaten(mine: Floats, others: Floats) -> Floats:
    """The share of the others that each of mine is above; ties count half."""
    ordered = np.sort(others)
    twice = sum(np.searchsorted(ordered, mine, side=side) for side in ("left", "right"))
    return np.asarray(twice) / (2.0 * len(others))


def delong_p_value(a: TypeScores, b: TypeScores) -> float | None:
    """DeLong's p-value for the difference of two rows' AUC on one machine type; clips only.

    The AUC of a machine type is the mean over its sections, whose clips are independent, so their
    variances add up. None where a section has both classes and only one clip of one.
    """
    sections = [both for both in by_section(a).values() if all(map(len, both))]
    if not sections or min(len(clips) for both in sections for clips in both) < 2:
        return None
    value = variance = 0.0
    for both in sections:
        clips = np.concatenate(both)
        labels = np.repeat([0, 1], [len(both[0]), len(both[1])])
        aucs, spread = delong(a.scores[:, clips], labels, b.scores[:, clips])
        value += (aucs[0] - aucs[1]) / len(sections)
        variance += (spread[0, 0] + spread[1, 1] - 2.0 * spread[0, 1]) / len(sections) ** 2
    variance = max(0.0, variance)
    return _p_value(value, _Spread(variance, variance, 0.0, math.inf))
