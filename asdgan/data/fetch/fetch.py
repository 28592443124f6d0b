"""A published release, from its record to its place below a data root.

What is fetched, and where it goes, stands in `records.yaml`. Everything on the way there lies in
`<root>/archives/`: half and whole archives, `lock.json` with the md5 and size of each file as its
record stated them when it was first fetched, `<archive>.unpacking/` while an archive is unpacked,
and `<archive>.json`, the last thing written, which says what was installed. Nothing appears beside
`archives/` before every member of its archive was held to its size and CRC; it appears by one
rename, or by one for each folder where another archive has made the machine type's folder. A
folder that is there proves nothing: only the list of what was installed does.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from asdgan._system.files import read_json, write_json
from asdgan.data.fetch import archives, download
from asdgan.data.fetch.download import Patience
from asdgan.errors import BadInput, Damaged

ZENODO = "https://zenodo.org"
BASE = "ASDGAN_ZENODO"  # the environment's name for another server with the same records
RECORDS = Path(__file__).resolve().parent / "records.yaml"
UNPACKS_TO = 1.5  # times its size, at most, where `records.yaml` does not say otherwise
ABOUT = {"licence", "unpacks_to"}  # what stands beside a release's subsets there
LITTER = {"__MACOSX", ".DS_Store", "Thumbs.db"}
WHOLE = "whole.json"  # in a folder of unpacked files: all of them are there

Counter = Callable[[str, int], Callable[[int], None]]  # a title and a total of bytes, to a bar


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of a record; md5 (hex) and size (bytes) are None where nobody has said them yet."""

    name: str
    md5: str | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Something published whole: an archive in one or more parts, or a plain file.

    Attributes:
        name: Of the archive, without the number of a part.
        record: Its number at Zenodo.
        parts: In order.
        machine_type: Whose clips it holds; None for a plain file, which is not unpacked.
        unpack: The folder below the data root that holds the machine type's.
    """

    name: str
    record: int
    parts: tuple[Part, ...]
    machine_type: str | None = None
    unpack: str = "."

    @property
    def size(self) -> int:
        """Bytes of all parts, as far as they are known."""
        return sum(part.size or 0 for part in self.parts)


@cache
def _records() -> dict[str, Any]:
    return yaml.safe_load(RECORDS.read_text(encoding="utf-8"))


def licence(release: str) -> str:
    """What the release's licence is called."""
    return _records()[release]["licence"]


def wanted(release: str, subset: str | None, machine_types: Sequence[str]) -> list[Archive]:
    """What a subset is published as, for some machine types or, where none is named, for all.

    Args:
        release: As in `releases`.
        subset: One of the release's, "all", or None for its usual one.
        machine_types: Names as the release spells them.

    Raises:
        BadInput: No such release, subset or machine type is published.
    """
    published = _records()
    if release not in published:
        raise BadInput(
            f"release {release} cannot be fetched; those that can are {', '.join(published)}"
        )
    subsets = [name for name in published[release] if name not in ABOUT]
    asked = subsets if subset == "all" and "all" not in subsets else [subset or subsets[0]]
    if asked[0] not in subsets:
        raise BadInput(
            f"release {release} has no subset {asked[0]!r}; it has {', '.join(subsets)}, and all"
        )
    found = [
        archive
        for name in asked
        for record in published[release][name]
        for archive in _of_record(record)
    ]
    known = sorted({one.machine_type for one in found if one.machine_type is not None})
    for name in machine_types:
        if name not in known:
            raise BadInput(
                f"{release} {' and '.join(asked)} has no machine type {name!r}; it has "
                f"{', '.join(known)}"
            )
    return [
        one
        for one in found
        if not machine_types or one.machine_type is None or one.machine_type in machine_types
    ]


def _of_record(record: Mapping[str, Any]) -> Iterator[Archive]:
    number = record["record"]
    for one in record.get("archives", ()):
        parts = one.get("parts") or [{k: v for k, v in one.items() if k != "machine_type"}]
        yield Archive(
            name=one["name"],
            record=number,
            parts=tuple(Part(**part) for part in parts),
            machine_type=one["machine_type"],
            unpack=record["unpack"],
        )
    for one in record.get("files", ()):
        yield Archive(name=one["name"], record=number, parts=(Part(**one),))


def fetch(
    release: str,
    root: Path,
    asked: Sequence[Archive],
    *,
    base: str,
    keep: bool,
    patience: Patience,
    counter: Counter,
    say: Callable[[str], None],
) -> None:
    """Fetches, verifies and unpacks what is not there yet, one archive after the other.

    Args:
        release: Its name, for messages.
        root: The data root; made as needed.
        asked: What to fetch, as `wanted` gives it.
        base: Of the server's addresses, `ZENODO` or one like it.
        keep: Archives stay after they were unpacked.
        patience: With the server.
        counter: Makes progress bars.
        say: Takes sentences for the person who waits, the space needed first.

    Raises:
        BadInput: The disk is too small, the server does not have what its record stated, an
            archive is refused or damaged, or something else lies where it should go.
        OSError: The disk refused, or is full.
    """
    store = root / "archives"
    missing = [one for one in asked if not installed(one, root)]
    if not missing:
        say(f"{release}: all {len(asked)} archives are there already, in {root}")
        return
    for one in missing:
        archives.require_reader(one.name)
        _require_room(one, root)
    store.mkdir(parents=True, exist_ok=True)
    with _alone(store):
        missing = _stated(missing, store, base, patience)
        say(_space(release, missing, root, keep=keep))
        for one in missing:
            advance = counter(f"fetching {one.name}", one.size)
            for part in one.parts:
                remote = download.Remote(
                    url=f"{base}/records/{one.record}/files/{part.name}?download=1",
                    name=part.name,
                    md5=part.md5,
                    size=part.size,
                )
                if not _unpacked(one, store):
                    download.fetch(remote, store, advance, patience)
            _install(one, root, counter)
            if not keep:
                for part in one.parts:
                    (store / part.name).unlink(missing_ok=True)
    say(f"{release}: {len(missing)} of {len(asked)} archives fetched and verified, in {root}")


def installed(archive: Archive, root: Path) -> bool:
    """Whether an archive was installed by `fetch`, and is still there.

    Raises:
        BadInput: It was, and something of it is gone or has another size.
    """
    if archive.machine_type is None:
        return (root / archive.name).is_file()
    manifest = _manifest(archive, root / "archives")
    if not manifest.exists():
        return False
    if wrong := changed(manifest, root, contents=False):
        raise BadInput(
            f"{archive.name} was fetched, but of its files {len(wrong)} are not as they were, "
            f"{wrong[0]} first; remove {root / archive.unpack / archive.machine_type} and "
            f"{manifest}, and fetch it again"
        )
    return True


def manifests(root: Path) -> tuple[Path, ...]:
    """The lists of what `fetch` installed below a data root."""
    store = root / "archives"
    return tuple(path for path in sorted(store.glob("*.json")) if path.name != "lock.json")


def changed(manifest: Path, root: Path, *, contents: bool) -> list[str]:
    """The installed files that are gone or not as they were, each with what is wrong.

    Args:
        manifest: One of `manifests`.
        root: The data root.
        contents: Whether files are read whole for their CRC, or only looked at for their size.
    """
    try:
        members = read_json(manifest)["members"]
    except (Damaged, KeyError, FileNotFoundError) as error:
        return [f"{manifest.name} ({error})"]
    wrong = []
    for name, size, crc in members:
        path = root / name
        if not path.is_file():
            wrong.append(f"{name} (gone)")
        elif path.stat().st_size != size:
            wrong.append(f"{name} ({path.stat().st_size} bytes instead of {size})")
        elif contents and archives.crc_of(path) != crc:
            wrong.append(f"{name} (other content)")
    return wrong


def kept(root: Path) -> int:
    """Bytes of half and whole archives that a fetch would go on with."""
    store = root / "archives"
    own = (".json", ".lock")
    return sum(
        path.stat().st_size
        for path in store.glob("*")
        if path.is_file() and not path.name.endswith(own)
    )


def _manifest(archive: Archive, store: Path) -> Path:
    return store / f"{archive.name}.json"


def _unpacking(archive: Archive, store: Path) -> Path:
    return store / f"{archive.name}.unpacking"


def _unpacked(archive: Archive, store: Path) -> bool:
    """Whether an archive was unpacked whole, and only not moved to its place yet."""
    if archive.machine_type is None:
        return False
    try:
        read_json(_unpacking(archive, store) / WHOLE)
    except (FileNotFoundError, Damaged):
        return False
    return True


def _require_room(archive: Archive, root: Path) -> None:
    """Refuses before anything is fetched where clips lie that nobody knows the origin of."""
    if archive.machine_type is None or _unpacked(archive, root / "archives"):
        return
    place = root / archive.unpack / archive.machine_type
    ours = {
        (root / name).relative_to(place).parts[0]
        for manifest in manifests(root)
        for name, *_ in _members(manifest)
        if (root / name).is_relative_to(place)
    }
    there = {path.name for path in place.iterdir()} - ours if place.is_dir() else set()
    # Archives of one machine type share its folder, so only what this one brings is in the way.
    split = [word for word in ("train", "test") if word in archive.name.split(".")[0].split("_")]
    blocking = {name for name in there if not split or split[0] in name}
    if blocking:
        raise BadInput(
            f"{place / min(blocking)} is there already, and fetch did not put it there, so nobody "
            f"knows whether it is whole; move it away, or use it as it is and let "
            "asdgan data verify look at it"
        )


def _members(manifest: Path) -> list[list[Any]]:
    try:
        return read_json(manifest)["members"]
    except (Damaged, KeyError, FileNotFoundError):
        return []


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Holds the store's lock; the system lets go of it when the process ends, however it ends."""
    with (store / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another fetch is at work in {store}; wait for it") from None
        yield


# What records state ------------------------------------------------------------------------------


def _stated(
    missing: Sequence[Archive], store: Path, base: str, patience: Patience
) -> list[Archive]:
    """The archives with md5 and size of every part, from our list, the lock or the record."""
    pinned = _lock(store)
    asked: dict[int, dict[str, list[Any]]] = {}
    complete = []
    for one in missing:
        parts = []
        for part in one.parts:
            key = f"{one.record}/{part.name}"
            there = store / part.name
            if part.md5 and not part.size and there.is_file():
                part = replace(part, size=there.stat().st_size)  # brought by hand; md5 decides
            if not (part.md5 and part.size) and key not in pinned:
                if one.record not in asked:
                    asked[one.record] = _record(one.record, base, patience)
                pinned[key] = _looked_up(part, one.record, asked[one.record])
            md5, size = pinned.get(key, (None, None))
            parts.append(replace(part, md5=part.md5 or md5, size=part.size or size))
        complete.append(replace(one, parts=tuple(parts)))
    if asked:
        write_json(store / "lock.json", {"files": pinned})
    return complete


def _lock(store: Path) -> dict[str, list[Any]]:
    """From record and name to md5 and size, as they were stated when first fetched."""
    path = store / "lock.json"
    try:
        return read_json(path)["files"]
    except FileNotFoundError:
        return {}
    except (Damaged, KeyError) as error:
        raise BadInput(f"{error}; remove {path} if what it says need not be kept") from None


def _record(number: int, base: str, patience: Patience) -> dict[str, list[Any]]:
    """From name to md5 and size of the files of a record, as the server states them now."""
    url = f"{base}/api/records/{number}"
    try:
        files = json.loads(download.page(url, patience))["files"]
        return {
            str(one["key"]): [str(one["checksum"]).removeprefix("md5:"), int(one["size"])]
            for one in files
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{url} is not a record with names, sizes and checksums of its files ({error!r}); is "
            f"{base} Zenodo?"
        ) from None


def _looked_up(part: Part, number: int, record: Mapping[str, list[Any]]) -> list[Any]:
    if part.name not in record:
        raise BadInput(
            f"record {number} has no file {part.name}, but {', '.join(sorted(record)) or 'none'}; "
            "the release may have moved to another record"
        )
    md5, size = record[part.name]
    if part.md5 not in (None, md5):
        raise BadInput(
            f"record {number} states md5 {md5} for {part.name}, but {part.md5} was published; the "
            "record has changed, or this is not it"
        )
    return [md5, size]


def _space(release: str, missing: Sequence[Archive], root: Path, *, keep: bool) -> str:
    """What it takes, in a sentence.

    Raises:
        BadInput: The disk is too small.
    """
    total = sum(one.size for one in missing)
    times = _records()[release].get("unpacks_to", UNPACKS_TO)
    unpacked = sum(int(times * one.size) for one in missing if one.machine_type)
    have = kept(root)
    packed = total if keep else max(one.size for one in missing)
    free = shutil.disk_usage(root).free
    needed = unpacked + packed - min(have, packed)
    if needed > free:
        raise BadInput(
            f"{release} needs some {gigabytes(needed)} at {root} ({gigabytes(total)} of archives, "
            f"{gigabytes(unpacked)} unpacked), but {gigabytes(free)} are free; make room, choose "
            "machine types with --machine, or another folder with --root"
        )
    there = f" ({gigabytes(have)} there already)" if have else ""
    return (
        f"{release}: {len(missing)} archives, {gigabytes(total)} to fetch{there}, some "
        f"{gigabytes(unpacked)} unpacked; {gigabytes(free)} are free at {root}; licence: "
        f"{licence(release)}"
    )


def gigabytes(size: int) -> str:
    """A number of bytes for a sentence."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


# From an archive to its place --------------------------------------------------------------------


def _install(archive: Archive, root: Path, counter: Counter) -> None:
    """Unpacks an archive aside, and moves it to its place when all of it is right."""
    store = root / "archives"
    first = store / archive.parts[0].name
    if archive.machine_type is None:
        first.replace(root / archive.name)
        return
    aside = _unpacking(archive, store)
    if not _unpacked(archive, store):
        shutil.rmtree(aside, ignore_errors=True)  # what a cut left behind
        _unpack(archive, first, aside, root, counter)
    _move(archive, aside, root)
    (aside / WHOLE).replace(_manifest(archive, store))
    shutil.rmtree(aside)


def _unpack(archive: Archive, first: Path, aside: Path, root: Path, counter: Counter) -> None:
    members = archives.listed(first)
    top = _top(archive, first, [member.name for member in members])
    total, free = sum(member.size for member in members), shutil.disk_usage(aside.parent).free
    if total > free:
        raise BadInput(
            f"{archive.name} unpacks to {gigabytes(total)}, but {gigabytes(free)} are free at "
            f"{root}; make room and run the same command again"
        )
    advance = counter(f"unpacking {archive.name}", total)
    written = archives.unpack(first, aside / "files", advance)
    place = Path(archive.unpack, str(archive.machine_type))
    kept = [
        [(place / Path(name).relative_to(top)).as_posix(), size, crc]
        for name, size, crc in written
        if not LITTER & set(Path(name).parts)
    ]
    os.sync()  # the files themselves, before the word that they are all there
    write_json(aside / WHOLE, {"archive": archive.name, "top": top.as_posix(), "members": kept})


def _top(archive: Archive, path: Path, names: Sequence[str]) -> Path:
    """The folder inside an archive that is the machine type's; the archive itself if it has none.

    Raises:
        BadInput: Files lie inside of it and outside.
    """
    tops = set()
    for name in names:
        steps = Path(name).parts
        if LITTER & set(steps):
            continue
        inside = archive.machine_type in steps[:-1]
        depth = steps.index(str(archive.machine_type)) + 1 if inside else 0
        tops.add(Path(*steps[:depth]))
    if len(tops) != 1:
        found = ", ".join(repr(str(top)) for top in sorted(tops)) or "none"
        raise BadInput(
            f"archive {path} is refused: its files are to lie in one folder "
            f"{archive.machine_type!r}, found {found}; nothing was unpacked"
        )
    return tops.pop()


def _move(archive: Archive, aside: Path, root: Path) -> None:
    """Moves what was unpacked to its place, by one rename where that is free.

    A cut in between leaves the rest aside, and the next call moves it.
    """
    top = aside / "files" / read_json(aside / WHOLE)["top"]
    place = root / archive.unpack / str(archive.machine_type)
    if not top.is_dir():
        return  # moved before
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        top.rename(place)
        return
    # Folders last: their clips are what makes a machine type.
    for child in sorted(top.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        target = place / child.name
        if child.name in LITTER:
            continue
        if target.is_file() and child.is_file() and target.read_bytes() == child.read_bytes():
            child.unlink()
            continue
        if target.exists():
            raise BadInput(
                f"{target} is there already, and is not that of {archive.name}; move it away and "
                "run the same command again"
            )
        child.rename(target)
