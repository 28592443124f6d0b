"""Jobs of a plan as tasks of a Ray cluster, by Ray's core alone.

A task is a plan's path, a number and the name of what does it. Its process stays light: a worker
of its own does the job (see `elsewhere`), so that Ray's processes do not die of jobs, and a task
that ends without a word has lost its machine. Those, and no others, are begun again.

Ray is imported inside functions: Hydra imports launchers at every start.
"""

import logging
import os
import socket
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from asdgan._system.parallel import surroundings
from asdgan.errors import BadInput
from asdgan.sweep.launchers import local, remote
from asdgan.sweep.launchers.local import Endings
from asdgan.sweep.workers.slots import Slot

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("asdgan")

REACHING_SECONDS = 5.0  # for an address to answer; Ray itself would try for five minutes
TICK_SECONDS = 1.0
STOPPING_SECONDS = 70.0  # for jobs to write their checkpoints; workers give them sixty


class Cluster:
    """A Ray cluster, joined or started here, and what of it a job gets.

    Args:
        address: HOST:PORT of its head; None for RAY_ADDRESS, a cluster that runs on this machine,
            or one that is started on it and ends with this process.
        gpus: Of a job, a fraction where several share one; None for one where there are any.
        cpus: Of a job, which has as many threads.
        retries: How often a job is begun again because its machine was lost.
    """

    def __init__(
        self, *, address: str | None, gpus: float | None, cpus: float, retries: int
    ) -> None:
        """Joins nothing yet.

        Raises:
            BadInput: A number is out of range.
        """
        if gpus is not None and not (0 <= gpus < 1 or gpus == int(gpus) > 0):
            raise BadInput(
                f"hydra.launcher.gpus={gpus:g}: a fraction or a whole number is expected"
            )
        if cpus < 0:
            raise BadInput(f"hydra.launcher.cpus={cpus:g}: a number of at least 0 is expected")
        if retries < 0:
            raise BadInput(f"hydra.launcher.retries={retries}: a number of at least 0 is expected")
        self._address, self._gpus, self._cpus, self._retries = address, gpus, cpus, retries

    def __enter__(self) -> Self:
        """Joins the cluster.

        Raises:
            BadInput: Ray is not installed, or no cluster answers.
        """
        _join(self._address)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves it; one that was started here ends."""
        import ray

        ray.shutdown()

    def room(self, config: "DictConfig") -> tuple[int, bool]:
        """Jobs at once, as the cluster is now, and whether they have GPUs.

        Raises:
            BadInput: No machine of it has what one job is to get.
        """
        import ray

        if config.trainer.accelerator == "cpu":
            self._gpus = self._gpus or 0
        there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self._gpus is None:
            self._gpus = 1 if any(of.get("GPU", 0) for of in there) else 0
        wanted = {"GPU": self._gpus, "CPU": self._cpus}
        jobs = sum(
            min((int(of.get(name, 0) / each) for name, each in wanted.items() if each), default=1)
            for of in there
        )
        if not jobs:
            has = ", ".join(f"{of.get('GPU', 0):g} GPU {of.get('CPU', 0):g} CPU" for of in there)
            raise BadInput(
                f"hydra.launcher.gpus={self._gpus:g} hydra.launcher.cpus={self._cpus:g}: no "
                f"machine of the Ray cluster has that for a job (they have: {has})"
            )
        asked = config.sweep.slots
        return (jobs if asked == "auto" else asked), self._gpus > 0

    def launch(self, jobs: Sequence[tuple[Path, int]]) -> None:
        """Has jobs done, and returns when all have ended, however they did.

        Raises:
            BadInput: Twenty jobs failed alike and none succeeded.
            KeyboardInterrupt: Asked to stop; the jobs were, too.
            SystemExit: The same, by SIGTERM.
        """
        import ray

        begin = self._task()
        lives = dict.fromkeys(jobs, 1 + self._retries)
        running = {begin(*job): job for job in jobs}
        endings = Endings()
        try:
            with remote.ended_by_signals():  # Ray has put an answer of its own there
                while running:
                    ready, _ = ray.wait([*running], timeout=TICK_SECONDS)
                    for one in ready:
                        path, number = job = running.pop(one)
                        failed, marked = _outcome(one)
                        lives[job] -= 1
                        if (
                            failed is not None
                            and failed[0] == "lost"
                            and not marked
                            and lives[job]
                        ):
                            log.warning("job %d is begun again: %s", number, failed[1])
                            running[begin(*job)] = job
                            continue
                        endings.note(path, number, failed, marked=marked)
        except BaseException:
            _stop([*running])
            raise

    def _task(self) -> Any:  # noqa: ANN401 - a function of a path and a number
        import ray

        threads = max(1, int(self._cpus))
        given = ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus or 0,
            max_retries=0,  # a job that ends its process is not to be tried again; see `launch`
            runtime_env={"env_vars": surroundings(threads)},
        )(_do)
        return lambda path, number: given.remote(
            str(path.resolve()), number, threads, local.TARGET
        )


def _do(path: str, number: int, threads: int, target: str) -> tuple[str, str] | None:
    """The task: one job, on the GPU that Ray has chosen."""
    slot = Slot(os.environ.get("CUDA_VISIBLE_DEVICES") or None, threads)
    try:
        return remote.attempt(Path(path), number, slot=slot, target=target)
    except (KeyboardInterrupt, SystemExit):  # whoever cancelled it knows
        return "lost", "asked to stop"


def _outcome(one: Any) -> tuple[tuple[str, str] | None, bool]:  # noqa: ANN401 - an object of Ray's
    """Kind and reason of a task's failure, if any; and whether it has told the ledger itself."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

    failed: Any
    try:
        failed = ray.get(one)
    except OutOfMemoryError:
        reason = "Ray ended it, because its machine ran out of memory: hydra.launcher.cpus=2 has "
        return ("memory", f"{reason}fewer jobs share one"), False
    except RayTaskError as error:  # a plan that cannot be read there, most likely
        said = " ".join(str(error.cause).split())
        return ("raised", f"{type(error.cause).__name__}: {said}"), False
    except RayError as error:
        said = " ".join(str(error).split())[:200]
        return ("lost", f"its process or machine was lost: {type(error).__name__}: {said}"), False
    return failed, failed is not None and failed[1] != "asked to stop"


def _stop(tasks: Sequence[Any]) -> None:
    """Asks tasks to stop, and waits until they have written their checkpoints."""
    import ray

    for one in tasks:
        ray.cancel(one, force=False)
    if not tasks:
        return
    log.warning("stopping %d jobs; Ctrl-C again kills them", len(tasks))
    try:
        ray.wait([*tasks], num_returns=len(tasks), timeout=STOPPING_SECONDS)
    except KeyboardInterrupt:
        for one in tasks:
            ray.cancel(one, force=True)


def _join(address: str | None) -> None:
    remote.refuse_missing(["hydra/launcher=ray"])
    import ray

    asked = address or os.environ.get("RAY_ADDRESS")
    if asked and asked not in ("auto", "local"):
        _reach(asked)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if asked != "local":
            ray.init(address=asked or "auto", **quiet)
            return
    except (ConnectionError, RuntimeError, ValueError) as error:
        if asked:
            said = " ".join(str(error).split())[:200]
            raise BadInput(
                f"hydra.launcher.address={asked}: no Ray cluster joined: {said}"
            ) from None
    # Nobody but this machine has business with what this process starts: Ray keeps its ports to
    # 127.0.0.1 where it believes that clusters cannot be had.
    constants: Any = import_module("ray._private.ray_constants")
    usual, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(address="local", include_dashboard=False, **quiet)
    finally:
        constants.ENABLE_RAY_CLUSTER = usual


def _reach(address: str) -> None:
    """Refuses an address at which nobody answers.

    Raises:
        BadInput: Nobody does.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise BadInput(
            f"hydra.launcher.address={address}: HOST:PORT of the head is expected, as `ray start "
            "--head` prints it (not ray://, whose clients cannot do what is needed here)"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACHING_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BadInput(
            f"hydra.launcher.address={address}: no Ray cluster answers there ({error}); "
            "`ray start --head` starts one and prints its address"
        ) from None
