"""What a plan must know of models, found out without loading them into the planning process.

What a class says of itself is read off its source; whether it can be built is asked aside.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from asdgan.errors import BadInput
from asdgan.sweep import aside

TOLD = {"recipe": 1, "stackable": False, "prefix_stable": True}  # and the base class' values


@dataclass(frozen=True)
class Trait:
    """What a plan must know of a model's class."""

    recipe: int
    stackable: bool
    prefix_stable: bool


@cache
def of(target: str) -> Trait:
    """The traits of a detector's class, by its `_target_`.

    Raises:
        BadInput: There is no such class.
    """
    module, _, name = target.rpartition(".")
    spec = find_spec(module) if module else None
    if spec is None or spec.origin is None:
        raise BadInput(f"model._target_={target}: no such class")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    if not found:
        raise BadInput(f"model._target_={target}: no such class")
    said = dict(TOLD)
    for node in found[0].body:
        named = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for one in named:
            if isinstance(one, ast.Name) and one.id in said and getattr(node, "value", None):
                said[one.id] = ast.literal_eval(node.value)  # pyright: ignore
    return Trait(int(said["recipe"]), bool(said["stackable"]), bool(said["prefix_stable"]))


def unbuildable(configs: Sequence[DictConfig]) -> list[str | None]:
    """Why each config's model cannot be built; None for one that can.

    They are built on the meta device: shapes without memory.

    Raises:
        BadInput: They could not be tried.
    """
    return aside.answers(
        "asdgan.sweep.traits:why_not", configs, failing="models could not be tried"
    )


def why_not(config: DictConfig) -> str | None:
    """Why a config's model cannot be built; None for one that can. Loads torch."""
    import torch

    from asdgan import settings

    try:
        with torch.device("meta"):
            settings.build(config)
    except Exception as error:
        cause = error.__cause__ or error
        return " ".join(str(cause).split()) or type(cause).__name__
    return None
