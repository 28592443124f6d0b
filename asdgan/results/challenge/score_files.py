"""The challenge's own files: what they are called in each year, and their rows.

A submission is a folder of two-column CSV files, one for each section (in 2021 for each section
and domain): a clip's name and its anomaly score, or its decision. What is no such row is refused
with its path and line.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from asdgan.errors import BadInput

SCORES, DECISIONS, TRUTH = "anomaly_score", "decision_result", "ground_truth"
BASELINE = r"(?:DCASE[0-9]{4}T2)?"  # in front of the machine type in the baselines of 2023 on
TAILS = {
    2020: r"id_(?P<section>[0-9]{2})",
    2021: r"section_(?P<section>[0-9]{2})_(?P<domain>source|target)_test",
}
TAIL = r"section_(?P<section>[0-9]{2})_test(?P<run>_seed.*)?"  # and the seed at the end


class Place(NamedTuple):
    """What a file of a submission is about; `domain` is empty but in 2021."""

    machine_type: str
    section: str
    domain: str = ""


def file_name(kind: str, year: int, place: Place) -> str:
    """What the file of a submission is called."""
    if year == 2020:
        return f"{kind}_{place.machine_type}_id_{place.section}.csv"
    domain = f"_{place.domain}" if year == 2021 else ""
    return f"{kind}_{place.machine_type}_section_{place.section}{domain}_test.csv"


def listed(folder: Path, kind: str, year: int) -> tuple[dict[Place, Path], list[str]]:
    """The files of a kind in a folder by what they are about, and the names of those that are not.

    A name of the organisers' baselines, with the year in front of the machine type and the seed
    at the end, stands where there is no plain one.

    Raises:
        BadInput: Two such files are about the same section.
    """
    pattern = re.compile(
        rf"{kind}_{BASELINE}(?P<machine>[A-Za-z0-9_-]+?)_{TAILS.get(year, TAIL)}\.csv"
    )
    found: dict[Place, Path] = {}
    strays = []
    for path in sorted(folder.glob(f"{kind}_*.csv")):
        match = pattern.fullmatch(path.name)
        if match is None:
            strays.append(path.name)
            continue
        said = match.groupdict()
        place = Place(said["machine"], said["section"], said.get("domain") or "")
        plain = file_name(kind, year, place)
        other = found.get(place)
        if other is not None and plain not in (other.name, path.name):
            raise BadInput(
                f"{folder}: {other.name} and {path.name} are about the same section; keep one"
            )
        if other is None or path.name == plain:
            found[place] = path
    return found, strays


def other_year(names: Iterable[str], kind: str) -> int | None:
    """A year whose names these are; None where they fit none."""
    for year in (2020, 2021, 2022):
        pattern = re.compile(rf"{kind}_{BASELINE}[A-Za-z0-9_-]+?_{TAILS.get(year, TAIL)}\.csv")
        if any(pattern.fullmatch(name) for name in names):
            return year
    return None


# Rows -------------------------------------------------------------------------------------------


def rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that hold something, with their line numbers, cells stripped.

    Raises:
        BadInput: It cannot be read, or is no text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            found = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is no CSV text ({error}); write it as UTF-8, clip,value") from None
    for _, row in found:
        while row and not row[-1]:
            row.pop()
    return [(line, row) for line, row in found if row]


def column(path: Path, what: str, number: Callable[[str], float]) -> list[tuple[str, float]]:
    """Clips and their values in the order of a two-column file; a heading is passed over.

    Args:
        path: Of the file.
        what: One value, for messages: "anomaly score".
        number: Raises ValueError for what is no such value.

    Raises:
        BadInput: It is empty, or a row has not two columns, or a value is none.
    """
    found = []
    for place, (line, row) in enumerate(rows(path)):
        if len(row) != 2:
            raise BadInput(
                f"{path} line {line}: {len(row)} columns in {','.join(row)[:80]!r}; each row "
                f"is clip,{what}"
            )
        try:
            found.append((row[0], number(row[1])))
        except ValueError:
            if place == 0 and not _looks_like_a_clip(row[0]):
                continue
            raise BadInput(
                f"{path} line {line}: {row[1]!r} is no {what} ({row[0]}); each clip needs one"
            ) from None
    if not found:
        raise BadInput(f"{path} has no rows; each row is clip,{what}")
    return found


def score(text: str) -> float:
    """A finite number.

    Raises:
        ValueError: It is none.
    """
    value = float(text)
    if not math.isfinite(value) or "_" in text:
        raise ValueError
    return value


def zero_or_one(text: str) -> float:
    """0 or 1, which a baseline may spell 0.0.

    Raises:
        ValueError: It is neither.
    """
    value = float(text)
    if value not in (0.0, 1.0):
        raise ValueError
    return value


def stem(name: str) -> str:
    """A clip's name without folders and `.wav`."""
    return re.sub(r"(?i)\.wav$", "", re.split(r"[\\/]", name.strip())[-1])


def _looks_like_a_clip(text: str) -> bool:
    return text.lower().endswith(".wav") or re.search(r"[0-9]{2,}", text) is not None
