"""Where each release keeps its clips, and how it spells their names: one small grammar each.

This is the only room that parses a file name. A grammar is the folders a release's machine types
and splits live in, and a function from a path to what the path says; what a name cannot say is
None, and what does not parse is refused by whoever asked. Sections and ids stay text, attributes
stay what the release wrote: pairs where it writes pairs, one opaque text where it does not.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

LABELS = {"normal": "normal", "anomaly": "anomaly", "anomalous": "anomaly", "abnormal": "anomaly"}
OPAQUE = "attributes"  # the key of attributes that are no pairs
NOTHING_SAID = "noAttribute"  # as the releases from 2024 on write where they keep them back


class Reading(NamedTuple):
    """What one path says; `label` is None where it is silent.

    `channel` is the microphone that the name speaks of, None where it speaks of none.
    """

    section: str
    label: str | None
    domain: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    channel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """Where a release keeps its clips, and how their names are read.

    Attributes:
        homes: For each subset, the first is the usual one, the folders below the root that may
            hold the machine types, tried in order. Empty: the root is itself the one machine type.
        train: Folders of training clips, as patterns below the machine type's.
        test: Folders of test clips, likewise; a machine type has any of them.
        expected: The form of a good name, for messages.
        read: From a path below the machine type's folder (`train/normal_id_00_00000000.wav`) to
            what it says, None if it does not parse.
        held_out: The release has no split of its own: of each section, as many normal clips as
            there are anomalies, the first by name and half of them at most, are for testing.
        channels: Microphones that each file holds; 1 for plain mono files.
        microphones: Microphones that have files of their own; 1 where names speak of none.
        renamed_wrongly: Machine types whose evaluation clips were renamed by a wrong list.
    """

    homes: Mapping[str, tuple[str, ...]]
    train: tuple[str, ...]
    test: tuple[str, ...]
    expected: str
    read: Callable[[str], Reading | None]
    held_out: bool = False
    channels: int = 1
    microphones: int = 1
    renamed_wrongly: frozenset[str] = frozenset()


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """The tail of a name as pairs (`vel_6_loc_A`), or as one text where it cannot be that."""
    words = text.split("_")
    if len(words) % 2:
        return () if text == NOTHING_SAID else _whole(text)
    return tuple(zip(words[::2], words[1::2], strict=True))


def _whole(text: str) -> tuple[tuple[str, str], ...]:
    """The tail of a name as one text (`0_g_25_mm_2000_mV_none`): nothing says what is a key."""
    return ((OPAQUE, text),)


def _by_pattern(
    *patterns: str, attributes: Callable[[str], tuple[tuple[str, str], ...]] = _whole
) -> Callable[[str], Reading | None]:
    """A reader for releases whose names are fixed.

    Args:
        patterns: With a group `section`, and maybe `label` (a word of `LABELS`), `domain`,
            `channel` and `rest`, which is attributes.
        attributes: Reads `rest`.
    """
    compiled = [re.compile(pattern + r"(?i:\.wav)", re.ASCII) for pattern in patterns]

    def read(path: str) -> Reading | None:
        match = next((found for one in compiled if (found := one.fullmatch(path))), None)
        if match is None:
            return None
        said = match.groupdict()
        label, rest, channel = said.get("label"), said.get("rest"), said.get("channel")
        return Reading(
            section=said["section"],
            label=LABELS[label.casefold()] if label else None,
            domain=said.get("domain"),
            attributes=attributes(rest) if rest else (),
            channel=int(channel) if channel else None,
        )

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


# `raw` is where the organisers' download scripts unpack the releases from 2023 on.
_CHALLENGE = MappingProxyType(
    {
        "dev": ("dev_data", "dev_data/raw", "."),
        "eval": ("eval_data", "eval_data/raw", "."),
    }
)
_SECTION = r"section_(?P<section>[0-9]{2})"

_DCASE_2020 = Grammar(
    homes=_CHALLENGE,
    train=("train",),
    test=("test",),
    expected="'train/normal_id_00_00000000.wav', 'test/anomaly_id_00_00000000.wav' or, in an "
    "evaluation set, 'test/id_01_00000000.wav'",
    read=_by_pattern(
        r"train/(?P<label>normal|anomaly)_id_(?P<section>[0-9]{2})_[0-9]{8}",
        r"test/(?:(?P<label>normal|anomaly)_)?id_(?P<section>[0-9]{2})_[0-9]{8}",
    ),
)

# Domains lie in folders of their own, and attributes are free text.
_DCASE_2021 = Grammar(
    homes=_CHALLENGE,
    train=("train",),
    test=("source_test", "target_test"),
    expected="'train/section_00_source_train_normal_0000_strength_1_ambient.wav', "
    "'source_test/section_00_source_test_anomaly_0000.wav' or, in an evaluation set, "
    "'target_test/section_03_target_test_0000.wav'",
    read=_by_pattern(
        rf"train/{_SECTION}_(?P<domain>source|target)_train_(?P<label>normal|anomaly)"
        r"_[0-9]{4}(?:_(?P<rest>[^/]+))?",
        rf"(?P<domain>source|target)_test/{_SECTION}_(?P=domain)_test"
        r"(?:_(?P<label>normal|anomaly))?_[0-9]{4}(?:_(?P<rest>[^/]+))?",
    ),
)


def _since_2022(*, example: str, renamed_wrongly: frozenset[str] = frozenset()) -> Grammar:
    """The grammar of the releases from 2022 on, where the domain of a test clip may be hidden.

    The evaluation names come in two forms, with and without the word `test`.
    """
    return Grammar(
        homes=_CHALLENGE,
        train=("train",),
        test=("test",),
        expected=f"'train/section_00_source_train_normal_0000_{example}.wav', "
        f"'test/section_00_target_test_anomaly_0000_{example}.wav' or, in an evaluation set, "
        "'test/section_00_0000.wav' or 'test/section_00_test_0000.wav'",
        read=_by_pattern(
            rf"train/{_SECTION}_(?P<domain>source|target)_train_(?P<label>normal|anomaly)"
            r"_[0-9]{4}(?:_(?P<rest>[^/]+))?",
            rf"test/{_SECTION}_(?P<domain>source|target)_test_(?P<label>normal|anomaly)"
            r"_[0-9]{4}(?:_(?P<rest>[^/]+))?",
            rf"test/{_SECTION}(?:_test)?_[0-9]{{4}}",
            attributes=_pairs,
        ),
        renamed_wrongly=renamed_wrongly,
    )


GRAMMARS: Mapping[str, Grammar] = MappingProxyType(
    {
        "dcase2020": _DCASE_2020,
        "dcase2021": _DCASE_2021,
        # The list that goes with the baseline names other labels than the organisers' evaluator
        # for about half of the evaluation clips of two types, and other domains too.
        "dcase2022": _since_2022(
            example="vel_6_loc_A", renamed_wrongly=frozenset({"ToyCar", "ToyTrain"})
        ),
        "dcase2023": _since_2022(example="pat_00"),
        "dcase2024": _since_2022(example="noAttribute"),
        "dcase2025": _since_2022(example="noAttribute"),
        # One folder for each ratio of signal to noise; as archives name it, or as scripts do.
        "mimii": Grammar(
            homes=MappingProxyType(
                {
                    "0_dB": ("0_dB", "0dB"),
                    "6_dB": ("6_dB", "6dB"),
                    "-6_dB": ("-6_dB", "-6dB", "min6dB"),
                }
            ),
            train=("id_[0-9][0-9]/normal",),
            test=("id_[0-9][0-9]/abnormal",),
            expected="'id_00/normal/00000000.wav' or 'id_00/abnormal/00000000.wav'",
            read=_by_pattern(r"id_(?P<section>[0-9]{2})/(?P<label>normal|abnormal)/[0-9]{8}"),
            held_out=True,
            channels=8,
        ),
        # Only the sounds of single operations: the continuous ones (CNT) last for minutes, and
        # the noise of the room is for mixing.
        "toyadmos": Grammar(
            homes=MappingProxyType({"all": (".",)}),
            train=("case[0-9]/NormalSound_IND",),
            test=("case[0-9]/AnomalousSound_IND",),
            expected="'case1/NormalSound_IND/1100010001_ToyCar_case1_normal_IND_ch1_0001.wav' or "
            "'case1/AnomalousSound_IND/1101010001_ToyCar_case1_ab01_IND_ch1_0001.wav'",
            read=_by_pattern(
                # The kind of damage (ab01) is no attribute: a detector would see the label.
                r"case(?P<section>[0-9])/(?P<label>Normal)Sound_IND/[^/]*_case(?P=section)_"
                r"normal_IND_ch(?P<channel>[0-9])_[0-9]+",
                r"case(?P<section>[0-9])/(?P<label>Anomalous)Sound_IND/[^/]*_case(?P=section)_"
                r"ab[0-9]+_IND_ch(?P<channel>[0-9])_[0-9]+",
            ),
            held_out=True,
            microphones=4,
        ),
        "demo": _DCASE_2020,  # a name of its own: synthetic figures never share a table with real
        "folder": Grammar(
            homes=MappingProxyType({}),
            train=("train", "normal"),
            test=("test", "anomaly", "abnormal"),
            expected="a wav whose folder and name do not call it both normal and anomaly",
            read=_by_words,
        ),
    }
)
