"""The local launcher: jobs of a plan on the warm workers of this machine."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from asdgan.errors import BadInput
from asdgan.sweep import plan as plans
from asdgan.sweep.workers.pool import Ended, Pool
from asdgan.sweep.workers.process import Job
from asdgan.sweep.workers.slots import Slot, slots

TARGET = "asdgan.sweep.job:run"
GIVEN_UP_AFTER = 20  # equal failures without a single success
# Stacks allocate and free tens of megabytes a step; glibc would give each back and fault it in
# again, which costs a quarter of a step.
ALLOCATION = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


def slots_of(config: DictConfig) -> list[Slot]:
    """The slots that a sweep's settings ask for."""
    asked = config.sweep.slots
    return slots(
        config.sweep.jobs_per_gpu,
        None if asked == "auto" else asked,
        gpus=config.trainer.accelerator != "cpu",
    )


class Crew:
    """The workers of this machine, warm from the first job of a sweep to the last.

    Args:
        config: Of the sweep.
    """

    def __init__(self, config: DictConfig) -> None:
        """Starts nothing yet."""
        self._config = config
        self._slots = slots_of(config)
        self._pool: Pool | None = None

    def __enter__(self) -> Self:
        """The crew, for `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.close()

    def room(self) -> tuple[int, bool]:
        """Jobs at once, and whether on GPUs."""
        return len(self._slots), self._slots[0].gpu is not None

    def begin(self, folder: Path, jobs: int) -> None:
        """Starts workers for so many jobs, which are still being planned.

        Args:
            folder: Of the sweep.
            jobs: How many there will be, as far as one can know.
        """
        self._opened(folder).warm(jobs)

    def launch(self, told: Sequence[tuple[Path, int]]) -> None:
        """Runs jobs of a plan; marks in the ledger those that died.

        Raises:
            BadInput: Twenty jobs failed alike and none succeeded.
            KeyboardInterrupt: Asked to stop.
        """
        # Each in its turn: to spell the names of thousands of stacks would keep all slots waiting.
        jobs = (
            Job(plan=str(path), number=number, title=plans.job_of(path, number).stack.folder)
            for path, number in told
        )
        endings = Endings()

        def ended(end: Ended) -> None:
            if end.kind != "stopped":
                failed = (end.kind, end.reason) if end.kind is not None else None
                endings.note(Path(end.job.plan), end.job.number, failed)

        if told:
            pool = self._opened(told[0][0].parent)
            pool.run(jobs, lambda _: None, lambda *_: None, ended)

    def _opened(self, folder: Path) -> Pool:
        if self._pool is None:
            self._pool = Pool(
                self._slots,
                target=TARGET,
                silence=self._config.sweep.timeout,
                environment=ALLOCATION,
                logs=folder / "logs",
            )
        return self._pool


class Endings:
    """How the jobs of a plan ended: marks those that failed, and knows when to give up."""

    def __init__(self) -> None:
        """Begins with none."""
        self._failures: Counter[tuple[str, str]] = Counter()
        self._done = 0

    def note(
        self, path: Path, number: int, failed: tuple[str, str] | None, *, marked: bool = False
    ) -> None:
        """Takes the end of one job: kind and reason of its failure, or None.

        Args:
            path: Of the plan.
            number: Of the job.
            failed: Kind and reason.
            marked: Whether the ledger knows already.

        Raises:
            BadInput: Twenty jobs failed alike and none succeeded.
        """
        if failed is None:
            self._done += 1
            return
        if not marked:
            plans.fail(path, number, *failed)
        kind, reason = failed
        if kind == "memory" and len(plans.job_of(path, number).stack.lanes) > 1:
            return  # it is tried again as halves
        # The number of a worker's log, or of bytes that were missing, makes no other failure.
        alike = kind, re.sub(r"\d+", "", reason)
        self._failures[alike] += 1
        if not self._done and self._failures[alike] >= GIVEN_UP_AFTER:
            raise BadInput(
                f"{GIVEN_UP_AFTER} jobs failed alike and none succeeded, so the sweep stops: "
                f"{kind}: {reason}"
            )


def returned() -> JobReturn:
    """What a launcher owes Hydra for a job whose result is in files."""
    result = JobReturn()
    result.status = JobStatus.COMPLETED
    result.return_value = 0
    return result
