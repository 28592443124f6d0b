"""How well anomaly scores separate anomalies from normal clips: AUC, pAUC, and their means.

AUC is the area under the receiver operating characteristic; pAUC the part of it below a false
positive rate of 0.1, standardised after McClish (1989) so that chance is 0.5. Both are
scikit-learn's numbers in float64, in closed form over any number of lanes. Higher scores are
stranger. Where an area is undefined the answer is None and a reason, never 0.5.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_FPR = 0.1  # of every DCASE Task 2 release
AREAS = ("auc", "pauc")


def auc_pauc(
    scores: ArrayLike, labels: ArrayLike, max_fpr: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC, and pAUC below `max_fpr`, of each lane.

    Args:
        scores: Shape (..., clips), one anomaly score per clip; higher is stranger.
        labels: Shape (clips,), 1 for an anomaly, 0 for a normal clip.
        max_fpr: False positive rate where pAUC ends, in (0, 1].

    Returns:
        Two arrays of shape (...,); NaN where one of the classes has no clip.

    Raises:
        ValueError: A score is NaN or infinite, a label is neither 0 nor 1, the shapes disagree,
            or `max_fpr` is out of range.

    Source: sklearn.metrics.roc_auc_score with and without max_fpr; McClish, Med. Decis. Making 9.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if truth.ndim != 1 or values.ndim == 0 or values.shape[-1] != len(truth):
        raise ValueError(
            f"scores of shape {values.shape} do not fit labels of shape {truth.shape}"
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, found {np.unique(truth).tolist()}")
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must lie in (0, 1], found {max_fpr}")
    _refuse_not_finite(values)
    lanes = values.shape[:-1]
    rows = values.reshape(-1, len(truth)) if len(truth) else np.empty((int(np.prod(lanes)), 0))
    anomalies = rows[:, truth == 1]
    normals = np.sort(rows[:, truth == 0], axis=-1)
    areas = np.full((2, len(rows)), np.nan)
    if anomalies.shape[1] and normals.shape[1]:
        for lane, (positive, negative) in enumerate(zip(anomalies, normals, strict=True)):
            areas[:, lane] = _areas(np.sort(positive), negative, max_fpr)
    return areas[0].reshape(lanes), areas[1].reshape(lanes)


def _areas(
    positive: NDArray[np.float64], negative: NDArray[np.float64], max_fpr: float
) -> tuple[float, float]:
    """AUC and pAUC of one lane; `negative` is sorted, `positive` too, for the cache's sake.

    Each positive owns a strip of height 1/len(positive) that starts on the ROC curve between
    false positive rates a and b, which differ where negatives tie with it.
    """
    count = len(negative)
    above = count - np.searchsorted(negative, positive, side="right")
    not_below = count - np.searchsorted(negative, positive, side="left")
    auc = 1.0 - float((above + not_below).sum()) / (2.0 * count * len(positive))
    if max_fpr == 1:
        return auc, auc
    strips = strip_areas(above / count, not_below / count, max_fpr)
    return auc, float(standardised(strips.mean(), max_fpr))


def strip_areas(above: ArrayLike, not_below: ArrayLike, max_fpr: float) -> NDArray[np.float64]:
    """What each anomaly's strip of the ROC curve, of height 1, holds below a false positive rate.

    Args:
        above: The share of normal clips above the anomaly, where its strip begins.
        not_below: The share of those not below it, where it has all of its height.
        max_fpr: Where the area ends, in (0, 1].
    """
    a, b = np.asarray(above, dtype=np.float64), np.asarray(not_below, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # a == b is never the chosen branch there
        cut = (max_fpr - a) ** 2 / (2.0 * (b - a))
    return np.where(b <= max_fpr, max_fpr - (a + b) / 2.0, np.where(a >= max_fpr, 0.0, cut))


def standardised(area: ArrayLike, max_fpr: float) -> NDArray[np.float64]:
    """The area below a false positive rate as 0.5 for chance and 1 at most, after McClish."""
    chance = max_fpr**2 / 2.0
    return 0.5 * (1.0 + (np.asarray(area, dtype=np.float64) - chance) / (max_fpr - chance))


def judge(
    scores: ArrayLike, sections: Sequence[str], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """What each lane's scores are worth on one machine type.

    Clips labelled "unknown" are left out. A section without both classes has no AUC: it states
    its `reason` and counts in no mean. The machine type's areas are the arithmetic means over its
    other sections; without any they are None, and there is a `reason` at the top too.

    Args:
        scores: Shape (lanes, clips).
        sections: Section of each clip.
        labels: "normal", "anomaly" or "unknown" for each clip.

    Returns:
        One dict a lane: `auc` and `pauc`, `clips` (labelled ones in sections that have an AUC),
        `sections`, from each section to its `auc`, `pauc`, `normal` and `anomaly` counts, and
        `pooled`, the `auc` and `pauc` of all labelled clips at once, None where a class lacks.

    Raises:
        ValueError: A score is NaN or infinite, a label is another word, or the shapes disagree.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(sections) or len(sections) != len(labels):
        raise ValueError(
            f"scores of shape {values.shape} do not fit {len(sections)} sections and "
            f"{len(labels)} labels"
        )
    if strange := sorted(set(labels) - {"normal", "anomaly", "unknown"}):
        raise ValueError(f"labels must be normal, anomaly or unknown, found {strange}")
    _refuse_not_finite(values)
    words, places = np.array(labels, dtype=str), np.array(sections, dtype=str)
    judged: list[dict[str, Any]] = [{"clips": 0, "sections": {}} for _ in values]
    for section in sorted(set(sections)):
        mine = places == section
        known = mine & (words != "unknown")
        areas = auc_pauc(values[:, known], words[known] == "anomaly", MAX_FPR)
        normal = int((mine & (words == "normal")).sum())
        anomaly = int((mine & (words == "anomaly")).sum())
        unlabelled = int(mine.sum()) - normal - anomaly
        for lane, row in enumerate(judged):
            entry: dict[str, Any] = {
                "auc": None,
                "pauc": None,
                "normal": normal,
                "anomaly": anomaly,
            }
            if normal and anomaly:
                entry |= {area: float(areas[at][lane]) for at, area in enumerate(AREAS)}
                row["clips"] += normal + anomaly
            else:
                also = f" ({unlabelled} unlabelled)" if unlabelled else ""
                entry["reason"] = (
                    f"id_{section}: {normal} normal, {anomaly} anomaly clips{also}; "
                    "an AUC needs both"
                )
            row["sections"][section] = entry
    known = words != "unknown"
    together = auc_pauc(values[:, known], words[known] == "anomaly", MAX_FPR)
    for lane, row in enumerate(judged):
        row["pooled"] = {
            area: None if np.isnan(of[lane]) else float(of[lane])
            for area, of in zip(AREAS, together, strict=True)
        }
    return [_over_sections(row) for row in judged]


def _over_sections(row: dict[str, Any]) -> dict[str, Any]:
    defined = [entry for entry in row["sections"].values() if entry["auc"] is not None]
    means = {
        area: float(np.mean([entry[area] for entry in defined])) if defined else None
        for area in AREAS
    }
    reasons = [entry["reason"] for entry in row["sections"].values() if "reason" in entry]
    return {
        **means,
        **row,
        **({} if defined else {"reason": "; ".join(reasons) or "no test clips"}),
    }


def overall(judged: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over machine types of what `judge` gave for each.

    Args:
        judged: From machine type to a dict with `auc`, `pauc` (None where undefined) and `clips`.

    Returns:
        `auc_weighted` and `pauc_weighted` (weights: `clips`, as the 2024 paper weights types),
        `auc_mean` and `pauc_mean` (arithmetic), None without any type that has an AUC; the
        standard deviations over types around them, `auc_weighted_std` (the same weights) and
        `auc_mean_std`, of these very types and not of a sample (ddof 0), and of pAUC likewise;
        `machine_types` counted in all of these, and the `undefined` others, both sorted.
    """
    counted = sorted(name for name, row in judged.items() if row["auc"] is not None)
    means: dict[str, Any] = {}
    for area in AREAS:
        values = [judged[name][area] for name in counted]
        weights = [judged[name]["clips"] for name in counted]
        for kind, counts in (("weighted", weights), ("mean", [1] * len(values))):
            mean = _weighted(values, counts)
            means[f"{area}_{kind}"] = mean
            squares = [] if mean is None else [(value - mean) ** 2 for value in values]
            spread = _weighted(squares, counts) if squares else None
            means[f"{area}_{kind}_std"] = None if spread is None else math.sqrt(spread)
    return {**means, "machine_types": counted, "undefined": sorted(set(judged) - set(counted))}


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float | None:
    """The weighted mean; None where nothing has weight."""
    total = math.fsum(weights)
    return math.fsum(map(operator.mul, values, weights)) / total if total else None


def _refuse_not_finite(scores: NDArray[np.float64]) -> None:
    nan, infinite = int(np.isnan(scores).sum()), int(np.isinf(scores).sum())
    if nan or infinite:
        raise ValueError(
            f"{nan} NaN and {infinite} infinite among {scores.size} anomaly scores; a detector "
            "that diverged has no AUC"
        )
