"""Many equal pieces of work side by side: in threads, or, where they are many, in processes.

Threads that each take a millisecond's turn at the interpreter hinder one another; processes take
seconds to start. Those here are started as `python -m asdgan.hands`, so nothing of the program
that asks is loaded twice: not a notebook, nor a script without a guard. Each listens at one end of
a socket, and leaves when the other end is closed, however the one that asked came to its end.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import torch

from asdgan.errors import BadInput

# glibc gives freed arrays back to the system and asks for them again, page by page, which takes
# as long as the work on them; it keeps what lies below these bytes.
KEPT = 32 << 20


def in_order(
    function: Callable[..., bytes], pieces: Iterable[tuple[Any, ...]], *, hands: int, apart: bool
) -> Generator[bytes]:
    """What a function gives for each piece, in their order; no more in memory than a few.

    Each piece is one thread's work: torch's own threads share out single operations, which are
    too small for that, and would round as many ways as there are threads.

    Args:
        function: A module's own, or a partial of one, so that it can be pickled.
        pieces: Its arguments.
        hands: That work at once; how many does not change what comes out.
        apart: Whether these are processes or threads.

    Raises:
        BadInput: A process was ended from outside; and whatever the function raises.
        OSError: The system has no process to give.
    """
    crew = _Crew(function, hands) if apart else None
    ask = crew.ask if crew else function
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(hands, initializer=torch.set_num_threads, initargs=(1,))
    try:
        pending: deque[Future[bytes]] = deque()
        for piece in pieces:
            pending.append(pool.submit(ask, *piece))
            if len(pending) > 2 * hands:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        if crew:
            crew.end()  # first, so that no thread waits for an answer
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # for threads that begin later, as the pool's did


class _Crew:
    """Processes that answer as many threads."""

    def __init__(self, function: Callable[..., bytes], size: int) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[tuple[subprocess.Popen[bytes], Connection]] = SimpleQueue()
        try:
            for _ in range(size):
                self._start(function)
        except BaseException:
            self.end()
            raise

    def _start(self, function: Callable[..., bytes]) -> None:
        ours, theirs = Pipe()
        paths = [path or os.getcwd() for path in sys.path]
        kept = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(KEPT))
        process = subprocess.Popen(
            # -P: whatever lies in the folder where this was started is nobody's module
            [sys.executable, "-P", "-m", "asdgan.hands", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **kept},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C at a terminal is the business of the one that asks
        )
        self._processes.append(process)
        theirs.close()  # or its end would not be seen here
        with suppress(ConnectionError):  # it is gone already, which whoever asks it is told
            ours.send(function)
        self._idle.put((process, ours))

    def ask(self, *arguments: Any) -> bytes:  # noqa: ANN401 - the function's own
        process, link = hand = self._idle.get()
        try:
            link.send(arguments)
            answer = link.recv()
        except (EOFError, ConnectionError):
            raise BadInput(
                f"a process that computed for this one {_ending(process.wait())}; start again "
                "with more memory to spare, or with trainer.threads=1, which takes no other process"
            ) from None
        finally:
            self._idle.put(hand)  # a dead one too: who asks it is told, and does not wait
        if isinstance(answer, BaseException):
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
    if code < 0:
        return f"was ended by signal {-code}"
    return f"ended with exit code {code}, for the reason above"


def main() -> None:
    """Calls the function that comes first with all the arguments that come after it."""
    # A scheduler's signals go to every process; the one that asks knows what to do with them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    link = Connection(int(sys.argv[1]))
    try:
        function = link.recv()
        while True:
            link.send(_answer(function, link.recv()))
    except (EOFError, ConnectionError):
        return


def _answer(function: Callable[..., bytes], arguments: tuple[Any, ...]) -> bytes | Exception:
    try:
        return function(*arguments)
    except Exception as error:
        if not isinstance(error, BadInput):
            error.add_note(f"In another process:\n{traceback.format_exc()}")
        return error


if __name__ == "__main__":
    main()
