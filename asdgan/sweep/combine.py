"""Ensembles of a sweep: put together once their members' jobs have ended, whoever ran these.

Reading a few score files is cheap, so that this process does it and no launcher is asked. What it
reads are results on disk: a sweep that is killed puts together in its next call what is missing.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from asdgan._system import console
from asdgan._system.files import remove_remains
from asdgan.errors import BadInput
from asdgan.results import ledger
from asdgan.results.failures import failures_in, write_failure
from asdgan.sweep.plan import Together
from asdgan.sweep.study import Results
from asdgan.sweep.workers.worker import verdict
from asdgan.training import ensembles
from asdgan.training.ensembles import Scored

MEMBERS = 64  # whose scores are held at once: ensembles of one machine type share theirs


class Lacking(Exception):
    """A member has no result."""


def put_together(some: Sequence[Together], outputs: Path, say: Callable[[str], None]) -> set[str]:
    """Writes the result of each ensemble, or why it has none; the others go on.

    Args:
        some: Of a plan; whatever has a result by now is left as it is.
        outputs: Results are read and written below its `runs`.
        say: Prints a line.

    Returns:
        Signatures of those that failed.
    """
    results, whys = Results(outputs / "runs"), _whys(outputs / "runs")

    @lru_cache(maxsize=MEMBERS)
    def scored(name: str, signature: str) -> Scored:
        kept = results.kept(signature)
        if kept is None:
            why = whys.get(signature, "nor is there a word why")
            raise Lacking(f"its member {name} (point {signature}) has no result: {why}")
        return ensembles.scored_by(kept, name)

    failed: set[str] = set()
    with console.bars(shown=True) as bar:
        counted = bar("ensembles", len(some))
        for one in some:
            try:
                _make(one, outputs / "runs", scored)
            except Exception as error:  # whatever is wrong with one
                failed.add(one.ensemble.signature)
                say(_mark(one, outputs / "runs", *_verdict(error)))
            counted.advance(1)
    return failed


def _make(one: Together, runs: Path, scored: Callable[[str, str], Scored]) -> None:
    folder = runs / one.ensemble.folder
    remove_remains(folder)
    if ledger.find(folder, one.ensemble.signature) is not None:
        return
    with suppress(FileExistsError):  # another sweep's work of this moment
        ensembles.put_together(
            one.ensemble, {name: scored(name, of) for name, of in one.members.items()}
        )


def _verdict(error: Exception) -> tuple[str, str]:
    """Kind and reason of a failure, for the ledger."""
    if isinstance(error, Lacking):
        return "member", str(error)
    return ("raised", str(error)) if isinstance(error, BadInput) else verdict(error, __file__)


def _mark(one: Together, runs: Path, kind: str, reason: str) -> str:
    """Leaves a record of a failure; gives what is to be said of it."""
    it = one.ensemble
    write_failure(
        runs / it.folder,
        signatures=[it.signature],
        kind=kind,
        reason=reason,
        model=it.config.detector,
        machine_type=it.machine_type,
        settings=it.settings,
    )
    return f"{it.machine_type} {it.config.detector}: 1 points failed, {kind}: {reason}"


def _whys(runs: Path) -> dict[str, str]:
    """Why points failed, by signature."""
    found, _ = failures_in(runs)
    return {name: f"{one.kind}: {one.reason}" for one in found for name in one.signatures}
