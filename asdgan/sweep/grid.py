"""From a command line, or a sweep file, to the parts of a grid.

A part is one composed config and the axes that vary inside it. Axes whose values may differ from
lane to lane of a stack, the epochs at which one training is read, and the machine types are not
composed: their values are checked once each, and multiplied when the grid is planned. Everything
else (batch, latent, a choice of a config group, ...) makes parts of its own.
"""

import copy
import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asdgan import settings
from asdgan.errors import BadInput

_PACKAGE = Path(__file__).resolve().parent.parent
SWEEPS = _PACKAGE / "sweeps" if (_PACKAGE / "sweeps").is_dir() else _PACKAGE.parent / "sweeps"

MOST_POINTS = 2_000_000  # for each machine type; a plan of so many takes minutes and a gigabyte
MOST_PARTS = 20_000
FILE_KEYS = ("about", "dataset", "blocks")


@dataclass(frozen=True)
class Part:
    """One composed config and what varies inside it.

    Attributes:
        config: The settings of its first point, checked.
        lanes: Values of the axes that lanes may differ in, by axis.
        readings: Numbers of epochs, ascending; one for a detector that must train to the end.
        machine: A machine type, several, or `all`.
        alike: Whether the axes of `lanes` change themselves only: no other setting is read off
            one of them.
    """

    config: DictConfig
    lanes: Mapping[str, tuple[Any, ...]]
    readings: tuple[int, ...]
    machine: str | tuple[str, ...]
    alike: bool

    @property
    def points(self) -> int:
        """Points on one machine type."""
        return math.prod(len(values) for values in self.lanes.values()) * len(self.readings)


@dataclass(frozen=True)
class Axis:
    """A setting, and its values as typed."""

    key: str
    values: tuple[str, ...]
    swept: bool


@dataclass(frozen=True)
class Grid:
    """What a command line asks for.

    Attributes:
        typed: The command line.
        name: Of the sweep: the file's or the model's, and a digest of the command line.
        settings: The node `sweep` of the config.
        parts: Of all blocks.
    """

    typed: tuple[str, ...]
    settings: DictConfig
    parts: tuple[Part, ...]

    @property
    def points(self) -> int:
        """Points on one machine type; each machine type of a list counts."""
        return sum(
            part.points * (1 if isinstance(part.machine, str) else len(part.machine))
            for part in self.parts
        )


def expand(typed: Sequence[str]) -> Grid:
    """The grid of a command line.

    Raises:
        BadInput: Whatever is wrong in it, or in the sweep file it names, before anything starts.
    """
    axes = [_axis(override) for override in settings.parsed(typed)]
    own = [axis for axis in axes if axis.key.split(".")[0] == "sweep"]
    for axis in own:
        if axis.swept:
            raise BadInput(f"{axis.key} takes one value, not several; it is not an axis")
    named = {"sweep": "sweep.file"}  # `sweep=table3` for short
    node = settings.compose(
        [f"{named.get(axis.key, axis.key)}={axis.values[0]}" for axis in own]
    ).sweep
    rest = [axis for axis in axes if axis not in own]
    blocks = [rest] if node.file is None else _blocks_of_file(node.file, rest)
    total = sum(math.prod(len(axis.values) for axis in block) for block in blocks)
    if total > MOST_POINTS:
        raise BadInput(
            f"{total:,} points for each machine type: more than {MOST_POINTS:,}, which nobody "
            "will train; give fewer values"
        )
    parts = [part for block in blocks for part in _parts(block, node.dry_run)]
    return Grid(typed=tuple(typed), settings=node, parts=tuple(parts))


def _axis(override: Override) -> Axis:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return Axis(key, (override.get_value_element_as_str(),), swept=False)
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        raise BadInput(
            f"{override.input_line}: an interval has no end of values; "
            f"list those to try: {key}=a,b"
        )
    if isinstance(swept, RangeSweep):
        spans = (swept.start, swept.stop, swept.step)
        if abs((spans[1] or 0) - (spans[0] or 0)) > MOST_POINTS * abs(spans[2] or 1):
            raise BadInput(f"{override.input_line}: more than {MOST_POINTS:,} values")
    texts = tuple(dict.fromkeys(str(text) for text in override.sweep_string_iterator()))
    return Axis(key, texts, swept=True)


def _blocks_of_file(name: str, typed: Sequence[Axis]) -> list[list[Axis]]:
    """The blocks of a sweep file; what is typed replaces an axis of theirs, or is added."""
    path = SWEEPS / f"{name}.yaml"
    there = sorted(found.stem for found in SWEEPS.glob("*.yaml"))
    if name not in there:
        near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"sweep={name}: no such sweep{hint}; there are {', '.join(there)}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # yaml's own errors, and OmegaConf's
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadInput(f"{path}{line}: not a sweep file ({reason})") from None
    if not isinstance(content, dict) or not isinstance(content.get("blocks"), list):
        raise BadInput(f"{path}: a sweep file has `blocks`, a list of lists of settings")
    if strange := sorted(set(map(str, content)) - set(FILE_KEYS)):
        raise BadInput(
            f"{path}: unknown key {strange[0]}; a sweep file has {', '.join(FILE_KEYS)}"
        )
    blocks = []
    for number, block in enumerate(content["blocks"], start=1):
        if not isinstance(block, list) or not all(isinstance(line, str) for line in block):
            raise BadInput(f"{path}: block {number} is not a list of settings like `batch=16,512`")
        try:
            axes = [_axis(override) for override in settings.parsed(block)]
        except BadInput as error:
            raise BadInput(f"{path}: block {number}: {error}") from None
        if "dataset" in content:
            axes = [Axis("dataset", (str(content["dataset"]),), swept=False), *axes]
        new = {axis.key: axis for axis in typed}
        blocks.append(
            [new.pop(axis.key, axis) for axis in axes]
            + [axis for axis in typed if axis.key in new]
        )
    return blocks


# Parts ------------------------------------------------------------------------------------------


def _parts(block: Sequence[Axis], dry_run: bool) -> list[Part]:
    """A block's parts; all that is wrong with its values in one complaint."""
    inside = {*settings.LANE_AXES, "epochs", "machine"}
    groups = [axis for axis in block if _is_group(axis.key)]
    plain = [axis for axis in block if not _is_group(axis.key)]
    outer = [axis for axis in plain if axis.key not in inside]
    if math.prod(len(axis.values) for axis in [*groups, *outer]) > MOST_PARTS:
        raise BadInput(
            f"more than {MOST_PARTS:,} combinations of "
            f"{', '.join(axis.key for axis in [*groups, *outer] if axis.swept)}, each of which "
            "is a model of its own; give fewer values"
        )
    parts: list[Part] = []
    wrong: dict[str, None] = {}
    for choice in itertools.product(*(axis.values for axis in groups)):
        typed = [f"{axis.key}={value}" for axis, value in zip(groups, choice, strict=True)]
        first = settings.composed([*typed, *(f"{axis.key}={axis.values[0]}" for axis in plain)])
        for values in itertools.product(*(axis.values for axis in outer)):
            config = copy.deepcopy(first)
            OmegaConf.set_struct(config, True)
            try:
                for axis, text in zip(outer, values, strict=True):
                    OmegaConf.update(config, axis.key.lstrip("+~"), _value(axis.key, text))
                parts.append(
                    _part(config, [axis for axis in plain if axis.key in inside], dry_run)
                )
            except BadInput as error:
                wrong |= dict.fromkeys(str(error).split("; "))
            except OmegaConfBaseException as error:
                wrong[" ".join(str(error).split())] = None
    if wrong:
        raise BadInput("; ".join(wrong))
    return parts


def _part(config: DictConfig, axes: Sequence[Axis], dry_run: bool) -> Part:
    """One part: every value of every inner axis is checked, none is composed."""
    # Without its data set a sweep can be planned, not started.
    wrong: list[str] = []
    try:
        settings.check(config, without=("dataset.root",) if dry_run else ())
    except BadInput as error:
        wrong += str(error).split("; ")
    values = {
        axis.key: tuple(_value(axis.key, text) for text in axis.values)
        for axis in axes
        if axis.swept
    }
    for key, listed in values.items():
        rule, holds = settings.RULES.get(key, ("", lambda _: True))
        wrong += [f"{key}={value}: {rule} is expected" for value in listed if not holds(value)]
    if wrong:
        raise BadInput("; ".join(dict.fromkeys(wrong)))
    machine = values.pop("machine", (config.machine,))
    names = [one for name in machine for one in ([name] if isinstance(name, str) else name)]
    readings = tuple(sorted(set(values.pop("epochs", (config.epochs,)))))
    lanes = {key: _distinct(listed) for key, listed in values.items()}
    return Part(
        config=config,
        lanes=lanes,
        readings=readings,
        machine="all" if "all" in names else tuple(dict.fromkeys(names)),
        alike=not _read_elsewhere(config, lanes),
    )


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """Each value once: 1 and 1.0 are one."""
    return tuple({(isinstance(value, bool), value): value for value in values}.values())


def _read_elsewhere(config: DictConfig, axes: Iterable[str]) -> bool:
    """Whether a setting that is not called like the axis takes its value from it."""
    typed = settings.flatten(OmegaConf.to_container(config, resolve=False))
    return any(
        re.search(rf"\$\{{{axis}\}}", str(value)) and key.rpartition(".")[2] != axis
        for axis in axes
        for key, value in typed.items()
    )


@lru_cache(maxsize=4096)
def _value(key: str, text: str) -> Any:  # noqa: ANN401 - any config value
    return OverridesParser.create().parse_override(f"{key}={text}").value()


def _is_group(key: str) -> bool:
    return (settings.CONF / key.partition("@")[0]).is_dir()
