"""What is learnt first: a model trained once, whose weights every run that asks for it takes over.

`model.stages` names models like any other, with what is typed for each. A stage hears the normal
training clips of every machine type, unless `machine` is typed for it, and its seed is its own, so
that runs of other machine types and seeds share it. It is found by a key of its settings, recipe
and clips below `outputs/stages`, or trained there: by one process, while the others wait. Its
checkpoint is minutes old, like that of any training.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from asdgan._system import files
from asdgan.config import compose, traits
from asdgan.errors import BadInput, Damaged
from asdgan.training import machine_data

if TYPE_CHECKING:
    from torch import Tensor

    from asdgan.data.windows import Windows
    from asdgan.detector import Detector

log = logging.getLogger("asdgan")

WEIGHTS, RECORD, LOCK = "weights.safetensors", "stage.json", "lock"
CHECKPOINT = "checkpoint"

OnSteps = Callable[[int, str], None]
# Trains a stage: its settings, windows, key, where its checkpoint is kept, and who is told.
Fit = Callable[[DictConfig, "Windows", str, Path, OnSteps], "Detector"]


def learnt(
    config: DictConfig, fit: Fit, on_steps: OnSteps | None
) -> dict[str, Mapping[str, "Tensor"]]:
    """The weights of each stage of a run, by its model's name, on the CPU.

    Args:
        config: Of the run.
        fit: Trains what is not there yet.
        on_steps: Told that something goes on, with no step of the run's own.

    Raises:
        BadInput: A stage cannot be composed or trained.
    """
    return {
        name: _weights(name, one, fit, on_steps or (lambda *_: None))
        for name, one in compose.stages_of(config).items()
    }


def _weights(name: str, config: DictConfig, fit: Fit, on_steps: OnSteps) -> Mapping[str, "Tensor"]:
    from asdgan.data.windows import Joined

    root = machine_data.root_of(config, machine_data.uncounted)
    data = machine_data.learnt_from(config, root)
    body = {
        "settings": compose.identity(config, ",".join(data)),
        "recipe": traits.recipe_of(config),
        "data": data,
    }
    key = hashlib.sha256(files.canonical(body)).hexdigest()[:16]
    folder = Path(config.outputs) / "stages" / f"{name}-{key}"

    def say(steps: int, where: str) -> None:
        on_steps(0, f"{name}: {where}")

    with files.locked(folder / LOCK, lambda: say(0, "another process trains it")):
        try:
            return _read(folder, body)
        except FileNotFoundError:
            pass
        except Damaged as error:
            log.warning("%s; training this stage again", error)
        log.info("%s: learnt first, from %s", name, ", ".join(data))
        counter = _counted(name, on_steps)
        windows = Joined(
            {
                machine_type: machine_data.listen(
                    config, root, machine_type, counter, splits=("train",)
                ).train
                for machine_type in data
            }
        )
        detector = fit(config, windows, key, folder / CHECKPOINT, say)
        if not bool(detector.alive.all()):
            raise BadInput(
                f"model.stages.{name}: its losses were not finite, so there is nothing to build "
                f"on; a lower lr may help: 'model.stages.{name}=[\"lr=...\"]'"
            )
        _write(folder, body, detector)
        return _read(folder, body)


def _write(folder: Path, body: Mapping[str, Any], detector: "Detector") -> None:
    """The weights, and after them the record without which they do not count."""
    from safetensors.torch import save

    state = {name: value.cpu().contiguous() for name, value in detector.state_dict().items()}
    losses = {name: [float(one) for one in of] for name, of in detector.history.items()}
    digest = files.write_whole(folder / WEIGHTS, save(state))
    files.write_json(folder / RECORD, {**body, "losses": losses, "weights_sha256": digest})
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _read(folder: Path, body: Mapping[str, Any]) -> Mapping[str, "Tensor"]:
    """The weights, verified.

    Raises:
        FileNotFoundError: They are not there yet.
        Damaged: They are not what was written.
    """
    from safetensors.torch import load

    record = files.read_json(folder / RECORD)
    if any(record.get(name) != value for name, value in body.items()):
        raise Damaged(f"{folder / RECORD}: is the record of another stage")
    path = folder / WEIGHTS
    if not path.exists() or (found := files.sha256_of(path)) != record["weights_sha256"]:
        said = f"checksum {found[:12]} found" if path.exists() else "nothing found"  # pyright: ignore
        raise Damaged(f"{path}: {said}, {record['weights_sha256'][:12]} written")
    return load(path.read_bytes())


def _counted(name: str, on_steps: OnSteps) -> machine_data.Counter:
    """A counter that says what is counted, and shows no bar of its own."""

    def counter(what: str, count: int) -> machine_data.Advance:
        def advance(done: int) -> None:
            on_steps(0, f"{name}: {what}")

        return advance

    return counter
