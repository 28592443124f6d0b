"""Labels of evaluation clips from the organisers' lists, which are held against each other too.

A list comes in one of these forms, none with a heading:

- `ground_truth_data/ground_truth_<machine type>_section_<SS>[_<domain>]_test.csv`: a clip's name
  and 0 (normal) or 1 (anomaly), one file a section; 2021 has the domain in the file's name;
- `ground_truth_domain/...`: likewise, 0 (source) or 1 (target), from 2022 on;
- `ground_truth_attributes/...`: a clip's name, and the name that says all of it;
- `eval_data_list*.csv`: a machine type alone in its row, and below it each clip's name and the
  name that says all of it; in 2020 0 or 1 as a third column.

The lists of one release do not always agree (`disagreements`); where they are at hand,
`ground_truth_data` and `ground_truth_domain` are what the organisers' own evaluator judges by, and
are believed before the others.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from asdgan.errors import BadInput

LABELS = {"0": "normal", "1": "anomaly"}
DOMAINS = {"0": "source", "1": "target"}
SECTION_FILE = re.compile(
    r"ground_truth_(?P<machine_type>[A-Za-z0-9-]+)_section_(?P<section>[0-9]{2})"
    r"(?:_(?P<domain>source|target))?_test\.csv"
)
ORIGINAL = (  # names that say what a clip is; some of 2024's RoboticArm lack the word `test`
    r"(?P<label>normal|anomaly)_id_(?P<section>[0-9]{2})_[0-9]+",
    r"section_(?P<section>[0-9]{2})_(?P<domain>source|target)_(?:test_)?(?P<label>normal|anomaly)"
    r"_[0-9]+(?:_.*)?",
)
WORDED = re.compile(r"(section_[0-9]{2})_test(_[0-9]{4}\.wav)")
LARGEST = 1 << 24  # bytes; the longest list there is has half a megabyte


class Original(NamedTuple):
    """What the name of a clip says where nothing is hidden; `domain` is None in 2020."""

    section: str
    domain: str | None
    label: str

    @property
    def anomalous(self) -> bool:
        """Whether the label says so."""
        return self.label == "anomaly"


class Said(NamedTuple):
    """What a list says of one clip; None where it is silent."""

    label: str | None
    domain: str | None


@dataclass(frozen=True)
class Listing:
    """One published list.

    Attributes:
        path: A file, or the folder of its files.
        kind: "data" (labels), "domain", "attributes" or "names".
        says: From machine type to clip, by `key`, to what is said of it.
    """

    path: Path
    kind: str
    says: Mapping[str, Mapping[str, Said]]


def key(name: str) -> str:
    """A clip's name in the form that lists and discs have in common.

    The evaluation clips from 2022 on are `section_03_0000.wav` in one place and
    `section_03_test_0000.wav` in another.
    """
    return WORDED.sub(r"\1\2", name)


def said_by(name: str) -> Original | None:
    """What an original name says, without folders and `.wav`; None where it is none."""
    for pattern in ORIGINAL:
        if match := re.fullmatch(pattern, name):
            said = match.groupdict()
            return Original(said["section"], said.get("domain"), said["label"])
    return None


def lists(place: Path) -> tuple[Listing, ...]:
    """Every list in a file or anywhere in a folder, the organisers' evaluator's first.

    Raises:
        BadInput: There is none, or one cannot be read as what it is called.
    """
    if place.is_file():
        return (_names(place),)
    if not place.is_dir():
        raise BadInput(f"label list {place} does not exist; check the path")
    folders: dict[Path, list[Path]] = {}
    found = []
    for path in sorted(place.rglob("*.csv")):
        if SECTION_FILE.fullmatch(path.name):
            folders.setdefault(path.parent, []).append(path)
        elif path.name.startswith("eval_data_list"):
            found.append(_names(path))
    found += [_sections(folder, paths) for folder, paths in folders.items()]
    if not found:
        raise BadInput(
            f"{place} holds no label list: wanted ground_truth_<machine type>_section_<SS>_*.csv "
            "or eval_data_list*.csv"
        )
    order = ["data", "domain", "names", "attributes"]
    return tuple(sorted(found, key=lambda one: (order.index(one.kind), str(one.path))))


def of_type(place: Path, machine_type: str, *, only_evaluators: bool) -> dict[str, Said]:
    """What is said of the clips of a machine type, by `key`; sections may lie in several folders.

    Args:
        place: A list or a folder of them.
        machine_type: As the release spells it.
        only_evaluators: Nothing but `ground_truth_data` and `ground_truth_domain` is believed.

    Raises:
        BadInput: There is no list of labels for it, or two of them contradict each other.
    """
    found = lists(place)
    believed = [one for one in found if one.kind == "data"]
    domains = [one for one in found if one.kind == "domain"]
    if not believed and only_evaluators:
        raise BadInput(
            f"{found[0].path}: this list is known to be wrong for {machine_type}, about half of "
            "its labels and domains disagree with the organisers' evaluator; name the folder that "
            "holds ground_truth_data and ground_truth_domain"
        )
    believed = believed or [one for one in found if one.kind == "names"] or list(found)
    said: dict[str, Said] = {}
    for one in believed:
        for clip, says in one.says.get(machine_type, {}).items():
            if says.label is not None and said.get(clip, says).label != says.label:
                raise BadInput(
                    f"label lists below {place} contradict each other on {machine_type} {clip}; "
                    "name one of them"
                )
            said[clip] = says
    if not any(says.label for says in said.values()):
        known = sorted({name for one in believed for name in one.says})
        raise BadInput(
            f"{place} has no labels for machine type {machine_type}; it has those of "
            f"{', '.join(known) or 'none'}"
        )
    for one in domains:
        for clip, says in one.says.get(machine_type, {}).items():
            if clip in said:
                said[clip] = said[clip]._replace(domain=says.domain)
    return said


def disagreements(found: Sequence[Listing]) -> list[str]:
    """A sentence for each machine type on which two lists differ; those that agree say nothing."""
    sentences = []
    for number, one in enumerate(found):
        for other in found[number + 1 :]:
            for machine_type in sorted(one.says.keys() & other.says.keys()):
                ours, theirs = one.says[machine_type], other.says[machine_type]
                both = ours.keys() & theirs.keys()
                for what in ("label", "domain"):
                    pairs = [(getattr(ours[c], what), getattr(theirs[c], what)) for c in both]
                    pairs = [pair for pair in pairs if None not in pair]
                    if wrong := sum(a != b for a, b in pairs):
                        sentences.append(
                            f"{machine_type}: {other.path.name} differs from {one.path.name} in "
                            f"the {what} of {wrong} of {len(pairs)} clips"
                        )
                # Several folders of one kind are dev and evaluation sections, or whole copies.
                if both and (lone := len(ours.keys() ^ theirs.keys())):
                    sentences.append(
                        f"{machine_type}: {lone} clips are in one of {one.path.name} and "
                        f"{other.path.name} only"
                    )
    return sentences


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a list with their number, blank ones left out; any line ends, with or without BOM.

    Raises:
        BadInput: It is no such text, or is far too long.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"label list {path} has more than {LARGEST} bytes; is it one?")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"label list {path} cannot be read ({error})") from None
    try:
        for number, row in enumerate(csv.reader(text.splitlines()), 1):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield number, cells
    except csv.Error as error:
        raise BadInput(f"label list {path} is no CSV ({error})") from None


def _sections(folder: Path, paths: Sequence[Path]) -> Listing:
    """The list that a folder of one file a section is."""
    kind = next((k for k in ("domain", "attributes") if folder.name.endswith(k)), "data")
    says: dict[str, dict[str, Said]] = {}
    for path in paths:
        match = SECTION_FILE.fullmatch(path.name)
        assert match is not None
        mine = says.setdefault(match["machine_type"], {})
        for number, row in _rows(path):
            where = f"{path} row {number}"
            # From 2024 on, attributes that were kept back stand in a third column.
            if len(row) not in ((2, 3) if kind == "attributes" else (2,)) or ".wav" not in row[0]:
                raise BadInput(f"{where}: {','.join(row)!r} is not a clip's name and a value")
            if kind == "attributes":
                said = _full(row[-1], where)
            elif kind == "domain":
                said = Said(None, _value(row[1], DOMAINS, where))
            else:
                said = Said(_value(row[1], LABELS, where), match["domain"])
            _put(mine, row[0], said, where)
    return Listing(folder, kind, says)


def _names(path: Path) -> Listing:
    """A list of all machine types in one file."""
    says: dict[str, dict[str, Said]] = {}
    mine: dict[str, Said] | None = None
    for number, row in _rows(path):
        where = f"{path} row {number}"
        row = [cell for cell in row if cell]  # a spreadsheet pads rows with empty cells
        if len(row) == 1 and not row[0].endswith(".wav"):
            mine = says.setdefault(row[0], {})
            continue
        if mine is None or not 2 <= len(row) <= 3 or not row[0].endswith(".wav"):
            raise BadInput(
                f"{where}: {','.join(row)!r} is neither a machine type nor, below one, a clip's "
                "name and what is said of it"
            )
        said = _full(row[1], where)
        if len(row) == 3 and said.label != _value(row[2], LABELS, where):
            raise BadInput(f"{where}: {row[1]!r} and {row[2]!r} contradict each other")
        _put(mine, row[0], said, where)
    return Listing(path, "names", says)


def _put(mine: dict[str, Said], name: str, said: Said, where: str) -> None:
    if mine.get(key(name), said) != said:
        raise BadInput(f"{where}: {name!r} stood there before, with another value")
    mine[key(name)] = said


def _value(text: str, words: Mapping[str, str], where: str) -> str:
    if text not in words:
        raise BadInput(f"{where}: {text!r} is neither 0 ({words['0']}) nor 1 ({words['1']})")
    return words[text]


def _full(name: str, where: str) -> Said:
    """What the name says that a clip has where nothing is hidden."""
    said = said_by(name.removesuffix(".wav"))
    if said is None:
        raise BadInput(f"{where}: {name!r} does not say normal or anomaly")
    return Said(said.label, said.domain)
