"""Test clips drawn again with replacement, and the AUC and pAUC of each draw.

A draw takes the normal clips and the anomalous ones of each section anew, each kind by itself. Its
areas are those of its clips, ties included, in closed form: scores are sorted once, and a draw is
how often each clip is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asdgan.results import metrics
from asdgan.results.metrics import MAX_FPR

BLOCK = 2**18  # clips times draws that are held at once: they stay in the cache
CLASSES = ("normal", "anomaly")
SEEN = {"auc": 1.0, "pauc": MAX_FPR}  # share of the normal clips that an area looks at

Floats = NDArray[np.float64]
Places = NDArray[np.intp]  # numbers of clips


@dataclass(frozen=True, slots=True)
class TypeScores:
    """What one row scored on the test clips of one machine type.

    Attributes:
        machine_type: As the release spells it.
        scores: Shape (seeds, clips), finite, higher is stranger.
        sections: Of each clip.
        labels: "normal", "anomaly" or "unknown" for each clip; the last are left out.
        domains: "source", "target" or None for each clip.
    """

    machine_type: str
    scores: Floats
    sections: tuple[str, ...]
    labels: tuple[str, ...]
    domains: tuple[str | None, ...]


class Compared(NamedTuple):
    """The clips that one area compares."""

    area: str
    normal: Places
    anomalous: Places


def by_section(one: TypeScores) -> dict[str, tuple[Places, Places]]:
    """The normal and the anomalous clips of each section."""
    sections, labels = np.array(one.sections, dtype=str), np.array(one.labels, dtype=str)
    found = {}
    for section in sorted(set(one.sections)):
        mine = sections == section
        normal, anomalous = (np.flatnonzero(mine & (labels == label)) for label in CLASSES)
        found[section] = (normal, anomalous)
    return found


def drawn_areas(
    scores: Floats,
    plan: Sequence[Compared],
    strata: Sequence[Places],
    draws: int,
    seed: Sequence[int],
) -> Floats:
    """Areas of draws, shape (areas, seeds, draws); which clips depends on strata and seed only."""
    generator = np.random.default_rng(seed)
    drawn, step = np.empty((len(plan), len(scores), draws)), max(1, BLOCK // scores.shape[1])
    for start in range(0, draws, step):
        block = slice(start, min(start + step, draws))
        counts = _counts(strata, scores.shape[1], block.stop - start, generator)
        for number, what in enumerate(plan):
            for lane, values in enumerate(scores):
                drawn[number, lane, block] = _area(values, what, counts)
    return drawn


def widened(drawn: Floats, plan: Sequence[Compared]) -> Floats:
    """The draws with the spread that new clips have: those drawn again spread less.

    The deviation of draws of n clips is that of new ones times the root of (n - 1.5) / n, nearly.
    n is the number of clips of the rarer class; for pAUC that of a tenth of the normal ones, which
    looks at no others; and 3 at least.
    """
    seen = [min(len(one.anomalous), len(one.normal) * SEEN[one.area]) for one in plan]
    sizes = np.maximum(3.0, seen)[:, None, None]
    middle = drawn.mean(axis=-1, keepdims=True)
    return middle + (drawn - middle) * np.sqrt(sizes / (sizes - 1.5))


def _counts(
    strata: Sequence[Places], clips: int, draws: int, generator: np.random.Generator
) -> Floats:
    """How often each clip is in each draw, shape (clips, draws); a stratum keeps its size."""
    counts = np.zeros((clips, draws))
    for stratum in strata:
        size = len(stratum)
        if size:
            picks = generator.integers(size, size=(size, draws)) * draws + np.arange(draws)
            often = np.bincount(picks.ravel(), minlength=size * draws)
            counts[stratum] = often.reshape(size, draws)
    return counts


def _area(scores: Floats, what: Compared, counts: Floats) -> Floats:
    """The area of each draw, shape (draws,): one sort, then sums of how often clips were drawn."""
    normal = what.normal[np.argsort(scores[what.normal], kind="stable")]
    sorted_scores, positive = scores[normal], scores[what.anomalous]
    size, often = len(normal), counts[what.anomalous]
    sums = np.zeros((size + 1, counts.shape[1]))
    np.cumsum(counts[normal], axis=0, out=sums[1:])
    above = size - sums[np.searchsorted(sorted_scores, positive, side="right")]
    not_below = size - sums[np.searchsorted(sorted_scores, positive, side="left")]
    if what.area == "auc":
        pairs = (often * (above + not_below)).sum(axis=0)
        return 1.0 - pairs / (2.0 * size * len(positive))
    strips = metrics.strip_areas(above / size, not_below / size, MAX_FPR)
    return metrics.standardised((often * strips).sum(axis=0) / len(positive), MAX_FPR)
