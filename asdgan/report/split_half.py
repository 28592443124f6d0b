"""Clip scores of many points to areas: of all test clips, and of halves of them.

A half is dealt within section and label, in turn along the domains: two halves of a split have as
many clips of each, but for one. It follows from the data alone, so that every model is judged on
the same halves. An area is the mean over sections; a section with one clip of a label cannot be
halved, and is left out. Scores are read result by result, and let go.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asdgan.errors import Damaged
from asdgan.results import ledger, metrics

MEASURE = "recon_l1"  # the unweighted reconstruction error that every GAN here scores by, too
CLIP = ("clip", "section", "label", "domain")  # what is stored of each clip


class Stored(NamedTuple):
    """Where the clip scores of a point are, and its errors on held-out windows by component."""

    result: ledger.Result
    number: int
    primary: str
    held: dict[str, float]


class Noted:
    """What `points.gather` lets go of each row, by signature; the first by path counts there."""

    def __init__(self) -> None:
        """Begins with none."""
        self.stored: dict[str, Stored] = {}

    def passing(self, results: Iterable[ledger.Result]) -> Iterator[ledger.Result]:
        """The results as they are, noted on the way."""
        for result in results:
            light = replace(result, shared={}, own=())
            for number, own in enumerate(result.own):
                row = {**result.shared, **own}
                losses = row.get("losses") or {}
                held = {
                    name: losses[f"val/{name}"][-1]
                    for name in {MEASURE, row["primary"]}
                    if losses.get(f"val/{name}")
                }
                stored = Stored(light, number, row["primary"], held)
                self.stored.setdefault(row["signature"], stored)
            yield result


@dataclass(frozen=True, slots=True)
class Section:
    """The labelled clips of a section: their numbers, which are anomalous, and (halves, clips)."""

    clips: NDArray[np.intp]
    anomalous: NDArray[np.bool_]
    halves: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """Areas of points, a row of NaN for each whose scores could not be read.

    Attributes:
        whole: AUC and pAUC of all clips, shape (points, 2).
        halves: Shape (points, 2 splits): in a half, then in its complement.
        clips: That these are made of.
        notes: On sections that were left out, and scores that could not be read.
    """

    whole: NDArray[np.float64]
    halves: NDArray[np.float64]
    clips: int
    notes: list[str]


def judged(
    stored: Sequence[Stored],
    data: str,
    *,
    area: str,
    splits: int,
    on_points: Callable[[int], None],
) -> Judged:
    """The areas of points of one machine type.

    Args:
        stored: Where the scores of each point are.
        data: The fingerprint of their data.
        area: In halves, one of `metrics.AREAS`.
        splits: Into two halves each.
        on_points: Told of how many more points the scores were read.
    """
    whole = np.full((len(stored), 2), np.nan)
    halves = np.full((len(stored), 2 * splits), np.nan)
    rows: dict[Path, list[int]] = {}
    for row, one in enumerate(stored):
        rows.setdefault(one.result.path, []).append(row)
    clips: dict[str, NDArray[Any]] = {}
    sections: list[Section] = []
    notes: list[str] = []
    unread: list[str] = []
    lost = 0
    for path, mine in sorted(rows.items()):
        try:
            arrays = ledger.read_scores(stored[mine[0]].result)
            listed = {key: arrays[key] for key in CLIP if key in arrays}
            if not clips:
                clips = listed
                sections, notes = halved(clips, data, splits)
            if not all(np.array_equal(clips[key], listed.get(key, ())) for key in clips):
                raise Damaged(f"{path}: lists other clips than another result of the same data")
            for primary in sorted({stored[row].primary for row in mine}) if sections else ():
                those = [row for row in mine if stored[row].primary == primary]
                if f"score/{primary}" not in arrays:
                    raise Damaged(f"{path}: has no clip scores by {primary}")
                scores = arrays[f"score/{primary}"][[stored[row].number for row in those]]
                whole[those], halves[those] = _areas(scores, sections, area)
        except Damaged as error:
            unread.append(str(error))
            lost += len(mine)
        on_points(len(mine))
    if unread:
        notes.append(f"{lost} points of {len(unread)} results not counted, the first: {unread[0]}")
    return Judged(whole, halves, sum(len(one.clips) for one in sections), notes)


def _areas(
    scores: NDArray[np.float64], sections: Collection[Section], area: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC and pAUC of each lane, and its area in each half: means over sections."""
    max_fpr = 1.0 if area == "auc" else metrics.MAX_FPR
    whole, halves = [], []
    for one in sections:
        values = scores[:, one.clips]
        whole.append(np.stack(metrics.auc_pauc(values, one.anomalous, metrics.MAX_FPR), -1))
        halves.append(area_of_parts(values, one.anomalous, one.halves, max_fpr))
    return np.mean(whole, axis=0), np.mean(halves, axis=0)


def halved(
    clips: Mapping[str, NDArray[Any]], data: str, splits: int
) -> tuple[list[Section], list[str]]:
    """The sections that can be halved, with their halves; and sentences on the others.

    Args:
        clips: `clip`, `section`, `label` and, where there are domains, `domain` of each test clip.
        data: The fingerprint of the data, from which the halves follow.
        splits: Half 2k and its complement 2k + 1 are one split.
    """
    generator = np.random.default_rng(list(hashlib.sha256(data.encode()).digest()))
    domains = clips.get("domain", np.zeros(len(clips["clip"]), dtype=np.int8))
    found: list[Section] = []
    left_out = []
    for section in sorted(set(clips["section"].tolist())):
        labelled = np.isin(clips["label"], ("normal", "anomaly"))
        mine = np.flatnonzero((clips["section"] == section) & labelled)
        mine = mine[np.lexsort((clips["clip"][mine], domains[mine]))]  # whatever the file's order
        anomalous = clips["label"][mine] == "anomaly"
        counts = int((~anomalous).sum()), int(anomalous.sum())
        if min(counts) < 2:
            left_out.append(
                f"id_{section} left out: {counts[0]} normal, {counts[1]} anomaly clips; "
                "halves need two of each"
            )
            continue
        halves = np.zeros((splits, 2, len(mine)), dtype=bool)
        for split in range(splits):
            for label in (False, True):
                those = np.flatnonzero(anomalous == label)
                shuffled = np.lexsort((generator.random(len(those)), domains[mine][those]))
                first = (np.arange(len(those)) + generator.integers(2)) % 2 == 0
                halves[split, 0, those[shuffled[first]]] = True
                halves[split, 1, those[shuffled[~first]]] = True
        found.append(Section(mine, anomalous, halves.reshape(2 * splits, -1)))
    return found, left_out


def area_of_parts(
    scores: ArrayLike, labels: ArrayLike, parts: ArrayLike, max_fpr: float
) -> NDArray[np.float64]:
    """The area below `max_fpr` of each lane in each of many parts of the clips.

    As `metrics.auc_pauc` has it of the clips of a part, each as often as it counts there: AUC
    where `max_fpr` is 1, else pAUC. A lane's clips are sorted once for all parts.

    Args:
        scores: Shape (lanes, clips), finite.
        labels: Shape (clips,), 1 for an anomaly, 0 for a normal clip.
        parts: Shape (parts, clips): how often each clip counts, 0 or more; both classes do.
        max_fpr: In (0, 1].

    Returns:
        Shape (lanes, parts).
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels) == 1
    counts = np.asarray(parts, dtype=np.float64).T  # (clips, parts)
    of_normal, of_anomaly = counts[~truth], counts[truth]
    normals, anomalies = of_normal.sum(0), of_anomaly.sum(0)
    below = np.zeros((len(of_normal) + 1, counts.shape[1]))
    areas = np.empty((len(values), counts.shape[1]))
    for lane, row in enumerate(values):
        order = np.argsort(row[~truth])
        negative, positive = row[~truth][order], row[truth]
        np.cumsum(of_normal[order], axis=0, out=below[1:])
        not_above = below[np.searchsorted(negative, positive, side="right")]  # (anomalies, parts)
        under = below[np.searchsorted(negative, positive, side="left")]
        if max_fpr == 1:
            wins = np.einsum("ap,ap->p", not_above + under, of_anomaly)
            areas[lane] = wins / (2.0 * normals * anomalies)
        else:
            a, b = (normals - not_above) / normals, (normals - under) / normals
            strips = metrics.strip_areas(a, b, max_fpr)
            mean = np.einsum("ap,ap->p", strips, of_anomaly) / anomalies
            areas[lane] = metrics.standardised(mean, max_fpr)
    return areas
