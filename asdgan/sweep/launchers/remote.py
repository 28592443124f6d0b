"""Jobs on machines that somebody else's engine chose: what happens there is the same for all.

A Slurm job or a Ray task is a process that has one job of a plan done by a worker of its own, as
the local launcher would: a job that raises, is killed, hangs or runs out of memory leaves kind
and reason in the ledger, and one that is asked to stop leaves a checkpoint.
"""

import importlib.util
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from asdgan.errors import BadInput
from asdgan.sweep import plan as plans
from asdgan.sweep.launchers import local
from asdgan.sweep.workers.pool import Ended, Pool
from asdgan.sweep.workers.process import Job
from asdgan.sweep.workers.slots import Slot

NEEDS = {"submitit": ("hydra_plugins.hydra_submitit_launcher", "slurm"), "ray": ("ray", "ray")}
WARNING = signal.SIGUSR2  # what submitit has Slurm send before it takes a machine away


def refuse_missing(overrides: Sequence[str]) -> None:
    """Refuses a launcher of a command line whose packages are not installed.

    Raises:
        BadInput: One is not.
    """
    for text in overrides:
        key, _, chosen = text.partition("=")
        needs = NEEDS.get(chosen.partition("_")[0])
        if key == "hydra/launcher" and needs is not None and not _is_there(needs[0]):
            raise BadInput(
                f"{text} needs a package that is not installed: pip install 'asdgan[{needs[1]}]'"
            )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent
        return False


def attempt(
    path: Path, number: int, *, slot: Slot, target: str = local.TARGET
) -> tuple[str, str] | None:
    """Does one job of a plan in a process of its own; marks it in the ledger if it fails.

    Args:
        path: Of the plan.
        number: Of the job.
        slot: The GPU and the threads that it was given here.
        target: What does it, as `module:function`.

    Returns:
        Kind and reason of its failure, or None.

    Raises:
        BadInput: There is no such job.
        KeyboardInterrupt: Asked to stop by SIGINT; a checkpoint is written.
        SystemExit: Asked to stop by SIGTERM.
    """
    planned = plans.job_of(path, number)
    job = Job(plan=str(path), number=number, title=planned.stack.folder)
    ends: list[Ended] = []
    try:
        with Pool(
            [slot],
            target=target,
            silence=planned.stack.config.sweep.timeout,
            environment=local.ALLOCATION,
            logs=path.parent / "logs" / f"job_{number:05d}",
        ) as pool:
            pool.run([job], lambda _: None, lambda *_: None, ends.append)
    except ChildProcessError as error:
        failed = "lost", str(error)
    else:
        kind, reason = ends[0].kind, ends[0].reason
        if kind is None:
            return None
        # Nobody asked this process: a scheduler has sent its signal to the worker alone.
        failed = ("lost", reason) if kind == "stopped" else (kind, reason)
    plans.fail(path, number, *failed)
    return failed


def named(job: str) -> tuple[str, str] | None:
    """Does the job that a setting `sweep.job` names, here, as `attempt`.

    A scheduler's warning that time is up, or that the machine is wanted back, stops the job at a
    checkpoint; then whoever had an answer to it before gives it (submitit queues the job again).
    """
    path, number = plans.named(job)
    config = plans.job_of(path, number).stack.config
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpu = said or None
    if said is None:
        gpu = local.slots_of(config)[0].gpu
    slot = Slot(gpu if config.trainer.accelerator != "cpu" else None, threads())
    with _warned() as warnings:
        try:
            return attempt(path, number, slot=slot)
        except SystemExit:
            if not warnings:
                raise
    answer = signal.getsignal(WARNING)
    try:
        if callable(answer):
            answer(WARNING, None)
        reason = "stopped by its scheduler"
    except Exception as error:  # submitit: it may not be queued again
        reason = f"stopped by its scheduler: {' '.join(str(error).split())}"
    failed = (
        "lost",
        f"{reason}; the same command goes on from its checkpoint (more time: "
        "hydra.launcher.timeout_min; queued again by itself: hydra.launcher.max_num_timeout)",
    )
    plans.fail(path, number, *failed)
    return failed


def threads() -> int:
    """Threads for a job that was started here: what its scheduler gave it, else one.

    Jobs know nothing of their neighbours, and together must not want more cores than there are.
    """
    given = [os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS")]
    return min((int(one) for one in given if one.isdecimal() and int(one)), default=1)


@contextmanager
def _warned() -> Iterator[list[int]]:
    """Turns a scheduler's warning into SIGTERM, which stops a job gently; lists what came."""
    came: list[int] = []

    def held(number: int, frame: FrameType | None) -> None:
        came.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(WARNING, held)
    try:
        yield came
    finally:
        signal.signal(WARNING, before)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Has SIGTERM end this process as Ctrl-C does: by an exception, so that jobs are told."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def variables(**added: str) -> Iterator[None]:
    """Environment variables that processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            with suppress(KeyError):
                del os.environ[name]
            if value is not None:
                os.environ[name] = value
