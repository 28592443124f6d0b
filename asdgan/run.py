"""One job, from config to result: listen, learn, score, judge, and say what came out.

`python -m asdgan.run model=ganomaly` runs every machine type of the data set, one after the
other. A machine type whose result is in the ledger already is read back, not trained again.
"""

import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import asdgan
from asdgan import ledger, metrics, settings, terminal
from asdgan.errors import BadInput

if TYPE_CHECKING:
    from asdgan.clips import Clip
    from asdgan.detector import Detector
    from asdgan.windows import Windows

log = logging.getLogger("asdgan")

COMPILED_FROM = 50_000  # optimiser steps that earn back half a minute of compiling
SMALL_STEP = 2048  # windows times lanes, below which a second thread costs more than it gives

_outcome: list[int] = []  # exit codes of the jobs that Hydra ran in this process


@dataclass(frozen=True)
class Material:
    """What one machine type gives: windows to learn from, clips to score, and who they are."""

    machine_type: str
    data: str
    train: "Windows"
    train_clips: int
    test: "Windows | None"
    test_clips: Sequence["Clip"]


@dataclass(frozen=True)
class Kept:
    """A row of the ledger, and the file it stands in."""

    row: dict[str, Any]
    path: Path


def run(config: DictConfig) -> list[Kept]:
    """Runs every machine type that the settings name, and prints the table.

    Returns:
        One row per machine type, in the order run.

    Raises:
        BadInput: The data set or one of its clips cannot be used.
    """
    import torch

    outputs = Path(config.outputs)
    _quiet_libraries()
    torch.set_num_threads(_threads(config))
    kept: list[Kept] = []
    failures: list[str] = []
    logger = _logger(config)
    with terminal.bars(config.trainer.progress) as bar:
        root = _data_root(config, bar)
        for machine_type in _machine_types(config, root):
            material = _listen(config, root, machine_type, bar)
            known = _known(config, outputs, material)
            if known is not None:
                log.info("%s: done before, read back from %s", machine_type, known.path)
                kept.append(known)
                continue
            try:
                kept.append(_train(config, outputs, material, logger, bar))
            except FloatingPointError as error:
                log.error("%s", error)
                failures.append(machine_type)
    _conclude(kept, failures, logger)
    if failures:
        raise FloatingPointError(
            f"no result for {', '.join(failures)}; the other types have theirs"
        )
    return kept


def _logger(config: DictConfig) -> Any:  # noqa: ANN401 - a Lightning logger
    if not config.logger:
        return None
    try:
        return hydra.utils.instantiate(config.logger)
    except InstantiationException as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        name = str(config.logger._target_).rpartition(".")[2].removesuffix("Logger").lower()
        missing = str(error.__cause__).partition(". ")[0]
        raise BadInput(
            f"logger={name} needs a package that is not installed ({missing}); "
            f"pip install 'asdgan[{name}]', or take logger=csv"
        ) from None


def _conclude(kept: Sequence[Kept], failures: Sequence[str], logger: Any) -> None:  # noqa: ANN401
    if not kept:
        return
    rows = [one.row for one in kept]
    overall = metrics.overall({row["machine_type"]: row for row in rows})
    terminal.console.print(terminal.results_table(rows, overall))
    for one in kept:
        if one.row["auc"] is None:
            terminal.console.print(f"{one.row['machine_type']}: not judged, no labels to judge by")
    folders = sorted({str(one.path.parent) for one in kept})
    terminal.console.print("results: " + " ".join(folders), markup=False)
    if logger is not None:
        named = {f"weighted/{name}": overall[f"{name}_weighted"] for name in ("auc", "pauc")}
        named |= {f"mean/{name}": overall[f"{name}_mean"] for name in ("auc", "pauc")}
        logger.log_metrics(
            {name: value for name, value in named.items() if value is not None},
            step=max(row["epochs"] for row in rows),
        )
        logger.finalize("failed" if failures else "success")


# Listening --------------------------------------------------------------------------------------


def _data_root(config: DictConfig, bar: Callable[[str, int], terminal.Bar]) -> Path:
    """The data set's folder; the demo plant is made where it is asked for and not there yet."""
    if config.dataset.root is not None:
        return Path(config.dataset.root)
    from asdgan import demo

    plant = demo.Plant(
        seed=config.dataset.plant_seed,
        seconds=config.dataset.seconds,
        sample_rate=demo.SAMPLE_RATE,
        ids=config.dataset.ids,
        train_clips=config.dataset.train_clips,
        test_clips=config.dataset.test_clips,
    )
    making = bar("demo plant", demo.count(plant))
    return demo.make(plant, Path(config.outputs) / "demo", making.advance)


def _machine_types(config: DictConfig, root: Path) -> Sequence[str]:
    from asdgan.clips import machine_types

    there = machine_types(root, config.dataset.release)
    if config.machine == "all":
        return there
    asked = [config.machine] if isinstance(config.machine, str) else list(config.machine)
    for name in asked:
        if name not in there:
            raise BadInput(
                f"machine={name}: {root} has no such machine type; it has {', '.join(there)}"
            )
    return asked


def _listen(
    config: DictConfig, root: Path, machine_type: str, bar: Callable[[str, int], terminal.Bar]
) -> Material:
    """Clips, their frames and windows; computed once for equal clips and feature settings."""
    from asdgan.clips import clip_table, fingerprint
    from asdgan.features import LogMel, stored_frames
    from asdgan.windows import Windows

    clips = clip_table(root, config.dataset.release, machine_type)
    store = Path(config.outputs) / "features"
    log_mel = LogMel(**config.features)
    listening = bar(f"{machine_type}: log-mel", len(clips))
    windows: dict[str, Windows | None] = {}
    for split in ("train", "test"):
        part = [clip for clip in clips if clip.split == split]
        if not part:
            windows[split] = None
            continue
        frames = stored_frames(
            part,
            log_mel,
            store=store,
            data=fingerprint(part, store / "digests.json"),
            on_clip=listening.advance,
        )
        windows[split] = Windows(
            frames, part, length=config.windows.frames, stride=config.windows.stride
        )
    train = windows["train"]
    assert train is not None  # clip_table refuses a machine type without training clips
    return Material(
        machine_type=machine_type,
        data=fingerprint(clips, store / "digests.json"),
        train=train,
        train_clips=sum(clip.split == "train" for clip in clips),
        test=windows["test"],
        test_clips=[clip for clip in clips if clip.split == "test"],
    )


# Learning ---------------------------------------------------------------------------------------


def _point(config: DictConfig, material: Material) -> tuple[dict[str, Any], int, str]:
    """A point's settings, its model's recipe, and its signature."""
    identity = settings.identity(config, material.machine_type)
    model = hydra.utils.get_class(config.model._target_)
    return identity, model.recipe, ledger.signature(identity, model.recipe, material.data)


def _known(config: DictConfig, outputs: Path, material: Material) -> Kept | None:
    found = ledger.find(outputs / "runs", _point(config, material)[2])
    return None if found is None else Kept(row=found[1], path=found[0])


def fit(
    config: DictConfig,
    train: "Windows",
    *,
    logger: Any = None,  # noqa: ANN401 - a Lightning logger
    prefix: str = "",
    on_steps: Callable[[int, str], None] | None = None,
) -> "Detector":
    """Trains the detector that the settings describe; a stack where `seed` is a list.

    Args:
        config: Of the run.
        train: Windows of the training clips.
        logger: Takes each epoch's losses, or None.
        prefix: In front of every name the logger gets.
        on_steps: Told after each block how many steps it had, and where training stands.
    """
    import pytorch_lightning as pl
    import torch

    from asdgan.training import Reporting
    from asdgan.windows import WindowData, held_out

    pl.seed_everything(0, verbose=False)  # for what is not drawn from a keyed generator
    detector = settings.build(config)
    detector.to(torch.float64 if config.trainer.dtype == "float64" else torch.float32)
    numbers, held = held_out(
        train,
        split=config.windows.val_split,
        fraction=config.windows.val_fraction,
        seed=config.windows.val_seed,
    )
    data = WindowData(train, train=numbers, held=held, seeds=detector.seeds, batch=config.batch)
    steps = data.steps_per_epoch * config.epochs
    if config.trainer.compile is True or (
        config.trainer.compile == "auto" and steps >= COMPILED_FROM
    ):
        detector.compile_steps(config.batch)
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        max_epochs=config.epochs,
        logger=False,
        callbacks=[Reporting(logger, prefix=prefix, on_steps=on_steps)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if len(held) else 0,
        reload_dataloaders_every_n_epochs=1,
        deterministic=True,
    )
    trainer.fit(detector, datamodule=data)
    return detector


def _train(
    config: DictConfig,
    outputs: Path,
    material: Material,
    logger: Any,  # noqa: ANN401 - a Lightning logger
    bar: Callable[[str, int], terminal.Bar],
) -> Kept:
    import torch
    from safetensors.torch import save

    began = time.perf_counter()
    identity, recipe, signature = _point(config, material)
    folder = outputs / "runs" / f"{material.machine_type}-{config.detector}-{signature}"
    torch.set_float32_matmul_precision(config.trainer.precision)
    steps = _steps(config, material.train)
    training = bar(f"{material.machine_type}: {config.detector}", steps)
    detector = fit(
        config,
        material.train,
        logger=logger,
        prefix=f"{material.machine_type}/",
        on_steps=training.advance,
    )
    losses = {name: [float(v) for v in values] for name, values in detector.history.items()}
    if not bool(detector.alive):
        record = ledger.write_failure(
            folder,
            signatures=[signature],
            kind="nan",
            reason=f"losses of {config.detector} were not finite",
            model=config.detector,
            machine_type=material.machine_type,
            settings=identity,
            losses=losses,
        )
        raise FloatingPointError(
            f"{material.machine_type}: losses of {config.detector} were not finite, so there is "
            f"no result; its record is {record}; a lower lr may help"
        )
    scores = {} if material.test is None else detector.score_clips(material.test)
    judged = _judged(scores, material)
    primary = judged.get(detector.primary, metrics.judge([[]], [], [])[0])
    row = {
        "signature": signature,
        "model": config.detector,
        "recipe": recipe,
        "release": config.dataset.release,
        "data": material.data,
        "machine_type": material.machine_type,
        "settings": identity,
        "seed": config.seed,
        "epochs": config.epochs,
        "selection": OmegaConf.to_container(config.selection),
        "primary": detector.primary,
        "auc": primary["auc"],
        "pauc": primary["pauc"],
        "sections": primary["sections"],
        "clips": primary["clips"],
        "components": {
            name: {"auc": of["auc"], "pauc": of["pauc"]} for name, of in judged.items()
        },
        "train_clips": material.train_clips,
        "test_clips": len(material.test_clips),
        "losses": losses,
        "seconds": round(time.perf_counter() - began, 3),
        "device": str(detector.device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "versions": {
            "asdgan": asdgan.__version__,
            **{name: version(name) for name in ("torch", "pytorch-lightning", "numpy")},
        },
        "flags": _flags(scores, detector.primary),
    }
    weights = {name: value.contiguous().cpu() for name, value in detector.state_dict().items()}
    path = ledger.write(
        folder,
        epochs=config.epochs,
        rows=[row],
        scores={
            "clip": _text(clip.name for clip in material.test_clips),
            "section": _text(clip.section for clip in material.test_clips),
            "label": _text(clip.label for clip in material.test_clips),
            **{f"score/{name}": values.reshape(1, -1).numpy() for name, values in scores.items()},
        },
        weights=save(weights),
        config=OmegaConf.to_yaml(config, resolve=True),
    )
    if logger is not None:
        named = {area: row[area] for area in metrics.AREAS}
        for component, of in row["components"].items():
            named |= {f"{component}/{area}": of[area] for area in metrics.AREAS}
        logger.log_metrics(
            {f"{material.machine_type}/{k}": v for k, v in named.items() if v is not None},
            step=config.epochs,
        )
    return Kept(row=row, path=path)


def _judged(scores: dict[str, Any], material: Material) -> dict[str, Any]:
    sections = [clip.section for clip in material.test_clips]
    labels = [clip.label for clip in material.test_clips]
    return {
        name: metrics.judge(values.reshape(1, -1).numpy(), sections, labels)[0]
        for name, values in scores.items()
    }


def _flags(scores: dict[str, Any], primary: str) -> list[str]:
    values = scores.get(primary)
    if values is not None and values.numel() > 1 and float(values.max() - values.min()) == 0:
        return ["degenerate: all clips have the same score"]
    return []


def _steps(config: DictConfig, train: "Windows") -> int:
    from asdgan.windows import held_out, steps_of

    numbers, _ = held_out(
        train,
        split=config.windows.val_split,
        fraction=config.windows.val_fraction,
        seed=config.windows.val_seed,
    )
    return steps_of(len(numbers), config.batch) * config.epochs


def _threads(config: DictConfig) -> int:
    if config.trainer.threads != "auto":
        return config.trainer.threads
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 1 if config.batch < SMALL_STEP else usable or 1


def _text(words: Any) -> Any:  # noqa: ANN401 - an array of text
    import numpy as np

    return np.array(list(words), dtype=np.str_)


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


def _quiet_libraries() -> None:
    """Lightning's hardware notes and tips would bury the table."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
    # Imported here, because the import itself sets the level.
    for name in ("pytorch_lightning", "lightning_fabric"):
        import_module(name)
        logging.getLogger(name).setLevel(logging.WARNING)


# The door ---------------------------------------------------------------------------------------


@hydra.main(version_base="1.3", config_path=str(settings.CONF), config_name="run")
def _job(config: DictConfig) -> None:
    """One job as Hydra starts it; what a person can mend ends it with a sentence."""
    try:
        run(settings.checked(config))
        _outcome.append(0)
    except BadInput as error:
        _outcome.append(terminal.refusal(error))
    except FloatingPointError as error:
        log.error("%s", error)
        _outcome.append(1)
    if _outcome[-1] and HydraConfig.get().mode is RunMode.MULTIRUN:
        log.error("that was %s", " ".join(HydraConfig.get().overrides.task))


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m asdgan.run`; gives the exit code, 2 for what a person got wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    asked = get_args_parser().parse_args(arguments)
    asks_hydra = ("help", "hydra_help", "cfg", "info", "shell_completion")
    if not any(getattr(asked, name) for name in asks_hydra):
        try:
            settings.preview(asked.overrides, sweep=asked.multirun)
        except BadInput as error:
            return terminal.refusal(error)
    sys.argv = [sys.argv[0], *arguments]
    _outcome.clear()
    try:
        _job()
    except BrokenPipeError:
        return terminal.hung_up()
    return max(_outcome, default=0)


if __name__ == "__main__":
    raise SystemExit(main())
