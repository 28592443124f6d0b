"""Jobs for tests of the pool: each word of a plan is a way to end, or not to.

A plan is a JSON file with a list of words; job n does the n-th. Imports nothing heavy.
"""

import ctypes
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

from asdgan.errors import Stopped

LONG = 600  # seconds: longer than any test waits


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


def do(plan, number, beat):
    """Does the word of a plan that has this number."""
    word = json.loads(plan.read_text())[number]
    print(f"doing {word}")
    globals()[word](plan.parent, number, beat)


def note(folder, number, **what):
    """Leaves a file that is there whole or not at all."""
    part = folder / f".{number}.part"
    part.write_text(json.dumps({"pid": os.getpid(), **what}))
    part.rename(folder / f"{number}.json")


def finish(folder, number, beat):
    beat("nearly there")
    note(folder, number, threads=os.environ["OMP_NUM_THREADS"], rss=resident())


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def raises(folder, number, beat):
    raise ValueError("no such\nfan")


def raises_below(folder, number, beat):
    json.loads("{")


def raises_silently(folder, number, beat):
    raise Unspeakable


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


def raises_at_length(folder, number, beat):
    raise ValueError("first words " + "x" * 100_000 + " last words")


def sys_exit(folder, number, beat):
    sys.exit(3)


def sys_exit_in_words(folder, number, beat):
    sys.exit("no licence")


def os_exit(folder, number, beat):
    os._exit(4)


def sigkill(folder, number, beat):
    os.kill(os.getpid(), signal.SIGKILL)


def sigsegv(folder, number, beat):
    faulthandler._sigsegv()


def memory_error(folder, number, beat):
    bytearray(1 << 60)


def gpu_memory(folder, number, beat):
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def torch_on_cpu(folder, number, beat):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


def not_finite(folder, number, beat):
    raise FloatingPointError("loss_g at step 12")


def hangs(folder, number, beat):
    note(folder, number)
    time.sleep(LONG)


def hangs_with_child(folder, number, beat):
    child = subprocess.Popen(["sleep", str(LONG)])
    note(folder, number, child=child.pid)
    time.sleep(LONG)


def hangs_with_lock(folder, number, beat):
    """No thread of this process runs any more, its listener included."""
    child = subprocess.Popen(["sleep", str(LONG)])
    note(folder, number, child=child.pid)
    ctypes.PyDLL(None).sleep(LONG)


def spins(folder, number, beat):
    note(folder, number)
    while True:
        pass


def closes_everything(folder, number, beat):
    os.closerange(3, 256)
    time.sleep(LONG)


def babbles(folder, number, beat):
    for descriptor in range(3, 1024):  # a parent of many tests has many open
        try:
            os.write(descriptor, b"not JSON\n")
        except OSError:
            pass


def holds(folder, number, beat):
    """Raises with 10 MB in its frame, and in a circle with the exception."""
    held = b"x" * 10_000_000
    try:
        raise ValueError(len(held))
    except ValueError as error:
        kept = error
        raise kept from None


def writes(folder, number, beat):
    """Files that are half written most of the time, and whole at each beat."""
    for turn in range(LONG):
        beat("about to write")
        with (folder / f"{number}.txt").open("w") as file:
            file.write(f"{turn} half, ")
            file.flush()
            time.sleep(0.5)
            file.write("whole")


def swallows(folder, number, beat):
    """Turns the wish to stop into a return, as no job should."""
    try:
        while True:
            beat("on and on")
            time.sleep(0.05)
    except Stopped:
        pass


def beats(folder, number, beat):
    while True:
        beat("on and on")
        time.sleep(0.05)


def hangs_until_signalled(folder, number, beat):
    note(folder, number)
    while True:
        beat("still there")
        time.sleep(0.05)


def exits_when_signalled(folder, number, beat):
    """Answers SIGTERM as Lightning does: after whoever was there, and by an exit."""
    before = signal.getsignal(signal.SIGTERM)

    def answer(*given):
        before(*given)
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, answer)
    hangs(folder, number, beat)


def waits_for_others(folder, number, beat):
    """Ends when four others have."""
    while len(list(folder.glob("*.json"))) < 4:
        time.sleep(0.02)
    note(folder, number)


def waits_for_a_word(folder, number, beat):
    """Ends when somebody has put a file there."""
    note(folder, number, gpu=os.environ["CUDA_VISIBLE_DEVICES"])
    while not (folder / "go").exists():
        beat("waiting")
        time.sleep(0.05)


def takes_its_parent_along(folder, number, beat):
    with (folder / "lives.txt").open("a") as file:
        file.write("begun\n")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(LONG)


def forks(folder, number, beat):
    """A child that talks and dies as a data loader's would."""
    child = os.fork()
    if not child:
        beat("from nobody")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LONG)
    note(folder, number, status=os.waitpid(child, 0)[1])


def cuda_error(folder, number, beat):
    """An exception in a process that has a CUDA context, as far as one can tell without one."""
    cuda = types.SimpleNamespace(is_initialized=lambda: True)
    sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
    note(folder, f"{number}_cuda")
    raise RuntimeError("CUDA error: device-side assert triggered")
