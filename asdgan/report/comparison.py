"""Ours beside theirs: the results of a sweep and the published numbers that it stands beside.

For each detector and source a line for each machine type (and section, where the source has them)
and the means and spreads over machine types. Of a grid the best settings by AUC stand on each
machine type, which test labels chose: `oracle`. Everything is in per cent.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asdgan.report import published, significance
from asdgan.report.formats import Sheet
from asdgan.report.published import BOUNDS, PLAIN, PLAIN_STD, WEIGHTED, WEIGHTED_STD, Cell, Entry
from asdgan.report.requested import Asked
from asdgan.results import choose, intervals, metrics, ranking
from asdgan.results.choose import Stored
from asdgan.results.intervals import TypeScores
from asdgan.results.points import Gathered, Point, Settings
from asdgan.results.ranking import Line

SUSPECT = (
    "named",
    "label_free",
    "published",
    "oracle",
)  # settings, the least owed to labels first
KINDS = {
    WEIGHTED: "{}_weighted",
    WEIGHTED_STD: "{}_weighted_std",
    PLAIN: "{}_mean",
    PLAIN_STD: "{}_mean_std",
}
MEANING = (
    "weights: test clips of a machine type; mean: the arithmetic one of DCASE; std: over machine "
    "types (ddof 0)"
)
HEADINGS = {"auc": "AUC", "pauc": "pAUC", "auc_pauc_mean": "mean of both"}
HARMONIC = "harmonic mean"  # over all values that an official score is made of
OFFICIAL = "official_"  # before its year
LOST, NONE = "lost", "-"
Sizes = Mapping[tuple[str, str, str], tuple[int, int]]


@dataclass(frozen=True)
class Ours:
    """What we have of one detector on one machine type.

    Attributes:
        line: The board's, of the settings that stand here.
        stored: Their rows, a row a seed.
        scores: Of the test clips; None where none was scored.
    """

    line: Line
    stored: list[Stored]
    scores: TypeScores | None

    def measured(self, measure: str, section: str = "") -> float | None:
        """Of the machine type or of one section, over seeds, in per cent."""
        if measure == "auc_pauc_mean":
            both = [self.measured(area, section) for area in metrics.AREAS]
            return None if None in both else statistics.fmean(one for one in both if one)
        if measure.startswith(OFFICIAL):
            found = None if section else _interval([self], measure, "")
            return None if found is None else 100 * found.value
        return self._area(measure, section) if measure in metrics.AREAS else None

    def _area(self, area: str, section: str) -> float | None:
        if not section:
            return _per_cent(self.line[area])
        rows = [one.row["sections"].get(section, {}).get(area) for one in self.stored]
        defined = [value for value in rows if value is not None]
        return _per_cent(statistics.fmean(defined)) if defined else None


@dataclass
class Block:
    """One detector as one source has it.

    Attributes:
        model: Its name.
        source: Of the published numbers; empty where there are none.
        entries: Published rows by machine type and section.
    """

    model: str
    source: str
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)

    @property
    def measures(self) -> list[str]:
        """The areas, then whatever else is published."""
        known = dict.fromkeys(metrics.AREAS if not self.entries else ())
        for entry in self.entries.values():
            known |= {
                name: None
                for name, cell in entry.cells.items()
                if cell.text or name in metrics.AREAS
            }
        return list(known)

    @property
    def types(self) -> list[str]:
        """Machine types that have a published row."""
        return list(
            dict.fromkeys(one.machine_type for one in self.entries.values() if not one.summary)
        )

    def sections(self, machine_type: str) -> list[str]:
        """Sections of a machine type that have one."""
        return [section for name, section in self.entries if name == machine_type and section]


def blocks(entries: Iterable[Entry], models: Iterable[str]) -> list[Block]:
    """Published rows by detector and source; detectors without any have a block of their own."""
    found: dict[tuple[str, str], Block] = {}
    for entry in entries:
        key = (entry.model, entry.source)
        block = found.setdefault(key, Block(*key))
        block.entries[entry.machine_type, entry.section] = entry
    named = {block.model for block in found.values()}
    return [*found.values(), *(Block(model, "") for model in models if model not in named)]


def ours_of(asked: Asked, gathered: Gathered, folder: Path) -> dict[tuple[str, str], Ours]:
    """By detector and machine type what stands beside the published numbers."""
    wanted = {name for _, _, found in asked.wanted() for lane in found for name in lane}
    mine = [
        one._replace(selection=_owed(one, asked, gathered.settings))
        for one in gathered.points
        if one.signature in wanted
    ]
    some = Gathered(mine, gathered.settings, wanted, 0)
    lines = [
        line
        for listed in ranking.ranked(some, by="best", area="auc", varying=[]).values()
        for line in listed
        if line["machine_type"] not in (ranking.WEIGHTED, ranking.PLAIN)
    ]
    of = {name: line for line in lines for name in line["signatures"].split()}
    stored: dict[int, list[Stored]] = defaultdict(list)
    source = choose.Source(folder)
    for one in source.rows(of):
        stored[id(of[one.row["signature"]])].append(one)
    known = significance.scored(source, of)
    found = {}
    for line in lines:
        scored = [*significance.by_place(line["signatures"].split(), known).values()]
        ours = Ours(line, stored[id(line)], scored[0] if scored else None)
        found[line["model"], line["machine_type"]] = ours
    return found


def _owed(point: Point, asked: Asked, settings: Settings) -> int:
    """How its settings were chosen, by row or by sweep, whichever owes more to test labels.

    A run by hand at a paper's settings calls them named, and is the same point.
    """
    said = settings.pairs[point.selection][1]
    both = (str(said.get("settings")), asked.selection_of(point.model))
    worse = max(both, key=lambda one: SUSPECT.index(one) if one in SUSPECT else len(SUSPECT))
    return settings.pair("selection", {**said, "settings": worse})


def sheet(
    block: Block, asked: Asked | None, ours: Mapping[tuple[str, str], Ours], sizes: Sizes
) -> Sheet:
    """One detector's table."""
    mine = {name: one for (model, name), one in ours.items() if model == block.model}
    beside = _Beside(block, asked, mine, sizes)
    lines = [*beside.lines()]
    return Sheet(
        title=f"{block.model}: {block.source or 'no published numbers'}",
        lines=[_cells(line, block.measures, bool(mine)) for line in lines],
        numbers=frozenset(_numbers(block.measures)),
        raw=[{"model": block.model, "source": block.source, **line} for line in lines],
        sentences=[*dict.fromkeys(beside.wrong.values())],
        remarks=_remarks(lines, block),
    )


class _Beside:
    """The lines of one block."""

    def __init__(
        self, block: Block, asked: Asked | None, ours: Mapping[str, Ours], sizes: Sizes
    ) -> None:
        self.block, self.asked, self.sizes, self.ours = block, asked, sizes, ours
        self.first = next(iter(block.entries.values()), None)
        self.shown = block.types if self.first else sorted(ours)
        self.types = self.shown or [key[2] for key in sizes if key[:2] == self._of_release()]
        self.wrong = self._not_comparable()

    def lines(self) -> Iterator[Line]:
        for name in self.shown:
            yield self._of_type(name, "")
            for section in self.block.sections(name):
                yield self._of_type(name, section)
        kinds = [kind for kind in published.SUMMARIES if kind in KINDS]
        others = {name for name, _ in self.block.entries if name in published.SUMMARIES}
        for kind in (*kinds, *sorted(others - set(kinds))):
            yield self._of_kind(kind)

    def _of_type(self, name: str, section: str) -> Line:
        entry, mine = self.block.entries.get((name, section)), self.ours.get(name)
        line: Line = {"machine_type": name, "section": section}
        for measure in self.block.measures:
            cell = entry.cells.get(measure) if entry else None
            if cell is None and not section and self.block.sections(name):
                cell = self._mean_of_sections(name, measure)
            value = mine.measured(measure, section) if mine else None
            line |= self._pair(measure, cell, value, name in self.wrong)
            line |= _interval_of([mine] if mine and not section else [], measure, "mean")
        return line | self._about(mine, None if section else entry)

    def _mean_of_sections(self, name: str, measure: str) -> Cell | None:
        sections = self.block.sections(name)
        values = published.exact(
            [self.block.entries[name, s].cells.get(measure) for s in sections]
        )
        return None if values is None else _number(statistics.fmean(values))

    def _of_kind(self, kind: str) -> Line:
        """A mean or a spread over machine types."""
        entry = self.block.entries.get((kind, ""))
        mine = [self.ours[name] for name in self.types if name in self.ours]
        whole = metrics.overall({one.line["machine_type"]: one.line for one in mine})
        lack = len(self.types) - len(whole["machine_types"])
        line: Line = {"machine_type": kind, "section": ""}
        notes: list[str] = []
        for measure in self.block.measures:
            printed = entry.cells.get(measure) if entry else None
            counted = self._theirs(measure, kind)
            if counted is not None and printed and printed.value is not None:
                notes.append(f"{HEADINGS.get(measure, measure)} printed {printed.text}")
            value = None
            if measure in metrics.AREAS and kind in KINDS:
                value = _per_cent(whole[KINDS[kind].format(measure)])
            elif measure.startswith(OFFICIAL) and kind == HARMONIC:
                found = _interval(mine, measure, "")
                value = None if found is None else 100 * found.value
            apart = bool(lack or self.wrong)
            line |= self._pair(measure, counted or printed, value, apart)
            mean = {WEIGHTED: "weighted", PLAIN: "mean"}.get(kind)
            sure = kind == HARMONIC if measure.startswith(OFFICIAL) else bool(mean)
            line |= _interval_of(mine if sure else [], measure, mean or "")
        if mine and lack and kind in KINDS:
            notes.append(f"ours of {len(mine)} of {len(self.types)} types")
        about = self._about(None, entry)
        about["note"] = "; ".join([*notes, *filter(None, [about["note"]])])
        return line | about

    def _theirs(self, measure: str, kind: str) -> Cell | None:
        """Worked out from their machine types, where each of them stands."""
        cells = {name: self._type_cell(name, measure) for name in self.block.types}
        if kind not in KINDS or published.exact([*cells.values()]) is None:
            return None
        weights = {name: self._size(name) for name in cells}
        if "weighted" in kind and None in weights.values():
            return None
        rows = {
            name: {"auc": cell.value, "pauc": cell.value, "clips": (weights[name] or (0, 1))[1]}
            for name, cell in cells.items()
            if cell
        }
        found = metrics.overall(rows)[KINDS[kind].format("auc")]
        return None if found is None else _number(found)

    def _type_cell(self, name: str, measure: str) -> Cell | None:
        entry = self.block.entries.get((name, ""))
        return entry.cells.get(measure) if entry else self._mean_of_sections(name, measure)

    def _size(self, name: str) -> tuple[int, int] | None:
        """Training and test clips of a machine type in the release that was published on."""
        return self.sizes.get((*self._of_release(), name))

    def _of_release(self) -> tuple[str, str]:
        return (self.first.release, self.first.subset) if self.first else ("", "")

    def _pair(self, measure: str, cell: Cell | None, value: float | None, apart: bool) -> Line:
        """Theirs, ours, and what lies between them where both are about the same."""
        theirs = "" if cell is None else cell.text or LOST
        difference: float | None = None
        kept = ""
        if value is not None and cell and cell.value is not None and not apart:
            if cell.bound:
                kept = "met" if cell.met(value) else "not met"
            else:
                difference = value - cell.value
        return {
            f"{measure}_theirs": theirs,
            f"{measure}_ours": value,
            f"{measure}_difference": difference,
            f"{measure}_bound": kept,
        }

    def _about(self, mine: Ours | None, entry: Entry | None) -> Line:
        line = mine.line if mine else {}
        settings, _, checkpoint = line.get("selection", "").partition("/")
        notes = [line.get("notes", ""), entry.note if entry else ""]
        return {
            "seeds": line.get("seeds"),
            "chosen_among": line.get("chosen_among"),
            "settings": settings,
            "checkpoint": checkpoint,
            "table": entry.table if entry else "",
            "page": entry.page if entry else "",
            "note": "; ".join(filter(None, notes)),
        }

    def _not_comparable(self) -> dict[str, str]:
        """By machine type why our numbers are not about what theirs are about."""
        if self.first is None or self.asked is None:
            return {}
        wrong: dict[str, str] = {}
        theirs, own = self._of_release(), (self.asked.release, self.asked.subset)
        for name, mine in self.ours.items():
            size, row = self.sizes.get((*theirs, name)), mine.stored[0].row
            if theirs != own:
                wrong[name] = (
                    f"ours are on {' '.join(own)}, theirs on {' '.join(theirs)}: they are not "
                    "comparable, and no difference is given"
                )
            elif size and (row.get("train_clips"), row.get("test_clips")) != size:
                wrong[name] = (
                    f"{name}: ours on {row.get('train_clips')} of {size[0]} training clips and "
                    f"{row.get('test_clips')} of {size[1]} test clips: a part of the release, not "
                    "comparable with the published numbers, and no difference is given"
                )
        return wrong


def _interval_of(mine: Sequence[Ours], measure: str, mean: str) -> Line:
    found = _interval(mine, measure, mean)
    low, high = (None, None) if found is None else (100 * found.low, 100 * found.high)
    return {f"{measure}_low": low, f"{measure}_high": high}


def _interval(mine: Sequence[Ours], measure: str, mean: str) -> intervals.Interval | None:
    """The 95 % interval of a measure over these machine types; None where it has none.

    `mean` is that of areas: an official score has its own.
    """
    types = [one.scores for one in mine if one.scores is not None]
    if not mine or len(types) < len(mine):
        return None
    if measure in metrics.AREAS:
        return intervals.interval(types, area=measure, mean=mean)
    year = measure.removeprefix(OFFICIAL)
    seeds = {len(one.scores) for one in types}
    if year == measure or len(seeds) > 1:
        return None
    return intervals.interval(types, area="official", year=int(year))


def _per_cent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _number(value: float) -> Cell:
    return Cell(f"{value:.2f}", value, "")


# For people -------------------------------------------------------------------------------------


def _numbers(measures: Sequence[str]) -> list[str]:
    named = [HEADINGS.get(measure, measure) for measure in measures]
    return [
        "seeds",
        *(f"{name} {what}" for name in named for what in ("theirs", "ours", "difference")),
    ]


def _cells(line: Line, measures: Sequence[str], have: bool) -> dict[str, str]:
    """A line as a person reads it; columns of ours are left out where there is nothing of ours."""
    cells = {"machine type": line["machine_type"]}
    if line["section"]:
        cells["machine type"] += f" id_{line['section']}"
    for measure in measures:
        name = HEADINGS.get(measure, measure)
        cells[f"{name} theirs"] = line[f"{measure}_theirs"] or NONE
        if have:
            cells[f"{name} ours"] = _figure(line[f"{measure}_ours"])
            difference = line[f"{measure}_difference"]
            bound = line[f"{measure}_bound"]
            cells[f"{name} difference"] = bound or (
                NONE if difference is None else f"{difference:+.2f}"
            )
            cells[f"{name} 95 %"] = _range(line[f"{measure}_low"], line[f"{measure}_high"])
    if have:
        chosen = "/".join(filter(None, [line["settings"], line["checkpoint"]]))
        among = line["chosen_among"] or 1
        cells["seeds"] = NONE if line["seeds"] is None else str(line["seeds"])
        cells["settings/checkpoint"] = f"{chosen} of {among:,}" if among > 1 else chosen or NONE
    return cells


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _range(low: Any, high: Any) -> str:  # noqa: ANN401 - a number, or None
    return NONE if low is None else f"{low:.2f} to {high:.2f}"


def _remarks(lines: Sequence[Line], block: Block) -> list[str]:
    """What notes say, those of several lines once."""
    by_note: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line["note"]:
            by_note[line["note"]].append(
                " id_".join(filter(None, [line["machine_type"], line["section"]]))
            )
    said = [f"{', '.join(names)}: {note}" for note, names in by_note.items()]
    places = dict.fromkeys(
        f"{one.table}{f', page {one.page}' if one.page else ''}" for one in block.entries.values()
    )
    bounds = any(cell.bound for one in block.entries.values() for cell in one.cells.values())
    return [
        *([f"theirs: {'; '.join(places)}"] if places else []),
        *([f"{' or '.join(BOUNDS)}: a bound that only the prose gives"] if bounds else []),
        *said,
        MEANING,
    ]
