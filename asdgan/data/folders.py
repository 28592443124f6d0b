"""Machine types and wavs as they lie on a disc.

Where a release keeps what is said by its grammar (`releases`). A folder that does not fit is
answered with the nearest that would, and a release that is not there with the command that brings
it; what could make two machines read a different table (links out of the root, names that differ
by case only) is refused.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from asdgan.data.releases import GRAMMARS, Grammar
from asdgan.data.wav import require_file
from asdgan.errors import BadInput

LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}  # beside every name that begins with a dot
SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # machine types become parts of paths elsewhere
FOLDERS_SEARCHED = 500  # for "did you mean"; a home directory must not be walked whole


def machine_types(root: Path, release: str, subset: str | None) -> dict[str, Path]:
    """From machine type to its folder; never empty.

    Raises:
        BadInput: The release or its subset is unknown, the root is missing or unreadable, or
            holds no machine type of that release that could be part of a path.
    """
    if release not in GRAMMARS:
        raise BadInput(
            f"no release {release!r}; known: {', '.join(sorted(GRAMMARS))}"
            + nearest(release, GRAMMARS)
        )
    grammar, subset = GRAMMARS[release], subset_of(release, subset)
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        above = next(parent for parent in root.absolute().parents if parent.is_dir())
        raise BadInput(
            f"data root {root} {kind}; the nearest folder is {above}; check the path"
            + _fetching(root, release, subset)
        )
    found = types_in(root, grammar, subset)
    if not found:
        raise BadInput(_nothing_found(root, release, subset))
    for name, folder in found.items():
        if not SAFE_NAME.fullmatch(name):
            raise BadInput(
                f"machine type {name!r} in {folder.parent} has other characters than "
                "A-Z a-z 0-9 _ -, or more than 64; rename the folder"
            )
    refuse_alike(found, root)
    return found


def subset_of(release: str, subset: str | None) -> str:
    """The subset that is meant: one the release has, or its usual one for None.

    Raises:
        BadInput: It has no such subset.
    """
    homes = GRAMMARS[release].homes
    subset = subset or next(iter(homes), "dev")
    if homes and subset not in homes:
        raise BadInput(
            f"release {release} has no subset {subset!r}; it has {', '.join(homes)}"
            + nearest(subset, homes)
        )
    return subset


def types_in(root: Path, grammar: Grammar, subset: str) -> dict[str, Path]:
    """From machine type to its folder, whatever it is called; empty where there is none."""
    if not grammar.homes:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", root.resolve().name)[:64] or "folder"
        return {name: root} if has(root, grammar.train) else {}
    others = {name for one, names in grammar.homes.items() if one != subset for name in names}
    for home in grammar.homes[subset]:
        if home == "." and root.resolve().name in others:
            continue  # the folder of another subset does not become this one's by being named
        folders = entries(root / home) if (root / home).is_dir() else []
        types = {
            folder.name: folder
            for folder in folders
            if folder.is_dir() and has(folder, grammar.train + grammar.test)
        }
        if types:
            return types
    return {}


def has(folder: Path, patterns: Iterable[str]) -> bool:
    """Whether any of these folders of a grammar is there."""
    return any(split_folders(folder, pattern) for pattern in patterns)


def split_folders(home: Path, pattern: str) -> list[Path]:
    """The folders of a split, as a grammar's pattern names them."""
    if "[" not in pattern:  # the usual case, without listing a folder
        return [home / pattern] if (home / pattern).is_dir() else []
    try:
        return sorted(path for path in home.glob(pattern) if path.is_dir())
    except OSError as error:
        raise BadInput(f"folder {home} cannot be read ({error.strerror})") from None


def wavs(top: Path, root: Path, *, strict: bool = True) -> Iterator[Path]:
    """Every wav below `top`, each folder once whatever links lead to it.

    Real folders come before linked ones, so that a clip keeps its own name, not its link's.

    Args:
        top: A split's folder.
        root: The data root.
        strict: Whether `refuse_unfit` is asked about each; otherwise whoever reads it has to.

    Raises:
        BadInput: A folder cannot be read, or is a link out of the root; or a wav is unfit.
    """
    limit = root.resolve()
    pending, linked, seen = [top], [], set()
    while pending or linked:
        folder = pending.pop() if pending else linked.pop(0)
        real = _resolved(folder, limit)
        if real in seen:
            continue
        seen.add(real)
        for entry in entries(folder):
            if entry.suffix.lower() == ".wav":
                if strict:
                    refuse_unfit(entry, root)
                yield entry
            elif entry.is_dir():
                (linked if entry.is_symlink() else pending).append(entry)


def refuse_unfit(path: Path, root: Path) -> None:
    """Refuses what is called like a wav, and is none of the data root's files.

    Raises:
        BadInput: It is a folder, pipe, socket or device, or a link to nothing or out of the root.
    """
    require_file(path)
    if path.is_symlink():
        _resolved(path, root.resolve())


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and litter."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise BadInput(f"folder {folder} cannot be read ({error.strerror})") from None
    return [folder / name for name in names if not name.startswith(".") and name not in LITTER]


def contents(folder: Path) -> str:
    """What lies in a folder, for a sentence."""
    return ", ".join(repr(entry.name) for entry in entries(folder)) or "nothing"


def refuse_alike(names: Iterable[str], where: Path) -> None:
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


def nearest(word: str, known: Iterable[str]) -> str:
    """What may have been meant, as the end of a sentence; empty where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _fetching(root: Path, release: str, subset: str) -> str:
    """The command that would bring a release, as the end of a sentence."""
    if release in ("folder", "demo"):
        return ""
    usual = subset == next(iter(GRAMMARS[release].homes))
    asked = "" if usual else f" --subset={subset}"
    return f", or download it: asdgan data fetch {release}{asked} --root {root}"


def _nothing_found(root: Path, release: str, subset: str) -> str:
    """The sentence for a root without a machine type, and where one would be found."""
    grammar = GRAMMARS[release]
    found = ", ".join(repr(entry.name) for entry in entries(root)[:8]) or "nothing"
    inside = [str(Path("<machine type>", folder)) for folder in grammar.train[:1]]
    homes = grammar.homes.get(subset, ())
    wanted = [str(Path(root, home, *inside)) for home in homes]
    wanted = wanted or [str(root / folder) for folder in grammar.train]
    splits = grammar.train + grammar.test
    above = [root.absolute().parent, root.absolute().parent.parent]
    if not (root.resolve().name in splits or has(root, splits)):
        above = []  # only from inside a machine type is the way up
    candidates = [f for f in (*above, *_below(root)) if types_in(f, grammar, subset)]
    others = [one for one in grammar.homes if types_in(root, grammar, one)]
    if candidates:
        advice = f"did you mean {candidates[0]}?"
    elif release == "folder":
        advice = (
            f"put normal clips to learn from into {root / 'train'} and clips to judge into "
            f"{root / 'test'}; or, where there are none to judge, all into {root / 'normal'}"
        )
    else:
        advice = f"unpack the release to {wanted[0]}" + _fetching(root, release, subset)
        if others:
            advice = f"there is subset {' and '.join(others)}; choose that, {advice}"
    return (
        f"no machine type of release {release} in {root}: wanted {' or '.join(wanted)}, "
        f"found {found}; {advice}"
    )


def _below(root: Path) -> Iterator[Path]:
    """The first folders below the root, nearest first, links not followed."""
    queue = [root]
    for folder in queue:
        try:
            inside = [
                entry for entry in entries(folder) if entry.is_dir() and not entry.is_symlink()
            ]
        except BadInput:
            continue
        queue.extend(inside[: max(0, FOLDERS_SEARCHED - len(queue))])
        yield from inside


def _resolved(path: Path, limit: Path) -> Path:
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BadInput(f"{path}: is a link that leads nowhere; remove it or mend it") from None
    if not real.is_relative_to(limit):
        raise BadInput(
            f"{path}: is a link that leaves the data root, to {real}; copy the clips in instead"
        )
    return real
