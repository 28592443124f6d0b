"""One slot of a pool as the pool's process sees it: the worker on it, and the job that is bound.

What happens here is pipes, signals and exit codes; what to make of them is `workers`' business.
"""

import enum
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asdgan.sweep.workers.slots import Slot


@dataclass(frozen=True, slots=True)
class Job:
    """A plan file, the job's number in it, and what people call it."""

    plan: str
    number: int
    title: str


class State(enum.Enum):
    """What the process of a slot is at."""

    EMPTY = enum.auto()
    STARTING = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()
    ENDING = enum.auto()


class Seat:
    """A slot, the process on it if there is one, and the job that is bound to it if there is one.

    A job is bound before its worker has started, so that no more workers start than have work.
    It has begun when the worker says so: one whose worker died before stays bound.
    """

    def __init__(self, number: int, slot: Slot, logs: Path) -> None:
        """An empty one, whose workers print to a file of their own in `logs`."""
        self.slot, self.log = slot, logs / f"worker_{number:02d}.log"
        self.state = State.EMPTY
        self.process: subprocess.Popen[bytes] | None = None
        self.job: Job | None = None
        self.began: float | None = None  # when the job did
        self.heard = 0.0  # the last beat of the job
        self.since = 0.0  # of the state
        self.given = 0  # jobs that this process was given
        self.asked = False  # whether the job was asked to stop
        self.kill_at = 0.0  # while ending
        self.cause: tuple[str, str] | None = None  # why this side ended the process
        self.deaths, self.unfit = 0, ""  # before any job: how often, and why
        self._pipes: list[int] = []
        self._rest = b""

    def start(self, target: str, environment: dict[str, str]) -> None:
        """Starts a process.

        Raises:
            OSError: The system has none to give.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = [], []
        try:
            for down in (True, False, True):
                read, write = os.pipe()
                ours.append(write if down else read)
                theirs.append(read if down else write)
            # -P: whatever lies in the folder where the sweep was started is nobody's module
            command = [
                sys.executable,
                "-P",
                "-m",
                "asdgan.sweep.workers.worker",
                target,
                *map(str, theirs),
            ]
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=theirs,
                    start_new_session=True,
                )
        except OSError:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        os.set_blocking(ours[1], False)
        self._pipes, self._rest = ours, b""
        self.given, self.cause = 0, None
        self.state, self.since = State.STARTING, time.monotonic()

    @property
    def report(self) -> int:
        """The file descriptor on which the process is heard."""
        return self._pipes[1]

    def say(self, **message: object) -> bool:
        """Tells the process; False when it is gone."""
        try:
            os.write(self._pipes[0], json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return False
        return True

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the process has said by now; a last empty one when it has hung up.

        At most what a pipe holds, so that one that never stops talking leaves time for others.
        """
        for _ in range(2):
            try:
                piece = os.read(self.report, 1 << 16)
            except BlockingIOError:
                return
            *whole, self._rest = (self._rest + piece).split(b"\n")
            for line in whole:
                try:
                    message = json.loads(line)
                except ValueError:  # a job found the pipe and wrote to it: nothing is sure now
                    piece = b""
                    break
                yield message
            if not piece:
                yield {}
                return

    def give(self, job: Job) -> bool:
        """Hands the bound job over; False when the process is gone."""
        words = {"plan": job.plan, "number": job.number, "title": job.title}
        if not self.say(job=self.given + 1, **words):
            return False
        self.given += 1
        self.asked = False
        self.state, self.since = State.BUSY, time.monotonic()
        self.heard = self.since
        return True

    def begin(self) -> None:
        """Notes that the process has taken the job."""
        self.deaths = 0
        self.began = self.heard = time.monotonic()

    def dismiss(self, cause: tuple[str, str] | None, seconds: float) -> None:
        """Expects the process to end, and has it killed in some seconds.

        Args:
            cause: Kind and reason for its job, where it is this side's doing.
            seconds: From now.
        """
        self.state, self.since, self.cause = State.ENDING, time.monotonic(), cause
        self.kill_at = self.since + seconds

    def kill(self) -> None:
        """Kills the process, and whatever its jobs have started."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):  # macOS denies a group of zombies
                os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Waits so long for the process to end, if there is one."""
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)

    def clear(self) -> None:
        """Forgets the process."""
        for descriptor in self._pipes:
            os.close(descriptor)
        self._pipes, self.process, self.state = [], None, State.EMPTY

    def verdict(self) -> tuple[str, str]:
        """Kind and reason of a job that was at hand when its process ended."""
        status = None if self.process is None else self.process.returncode
        if self.cause is not None:
            kind, reason = self.cause
            return kind, reason if status is not None else f"{reason}; it cannot be killed"
        if status is None or status >= 0:
            return "exit", f"its process ended with code {status} before finishing"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if -status == signal.SIGKILL:
            return "killed", f"killed by {name}; out of memory is a usual cause"
        return "killed", f"killed by {name}; its stack is in {self.log}"
