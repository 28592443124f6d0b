"""One warm process of a sweep: does job after job, and is gone when its pool is.

    python -m asdgan.sweep.workers.worker TARGET CONTROL REPORT LIFE

TARGET is `module:function`; the others are file descriptors of pipes that `workers.Pool` opened.
Two of them speak JSON lines, because libraries print and the standard streams belong to the log:

- CONTROL brings `{"job": 3, "plan": ..., "number": ..., "title": ...}`, `{"stop": 3}` and
  `{"leave": true}`. `job` counts what this process was given, so that a late word about one job
  is never taken for the next.
- REPORT takes `{"ready": true}` or `{"unfit": reason}`, `{"took": true, "job": 3}`,
  `{"beat": note, "job": 3}` and `{"end": kind, "reason": ..., "job": 3, "leaves": false}`.
- LIFE carries nothing: it is closed when the pool's process ends, however that happens.

Whatever a job raises becomes a kind and a line of text; its traceback is in the log.
"""

import faulthandler
import gc
import importlib
import io
import json
import logging
import os
import queue
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import asdgan
from asdgan._system.lifetime import die, end_with
from asdgan.errors import Stopped

Target = Callable[[Path, int, Callable[[str], None]], object]

LONGEST = 400  # characters of a note or a reason: under PIPE_BUF, a line is written in one piece
# What torch says in plain RuntimeErrors, and the system in OSErrors, when memory is short.
NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
PACKAGE = str(Path(asdgan.__file__).parent) + os.sep


class Link:
    """This process's ends of the pipes, and whether the job at hand was asked to stop."""

    def __init__(self, control: int, report: int) -> None:
        """Takes over two open file descriptors."""
        self.orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.told = False  # whether the job at hand has been told to stop, by `Stopped`
        self._control, self._report = control, report
        self._job, self._asked = 0, 0
        self._lock = threading.Lock()

    def listen(self) -> None:
        """Takes orders until the pool is gone, and takes this process with it."""
        for order in _lines(self._control):
            if "stop" in order:
                self._asked = order["stop"]
            else:
                self.orders.put(order)
        die()

    def begin(self, job: int) -> Callable[[str], None]:
        """The `beat` of a job: tells the pool a note, and raises `Stopped` once asked to."""
        self._job, self.told = job, False

        def beat(note: str) -> None:
            self.say(beat=_one_line(note), job=job)
            if self.asked and job == self._job:
                self.told = True
                raise Stopped("asked to stop")

        return beat

    @property
    def asked(self) -> bool:
        """Whether the job at hand was asked to stop."""
        return self._asked >= self._job

    def say(self, **message: object) -> None:
        """Tells the pool; a child that a job forked has no voice."""
        if self._report < 0:
            return
        line = json.dumps(message, ensure_ascii=False).encode(errors="replace") + b"\n"
        with self._lock:
            try:
                os.write(self._report, line)
            except BrokenPipeError:
                die()

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: a scheduler sends its SIGTERM to every process of a step."""
        self._asked = self._job

    def forget(self) -> None:
        """Leaves a forked child without the pipes, and with the usual answer to signals."""
        os.close(self._control)
        os.close(self._report)
        self._report = -1
        for number, usual in USUAL.items():
            if signal.getsignal(number) == self.ask:
                signal.signal(number, usual)


def main() -> int:
    """Serves until told to leave; gives the exit code."""
    target = sys.argv[1]
    control, report, life = map(int, sys.argv[2:])
    for descriptor in (control, report):
        os.set_inheritable(descriptor, False)
    end_with(life)
    faulthandler.enable()  # a signal's stack goes to the log
    faulthandler.register(signal.SIGUSR1)  # which the pool sends before it kills what hangs
    # A scheduler's warning goes to every process; the one that started this tells it to stop.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("asdgan").setLevel(logging.INFO)
    link = Link(control, report)
    os.register_at_fork(after_in_child=link.forget)
    threading.Thread(target=link.listen, daemon=True).start()
    for number in USUAL:
        signal.signal(number, link.ask)
    try:
        module, _, name = target.partition(":")
        function = getattr(importlib.import_module(module), name)
        place = sys.modules[module].__file__ or ""
    except BaseException as error:
        traceback.print_exception(error)
        link.say(unfit=_described(error, ""))
        return 1
    gc.collect()
    gc.freeze()  # what was imported stays: the collections between jobs need not walk it
    link.say(ready=True)
    while "leave" not in (order := link.orders.get()):
        link.say(took=True, job=order["job"])
        kind, reason = _attempt(function, place, order, link)
        gc.collect()  # frames of a failed job hold its arrays in circles
        # An error of CUDA can outlast the job that made it, and so can memory on the GPU.
        leaves = kind not in (None, "nan", "stopped") and _touched_cuda()
        link.say(end=kind, reason=reason, job=order["job"], leaves=leaves)
        if leaves:
            break
    return 0


def verdict(error: BaseException, module: str) -> tuple[str, str]:
    """The kind of an ending (of `failure.KINDS`, or `stopped`) and one line of reason.

    Args:
        error: What the job raised.
        module: File of the target's module, whose lines say more than a library's.
    """
    if isinstance(error, Stopped):
        return "stopped", "asked to stop"
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
        said = f"code {code}" if isinstance(code, int) else f"code 1 ({_one_line(str(code))})"
        return "exit", f"exited with {said} before finishing"
    reason = _described(error, module)
    names = {of.__name__ for of in type(error).__mro__}
    short = isinstance(error, RuntimeError | OSError) and NO_MEMORY.search(reason)
    if short or names & {"MemoryError", "OutOfMemoryError"}:
        return "memory", reason
    return ("nan" if isinstance(error, FloatingPointError) else "raised"), reason


def _attempt(
    function: Target, module: str, order: dict[str, Any], link: Link
) -> tuple[str | None, str]:
    """Does one job; nothing that it raised outlives the call."""
    print(f"{order['title']} ({order['plan']}, job {order['number']})")
    beat = link.begin(order["job"])
    for number in USUAL:
        signal.signal(number, link.ask)  # a library may have put its own there
    kind, reason = None, ""
    try:
        function(Path(order["plan"]), order["number"], beat)
    except BaseException as error:
        try:
            kind, reason = verdict(error, module)
            if kind != "stopped":
                traceback.print_exception(error)
        except MemoryError:
            kind, reason = "memory", "MemoryError"
    if kind != "stopped" and (link.told or (link.asked and kind == "exit")):
        # Swallowed, or turned into another ending (Lightning answers SIGTERM with a SystemExit of
        # its own): whether the job was done is for the ledger to say.
        kind, reason = "stopped", f"asked to stop; {reason or 'returned'}"
    return kind, reason


def _described(error: BaseException, module: str) -> str:
    """`Type: message (file.py:12)`: the innermost line that is ours or the target's, if any is."""
    try:
        message = _one_line(str(error))
    except Exception:
        message = "(its message cannot be read)"
    stack = [(at.f_code.co_filename, line) for at, line in traceback.walk_tb(error.__traceback__)]
    ours = [at for at in stack if at[0] == module or at[0].startswith(PACKAGE)]
    path, line = (ours[1:] or stack)[-1]  # the outermost line of ours is this file's own
    named = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{named} ({Path(path).name}:{line})"


def _one_line(text: str) -> str:
    """The text on one line; a long one keeps its two ends, where the cause stands."""
    text = " ".join(text.split())
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


def _touched_cuda() -> bool:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda is not None and cuda.is_initialized()


def _lines(descriptor: int) -> Iterator[dict[str, Any]]:
    """JSON objects, a line each, until the other end is closed.

    By `os.read`: a file object would close its descriptor once more in a forked child.
    """
    rest = b""
    while piece := os.read(descriptor, 1 << 16):
        *whole, rest = (rest + piece).split(b"\n")
        yield from map(json.loads, whole)


if __name__ == "__main__":
    raise SystemExit(main())
