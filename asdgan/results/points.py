"""Results to points: what a board needs of each row, at a fraction of its memory.

A point is taken once, whatever the number of results it stands in, and only where it meets the
conditions that were typed and, for a sweep, stands in the plan.
"""

import argparse
import difflib
import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asdgan._system.files import read_json
from asdgan.errors import BadInput, Damaged
from asdgan.results import ledger
from asdgan.results.failures import Failure

OUTPUTS = Path("outputs")
PLAN = "plan.json"  # what makes a folder a sweep
APART = {"machine", "machine_type", "seed"}  # settings that differ inside a line
AGAIN = {"detector", "model.primary", "recipe", "epochs", "primary"}  # said by the row itself
NAMED = ("model", "recipe", "release", "machine_type", "data", "seed", "epochs", "primary")
ORIGIN = ("signature", "commit", "device")


class Point(NamedTuple):
    """What a line needs of a row; `setting` and `selection` are numbers of `Settings`."""

    signature: str
    model: str
    release: str
    machine_type: str
    data: str
    seed: int
    setting: int
    selection: int
    auc: float | None
    pauc: float | None
    clips: int
    train_clips: int
    sections: tuple[tuple[str, float | None], ...]
    reasons: tuple[str, ...]
    commit: str
    flags: tuple[str, ...]


class Settings:
    """Numbers for settings, so that many points are told apart fast and held once.

    `pairs` are keys with a value, `sets` what makes a line: the numbers of its pairs, in order.
    Equal values have one number: 1 is 1.0, but not true, nor "1".
    """

    def __init__(self) -> None:
        """Begins with none."""
        self.pairs: list[tuple[str, Any]] = []
        self.sets: list[tuple[int, ...]] = []
        self._pairs: dict[Hashable, int] = {}
        self._sets: dict[tuple[int, ...], int] = {}

    def pair(self, key: str, value: Any) -> int:  # noqa: ANN401 - any JSON value
        """The number of a key with this value."""
        number = self._pairs.setdefault((key, _key(value)), len(self.pairs))
        if number == len(self.pairs):
            self.pairs.append((key, value))
        return number

    def kept(self, settings: Mapping[str, Any]) -> list[int]:
        """The pairs of settings that part lines."""
        return [
            self.pair(key, value)
            for key, value in settings.items()
            if key not in AGAIN and key.removeprefix("dataset.") not in APART
        ]

    def together(self, pairs: Iterable[int]) -> int:
        """The number of these pairs together."""
        numbers = tuple(sorted(pairs))
        number = self._sets.setdefault(numbers, len(self.sets))
        if number == len(self.sets):
            self.sets.append(numbers)
        return number

    def values(self, number: int) -> dict[str, Any]:
        """The keys and values of a set."""
        return dict(self.pairs[pair] for pair in self.sets[number])


@dataclass(frozen=True, slots=True)
class Gathered:
    """Points that were asked for, each once, the first by path.

    Attributes:
        points: Those that meet every condition.
        settings: What their numbers mean.
        done: The signature of every point with a result, whether or not it meets the conditions.
        again: How many rows repeat a point.
    """

    points: list[Point]
    settings: Settings
    done: set[str]
    again: int


def place(name: str | None) -> tuple[Path, set[str] | None]:
    """The folder to search, and the signatures of a sweep's plan; None for a plain folder.

    A sweep of this name goes before a folder: `outputs/sweeps/NAME` is looked at after a plan
    in the folder itself.

    Args:
        name: As it was typed; None for everything below `outputs`.

    Raises:
        BadInput: There is no such sweep and no such folder, or the plan is none.
    """
    if name is None:
        return OUTPUTS, None
    sweeps = OUTPUTS / "sweeps"
    for folder in (Path(name), sweeps / name):
        if (folder / PLAN).is_file():
            return folder.resolve().parent.parent / "runs", _planned(folder / PLAN)
    if Path(name).is_dir():
        return Path(name), None
    known = sorted(path.parent.name for path in sweeps.glob(f"*/{PLAN}"))
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        raise BadInput(f"no sweep and no folder {name}; did you mean {near[0]!r}?")
    there = f"sweeps below {sweeps}: {', '.join(known)}" if known else f"no sweep below {sweeps}"
    raise BadInput(f"no sweep and no folder {name} ({there}); name the one that was written to")


def _planned(path: Path) -> set[str]:
    """The signatures of all points of a plan."""
    try:
        names = read_json(path).get("points")
    except Damaged as error:
        raise BadInput(f"{error}; plan the sweep again") from None
    if not isinstance(names, list) or not all(
        isinstance(name, str) and ledger.SIGNATURE.fullmatch(name) for name in names
    ):
        raise BadInput(f"{path} is not a plan: it does not say the signatures of its points")
    return set(names)


def gather(
    results: Iterable[ledger.Result],
    *,
    where: Sequence[str] = (),
    wanted: Collection[str] | None = None,
    score: str | None = None,
    pooled: bool = False,
) -> Gathered:
    """The points of results, each result let go as soon as it is read.

    Args:
        results: In the order of their paths.
        where: Conditions KEY=VALUE that all must hold.
        wanted: Signatures that count; all do where it is None.
        score: The component score that judges every point; its own primary where it is None.
        pooled: Points are judged by all clips of their machine type at once, not by section.

    Raises:
        BadInput: A condition is no KEY=VALUE, or no result knows its key, or none has the score.
    """
    conditions = _conditions(where)
    known, settings = {*NAMED, *ORIGIN}, Settings()
    points: list[Point] = []
    done: set[str] = set()
    scores: set[str] = set()
    again = 0
    for result in results:
        shared = result.shared.get("settings", {})
        base = settings.kept(shared)
        for own in result.own:
            row, mine = {**result.shared, **own}, own.get("settings", {})
            name = row["signature"]
            if wanted is not None and name not in wanted:
                continue
            if name in done:
                again += 1
                continue
            done.add(name)
            if conditions:
                selection = {f"selection.{key}": it for key, it in row["selection"].items()}
                fields = {**shared, **mine, **{key: row.get(key) for key in NAMED + ORIGIN}}
                fields |= selection
                known.update(fields)
                if not all(_says(fields.get(key), value) for key, value in conditions):
                    continue
            if score is not None:
                scores |= {row["primary"], *row.get("components", ())}
                row = _judged_by(score, row)
            if pooled:
                row = {**row, **row.get("pooled", dict.fromkeys(("auc", "pauc"))), "sections": {}}
            named = [settings.pair(key, row[key]) for key in ("recipe", "epochs", "primary")]
            setting = settings.together(base + settings.kept(mine) + named)
            points.append(_point(row, settings, setting))
    for key, value in conditions if done else ():
        if key not in known:
            raise BadInput(f"--where {f'{key}={value}'!r}: {_unknown(key, known)}")
    if scores and score not in scores:
        raise BadInput(f"--score {score}: no result has it; there are {', '.join(sorted(scores))}")
    return Gathered(points, settings, done, again)


def lacking(
    failures: Iterable[Failure],
    done: Collection[str],
    *,
    where: Sequence[str] = (),
    wanted: Collection[str] | None = None,
) -> Counter[tuple[str, str, str, str]]:
    """How many points have failed and no result, by model, machine type, kind and reason.

    A record states the settings of its first point only: where it speaks for more, conditions on
    settings leave all of them in.
    """
    conditions, seen = _conditions(where), set(done)
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for failure in failures:
        fields: dict[str, Any] = dict(failure.settings) if len(failure.signatures) == 1 else {}
        fields |= {"model": failure.model, "machine_type": failure.machine_type}
        if any(key in fields and not _says(fields[key], value) for key, value in conditions):
            continue
        names = {one for one in failure.signatures if wanted is None or one in wanted} - seen
        seen |= names
        if names:
            what = (failure.model, failure.machine_type, failure.kind, failure.reason)
            counts[what] += len(names)
    return counts


def _judged_by(score: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with another component's areas, which are known for a machine type as a whole."""
    if score == row["primary"]:
        return row
    areas = row.get("components", {}).get(score)
    why = f"{row['model']} has no score {score}"
    sections = {} if areas else {score: {"auc": None, "reason": why}}
    return {
        **row,
        "primary": score,
        "auc": None,
        "pauc": None,
        **(areas or {}),
        "sections": sections,
    }


def _point(row: Mapping[str, Any], settings: Settings, setting: int) -> Point:
    sections = sorted(row["sections"].items())
    return Point(
        signature=row["signature"],
        model=row["model"],
        release=row["release"],
        machine_type=row["machine_type"],
        data=row["data"],
        seed=row["seed"],
        setting=setting,
        selection=settings.pair("selection", row["selection"]),
        auc=row["auc"],
        pauc=row["pauc"],
        clips=row["clips"],
        train_clips=row.get("train_clips", 0),
        sections=tuple((name, entry["auc"]) for name, entry in sections),
        reasons=tuple(entry["reason"] for _, entry in sections if "reason" in entry),
        commit=str(row.get("commit") or "unknown")[:8],
        flags=tuple(map(str, row.get("flags") or ())),
    )


def _unknown(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"
    return f"no result has a setting {key!r}; {hint}"


def add_where(parser: argparse.ArgumentParser) -> None:
    """Adds `--where` to a command line."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only such points; repeatable",
    )


def _conditions(where: Sequence[str]) -> list[tuple[str, str]]:
    for condition in where:
        if "=" not in condition:
            raise BadInput(f"--where {condition!r} is not KEY=VALUE")
    return [(key, value) for key, _, value in (one.partition("=") for one in where)]


def _says(value: Any, text: str) -> bool:  # noqa: ANN401 - a setting
    """Whether a setting has the value that was typed."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    if value is None:
        return text.casefold() in {"null", "none"}
    return (text.casefold() if isinstance(value, bool) else text) == said(value)


def said(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """A value as a person types it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _key(value: Any) -> Hashable:  # noqa: ANN401 - any JSON value
    """The value as something to compare by: 1 is 1.0, but not true, nor "1"."""
    if isinstance(value, dict):
        return tuple((key, _key(value[key])) for key in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(_key(item) for item in value)
    return (bool, value) if isinstance(value, bool) else value
