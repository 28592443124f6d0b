"""Do 95 % intervals hold the truth 95 times of 100? Simulates detectors whose truth is known.

    python checks/interval_coverage.py [--repeats 1000] [--draws 300] [--only WORDS]

A clip's score is normal with deviation 1: one part is the clip's own and the same in every
training, `blur` the part that each training adds; anomalies lie higher by a distance, which
spreads over trainings by `spread`; target clips lie higher by `shift`. The truth is the area under
the curve of those distributions, averaged over trainings. Exits with 1 unless every share lies
between 93 and 97 per cent.

Last figures, 1,000 repeats of 300 draws, 3 to 6 s a case (numpy 2.4.6; the truth, the share of
intervals that hold it in per cent, and their mean width):

    AUC 0.7                         0.700  95.1  0.144
    AUC 0.9                         0.900  95.7  0.085
    AUC 0.7, 25 clips               0.700  95.1  0.290
    AUC 0.8, 6 types of 30          0.800  94.8  0.094
    pAUC at AUC 0.7                 0.565  96.0  0.126
    pAUC at AUC 0.8                 0.633  95.9  0.155
    pAUC at AUC 0.9                 0.751  96.0  0.168
    pAUC at AUC 0.8, 6 types        0.633  94.5  0.065
    AUC, 2 seeds that agree         0.800  93.7  0.122
    AUC, 2 seeds of other noise     0.800  96.7  0.139
    AUC, 2 seeds of other worth     0.798  95.7  0.235
    AUC, 3 seeds of other worth     0.798  96.6  0.180
    AUC, 5 seeds of other worth     0.798  96.3  0.147
    pAUC, 2 seeds of other worth    0.635  96.4  0.223
    AUC, 6 types, 2 seeds           0.798  96.2  0.073
    official score                  0.727  96.9  0.127
    official score, 2 seeds         0.726  96.0  0.226
    AUC, equal rows                 0.000  96.2  0.127
    AUC, B better                  -0.070  95.9  0.118
    pAUC, B better                 -0.074  96.0  0.198
    AUC, B better, 2 seeds         -0.070  94.2  0.261
    AUC, B better, 6 types         -0.037  95.3  0.095
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import special

from asdgan.results import metrics
from asdgan.results.challenge import official
from asdgan.results.intervals import TypeScores, compared, interval

LOW, HIGH = 0.93, 0.97
YEAR = 2022
TRAININGS = 201  # that stand for all of a spread
GRID = np.linspace(-12.0, 12.0, 20_001)  # thresholds


@dataclass(frozen=True)
class Case:
    """What is simulated; `lead` is the distance that row B has beyond row A's, None for no B."""

    title: str
    area: str = "auc"
    auc: float = 0.8
    clips: int = 100  # of each class
    seeds: int = 1
    blur: float = 0.0
    spread: float = 0.0
    types: int = 1
    shift: float = 0.0
    lead: float | None = None

    @property
    def distance(self) -> float:
        """Between anomalies and normal clips, in deviations of a score."""
        return math.sqrt(2.0) * NormalDist().inv_cdf(self.auc)


CASES = (
    Case("AUC 0.7", auc=0.7),
    Case("AUC 0.9", auc=0.9),
    Case("AUC 0.7, 25 clips", auc=0.7, clips=25),
    Case("AUC 0.8, 6 types of 30", clips=30, types=6),
    Case("pAUC at AUC 0.7", "pauc", auc=0.7),
    Case("pAUC at AUC 0.8", "pauc"),
    Case("pAUC at AUC 0.9", "pauc", auc=0.9),
    Case("pAUC at AUC 0.8, 6 types", "pauc", types=6),
    Case("AUC, 2 seeds that agree", seeds=2),
    Case("AUC, 2 seeds of other noise", seeds=2, blur=0.5),
    Case("AUC, 2 seeds of other worth", seeds=2, blur=0.3, spread=0.2),
    Case("AUC, 3 seeds of other worth", seeds=3, blur=0.3, spread=0.2),
    Case("AUC, 5 seeds of other worth", seeds=5, blur=0.3, spread=0.2),
    Case("pAUC, 2 seeds of other worth", "pauc", seeds=2, blur=0.3, spread=0.2),
    Case("AUC, 6 types, 2 seeds", seeds=2, blur=0.3, spread=0.2, types=6),
    Case("official score", "official", shift=0.5),
    Case("official score, 2 seeds", "official", seeds=2, blur=0.3, spread=0.2, shift=0.5),
    Case("AUC, equal rows", blur=0.7, lead=0.0),
    Case("AUC, B better", blur=0.7, lead=0.4),
    Case("pAUC, B better", "pauc", blur=0.7, lead=0.4),
    Case("AUC, B better, 2 seeds", seeds=2, blur=0.5, spread=0.2, lead=0.4),
    Case("AUC, B better, 6 types", blur=0.7, lead=0.2, types=6, clips=30),
)


def truth(case: Case, distance: float) -> float:
    """The value of infinitely many clips and trainings."""
    trainings = [(number + 0.5) / TRAININGS for number in range(TRAININGS if case.spread else 1)]
    worth = [distance + case.spread * NormalDist().inv_cdf(share) for share in trainings]
    return float(np.mean([_worth(case, one) for one in worth]))


def _worth(case: Case, distance: float) -> float:
    source, target = special.ndtr(-GRID), special.ndtr(case.shift - GRID)  # above a threshold
    found = special.ndtr(distance - GRID), special.ndtr(distance + case.shift - GRID)
    if case.area != "official":
        return _under(source, found[0], case.area)
    both = (found[0] + found[1]) / 2.0
    values = [_under(source, both, "auc"), _under(target, both, "auc")]
    return official.harmonic_mean([*values, _under((source + target) / 2.0, both, "pauc")])


def _under(false: NDArray[np.float64], true: NDArray[np.float64], area: str) -> float:
    """The area under a curve of rates that fall as the threshold rises."""
    rates = np.linspace(0.0, 1.0 if area == "auc" else metrics.MAX_FPR, 20_001)
    whole = float(np.trapezoid(np.interp(rates, false[::-1], true[::-1]), rates))
    return whole if area == "auc" else float(metrics.standardised(whole, metrics.MAX_FPR))


def simulated(case: Case, generator: np.random.Generator) -> list[list[TypeScores]]:
    """Row A, and row B where there is one, on the same clips."""
    size = 2 * case.clips
    anomalous = np.repeat([0.0, 1.0], case.clips)
    target = np.tile([0.0, 1.0], case.clips)
    labels = tuple("anomaly" if one else "normal" for one in anomalous)
    domains = tuple("target" if one else "source" for one in target)
    distances = [case.distance + lead for lead in (0.0, case.lead) if lead is not None]
    rows: list[list[TypeScores]] = [[] for _ in distances]
    for number in range(case.types):
        clips = math.sqrt(1.0 - case.blur**2) * generator.normal(size=size) + case.shift * target
        for row, distance in zip(rows, distances, strict=True):
            worth = distance + case.spread * generator.normal(size=(case.seeds, 1))
            noise = case.blur * generator.normal(size=(case.seeds, size))
            scores = clips + noise + worth * anomalous
            row.append(TypeScores(f"type{number}", scores, ("00",) * size, labels, domains))
    return rows


def held(case: Case, repeats: int, draws: int) -> tuple[float, float, float]:
    """The truth, the share of intervals that hold it, and their mean width."""
    generator, hits, widths = np.random.default_rng(0), 0, 0.0
    true = truth(case, case.distance)
    if case.lead is not None:
        true -= truth(case, case.distance + case.lead)
    for _ in range(repeats):
        a, *b = simulated(case, generator)
        if b:
            outcome = compared(a, b[0], area=case.area, draws=draws, year=YEAR)
            assert outcome is not None
            one = outcome.difference
        else:
            one = interval(a, area=case.area, draws=draws, year=YEAR)
            assert one is not None
        hits += one.low <= true <= one.high
        widths += one.high - one.low
    return true, hits / repeats, widths / repeats


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line a case; gives 1 where a share is out of bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000, help="of each case")
    parser.add_argument("--draws", type=int, default=300, help="of clips for each interval")
    parser.add_argument("--only", default="", help="cases with these words in their title")
    chosen = parser.parse_args(argv)
    wrong = 0
    print(f"{'':30s}  truth  held  width")
    for case in (case for case in CASES if chosen.only in case.title):
        true, share, width = held(case, chosen.repeats, chosen.draws)
        wrong += not LOW <= share <= HIGH
        print(f"{case.title:30s} {true:6.3f} {100 * share:5.1f} {width:6.3f}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
