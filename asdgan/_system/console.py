"""How a command speaks: one sentence for bad input, a progress bar, stopping by a signal."""

import argparse
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from asdgan.errors import BadInput, Stopped

console = Console(highlight=False, soft_wrap=True)
PIPE_WIDTH = 250  # columns where the output is no terminal: nothing is folded that grep may want
_QUIET_SECONDS = 10  # between lines of progress where the output is not a terminal


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are refused in one sentence, as every other is."""

    def error(self, message: str) -> NoReturn:
        """Raises BadInput."""
        raise BadInput(message)


def answer(command: str, work: Callable[[], object]) -> int:
    """Does a command's work; gives the exit code, 2 for what the user can mend.

    Args:
        command: Its name, in front of what it refuses.
        work: Raises BadInput or OSError where it cannot be done.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may not fit the terminal
    try:
        work()
    except BrokenPipeError:
        return hung_up()
    except (BadInput, OSError) as error:
        print(f"{command}: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def printable(text: str) -> str:
    """The text on one line, control and direction characters as escapes."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def sheet(*, folded: bool = True) -> Console:
    """Where tables go that another program may read; a narrow terminal folds cells, or lines."""
    fits = sys.stdout.isatty() and folded
    return Console(highlight=False, width=None if fits else PIPE_WIDTH)


def refusal(error: BadInput) -> int:
    """Prints what is wrong to standard error; gives the exit code for it."""
    print(f"asdgan: {printable(str(error))}", file=sys.stderr)
    return 2


def hung_up() -> int:
    """For when nobody reads the output any more (`| head`): no traceback; gives the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
    return 1


def stopped(number: int) -> int:
    """Says that a signal ended the command; gives the exit code."""
    console.print("stopped; the same command goes on from here")
    return 128 + number


class Bar:
    """Progress over something that is counted; line by line where nobody watches."""

    def __init__(
        self,
        progress: Progress | None,
        title: str,
        total: int,
        counted: Callable[[int], str] = str,
    ) -> None:
        """Starts at 0 of `total`; `counted` writes a number where nobody watches."""
        self._progress, self._title, self._total, self._done = progress, title, total, 0
        self._counted = counted
        self._task = progress.add_task(escape(title), total=total) if progress else None
        self._said = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts on, with a note behind the bar (the loss, say)."""
        self._done += count
        if self._progress is not None and self._task is not None:
            title = escape(f"{self._title} {note}".strip())
            self._progress.update(self._task, completed=self._done, description=title)
        elif time.monotonic() - self._said > _QUIET_SECONDS:
            self._said = time.monotonic()
            done, total = self._counted(self._done), self._counted(self._total)
            console.print(escape(f"{self._title}: {done} of {total} {note}".rstrip()))


@contextmanager
def bars(
    shown: bool, counted: Callable[[int], str] | None = None
) -> Iterator[Callable[[str, int], Bar]]:
    """Makes progress bars by title and total; plain lines where the output is not a terminal.

    Args:
        shown: Whether there are bars at all.
        counted: Writes a number of bytes, where bytes are counted; None where things are.
    """
    if not (shown and console.is_terminal):
        yield lambda title, total: Bar(None, title, total, counted or str)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if counted else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield lambda title, total: Bar(progress, title, total)


@contextmanager
def stopping() -> Iterator[Callable[[], None]]:
    """Holds back the first SIGINT or SIGTERM until it is asked for; the second acts as ever.

    Yields:
        To be called where work may end: raises `Stopped` once a signal has come, which leaves
        the block as `SystemExit` with the usual code.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    came: list[int] = []

    def held(number: int, frame: Any) -> None:  # noqa: ANN401 - a frame
        came.append(number)
        for one, usual in before.items():
            signal.signal(one, usual)

    def check() -> None:
        if came:
            raise Stopped("asked to stop")

    for number, usual in before.items():
        if usual not in (signal.SIG_IGN, None):
            signal.signal(number, held)
    try:
        yield check
    except Stopped:
        raise SystemExit(stopped(came[0])) from None
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def figure(value: float | None) -> str:
    """An area in per cent with two decimals, as the papers print it; a dash where undefined."""
    return "-" if value is None else f"{100 * value:.2f}"
