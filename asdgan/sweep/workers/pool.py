"""Warm processes that do a sweep's jobs, one per slot.

A job is a plan file and a number; what it gives, it writes itself. Importing torch and Lightning
costs seconds, so a process serves job after job, and is replaced when a job takes it down. This
side never imports either, never touches CUDA, and is told in text what became of a job: an
exception object would hold the arrays of the frames that it passed through.

Each process leads a session of its own: Ctrl-C does not reach it, a job that hangs is killed
with all that it started, and the kernel kills the lot when this process is gone (see `life`).
"""

import logging
import math
import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Self

from asdgan._system.parallel import surroundings
from asdgan.sweep.workers.process import Job, Seat, State
from asdgan.sweep.workers.slots import Slot

DEATHS = 3  # of processes in a row that had not taken a job, before a slot is given up
STARTING_SECONDS = 300.0  # to import the target; a network file system can be slow, or gone
DYING_SECONDS = 5.0  # from a closed pipe to the end of its process
LEAVING_SECONDS = 10.0  # from a good-bye to the end of a process, CUDA's teardown included
STACK_SECONDS = 0.5  # for a process that hangs to write its stacks to the log
WEDGED_SECONDS = 30.0  # from SIGKILL to the end of a process; one in a broken driver never ends
SAME_PRESS_SECONDS = 0.5  # shells and wrappers pass on a Ctrl-C that arrived by itself too
TICK_SECONDS = 1.0  # between looks at processes whose pipes say nothing

READY = (State.EMPTY, State.IDLE)  # for a job

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended.

    Attributes:
        job: The one that was given.
        kind: None when it is done; `stopped` when it was asked to stop, which is no failure;
            otherwise one of `failure.KINDS`.
        reason: One line; empty when it is done.
        seconds: From its start.
    """

    job: Job
    kind: str | None
    reason: str
    seconds: float


class Pool:
    """Processes that do jobs, and stay warm between calls of `run`."""

    def __init__(
        self,
        slots: Iterable[Slot],
        *,
        target: str,
        logs: Path,
        silence: float | None,
        grace: float = 60,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Starts nothing yet.

        Args:
            slots: At least one.
            target: `module:function`, called in a worker as `function(plan, number, beat)` with
                a path, the job's number and a function of a note. It calls `beat` at moments
                when it could be interrupted: that raises `errors.Stopped` once the sweep stops.
            logs: Folder for what the workers print, a file per slot, appended to.
            silence: Seconds without a beat after which a job counts as hung; None for never.
            grace: Seconds that jobs have to finish writing when the sweep is stopped.
            environment: Added to that of the workers.
        """
        self._seats = [Seat(number, slot, logs) for number, slot in enumerate(slots)]
        if not self._seats:
            raise ValueError("a pool without slots does nothing: give it one at least")
        self._target, self._silence, self._grace = target, silence, grace
        self._environment = dict(environment)
        self._added: deque[Job] = deque()
        self._signals: list[int] = []  # that have come during `run`
        self._signalled_at = self._stop_by = self._looked_at = 0.0
        self._refusal = ""
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def run(
        self,
        jobs: Iterable[Job],
        on_start: Callable[[Job], None],
        on_beat: Callable[[Job, str], None],
        on_end: Callable[[Ended], None],
    ) -> None:
        """Does the jobs, started in order, and returns when all have ended, however they did.

        Each is taken from `jobs` when a slot is free for it. SIGINT or SIGTERM asks the jobs at
        hand to stop and waits for them, at most `grace` seconds; the second one kills them. When
        one of the three functions raises, the jobs at hand are killed.

        Raises:
            KeyboardInterrupt: Stopped by SIGINT.
            SystemExit: Stopped by SIGTERM; its code is 143.
            ChildProcessError: On no slot could a worker be started; the message says why.
        """
        self._on_start, self._on_beat, self._on_end = on_start, on_beat, on_end
        self._signals.clear()
        self._added.clear()
        queue = iter(jobs)
        try:
            with self._signals_held():
                while self._stop() if self._signals else self._deal(queue):
                    self._wait()
        except BaseException:
            busy = [seat for seat in self._seats if seat.state is not State.IDLE]
            for seat in busy:
                seat.kill()
            self._collect(busy)
            raise
        if signal.SIGTERM in self._signals:
            raise SystemExit(128 + signal.SIGTERM)
        if self._signals:
            raise KeyboardInterrupt

    def warm(self, count: int) -> None:
        """Starts processes for so many jobs that are still to come."""
        for seat in [*self._seats][:count]:
            if seat.state is State.EMPTY:
                self._start(seat)

    def add(self, job: Job) -> None:
        """Has a job done too, before those that have not started; for the functions of `run`."""
        self._added.append(job)

    def close(self) -> None:
        """Ends the workers: idle ones by themselves, others by force."""
        for seat in self._seats:
            if seat.state is not State.IDLE or not seat.say(leave=True):
                seat.kill()
        self._collect(self._seats)
        self._selector.close()
        os.close(self._woken)
        os.close(self._wake)

    def __enter__(self) -> Self:
        """The pool, for `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _deal(self, queue: Iterator[Job]) -> bool:
        """Binds jobs to free slots; False when nothing runs and nothing is left."""
        if not self._seats:
            raise ChildProcessError(self._refusal)
        free = [seat for seat in self._seats if seat.job is None and seat.state in READY]
        for seat in sorted(free, key=lambda seat: seat.state is not State.IDLE):  # warm ones first
            seat.job = self._added.popleft() if self._added else next(queue, None)
            if seat.job is None:
                break
        for seat in [*self._seats]:
            if seat.job is not None and seat.state is State.EMPTY:
                self._start(seat)
            elif seat.job is not None and seat.state is State.IDLE and not seat.give(seat.job):
                seat.dismiss(None, DYING_SECONDS)  # it has died with nothing to do
        at_hand = any(seat.job is not None for seat in self._seats)
        return at_hand or bool(self._added) or not free

    def _stop(self) -> bool:
        """Asks the jobs at hand to stop, kills them when it is time; False when none is left."""
        late = time.monotonic() >= self._stop_by
        for seat in self._seats:
            if seat.state is State.BUSY and late:
                reason = f"asked to stop, did not within {self._grace:g} s, and was killed"
                seat.dismiss(("stopped", reason), 0)
            elif seat.state is State.BUSY and not seat.asked:
                seat.asked = True
                seat.say(stop=seat.given)
            elif seat.began is None and seat.state is not State.BUSY:
                seat.job = None  # it waits for a worker, and is as if never bound
        return any(seat.job is not None for seat in self._seats)

    def _wait(self) -> None:
        """Sleeps until a pipe, a signal or the clock has something to say, and does it."""
        now = time.monotonic()
        moments = [now + TICK_SECONDS]
        if self._signals:
            moments.append(self._stop_by)
        for seat in self._seats:
            if seat.state is State.ENDING:  # a process has no pipe that says when it is gone
                moments.append(now + max(0.02, (now - seat.since) / 4))
            elif seat.state is State.BUSY and self._silence is not None:
                moments.append(seat.heard + self._silence)
        for key, _ in self._selector.select(max(0.0, min(moments) - now)):
            if key.data is None:
                os.read(self._woken, 1 << 10)
            else:
                self._hear(key.data)
        # What was said counts first: this side may have been busy, or held by Ctrl-Z, meanwhile.
        self._look()

    def _look(self) -> None:
        """Finds the processes that are gone, and those that should be."""
        now = time.monotonic()
        silence = math.inf if self._silence is None else self._silence
        everywhere = now - self._looked_at >= TICK_SECONDS
        if everywhere:
            self._looked_at = now
        for seat in [*self._seats]:
            if seat.process is None:
                continue
            watched = everywhere or seat.state is State.ENDING
            if watched and seat.process.poll() is not None:
                self._hear(seat)  # its last words
                self._gone(seat)
            elif seat.state is State.ENDING and now >= seat.kill_at:
                seat.cause = seat.cause or ("lost", "its worker hung up without ending; killed")
                seat.kill()
                if now >= seat.kill_at + WEDGED_SECONDS:
                    self._gone(seat)
            elif seat.state is State.BUSY and now - seat.heard >= silence:
                os.kill(seat.process.pid, signal.SIGUSR1)
                reason = f"no sign of life for {self._silence:g} s; its stacks are in {seat.log}"
                seat.dismiss(("hung", reason), STACK_SECONDS)
            elif seat.state is State.STARTING and now - seat.since >= STARTING_SECONDS:
                seat.unfit = f"not ready after {STARTING_SECONDS:g} s"
                seat.dismiss(None, 0)

    def _start(self, seat: Seat) -> None:
        try:
            seat.start(self._target, self._surroundings(seat.slot))
        except OSError as error:  # no process, no memory or no file descriptor to be had
            seat.unfit = f"{type(error).__name__}: {error}"
            self._give_up(seat)
        else:
            self._selector.register(seat.report, selectors.EVENT_READ, seat)

    def _hear(self, seat: Seat) -> None:
        """Takes what a worker has said."""
        for message in seat.messages():
            if not message:
                self._hang_up(seat)
            elif seat.state is State.ENDING:
                continue  # too late: this side has given the job up
            elif "ready" in message:
                seat.state = State.IDLE
            elif "unfit" in message:
                seat.unfit = message["unfit"]
            elif message["job"] != seat.given or seat.job is None:
                continue  # a thread that outlived its job
            elif "took" in message:
                seat.begin()
                self._on_start(seat.job)
            elif "beat" in message:
                seat.heard = time.monotonic()
                self._on_beat(seat.job, message["beat"])
            else:
                seat.state = State.IDLE
                if message["leaves"]:
                    seat.dismiss(None, LEAVING_SECONDS)
                self._finish(seat, message["end"], message["reason"])

    def _hang_up(self, seat: Seat) -> None:
        """Listens no more to a process that has closed its pipe."""
        with suppress(KeyError):  # done before
            self._selector.unregister(seat.report)
        if seat.state is not State.ENDING:
            seat.dismiss(None, DYING_SECONDS)

    def _gone(self, seat: Seat) -> None:
        """Reads the end of a process, and frees its slot."""
        seat.kill()  # what its jobs have left behind
        kind, reason = seat.verdict()
        if len(self._signals) > 1:
            kind, reason = "stopped", "killed by the second signal"
        in_vain = seat.given == 0 or seat.job is not None
        self._clear(seat)
        if seat.began is not None:
            self._finish(seat, kind, reason)
        elif in_vain:
            seat.deaths += 1
            if seat.unfit or seat.deaths >= DEATHS:
                seat.unfit = seat.unfit or f"{reason}, {seat.deaths} times before any job"
                self._give_up(seat)

    def _give_up(self, seat: Seat) -> None:
        """Takes a slot on which no worker starts out of the pool; its job goes to another."""
        self._seats.remove(seat)
        where = "a CPU" if seat.slot.gpu is None else f"GPU {seat.slot.gpu}"
        self._refusal = (
            f"no worker for {self._target} could be started on {where}: {seat.unfit}; "
            f"see {seat.log}"
        )
        if self._seats:
            logger.warning("%s; going on without this slot", self._refusal)
        if seat.job is not None:
            self._added.appendleft(seat.job)

    def _finish(self, seat: Seat, kind: str | None, reason: str) -> None:
        assert seat.job is not None
        assert seat.began is not None
        ended = Ended(seat.job, kind, reason, time.monotonic() - seat.began)
        seat.job = seat.began = None
        self._on_end(ended)

    def _collect(self, seats: Iterable[Seat]) -> None:
        """Waits for processes to end, and ends them."""
        until = time.monotonic() + DYING_SECONDS
        for seat in seats:
            seat.wait(max(0.0, until - time.monotonic()))
            seat.kill()
            seat.wait(DYING_SECONDS)
            self._clear(seat)
            seat.job = seat.began = None

    def _clear(self, seat: Seat) -> None:
        if seat.process is not None:
            with suppress(KeyError):  # it may have hung up before
                self._selector.unregister(seat.report)
            seat.clear()

    def _surroundings(self, slot: Slot) -> dict[str, str]:
        """The environment of a worker: it finds modules where this process does."""
        return {
            **os.environ,
            **surroundings(slot.threads, self._environment.get("PYTHONPATH")),
            "CUDA_VISIBLE_DEVICES": slot.gpu or "",
            **{key: of for key, of in self._environment.items() if key != "PYTHONPATH"},
        }

    @contextmanager
    def _signals_held(self) -> Iterator[None]:
        """SIGINT and SIGTERM are counted instead of raised; one that is ignored stays so."""
        before = {}
        if threading.current_thread() is threading.main_thread():  # no other may have handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._signals:
            self._stop_by = now + self._grace
        elif now < self._signalled_at + SAME_PRESS_SECONDS:
            return
        else:
            for seat in [*self._seats]:
                seat.kill()
        self._signalled_at = now
        self._signals.append(number)
        os.write(self._wake, b"!")
