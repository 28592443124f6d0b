"""A sweep file as it stands: blocks of settings, and the published numbers that belong to them.

    about: one paragraph
    dataset: dcase2020             # of every block
    published: [table7]            # files of sweeps/published/ that its results are set beside
    sweeps: [table4, dcase_ae]     # files whose blocks are blocks of this one, too
    shared: [lr=0.0002, latent=8]  # settings of every block that follows
    blocks: [[model=ganomaly, 'batch=16,512'], [model=egbad]]

Overrides in a block multiply, blocks add up. What they mean is `grid`'s business.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from asdgan.errors import BadInput

KEYS = ("about", "dataset", "published", "sweeps", "shared", "blocks")


@dataclass(frozen=True)
class Block:
    """Overrides that multiply.

    Attributes:
        place: The file and the block's number in it, for complaints.
        lines: As they are written, the dataset first.
    """

    place: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    Attributes:
        name: Its name without the ending.
        about: What it is, in one line.
        published: Files of published numbers.
        blocks: Its own after those of the sweeps that it names.
    """

    name: str
    about: str
    published: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def models(self) -> set[str]:
        """The detectors that its blocks name."""
        said = (line for block in self.blocks for line in block.lines)
        listed = (line.removeprefix("model=") for line in said if line.startswith("model="))
        return {name for names in listed for name in names.split(",")}


def names(folder: Path) -> list[str]:
    """The sweep files of a folder."""
    return sorted(found.stem for found in folder.glob("*.yaml"))


def read(folder: Path, name: str, within: tuple[str, ...] = ()) -> SweepFile:
    """A sweep file by its name.

    Args:
        folder: Where sweep files lie.
        name: Without the ending.
        within: The files that name this one, the first outermost.

    Raises:
        BadInput: There is none of this name, or it is not a sweep file.
    """
    there = names(folder)
    if name not in there:
        near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"sweep={name}: no such sweep{hint}; there are {', '.join(there)}")
    path = folder / f"{name}.yaml"
    if name in within:
        raise BadInput(f"{path}: is one of its own sweeps, by way of {', '.join(within)}")
    content = _content(path)
    shared = _lines(path, "shared", content)
    dataset = [f"dataset={content['dataset']}"] if "dataset" in content else []
    blocks = [
        block
        for other in _lines(path, "sweeps", content)
        for block in read(folder, other, (*within, name)).blocks
    ]
    for number, block in enumerate(content.get("blocks", ()), start=1):
        if not _are_lines(block):
            raise BadInput(f"{path}: block {number} is not a list of settings like `batch=16,512`")
        blocks.append(Block(f"{path}: block {number}", (*dataset, *shared, *block)))
    return SweepFile(
        name=name,
        about=" ".join(str(content.get("about", "")).split()),
        published=tuple(_lines(path, "published", content)),
        blocks=tuple(blocks),
    )


def _content(path: Path) -> dict[Any, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # yaml's own errors, and OmegaConf's
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadInput(f"{path}{line}: not a sweep file ({reason})") from None
    lists = {"blocks", "sweeps"}.intersection(content) if isinstance(content, dict) else ()
    if not (lists and isinstance(content, dict)):
        raise BadInput(f"{path}: a sweep file has `blocks`, a list of lists of settings")
    if strange := sorted(set(map(str, content)) - set(KEYS)):
        raise BadInput(f"{path}: unknown key {strange[0]}; a sweep file has {', '.join(KEYS)}")
    if not isinstance(content.get("blocks", []), list):
        raise BadInput(f"{path}: a sweep file has `blocks`, a list of lists of settings")
    return content


def _lines(path: Path, key: str, content: dict[Any, Any]) -> list[str]:
    found = content.get(key, [])
    if not _are_lines(found):
        raise BadInput(f"{path}: {key} is not a list of words")
    return found


def _are_lines(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(line, str) for line in found)
