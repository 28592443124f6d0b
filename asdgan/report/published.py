"""Published numbers as they were typed: `sweeps/published/*.csv`.

A file of results has a row for each detector, machine type and section; its other columns are
areas in per cent, and where the number stands. A cell is a number, a bound that only the prose
gives (`>90`), or empty where the text lost it. Without a section a row is the mean that its source
prints for the machine type; in place of a machine type there may be one of `SUMMARIES`.
`table2.csv` has the numbers of clips, which are the weights of means.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asdgan.errors import BadInput

FOLDER = "published"  # below the sweeps
KEYS = ("model", "release", "subset", "machine_type", "section")
PLACE = ("source", "table", "page", "note")
SIZES = "table2"
WEIGHTED, WEIGHTED_STD, PLAIN, PLAIN_STD = "weighted mean", "weighted std", "mean", "std"
SUMMARIES = (WEIGHTED, WEIGHTED_STD, PLAIN, PLAIN_STD, "mean over ids", "harmonic mean")
BOUNDS = {">": "above", "<": "below"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A number in per cent, or a bound; without a value the text lost it.

    Attributes:
        text: As it is typed.
        value: None where it is lost.
        bound: `>` or `<` where the value is one, else empty.
    """

    text: str
    value: float | None
    bound: str

    def met(self, ours: float) -> bool:
        """Whether a number in per cent keeps the bound."""
        assert self.value is not None
        return ours > self.value if self.bound == ">" else ours < self.value


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a file of results; the attributes are its columns."""

    model: str
    release: str
    subset: str
    machine_type: str
    section: str
    cells: Mapping[str, Cell]
    source: str
    table: str
    page: str
    note: str

    @property
    def summary(self) -> bool:
        """Whether it is about machine types together."""
        return self.machine_type in SUMMARIES


def names(sweeps: Path) -> list[str]:
    """The files of results."""
    return sorted(path.stem for path in (sweeps / FOLDER).glob("*.csv") if _is_results(path))


def read(sweeps: Path, name: str) -> list[Entry]:
    """The rows of a file of results.

    Raises:
        BadInput: There is no such file, it is none of results, or a cell is no number.
    """
    path = sweeps / FOLDER / f"{name}.csv"
    if not path.is_file() or not _is_results(path):
        raise BadInput(f"{path}: no published results there; there are {', '.join(names(sweeps))}")
    entries = []
    for row in _rows(path):
        cells = {key: _cell(text, path) for key, text in row.items() if key not in KEYS + PLACE}
        entries.append(Entry(**{key: row[key] for key in KEYS + PLACE}, cells=cells))
    return entries


def sizes(sweeps: Path) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Training and test clips by release, subset and machine type."""
    return {
        (row["release"], row["subset"], row["machine_type"]): (int(row["train"]), int(row["test"]))
        for row in _rows(sweeps / FOLDER / f"{SIZES}.csv")
    }


def exact(cells: Sequence[Cell | None]) -> list[float] | None:
    """The values, where each cell is a number."""
    found = [cell.value for cell in cells if cell and not cell.bound and cell.value is not None]
    return found if cells and len(found) == len(cells) else None


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _is_results(path: Path) -> bool:
    with path.open(newline="", encoding="utf-8") as file:
        return set(KEYS + PLACE) <= set(next(csv.reader(file), []))


def _cell(text: str, path: Path) -> Cell:
    bound = text[:1] if text[:1] in BOUNDS else ""
    number = text.removeprefix(bound)
    try:
        return Cell(text, float(number) if number else None, bound)
    except ValueError:
        raise BadInput(f"{path}: {text!r} is neither a number nor a bound like >90") from None
