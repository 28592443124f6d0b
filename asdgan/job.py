"""One job: a stack is trained on one machine type, and scored, judged and written at each reading.

Nothing is kept in memory that a file could hold: each reading's rows are on disk before training
goes on, and the training itself is a checkpoint every few minutes.
"""

import logging
import os
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from glob import escape
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

import asdgan
from asdgan import again, health, ledger, metrics, settings, stages, traits
from asdgan.errors import BadInput, Stopped
from asdgan.failure import write_failure
from asdgan.logmel import LogMel
from asdgan.material import Material
from asdgan.stack import Stack

if TYPE_CHECKING:
    from torch import Tensor

    from asdgan.detector import Detector
    from asdgan.windows import Drawing, Windows

log = logging.getLogger("asdgan")

COMPILED_FROM = 50_000  # optimiser steps that earn back half a minute of compiling
SMALL_STEP = 2048  # windows times lanes, below which a second thread costs more than it gives
CHECKPOINT_SECONDS = 120.0
TRANSDUCTIVE = "transductive: scored by statistics of each clip's own windows"

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


@dataclass(frozen=True)
class Kept:
    """A row of the ledger, and the file it stands in."""

    row: dict[str, Any]
    path: Path


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

    from asdgan import windows

    numbers, _ = _held_out(config, train)
    count = drawing_of(config).count(torch.bincount(train.clip[numbers]))
    return windows.steps_of(count, config.batch) * epochs


def drawing_of(config: DictConfig) -> "Drawing":
    """Which of the training windows an epoch takes; old configs do not say, and take all."""
    from asdgan.windows import Drawing

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
        rows = _read(
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

    if (earlier := again.found(stack, outputs / "runs")) is not None:
        read(stack.readings[0], again.rebuilt(earlier, config, material.train))
        return kept
    detector = fit(
        config,
        material.train,
        stages=stages.learnt(config, _stage, on_steps),
        scored=() if material.test is None else material.test.sections,
        readings=stack.readings,
        on_reading=read,
        saving=saving,
        logger=logger,
        prefix=f"{material.machine_type}/",
        on_steps=on_steps,
    )
    _mark_dead(stack, detector, folder, wanted)
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

    from asdgan.training import Checkpointing, OwnSignals, Readings, Reporting
    from asdgan.windows import WindowData

    pl.seed_everything(0, verbose=False)  # for what is not drawn from a keyed generator
    detector = settings.build(config)
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
    from asdgan import checkpoint

    if saving is None:
        return None
    found = checkpoint.latest(saving.known, saving.points, epochs=saving.first)
    if found is not None:
        log.info("going on after %d epochs", found.epoch)
    return found


def _held_out(config: DictConfig, train: "Windows") -> tuple[Any, Any]:
    from asdgan.windows import held_out

    return held_out(
        train,
        split=config.windows.val_split,
        fraction=config.windows.val_fraction,
        seed=config.windows.val_seed,
    )


# Readings ---------------------------------------------------------------------------------------


def _read(
    stack: Stack,
    detector: "Detector",
    material: Material,
    folder: Path,
    *,
    epochs: int,
    wanted: Collection[str] | None,
    keep: int,
    seconds: float,
) -> list[Kept]:
    """Scores, judges and writes the lanes that are alive and wanted."""
    import torch
    from safetensors.torch import save

    alive = detector.alive.reshape(-1).tolist()
    named = {
        lane: name
        for lane in range(len(stack.lanes))
        if alive[lane] and ((name := stack.signature(lane, epochs)) in (wanted or [name]))
    }
    if not named:
        return []
    known = material.train if detector.outliers is None else material.known
    detector.fit(known)
    scores = {} if material.test is None else detector.score_clips(material.test)
    chosen = torch.tensor(list(named))
    clips = material.test_clips
    arrays = {name: of.reshape(len(alive), -1)[chosen].numpy() for name, of in scores.items()}
    judged = {
        name: metrics.judge(of, [clip.section for clip in clips], [clip.label for clip in clips])
        for name, of in arrays.items()
    }
    rows = []
    for place, (lane, signature) in enumerate(named.items()):
        areas = {name: of[place] for name, of in judged.items()}
        setting = stack.settings(lane, epochs)
        measured = health.of_lane(detector.history, lane)
        rows.append(
            {
                "signature": signature,
                "model": stack.config.detector,
                "recipe": stack.recipe,
                "release": stack.config.dataset.release,
                "data": material.data,
                "machine_type": material.machine_type,
                "settings": setting,
                "seed": setting["seed"],
                "epochs": epochs,
                "selection": OmegaConf.to_container(stack.config.selection),
                **areas_of(areas, detector.primary),
                "train_clips": material.train_clips,
                "test_clips": len(clips),
                "left_out": [
                    {"clip": one.clip.name, "split": one.clip.split, "why": one.why}
                    for one in material.left_out
                ],
                "losses": _losses(detector, lane),
                **({"health": measured} if measured else {}),
                "seconds": round(seconds, 3),
                "lanes": len(stack.lanes),
                "device": str(detector.device),
                "threads": torch.get_num_threads(),
                **origin(),
                "flags": [
                    *_flags(material, arrays.get(detector.primary), place),
                    *health.verdict(measured, setting.get("latent", 0)),
                    *([TRANSDUCTIVE] if detector.transductive else []),
                ],
            }
        )
    best = sorted(range(len(rows)), key=lambda place: -(rows[place]["auc"] or 0))[:keep]
    weights = {
        f"{rows[place]['signature']}/{name}": value.contiguous()
        for place in best
        for name, value in _weights(detector, list(named)[place]).items()
    }
    path = ledger.write(
        folder,
        epochs=epochs,
        rows=rows,
        scores={
            "clip": _text(clip.name for clip in clips),
            "section": _text(clip.section for clip in clips),
            "domain": _text(clip.domain or "" for clip in clips),
            "label": _text(clip.label for clip in clips),
            **{f"score/{name}": values for name, values in arrays.items()},
            **_training_scores(stack.config, detector, known, chosen),
        },
        weights=save(weights) if weights else None,
        config=OmegaConf.to_yaml(stack.as_config(), resolve=True),
        maps=_maps(stack.config, detector, material),
    )
    return [Kept(row=row, path=path) for row in rows]


def areas_of(areas: Mapping[str, Mapping[str, Any]], primary: str) -> dict[str, Any]:
    """What a row says of what `metrics.judge` found for each component; of none, without clips."""
    of_primary = areas.get(primary, metrics.judge([[]], [], [])[0])
    return {
        "primary": primary,
        **{key: of_primary[key] for key in (*metrics.AREAS, "sections", "clips", "pooled")},
        "components": {
            name: {area: of[area] for area in metrics.AREAS} for name, of in areas.items()
        },
    }


def origin() -> dict[str, Any]:
    """What a row says of the code that made it."""
    return {"commit": _commit(), "versions": _versions()}


def _training_scores(
    config: DictConfig,
    detector: "Detector",
    train: "Windows",
    lanes: Any,  # noqa: ANN401 - a tensor of numbers
) -> dict[str, Any]:
    """What the training clips score by the primary component: thresholds are fitted to these."""
    if not config.trainer.train_scores:
        return {}
    scores = detector.score_known(train)
    return {
        "train_section": _text(train.sections),
        "train_domain": _text(domain or "" for domain in train.domains),
        f"train_score/{detector.primary}": scores.reshape(-1, scores.shape[-1])[lanes].numpy(),
    }


def _weights(detector: "Detector", lane: int) -> Mapping[str, Any]:
    """The state of one lane, without a lane axis."""
    return {
        name: (value[lane] if detector.lanes else value).cpu()
        for name, value in detector.state_dict().items()
    }


def _losses(detector: "Detector", lane: int) -> dict[str, list[float]]:
    return {
        name: [float(value.reshape(-1)[lane]) for value in values]
        for name, values in detector.history.items()
        if not name.startswith(health.PREFIX)
    }


def _mark_dead(
    stack: Stack, detector: "Detector", folder: Path, wanted: Collection[str] | None
) -> None:
    """A record for each lane that met NaN, of the points that it has no result for."""
    alive = detector.alive.reshape(-1).tolist()
    for lane in (lane for lane in range(len(alive)) if not alive[lane]):
        points = {epochs: stack.signature(lane, epochs) for epochs in stack.readings}
        missing = {
            epochs: name
            for epochs, name in points.items()
            if (wanted is None or name in wanted) and ledger.find(folder, name) is None
        }
        if missing:
            write_failure(
                folder,
                signatures=list(missing.values()),
                kind="nan",
                reason="losses were not finite; a lower lr may help",
                model=stack.config.detector,
                machine_type=stack.machine_type,
                settings=stack.settings(lane, next(iter(missing))),
                losses=_losses(detector, lane),
            )


def _log(row: Mapping[str, Any], logger: Any) -> None:  # noqa: ANN401 - a Lightning logger
    named = {area: row[area] for area in metrics.AREAS}
    for component, of in row["components"].items():
        named |= {f"{component}/{area}": of[area] for area in metrics.AREAS}
    logger.log_metrics(
        {f"{row['machine_type']}/{k}": v for k, v in named.items() if v is not None},
        step=row["epochs"],
    )


def _flags(
    material: Material,
    scores: Any,  # noqa: ANN401 - an array, or None
    place: int,
) -> list[str]:
    flags = []
    if material.left_out:
        of = Counter(one.clip.split for one in material.left_out)
        flags.append(f"bad clips left out: {of['train']} of training, {of['test']} of test")
    if scores is not None and scores.shape[1] > 1 and scores[place].max() == scores[place].min():
        flags.append("degenerate: all clips have the same score")
    return flags


def _maps(config: DictConfig, detector: "Detector", material: Material) -> bytes | None:
    """The anomaly maps of the test clips, of a detector that draws some."""
    from asdgan import maps

    if not (detector.draws_maps and config.trainer.maps and material.test):
        return None
    names = [clip.name for clip in material.test_clips]
    return maps.packed(detector.map_clips(material.test), names, LogMel(**config.features))


def _text(words: Any) -> Any:  # noqa: ANN401 - an array of text
    import numpy as np

    return np.array(list(words), dtype=np.str_)


@cache
def _versions() -> dict[str, str]:
    named = ("torch", "pytorch-lightning", "numpy")
    return {"asdgan": asdgan.__version__, **{name: version(name) for name in named}}


@cache
def _commit() -> str | None:
    """The commit of the code that runs, with + where it was changed since; None outside git."""
    here = Path(__file__).parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() if (here.parent / ".git").exists() else None


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
