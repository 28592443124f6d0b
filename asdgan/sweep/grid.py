"""From a command line, or a sweep file, to the parts of a grid.

A part is one composed config and the axes that vary inside it. Axes whose values may differ from
lane to lane of a stack, the epochs at which one training is read, and the machine types are not
composed: their values are checked once each, and multiplied when the grid is planned. Everything
else (batch, latent, a choice of a config group, ...) makes parts of its own. A part of ensembles
(asdgan/training/ensembles.py) has the parts of its members beside it.
"""

import copy
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asdgan._system.resources import SWEEPS
from asdgan.config import compose
from asdgan.errors import BadInput
from asdgan.sweep.search_space import MULTIPLIED, Dimension, Value, dimension_of
from asdgan.sweep.sweep_file import read
from asdgan.training import ensembles

MOST_POINTS = 2_000_000  # for each machine type; a plan of so many takes minutes and a gigabyte
MOST_PARTS = 20_000
NARROWED = ("model", "machine")  # of a sweep file, by what is typed beside it
OF_SEARCHES = ("trials", "objective", "reduction", "ask", "search_seed", "storage")


@dataclass(frozen=True)
class Part:
    """One composed config and what varies inside it.

    Attributes:
        config: The settings of its first point, checked.
        axes: Those that lanes differ in.
        rows: For each lane its values on them.
        readings: Numbers of epochs, ascending; one for a detector that must train to the end. Of
            an ensemble, the most that a member has.
        machine: A machine type, several, or `all`.
        alike: Whether the axes change themselves only: no other setting is read off one of them.
        members: Of an ensemble, by name; row by row they are the members of its rows.
    """

    config: DictConfig
    axes: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    readings: tuple[int, ...]
    machine: str | tuple[str, ...]
    alike: bool
    members: Mapping[str, "Part"] = field(default_factory=dict)

    @property
    def points(self) -> int:
        """Points on one machine type."""
        return len(self.rows) * len(self.readings)


@dataclass(frozen=True)
class Axis:
    """A setting, and its values as typed.

    Attributes:
        dimension: Where a search varies it; `values` are those to check beforehand then.
    """

    key: str
    values: tuple[str, ...]
    swept: bool
    dimension: Dimension | None = None


@dataclass(frozen=True)
class Grid:
    """What a command line asks for.

    Attributes:
        typed: The command line.
        settings: The node `sweep` of the config.
        parts: Of all blocks. Of a search: between what its trials will lie.
        block: What a search's trials are made of; empty where nothing is searched.
    """

    typed: tuple[str, ...]
    settings: DictConfig
    parts: tuple[Part, ...]
    block: tuple[Axis, ...] = ()

    @cached_property
    def whole(self) -> tuple[Part, ...]:
        """The parts, and those of ensembles' members.

        Ensembles come last. Before them, what scores its training clips comes first, as members
        must: where a point stands in several parts, the first has it trained.
        """
        members = [one for part in self.parts for one in part.members.values()]
        return tuple(sorted((*self.parts, *members), key=_turn))

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What a search varies."""
        return tuple(axis.dimension for axis in self.block if axis.dimension is not None)

    @property
    def points(self) -> int:
        """Points on one machine type; each machine type of a list counts."""
        return sum(
            part.points * (1 if isinstance(part.machine, str) else len(part.machine))
            for part in self.parts
        )


def _turn(part: Part) -> tuple[bool, bool]:
    return bool(part.members), not part.config.trainer.train_scores


def expand(typed: Sequence[str]) -> Grid:
    """The grid of a command line.

    Raises:
        BadInput: Whatever is wrong in it, or in the sweep file it names, before anything starts.
    """
    overrides = compose.parsed(map(in_full, typed))
    own = [_axis(one, False) for one in overrides if _is_own(one)]
    for axis in own:
        if axis.swept:
            raise BadInput(f"{axis.key} takes one value, not several; it is not an axis")
    node = _node(tuple(f"{axis.key}={axis.values[0]}" for axis in own)).copy()
    if node.search is None:
        for axis in own:
            if axis.key.removeprefix("sweep.") in OF_SEARCHES:
                raise BadInput(f"{axis.key} belongs to a search; add sweep.search=tpe")
    rest = [_axis(one, node.search is not None) for one in overrides if not _is_own(one)]
    blocks = [rest]
    if node.file is not None:
        blocks = _blocks_of_file(node.file, rest, node.search is not None)
    if node.search is not None:
        if len(blocks) > 1:
            raise BadInput(f"sweep={node.file} has {len(blocks)} blocks; a search takes one")
        if not any(axis.dimension for axis in blocks[0]):
            raise BadInput(
                f"sweep.search={node.search}: nothing varies; give an interval or choices, "
                "'lr=tag(log,interval(1e-5,1e-2))' or latent=8,16"
            )
        blocks = [_under_rules(blocks[0])]
    total = sum(math.prod(len(axis.values) for axis in block) for block in blocks)
    if total > MOST_POINTS:
        raise BadInput(
            f"{total:,} points for each machine type: more than {MOST_POINTS:,}, which nobody "
            "will train; give fewer values"
        )
    parts = [part for block in blocks for part in _parts(block, node)]
    searched = tuple(blocks[0]) if node.search is not None else ()
    return Grid(typed=tuple(typed), settings=node, parts=tuple(parts), block=searched)


@lru_cache(maxsize=16)
def _node(typed: tuple[str, ...]) -> DictConfig:
    """How a sweep runs."""
    return compose.compose(typed).sweep


def parts_of(
    grid: Grid, trials: Sequence[Mapping[str, Value]], readings: Sequence[int]
) -> tuple[list[Part], list[list[tuple[int, int]]]]:
    """The parts that trials of a search make.

    Args:
        grid: Of the search.
        trials: For each the value of every dimension.
        readings: Numbers of epochs.

    Returns:
        The parts; and for each trial its places in them, a part's number and a row's: one for
        each seed.
    """
    inner = [one for one in grid.dimensions if one.key in compose.LANE_AXES]
    outer = [one for one in grid.dimensions if one.key not in compose.LANE_AXES]
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, trial in enumerate(trials):
        groups.setdefault(tuple(one.text(trial[one.key]) for one in outer), []).append(number)
    within = {"epochs", *(one.key for one in inner)}
    rest = [axis for axis in grid.block if axis.key not in within]
    rest.append(Axis("epochs", tuple(map(str, readings)), swept=True))
    parts: list[Part] = []
    places: list[list[tuple[int, int]]] = [[] for _ in trials]
    for texts, members in groups.items():
        chosen = {one.key: (text,) for one, text in zip(outer, texts, strict=True)}
        block = [
            Axis(axis.key, chosen[axis.key], swept=False) if axis.key in chosen else axis
            for axis in rest
        ]
        (part,) = _parts(block, grid.settings)
        axes = (*(one.key for one in inner), *part.axes)
        rows: dict[tuple[Any, ...], int] = {}  # two trials may be equal
        for member in members:
            own = [_chosen(one, trials[member][one.key]) for one in inner]
            for row in part.rows:
                at = rows.setdefault((*own, *row), len(rows))
                places[member].append((len(parts), at))
        alike = not _read_elsewhere(part.config, axes)
        parts.append(replace(part, axes=axes, rows=tuple(rows), alike=alike))
    return parts, places


def _chosen(dimension: Dimension, value: Value) -> Any:  # noqa: ANN401 - any config value
    return _value(dimension.key, str(value)) if dimension.choices else value


def _is_own(override: Override) -> bool:
    return override.get_key_element().split(".")[0] == "sweep"


def in_full(override: str) -> str:
    """`sweep=table3` says `sweep.file=table3`."""
    if override.startswith("sweep="):
        return f"sweep.file={override.removeprefix('sweep=')}"
    return override


def _axis(override: Override, searched: bool) -> Axis:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return Axis(key, (override.get_value_element_as_str(),), swept=False)
    swept = override.value()
    if isinstance(swept, IntervalSweep) and (not searched or key in MULTIPLIED):
        needs = "that needs a search (sweep.search=tpe), or list" if not searched else "list"
        raise BadInput(
            f"{override.input_line}: an interval has no end of values; {needs} those to try: "
            f"{key}=a,b"
        )
    if isinstance(swept, RangeSweep):
        spans = (swept.start, swept.stop, swept.step)
        if abs((spans[1] or 0) - (spans[0] or 0)) > MOST_POINTS * abs(spans[2] or 1):
            raise BadInput(f"{override.input_line}: more than {MOST_POINTS:,} values")
    if searched and key not in MULTIPLIED:
        dimension = dimension_of(override)
        return Axis(key, dimension.ends, swept=True, dimension=dimension)
    texts = tuple(dict.fromkeys(str(text) for text in override.sweep_string_iterator()))
    return Axis(key, texts, swept=True)


def _blocks_of_file(name: str, typed: Sequence[Axis], searched: bool) -> list[list[Axis]]:
    """The blocks of a sweep file; what is typed replaces an axis of theirs, or is added.

    Models and machine types that the file has are narrowed instead: a block that names others is
    left out, for its settings are not meant for these.
    """
    found: list[dict[str, Axis]] = []
    for block in read(SWEEPS, name).blocks:
        try:
            axes = [_axis(override, searched) for override in compose.parsed(block.lines)]
        except BadInput as error:
            raise BadInput(f"{block.place}: {error}") from None
        found.append({axis.key: axis for axis in axes})
    new = {axis.key: axis for axis in typed}
    for key in NARROWED:
        if key in new:
            found = _narrowed(found, new[key], name)
    kept = {axis.key: axis for axis in typed if axis.key not in NARROWED}
    every = [{**block, **kept} for block in found]
    return [[*block.values()] for block in every]


def _narrowed(blocks: Sequence[dict[str, Axis]], typed: Axis, name: str) -> list[dict[str, Axis]]:
    """The blocks with what is typed of their models or machine types.

    Raises:
        BadInput: The file has some of what is typed, and not the rest.
    """
    key, asked = typed.key, _named(typed)
    own = [_named(block[key]) if key in block else ["all"] for block in blocks]
    there = {word for words in own for word in words}
    strange = [word for word in asked if word not in there | {"all"}]
    if strange and "all" not in there:
        if len(strange) == len(asked):
            return [{**block, key: typed} for block in blocks]
        known = ", ".join(sorted(there))
        raise BadInput(f"{key}={strange[0]}: sweep={name} has no such block; it has {known}")
    kept = []
    for block, words in zip(blocks, own, strict=True):
        common = tuple(word for word in words if word in asked)
        if "all" in words:
            kept.append({**block, key: typed})
        elif "all" in asked:
            kept.append(block)
        elif common:
            kept.append({**block, key: Axis(key, common, swept=True)})
    return kept


def _named(axis: Axis) -> list[str]:
    """The words of an axis: those of a list are several."""
    values = [_value(axis.key, text) for text in axis.values]
    return [str(word) for one in values for word in (one if isinstance(one, list) else [one])]


# Parts ------------------------------------------------------------------------------------------


def _parts(block: Sequence[Axis], node: DictConfig) -> list[Part]:
    """A block's parts, which know what `sweep` says; all that is wrong in one complaint."""
    told = node.copy()
    told.storage = None  # its address may hold a password, and plans are for everybody
    inside = {*compose.LANE_AXES, "epochs", "machine"}
    groups, plain = _apart(block)
    outer = [axis for axis in plain if axis.key not in inside]
    if math.prod(len(axis.values) for axis in [*groups, *outer]) > MOST_PARTS:
        raise BadInput(
            f"more than {MOST_PARTS:,} combinations of "
            f"{', '.join(axis.key for axis in [*groups, *outer] if axis.swept)}, each of which "
            "is a model of its own; give fewer values"
        )
    parts: list[Part] = []
    wrong: dict[str, None] = {}
    for typed in _choices(groups):
        first = _first(typed, tuple((axis.key, axis.values[0]) for axis in plain))
        for values in itertools.product(*(axis.values for axis in outer)):
            config = copy.deepcopy(first)
            config.sweep = told
            OmegaConf.set_struct(config, True)
            try:
                for axis, text in zip(outer, values, strict=True):
                    OmegaConf.update(config, axis.key.lstrip("+~"), _value(axis.key, text))
                parts.append(
                    _part(config, [axis for axis in plain if axis.key in inside], node.dry_run)
                )
            except BadInput as error:
                wrong |= dict.fromkeys(str(error).split("; "))
            except OmegaConfBaseException as error:
                wrong[" ".join(str(error).split())] = None
    if wrong:
        raise BadInput("; ".join(wrong))
    return parts


def _apart(block: Sequence[Axis]) -> tuple[list[Axis], list[Axis]]:
    """A block's config groups, and its other settings."""
    groups = [axis for axis in block if _is_group(axis.key)]
    return groups, [axis for axis in block if axis not in groups]


def _choices(groups: Sequence[Axis]) -> list[tuple[str, ...]]:
    """Every choice of config groups, as typed."""
    return [
        tuple(f"{axis.key}={value}" for axis, value in zip(groups, choice, strict=True))
        for choice in itertools.product(*(axis.values for axis in groups))
    ]


def _under_rules(block: Sequence[Axis]) -> list[Axis]:
    """A search's block by the rules of its models, which say where numbers are whole."""
    rules = [compose.rules_of(_chosen_groups(typed)) for typed in _choices(_apart(block)[0])]

    def under(axis: Axis) -> Axis:
        if axis.dimension is None:
            return axis
        own = [one[axis.key] for one in rules if axis.key in one]
        dimension = axis.dimension.under(own)
        return replace(axis, values=dimension.ends, dimension=dimension)

    return [under(axis) for axis in block]


@lru_cache(maxsize=64)
def _first(groups: tuple[str, ...], plain: tuple[tuple[str, str], ...]) -> DictConfig:
    """What a search composes in every round; to be copied, not changed.

    Blocks that differ in values only are composed once, which takes the time.
    """
    config = copy.deepcopy(_chosen_groups(groups))
    missing = object()
    if any(OmegaConf.select(config, key, default=missing) is missing for key, _ in plain):
        return compose.composed((*groups, *(f"{key}={text}" for key, text in plain)))
    for key, text in plain:
        OmegaConf.update(config, key, _value(key, text))
    return config


@lru_cache(maxsize=64)
def _chosen_groups(groups: tuple[str, ...]) -> DictConfig:
    return compose.composed(groups)


def _part(config: DictConfig, axes: Sequence[Axis], dry_run: bool) -> Part:
    """One part: every value of every inner axis is checked, none is composed."""
    # Without its data set a sweep can be planned, not started.
    wrong: list[str] = []
    without = ("dataset.root",) if dry_run else ()
    rules = compose.rules_of(config)
    try:
        compose.checked(config, without=without)
    except BadInput as error:
        wrong += str(error).split("; ")
    if compose.is_ensemble(config) and config.sweep.search is not None:
        wrong.append(
            f"sweep.search={config.sweep.search}: model={config.detector} puts results of others "
            "together, which a search cannot; list the values to try, or search over a member"
        )
    values = {
        axis.key: tuple(_value(axis.key, text) for text in axis.values)
        for axis in axes
        if axis.swept
    }
    for key, listed in values.items():
        if rule := rules.get(key):
            wrong += [
                f"{key}={value}: {rule.sentence} is expected"
                for value in listed
                if not rule.holds(value)
            ]
    if wrong:
        raise BadInput("; ".join(dict.fromkeys(wrong)))
    machine = values.pop("machine", (config.machine,))
    names = [one for name in machine for one in ([name] if isinstance(name, str) else name)]
    readings = tuple(sorted(set(values.pop("epochs", (config.epochs,)))))
    lanes = {key: _distinct(listed) for key, listed in values.items()}
    part = Part(
        config=config,
        axes=tuple(lanes),
        rows=tuple(itertools.product(*lanes.values())),
        readings=readings,
        machine="all" if "all" in names else tuple(dict.fromkeys(names)),
        alike=not _read_elsewhere(config, lanes),
    )
    return _with_members(part, without) if compose.is_ensemble(config) else part


def _with_members(part: Part, without: Sequence[str]) -> Part:
    """A part of ensembles, whose rows differ in their seed at most, with its members' parts."""
    members = {
        name: replace(
            part,
            config=one,
            readings=(one.epochs,),
            alike=not _read_elsewhere(one, part.axes),
        )
        for name, one in ensembles.members_of(part.config, without=without).items()
    }
    compose.build(part.config)  # it has no weights, and loads nothing that takes time
    return replace(
        part,
        readings=(max(one.readings[-1] for one in members.values()),),
        alike=part.alike and all(one.alike for one in members.values()),
        members=members,
    )


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """Each value once: 1 and 1.0 are one."""
    return tuple({(isinstance(value, bool), value): value for value in values}.values())


def _read_elsewhere(config: DictConfig, axes: Iterable[str]) -> bool:
    """Whether a setting that is not called like the axis takes its value from it."""
    typed = compose.flatten(OmegaConf.to_container(config, resolve=False))
    return any(
        re.search(rf"\$\{{{axis}\}}", str(value)) and key.rpartition(".")[2] != axis
        for axis in axes
        for key, value in typed.items()
    )


@lru_cache(maxsize=4096)
def _value(key: str, text: str) -> Any:  # noqa: ANN401 - any config value
    return OverridesParser.create().parse_override(f"{key}={text}").value()


def _is_group(key: str) -> bool:
    return (compose.CONF / key.partition("@")[0]).is_dir()
