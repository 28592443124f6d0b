"""The two failures that callers must tell apart from a bug.

`BadInput` is what a person can mend: a config, a file, a command line. A command answers it with
its sentence and exit code 2, never with a traceback. `Damaged` is a stored file of ours that is
not what was written; whoever reads it reports it and goes on without it. Both carry nothing but
their message, so that they survive the way out of a worker process.
"""


class BadInput(ValueError):
    """What was asked, what was found, where, and what would do, in one sentence."""


class Damaged(ValueError):
    """A stored file that does not verify: its path, and what disagrees."""
