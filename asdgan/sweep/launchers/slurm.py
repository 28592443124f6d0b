"""Jobs of a plan by hydra-submitit-launcher: on Slurm, or as processes of this machine.

Its launcher submits; to wait is ours. Its own way gathers the jobs in order and raises at the
first that was killed, while others run; and it asks Slurm's accounting, which without a data base
never says that a killed job is over. Here a job is over when its word is on disk, or when it is
no longer in the queue.
"""

import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict, read_write

from asdgan._system.parallel import surroundings
from asdgan.errors import BadInput
from asdgan.sweep import plan as plans
from asdgan.sweep.launchers import remote
from asdgan.sweep.launchers.local import Endings
from asdgan.sweep.workers.slots import slots

log = logging.getLogger("asdgan")

TICK_SECONDS = 0.5  # between looks for the words of jobs
QUEUE_SECONDS = 10.0  # between questions to Slurm; it is shared, and slow under load
STOPPING_SECONDS = 60.0  # for jobs to write their checkpoints; Slurm kills after its KillWait
AGAIN_SECONDS = 15.0  # between wishes to stop; one that comes while a job starts is not heard
MOST_QUEUED = 1000  # of an array; Slurm as it comes refuses more
ASSUMED = 16  # jobs at once on Slurm, where a plan needs a number and nobody knows one
SUBMITS = "hydra_plugins.hydra_submitit_launcher"


def is_one(launcher: Launcher) -> bool:
    """Whether a launcher is hydra-submitit-launcher's."""
    return type(launcher).__module__.startswith(SUBMITS)


def room(launcher: Any, config: DictConfig) -> tuple[int, bool]:  # noqa: ANN401 - its package's
    """Jobs at once, as far as one can know, and whether they have GPUs.

    Args:
        launcher: One of submitit's.
        config: Of the sweep.
    """
    params = launcher.params
    on_gpu = any(params.get(name) for name in ("gpus_per_node", "gpus_per_task", "gres"))
    asked = None if config.sweep.slots == "auto" else config.sweep.slots
    if _is_slurm(launcher):
        return asked or ASSUMED, on_gpu
    return (config.sweep.jobs_per_gpu if on_gpu else len(slots(1, asked, gpus=False))), on_gpu


def launch(launcher: Any, jobs: Sequence[tuple[Path, int]], at_once: int) -> None:  # noqa: ANN401
    """Has jobs done, and returns when all have ended, however they did.

    Args:
        launcher: One of submitit's.
        jobs: Each as a plan and a number.
        at_once: Processes on this machine; on Slurm its `array_parallelism` says how many.

    Raises:
        BadInput: They cannot be submitted; or twenty failed alike and none succeeded.
        KeyboardInterrupt: Asked to stop; the jobs were, too.
        SystemExit: The same, by SIGTERM.
    """
    slurm = _is_slurm(launcher)
    waiting, running = deque(jobs), list[tuple[tuple[Path, int], Any]]()
    endings, queue = Endings(), Queue(slurm)
    try:
        with remote.ended_by_signals():
            while waiting or running:
                free = (MOST_QUEUED if slurm else at_once) - len(running)
                if waiting and free >= (MOST_QUEUED // 2 if slurm else 1):
                    some = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                    running += zip(some, _submitted(launcher, some), strict=True)
                    continue
                time.sleep(TICK_SECONDS)
                over = queue.over([job for _, job in running])
                ended = [one for one in running if one[1] in over]
                running = [one for one in running if one[1] not in over]
                for (path, number), job in ended:
                    failed, marked = _outcome(job, slurm)
                    endings.note(path, number, failed, marked=marked)
    except BaseException:
        _stop([job for _, job in running], queue)
        raise


class Queue:
    """Which of the jobs that were submitted are over.

    Args:
        slurm: Whether they are Slurm's; otherwise they are processes that this one has started.
    """

    def __init__(self, slurm: bool) -> None:
        """Asks nothing yet."""
        self.slurm = slurm
        self._asked = time.monotonic()
        self._listed: set[str] = set()  # in an earlier answer
        self._absent: set[str] = set()  # from the last one: a job may come late into the list
        self._gone: set[str] = set()

    def over(self, jobs: Sequence[Any], every: float = QUEUE_SECONDS) -> list[Any]:
        """Those of some jobs that have left their word, and those that never will.

        Args:
            jobs: Of submitit's.
            every: Seconds between questions to Slurm.
        """
        if not self.slurm:
            return [job for job in jobs if job.done()]
        if time.monotonic() - self._asked >= every:
            self._look({job.job_id for job in jobs})
        return [job for job in jobs if _has_word(job) or job.job_id in self._gone]

    def _look(self, names: set[str]) -> None:
        """Asks Slurm which jobs it still has; no answer is no news."""
        self._asked = time.monotonic()
        command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("squeue gives no answer and is asked again: %s", error)
            return
        there = set(said.stdout.split())
        self._gone |= (names - there) & (self._listed | self._absent)
        self._listed |= there
        self._absent = names - there


def _is_slurm(launcher: Any) -> bool:  # noqa: ANN401
    return launcher._EXECUTOR == "slurm"


def _has_word(job: Any) -> bool:  # noqa: ANN401
    with suppress(OSError):  # has a network file system look again
        job.paths.folder.chmod(job.paths.folder.stat().st_mode)
    return job.paths.result_pickle.exists()


def _submitted(launcher: Any, jobs: Sequence[tuple[Path, int]]) -> list[Any]:  # noqa: ANN401
    """The jobs as submitit knows them, as soon as they are in its hands."""
    import submitit

    found: list[Any] = []

    class Submitting(submitit.AutoExecutor):
        """Gives the launcher nothing to wait for."""

        def map_array(self, fn: Any, *iterable: Any) -> list[Any]:  # noqa: ANN401
            found.extend(super().map_array(fn, *iterable))
            return []

    logs = (jobs[0][0].parent / "logs").resolve()
    with read_write(launcher.config), open_dict(launcher.config):
        launcher.config.hydra.sweep.dir = str(logs)
    if launcher.params["submitit_folder"].endswith("/.submitit/%j"):  # its own default
        launcher.params["submitit_folder"] = str(logs / "submitit" / "%j")
    given = [
        [
            *plans.overrides_of(path, number),
            f"hydra.sweep.dir={_quoted(logs)}",
            f"hydra.sweep.subdir=job_{number:05d}",
            "hydra.output_subdir=null",
        ]
        for path, number in jobs
    ]
    for name in (SUBMITS, "submitit"):
        logging.getLogger(name).setLevel(logging.ERROR)
    inherited = surroundings(launcher.params.get("cpus_per_task") or remote.threads())
    usual, submitit.AutoExecutor = submitit.AutoExecutor, Submitting
    try:
        with remote.variables(**inherited), _deaf(not _is_slurm(launcher)):
            launcher.launch(given, initial_job_idx=jobs[0][1])
    except Exception as error:  # of submitit, of sbatch, of the system
        said = " ".join(str(error).split())[:400]
        raise BadInput(f"submitit takes no jobs: {type(error).__name__}: {said}") from None
    finally:
        submitit.AutoExecutor = usual
    return found


def _quoted(path: Path) -> str:
    inside = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{inside}'"


@contextmanager
def _deaf(really: bool) -> Iterator[None]:
    """Processes started meanwhile ignore a Ctrl-C: they are told, and have time to stop."""
    if not really:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _outcome(job: Any, slurm: bool) -> tuple[tuple[str, str] | None, bool]:  # noqa: ANN401
    """Kind and reason of a job's failure, if any; and whether it has told the ledger itself."""
    if _has_word(job):
        try:
            failed = job.results()[0].return_value
        except Exception as error:  # what Hydra or submitit caught
            said = " ".join(str(error).split())
            return ("raised", f"{type(error).__name__}: {said[-400:]}"), False
        return failed, True
    see = f"see {job.paths.stderr}"
    if not slurm:
        return ("lost", f"its process ended without a word; {see}"), False
    state = job.watcher.get_state(job.job_id, mode="force").split()[0].rstrip("+")
    if state.startswith("OUT_OF_ME"):
        return ("memory", f"Slurm says {state}: hydra.launcher.mem_gb gives more"), False
    if state == "UNKNOWN":
        return (
            "lost",
            f"it left Slurm's queue without a word, nor do accounts say why; {see}",
        ), False
    return ("lost", f"it left Slurm's queue without a word, as {state}; {see}"), False


def _stop(jobs: Sequence[Any], queue: Queue) -> None:
    """Asks jobs to stop, and waits until they have written their checkpoints."""
    left = [job for job in jobs if job not in queue.over(jobs)]
    asked, until = 0.0, time.monotonic() + STOPPING_SECONDS
    if left:
        log.warning("stopping %d jobs; Ctrl-C again leaves them to themselves", len(left))
    while left and time.monotonic() < until:
        if time.monotonic() - asked >= AGAIN_SECONDS:
            asked = time.monotonic()
            _ask(left, queue)
        time.sleep(TICK_SECONDS)
        over = queue.over(left, every=2 * TICK_SECONDS)
        left = [job for job in left if job not in over]


def _ask(jobs: Sequence[Any], queue: Queue) -> None:
    if queue.slurm:
        arrays = sorted({job.job_id.split("_")[0] for job in jobs})
        subprocess.run(["scancel", *arrays], check=False)
        return
    for job in jobs:
        if not job.done():
            os.kill(int(job.job_id), signal.SIGTERM)  # its controller, which passes it on
