"""A sweep file as somebody asks for it, held against what has been trained: which points are done.

The points are those that `python -m asdgan.run -m sweep=NAME ...` would run on the data at hand.
Where the data set is not there, results speak of the data that they were trained on, the largest
where there are several.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from asdgan._system.console import bars, console
from asdgan.config.compose import LANE_AXES, parsed
from asdgan.data import clips
from asdgan.data.demo import sounds
from asdgan.errors import BadInput
from asdgan.results.points import Gathered, Point
from asdgan.sweep import grid as grids
from asdgan.sweep import prepare
from asdgan.sweep.grid import Grid, Part
from asdgan.sweep.plan import Heard, signatures
from asdgan.training import machine_data

ALL = "all"
SHAPE = ("batch", "latent", "hidden_layers")  # root settings that part a grid's models
TRAINED = "dataset.train"  # the one setting of a data set that parts of a table may differ in
NOT_SETTINGS = ("dataset", "outputs", "seed", "machine", "model", "trainer", "sweep", "logger")


@dataclass(frozen=True)
class Asked:
    """A sweep with what was typed beside it.

    Attributes:
        name: Of the sweep file.
        typed: Overrides.
        grid: Their points.
        gathered: Results that there are, of any sweep; those of this release matter.
        usual: Machine types where the data set is not there to ask.
    """

    name: str
    typed: tuple[str, ...]
    grid: Grid
    gathered: Gathered
    usual: tuple[str, ...]

    @property
    def release(self) -> str:
        """The one that its rows are of."""
        return self.grid.parts[0].config.dataset.release

    @property
    def subset(self) -> str:
        """Whose clips are tested."""
        return self.grid.parts[0].config.dataset.get("subset") or "dev"

    @property
    def command(self) -> str:
        """What runs the points that are missing."""
        words = [f"sweep={self.name}", *map(_quoted, self.typed)]
        if self.lacking and len(self.lacking) < len(self.total()):
            there = dict.fromkeys(name for _, name in self.total() if name not in self.lacking)
            words = [one for one in words if not one.startswith("machine=")]
            words.append(f"machine={','.join(there)}")
        return " ".join(["python -m asdgan.run -m", *words])

    @property
    def other_settings(self) -> list[str]:
        """What was typed that makes its points others than the table's."""
        keys = {one.input_line: one.get_key_element() for one in parsed(self.typed)}
        return [text or "" for text, key in keys.items() if key.split(".")[0] not in NOT_SETTINGS]

    @cached_property
    def absent(self) -> str:
        """Why the data set cannot be trained on; empty where it can."""
        config = self.grid.parts[0].config
        if config.dataset.root is None:
            return ""
        try:
            self._there()
        except BadInput as error:
            return str(error)
        return ""

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Machine types that `all` stands for."""
        config = self.grid.parts[0].config
        if config.dataset.root is not None and not self.absent:
            return self._there()
        return self.usual

    @cached_property
    def lacking(self) -> list[str]:
        """Machine types of its points that the data set at hand does not have."""
        if self.absent or self.grid.parts[0].config.dataset.root is None:
            return []
        named = dict.fromkeys(name for part in self.grid.parts for name in self.types_of(part))
        return [name for name in named if name not in self.types]

    def wanted(self) -> Iterator[tuple[str, str, list[list[str]]]]:
        """Model, machine type and signatures of the points of each part that may be done.

        Those whose lane has no result on the machine type are counted, not spelt out: a grid is
        large, and what is done of it mostly little.
        """
        told = prepare.traits_of(self.grid)
        for part in self.grid.parts:
            for name in self.types_of(part):
                data = self._data.get((part.config.detector, name, _trained(part)))
                if data is None:
                    continue
                shape = tuple(part.config[key] for key in SHAPE)
                lanes = self._lanes.get((part.config.detector, name, *shape), ())
                places = [LANE_AXES.index(axis) for axis in part.axes]
                seen = {tuple(lane[place] for place in places) for lane in lanes}
                rows = tuple(row for row in part.rows if row in seen)
                if not rows:
                    continue
                small = replace(part, rows=rows)
                trait = told[part.config.model._target_]
                yield part.config.detector, name, signatures(small, Heard(name, data), trait)

    def types_of(self, part: Part) -> tuple[str, ...]:
        """The machine types of a part."""
        if part.machine == ALL:
            return self.types
        return (part.machine,) if isinstance(part.machine, str) else part.machine

    def total(self) -> Counter[tuple[str, str]]:
        """How many points there are, by model and machine type."""
        counts: Counter[tuple[str, str]] = Counter()
        for part in self.grid.parts:
            for name in self.types_of(part):
                counts[part.config.detector, name] += part.points
        return counts

    def counted(self, names: Collection[str]) -> Counter[tuple[str, str]]:
        """How many of its points are among these signatures, by model and machine type."""
        counts: Counter[tuple[str, str]] = Counter()
        seen: set[str] = set()
        for model, machine_type, found in self.wanted():
            mine = {name for lane in found for name in lane if name in names} - seen
            seen |= mine
            counts[model, machine_type] += len(mine)
        return counts

    def selection_of(self, model: str) -> str:
        """How the sweep says that a model's settings were chosen."""
        said = [p.config.selection.settings for p in self.grid.parts if p.config.detector == model]
        return said[0] if said else "named"

    def _there(self) -> tuple[str, ...]:
        config = self.grid.parts[0].config
        choice = machine_data.choice_of(config)
        return clips.machine_types(Path(config.dataset.root), self.release, choice)

    @cached_property
    def _mine(self) -> list[Point]:
        return [one for one in self.gathered.points if one.release == self.release]

    @cached_property
    def _lanes(self) -> dict[tuple[Any, ...], set[tuple[Any, ...]]]:
        """By model, machine type and shape what there is on the axes that lanes differ in."""
        known: dict[int, dict[str, Any]] = {}
        lanes = defaultdict[tuple[Any, ...], set[tuple[Any, ...]]](set)
        for one in self._mine:
            if one.setting not in known:
                values = self.gathered.settings.values(one.setting)
                known[one.setting] = {key: values.get(key) for key in (*SHAPE, *LANE_AXES)}
            values = {**known[one.setting], "seed": one.seed}
            shape = tuple(values[key] for key in SHAPE)
            lane = tuple(values[axis] for axis in LANE_AXES)
            lanes[one.model, one.machine_type, *shape].add(lane)
        return lanes

    @cached_property
    def _data(self) -> dict[tuple[str, str, str | None], str]:
        """What data its points would be on, as a fingerprint.

        Of each model and machine type, and of each choice of training clips that its parts make.
        """
        found: dict[tuple[str, str, str | None], str] = {}
        for trained, part in {_trained(part): part for part in self.grid.parts}.items():
            mine = [one for one in self._mine if self._trained_on(one) == trained]
            prints = self._prints(part, mine)
            found |= {
                (one.model, one.machine_type, trained): prints[one.machine_type]
                for one in mine
                if one.machine_type in prints
            }
        return found

    def _trained_on(self, point: Point) -> str | None:
        return self.gathered.settings.values(point.setting).get(TRAINED)

    def _prints(self, part: Part, mine: Sequence[Point]) -> dict[str, str]:
        """By machine type, of the data set at hand; where it is absent, of the largest seen."""
        largest: dict[str, Point] = {}
        for one in mine:
            held = largest.get(one.machine_type)
            if held is None or (one.train_clips, one.data) > (held.train_clips, held.data):
                largest[one.machine_type] = one
        config = part.config
        if config.dataset.root is None or self.absent:
            return {name: one.data for name, one in largest.items()}
        root = Path(config.dataset.root)
        with bars(console.is_terminal) as bar:  # elsewhere the output is for a program

            def counter(title: str, total: int) -> Callable[[int], None]:
                shown = bar(title, total)
                return shown.advance if console.is_terminal else lambda count: None

            return {
                name: machine_data.fingerprint_of(config, root, name, counter)
                for name in largest
                if name in self.types
            }


def _trained(part: Part) -> str | None:
    """Whose training clips a part takes."""
    return part.config.dataset.get("train")


def asked(
    name: str,
    typed: Sequence[str],
    gathered: Gathered,
    sizes: Iterable[tuple[str, str, str]],
    *,
    every_seed: bool = False,
) -> Asked:
    """A sweep file with what was typed beside it.

    Args:
        name: Of the sweep file.
        typed: Overrides, as beside `python -m asdgan.run -m`.
        gathered: Results that there are.
        sizes: Release, subset and machine type of what is known of data sets that are not there.
        every_seed: Points of every seed that has a result belong to it, unless seeds are typed.

    Raises:
        BadInput: What is typed is wrong.
    """
    words = [f"sweep.file={name}", "sweep.dry_run=true", *typed]
    grid = grids.expand(words)
    datasets = [{**part.config.dataset, "train": None} for part in grid.parts]
    if any(one != datasets[0] for one in datasets):
        raise BadInput("a table is about one data set; give dataset one value")
    release = grid.parts[0].config.dataset.release
    if every_seed and not any(one.get_key_element() == "seed" for one in parsed(typed)):
        seeds = sorted({one.seed for one in gathered.points if one.release == release})
        if seeds:
            grid = grids.expand([*words, f"seed={','.join(map(str, seeds))}"])
    subset = grid.parts[0].config.dataset.get("subset") or "dev"
    usual = [machine_type for *of, machine_type in sizes if of == [release, subset]]
    if release == "demo":
        usual = list(sounds.SECTIONS)
    there = {one.machine_type for one in gathered.points if one.release == release}
    return Asked(name, tuple(typed), grid, gathered, tuple(usual or sorted(there)))


def _quoted(text: str) -> str:
    return text if all(sign.isalnum() or sign in "=._/,-+" for sign in text) else f"'{text}'"


def missing(total: Mapping[tuple[str, str], int], done: Mapping[tuple[str, str], int]) -> str:
    """What is missing of a sweep, model by model; empty where nothing is."""
    parts = []
    for model in dict.fromkeys(key[0] for key in total):
        left = {
            name: count - done.get((model, name), 0)
            for (one, name), count in total.items()
            if one == model and count > done.get((model, name), 0)
        }
        if left:
            whole = all(
                not done.get((model, name)) and left.get(name) == count
                for (one, name), count in total.items()
                if one == model
            )
            said = (
                "all"
                if whole
                else ", ".join(_said(name, n, total[model, name]) for name, n in left.items())
            )
            parts.append(f"{model} ({said})")
    return ", ".join(parts)


def _said(name: str, left: int, total: int) -> str:
    return name if left == total else f"{name} {left:,}"
