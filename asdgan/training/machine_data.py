"""What one machine type gives: windows to learn from, clips to score, and who they are."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from asdgan._system.console import printable
from asdgan._system.files import canonical
from asdgan._system.parallel import helpful
from asdgan.data import bad_clips, clips, oddities
from asdgan.data.bad_clips import LeftOut
from asdgan.data.demo import plant as demo
from asdgan.data.log_mel import LogMel
from asdgan.data.wav import wav_length
from asdgan.errors import BadInput

if TYPE_CHECKING:
    from asdgan.data.windows import Windows

log = logging.getLogger("asdgan")

SHOWN = 20  # clips left out that are named; all are in the result

Advance = Callable[[int], None]  # told how many were done since it was last told
Counter = Callable[[str, int], Advance]  # takes what is counted, and how many there are


@dataclass(frozen=True)
class Material:
    """One machine type of a data set, listened to.

    Attributes:
        machine_type: Its name.
        data: Fingerprint of its clips, and of those that a stage learns from.
        train: Windows of the training clips.
        known: Their windows as those of test clips are cut: what outliers are fitted on.
        train_clips: How many those are.
        test: Windows of the test clips, or None where there are none.
        test_clips: The test clips, with their labels.
        left_out: Bad clips that are in none of these.
    """

    machine_type: str
    data: str
    train: "Windows"
    known: "Windows"
    train_clips: int
    test: "Windows | None"
    test_clips: Sequence[clips.Clip]
    left_out: Sequence[LeftOut] = ()


def root_of(config: DictConfig, counter: Counter) -> Path:
    """The data set's folder; the demo plant is made where it is asked for and not there yet.

    Raises:
        BadInput: The plant cannot be made as it is described.
    """
    if config.dataset.root is not None:
        return Path(config.dataset.root)
    plant = demo.Plant(
        seed=config.dataset.plant_seed,
        seconds=config.dataset.seconds,
        sample_rate=demo.SAMPLE_RATE,
        ids=config.dataset.ids,
        train_clips=config.dataset.train_clips,
        test_clips=config.dataset.test_clips,
    )
    return demo.make(
        plant, Path(config.outputs) / "demo", counter("demo plant", demo.count(plant))
    )


def choice_of(config: DictConfig) -> clips.Choice:
    """Which clips of its release the settings ask for; a release without a setting has no choice.

    Raises:
        BadInput: A value that no release takes.
    """
    values = {
        name: config.dataset[name]
        for name in ("subset", "train", "truth", "channel")
        if name in config.dataset and config.dataset[name] is not None
    }
    if "truth" in values:
        values["truth"] = Path(values["truth"])
    return clips.Choice(**values, strict=not _skips(config))


def _skips(config: DictConfig) -> bool:
    return config.dataset.get("bad_clips", "strict") == "skip"


def table_of(
    config: DictConfig, root: Path, machine_type: str, counter: Counter
) -> tuple[tuple[clips.Clip, ...], tuple[LeftOut, ...]]:
    """The clips of a machine type that the settings ask for, and those that are left out.

    Raises:
        BadInput: The data set cannot be used.
    """
    table = clips.clip_table(root, config.dataset.release, machine_type, choice_of(config))
    if not _skips(config):
        return table, ()
    return bad_clips.sieved(
        table,
        LogMel(**config.features),
        window=config.windows.frames or 0,  # an ensemble has none of its own
        root=root,
        store=_store(config) / "verdicts.json",
        on_clip=counter(f"{machine_type}: looking for bad clips", len(table)),
    )


def machine_types_of(
    machine: str | Sequence[str], root: Path, config: DictConfig
) -> tuple[str, ...]:
    """The machine types that `machine` (a name, several, or `all`) stands for.

    Raises:
        BadInput: The data set has no such machine type.
    """
    there = clips.machine_types(root, config.dataset.release, choice_of(config))
    if machine == "all":
        return tuple(there)
    asked = [machine] if isinstance(machine, str) else list(machine)
    for name in asked:
        if name not in there:
            raise BadInput(
                f"machine={name}: {root} has no such machine type; it has {', '.join(there)}"
            )
    return tuple(asked)


def fingerprint_of(config: DictConfig, root: Path, machine_type: str, counter: Counter) -> str:
    """What the clips of a machine type are, in one word; reads each changed clip once.

    Clips that are left out are named on the log.

    Raises:
        BadInput: The data set cannot be used.
    """
    table, left_out = table_of(config, root, machine_type, counter)
    _say_left_out(machine_type, left_out)
    return _whole(config, root, clips.fingerprint(table, _digests(config)))


def _whole(config: DictConfig, root: Path, data: str) -> str:
    """A fingerprint, and with it that of the clips that stages learn from."""
    if not config.model.get("stages"):
        return data
    from asdgan.config import compose  # which loads Hydra

    heard = {
        f"{name}/{machine_type}": of_clips
        for name, one in compose.stages_of(config).items()
        for machine_type, of_clips in learnt_from(one, root).items()
    }
    return hashlib.sha256(canonical([data, heard])).hexdigest()[: len(data)]


def learnt_from(config: DictConfig, root: Path) -> dict[str, str]:
    """By machine type that a config asks for, the fingerprint of its training clips alone."""
    found = {}
    for machine_type in machine_types_of(config.machine, root, config):
        table, _ = table_of(config, root, machine_type, uncounted)
        part = [clip for clip in table if clip.split == "train"]
        found[machine_type] = clips.fingerprint(part, _digests(config), judged=False)
    return found


def listen(
    config: DictConfig,
    root: Path,
    machine_type: str,
    counter: Counter,
    splits: Sequence[str] = ("train", "test"),
) -> Material:
    """Clips, their frames and windows; computed once for equal clips and feature settings.

    Args:
        config: Of a run.
        root: Of the data set.
        machine_type: The one to listen to.
        counter: Shows progress.
        splits: Those that are listened to; `train` among them.

    Raises:
        BadInput: The data set or one of its clips cannot be used.
    """
    from asdgan.data.frames import stored_frames
    from asdgan.data.windows import Windows

    table, left_out = table_of(config, root, machine_type, counter)
    _say_left_out(machine_type, left_out)
    digests = _digests(config)
    log_mel = LogMel(**config.features)
    advance = counter(f"{machine_type}: log-mel", len(table))
    windows: dict[str, Windows] = {}
    lengths: dict[clips.Clip, int] = {}  # in frames
    for split in splits:
        part = [clip for clip in table if clip.split == split]
        if not part:
            continue
        frames = stored_frames(
            part,
            log_mel,
            store=_store(config),
            data=clips.fingerprint(part, digests, judged=False),
            threads=_threads(config),
            on_clip=advance,
        )
        cut = partial(Windows, frames, part, length=config.windows.frames)
        windows[split] = cut(stride=test_stride(config))
        if split == "train":
            windows["learnt"] = cut(stride=config.windows.stride)
        lengths |= zip(part, frames.starts.diff().tolist(), strict=True)
    _say_lengths(machine_type, lengths, log_mel)
    return Material(
        machine_type=machine_type,
        data=_whole(config, root, clips.fingerprint(table, digests)),
        train=windows["learnt"],  # clip_table refuses a machine type without training clips
        known=windows["train"],
        train_clips=sum(clip.split == "train" for clip in table),
        test=windows.get("test"),
        test_clips=[clip for clip in table if clip.split == "test" and "test" in windows],
        left_out=left_out,
    )


def _say_left_out(machine_type: str, left_out: Sequence[LeftOut]) -> None:
    """A line for each clip that is left out, or for the first of many."""
    for one in left_out[:SHOWN]:
        log.warning("%s: left out: %s", machine_type, printable(f"{one.clip.path}: {one.why}"))
    if len(left_out) > SHOWN:
        log.warning(
            "%s: %d more are left out; the results name all",
            machine_type, len(left_out) - SHOWN,
        )  # fmt: skip


def _say_lengths(machine_type: str, lengths: Mapping[clips.Clip, int], settings: LogMel) -> None:
    """A line for the clips that are not as long as most; a frame more or less is no difference."""
    most = oddities.usual(list(lengths.values()))
    if most is None:
        return
    others = [
        clip
        for clip, length in lengths.items()
        if oddities.differs(length, most) and abs(length - most) > 1
    ]
    if others:
        like_most = next(clip for clip, length in lengths.items() if length == most)
        seconds = [
            wav_length(
                clip.path,
                sample_rate=settings.sample_rate,
                resample=settings.resample,
                channel=clip.channel,
            )
            / settings.sample_rate
            for clip in (others[0], like_most)
        ]
        log.warning(
            "%s: %d clips of another length than most, %s first: %s",
            machine_type, len(others), printable(others[0].name), oddities.length_said(*seconds),
        )  # fmt: skip


def test_stride(config: DictConfig) -> int:
    """Frames between the starts of neighbouring windows of a test clip; old configs say none."""
    return config.windows.get("test_stride") or config.windows.stride


def _threads(config: DictConfig) -> int:
    """Threads that compute features."""
    return helpful() if config.trainer.threads == "auto" else config.trainer.threads


def uncounted(what: str, count: int) -> Advance:
    """Shows no progress."""
    return lambda done: None


def _store(config: DictConfig) -> Path:
    return Path(config.outputs) / "features"


def _digests(config: DictConfig) -> Path:
    return _store(config) / "digests.json"
