"""What the class of a model says of itself, read off its source.

Points are named and planned by it, in processes that load neither torch nor a model.
"""

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from asdgan.errors import BadInput

TOLD = {"recipe": 1, "stackable": False, "prefix_stable": True}  # and the base class' values


@dataclass(frozen=True)
class Trait:
    """As `Detector` describes them; an ensemble has a recipe alone."""

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


def recipe_of(config: DictConfig) -> int:
    """The recipe number of the model that the settings name."""
    return of(config.model._target_).recipe
