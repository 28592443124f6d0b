"""What was found out about files before: kept in one file, by path, size and times of change.

Reading the clips of a release takes minutes, looking at their sizes and times takes none. A file
that changed since is unknown again. Whatever is wrong with the store itself costs time only.
"""

import logging
import os
from pathlib import Path
from typing import Any

from asdgan._system.files import read_json, write_json
from asdgan.errors import Damaged

LOGGER = logging.getLogger(__name__)


class Known:
    """Findings on files.

    Args:
        store: A JSON file; made when absent, rebuilt when damaged. None: nothing is remembered.
        what: Findings of other kinds, or under other settings, stay apart by this word.
    """

    def __init__(self, store: Path | None, what: str = "") -> None:
        """Reads the store."""
        self._store, self._what = store, what
        self._found = _read(store)
        self._fresh: dict[str, Any] = {}

    def get(self, path: Path, now: os.stat_result) -> Any | None:  # noqa: ANN401 - any JSON value
        """What was found of a file that is as it was; None where nothing was."""
        entry = self._found.get(self._key(path))
        if isinstance(entry, list) and entry[:-1] == _stamp(now):
            return entry[-1]
        return None

    def put(self, path: Path, now: os.stat_result, found: Any) -> None:  # noqa: ANN401
        """Keeps a finding; `now` is of before the file was read."""
        self._fresh[self._key(path)] = [*_stamp(now), found]

    def save(self) -> None:
        """Writes what is new, with what another process may have added meanwhile."""
        if self._store is None or not self._fresh:
            return
        try:
            write_json(self._store, {**_read(self._store), **self._fresh})
        except OSError as error:
            LOGGER.warning(
                "%s: not kept (%s), so clips are read again next time", self._store, error.strerror
            )

    def _key(self, path: Path) -> str:
        plain = os.fsencode(path.absolute()).decode(errors="backslashreplace")
        return f"{self._what}{plain}"


def _stamp(now: os.stat_result) -> list[int]:
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns]


def _read(store: Path | None) -> dict[str, Any]:
    try:
        return read_json(store) if store is not None else {}
    except (OSError, Damaged):
        return {}
