"""Files that are written whole or not at all, and that can be verified when read.

Every file that outlives a process passes through here: the bytes go to a temporary file in the
same folder (a rename across file systems is a copy, and a copy can be cut), reach the disk, and
only then take their name; what can be made again and is verified at each reading need not reach
it first.
"""

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from asdgan.errors import Damaged

SEALED = re.compile(rb'"sha256": "([0-9a-f]{64})"\n}\n')  # the end of a JSON file
SEAL = len('"sha256": ""\n}\n') + 64  # bytes


class WholeFile:
    """A file being written; `sha256` (hex) covers the bytes written so far."""

    def __init__(self, file: BinaryIO) -> None:
        """Wraps an open binary file."""
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Appends `data`."""
        self._file.write(data)
        self._digest.update(data)

    @property
    def sha256(self) -> str:
        """Hex digest of everything written."""
        return self._digest.hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[WholeFile]:
    """A writer whose file appears under `path` only when the block ends well.

    Folders are made as needed. A file that was there before stays until the new one is complete;
    when the block raises, it stays for good and the temporary file is removed.

    Raises:
        OSError: The disk refused, or is full.
    """
    with whole_path(path) as temporary, temporary.open("wb") as file:
        yield WholeFile(file)


@contextmanager
def whole_path(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """As `whole_file`, for those who write by themselves: an empty file to be filled.

    Args:
        path: As for `whole_file`.
        lasting: Whether the block ends when the file is on the disk. Otherwise the system writes
            it when it likes, and a power cut may leave anything under that name: only for what
            is verified whenever it is read, and can be made again.

    Raises:
        OSError: As for `whole_file`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        try:
            yield temporary
            if lasting:
                os.fsync(descriptor)  # whoever wrote: it is the file that reaches the disk
        finally:
            os.close(descriptor)
        temporary.chmod(0o644)  # mkstemp gives 0600, which a colleague could not read
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not lasting:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must reach the disk too
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Waits until no other process is in this block with the same path; makes that file.

    Args:
        path: Of the file.
        waiting: Called every second meanwhile: whoever has to show signs of life waits aloud.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:  # freed by the kernel, should the process be killed
        while waiting is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_remains(folder: Path, *, older_than: float = 3600.0) -> None:
    """Removes what writers that were killed left in a folder.

    Args:
        folder: Need not exist.
        older_than: In seconds; what is younger may still be written to.
    """
    for path in folder.glob(".*.part"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > older_than:
                path.unlink()


def write_whole(path: Path, data: bytes) -> str:
    """Writes `data` whole or not at all; gives its sha256 (hex)."""
    with whole_file(path) as file:
        file.write(data)
    return file.sha256


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(body: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """The one JSON text of a value: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON cannot say.
        TypeError: It holds something that is not JSON.
    """
    text = json.dumps(
        body, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )
    return text.encode()


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Writes a JSON object whole, its own checksum inside as the last key, `sha256`.

    The checksum covers the text before it, byte for byte. A line holds one key, or one item of
    a list of lists or objects.

    Raises:
        ValueError: A number is NaN or infinite, or a key is `sha256`.
    """
    if "sha256" in body:
        raise ValueError(f"{path}: the key 'sha256' is the checksum's own")
    lines = [f"{_text(key)}: {_lines(value)}" for key, value in _plain(body).items()]
    head = ("{\n" + "".join(f"{line},\n" for line in lines)).encode()
    seal = f'"sha256": "{hashlib.sha256(head).hexdigest()}"\n}}\n'
    write_whole(path, head + seal.encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that verifies against the checksum inside it, without that checksum.

    Raises:
        FileNotFoundError: No such file.
        Damaged: It has no checksum, or does not match it, or is not JSON in spite of it.
    """
    data = path.read_bytes()
    found, seal = hashlib.sha256(data[:-SEAL]).hexdigest(), SEALED.fullmatch(data[-SEAL:])
    if seal is None:
        raise Damaged(f"{path}: no checksum inside, so it was not written by asdgan or was cut")
    if found != (stated := seal[1].decode()):
        raise Damaged(f"{path}: checksum {found[:12]} found, {stated[:12]} stated inside")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: not readable as JSON ({error})") from None
    del body["sha256"]
    return body


def as_csv(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A table as CSV: a heading, raw values; text that a spreadsheet would run gets a quote.

    Args:
        lines: Each by column, all with the same columns.
    """

    def cell(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        text = value if isinstance(value, str) else _text(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([cell(column) for column in lines[0]] if lines else [])
    writer.writerows([cell(value) for value in line.values()] for line in lines)
    return stream.getvalue().encode(errors="backslashreplace")


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return "[\n" + ",\n".join(map(_text, value)) + "\n]"
    return _text(value)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The value with every float that JSON cannot say refused, and tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be stored: say None and a reason instead")
    return value
