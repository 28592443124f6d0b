"""The end of a process with that of the one that started it, however that one died.

The starter holds one end of a pipe on which nothing is ever said, and the system closes it.
"""

import fcntl
import os
import signal
import sys
import threading


def end_with(life: int) -> None:
    """Ends this process, and all that it started, when the other end of a pipe is closed.

    A thread waits for that, and for an end that came before; but no thread runs while one holds
    the interpreter's lock, so Linux is asked to send SIGKILL. PR_SET_PDEATHSIG would spare what
    this process started, and would fire when the thread ends that made this process.

    Args:
        life: File descriptor of this end, for reading. This process leads a group of its own.
    """
    os.set_inheritable(life, False)
    if sys.platform == "linux":
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_wait, args=(life,), daemon=True).start()


def die() -> None:
    """Ends this process and all that it started."""
    try:
        os.killpg(os.getpid(), signal.SIGKILL)
    except ProcessLookupError:  # started by hand, in the group of a shell
        os._exit(1)


def _wait(life: int) -> None:
    os.read(life, 1)
    die()
