"""What is wrong with a data set that lies on a disk: every clip read, everything counted.

Nothing is assumed about how much there should be: what is there is counted, held against itself
(content, rates, durations), against what `fetch` installed, and against the organisers' lists.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from asdgan.data import folders, oddities
from asdgan.data.clips import Clip
from asdgan.data.fetch import fetch
from asdgan.data.wav import PCM, Format, read_wav, wav_format
from asdgan.errors import BadInput

SHOWN = 5  # names of a kind that are listed; the others are counted

Group = tuple[str, str, str, str, str, str]


@dataclass
class Report:
    """What an audit found.

    Attributes:
        wrong: Sentences about what no detector should be trained or judged on.
        noted: Sentences about what is odd, and may be so by design.
    """

    wrong: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)


def counts(clips: Iterable[Clip]) -> dict[Group, int]:
    """Clips by subset, machine type, section, domain, split and label, sorted."""
    found = Counter(
        (clip.subset, clip.machine_type, clip.section, clip.domain or "-", clip.split, clip.label)
        for clip in clips
    )
    return dict(sorted(found.items()))


def audit(clips: Sequence[Clip], root: Path, on_clip: Callable[[int], None]) -> Report:
    """Reads every clip of one machine type and subset.

    Found wrong: clips that cannot be read, that are the same in training and test, or the same
    under two labels. Noted: clips that are silent, clipped or beside zero, equal clips within a
    split, other lengths, rates and widths than most clips have, odd headers, sections that cannot
    be judged.

    Args:
        clips: Of one machine type and subset.
        root: The data root.
        on_clip: Told how many more were read.
    """
    report = Report()
    unread = []
    signs: dict[str, list[str]] = {"silent": [], "DC": [], "clipped": []}
    same: dict[bytes, list[Clip]] = defaultdict(list)
    formats: dict[Clip, Format] = {}
    for clip in clips:
        on_clip(1)
        try:
            folders.refuse_unfit(clip.path, root)
            found = wav_format(clip.path, channel=clip.channel)
            samples = read_wav(
                clip.path, sample_rate=found.rate, resample=False, channel=clip.channel
            )
        except BadInput as error:
            unread.append(str(error))
            continue
        formats[clip] = found
        same[sha256(samples.tobytes()).digest()].append(clip)
        if sign := oddities.sign(samples):
            signs[sign[0]].append(f"{sign[0]}: {clip.name}: {sign[1]}")
    report.wrong += _few([f"unreadable: {sentence}" for sentence in unread])
    for sentences in signs.values():
        report.noted += _few(sentences)
    _compare(report, [group for group in same.values() if len(group) > 1])
    report.noted += _lengths(formats) + _formats(formats)
    report.noted += _unjudged(clips)
    return report


def installed(root: Path, on_archive: Callable[[int], None]) -> list[str]:
    """What of the files that `fetch` installed is gone or has another content."""
    wrong = []
    for manifest in fetch.manifests(root):
        found = fetch.changed(manifest, root, contents=True)
        wrong += _few([f"not as it was fetched ({manifest.stem}): {name}" for name in found])
        on_archive(1)
    return wrong


def _compare(report: Report, groups: Iterable[Sequence[Clip]]) -> None:
    """Sentences for clips that have the same samples."""
    leaks, contradictions, copies = [], [], []
    for group in groups:
        names = " == ".join(clip.name for clip in group[:3])
        if len({clip.split for clip in group}) > 1:
            leaks.append(f"the same in training and test: {names}")
        elif len({clip.label for clip in group}) > 1:
            contradictions.append(f"the same under two labels: {names}")
        else:
            copies.append(f"the same twice: {names}")
    report.wrong += _few(leaks) + _few(contradictions)
    report.noted += _few(copies)


def _lengths(formats: dict[Clip, Format]) -> list[str]:
    """Sentences on clips that are not as long as most, or on how long they are."""
    seconds = {clip: found.samples / found.rate for clip, found in formats.items()}
    most = oddities.usual(list(seconds.values()))
    if most is None and seconds:
        shortest, longest = (end(seconds, key=lambda clip: seconds[clip]) for end in (min, max))
        return [
            f"no usual length: from {seconds[shortest]:.2f} s ({shortest.name}) to "
            f"{seconds[longest]:.2f} s ({longest.name})"
        ]
    return _few(
        [
            f"length: {clip.name}: {oddities.length_said(length, most)}"
            for clip, length in seconds.items()
            if most is not None and oddities.differs(length, most)
        ]
    )


def _formats(formats: dict[Clip, Format]) -> list[str]:
    """A sentence for each rate and width, where clips differ or are not 16 bits; and for notes."""
    alike: dict[str, list[Clip]] = defaultdict(list)
    notes = []
    for clip, found in formats.items():
        width = f"{found.bits}-bit {'PCM' if found.codec == PCM else 'float'}"
        alike[f"{width} at {found.rate} Hz"].append(clip)
        notes += [f"header: {clip.name}: {note}" for note in found.notes]
    usual = len(alike) < 2 and all(form.startswith("16-bit PCM") for form in alike)
    said = [
        f"format: {len(clips)} clips of {form}, {clips[0].name} first"
        for form, clips in sorted(alike.items(), key=lambda item: -len(item[1]))
    ]
    return _few(notes) + ([] if usual else _few(said))


def _unjudged(clips: Iterable[Clip]) -> list[str]:
    """A sentence for each section of which no AUC can be had."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        if clip.split == "test":
            labels[clip.section][clip.label] += 1
    return [
        f"section {section}: {found['normal']} normal, {found['anomaly']} anomalous, "
        f"{found['unknown']} unlabelled test clips, so it has no AUC"
        for section, found in sorted(labels.items())
        if not (found["normal"] and found["anomaly"])
    ]


def _few(sentences: Sequence[str]) -> list[str]:
    rest = len(sentences) - SHOWN
    if rest <= 0:
        return list(sentences)
    kind = sentences[0].partition(":")[0]
    return [*sentences[:SHOWN], f"{kind}: {rest} more"]
