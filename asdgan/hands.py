"""Many equal pieces of work side by side: in threads, or, where they are many, in processes.

Threads that take turns at the interpreter every few microseconds hinder one another; processes
take seconds to start. Those here run `python -m asdgan.hands`, so nothing of the program that
asks is loaded twice: not a notebook, nor a script without a guard. Each is told its pieces through
a socket, and ends with the one that asks, however that one died (see `life`).
"""

import os
import signal
import subprocess
import sys
import sysconfig
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from asdgan.errors import BadInput
from asdgan.life import end_with

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# By default glibc gives freed arrays of megabytes back to the system and asks for them again, page
# by page, which takes as long as the work on them. Other C libraries do not know these names.
KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(32 << 20))  # bytes


def in_order(
    function: Callable[..., bytes], pieces: Iterable[tuple[Any, ...]], *, hands: int, apart: bool
) -> Generator[bytes]:
    """What a function gives for each piece, in their order; no more in memory than a few.

    Each piece is one thread's work: torch's own threads share out single operations, which are
    too small for that, and would round as many ways as there are threads.

    Args:
        function: A module's own, or a partial of one, so that another process can find it.
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
        else:
            import torch

            # for threads that begin later, as the pool's do
            ends.callback(torch.set_num_threads, torch.get_num_threads())
            pool = ThreadPoolExecutor(hands, initializer=torch.set_num_threads, initargs=(1,))
        ends.callback(pool.shutdown, cancel_futures=True)
        if apart:
            crew = _Crew()
            ends.callback(crew.end)  # before the pool's end, so that no thread waits for an answer
            crew.start(function, hands)
            function = crew.ask
        pending: deque[Future[bytes]] = deque()
        for piece in pieces:
            pending.append(pool.submit(function, *piece))
            if len(pending) > 2 * hands:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


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

    def start(self, function: Callable[..., bytes], count: int) -> None:
        for _ in range(count):
            ours, theirs = Pipe()
            life, held = Pipe(duplex=False)
            given = [theirs.fileno(), life.fileno()]
            process = subprocess.Popen(
                # -P: whatever lies in the folder where this was started is nobody's module
                [sys.executable, "-P", "-m", "asdgan.hands", *map(str, given)],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **surroundings(1), **KEPT},
                pass_fds=given,
                start_new_session=True,  # Ctrl-C is the business of the one that asks
            )
            self._processes.append(process)
            self._held.append(held)
            theirs.close()  # so that this end tells when the process is gone
            life.close()
            with suppress(ConnectionError):  # ended already: whoever asks it is told
                ours.send(function)
            self._idle.put((process, ours))

    def ask(self, *piece: Any) -> bytes:  # noqa: ANN401 - the function's own
        process, link = hand = self._idle.get()
        try:
            link.send(piece)
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


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), as the system does where memory runs out"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def main() -> None:
    """Calls the function that comes first with all the arguments that come after it."""
    # A scheduler's signals go to every process; the one that asks knows what to do with them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    talk, life = map(int, sys.argv[1:])
    end_with(life)
    link = Connection(talk)
    with suppress(EOFError, ConnectionError):
        function = link.recv()
        while True:
            link.send(_answer(function, link.recv()))


def _answer(function: Callable[..., bytes], piece: tuple[Any, ...]) -> bytes | Exception:
    try:
        return function(*piece)
    except Exception as error:
        if not isinstance(error, BadInput):
            error.add_note(f"In another process:\n{traceback.format_exc()}")
        return error


if __name__ == "__main__":
    main()
