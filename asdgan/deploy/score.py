"""New recordings scored by a finished run: `asdgan score RUN clip.wav ...`.

The detector of one point is built again from the settings and the weights that lie beside its
result, and listens to each wav by itself: a bad one gets its sentence, the others their scores. A
threshold and a p-value come from what the point's own training clips scored, all of them normal.
Nothing is learned here, and the run is left as it is.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from asdgan._system import console as terminal
from asdgan._system.console import Parser, answer, printable, sheet
from asdgan._system.files import as_csv, write_whole
from asdgan.data import clips
from asdgan.data.log_mel import LogMel
from asdgan.data.releases import GRAMMARS
from asdgan.errors import BadInput, Damaged
from asdgan.results import choose, ledger
from asdgan.results.choose import Choice, Stored
from asdgan.results.points import said
from asdgan.results.threshold import (
    FITS,
    Threshold,
    add_quantile,
    p_value,
    refuse_quantile,
    threshold,
    training_scores,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asdgan.data.windows import Windows
    from asdgan.detector import Detector

Line = dict[str, Any]  # of a clip, by column


@dataclass(frozen=True, slots=True)
class Scorer:
    """A detector that was trained, and how it wants to hear a clip.

    Attributes:
        detector: On the CPU, with its weights.
        features: Of its frames.
        frames: In a window.
        stride: Frames between the starts of neighbouring windows.
        release: Of the clips that it learned from.
        machine_type: Of these too.
        channel: The one to be heard where a file of the release has several.
    """

    detector: "Detector"
    features: LogMel
    frames: int
    stride: int
    release: str
    machine_type: str
    channel: int = 1

    @property
    def recipe(self) -> int:
        """Of the model, as it is now."""
        return self.detector.recipe

    def score(self, path: Path, section: str | None = None) -> float:
        """The primary anomaly score of a wav; the run's own, for a clip that it scored.

        Args:
            path: Of the wav.
            section: Which the clip is of; None: what its name says by the release's grammar, or
                none, which a detector that goes by sections will say.

        Raises:
            BadInput: The wav is refused, is shorter than a window, or has no finite score.
        """
        scores = self.detector.score_clips(self._windows(path, section))
        value = float(scores[self.detector.primary])
        if not np.isfinite(value):
            raise BadInput(f"{path}: its score is {value}; is it a recording of this machine?")
        return value

    def draw(self, path: Path, section: str | None = None) -> bytes:
        """The anomaly map of a wav, as the content of a file (asdgan/training/maps.py)."""
        from asdgan.training import maps

        drawn = self.detector.map_clips(self._windows(path, section))
        return maps.packed(drawn, [path.name], self.features)

    def _windows(self, path: Path, section: str | None) -> "Windows":
        import torch

        from asdgan.data.frames import Frames, clip_frames
        from asdgan.data.windows import Windows

        clip = self.clip(path, section)
        frames = clip_frames(clip, self.features)
        return Windows(
            Frames(frames, torch.tensor([0, len(frames)])),
            [clip],
            length=self.frames,
            stride=self.stride,
        )

    def clip(self, path: Path, section: str | None) -> clips.Clip:
        """What a wav's name says, by the release's grammar, or what is said instead."""
        parts, grammar = path.absolute().parts, GRAMMARS.get(self.release)
        tails = ["/".join(parts[-n:]) for n in (2, 3)] if grammar else []  # from a split's folder
        of_name = next((said for tail in tails if grammar and (said := grammar.read(tail))), None)
        return clips.Clip(
            path=path,
            name=path.name,
            release=self.release,
            machine_type=self.machine_type,
            section=section or (of_name.section if of_name else ""),
            domain=of_name.domain if of_name else None,
            attributes=of_name.attributes if of_name else (),
            subset="eval",
            split="test",
            label="unknown",
            channel=self.channel if grammar and grammar.channels > 1 else None,
        )


@dataclass(frozen=True, slots=True)
class Together:
    """An ensemble (asdgan/training/ensembles.py): its members score a clip each.

    Attributes:
        members: By name.
        standards: Of each member: mean and standard deviation of normal clips, by section.
        made: Of the ensemble's settings: combines standardised scores.
    """

    members: Mapping[str, Scorer]
    standards: Mapping[str, Mapping[str, Sequence[float]]]
    made: Any

    @property
    def recipe(self) -> int:
        """Of the ensemble, as it is now."""
        return self.made.recipe

    def score(self, path: Path, section: str | None = None) -> float:
        """As of a single run.

        Raises:
            BadInput: As there, or no training clip was of the wav's section.
        """
        from asdgan.training.ensembles import standardised

        scores = {}
        for name, member in self.members.items():
            of = [member.clip(path, section).section]
            raw = np.array([member.score(path, section)])
            scores[name] = standardised(raw, of, self.standards[name])
        return float(self.made.combine(scores)[self.made.primary][0])


def main(argv: Sequence[str] | None = None) -> int:
    """Scores wavs; gives the exit code: 1 where one was bad, 2 for what the user can mend."""
    bad: list[str] = []
    return answer("asdgan score", lambda: bad.extend(_score(_arguments(argv)))) or int(bool(bad))


def scorer(stored: Stored) -> Scorer | Together:
    """The detector of a point, or those of an ensemble, built again.

    Raises:
        BadInput: As `single`, or a member of the ensemble is gone.
        Damaged: Likewise.
    """
    if "members" not in stored.row:
        return single(stored)
    from omegaconf import DictConfig, OmegaConf

    from asdgan.config import compose

    config = OmegaConf.create(ledger.read_config(stored.result))
    assert isinstance(config, DictConfig)  # the ledger vouches for what was written
    runs, found = stored.result.path.parent.parent, {}
    for name, member in stored.row["members"].items():
        place = ledger.find(runs, member["signature"])
        if place is None:
            raise BadInput(
                f"{stored.result.path}: its member {name} (point {member['signature']}) is not "
                f"below {runs} any more; train it again with the same settings, or all of it with "
                "another outputs=..."
            )
        result = ledger.read(place[0])
        names = [own["signature"] for own in result.own]
        try:
            found[name] = single(Stored(place[1], result, names.index(member["signature"])))
        except BadInput as error:
            raise BadInput(f"member {name} of {stored.row['model']}: {error}") from None
    known = {name: member["standards"] for name, member in stored.row["members"].items()}
    return Together(found, known, compose.build(config))


def single(stored: Stored) -> Scorer:
    """The detector of a point, built again.

    Its settings may come from anywhere: only detectors of this package are built from them.

    Raises:
        BadInput: Its weights were not kept or do not fit, or its settings cannot be used.
        Damaged: A file of the result is not what was written.
    """
    import torch
    from safetensors.torch import load

    from asdgan.config import compose
    from asdgan.training import machine_data, train

    row, result, _ = stored
    data, text = ledger.read_weights(result), ledger.read_config(result)
    prefix = f"{row['signature']}/"
    weights = {} if data is None else load(data)
    mine = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if not mine:
        raise BadInput(
            f"{result.path}: the weights of point {row['signature']} were not kept (a sweep keeps "
            "those of sweep.keep_weights points of a stack); run that point alone, with another "
            "outputs=..., and score with that"
        )
    train.quiet_libraries()
    try:
        config = _settings(text, row["settings"])
        made = Scorer(
            detector=compose.build(config),
            features=LogMel(**config.features),
            frames=config.windows.frames,
            stride=machine_data.test_stride(config),
            release=row["release"],
            machine_type=row["machine_type"],
            channel=config.dataset.get("channel") or 1,
        )
        made.detector.to(
            torch.float64 if config.trainer.dtype == "float64" else torch.float32
        ).load_state_dict(mine)
    except BadInput:
        raise
    except Exception as error:  # of Hydra, OmegaConf, torch: whatever no longer fits
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{result.path}: its {row['model']} cannot be built again by this version "
            f"({reason[:200]}); take the commit that made it ({row.get('commit')}), or train again"
        ) from None
    torch.set_float32_matmul_precision(config.trainer.precision)
    return made


def _settings(text: str, row: Mapping[str, Any]) -> "DictConfig":
    """A stored config as that of one point: where it has a list of values, one a lane, its own."""
    from omegaconf import DictConfig, OmegaConf

    from asdgan.config.compose import LANE_AXES

    def own(node: Any) -> Any:  # noqa: ANN401 - any config node
        if not isinstance(node, dict):
            return node
        return {
            key: row[key] if key in LANE_AXES and isinstance(value, list) else own(value)
            for key, value in node.items()
        }

    config = OmegaConf.create(own(yaml.safe_load(text)))
    assert isinstance(config, DictConfig)  # the ledger vouches for what was written
    return config


# The command ------------------------------------------------------------------------------------


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "asdgan score",
        description="Scores, verdicts and p-values of new recordings by a finished run.",
    )
    add = parser.add_argument
    add(
        "place",
        metavar="RUN",
        help="one result's JSON, a folder of results, or a sweep by its name or folder",
    )
    add("clips", nargs="+", type=Path, metavar="CLIP", help="a wav, or a folder of them")
    add("--machine", metavar="TYPE", help="which machine type's detector, where RUN has several")
    choose.add_options(parser)
    add("--section", metavar="ID", help="of the clips; else what their names say")
    add(
        "--threshold",
        choices=FITS,
        default="gamma",
        help="how it is fitted to the scores of training clips (gamma); none: scores alone",
    )
    add_quantile(parser)
    add("--csv", type=Path, metavar="F", help="write the table there as CSV")
    add("--maps", type=Path, metavar="FOLDER", help="write each clip's anomaly map there, as npz")
    add("--json", type=Path, metavar="F", help="write it there as JSON, and what scored")
    return parser.parse_args(argv)


def _score(asked: argparse.Namespace) -> list[str]:
    """Scores, prints and writes; gives the sentences on bad clips."""
    import torch

    refuse_quantile(asked.quantile)
    try:
        made, notes = _chosen(asked)
        known, limit = _normal(made.stored, asked)
        ready = scorer(made.stored)
    except Damaged as error:
        raise BadInput(f"{error}; run that point again") from None
    row = made.stored.row
    if ready.recipe != row["recipe"]:
        notes.append(
            f"trained by recipe {row['recipe']} of {row['model']}, scored by recipe "
            f"{ready.recipe}: the threshold may not fit; train again"
        )
    paths = list(_wavs(asked.clips))
    if asked.maps:
        _refuse_maps(ready, row["model"], [path for path, _ in paths])
    torch.set_num_threads(1)  # a clip is too little for a second one
    lines = []
    with terminal.bars(terminal.console.is_terminal) as bar:
        shown = bar("clips", len(paths)) if terminal.console.is_terminal else None
        for path, problem in paths:
            lines.append(_line(path, problem, ready, asked.section, known, limit))
            if asked.maps and isinstance(ready, Scorer) and not lines[-1]["error"]:
                drawn = ready.draw(path, asked.section)
                write_whole(asked.maps / f"{path.stem}.npz", drawn)
            if shown:
                shown.advance()
    point = _point(made, limit, known)
    if asked.csv:
        write_whole(asked.csv, as_csv(lines))
    if asked.json:
        body = json.dumps({"point": point, "clips": lines}, indent=1, allow_nan=False)
        write_whole(asked.json, f"{body}\n".encode())
    _print(point, lines, notes)
    return [line["error"] for line in lines if line["error"]]


def _chosen(asked: argparse.Namespace) -> tuple[Choice, list[str]]:
    """The one point that scores."""
    where = [*asked.where, *([f"machine_type={asked.machine}"] if asked.machine else [])]
    choices, notes = choose.chosen(asked.place, where, asked.choose)
    if len(choices) > 1:
        raise BadInput(
            f"{asked.place} holds detectors of {', '.join(sorted(choices))}; say which by "
            "--machine TYPE"
        )
    (made,) = choices.values()
    return made, notes


def _normal(
    stored: Stored, asked: argparse.Namespace
) -> tuple[NDArray[np.float64] | None, Threshold | None]:
    """Scores of the normal training clips, and the threshold fitted to them."""
    row, result, number = stored
    arrays = ledger.read_scores(result)
    sections = set(row["sections"]) | set(arrays.get("train_section", np.array([])).tolist())
    if asked.section is not None and asked.section not in sections:
        raise BadInput(
            f"--section {asked.section}: {row['machine_type']} has the sections "
            f"{', '.join(sorted(sections))}"
        )
    known = training_scores(arrays, row["primary"], number)
    if asked.threshold == "none":
        return known, None
    if known is None:
        raise BadInput(
            f"{result.path} has no scores of training clips, so there is no threshold "
            "(trainer.train_scores was false, or it is older than that); train again, or take "
            "scores alone by --threshold none"
        )
    try:
        return known, threshold(known, asked.threshold, asked.quantile)
    except ValueError as error:
        raise BadInput(
            f"{result.path}: no {asked.threshold} threshold for {row['machine_type']}: {error}; "
            "try another --threshold"
        ) from None


def _wavs(given: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """The wavs that were named, and those below folders, with what is wrong with a folder."""
    for path in given:
        if not path.is_dir():
            yield path, None
            continue
        problems: list[OSError] = []
        found = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(path, onerror=problems.append)
            for name in names
            if name.lower().endswith(".wav") and not name.startswith(".")
        )
        yield from ((one, None) for one in found)
        for error in problems:
            there = Path(str(error.filename))
            yield there, f"{there}: cannot be read ({error.strerror}); check its rights"
        if not found and not problems:
            yield path, f"{path}: is a folder without a wav; name one that holds some"


def _refuse_maps(ready: Scorer | Together, model: str, paths: Sequence[Path]) -> None:
    """Refuses to draw where nothing is drawn, or where two clips would be one file."""
    if not (isinstance(ready, Scorer) and ready.detector.draws_maps):
        raise BadInput(f"--maps: {model} scores a clip without a map of it; take auddsr, say")
    names = [path.stem for path in paths]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(
            f"--maps: several of the clips are called {min(twice)}.wav, and a map is a file of "
            "that name; score them one by one, each with a folder of its own"
        )


def _line(
    path: Path,
    problem: str | None,
    ready: Scorer | Together,
    section: str | None,
    known: NDArray[np.float64] | None,
    limit: Threshold | None,
) -> Line:
    line: Line = dict.fromkeys(("clip", "score", "threshold", "verdict", "p_value", "error"))
    line["clip"], line["error"] = os.fsencode(path).decode(errors="backslashreplace"), problem
    if problem:
        return line
    try:
        line["score"] = score = ready.score(path, section)
    except BadInput as error:
        return line | {"error": printable(str(error))}
    if limit is not None:
        line["threshold"], line["verdict"] = limit.value, limit.verdict(score)
    if known is not None:
        line["p_value"] = p_value(score, known)
    return line


def _point(
    made: Choice, limit: Threshold | None, known: NDArray[np.float64] | None
) -> dict[str, Any]:
    """What scored, how it was chosen, and where its threshold is from."""
    row, result, _ = made.stored
    kept = ("machine_type", "signature", "model", "recipe", "release", "data", "seed", "epochs")
    return {
        **{key: row[key] for key in (*kept, "primary")},
        "result": str(result.path),
        "selection": {**row["selection"], "settings": made.selection},
        "chosen_by": made.by,
        "chosen_among": made.among,
        "train_clips": None if known is None else len(known),
        "threshold": None
        if limit is None
        else {"fit": limit.fit, "quantile": limit.quantile, "value": limit.value}
        | limit.parameters,
    }


def _print(point: Mapping[str, Any], lines: Sequence[Line], notes: Sequence[str]) -> None:
    console, table = sheet(), Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("clip", "score", "threshold", "verdict", "p-value"):
        right = heading in ("score", "threshold", "p-value")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for line in lines:
        score, limit = (
            "" if (value := line[key]) is None else f"{value:.6g}"
            for key in ("score", "threshold")
        )
        chance = "" if line["p_value"] is None else f"{line['p_value']:.4f}"
        verdict = "not scored" if line["error"] else line["verdict"] or ""
        cells = (line["clip"], score, limit, verdict, chance)
        style = "yellow" if line["error"] else "bold" if verdict == "anomaly" else None
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    console.print(table)
    bad = [line["error"] for line in lines if line["error"]]
    if bad:
        notes = [*notes, *bad, f"{len(bad)} of {len(lines)} could not be scored"]
    for note in notes:
        console.print(Text(printable(note), style="yellow"), soft_wrap=True)
    console.print(Text(printable(_told(point))), soft_wrap=True)


def _told(point: Mapping[str, Any]) -> str:
    how = point["selection"]["settings"]
    if point["chosen_by"]:
        how += f": best of {point['chosen_among']} by {point['chosen_by']}"
    told = (
        f"{point['model']} on {point['machine_type']}, {said(point['epochs'])} epochs, seed "
        f"{point['seed']}, point {point['signature']}; settings {how}; score {point['primary']}"
    )
    limit = point["threshold"]
    if limit:
        told += f"; threshold: {limit['fit']} at {limit['quantile']:g}"
    if point["train_clips"] is not None:
        told += f"; p-values against {point['train_clips']} normal training clips"
    return told


if __name__ == "__main__":
    raise SystemExit(main())
