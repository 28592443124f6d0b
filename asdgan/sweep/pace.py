"""How long a plan will take, from a few steps of its stacks on noise.

The steps are made by a process of their own: the one that plans never loads torch.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asdgan import clips
from asdgan.audio import wav_length
from asdgan.errors import BadInput
from asdgan.sweep.plan import Job

STEPS = 3  # that are timed of a stack, after as many that are not
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
    seconds = dict(zip(timed, _measured(list(timed.values())), strict=True))
    steps: dict[tuple[str, str, int, int], int] = {}
    assumed = False
    total = 0.0
    for job in jobs:
        config = job.stack.config
        place = (job.root, job.stack.machine_type, config.windows.frames, config.batch)
        if place not in steps:
            steps[place], guessed = _steps(job)
            assumed |= guessed
        lane = seconds[_alike(job)] / len(timed[_alike(job)].stack.lanes)
        total += lane * len(job.stack.lanes) * steps[place] * job.stack.readings[-1]
    said = f"from {STEPS} steps of {len(timed)} of the stacks"
    if assumed:
        said += f", for {ASSUMED[0]:,} clips of {ASSUMED[1]:g} s: the data set is not there yet"
    return total / slots / 3600, said


def _alike(job: Job) -> tuple[str, int]:
    return job.stack.config.detector, job.stack.config.batch


def _steps(job: Job) -> tuple[int, bool]:
    """Steps of an epoch, and whether clips had to be assumed. The first clip speaks for all."""
    config = job.stack.config
    rate = config.features.sample_rate
    count, samples = ASSUMED[0], int(ASSUMED[1] * rate)
    if job.root:
        table = clips.clip_table(Path(job.root), config.dataset.release, job.stack.machine_type)
        train = [clip for clip in table if clip.split == "train"]
        count = len(train)
        samples = wav_length(train[0].path, sample_rate=rate, resample=config.features.resample)
    frames = 1 + samples // config.features.hop
    windows = max(0, frames - config.windows.frames) // config.windows.stride + 1
    return -(-count * windows // config.batch), not job.root


def _measured(jobs: Sequence[Job]) -> list[float]:
    """Seconds of one step of each job's stack; by another process unless torch is loaded."""
    stacks = [job.stack.as_config() for job in jobs]
    if "torch" in sys.modules:
        return [_seconds(config) for config in stacks]
    told = [OmegaConf.to_container(config, resolve=False) for config in stacks]
    done = subprocess.run(
        [sys.executable, "-m", "asdgan.sweep.pace"],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BadInput(f"steps could not be timed: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _seconds(config: DictConfig) -> float:
    """Seconds of one step of the stack that a config describes, on noise."""
    import torch

    from asdgan import job
    from asdgan.clips import Clip
    from asdgan.features import Frames
    from asdgan.windows import Windows

    count = config.windows.frames + config.batch * STEPS - 1
    frames = Frames(
        values=torch.randn(count, config.features.mels), starts=torch.tensor([0, count])
    )
    clip = Clip(
        path=Path("noise"),
        name="noise",
        release="noise",
        machine_type="noise",
        section="00",
        domain=None,
        attributes=(),
        subset="dev",
        split="train",
        label="normal",
    )
    config.epochs = 2
    config.windows.val_split = "none"
    config.trainer.compile = False
    times: list[float] = []
    tell: Callable[[int, str], None] = lambda _, __: times.append(time.perf_counter())  # noqa: E731
    job.fit(config, Windows(frames, [clip], length=config.windows.frames, stride=1), on_steps=tell)
    if len(times) < 2:
        raise FloatingPointError(f"{config.detector}: losses are not finite on noise")
    return (times[-1] - times[-2]) / STEPS


def main() -> int:
    """Times the stacks that standard input lists; gives the exit code."""
    from asdgan import job

    job.quiet_libraries()
    asked: list[Mapping] = json.load(sys.stdin)
    configs = [OmegaConf.create(dict(one)) for one in asked]
    print(json.dumps([_seconds(one) for one in configs]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
