"""Archives that strangers packed: refused whole, by name, before anything of them is written.

An archive is listed first. A member that would be written outside its folder, a link, a device,
two members of one name, an encrypted one, or more bytes than sound can be packed into refuse all
of it. What is left is unpacked file by file, each held to the size and the CRC that the archive
states of it. Python's own extractor would rename what climbs out, follow the second of two equal
names, and write a bomb until the disk is full.
"""

import bisect
import io
import itertools
import lzma
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from asdgan.errors import BadInput

CHUNK = 1 << 20  # bytes
MOST_MEMBERS = 500_000  # the largest release has 48,000 in an archive
# Recorded sound packs to two thirds, quiet sound to a third. Silence alone does better.
LARGEST_RATIO = 10
SMALL = 64 << 20  # bytes that an archive may unpack to, whatever its ratio
PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
)  # fmt: skip
DRIVE = re.compile(r"[A-Za-z]:")


class Member(NamedTuple):
    """One file of an archive: its name, posix and relative, and its size in bytes."""

    name: str
    size: int


class Written(NamedTuple):
    """A member on disk: its name below the folder, its size in bytes and its CRC-32."""

    name: str
    size: int
    crc: int


def listed(path: Path) -> tuple[Member, ...]:
    """The files of an archive, when every one of them may be unpacked.

    Args:
        path: A zip, or the first part of a 7z (`.7z`, `.7z.001`) beside the others.

    Raises:
        BadInput: It is no such archive, is cut, or one of its members is refused.
    """
    return _listed_7z(path) if _is_7z(path) else _listed_zip(path)


def unpack(path: Path, folder: Path, on_bytes: Callable[[int], None]) -> tuple[Written, ...]:
    """Writes every file of an archive into a folder; gives what was written.

    Args:
        path: As for `listed`, whose checks are made first.
        folder: Must not be there; what is left in it after an error is for the caller to remove.
        on_bytes: Told how many bytes were written since it was last told.

    Raises:
        BadInput: As `listed`; or a member is not what the archive says of it.
        OSError: The disk refused, or is full.
    """
    members = listed(path)
    folder.mkdir(parents=True)
    if _is_7z(path):
        return _unpack_7z(path, folder, members, on_bytes)
    written = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                written.append(_unpack_member(archive, info, path, folder, on_bytes))
    return tuple(written)


def require_reader(name: str) -> None:
    """Refuses an archive that nothing installed can open, by its name alone.

    Raises:
        BadInput: It is a 7z, and py7zr is not installed.
    """
    if _is_7z(Path(name)):
        try:
            import_module("py7zr")
        except ImportError:
            raise BadInput(
                f"archive {name} is a 7z, which needs a package that is not installed; "
                "pip install 'asdgan[toyadmos]'"
            ) from None


def _listed_zip(path: Path) -> tuple[Member, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (*UNREADABLE, OSError, ValueError) as error:
        raise BadInput(_no_archive(path, str(error))) from None
    for info in infos:
        if not info.filename:
            raise _refusal(path, info.orig_filename, "has no name")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 1:
            raise _refusal(path, info.filename, "is encrypted")
        if kind == stat.S_IFLNK:
            raise _refusal(path, info.filename, "is a link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(path, info.filename, "is no plain file")
        if info.compress_type not in PACKINGS:
            raise _refusal(path, info.filename, f"is packed in a way unknown here "
                           f"({info.compress_type})")  # fmt: skip
        if info.is_dir() and info.file_size:
            raise _refusal(path, info.filename, "is called a folder and has content")
    packed = path.stat().st_size
    if sum(info.compress_size for info in infos) > packed:
        raise BadInput(
            f"archive {path} is refused: its members overlap, they claim more packed bytes than "
            f"the {packed} it has; nothing was unpacked"
        )
    # `filename` has been cut at a NUL and had backslashes turned; what stood there decides.
    named = [(info.orig_filename, info.is_dir(), info.file_size) for info in infos]
    return _checked(path, named, packed)


def _checked(
    path: Path, named: Sequence[tuple[str, bool, int]], packed: int
) -> tuple[Member, ...]:
    """The files among (name, is a folder, size), after all names and sizes have been looked at."""
    if len(named) > MOST_MEMBERS:
        raise BadInput(f"archive {path} is refused: it has {len(named)} members")
    for name, _, _ in named:
        if wrong := _wrong_name(name):
            raise _refusal(path, name, wrong)
    _refuse_collisions(path, named)
    members = tuple(Member(name, size) for name, is_folder, size in named if not is_folder)
    total = sum(member.size for member in members)
    if total > max(SMALL, LARGEST_RATIO * packed):
        largest = max(members, key=lambda member: member.size)
        raise BadInput(
            f"archive {path} is refused: a bomb, its {packed} bytes would unpack to {total} "
            f"({largest.name!r} alone to {largest.size}); nothing was unpacked"
        )
    if not members:
        raise BadInput(f"archive {path} holds no file")
    return members


def _wrong_name(name: str) -> str | None:
    """What is wrong with a member's name; None for a good one."""
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or DRIVE.match(name):
        return "has an absolute path"
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        return "climbs out of its folder"
    if "" in parts or "." in parts:
        return "has an empty step in its path"
    if not name.isprintable():
        return "has a control character in its name"
    if any(len(part.encode(errors="replace")) > 255 for part in parts) or len(name) > 1024:
        return "has too long a name"
    return None


def _refuse_collisions(path: Path, named: Iterable[tuple[str, bool, int]]) -> None:
    """Two members that would be one file on some disk, and a file where another needs a folder."""
    files: dict[str, str] = {}
    needed: dict[str, str] = {}
    for name, is_folder, _ in named:
        plain = name.removesuffix("/")
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFD", plain).casefold())
        steps = key.split("/")
        for depth in range(1, len(steps) + is_folder):
            needed.setdefault("/".join(steps[:depth]), name)
        if is_folder:
            continue
        if key in files:
            same = files[key] == name
            what = "is there twice" if same else f"differs from {files[key]!r} by case only"
            raise _refusal(path, name, what)
        files[key] = name
    for key, name in files.items():
        if key in needed:
            raise _refusal(path, name, f"is a file, but {needed[key]!r} needs a folder there")


def _unpack_member(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    path: Path,
    folder: Path,
    on_bytes: Callable[[int], None],
) -> Written:
    target = folder / info.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    size, crc = 0, 0
    with target.open("xb") as file:
        for piece in _pieces(archive, info, path):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            file.write(piece)
            on_bytes(len(piece))
    if (size, crc) != (info.file_size, info.CRC):
        raise _damaged(path, info.filename, f"{size} bytes of {info.file_size}, CRC {crc:08x}")
    return Written(info.filename, size, crc)


def _pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Iterator[bytes]:
    """The content of a member; what reading brings up is about the archive, not about our disk."""
    try:
        with archive.open(info) as packed:
            while piece := packed.read(CHUNK):
                yield piece
    except (*UNREADABLE, OSError, ValueError) as error:
        raise _damaged(path, info.filename, str(error)) from None


def _refusal(path: Path, name: str, what: str) -> BadInput:
    return BadInput(f"archive {path} is refused: member {name!r} {what}; nothing was unpacked")


def _damaged(path: Path, name: str, what: str) -> BadInput:
    return BadInput(f"archive {path}: member {name!r} is damaged ({what}); nothing was installed")


def _no_archive(path: Path, why: str) -> str:
    """The sentence for a file that cannot be listed, by what it begins with."""
    with path.open("rb") as file:
        start = file.read(16)
    size = path.stat().st_size
    if start.lstrip().lower().startswith((b"<!doc", b"<html")):
        why = "a saved web page"
    elif not start.strip(b"\0"):
        why = "empty, or an unfinished copy"
    elif start.startswith(b"PK"):
        why = f"cut, or damaged: {why}"
    return (
        f"archive {path} cannot be opened ({why}; {size} bytes, begins with {start!r}); remove it "
        "and fetch it again"
    )


# ToyADMOS comes as 7z, in parts ------------------------------------------------------------------


def _is_7z(path: Path) -> bool:
    return ".7z" in path.suffixes[-2:]


def _parts(path: Path) -> list[Path]:
    """The files of a 7z, in order: those that are numbered on from the first without a gap."""
    if path.suffix != ".001":
        return [path]
    found = []
    while (part := path.with_suffix(f".{len(found) + 1:03}")).is_file():
        found.append(part)
    return found


class _Joined(io.RawIOBase):
    """Files read as the one that they were cut from.

    multivolumefile, which comes with py7zr, takes everything that begins with the name for a part,
    the folder that is unpacked to included.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        sizes = [path.stat().st_size for path in paths]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}
        if origin[whence] + offset < 0:
            raise ValueError(f"no place {origin[whence] + offset}")
        self._at = origin[whence] + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - anything with a buffer
        if self._at >= self._starts[-1]:
            return 0
        number = bisect.bisect_right(self._starts, self._at) - 1
        file = self._files[number]
        file.seek(self._at - self._starts[number])
        count = file.readinto(buffer)
        self._at += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


@contextmanager
def _opened_7z(path: Path) -> Iterator[Any]:
    """A py7zr archive; what it cannot read is a sentence."""
    require_reader(path.name)
    import py7zr.exceptions  # pyright: ignore - an extra

    try:
        with ExitStack() as stack:
            source = stack.enter_context(io.BufferedReader(_Joined(_parts(path)), CHUNK))
            yield stack.enter_context(py7zr.SevenZipFile(source))
    except py7zr.exceptions.PasswordRequired:
        raise _encrypted(path) from None
    except py7zr.exceptions.CrcError as error:
        raise _damaged(path, str(error.args[-1]), "its CRC is another") from None
    except (py7zr.exceptions.ArchiveError, lzma.LZMAError, EOFError) as error:
        raise BadInput(_no_archive(path, str(error) or type(error).__name__)) from None


def _encrypted(path: Path) -> BadInput:
    return BadInput(f"archive {path} is refused: it is encrypted; nothing was unpacked")


def _listed_7z(path: Path) -> tuple[Member, ...]:
    with _opened_7z(path) as archive:
        if archive.needs_password():  # its members do; where its list does, opening it failed
            raise _encrypted(path)
        infos = archive.list()
    for info in infos:
        if info.is_symlink or not (info.is_file or info.is_directory):
            raise _refusal(path, info.filename, "is a link or no plain file")
    packed = sum(part.stat().st_size for part in _parts(path))
    named = [(info.filename, info.is_directory, info.uncompressed or 0) for info in infos]
    return _checked(path, named, packed)


def _unpack_7z(
    path: Path, folder: Path, members: Sequence[Member], on_bytes: Callable[[int], None]
) -> tuple[Written, ...]:
    with _opened_7z(path) as archive:
        archive.extractall(folder)  # holds every file to its CRC
        stated = {info.filename: info.crc32 for info in archive.list()}
    written = []
    for name, size in members:
        crc, found = crc_of(folder / name), (folder / name).stat().st_size
        if found != size or stated[name] not in (crc, None):
            raise _damaged(path, name, f"{found} bytes of {size}, CRC {crc:08x}")
        written.append(Written(name, size, crc))
        on_bytes(size)
    return tuple(written)


def crc_of(path: Path) -> int:
    """CRC-32 of a file's content."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            crc = zlib.crc32(piece, crc)
    return crc
