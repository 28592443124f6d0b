"""The demo plant: seeded machine sounds, written as wavs in a release's own layout.

Six machine types named as in DCASE 2020 Task 2, three machines each, with planted faults; what
they sound like, and that nothing but the fault tells the labels apart, is `machines`' business.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from asdgan._system import files
from asdgan.data.demo.sounds import SECTIONS, Clip, sound
from asdgan.errors import BadInput, Damaged

RECIPE = 2  # raised by hand when a change moves one sample of any clip
MANIFEST = "plant.json"
SAMPLE_RATE = 16000  # Hz; every resonance is placed under its half


@dataclass(frozen=True, kw_only=True)
class Plant:
    """What a plant is made of; its values live in `conf/dataset/demo.yaml`.

    Args:
        seed: At least 0; another seed is another factory.
        seconds: Length of every clip, 1 to 60 s.
        sample_rate: In Hz, 16000 only.
        ids: Machines (sections) of each type, 1 to 3.
        train_clips: Normal clips to train on, per section, 1 to 10,000.
        test_clips: Clips to test on, per section and label, 1 to 10,000.

    Raises:
        BadInput: A value breaks its rule.
    """

    seed: int
    seconds: float
    sample_rate: int
    ids: int
    train_clips: int
    test_clips: int

    def __post_init__(self) -> None:
        """Refuses what cannot be made."""
        _whole("seed", self.seed, 0, 2**63 - 1)
        _whole("sample_rate", self.sample_rate, SAMPLE_RATE, SAMPLE_RATE)
        _whole("ids", self.ids, 1, 3)
        _whole("train_clips", self.train_clips, 1, 10_000)
        _whole("test_clips", self.test_clips, 1, 10_000)
        number = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        if not number or not 1 <= self.seconds <= 60:  # NaN fails the comparison
            rule = "a number from 1 to 60"
            raise BadInput(f"demo plant: seconds is {self.seconds!r}; {rule} would do")


def count(plant: Plant) -> int:
    """How many clips the plant has, over all machine types."""
    return len(SECTIONS) * plant.ids * (plant.train_clips + 2 * plant.test_clips)


def make(plant: Plant, root: Path, on_clip: Callable[[int], None] | None) -> Path:
    """A folder that holds the whole plant, made now or found whole.

    The folder is `root`/<12 hex of settings and recipe>; its clips lie in
    `dev_data/<machine type>/{train,test}/`. It is made under another name, and renamed when its
    last clip and its manifest are written: a cut leaves nothing that could be read. A plant that
    is there is used only when its manifest verifies and the names, sizes and sha256 of all its
    wavs agree with it; hashing the default takes less than the shortest training.
    Otherwise it is made anew, and what else lies in the folder goes. Of two processes that ask
    at once, the second waits for the first.

    Args:
        plant: Its settings.
        root: Holds the plants, one folder each.
        on_clip: Called with the number of clips just made; not called on reuse.

    Raises:
        OSError: The disk refused, or is full.
    """
    home = root / _key(plant)
    if _verifies(home, plant):
        return home
    root.mkdir(parents=True, exist_ok=True)
    with files.locked(root / f".{home.name}.lock"):
        if _verifies(home, plant):  # another process made it while this one waited
            return home
        part = root / f".{home.name}.part"
        shutil.rmtree(part, ignore_errors=True)  # what a cut left behind
        clips: dict[str, dict[str, int | str]] = {}
        with ThreadPoolExecutor() as pool:  # numpy's transforms let go of the interpreter
            for name, record in pool.map(lambda clip: _write(part, plant, clip), _plan(plant)):
                clips[name] = record
                if on_clip is not None:
                    on_clip(1)
        files.write_json(part / MANIFEST, {**_settings(plant), "clips": clips})
        if home.exists():
            shutil.rmtree(home)
        part.rename(home)
    return home


def sound_of(plant: Plant, clip: Clip, *, faulty: bool) -> np.ndarray:
    """A clip of a plant, as `machines.sound`."""
    rate = plant.sample_rate
    return sound(clip, seed=plant.seed, seconds=plant.seconds, rate=rate, faulty=faulty)


def _write(folder: Path, plant: Plant, clip: Clip) -> tuple[str, dict[str, int | str]]:
    """Writes one wav; gives its name and what the manifest says of it."""
    path = folder / clip.name
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = np.rint(sound_of(plant, clip, faulty=clip.label == "anomaly") * 32767).clip(
        -32768, 32767
    )  # as a microphone's converter does
    soundfile.write(path, steps.astype(np.int16), plant.sample_rate, subtype="PCM_16")
    return clip.name, {"bytes": path.stat().st_size, "sha256": files.sha256_of(path)}


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        rule = str(low) if low == high else f"a whole number from {low} to {high}"
        raise BadInput(f"demo plant: {name} is {value!r}; {rule} would do")


def _settings(plant: Plant) -> dict[str, float]:
    return {**asdict(plant), "seconds": float(plant.seconds), "recipe": RECIPE}


def _key(plant: Plant) -> str:
    return hashlib.sha256(files.canonical(_settings(plant))).hexdigest()[:12]


def _plan(plant: Plant) -> Iterator[Clip]:
    groups = (
        ("train", "normal", plant.train_clips),
        ("test", "normal", plant.test_clips),
        ("test", "anomaly", plant.test_clips),
    )
    for machine_type, sections in SECTIONS.items():
        for section, spelt in enumerate(sections[: plant.ids]):
            for split, label, clips in groups:
                for index in range(clips):
                    name = f"dev_data/{machine_type}/{split}/{label}_id_{spelt}_{index:08d}.wav"
                    yield Clip(name, machine_type, section, split, label, index)


def _verifies(home: Path, plant: Plant) -> bool:
    try:
        stored = files.read_json(home / MANIFEST)
    except (OSError, Damaged):
        return False
    clips = stored.pop("clips", {})
    there = {path.relative_to(home).as_posix(): path for path in home.rglob("*.wav")}
    planned = {clip.name for clip in _plan(plant)}
    if stored != _settings(plant) or not clips.keys() == there.keys() == planned:
        return False
    if any(path.stat().st_size != clips[name]["bytes"] for name, path in there.items()):
        return False
    return all(files.sha256_of(path) == clips[name]["sha256"] for name, path in there.items())
