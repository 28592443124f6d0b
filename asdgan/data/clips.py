"""The clip table of a dataset: which wavs it holds, and what is known of each.

What names say is read by `releases`, what the organisers' lists say by `labels`; here both become
`Clip`s. Whatever neither can say is refused, with the path and the form that was expected, because
a clip with a guessed label or section would only show as a slightly wrong number.
"""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from asdgan._system.file_cache import Known
from asdgan._system.files import canonical, sha256_of
from asdgan._system.parallel import helpful, in_order
from asdgan.data import folders, labels
from asdgan.data.releases import GRAMMARS, Grammar
from asdgan.data.wav import unreadable
from asdgan.errors import BadInput

AT_ONCE = 16  # clips that a thread reads before it says what it found
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clip:
    """One wav file and what is known of it; `label` goes to metrics, and to nowhere else.

    `name` is the path below the folder that holds the machine types (below the root itself for
    release `folder`), posix and in Unicode form C: the same on every machine, and the same
    whether the root was given with or without its `dev_data`. `domain` is "source", "target" or
    None, `split` "train" or "test", `label` "normal", "anomaly" or "unknown". `subset` is "dev"
    or "eval", or what else a release is divided into. `channel` is the one to be heard of a file
    that holds several, from 1; None for a mono file. `listed`: label and domain come from a list
    of the organisers', because the name keeps them back.
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
    channel: int | None = None
    listed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which clips of a release are wanted; the values live in `conf/dataset/`.

    Attributes:
        subset: Whose test clips, and whose training clips: "dev" or "eval" of a challenge; None
            for the usual one of the release.
        train: "same" for the training clips of that subset, "both" for those of every subset,
            which is how the challenge's additional training clips are added.
        truth: The organisers' label lists, a file or a folder; None where names say it all, or
            nothing shall be judged.
        channel: The microphone to be heard where a release has several, from 1.
        strict: Whether the table is refused where a wav is a link out of the root, or no file;
            otherwise it is in the table, and `sieve` leaves it out.
    """

    subset: str | None = None
    train: str = "same"
    truth: Path | None = None
    channel: int = 1
    strict: bool = True


USUAL = Choice()


def machine_types(root: Path, release: str, choice: Choice = USUAL) -> tuple[str, ...]:
    """The machine types below `root`, sorted.

    Raises:
        BadInput: The release or its subset is unknown, the root is missing, unreadable, or holds
            no machine type of that release.
    """
    return tuple(sorted(folders.machine_types(root, release, choice.subset)))


def clip_table(
    root: Path, release: str, machine_type: str, choice: Choice = USUAL
) -> tuple[Clip, ...]:
    """Every clip of one machine type, sorted by split and then by name.

    Training clips are normal by definition. Test clips of a section that training never saw, and
    a missing test split, are reported as a warning on this module's logger.

    Raises:
        BadInput: As for `machine_types`; or the machine type is not there, has no training clip,
            has a training clip that says anomaly, a name that does not parse, two names that
            differ only by case or Unicode form, or a link that leads out of the root; or the
            label list does not cover its test clips, or contradicts their names.
    """
    types = folders.machine_types(root, release, choice.subset)
    grammar = GRAMMARS[release]
    if machine_type not in types:
        raise BadInput(
            f"{root} holds no machine type {machine_type!r}; there: {', '.join(sorted(types))}"
            + folders.nearest(machine_type, types)
        )
    home, subset = types[machine_type], folders.subset_of(release, choice.subset)
    clips = _clips(home, root, release, machine_type, subset, choice)
    for other in grammar.homes if choice.train == "both" else ():
        beside = folders.types_in(root, grammar, other).get(machine_type)
        if other != subset and beside is not None and beside != home:
            more = _clips(beside, root, release, machine_type, other, choice)
            clips += [clip for clip in more if clip.split == "train"]
    if not any(clip.split == "train" for clip in clips):
        raise BadInput(_no_training(home, grammar, machine_type))
    if grammar.held_out:
        clips = _held_out(clips)
    if choice.truth is not None:
        clips = _told(clips, choice.truth, grammar)
    folders.refuse_alike((clip.name for clip in clips), home)
    _warn(clips, machine_type)
    return tuple(sorted(clips, key=lambda clip: (clip.split, clip.name)))


def fingerprint(clips: Sequence[Clip], cache: Path | None, *, judged: bool = True) -> str:
    """The sha256 (hex) of what the clips are: relative names, sizes in bytes and contents.

    It does not depend on their order, on where the root lies, or on times of files. What a name
    does not say counts too: the channel, and the label and domain that a list gave.

    Args:
        clips: Any clips of one release.
        cache: A JSON file of content digests by absolute path, size, and times of change, so that
            10 GB are read once; made when absent, rebuilt when damaged. None: read everything.
        judged: Whether labels and domains from a list count; what is heard is the same without.

    Raises:
        BadInput: A clip cannot be read any more.
    """
    known = Known(cache)
    stats = []
    for clip in clips:
        with _there(clip.path):
            stats.append(clip.path.stat())
    found = [known.get(clip.path, stat) for clip, stat in zip(clips, stats, strict=True)]
    new = [place for place, digest in enumerate(found) if digest is None]
    some = [new[start : start + AT_ONCE] for start in range(0, len(new), AT_ONCE)]
    asked = (([clips[place].path for place in places],) for places in some)
    with closing(in_order(_contents, asked, hands=helpful(), apart=False)) as work:
        for places, digests in zip(some, work, strict=True):
            for place, digest in zip(places, digests, strict=True):
                known.put(clips[place].path, stats[place], digest)
                found[place] = digest
    rows = []
    for clip, stat, digest in zip(clips, stats, found, strict=True):
        row = [clip.name, stat.st_size, digest]
        row += [f"channel {clip.channel}"] if clip.channel is not None else []
        row += [clip.label, clip.domain or ""] if clip.listed and judged else []
        rows.append(row)
    known.save()
    return sha256(canonical(sorted(rows))).hexdigest()


def _contents(paths: Sequence[Path]) -> list[str]:
    digests = []
    for path in paths:
        with _there(path):
            digests.append(sha256_of(path))
    return digests


@contextmanager
def _there(path: Path) -> Iterator[None]:
    """Names a clip that cannot be read any more."""
    try:
        yield
    except FileNotFoundError:
        raise BadInput(
            f"{path}: was there when the clips were listed, and is gone; put it back, and start "
            "again"
        ) from None
    except OSError as error:
        raise BadInput(unreadable(path, error)) from error


def _clips(
    home: Path, root: Path, release: str, machine_type: str, subset: str, choice: Choice
) -> list[Clip]:
    """The clips of one machine type in one subset, by the split that their folders say."""
    grammar = GRAMMARS[release]
    channels = max(grammar.channels, grammar.microphones)
    if channels > 1 and not 1 <= choice.channel <= channels:
        raise BadInput(f"channel {choice.channel}: release {release} has 1 to {channels}")
    train = [pattern for pattern in grammar.train if folders.has(home, [pattern])]
    if len(train) > 1:
        wanted = " or ".join(repr(folder) for folder in grammar.train)
        raise BadInput(
            f"{machine_type}: more than one training folder, keep one of {wanted} in {home}; "
            f"it has: {folders.contents(home)}"
        )
    base = home.parent if grammar.homes else home
    clips = []
    for split, patterns in (("train", train), ("test", grammar.test)):
        tops = [top for pattern in patterns for top in folders.split_folders(home, pattern)]
        for top in tops:
            for path in folders.wavs(top, root, strict=choice.strict):
                clip, channel = _clip(path, home, base, release, machine_type, split, subset)
                if channel is None or channel == choice.channel:
                    clips.append(clip)
    if grammar.channels > 1:
        clips = [replace(clip, channel=choice.channel) for clip in clips]
    return clips


def _held_out(clips: Sequence[Clip]) -> list[Clip]:
    """The clips with a split, where the release has none; see `Grammar.held_out`."""
    normal, anomalies = {}, Counter()
    for clip in sorted(clips, key=lambda clip: clip.name):
        if clip.label == "normal":
            normal.setdefault(clip.section, []).append(clip)
        else:
            anomalies[clip.section] += 1
    test = {
        clip.name
        for section, mine in normal.items()
        for clip in mine[: min(anomalies[section], len(mine) // 2)]
    }
    return [replace(clip, split="test") if clip.name in test else clip for clip in clips]


def _told(clips: Sequence[Clip], place: Path, grammar: Grammar) -> list[Clip]:
    """The clips with what the organisers' lists say of those for testing."""
    machine_type = clips[0].machine_type
    wrongly = machine_type in grammar.renamed_wrongly
    said = labels.of_type(place, machine_type, only_evaluators=wrongly)
    told, without = [], []
    for clip in clips:
        says = said.get(labels.key(clip.path.name)) if clip.split == "test" else None
        if clip.split == "test" and clip.label == "unknown" and not (says and says.label):
            without.append(clip.name)
        if says is None:
            told.append(clip)
            continue
        for what, named in (("label", clip.label), ("domain", clip.domain)):
            listed = getattr(says, what)
            if listed is not None and named not in (None, "unknown", listed):
                raise BadInput(
                    f"clip {clip.name!r} is called {named}, but {listed} in the label list "
                    f"{place}; one of them is wrong"
                )
        hidden = clip.label == "unknown" or (clip.domain is None and says.domain is not None)
        label = says.label or clip.label
        told.append(replace(clip, label=label, domain=says.domain or clip.domain, listed=hidden))
    if without:
        raise BadInput(
            f"{machine_type}: {len(without)} test clips have no label in {place}, {without[0]!r} "
            "first; is it the list of this release and subset?"
        )
    sections = {clip.section for clip in clips if clip.split == "test"}
    there = {labels.key(clip.path.name) for clip in clips if clip.split == "test"}
    lost = [name for name in said.keys() - there if _section_of(name) in sections]
    if lost:
        LOGGER.warning(
            "%s: %d clips of the label list are not there, %s first",
            machine_type, len(lost), min(lost),
        )  # fmt: skip
    return told


def _section_of(name: str) -> str:
    match = re.search(r"(?:section|id)_([0-9]{2})", name)
    return match[1] if match else ""


def _no_training(home: Path, grammar: Grammar, machine_type: str) -> str:
    """The sentence for a machine type without a training clip."""
    there = [path for pattern in grammar.train for path in folders.split_folders(home, pattern)]
    if not there:
        wanted = " or ".join(repr(folder) for folder in grammar.train)
        has = folders.contents(home)
        return f"{machine_type}: no training folder, {wanted} in {home}; it has: {has}"
    suffixes = Counter(
        Path(name).suffix or "nameless"
        for folder in there
        for *_, names in os.walk(folder)
        for name in names
    )
    found = ", ".join(f"{count} {suffix!r}" for suffix, count in suffixes.most_common(3))
    return (
        f"{machine_type}: no wav in {there[0]} (found: {found or 'nothing'}); put the "
        "normal training clips there, as .wav"
    )


def _clip(
    path: Path,
    home: Path,
    base: Path,
    release: str,
    machine_type: str,
    split: str,
    subset: str,
) -> tuple[Clip, int | None]:
    """A clip, and the microphone that its name speaks of."""
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
    if (
        machine_type in grammar.renamed_wrongly
        and (subset, split) == ("eval", "test")
        and said.label is not None
    ):
        raise BadInput(
            f"clip {name!r} in {base}: the list that evaluation clips of {machine_type} are "
            "renamed by is known to be wrong for about half of them; unpack them again under "
            "their own names (section_03_0000.wav), and name the label lists in dataset.truth"
        )
    clip = Clip(
        path=path,
        name=name,
        release=release,
        machine_type=machine_type,
        section=said.section,
        domain=said.domain,
        attributes=said.attributes,
        subset=subset,
        split=split,
        label="normal" if split == "train" else said.label or "unknown",
    )
    return clip, said.channel


def _warn(clips: Sequence[Clip], machine_type: str) -> None:
    sections = {
        split: {clip.section for clip in clips if clip.split == split}
        for split in ("train", "test")
    }
    if not sections["test"]:
        LOGGER.warning("%s: no test clips, so nothing will be judged", machine_type)
    elif unseen := sorted(sections["test"] - sections["train"]):
        LOGGER.warning("%s: sections only in test: %s", machine_type, ", ".join(unseen))
