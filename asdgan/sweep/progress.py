"""While a sweep runs: what the files say is done, how fast, how well, and what failed."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from asdgan._system import console
from asdgan.errors import Damaged
from asdgan.results import ledger
from asdgan.results.failures import Failure, failures_in
from asdgan.sweep.plan import Job

EVERY_SECONDS = 1.0
LINES_SECONDS = 30.0  # between lines where nobody watches


class Watch(threading.Thread):
    """Follows the results of a plan, whoever writes them, and tells of them.

    Args:
        jobs: Of the plan.
        runs: The folder of results.
        advance: Of the progress bar: takes a count and a note.
        say: Prints a line.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        runs: Path,
        advance: Callable[[int, str], None],
        say: Callable[[str], None],
    ) -> None:
        """Notes what to look for; `start` begins."""
        super().__init__(daemon=True)
        self.done: set[str] = set()
        self.failed: dict[str, Failure] = {}
        self.best: dict[str, tuple[float, str]] = {}
        self._advance, self._say = advance, say
        self._began = time.time()
        self._readings = [
            (runs / job.stack.folder / f"epochs_{epochs:05d}.json", set(job.wanted))
            for job in jobs
            for epochs in job.stack.readings
        ]
        self._folders = sorted({path.parent for path, _ in self._readings})
        self._seen = {path: changed for of in self._folders for path, changed in _records(of)}
        self._over = threading.Event()

    def run(self) -> None:
        """Looks every second until `finish`."""
        while not self._over.wait(EVERY_SECONDS):
            self.look()

    def finish(self) -> None:
        """Ends the thread, after a last look."""
        self._over.set()
        if self.is_alive():
            self.join()
        self.look()

    def look(self) -> None:
        """Reads what is new."""
        left = []
        for path, wanted in self._readings:
            if not path.exists():
                left.append((path, wanted))
                continue
            try:
                rows = [row for row in ledger.read(path).rows if row["signature"] in wanted]
            except (Damaged, OSError):
                left.append((path, wanted))
                continue
            new = [row for row in rows if row["signature"] not in self.done]
            self.done |= {row["signature"] for row in new}
            for row in new:
                self._compare(row)
            self._advance(len(new), self._note())
        self._readings = left
        for folder in self._folders:
            with suppress(OSError):
                self._failures(folder)

    def _compare(self, row: dict[str, Any]) -> None:
        known = self.best.get(row["machine_type"])
        if row["auc"] is not None and (known is None or row["auc"] > known[0]):
            self.best[row["machine_type"]] = (row["auc"], row["model"])

    def _failures(self, folder: Path) -> None:
        new = {path: at for path, at in _records(folder) if self._seen.get(path) != at}
        if not new:
            return
        self._seen |= new
        for failure in failures_in(folder)[0]:
            if failure.path in new:
                self.failed |= dict.fromkeys(failure.signatures, failure)
                self._say(
                    f"{failure.machine_type} {failure.model}: {len(failure.signatures)} "
                    f"points failed, {failure.kind}: {failure.reason}"
                )
        self._advance(0, self._note())

    def _note(self) -> str:
        hours = (time.time() - self._began) / 3600
        pace = f"{len(self.done) / hours:.0f} points/h" if self.done and hours else ""
        failed = len(set(self.failed) - self.done)
        best = ", ".join(
            f"{name} {console.figure(auc)}" for name, (auc, _) in sorted(self.best.items())
        )
        told = [pace, f"{failed} failed" if failed else "", f"best {best}" if best else ""]
        return "; ".join(one for one in told if one)


def _records(folder: Path) -> list[tuple[Path, int]]:
    """The failures on record in a folder, and when each was written, by whatever clock."""
    found = []
    for path in folder.glob("failure_*.json"):
        with suppress(FileNotFoundError):
            found.append((path, path.stat().st_mtime_ns))
    return found
