"""A finished training scored anew, where only what scoring depends on is another.

`Detector.SCORING` names the settings that training does not depend on: which score is the primary
one, how windows are pooled, what is fitted to embeddings. A point that differs from a finished one
in nothing else takes its weights, where they were kept, and is not trained. Losses and measures
of health are those of that training: `spread` is of the score that was the primary one then.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from asdgan.config import compose
from asdgan.errors import Damaged
from asdgan.nn import health
from asdgan.results import ledger
from asdgan.results.ledger import Result
from asdgan.training.stack import Stack

if TYPE_CHECKING:
    from asdgan.data.windows import Windows
    from asdgan.detector import Detector

log = logging.getLogger("asdgan")


@dataclass(frozen=True)
class Earlier:
    """A finished point whose weights are there.

    Attributes:
        row: Its row.
        weights: Its safetensors file, of this and maybe other points.
    """

    row: Mapping[str, Any]
    weights: bytes


def found(stack: Stack, runs: Path) -> Earlier | None:
    """What a stack of one, read once, need not train; None where it has to, or is no such stack.

    Args:
        stack: To be trained.
        runs: The folder of results.
    """
    lanes, readings = len(stack.lanes), list(stack.readings)
    if lanes > 1 or len(readings) > 1:
        return None
    scoring = tuple(hydra.utils.get_class(stack.config.model._target_).SCORING)
    epochs = readings[0]
    wanted = _trained_by(stack.settings(0, epochs), stack.recipe, stack.data, scoring)
    for folder in sorted(runs.glob(f"{escape(stack.kin)}-*")):
        for _, result in ledger.each(folder):
            if not isinstance(result, Result) or result.epochs != epochs:
                continue
            for row in result.rows:
                told = _trained_by(row["settings"], row["recipe"], row["data"], scoring)
                if told == wanted:
                    if weights := _weights(result, row["signature"]):
                        return Earlier(row, weights)
    return None


def rebuilt(earlier: Earlier, config: DictConfig, train: "Windows") -> "Detector":
    """The detector that a config describes, with the weights and the history of a finished point.

    Args:
        earlier: The point.
        config: Of the new one.
        train: Windows of the training clips.
    """
    import torch
    from safetensors.torch import load

    log.info("trained before as %s: scored anew", earlier.row["signature"])
    detector = compose.build(config)
    detector.to(torch.float64 if config.trainer.dtype == "float64" else torch.float32)
    detector.prepare(train)
    prefix = f"{earlier.row['signature']}/"
    state = load(earlier.weights)
    detector.load_state_dict(
        {name.removeprefix(prefix): of for name, of in state.items() if name.startswith(prefix)}
    )
    measured = {f"{health.PREFIX}{k}": of for k, of in earlier.row.get("health", {}).items()}
    detector.history = {
        name: [torch.tensor(value, dtype=torch.float64) for value in values]
        for name, values in {**earlier.row["losses"], **measured}.items()
    }
    return detector


def _trained_by(flat: Mapping[str, Any], recipe: int, data: str, scoring: tuple[str, ...]) -> str:
    """The name of a training: a point's, less the settings that training does not depend on."""
    kept = {
        key: value
        for key, value in ledger.flatten(dict(flat)).items()
        if not any(key.startswith(one) if one.endswith(".") else key == one for one in scoring)
    }
    return ledger.signature(kept, recipe, data)


def _weights(result: Result, signature: str) -> bytes | None:
    """The file of a result's weights, if that point's are among them and verify."""
    from safetensors.torch import load

    try:
        data = ledger.read_weights(result)
    except Damaged as error:
        log.warning("%s; training that again", error)
        return None
    if data is None or not any(name.startswith(f"{signature}/") for name in load(data)):
        return None
    return data
