"""Each year's official numbers of DCASE Task 2, as that year's evaluator gives them.

What is common: AUC and pAUC are those of `metrics`, harmonic means floor their values at machine
epsilon, precision, recall and F1 come from the submitted decisions. What differs by year is which
clips an AUC compares, and which mean is the score; a function each says so. An area that lacks a
class is None, states its reason, counts in no mean, and leaves the official score undefined.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asdgan.results.metrics import MAX_FPR, auc_pauc

EPSILON = sys.float_info.epsilon
AREAS = ("AUC", "pAUC")
DECIDED = ("precision", "recall", "F1 score")
DOMAINS = ("source", "target")
SCORE = "official score"

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """What one system said of one section, and what was true.

    Attributes:
        machine_type: As the release spells it.
        section: Two digits; the machine id of 2020.
        scores: Shape (clips,), finite, higher is stranger.
        anomalous: Shape (clips,).
        target: Shape (clips,), True in the target domain; None in 2020, which knows no domains.
        decided: Shape (clips,), True where an anomaly was declared; None without decisions.
    """

    machine_type: str
    section: str
    scores: NDArray[np.float64]
    anomalous: NDArray[np.bool_]
    target: NDArray[np.bool_] | None = None
    decided: NDArray[np.bool_] | None = None


class _Value(NamedTuple):
    """One number of one section; `domain` is None where it belongs to both."""

    metric: str
    domain: str | None
    value: float | None


Rows = tuple[list[dict[str, Any]], list[_Value]]  # lines to print, and what enters the means


def official_2020(sections: Sequence[Section]) -> Report:
    """AUC and pAUC per machine id, and their arithmetic means.

    There is no official score: the challenge ranked teams by these averages, machine type by
    machine type.

    Args:
        sections: Those of a machine type in the order of the lines.

    Returns:
        `machines`: for each its `sections` (lines) and `means`; `overall`: means over machine
        types and over ids; `undefined`: a sentence for each area that lacks a class.

    Source: y-kawagu/dcase2020_task2_evaluator.
    """
    report = _report(sections, _by_id, {"Average": (_arithmetic, DOMAINS)})
    values = report.pop("values")
    averages = [machine["means"]["Average"] for machine in report["machines"].values()]
    report["overall"] = {
        "arithmetic mean over machine types": {
            area: _arithmetic([mean[area] for mean in averages]) for area in AREAS
        },
        "arithmetic mean over ids": _mean(values, _arithmetic, DOMAINS),
    }
    return report


def official_2021(sections: Sequence[Section]) -> Report:
    """Each domain by itself; the score is the harmonic mean of every AUC and pAUC.

    Args:
        sections: Those of a machine type in the order of the lines.

    Returns:
        As `official_2020`; `overall` has the official score, None where a value lacks.

    Source: y-kawagu/dcase2021_task2_evaluator.
    """
    report = _scored(_report(sections, _within_domains, MEANS))
    for machine in report["machines"].values():
        machine["sections"].sort(key=lambda line: line["domain"])  # all source lines come first
    return report


def official_2022(sections: Sequence[Section]) -> Report:
    """One domain's normal clips against all anomalies; the rule of 2022 to 2025.

    AUC (source) and AUC (target) take the normal clips of that domain and the anomalies of both,
    pAUC takes every clip of the section, and the score is the harmonic mean of the three over all
    sections. Precision, recall and F1 stay within a domain. A machine type's source and target
    means hold that domain's values: the 2022 evaluator's own lines of that name cut the list in
    another place, which its successors mended.

    Args:
        sections: Those of a machine type in the order of the lines.

    Returns:
        As `official_2021`.

    Source: Kota-Dohi/dcase2022_evaluator, nttcslab/dcase2023_task2_evaluator and its successor.
    """
    return _scored(_report(sections, _across_domains, MEANS))


OFFICIAL: Mapping[int, Callable[[Sequence[Section]], Report]] = {
    2020: official_2020,
    2021: official_2021,
    2022: official_2022,
    2023: official_2022,
    2024: official_2022,
    2025: official_2022,
}


# Means ------------------------------------------------------------------------------------------


def harmonic_mean(values: Iterable[float]) -> float:
    """Of values of 0 at least, each floored at machine epsilon as the evaluators do."""
    inverse = [1.0 / max(value, EPSILON) for value in values]
    return len(inverse) / math.fsum(inverse)


def _harmonic(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return harmonic_mean(defined) if defined else None


def _arithmetic(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


Kind = Callable[[Sequence[float | None]], float | None]
MEANS: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "arithmetic mean": (_arithmetic, DOMAINS),
    "harmonic mean": (_harmonic, DOMAINS),
    "source harmonic mean": (_harmonic, ("source",)),
    "target harmonic mean": (_harmonic, ("target",)),
}


def _mean(
    values: Sequence[_Value], kind: Kind, domains: tuple[str, ...]
) -> dict[str, float | None]:
    """The mean of each metric over what belongs to these domains."""
    present = {one.metric for one in values}
    return {
        metric: kind(
            [
                one.value
                for one in values
                if one.metric == metric and (one.domain is None or one.domain in domains)
            ]
        )
        for metric in (*AREAS, *DECIDED)
        if metric in present
    }


def _report(
    sections: Sequence[Section],
    lines: Callable[[Section, list[str]], Rows],
    means: Mapping[str, tuple[Kind, tuple[str, ...]]],
) -> Report:
    """Lines and means of each machine type, in the order in which they first come."""
    machines: dict[str, Report] = {}
    found: dict[str, list[_Value]] = {}
    undefined: list[str] = []
    for one in sections:
        machine = machines.setdefault(one.machine_type, {"sections": []})
        rows, values = lines(one, undefined)
        machine["sections"] += rows
        found.setdefault(one.machine_type, []).extend(values)
    for name, machine in machines.items():
        machine["means"] = {title: _mean(found[name], *how) for title, how in means.items()}
    return {
        "machines": machines,
        "values": [value for values in found.values() for value in values],
        "undefined": undefined,
    }


def _scored(report: Report) -> Report:
    """The report with means over everything, and the score."""
    values: list[_Value] = report.pop("values")
    areas = [one.value for one in values if one.metric in AREAS]
    whole = bool(areas) and None not in areas
    means = {title: _mean(values, *how) for title, how in MEANS.items()}
    return {**report, "overall": {**means, SCORE: _harmonic(areas) if whole else None}}


# Lines ------------------------------------------------------------------------------------------


def _by_id(one: Section, undefined: list[str]) -> Rows:
    every = np.ones(len(one.scores), dtype=bool)
    areas = _areas(one, every, "", undefined)
    return [{"id": one.section, **areas}], [_Value(area, None, areas[area]) for area in AREAS]


def _within_domains(one: Section, undefined: list[str]) -> Rows:
    rows, values = [], []
    for domain, mine in _domains(one):
        said = {**_areas(one, mine, f" of {domain}", undefined), **_decisions(one, mine)}
        rows.append({"section": one.section, "domain": domain, **said})
        values += [_Value(metric, domain, value) for metric, value in said.items()]
    return rows, values


def _across_domains(one: Section, undefined: list[str]) -> Rows:
    whole = _areas(one, np.ones(len(one.scores), dtype=bool), "", undefined)
    values = [_Value("pAUC", None, whole["pAUC"])]
    line: dict[str, Any] = {}
    for domain, mine in _domains(one):
        area = _areas(one, mine | one.anomalous, f" ({domain})", undefined)["AUC"]
        line[f"AUC ({domain})"] = area
        values.append(_Value("AUC", domain, area))
    line = {"section": one.section, "AUC (all)": whole["AUC"], **line, "pAUC": whole["pAUC"]}
    by_domain = {domain: _decisions(one, mine) for domain, mine in _domains(one)}
    for metric in DECIDED:
        for domain, said in by_domain.items():
            if metric in said:
                line[f"{metric} ({domain})"] = said[metric]
                values.append(_Value(metric, domain, said[metric]))
    return [line], values


def _domains(one: Section) -> list[tuple[str, NDArray[np.bool_]]]:
    if one.target is None:
        raise ValueError(f"{one.machine_type} section {one.section} does not know its domains")
    return [("source", ~one.target), ("target", one.target)]


def _areas(
    one: Section, mine: NDArray[np.bool_], where: str, undefined: list[str]
) -> dict[str, float | None]:
    """AUC and pAUC of the chosen clips; None, and a sentence more, where a class is missing."""
    anomalies = int((one.anomalous & mine).sum())
    normals = int(mine.sum()) - anomalies
    if not (anomalies and normals):
        undefined.append(
            f"{one.machine_type} {one.section}{where}: {normals} normal, {anomalies} anomaly "
            "clips; an AUC needs both"
        )
        return dict.fromkeys(AREAS)
    areas = auc_pauc(one.scores[mine], one.anomalous[mine], MAX_FPR)
    return dict(zip(AREAS, map(float, areas), strict=True))


def _decisions(one: Section, mine: NDArray[np.bool_]) -> dict[str, float | None]:
    """Precision, recall and F1 within the chosen clips; empty without decisions."""
    if one.decided is None:
        return {}
    if not mine.any():
        return dict.fromkeys(DECIDED)
    true, said = one.anomalous[mine], one.decided[mine]
    hits = int((true & said).sum())
    precision = hits / max(int(said.sum()), EPSILON)
    recall = hits / max(int(true.sum()), EPSILON)
    f1 = 2.0 * precision * recall / max(precision + recall, EPSILON)
    return dict(zip(DECIDED, (precision, recall, f1), strict=True))
