"""The endings that callers must tell apart from a bug.

`BadInput` is what a person can mend: a config, a file, a command line. A command answers it with
its sentence and exit code 2, never with a traceback. `Damaged` is a stored file of ours that is
not what was written; whoever reads it reports it and goes on without it. `Stopped` is no failure:
somebody asked. All carry nothing but their message, so that they survive the way out of a worker
process.
"""


class BadInput(ValueError):
    """What was asked, what was found, where, and what would do, in one sentence."""


class Damaged(ValueError):
    """A stored file that does not verify: its path, and what disagrees."""


class Stopped(BaseException):
    """A job was asked to stop: it finishes what it is writing and lets this pass.

    No `Exception`, because training code and libraries swallow those; no `KeyboardInterrupt`
    either, which Lightning answers in ways of its own.
    """
