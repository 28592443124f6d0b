"""What one machine type gives: windows to learn from, clips to score, and who they are."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from asdgan import clips, demo
from asdgan.errors import BadInput

if TYPE_CHECKING:
    from asdgan.windows import Windows

Advance = Callable[[int], None]  # told how many were done since it was last told
Counter = Callable[[str, int], Advance]  # takes what is counted, and how many there are


@dataclass(frozen=True)
class Material:
    """One machine type of a data set, listened to.

    Attributes:
        machine_type: Its name.
        data: Fingerprint of its clips.
        train: Windows of the training clips.
        train_clips: How many those are.
        test: Windows of the test clips, or None where there are none.
        test_clips: The test clips, with their labels.
    """

    machine_type: str
    data: str
    train: "Windows"
    train_clips: int
    test: "Windows | None"
    test_clips: Sequence[clips.Clip]


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
    return clips.Choice(**values)


def table_of(config: DictConfig, root: Path, machine_type: str) -> tuple[clips.Clip, ...]:
    """The clips of a machine type that the settings ask for.

    Raises:
        BadInput: The data set cannot be used.
    """
    return clips.clip_table(root, config.dataset.release, machine_type, choice_of(config))


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


def fingerprint_of(config: DictConfig, root: Path, machine_type: str) -> str:
    """What the clips of a machine type are, in one word; reads each changed clip once.

    Raises:
        BadInput: The data set cannot be used.
    """
    table = table_of(config, root, machine_type)
    return clips.fingerprint(table, _store(config) / "digests.json")


def listen(config: DictConfig, root: Path, machine_type: str, counter: Counter) -> Material:
    """Clips, their frames and windows; computed once for equal clips and feature settings.

    Raises:
        BadInput: The data set or one of its clips cannot be used.
    """
    from asdgan.features import LogMel, stored_frames
    from asdgan.windows import Windows

    table = table_of(config, root, machine_type)
    digests = _store(config) / "digests.json"
    log_mel = LogMel(**config.features)
    advance = counter(f"{machine_type}: log-mel", len(table))
    windows: dict[str, Windows | None] = {}
    for split in ("train", "test"):
        part = [clip for clip in table if clip.split == split]
        if not part:
            windows[split] = None
            continue
        frames = stored_frames(
            part,
            log_mel,
            store=_store(config),
            data=clips.fingerprint(part, digests, judged=False),
            threads=_threads(config),
            on_clip=advance,
        )
        stride = config.windows.stride if split == "train" else test_stride(config)
        windows[split] = Windows(frames, part, length=config.windows.frames, stride=stride)
    train = windows["train"]
    assert train is not None  # clip_table refuses a machine type without training clips
    return Material(
        machine_type=machine_type,
        data=clips.fingerprint(table, digests),
        train=train,
        train_clips=sum(clip.split == "train" for clip in table),
        test=windows["test"],
        test_clips=[clip for clip in table if clip.split == "test"],
    )


def test_stride(config: DictConfig) -> int:
    """Frames between the starts of neighbouring windows of a test clip; old configs say none."""
    return config.windows.get("test_stride") or config.windows.stride


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _threads(config: DictConfig) -> int:
    """Threads that compute features; beyond some, reading and writing hold them up."""
    return min(usable_cores(), 16) if config.trainer.threads == "auto" else config.trainer.threads


def _store(config: DictConfig) -> Path:
    return Path(config.outputs) / "features"
