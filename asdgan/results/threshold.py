"""Where an anomaly begins: thresholds and p-values from the scores of normal training clips."""

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdgan.errors import BadInput

FITS = ("gamma", "quantile", "none")
QUANTILE = 0.9  # of the baselines


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where a score begins to be an anomaly: `value`, and how it was found."""

    value: float
    fit: str
    quantile: float
    parameters: dict[str, float]

    def verdict(self, score: float) -> str:
        """`anomaly` above the value, `normal` up to it."""
        return "anomaly" if score > self.value else "normal"


def add_quantile(parser: argparse.ArgumentParser) -> None:
    """Adds `--quantile` to a command line."""
    said = f"of training scores ({QUANTILE})"
    parser.add_argument("--quantile", type=float, default=QUANTILE, metavar="Q", help=said)


def refuse_quantile(quantile: float) -> None:
    """Refuses a share that is none.

    Raises:
        BadInput: It is not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise BadInput(f"--quantile {quantile} is not between 0 and 1; baselines take {QUANTILE}")


def threshold(scores: NDArray[np.float64], fit: str, quantile: float) -> Threshold:
    """The score that a share of normal clips stays below.

    Args:
        scores: Of training clips, shape (clips,).
        fit: `gamma`: a gamma distribution with three free parameters is fitted to the scores, and
            the value is its quantile; `quantile`: that of the scores themselves.
        quantile: In (0, 1); the baselines take 0.9.

    Raises:
        ValueError: A score is not finite, or no such distribution fits.

    Source: y-kawagu/dcase2021_task2_baseline_ae, whose threshold is one for each machine type.
    """
    if not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"{int(np.isfinite(scores).sum())} of {len(scores)} scores are finite")
    if fit == "quantile":
        return Threshold(float(np.quantile(scores, quantile)), fit, quantile, {})
    from scipy import stats  # takes longer to load than everything else here

    if np.ptp(scores) == 0:
        raise ValueError(f"all {len(scores)} scores are equal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the search; its end is looked at
        try:
            shape, loc, scale = map(float, stats.gamma.fit(scores))
        except stats.FitError as error:
            raise ValueError(str(error)) from None
        value = float(stats.gamma.ppf(quantile, shape, loc=loc, scale=scale))
    if not np.isfinite(value):
        raise ValueError("the fit has no finite quantile")
    parameters = {"shape": shape, "loc": loc, "scale": scale}
    return Threshold(value, fit, quantile, parameters)


def usual_threshold(scores: NDArray[np.float64]) -> Threshold | None:
    """The baselines' threshold: gamma at 0.9, or the plain quantile where no gamma fits.

    Args:
        scores: Of training clips, shape (clips,).

    Returns:
        None where there is no score, or one that is not finite.
    """
    for fit in ("gamma", "quantile"):
        try:
            return threshold(scores, fit, QUANTILE)
        except ValueError:
            continue
    return None


def p_value(score: float, scores: NDArray[np.float64]) -> float:
    """How often a normal clip is at least as strange: (1 + those that are) / (1 + all).

    Args:
        score: Of a clip.
        scores: Of normal clips, shape (clips,); those that a detector learned from score lower
            than new ones, so that the value comes out a little small.
    """
    return (1 + int((scores >= score).sum())) / (1 + len(scores))


def training_scores(
    stored: Mapping[str, NDArray[Any]], primary: str, number: int
) -> NDArray[np.float64] | None:
    """What the training clips of a point scored, shape (clips,); None where that was not kept.

    Args:
        stored: As `ledger.read_scores` gives it.
        primary: The component score.
        number: Of the point's row in its result.
    """
    scores = stored.get(f"train_score/{primary}")
    return None if scores is None else scores[number]
