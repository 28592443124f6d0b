"""Finished runs put together: one score from each member's, standardised section by section.

A member is a run like any other: it is found in the ledger by its signature, or trained by the
ordinary way and kept there; a sweep plans it among its points (asdgan/sweep/combine.py). What it
scored is read from its files; nothing is scored anew. The ensemble is a result like any other,
too: a row with a signature of its own, clip scores, and the scores of the training clips, which
thresholds and submissions ask for.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from asdgan.config import compose, traits
from asdgan.errors import BadInput
from asdgan.results import ledger, metrics
from asdgan.results.threshold import training_scores
from asdgan.training import evaluate, machine_data
from asdgan.training.evaluate import Kept

log = logging.getLogger("asdgan")

# What members share with the ensemble: where and what they listen to, and how they run.
SHARED = ("dataset", "features", "trainer", "selection", "seed", "machine", "outputs", "sweep")
TRAINED = ("model.members", "windows.", "optimizer.")  # settings of members, not the ensemble's

Array = NDArray[np.float64]
Standards = Mapping[str, Sequence[float]]  # from a section to a mean and a standard deviation


@dataclass(frozen=True)
class Ensemble:
    """One ensemble on one machine type: a point that is put together, not trained.

    Attributes:
        config: Its settings, seed included.
        machine_type: What its members listen to.
        settings: Those that make it what it is, flat, as `identity` gives them.
        recipe: Of its model.
        signature: The name of the point.
    """

    config: DictConfig
    machine_type: str
    settings: Mapping[str, Any]
    recipe: int
    signature: str

    @property
    def folder(self) -> str:
        """Name of the folder that its result lies in, below `runs`."""
        return f"{self.machine_type}-{self.config.detector}-{self.signature}"


def members_of(config: DictConfig, *, without: Sequence[str] = ()) -> dict[str, DictConfig]:
    """The settings of each member, composed and checked.

    Args:
        config: Of the ensemble.
        without: Settings that may be missing, as for `settings.check`.

    Raises:
        BadInput: What was typed for a member is wrong, or is not the member's to choose.
    """
    found = compose.named_by(
        config,
        "members",
        shared=SHARED,
        refusal="all members share it; say it beside the ensemble",
        without=without,
    )
    for one in found.values():
        one.trainer.train_scores = True
    return found


def identity(
    config: DictConfig,
    members: Mapping[str, DictConfig],
    machine_type: str,
) -> dict[str, Any]:
    """The settings that make an ensemble what it is, flat; a member's stand behind its name.

    They stand for the members' signatures, which differ from one machine type to the next and
    would part what the leaderboard has in one line.

    Args:
        config: Of the ensemble.
        members: As `members_of` gives them.
        machine_type: The one that the point is about.
    """
    whole = compose.identity(config, machine_type)
    own = {key: value for key, value in whole.items() if not key.startswith(TRAINED)}
    for name, one in members.items():
        theirs = {**compose.identity(one, machine_type), "recipe": traits.recipe_of(one)}
        own |= {
            f"{name}.{key}": value
            for key, value in theirs.items()
            if key not in own or own[key] != value
        }
    return own


def run(
    config: DictConfig,
    root: Path,
    machine_type: str,
    trained: Callable[[DictConfig], Kept | None],
    counter: machine_data.Counter,
) -> Kept | None:
    """The result of an ensemble on one machine type, read back or made.

    Args:
        config: Of the ensemble.
        root: Of the data set.
        machine_type: What its members listen to.
        trained: Gives the result of a member's settings, found or trained; None where its losses
            were not finite.
        counter: Shows progress, as for `material.listen`.

    Returns:
        None where a member has no result.

    Raises:
        BadInput: Members cannot be trained or put together.
    """
    runs, members = Path(config.outputs) / "runs", members_of(config)
    compose.build(config)  # refuses what cannot be built before anything is trained
    setting, recipe = identity(config, members, machine_type), traits.recipe_of(config)
    data = machine_data.fingerprint_of(config, root, machine_type, counter)
    signature = ledger.signature(setting, recipe, data)
    found = ledger.find(runs, signature)
    if found is not None:
        log.info("%s: %s done before, read back from %s", machine_type, config.detector, found[0])
        return Kept(row=found[1], path=found[0])
    scored: dict[str, Scored] = {}
    for name, one in members.items():
        result = trained(one)
        if result is None:
            return None
        scored[name] = scored_by(result, name)
    return put_together(Ensemble(config, machine_type, setting, recipe, signature), scored)


def put_together(one: Ensemble, scored: Mapping[str, "Scored"]) -> Kept:
    """The result of an ensemble, made of its members' and written.

    Args:
        one: What is put together.
        scored: What each member scored, by its name.

    Raises:
        BadInput: They do not fit together.
    """
    began = time.perf_counter()
    config = one.config
    made: Any = compose.build(config)
    told = _common(scored)
    training = made.combine({name: of.standardised_training() for name, of in scored.items()})
    components = {}
    if len(told["clip"]):
        components = made.combine({name: of.standardised() for name, of in scored.items()})
    judged = {
        name: metrics.judge([of], told["section"].tolist(), told["label"].tolist())[0]
        for name, of in components.items()
    }
    rows = {name: of.row for name, of in scored.items()}
    first = next(iter(rows.values()))
    same = ("release", "data", "machine_type", "seed", "train_clips", "test_clips", "device")
    row = {
        **{key: first[key] for key in same},
        "signature": one.signature,
        "model": config.detector,
        "recipe": one.recipe,
        "settings": dict(one.settings),
        "epochs": max(of["epochs"] for of in rows.values()),
        "selection": OmegaConf.to_container(config.selection),
        **evaluate.areas_of(judged, made.primary),
        "losses": {},
        "seconds": round(time.perf_counter() - began, 3),
        "lanes": 1,
        **evaluate.origin(),
        "flags": [f"{name}: {flag}" for name, of in rows.items() for flag in of["flags"]],
        "members": {
            name: {"signature": of.row["signature"], "standards": of.standards}
            for name, of in scored.items()
        },
    }
    stored = config.copy()
    stored.machine = one.machine_type
    path = ledger.write(
        Path(config.outputs) / "runs" / one.folder,
        epochs=row["epochs"],
        rows=[row],
        scores={
            **{key: told[key] for key in ("clip", "section", "domain", "label")},
            **{f"score/{name}": of[None] for name, of in components.items()},
            **{key: told[key] for key in ("train_section", "train_domain")},
            f"train_score/{made.primary}": training[made.primary][None],
        },
        weights=None,
        config=OmegaConf.to_yaml(stored, resolve=True),
    )
    return Kept(row=row, path=path)


def _common(scored: Mapping[str, "Scored"]) -> Mapping[str, NDArray[Any]]:
    """What the members' files say alike of the clips.

    Raises:
        BadInput: They did not score the same clips.
    """
    (name, first), *others = scored.items()
    for other, of in others:
        if of.row["data"] != first.row["data"]:
            train, test = (
                " and ".join(str(one.row[f"{split}_clips"]) for one in (first, of))
                for split in ("train", "test")
            )
            raise BadInput(
                f"{name} and {other} did not score the same clips ({train} of training, {test} of "
                "test), so that there is nothing to put together; dataset.bad_clips=strict names "
                "those that one of them left out"
            )
    return first.arrays


# Standards --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """What a member scored.

    Attributes:
        row: Its own, as the ledger has it.
        arrays: As stored: sections, labels and names of clips.
        scores: Of the test clips, shape (clips,); of length 0 where there are none.
        training: Of the training clips, shape (clips,).
        standards: Of each section that was trained on.
    """

    row: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    scores: Array
    training: Array
    standards: Standards

    def standardised(self) -> Array:
        """Those of the test clips."""
        return standardised(self.scores, self.arrays["section"].tolist(), self.standards)

    def standardised_training(self) -> Array:
        """Those of the training clips."""
        return standardised(self.training, self.arrays["train_section"].tolist(), self.standards)


def scored_by(kept: Kept, name: str) -> Scored:
    """What a member scored, read from its result.

    Raises:
        BadInput: Its training clips were not scored, or give nothing to standardise by.
    """
    result = ledger.read(kept.path)
    arrays = ledger.read_scores(result)
    number = next(
        i for i, own in enumerate(result.own) if own["signature"] == kept.row["signature"]
    )
    primary = kept.row["primary"]
    training = training_scores(arrays, primary, number)
    if training is None:
        raise BadInput(
            f"{kept.path}: {name} has no scores of training clips to standardise by, as it was "
            "trained with trainer.train_scores=false; remove that result, and the same command "
            "makes it anew"
        )
    scores = arrays[f"score/{primary}"][number] if f"score/{primary}" in arrays else np.empty(0)
    known = standards(training, arrays["train_section"].tolist(), f"{kept.path}: {name}")
    return Scored(kept.row, arrays, scores, training, known)


def standards(training: Array, sections: Sequence[str], who: str) -> dict[str, list[float]]:
    """Mean and standard deviation of normal clips, section by section.

    Args:
        training: Scores of training clips, shape (clips,).
        sections: Of these.
        who: Scored them, for messages.

    Raises:
        BadInput: All clips of a section have one score, or one is not finite.
    """
    found = {}
    for section in sorted(set(sections)):
        mine = training[np.array(sections) == section]
        mean, deviation = float(mine.mean()), float(mine.std())
        if not (np.isfinite(mean) and deviation > 0 and np.isfinite(deviation)):
            raise BadInput(
                f"{who}: the scores of the {len(mine)} training clips of section {section} have a "
                f"standard deviation of {deviation:g}, which nothing can be standardised by; take "
                "more training clips, or another setting of that member"
            )
        found[section] = [mean, deviation]
    return found


def standardised(scores: Array, sections: Sequence[str], known: Standards) -> Array:
    """Scores as standard deviations above what normal clips of their section have.

    Raises:
        BadInput: A section without standards.
    """
    if missing := sorted(set(sections) - set(known)):
        raise BadInput(
            f"no training clip is of section {', '.join(map(repr, missing))}, so that nothing is "
            f"known to standardise its scores by; there are {', '.join(known)}"
        )
    means, deviations = np.array([known[section] for section in sections]).reshape(-1, 2).T
    return (scores - means) / deviations
