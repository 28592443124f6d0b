"""Many equal pieces of work side by side: in threads, or, where they are many, in processes.

Threads that take turns at the interpreter every few microseconds hinder one another; processes
take seconds to start. Those here run `python -m asdgan._system.parallel`, so nothing of the
program that asks is loaded twice: not a notebook, nor a script without a guard. Each is told its
pieces through a socket, waits a while for those of the next work, and ends with the one that asks,
however that one died (see `lifetime`).
"""

import operator
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from asdgan._system.lifetime import end_with
from asdgan.errors import BadInput

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# By default glibc gives freed arrays of megabytes back to the system and asks for them again, page
# by page, which takes as long as the work on them. Other C libraries do not know these names.
KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(32 << 20))  # bytes
Answer = TypeVar("Answer")
IDLE = 10.0  # seconds after which processes without work end; they hold 160 MB each


def in_order(
    function: Callable[..., Answer], pieces: Iterable[tuple[Any, ...]], *, hands: int, apart: bool
) -> Generator[Answer]:
    """What a function gives for each piece, in their order; no more in memory than a few.

    Each piece is one thread's work: torch's own threads share out single operations, which are
    too small for that, and would round as many ways as there are threads.

    Args:
        function: A module's own, or a partial of one, so that another process can find it. Where
            it computes with torch, torch is imported already.
        pieces: Its arguments.
        hands: That work at once; how many does not change what comes out.
        apart: Whether these are processes or threads.

    Raises:
        BadInput: A process was ended from outside; and whatever the function raises.
        OSError: The system has no process to give.
    """
    with ExitStack() as ends:
        if apart:
            pool = ThreadPoolExecutor(hands)  # each waits for one process
        elif (torch := sys.modules.get("torch")) is None:
            pool = ThreadPoolExecutor(hands)
        else:
            # for threads that begin later, as the pool's do
            ends.callback(torch.set_num_threads, torch.get_num_threads())
            pool = ThreadPoolExecutor(hands, initializer=torch.set_num_threads, initargs=(1,))
        ends.callback(pool.shutdown, cancel_futures=True)
        # left before the pool is, so that no thread of it waits for an answer that never comes
        ask = ends.enter_context(_crew(hands)).ask if apart else operator.call
        pending: deque[Future[Any]] = deque()
        for piece in pieces:
            pending.append(pool.submit(ask, function, *piece))
            if len(pending) > 2 * hands:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def ready(hands: int) -> bool:
    """Whether so many processes wait for work, and would begin at once."""
    return _REST.holds(hands)


def dismiss() -> None:
    """Ends the processes that wait for work, if any do."""
    if (crew := _REST.take()) is not None:
        crew.end()


def usable_cores() -> int:
    """Cores that this process may use, a container's limit included."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limit = int(quota) // int(period)
    except (OSError, ValueError):  # no such file, or `max`
        limit = found
    return max(1, min(found or 1, limit or 1))


def helpful() -> int:
    """How many hands help where files are read and written; more hold one another up."""
    return min(usable_cores(), 16)


def surroundings(threads: int, first: str | None = None) -> dict[str, str]:
    """Variables by which another process has so many threads and finds what this one imports.

    Args:
        threads: Of its arithmetic.
        first: Where it looks for modules before all else.
    """
    standard = tuple(map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))
    paths = [path or os.getcwd() for path in sys.path if not path.startswith(standard)]
    if first is not None:
        paths.insert(0, first)
    return dict.fromkeys(THREADS, str(threads)) | {"PYTHONPATH": os.pathsep.join(paths)}


class _Crew:
    """Processes that answer as many threads."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._held: list[Connection] = []  # their lives hang on them
        self._idle: SimpleQueue[tuple[subprocess.Popen[bytes], Connection]] = SimpleQueue()

    def __len__(self) -> int:
        """How many there are that run."""
        return sum(process.poll() is None for process in self._processes)

    def start(self, count: int) -> None:
        for _ in range(count):
            ours, theirs = Pipe()
            life, held = Pipe(duplex=False)
            given = [theirs.fileno(), life.fileno()]
            process = subprocess.Popen(
                # -P: whatever lies in the folder where this was started is nobody's module
                [sys.executable, "-P", "-m", "asdgan._system.parallel", *map(str, given)],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **surroundings(1), **KEPT},
                pass_fds=given,
                start_new_session=True,  # Ctrl-C is the business of the one that asks
            )
            self._processes.append(process)
            self._held.append(held)
            theirs.close()  # so that this end tells when the process is gone
            life.close()
            self._idle.put((process, ours))

    def ask(self, function: Callable[..., Any], *piece: Any) -> Any:  # noqa: ANN401 - the function's own
        process, link = hand = self._idle.get()
        try:
            link.send((function, piece))
            answer = link.recv()
        except (EOFError, ConnectionError):
            raise BadInput(
                f"a process that computed for this one {_ending(process.wait())}; start again "
                "with more memory to spare, or with trainer.threads=1, which takes no other one"
            ) from None
        finally:
            self._idle.put(hand)  # an ended one too: who asks it next shall not wait for ever
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


class _Rest:
    """Where at most one crew waits for work, and ends when none comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[_Crew, threading.Timer] | None = None

    def holds(self, count: int) -> bool:
        with self._lock:
            return self._held is not None and len(self._held[0]) == count

    def take(self) -> _Crew | None:
        with self._lock:
            held, self._held = self._held, None
        if held is None:
            return None
        crew, timer = held
        timer.cancel()
        return crew

    def give(self, crew: _Crew) -> None:
        timer = threading.Timer(IDLE, self._expire, [crew])
        timer.daemon = True
        with self._lock:
            before, self._held = self._held, (crew, timer)
        timer.start()
        if before is not None:  # of another thread that had work meanwhile
            before[1].cancel()
            before[0].end()

    def _expire(self, crew: _Crew) -> None:
        with self._lock:
            if self._held is None or self._held[0] is not crew:
                return
            self._held = None
        crew.end()


_REST = _Rest()


@contextmanager
def _crew(count: int) -> Iterator[_Crew]:
    """Processes that waited, or new ones; they wait again after work that went well."""
    crew = _REST.take()
    if crew is not None and len(crew) != count:
        crew.end()
        crew = None
    crew = _Crew() if crew is None else crew
    try:
        if not len(crew):
            crew.start(count)
        yield crew
    except BaseException:
        crew.end()
        raise
    _REST.give(crew)


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), as the system does where memory runs out"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def main() -> None:
    """Calls one function after the other with its arguments, as they come."""
    # A scheduler's signals go to every process; the one that asks knows what to do with them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    talk, life = map(int, sys.argv[1:])
    end_with(life)
    link = Connection(talk)
    with suppress(EOFError, ConnectionError):
        while True:
            link.send(_answer(*link.recv()))


def _answer(function: Callable[..., Any], piece: tuple[Any, ...]) -> Any:  # noqa: ANN401
    try:
        return function(*piece)
    except Exception as error:
        if not isinstance(error, BadInput):
            error.add_note(f"In another process:\n{traceback.format_exc()}")
        return error


if __name__ == "__main__":
    main()
