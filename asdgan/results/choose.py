"""One point for each machine type out of many: what is submitted, or used on new sound.

Where a machine type has several points, conditions leave one, or a rule takes one; the rule says
whether labels chose. Without either the choice is refused, and what the points differ in is named.
"""

import argparse
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asdgan.errors import BadInput, Damaged
from asdgan.results import ledger, metrics, points
from asdgan.results.points import Gathered, Point, said

VAL_LOSS = "val_loss"
RULES = (*metrics.AREAS, VAL_LOSS)
SHOWN = 4  # values of a setting that several points differ in


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--where` and `--choose` to a command line."""
    points.add_where(parser)
    parser.add_argument(
        "--choose",
        choices=RULES,
        help="of several points of a machine type the one with the best area (oracle: test "
        "labels choose) or with the lowest score of held-out normal windows (label_free)",
    )


class Stored(NamedTuple):
    """A row, the result it stands in, and its number there."""

    row: dict[str, Any]
    result: ledger.Result
    number: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One point of a machine type, and how it came to be the one.

    Attributes:
        stored: Where its row and scores are.
        selection: How its settings were chosen: `named`, `published`, `label_free`, `oracle`.
        by: The rule that chose it here, one of `RULES`; None where nothing had to.
        among: Points of this machine type that it was chosen among.
    """

    stored: Stored
    selection: str
    by: str | None
    among: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where results are read from, as often as they are needed: many do not fit into memory."""

    path: Path

    def results(self, refused: list[str] | None = None) -> Iterator[ledger.Result]:
        """One by one; what is none is added to `refused`."""
        if self.path.is_file():
            try:
                yield ledger.read(self.path)
            except Damaged as error:
                raise BadInput(f"{error}; a result is an epochs_*.json") from None
            return
        for path, found in ledger.each(self.path):
            if isinstance(found, ledger.Result):
                yield found
            elif refused is not None:
                refused.append(f"not looked at: {path}: {found}")

    def rows(self, names: Collection[str]) -> Iterator[Stored]:
        """The rows of these points, each once."""
        left = set(names)
        for result in self.results():
            if not left.isdisjoint(own["signature"] for own in result.own):  # never shared
                for number, row in enumerate(result.rows):
                    if row["signature"] in left:
                        left.remove(row["signature"])
                        yield Stored(row, result, number)


def chosen(
    place: str, where: Sequence[str] = (), choose: str | None = None
) -> tuple[dict[str, Choice], list[str]]:
    """One point for each machine type.

    Args:
        place: A sweep by its name or folder, a folder of results, or one result's JSON.
        where: Conditions KEY=VALUE that all must hold.
        choose: What chooses among several points, one of `RULES`; None where none may.

    Returns:
        The choices by machine type, and sentences on what was not looked at.

    Raises:
        BadInput: There is no such point, or there are several and nothing chooses, or what should
            choose is not known, or a file that was named is no result.
    """
    notes: list[str] = []
    path, wanted = Path(place), None
    if not path.is_file():
        path, wanted = points.place(place)
    source = Source(path)
    gathered = points.gather(source.results(notes), where=where, wanted=wanted)
    if not gathered.points:
        asked = f" with {' and '.join(where)}" if where and gathered.done else ""
        raise BadInput(f"no result{asked} in {path}; `asdgan board {place}` lists what is there")
    releases = sorted({one.release for one in gathered.points})
    if len(releases) > 1:
        raise BadInput(
            f"{path} holds results on {' and '.join(releases)}; say which by --where release=..."
        )
    if wanted is not None and len(gathered.done) < len(wanted):
        notes.append(f"{len(gathered.done)} of {len(wanted)} points of {place} are done")
    by_type: dict[str, list[Point]] = defaultdict(list)
    for one in gathered.points:
        by_type[one.machine_type].append(one)
    crowded = [name for name, mine in sorted(by_type.items()) if len(mine) > 1]
    if crowded and choose is None:
        raise BadInput(_several(crowded[0], by_type[crowded[0]], gathered, path))
    best = {
        name: mine[0] if choose is None or len(mine) == 1 else _best(name, mine, choose, source)
        for name, mine in by_type.items()
    }
    names = {point.signature for point in best.values()}
    stored = {one.row["signature"]: one for one in source.rows(names)}
    return {
        name: _choice(stored[point.signature], len(by_type[name]), choose)
        for name, point in best.items()
    }, notes


def _choice(stored: Stored, among: int, choose: str | None) -> Choice:
    selection = str(stored.row["selection"].get("settings"))
    if among > 1 and choose != VAL_LOSS:
        selection = "oracle"
    elif among > 1 and selection == "named":  # labels that may have chosen are not forgotten
        selection = "label_free"
    return Choice(stored, selection, choose if among > 1 else None, among)


def _best(name: str, mine: Sequence[Point], choose: str, source: Source) -> Point:
    """The best of a machine type's points; of equal ones the first by signature."""
    if choose == VAL_LOSS:
        worth = _held_out(name, mine, source)
    else:
        areas = {one.signature: getattr(one, choose) for one in mine}
        worth = {key: -area for key, area in areas.items() if area is not None}
    if not worth:
        raise BadInput(f"--choose {choose}: no point on {name} has one; say which by --where")
    return min(
        (one for one in mine if one.signature in worth),
        key=lambda one: (worth[one.signature], one.signature),
    )


def _held_out(name: str, mine: Sequence[Point], source: Source) -> dict[str, float]:
    """The mean score of held-out normal windows at the end, by signature."""
    worth, kinds = {}, set()
    for row in (one.row for one in source.rows({point.signature for point in mine})):
        losses = row.get("losses", {}).get(f"val/{row['primary']}")
        if not losses:
            raise BadInput(
                f"--choose val_loss: {row['model']} on {name} has no score of held-out windows; "
                "train with windows.val_split=random_clips"
            )
        kinds.add(f"{row['model']} by {row['primary']}")
        worth[row["signature"]] = losses[-1]
    if len(kinds) > 1:
        raise BadInput(
            f"--choose val_loss: scores of {' and '.join(sorted(kinds))} on {name} are no common "
            "measure; keep one by --where model=..."
        )
    return worth


def _several(name: str, mine: Sequence[Point], gathered: Gathered, path: Path) -> str:
    """The sentence for points among which nothing was chosen, and what they differ in."""
    differ = differing(
        {
            "model": one.model,
            "seed": one.seed,
            "data": one.data[:8],
            **gathered.settings.values(one.setting),
        }
        for one in mine
    )
    return (
        f"{path} holds {len(mine)} points on {name}, which differ in "
        f"{differ or 'how they were chosen'}; say which by --where KEY=VALUE, or have "
        "one chosen on each machine type: --choose auc (oracle: test labels choose) or "
        "--choose val_loss (label_free)"
    )


def differing(several: Iterable[Mapping[str, Any]]) -> str:
    """What settings differ in, each with its lowest values; empty where they are all equal."""
    values: dict[str, list[str]] = defaultdict(list)
    for one in several:
        for key, value in one.items():
            if said(value) not in values[key]:
                values[key].append(said(value))
    return ", ".join(
        f"{key} ({', '.join(sorted(some, key=_by_size)[:SHOWN])}"
        f"{', ...' if len(some) > SHOWN else ''})"
        for key, some in values.items()
        if len(some) > 1
    )


def _by_size(text: str) -> tuple[bool, float, str]:
    """Sorts numbers by value, and behind them everything else by the alphabet."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
