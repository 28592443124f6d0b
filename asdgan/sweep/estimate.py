"""How long a plan will take, from a few steps of its stacks on noise."""

import time
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from asdgan.data.wav import wav_length
from asdgan.sweep import noise, probe
from asdgan.sweep.plan import Job
from asdgan.training import machine_data

STEPS = 3  # that are timed of a stack, after as many that are not; of large ones one
FEW = 4  # windows of a large step that are timed for all: of more each takes as long
ASSUMED = (3000, 10.0)  # clips of a machine type, and their seconds, where none is there yet


def estimate(jobs: Sequence[Job], *, slots: int) -> tuple[float, str]:
    """Hours of training, all slots busy to the end, and a word about what that rests on.

    One stack is timed for each model and batch, with one job running; the others take as long
    for a lane's step. Scoring comes on top.

    Raises:
        BadInput: A stack cannot be built or trained.
    """
    timed: dict[tuple[str, int], Job] = {}
    for job in jobs:
        timed.setdefault(_alike(job), job)
    told = [job.stack.as_config() for job in timed.values()]
    measured = probe.answers(
        "asdgan.sweep.estimate:seconds_of", told, failing="steps could not be timed"
    )
    seconds = dict(zip(timed, measured, strict=True))
    steps: dict[tuple[str, str, str, int], int] = {}
    assumed = False
    total = 0.0
    for job in jobs:
        config = job.stack.config
        place = (job.root, job.stack.machine_type, str(config.windows), config.batch)
        if place not in steps:
            steps[place], guessed = _steps(job)
            assumed |= guessed
        lane = seconds[_alike(job)] / len(timed[_alike(job)].stack.lanes)
        total += lane * len(job.stack.lanes) * steps[place] * job.stack.readings[-1]
    said = f"from a few steps of {len(timed)} of the stacks"
    if assumed:
        said += f", for {ASSUMED[0]:,} clips of {ASSUMED[1]:g} s: the data set is not there yet"
    return total / slots / 3600, said


def _alike(job: Job) -> tuple[str, int]:
    return job.stack.config.detector, job.stack.config.batch


def _steps(job: Job) -> tuple[int, bool]:
    """Steps of an epoch, and whether clips had to be assumed. The first clip speaks for all."""
    config = job.stack.config
    rate = config.features.sample_rate
    count, seconds = ASSUMED
    made = config.dataset.release == "demo"  # made by the first run, of as many clips as it says
    if made:
        count, seconds = config.dataset.ids * config.dataset.train_clips, config.dataset.seconds
    samples = int(seconds * rate)
    if job.root:
        table, _ = machine_data.table_of(
            config, Path(job.root), job.stack.machine_type, lambda *_: lambda _count: None
        )
        train = [clip for clip in table if clip.split == "train"]
        count = len(train)
        samples = wav_length(
            train[0].path,
            sample_rate=rate,
            resample=config.features.resample,
            channel=train[0].channel,
        )
    frames = 1 + samples // config.features.hop
    windows = max(0, frames - config.windows.frames) // config.windows.stride + 1
    drawn = count * min(windows, config.windows.get("per_clip") or windows)
    drawn = config.windows.get("per_epoch") or drawn
    return -(-drawn // config.batch), not job.root and not made


def seconds_of(config: DictConfig) -> float:
    """Seconds of one step of the stack that a config describes, on noise. Loads torch."""
    from asdgan.training import train as job

    config.epochs = 2
    config.windows.val_split = "none"
    config.trainer.compile = False
    large = hydra.utils.get_class(config.model._target_).convolutional
    steps = 1 if large else STEPS
    whole = config.batch
    config.batch = min(whole, FEW) if large else whole
    config.windows.per_epoch = config.batch * steps
    windows = noise.windows(config, config.windows.per_epoch)
    times: list[float] = []
    job.fit(config, windows, on_steps=lambda *_: times.append(time.perf_counter()))
    if len(times) < 2:
        raise FloatingPointError(f"{config.detector}: losses are not finite on noise")
    return (times[-1] - times[-2]) / steps * whole / config.batch
