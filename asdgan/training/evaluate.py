"""One reading of a training: its lanes are scored, judged, and written to the ledger."""

import subprocess
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

import asdgan
from asdgan.data.log_mel import LogMel
from asdgan.nn import health
from asdgan.results import ledger, metrics
from asdgan.results.failures import write_failure
from asdgan.training.machine_data import Material
from asdgan.training.stack import Stack

if TYPE_CHECKING:
    from asdgan.data.windows import Windows
    from asdgan.detector import Detector

TRANSDUCTIVE = "transductive: scored by statistics of each clip's own windows"


@dataclass(frozen=True)
class Kept:
    """A row of the ledger, and the file it stands in."""

    row: dict[str, Any]
    path: Path


def read(
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
    """Scores, judges and writes the lanes that are alive and wanted.

    Args:
        stack: What is trained.
        detector: As far as it has learnt.
        material: Of the stack's machine type.
        folder: Of its results.
        epochs: That it has learnt.
        wanted: Signatures of the points to write rows for; None for all.
        keep: Weights are kept of that many lanes with the best AUC.
        seconds: That it took so far.

    Returns:
        The rows written; none where no lane is.

    Raises:
        OSError: The disk refused, or is full.
    """
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


def mark_dead(
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
    from asdgan.training import maps

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
    here = Path(asdgan.__file__).parent
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
