"""Files that are written whole or not at all, and that can be verified when read.

Every file that outlives a process passes through here: the bytes go to a temporary file in the
same folder (a rename across file systems is a copy, and a copy can be cut), reach the disk, and
only then take their name.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from asdgan.errors import Damaged

CHUNK = 1 << 20  # bytes


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
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".part", dir=path.parent
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield WholeFile(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0600, which a colleague could not read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must reach the disk too
    finally:
        os.close(folder)


def write_whole(path: Path, data: bytes) -> str:
    """Writes `data` whole or not at all; gives its sha256 (hex)."""
    with whole_file(path) as file:
        file.write(data)
    return file.sha256


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


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
    """Writes a JSON object whole, its own checksum inside as the key `sha256`."""
    body = _plain(body)
    digest = hashlib.sha256(canonical(body)).hexdigest()
    text = json.dumps({**body, "sha256": digest}, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, text.encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that verifies against the checksum inside it, without that checksum.

    Raises:
        FileNotFoundError: No such file.
        Damaged: It is not JSON, not an object, has no checksum, or does not match it.
    """
    try:
        body = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(body, dict) or not isinstance(body.get("sha256"), str):
        raise Damaged(f"{path}: no checksum inside, so it was not written by asdgan or was cut")
    stated = body.pop("sha256")
    try:
        found = hashlib.sha256(canonical(body)).hexdigest()
    except ValueError:
        found = "none, it holds NaN"
    if found != stated:
        raise Damaged(f"{path}: checksum {found[:12]} found, {stated[:12]} stated inside")
    return body


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The value with every float that JSON cannot say refused, and tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be stored: say None and a reason instead")
    return value
