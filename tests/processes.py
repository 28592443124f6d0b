"""Processes as tests see them: who lives, who started whom, and a command as a person runs it."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GONE_SECONDS = 5  # promised from the death of a parent to that of the last process


def is_alive(pid):
    """Whether a process is there; zombies are dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid):
    """Live processes whose parent is this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def descendants(pid):
    """Live processes that this one has started, and those that they have."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


def until(claim, seconds=60):
    """Waits for a claim to come true; says whether it did."""
    end = time.monotonic() + seconds
    while not (true := claim()) and time.monotonic() < end:
        time.sleep(0.02)
    return true


def are_gone(pids):
    """Whether none of the processes lives as long after as was promised."""
    return until(lambda: not any(map(is_alive, pids)), GONE_SECONDS)


def kill(pids, chance=random):
    """Sends SIGKILL to processes in random order."""
    for pid in chance.sample(pids, len(pids)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def usual_signals():
    """What a shell starts in the background ignores these, and hands that on."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(*words, folder):
    """Python with these words, in a folder and a group of its own; says all on standard output."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=usual_signals,
    )
