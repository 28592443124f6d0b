"""How sure the board's lines are, and whether two of them differ: `board --intervals, --compare`.

The clip scores of a line's points are read where they are stored, machine type by machine type and
seed by seed; `intervals` says what they are worth. Two lines are compared on the machine types of
which both scored the same clips, which the fingerprint of the data says; the others are named.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asdgan._system.console import printable
from asdgan.errors import BadInput, Damaged
from asdgan.results import choose, intervals, ledger, metrics, points, ranking
from asdgan.results.challenge import official
from asdgan.results.choose import Source
from asdgan.results.intervals import LEVEL, Comparison, TypeScores
from asdgan.results.ranking import PLAIN, WEIGHTED, Line, area_said

PREFIX = re.compile(r"[0-9a-f]{4,16}")
GRAMMAR = (
    "the beginning of a signature of a line, as the board prints it (4 digits at least), or "
    "conditions that one line meets, KEY=VALUE,KEY=VALUE"
)
SURE = f"{LEVEL:.0%}".replace("%", " %")
ENDS = tuple(f"{area}_{end}" for area in metrics.AREAS for end in ("low", "high"))


class Place(NamedTuple):
    """What two rows must share to be paired; `data` is the fingerprint of the clips."""

    release: str
    machine_type: str
    data: str


@dataclass(frozen=True, slots=True)
class _Scored:
    """The scores of one point, shape (clips,), and what was true of its clips."""

    place: Place
    seed: int
    scores: NDArray[np.float64]
    clips: tuple[tuple[str, ...], ...]  # names, sections, labels, domains


# What was stored --------------------------------------------------------------------------------


def scored(source: Source, names: Collection[str]) -> dict[str, _Scored]:
    """The clip scores of points by signature; those that scored no clip are left out.

    Raises:
        BadInput: Scores are missing, or are not what was written.
    """
    found: dict[str, _Scored] = {}
    path, arrays = None, {}
    clips: tuple[tuple[str, ...], ...] = ()
    for row, result, number in source.rows(names):
        if path != result.path:  # a stack has many rows
            try:
                path, arrays = result.path, ledger.read_scores(result)
            except Damaged as error:
                raise BadInput(f"{error}; run that point again") from None
            none = np.full(len(arrays["clip"]), "")
            texts = (arrays.get(name, none) for name in ("clip", "section", "label", "domain"))
            clips = tuple(tuple(text.tolist()) for text in texts)
        if (scores := arrays.get(f"score/{row['primary']}")) is not None and len(scores[number]):
            place = Place(row["release"], row["machine_type"], row["data"])
            values = np.asarray(scores[number], dtype=np.float64)
            found[row["signature"]] = _Scored(place, row["seed"], values, clips)
    return found


def by_place(names: Iterable[str], known: Mapping[str, _Scored]) -> dict[Place, TypeScores]:
    """The scores of a line, each machine type's seeds together.

    Args:
        names: The signatures of the line.
        known: As `scored` gave them.

    Raises:
        BadInput: Two seeds of a machine type did not score the same clips.
    """
    groups: dict[Place, list[_Scored]] = {}
    for one in sorted((known[name] for name in names if name in known), key=lambda one: one.seed):
        groups.setdefault(one.place, []).append(one)
    found = {}
    for place, some in sorted(groups.items()):
        if any(one.clips != some[0].clips for one in some):
            raise BadInput(f"seeds of {place.machine_type} did not score the same clips")
        _, sections, labels, domains = some[0].clips
        scores = np.stack([one.scores for one in some])
        known_domains = tuple(domain or None for domain in domains)
        found[place] = TypeScores(place.machine_type, scores, sections, labels, known_domains)
    return found


# Intervals --------------------------------------------------------------------------------------


def add_intervals(lines: Sequence[Line], source: Source, draws: int) -> str:
    """Adds `ENDS`, those of the intervals of AUC and pAUC, to lines; None where undefined.

    Args:
        lines: As `ranking.ranked` gives them.
        source: Where their results are.
        draws: Of clips.

    Returns:
        A sentence on what they are of.
    """
    known = scored(source, {name for line in lines for name in line["signatures"].split()})
    for line in lines:
        types = list(by_place(line["signatures"].split(), known).values())
        mean = "mean" if line.get("machine_type") == PLAIN else "weighted"
        for area in metrics.AREAS:
            one = intervals.interval(types, area=area, mean=mean, draws=draws)
            line[f"{area}_low"] = one.low if one else None
            line[f"{area}_high"] = one.high if one else None
    return (
        f"{SURE} intervals: {draws} draws of the clips of each section, and the spread over seeds "
        "where a line has several; with one seed they say nothing of training again"
    )


def range_said(line: Line, area: str) -> str:
    """The interval of a line as it is printed; empty for a line that has none."""
    if (low := line.get(f"{area}_low")) is None:
        return ""
    return f"{area_said(low)} to {area_said(line[f'{area}_high'])}"


# Comparing --------------------------------------------------------------------------------------


def compare(
    source: Source,
    texts: Sequence[str],
    *,
    by: str,
    draws: int,
    where: Sequence[str] = (),
    wanted: Collection[str] | None = None,
    console: Console,
) -> list[Line]:
    """Prints what two lines of the board differ by; gives the lines that it printed.

    Args:
        source: Where results are.
        texts: Two, each naming a line as `GRAMMAR` says.
        by: Which lines there are, one of `ranking.VIEWS`.
        draws: Of clips.
        where: Conditions that hold for both.
        wanted: Signatures of a sweep's points, the only ones that count; None for all.
        console: Printed to.

    Raises:
        BadInput: There is no such line, or there are several, or they share no clips.
    """

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style), soft_wrap=True)

    first, second = (_line(source, text, by, where, wanted) for text in texts)
    names = [line["signatures"].split() for line in (first, second)]
    known = scored(source, {*names[0], *names[1]})
    sides = [by_place(some, known) for some in names]
    common = sorted(sides[0].keys() & sides[1].keys())
    apart = _apart(sides)
    if not common:
        raise BadInput(
            f"A and B have scored no clips in common ({apart or 'no clip was scored'}); compare "
            "lines on the same data"
        )
    pairs = [(sides[0][place], sides[1][place]) for place in common]
    for a, b in pairs:
        if (a.sections, a.labels, a.domains) != (b.sections, b.labels, b.domains):
            raise BadInput(f"A and B did not score the same clips of {a.machine_type}")
    for name, text, line, side in zip("AB", texts, (first, second), sides, strict=True):
        say(f"{name}: {text} ({_described(line, side.values())})", "bold")
        if line["selection"].startswith("oracle"):
            say(f"test labels chose the settings of {name}, which flatters it", "yellow")
    if apart:
        say(f"not compared: {apart}", "yellow")
    lines = list(_lines(pairs, common[0].release, draws))
    console.print(_table(lines))
    say(
        f"A - B with its {SURE} interval over {draws} draws of the same clips for both, and "
        "over seeds where a line has several; p and interval agree. DeLong's p is of the clips "
        "alone.",
        "dim",
    )
    return lines


def _line(
    source: Source,
    text: str,
    by: str,
    where: Sequence[str],
    wanted: Collection[str] | None,
) -> Line:
    """The only line of the board that a text names."""
    prefix = text if PREFIX.fullmatch(text) else None
    conditions = [] if prefix else re.split(r",(?=[^,=]+=)", text)
    if any("=" not in condition for condition in conditions):
        raise BadInput(f"--compare {text!r} names no line; it takes {GRAMMAR}")
    gathered = points.gather(source.results(), where=[*where, *conditions], wanted=wanted)
    varying, _ = ranking.factored(gathered)
    tables = ranking.ranked(gathered, by=by, area="auc", varying=varying)
    found = [
        line
        for lines in tables.values()
        for line in lines
        if (by != "best" or line["machine_type"] == WEIGHTED)
        and (not prefix or any(one.startswith(prefix) for one in line["signatures"].split()))
    ]
    if not found:
        raise BadInput(
            f"--compare {text!r}: no such line in {source.path}; the board prints a signature "
            "and the settings of each"
        )
    if len(found) > 1:
        keys = ("release", "model", *varying, "selection", "machine_type", "seed")
        data = {one.signature: one.data[:8] for one in gathered.points}
        differ = choose.differing({key: line.get(key) for key in keys} for line in found)
        differ = differ or choose.differing(
            {"data": data[line["signatures"].split()[0]]} for line in found
        )
        raise BadInput(
            f"--compare {text!r} names {len(found)} lines, which differ in {differ}; add what "
            "tells them apart, or name the signature of one"
        )
    return found[0]


def _described(line: Line, types: Collection[TypeScores]) -> str:
    seeds = sorted({len(one.scores) for one in types}) or [0]
    counted = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    name = line["signatures"].split()[0][:8]
    return f"{line['model']}, signature {name}, {counted} seed{'s' * (counted != '1')}"


def _apart(sides: Sequence[Collection[Place]]) -> str:
    """The machine types that one side lacks, or has with other clips."""
    a, b = ({place[:2] for place in side} for side in sides)
    both = {place[:2] for place in set(sides[0]) & set(sides[1])}
    parts = {"missing in A": b - a, "missing in B": a - b, "other clips": (a & b) - both}
    return "; ".join(
        f"{what}: {', '.join(name for _, name in sorted(types))}"
        for what, types in parts.items()
        if types
    )


def _lines(
    pairs: Sequence[tuple[TypeScores, TypeScores]], release: str, draws: int
) -> Iterable[Line]:
    """A line for each area of each machine type, then of both means, then the official score."""
    for area in metrics.AREAS:
        for a, b in pairs:
            outcome = intervals.compared([a], [b], area=area, draws=draws)
            delong = intervals.delong_p_value(a, b) if area == "auc" else None
            yield _said(area, a.machine_type, outcome, delong)
        for mean, name in (("weighted", WEIGHTED), ("mean", PLAIN)) if len(pairs) > 1 else ():
            firsts, seconds = zip(*pairs, strict=True)
            outcome = intervals.compared(firsts, seconds, area=area, mean=mean, draws=draws)
            yield _said(area, name, outcome)
    year = re.fullmatch(r"dcase(20[0-9]{2})", release)
    if year and int(year[1]) in intervals.COMPARED:
        firsts, seconds = zip(*pairs, strict=True)
        even = all(len({len(one.scores) for one in side}) == 1 for side in (firsts, seconds))
        if even and not any(None in one.domains for one in firsts):
            outcome = intervals.compared(
                firsts, seconds, area="official", draws=draws, year=int(year[1])
            )
            yield _said(f"{official.SCORE} {year[1]}", "all of these", outcome)


def _said(
    area: str, machine_type: str, outcome: Comparison | None, delong: float | None = None
) -> Line:
    line: dict[str, Any] = dict.fromkeys(["a", "b", "difference", "low", "high", "p_value"])
    if outcome is not None:
        apart = outcome.difference
        line = {"a": outcome.a, "b": outcome.b, "difference": apart.value, "low": apart.low}
        line |= {"high": apart.high, "p_value": outcome.p_value}
    verdict = "undefined"
    if outcome is not None:
        verdict = "tied" if outcome.tied else "A" if outcome.difference.value > 0 else "B"
    return {
        "area": area,
        "machine_type": machine_type,
        **line,
        "better": verdict,
        "delong": delong,
    }


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = {"auc": "AUC", "pauc": "pAUC"}
    for heading in ("area", "machine type"):
        table.add_column(heading)
    for heading in ("A", "B", "A - B", f"{SURE} interval", "p", "DeLong p"):
        table.add_column(heading, justify="right")
    table.add_column("better")
    for line in lines:
        low, high = line["low"], line["high"]
        cells = [
            names.get(line["area"], line["area"]),
            line["machine_type"],
            area_said(line["a"]),
            area_said(line["b"]),
            "" if low is None else f"{line['difference']:+.4f}",
            "" if low is None else f"{low:+.4f} to {high:+.4f}",
            _p_said(line["p_value"]),
            _p_said(line["delong"]),
            line["better"],
        ]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _p_said(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"
