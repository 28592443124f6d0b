"""The ground truth of each year as the organisers publish it, and files brought in its order.

Truth is a folder of 0/1 files for labels, beside it one for domains (2022 on) and one of original
names (2023 on); or a list of original names behind the anonymised ones; or clip names that say it
all, as those of a development set do. Clips that are missing, doubled or unknown are refused with
the path of the file and their names.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asdgan.data.labels import said_by
from asdgan.errors import BadInput
from asdgan.results.challenge.score_files import (
    TRUTH,
    Place,
    column,
    file_name,
    listed,
    other_year,
    rows,
    score,
    stem,
    zero_or_one,
)

LIST = "eval_data_list*.csv"
ANONYMOUS = r"(?:id|section)_([0-9]{2})(?:_(source|target))?(?:_test)?_([0-9]+)"
SHOWN = 3  # of many names


@dataclass(frozen=True, slots=True)
class Truth:
    """What was true of the clips of one file.

    Attributes:
        path: Where it is said.
        clips: Names, as the organisers spell them.
        anomalous: Shape (clips,).
        target: Shape (clips,), True in the target domain; None in 2020.
        spellings: From what a submission may call a clip, without `.wav`, to its number.
    """

    path: Path
    clips: tuple[str, ...]
    anomalous: NDArray[np.bool_]
    target: NDArray[np.bool_] | None
    spellings: Mapping[str, int]


def truth_of(path: Path, year: int, scored: Collection[Place]) -> dict[Place, Truth]:
    """The ground truth that lies in a folder, or in a list of original names.

    Of several truths in one folder (a development and an evaluation set), those count that speak
    of a section that has scores; each of those counts whole.

    Args:
        path: The folder of an evaluator's repository, its `ground_truth_data`, or a list.
        year: Of the challenge.
        scored: What a submission has scores for.

    Raises:
        BadInput: There is no truth of that year, or it is incomplete or contradicts itself.
    """
    if path.is_file():
        return _of_list(path, year)
    if not path.is_dir():
        raise BadInput(
            f"ground truth {path} does not exist; name the folder of the organisers' evaluator"
        )
    inside = [path, *sorted(below for below in path.iterdir() if below.is_dir())]
    folders = [folder for folder in inside if any(folder.glob(f"{TRUTH}_*.csv"))]
    labels = {
        folder: found
        for folder in folders
        if (year < 2022 or _role(folder) == "data") and (found := listed(folder, TRUTH, year)[0])
    }
    if labels:
        chosen = {
            folder: found
            for folder, found in labels.items()
            if len(labels) == 1 or set(found) & set(scored)
        } or labels
        read: dict[Place, Truth] = {}
        for folder, found in chosen.items():
            read |= _of_folder(folder, found, year, folders)
        return read
    named = sorted(found for folder in inside for found in folder.glob(LIST))
    lists = [one for one in named if not re.search("20[0-9]{2}", one.stem)]
    lists = [one for one in named if str(year) in one.stem] or lists
    if lists:
        if len(lists) > 1:
            raise BadInput(f"{path} holds {_some([*map(str, lists)])}; name one of them")
        return _of_list(lists[0], year)
    names = [one.name for folder in folders for one in folder.glob(f"{TRUTH}_*.csv")]
    fits = other_year(names, TRUTH)
    hint = f"its names are those of {fits}; " if fits not in (None, min(year, 2022)) else ""
    domains = "" if year < 2022 else f" with {TRUTH}_domain beside it"
    raise BadInput(
        f"no ground truth of {year} in {path}: {hint}it should hold {TRUTH}_data{domains}, "
        f"or {LIST}"
    )


def truth_by_names(files: Mapping[Place, Path], year: int) -> dict[Place, Truth]:
    """What the clip names in a submission say themselves: those of a development set do.

    Raises:
        BadInput: A name does not say it.
    """
    found = {}
    for place, path in files.items():
        names = [name for name, _ in column(path, "anomaly score", score)]
        found[place] = _named(path, [(name, name) for name in names], year, "give --truth DIR")
    return found


def _role(folder: Path) -> str:
    """What the files of a folder say of clips: their label (data), domain or original name."""
    match = re.search(r"(?:^|truth_)(domain|attributes)", folder.name)
    return match[1] if match else "data"


def _of_folder(
    folder: Path, files: Mapping[Place, Path], year: int, folders: Sequence[Path]
) -> dict[Place, Truth]:
    """Labels file by file, with the domains and original names that lie beside them."""
    domains = _beside(folder, "domain", year, folders) if year >= 2022 else {}
    # The original names of 2022 contradict its labels and domains for half of ToyCar and ToyTrain.
    original = _beside(folder, "attributes", year, folders) if year >= 2023 else {}
    lack = [file_name(TRUTH, year, place) for place in files if domains and place not in domains]
    if lack:
        beside = next(iter(domains.values())).parent
        raise BadInput(f"{beside} lacks {', '.join(lack)}; it must speak of the same sections")
    found = {}
    for place, path in files.items():
        labels = column(path, "label (0 or 1)", zero_or_one)
        anomalous = np.array([value == 1 for _, value in labels])
        clips = [name for name, _ in labels]
        truth = _truth(path, clips, anomalous, None, {})
        target = None
        if place.domain:
            target = np.full(len(clips), place.domain == "target")
        elif domains:
            target = aligned(domains[place], truth, "domain (0 or 1)", zero_or_one) == 1
        elif year >= 2022:
            said = [said_by(stem(name)) for name in clips]
            if None in said:
                raise BadInput(
                    f"{path}: AUC (source) and AUC (target) need domains; put {TRUTH}_domain "
                    f"of the organisers' evaluator beside {folder}"
                )
            target = np.array([one.domain == "target" for one in said if one])
        names = _original_names(original[place]) if place in original else {}
        found[place] = _truth(path, clips, anomalous, target, names)
    return found


def _beside(folder: Path, role: str, year: int, folders: Sequence[Path]) -> dict[Place, Path]:
    """The files of the folder that says something else about the same clips."""
    name = folder.resolve().name  # "." has none
    twin = folder.resolve().with_name(name.replace("data", role))
    others = [other for other in folders if _role(other) == role]
    if twin.name == name or not twin.is_dir():
        if len(others) != 1:
            return {}
        twin = others[0]
    return listed(twin, TRUTH, year)[0]


def _original_names(path: Path) -> dict[str, str]:
    return {row[0]: row[1] for _, row in rows(path) if len(row) == 2}


def _of_list(path: Path, year: int) -> dict[Place, Truth]:
    """Truth from a list: machine types as headings, then a clip's name and its original name."""
    if year == 2022:
        raise BadInput(
            f"{path}: the list of 2022 is wrong for about half of the clips of ToyCar and "
            f"ToyTrain; take {TRUTH}_data and {TRUTH}_domain of the organisers' evaluator"
        )
    pairs: dict[Place, list[tuple[str, str]]] = {}
    machine_type = ""
    for line, row in rows(path):
        if len(row) == 1:
            machine_type = row[0]
            continue
        said = said_by(stem(row[1]))
        if said is None or (said.domain is None) != (year == 2020) or not machine_type:
            raise BadInput(
                f"{path} line {line}: {','.join(row)[:80]!r} is no clip,original name of {year} "
                "below a machine type; name that year's list"
            )
        if len(row) > 2 and row[2] not in (str(int(said.anomalous)), f"{float(said.anomalous)}"):
            raise BadInput(f"{path} line {line}: label {row[2]} contradicts {row[1]}")
        domain = (said.domain or "") if year == 2021 else ""
        pairs.setdefault(Place(machine_type, said.section, domain), []).append((row[0], row[1]))
    types = list(dict.fromkeys(place.machine_type for place in pairs))
    order = sorted(pairs, key=lambda place: (types.index(place.machine_type), place))
    return {place: _named(path, pairs[place], year, "check the year") for place in order}


def _named(path: Path, pairs: Sequence[tuple[str, str]], year: int, advice: str) -> Truth:
    """Truth by what original names say, clip by clip."""
    said = [said_by(stem(original)) for _, original in pairs]
    known = [one for one in said if one is not None and (one.domain is not None or year == 2020)]
    if len(known) < len(pairs):
        strange = next(
            name for (_, name), one in zip(pairs, said, strict=True) if one not in known
        )
        needs = "label" if year == 2020 else "label and domain"
        raise BadInput(f"{path}: {strange} does not say its {needs}; {advice}")
    return _truth(
        path,
        [name for name, _ in pairs],
        np.array([one.anomalous for one in known]),
        None if year == 2020 else np.array([one.domain == "target" for one in known]),
        dict(pairs),
    )


def _truth(
    path: Path,
    clips: Sequence[str],
    anomalous: NDArray[np.bool_],
    target: NDArray[np.bool_] | None,
    original: Mapping[str, str],
) -> Truth:
    doubled = [name for name, count in Counter(map(stem, clips)).items() if count > 1]
    if doubled:
        raise BadInput(f"{path}: {_some(doubled)} stands there more than once; keep one row")
    spellings: dict[str, int] = {}
    for at, clip in enumerate(clips):
        own = spelt(clip)
        # The file of 2021 says the domain already.
        own += [re.sub("/.*/", "//", one) for one in own if "/" in one]
        own += [stem(original[clip])] if clip in original else []
        for name in own:
            if spellings.setdefault(name, at) != at:
                spellings[name] = -1  # of two clips: known by neither
    known = {name: at for name, at in spellings.items() if at >= 0}
    return Truth(path, tuple(clips), anomalous, target, known)


# Files in the order of the truth -----------------------------------------------------------------


def aligned(
    path: Path, truth: Truth, what: str, number: Callable[[str], float]
) -> NDArray[np.float64]:
    """The values of a file in the order of the truth's clips, each clip once and no other.

    Raises:
        BadInput: As `column`; or clips are missing, doubled or unknown.
    """
    values = np.full(len(truth.clips), np.nan)
    unknown, doubled = [], []
    for name, value in column(path, what, number):
        at = next((truth.spellings[one] for one in spelt(name) if one in truth.spellings), None)
        if at is None:
            unknown.append(name)
        elif not math.isnan(values[at]):
            doubled.append(name)
        else:
            values[at] = value
    missing = [clip for clip, value in zip(truth.clips, values, strict=True) if math.isnan(value)]
    problems = [
        f"{len(names)} {word} ({_some(names)})"
        for word, names in (("missing", missing), ("unknown", unknown), ("doubled", doubled))
        if names
    ]
    if problems:
        raise BadInput(
            f"{path}: of {len(truth.clips)} clips in {truth.path}: {', '.join(problems)}; "
            f"give each clip one {what}"
        )
    return values


def spelt(name: str) -> list[str]:
    """What a clip's name may be known as: itself, and for an anonymised one its numbers.

    The organisers write `section_03_test_0000.wav` here and `section_03_0000.wav` there.
    """
    plain = stem(name)
    match = re.fullmatch(ANONYMOUS, plain)
    if match is None:
        return [plain]
    section, domain, number = match.groups()
    return [plain, f"{section}/{domain or ''}/{int(number)}"]


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
