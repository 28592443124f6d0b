"""The clip table of a dataset: which wavs it holds, and what their names say.

This is the only room that parses a file name. Each release is one `Grammar` in `GRAMMARS`: the
folders its machine types and splits live in, and a function from a path to what the path says.
Whatever a name cannot say is refused here, with the path and the form that was expected, because
a clip with a guessed label or section would only show as a slightly wrong number.
"""

import difflib
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from asdgan.errors import BadInput, Damaged
from asdgan.files import canonical, read_json, sha256_of, write_json

LOGGER = logging.getLogger(__name__)
LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}  # beside every name that begins with a dot
LABELS = {"normal": "normal", "anomaly": "anomaly", "anomalous": "anomaly", "abnormal": "anomaly"}
SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # machine types become parts of paths elsewhere
FOLDERS_SEARCHED = 500  # for "did you mean"; a home directory must not be walked whole


@dataclass(frozen=True, slots=True)
class Clip:
    """One wav file and what its path says; `label` goes to metrics, and to nowhere else.

    `name` is the path below the folder that holds the machine types (below the root itself for
    release `folder`), posix and in Unicode form C: the same on every machine, and the same
    whether the root was given with or without its `dev_data`. `domain` is "source", "target" or
    None, `split` "train" or "test", `label` "normal", "anomaly" or "unknown".
    """

    path: Path
    name: str
    release: str
    machine_type: str
    section: str
    domain: str | None
    attributes: tuple[tuple[str, str], ...]
    subset: str
    split: str
    label: str


class Reading(NamedTuple):
    """What one path says; `label` is None where it is silent."""

    section: str
    label: str | None
    domain: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Grammar:
    """Where a release keeps its clips, and how their names are read.

    Attributes:
        homes: Folders below the root that may hold the machine types, tried in order; none: the
            root is itself the one machine type.
        train: Folders of training clips; a machine type has exactly one of them.
        test: Folders of test clips; a machine type has any of them.
        expected: The form of a good name, for messages.
        read: From a path below the machine type's folder (`train/normal_id_00_00000000.wav`) to
            what it says, None if it does not parse.
    """

    homes: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    expected: str
    read: Callable[[str], Reading | None]


def _by_pattern(*patterns: str) -> Callable[[str], Reading | None]:
    """A reader for releases whose names are fixed: groups section, label and maybe domain."""
    compiled = [re.compile(pattern + r"(?i:\.wav)", re.ASCII) for pattern in patterns]

    def read(path: str) -> Reading | None:
        match = next((found for one in compiled if (found := one.fullmatch(path))), None)
        if match is None:
            return None
        said = match.groupdict()
        return Reading(said["section"], said["label"], said.get("domain"))

    return read


def _by_words(path: str) -> Reading | None:
    """A reader for anybody's folder: a label from a folder's whole name or a file's first word."""
    *folders, name = path.casefold().split("/")
    first = re.match(r"[a-z]*", name)
    words = [*folders, first[0] if first else ""]
    labels = {LABELS[word] for word in words if word in LABELS}
    if len(labels) > 1:
        return None
    return Reading("00", labels.pop() if labels else None)


_DCASE_2020 = Grammar(
    homes=("dev_data", "."),
    train=("train",),
    test=("test",),
    expected="'train/normal_id_00_00000000.wav', 'test/anomaly_id_00_00000000.wav' or, in an "
    "evaluation set, 'test/id_01_00000000.wav'",
    read=_by_pattern(
        r"train/(?P<label>normal|anomaly)_id_(?P<section>[0-9]{2})_[0-9]{8}",
        r"test/(?:(?P<label>normal|anomaly)_)?id_(?P<section>[0-9]{2})_[0-9]{8}",
    ),
)
GRAMMARS = {
    "dcase2020": _DCASE_2020,
    "demo": _DCASE_2020,  # a name of its own: synthetic figures never share a table with real
    "folder": Grammar(
        homes=(),
        train=("train", "normal"),
        test=("test", "anomaly", "abnormal"),
        expected="a wav whose folder and name do not call it both normal and anomaly",
        read=_by_words,
    ),
}


def machine_types(root: Path, release: str) -> tuple[str, ...]:
    """The machine types below `root`, sorted.

    Raises:
        BadInput: The release is unknown, the root is missing, unreadable, or holds no machine
            type of that release.
    """
    return tuple(sorted(_type_folders(root, release)))


def clip_table(root: Path, release: str, machine_type: str) -> tuple[Clip, ...]:
    """Every clip of one machine type, sorted by split and then by name.

    Training clips are normal by definition. Test clips of a section that training never saw, and
    a missing test split, are reported as a warning on this module's logger.

    Raises:
        BadInput: As for `machine_types`; or the machine type is not there, has no training clip,
            has a training clip that says anomaly, a name that does not parse, two names that
            differ only by case or Unicode form, or a link that leads out of the root.
    """
    types = _type_folders(root, release)
    grammar = GRAMMARS[release]
    if machine_type not in types:
        raise BadInput(
            f"{root} holds no machine type {machine_type!r}; there: {', '.join(sorted(types))}"
            + _nearest(machine_type, types)
        )
    home = types[machine_type]
    train = [folder for folder in grammar.train if (home / folder).is_dir()]
    if len(train) != 1:
        has = ", ".join(repr(entry.name) for entry in _entries(home)) or "nothing"
        wanted = " or ".join(repr(folder) for folder in grammar.train)
        found = "more than one training folder, keep one of" if train else "no training folder,"
        raise BadInput(f"{machine_type}: {found} {wanted} in {home}; it has: {has}")
    base = home.parent if grammar.homes else home
    clips = [
        _clip(path, home, base, release, machine_type, split)
        for split, folders in (("train", train), ("test", grammar.test))
        for folder in folders
        if (home / folder).is_dir()
        for path in _wavs(home / folder, root)
    ]
    if not any(clip.split == "train" for clip in clips):
        suffixes = Counter(
            Path(name).suffix or "nameless"
            for *_, names in os.walk(home / train[0])
            for name in names
        )
        found = ", ".join(f"{count} {suffix!r}" for suffix, count in suffixes.most_common(3))
        raise BadInput(
            f"{machine_type}: no wav in {home / train[0]} (found: {found or 'nothing'}); put the "
            "normal training clips there, as .wav"
        )
    _refuse_alike((clip.name for clip in clips), home)
    _warn(clips, machine_type)
    return tuple(sorted(clips, key=lambda clip: (clip.split, clip.name)))


def fingerprint(clips: Sequence[Clip], cache: Path | None) -> str:
    """The sha256 (hex) of what the clips are: relative names, sizes in bytes and contents.

    It does not depend on their order, on where the root lies, or on times of files.

    Args:
        clips: Any clips of one release.
        cache: A JSON file of content digests by absolute path, size, and times of change, so that
            10 GB are read once; made when absent, rebuilt when damaged. None: read everything.

    Raises:
        BadInput: A clip cannot be read any more.
    """
    known = _read_cache(cache)
    fresh: dict[str, list[int | str]] = {}
    rows = []
    for clip in clips:
        try:
            stat = clip.path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            key = os.fsencode(clip.path.absolute()).decode(errors="backslashreplace")
            entry = known.get(key)
            if not (isinstance(entry, list) and entry[:-1] == stamp):
                entry = fresh[key] = [*stamp, sha256_of(clip.path)]
        except OSError as error:
            raise BadInput(
                f"clip {str(clip.path)!r} cannot be read ({error.strerror}); check the file"
            ) from None
        rows.append([clip.name, stat.st_size, entry[-1]])
    if cache is not None and fresh:
        try:
            write_json(
                cache, {**_read_cache(cache), **fresh}
            )  # another process may have added some
        except OSError as error:
            LOGGER.warning(
                "%s: digests not kept (%s), read again next time", cache, error.strerror
            )
    return sha256(canonical(sorted(rows))).hexdigest()


def _read_cache(cache: Path | None) -> dict[str, list[int | str]]:
    try:
        return read_json(cache) if cache is not None else {}
    except (OSError, Damaged):
        return {}


def _type_folders(root: Path, release: str) -> dict[str, Path]:
    """From machine type to its folder; never empty."""
    if release not in GRAMMARS:
        raise BadInput(
            f"no release {release!r}; known: {', '.join(sorted(GRAMMARS))}"
            + _nearest(release, GRAMMARS)
        )
    grammar = GRAMMARS[release]
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        nearest = next(parent for parent in root.absolute().parents if parent.is_dir())
        raise BadInput(
            f"data root {root} {kind}; the nearest folder is {nearest}; check the path, or "
            "download the release there"
        )
    found = _types_in(root, grammar)
    if not found:
        raise BadInput(_nothing_found(root, release, grammar))
    for name, folder in found.items():
        if not SAFE_NAME.fullmatch(name):
            raise BadInput(
                f"machine type {name!r} in {folder.parent} has other characters than "
                "A-Z a-z 0-9 _ -, or more than 64; rename the folder"
            )
    _refuse_alike(found, root)
    return found


def _types_in(root: Path, grammar: Grammar) -> dict[str, Path]:
    if not grammar.homes:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", root.resolve().name)[:64] or "folder"
        return {name: root} if any((root / folder).is_dir() for folder in grammar.train) else {}
    splits = grammar.train + grammar.test
    for home in grammar.homes:
        folders = _entries(root / home) if (root / home).is_dir() else []
        types = {
            folder.name: folder
            for folder in folders
            if folder.is_dir() and any((folder / split).is_dir() for split in splits)
        }
        if types:
            return types
    return {}


def _nothing_found(root: Path, release: str, grammar: Grammar) -> str:
    """The sentence for a root without a machine type, and where one would be found."""
    has = ", ".join(repr(entry.name) for entry in _entries(root)[:8]) or "nothing"
    wanted = [str(Path(root, home, "<machine type>", "train")) for home in grammar.homes]
    wanted = wanted or [str(root / folder) for folder in grammar.train]
    splits = grammar.train + grammar.test
    above = [root.absolute().parent, root.absolute().parent.parent]
    if not (root.resolve().name in splits or any((root / split).is_dir() for split in splits)):
        above = []  # only from inside a machine type is the way up
    candidates = [folder for folder in (*above, *_below(root)) if _types_in(folder, grammar)]
    advice = (
        f"did you mean {candidates[0]}?" if candidates else f"unpack the release to {wanted[0]}"
    )
    return (
        f"no machine type of release {release} in {root}: wanted {' or '.join(wanted)}, "
        f"found {has}; {advice}"
    )


def _below(root: Path) -> Iterator[Path]:
    """The first folders below the root, nearest first, links not followed."""
    queue = [root]
    for folder in queue:
        try:
            inside = [
                entry for entry in _entries(folder) if entry.is_dir() and not entry.is_symlink()
            ]
        except BadInput:
            continue
        queue.extend(inside[: max(0, FOLDERS_SEARCHED - len(queue))])
        yield from inside


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and litter."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise BadInput(f"folder {folder} cannot be read ({error.strerror})") from None
    return [folder / name for name in names if not name.startswith(".") and name not in LITTER]


def _wavs(top: Path, root: Path) -> Iterator[Path]:
    """Every wav below `top`, each folder once whatever links lead to it.

    Real folders come before linked ones, so that a clip keeps its own name, not its link's.
    """
    limit = root.resolve()
    pending, linked, seen = [top], [], set()
    while pending or linked:
        folder = pending.pop() if pending else linked.pop(0)
        real = _resolved(folder, limit)
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(folder):
            is_wav = entry.suffix.lower() == ".wav"
            if entry.is_symlink() and (is_wav or entry.is_dir()):
                _resolved(entry, limit)
            if entry.is_dir():
                (linked if entry.is_symlink() else pending).append(entry)
            elif is_wav and entry.is_file():
                yield entry
            elif is_wav:
                raise BadInput(f"{str(entry)!r} is not a plain file; remove it")


def _resolved(path: Path, limit: Path) -> Path:
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BadInput(f"link {str(path)!r} leads nowhere; remove it or mend it") from None
    if not real.is_relative_to(limit):
        raise BadInput(
            f"link {str(path)!r} leaves the data root, to {str(real)!r}; copy the clips in instead"
        )
    return real


def _clip(path: Path, home: Path, base: Path, release: str, machine_type: str, split: str) -> Clip:
    grammar = GRAMMARS[release]
    below_home = unicodedata.normalize("NFC", path.relative_to(home).as_posix())
    name = unicodedata.normalize("NFC", path.relative_to(base).as_posix())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadInput(f"clip {name!r} in {base}: its name is not UTF-8; rename it") from None
    said = grammar.read(below_home)
    if said is None:
        raise BadInput(
            f"clip {name!r} in {base}: not a name of release {release}, expected "
            f"{grammar.expected}; rename or remove it"
        )
    if split == "train" and said.label == "anomaly":
        raise BadInput(
            f"clip {name!r} in {base}: an anomaly in the training split; detectors learn from "
            "normal clips only, move it to the test split"
        )
    return Clip(
        path=path,
        name=name,
        release=release,
        machine_type=machine_type,
        section=said.section,
        domain=said.domain,
        attributes=said.attributes,
        subset="dev",
        split=split,
        label="normal" if split == "train" else said.label or "unknown",
    )


def _refuse_alike(names: Iterable[str], where: Path) -> None:
    """One of two such names would vanish on a disk that ignores case or normalises Unicode."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
        if key in seen:
            raise BadInput(
                f"{seen[key]!r} and {name!r} in {where} differ only by case or Unicode form; "
                "rename or remove one"
            )
        seen[key] = name


def _warn(clips: Sequence[Clip], machine_type: str) -> None:
    sections = {
        split: {clip.section for clip in clips if clip.split == split}
        for split in ("train", "test")
    }
    if not sections["test"]:
        LOGGER.warning("%s: no test clips, so nothing will be judged", machine_type)
    elif unseen := sorted(sections["test"] - sections["train"]):
        LOGGER.warning("%s: sections only in test: %s", machine_type, ", ".join(unseen))


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
