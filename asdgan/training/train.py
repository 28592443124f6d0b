"""One job: a stack is trained on one machine type, and scored, judged and written at each reading.

Nothing is kept in memory that a file could hold: each reading's rows are on disk before training
goes on, and the training itself is a checkpoint every few minutes.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from asdgan.config import compose, traits
from asdgan.errors import BadInput, Stopped
from asdgan.results import metrics
from asdgan.training import evaluate, pretraining, rescoring
from asdgan.training.evaluate import Kept
from asdgan.training.machine_data import Material
from asdgan.training.stack import Stack

if TYPE_CHECKING:
    from torch import Tensor

    from asdgan.data.windows import Drawing, Windows
    from asdgan.detector import Detector

log = logging.getLogger("asdgan")

COMPILED_FROM = 50_000  # optimiser steps that earn back half a minute of compiling
SMALL_STEP = 2048  # windows times lanes, below which a second thread costs more than it gives
CHECKPOINT_SECONDS = 120.0

OnSteps = Callable[[int, str], None]  # told how many steps were done, and where training stands


@dataclass(frozen=True)
class Saving:
    """How a training outlives its process.

    Attributes:
        path: Of its checkpoint.
        points: Names of its lanes, as for `checkpoint.write`.
        known: Checkpoints to go on from, this one's or others that hold the same points.
        first: Epochs of the first reading that is wanted; what stands further is of no use.
        goes_on: The state at the end is kept too: somebody will train on from there.
    """

    path: Path
    points: Sequence[str]
    known: Sequence[Path]
    first: int
    goes_on: bool = False


def alone(config: DictConfig, material: Material) -> Stack:
    """A run's point on one machine type, as the stack of one that it is."""
    return Stack(
        config=config,
        machine_type=material.machine_type,
        data=material.data,
        recipe=traits.recipe_of(config),
        lanes=({},),
        readings=(config.epochs,),
    )


def steps_of(config: DictConfig, train: "Windows", epochs: int) -> int:
    """Optimiser steps of a training."""
    import torch

    from asdgan.data import windows

    numbers, _ = _held_out(config, train)
    count = drawing_of(config).count(torch.bincount(train.clip[numbers]))
    return windows.steps_of(count, config.batch) * epochs


def drawing_of(config: DictConfig) -> "Drawing":
    """Which of the training windows an epoch takes; old configs do not say, and take all."""
    from asdgan.data.windows import Drawing

    return Drawing(
        per_clip=config.windows.get("per_clip"), per_epoch=config.windows.get("per_epoch")
    )


def threads_of(config: DictConfig, lanes: int, usable: int) -> int:
    """CPU threads: as asked for, or one for small steps and all that are usable otherwise."""
    if config.trainer.threads != "auto":
        return config.trainer.threads
    if hydra.utils.get_class(config.model._target_).convolutional:
        return usable
    return 1 if config.batch * lanes < SMALL_STEP else usable


def train(
    stack: Stack,
    material: Material,
    *,
    outputs: Path,
    wanted: Collection[str] | None = None,
    keep: int = 1,
    goes_on: bool = False,
    logger: Any = None,  # noqa: ANN401 - a Lightning logger
    on_steps: OnSteps | None = None,
    on_reading: Callable[[list[Kept]], None] | None = None,
) -> list[Kept]:
    """Trains a stack, from a checkpoint that holds its lanes if there is one; writes each reading.

    What was trained before by the same settings but those of scoring is scored only.

    Args:
        stack: What to train.
        material: Of its machine type.
        outputs: Results go below its `runs`.
        wanted: Signatures of the points to write rows for; None for all.
        keep: Weights are kept of that many lanes with the best AUC, at each reading.
        goes_on: The checkpoint of the last reading stays, for a training of more epochs.
        logger: Takes losses and areas of a single run, or None.
        on_steps: Told of progress; an exception that it raises ends training, after a checkpoint.
        on_reading: Given the rows of each reading once they are on disk.

    Returns:
        The rows written. A lane whose losses were not finite has none from then on; a failure
        record of kind `nan` says so.
    """
    import torch

    began = time.perf_counter()
    folder = outputs / "runs" / stack.folder
    saving = Saving(
        path=folder / stack.checkpoint,
        points=stack.names,
        known=sorted((outputs / "runs").glob(f"{escape(stack.kin)}-*/checkpoint_*")),
        first=next(epochs for epochs in stack.readings if _reads(stack, epochs, wanted)),
        goes_on=goes_on,
    )
    config = stack.as_config()
    torch.set_float32_matmul_precision(config.trainer.precision)
    kept: list[Kept] = []

    def read(epochs: int, detector: "Detector") -> None:
        rows = evaluate.read(
            stack,
            detector,
            material,
            folder,
            epochs=epochs,
            wanted=wanted,
            keep=keep,
            seconds=time.perf_counter() - began,
        )
        kept.extend(rows)
        if logger is not None and rows:
            _log(rows[0].row, logger)
        if on_reading is not None and rows:
            on_reading(rows)

    if (earlier := rescoring.found(stack, outputs / "runs")) is not None:
        read(stack.readings[0], rescoring.rebuilt(earlier, config, material.train))
        return kept
    detector = fit(
        config,
        material.train,
        stages=pretraining.learnt(config, _stage, on_steps),
        scored=() if material.test is None else material.test.sections,
        readings=stack.readings,
        on_reading=read,
        saving=saving,
        logger=logger,
        prefix=f"{material.machine_type}/",
        on_steps=on_steps,
    )
    evaluate.mark_dead(stack, detector, folder, wanted)
    if not goes_on:
        saving.path.unlink(missing_ok=True)
    return kept


def fit(
    config: DictConfig,
    train: "Windows",
    *,
    scored: Sequence[str] = (),
    stages: Mapping[str, Mapping[str, "Tensor"]] = MappingProxyType({}),
    readings: Sequence[int] = (),
    on_reading: Callable[[int, "Detector"], None] | None = None,
    saving: Saving | None = None,
    logger: Any = None,  # noqa: ANN401 - a Lightning logger
    prefix: str = "",
    on_steps: OnSteps | None = None,
) -> "Detector":
    """Trains the detector that the settings describe; a stack where `seed` is a list.

    Args:
        config: Of the run; it trains for `config.epochs` epochs.
        train: Windows of the training clips.
        scored: Sections of the clips that will be scored.
        stages: Weights that were learnt first, by the name of their model.
        readings: Numbers of epochs at which `on_reading` is called.
        on_reading: Given the epochs done and the detector, which it must leave as it is.
        saving: Where its checkpoint is kept and what it may go on from; None for neither.
        logger: Takes each epoch's losses, or None.
        prefix: In front of every name the logger gets.
        on_steps: Told after each block how many steps it had, and where training stands.
    """
    import pytorch_lightning as pl
    import torch
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    from asdgan.data.windows import WindowData
    from asdgan.training.callbacks import Checkpointing, OwnSignals, Readings, Reporting

    pl.seed_everything(0, verbose=False)  # for what is not drawn from a keyed generator
    detector = compose.build(config)
    detector.to(torch.float64 if config.trainer.dtype == "float64" else torch.float32)
    detector.prepare(train, scored)
    for name, weights in stages.items():
        detector.take_stage(name, weights)
    names = detector.score_names(train)
    detector.refuse_primary(names)  # before hours of training
    numbers, held = _held_out(config, train)
    _refuse_held(detector, names, len(held))
    detector.fit_scaling(train, numbers)
    found = _found(saving)
    first_epoch, first_block = (found.epoch, found.block) if found else (0, 0)
    if found is not None:
        # A single run takes its lane out of a stack.
        alone = [0] if found.lanes and not detector.lanes else None
        detector.load_training_state(found.state, alone)
    data = WindowData(
        train,
        train=numbers,
        held=held,
        seeds=detector.seeds,
        batch=config.batch,
        drawing=drawing_of(config),
        first_epoch=first_epoch,
        first_block=first_block,
    )
    left = config.epochs - first_epoch
    # By the whole run's steps, so that one that goes on is compiled as it was.
    if config.trainer.compile is True or (
        config.trainer.compile == "auto" and data.steps_per_epoch * config.epochs >= COMPILED_FROM
    ):
        detector.compile_steps(config.batch)
    writing = None
    if saving is not None:
        writing = Checkpointing(
            saving.path, points=saving.points, every_seconds=CHECKPOINT_SECONDS
        )

    def read(epochs: int, detector: "Detector") -> None:
        if on_reading is not None:
            on_reading(epochs, detector)
        if writing is not None and saving is not None:
            if epochs < config.epochs or saving.goes_on:
                writing.write_now()

    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        max_epochs=left,
        logger=False,
        plugins=[LightningEnvironment()],  # one process, whatever a scheduler's variables say
        callbacks=[
            OwnSignals(),
            Readings(readings, read),
            *([writing] if writing else []),
            Reporting(logger, prefix=prefix, on_steps=on_steps),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if len(held) else 0,
        reload_dataloaders_every_n_epochs=1,
        deterministic=True,
    )
    try:
        trainer.fit(detector, datamodule=data)
    except Stopped:
        if writing is not None:
            writing.write_now()
        raise
    return detector


def quiet_libraries() -> None:
    """Lightning's hardware notes and tips would bury the table."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
    # On a machine of a Slurm cluster; a job is one process, which needs no srun.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # Imported here, because the import itself sets the level.
    for name in ("pytorch_lightning", "lightning_fabric"):
        import_module(name)
        logging.getLogger(name).setLevel(logging.WARNING)


def _stage(
    config: DictConfig, train: "Windows", key: str, path: Path, on_steps: OnSteps
) -> "Detector":
    """A stage, trained as any detector is."""
    saving = Saving(path=path, points=[key], known=[path], first=config.epochs)
    return fit(config, train, saving=saving, on_steps=on_steps)


def _refuse_held(detector: "Detector", names: Sequence[str], held: int) -> None:
    """Refuses windows held out in vain, of a detector that scores clips only."""
    if held and detector.outliers is not None:
        if set(names) == set(detector.outliers.kinds):
            raise BadInput(
                f"windows.val_split holds out {held} windows, and nothing is learnt from how "
                "they score: this detector scores clips, not windows; take "
                "windows.val_split=none"
            )


def _reads(stack: Stack, epochs: int, wanted: Collection[str] | None) -> bool:
    """Whether a point of a reading is wanted."""
    return wanted is None or any(
        stack.signature(lane, epochs) in wanted for lane in range(len(stack.lanes))
    )


def _found(saving: Saving | None) -> Any:  # noqa: ANN401 - a Checkpoint, or None
    """The checkpoint to go on from."""
    from asdgan.training import checkpoint

    if saving is None:
        return None
    found = checkpoint.latest(saving.known, saving.points, epochs=saving.first)
    if found is not None:
        log.info("going on after %d epochs", found.epoch)
    return found


def _held_out(config: DictConfig, train: "Windows") -> tuple[Any, Any]:
    from asdgan.data.windows import held_out

    return held_out(
        train,
        split=config.windows.val_split,
        fraction=config.windows.val_fraction,
        seed=config.windows.val_seed,
    )


def _log(row: Mapping[str, Any], logger: Any) -> None:  # noqa: ANN401 - a Lightning logger
    named = {area: row[area] for area in metrics.AREAS}
    for component, of in row["components"].items():
        named |= {f"{component}/{area}": of[area] for area in metrics.AREAS}
    logger.log_metrics(
        {f"{row['machine_type']}/{k}": v for k, v in named.items() if v is not None},
        step=row["epochs"],
    )
