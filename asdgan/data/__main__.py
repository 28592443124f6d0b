"""Releases on disk: `asdgan data fetch | verify | show RELEASE`.

`fetch` brings a release from its record (`fetch.py`), `show` counts what is there, `verify` reads
all of it (`audit.py`) and holds the organisers' label lists against each other. Exit codes: 0, 1
for something found wrong with the data, 2 for what the user can mend, 130 for Ctrl-C.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from asdgan._system.console import Parser, answer, bars, console, printable, sheet
from asdgan.data import audit, clips, folders, labels
from asdgan.data.clips import Choice, Clip
from asdgan.data.fetch import fetch
from asdgan.data.fetch.download import Patience
from asdgan.data.releases import GRAMMARS
from asdgan.errors import BadInput

DATA = "ASDGAN_DATA"  # the environment's name for the folder of all releases; `conf/dataset` too


def main(argv: Sequence[str] | None = None) -> int:
    """Fetches, verifies or shows a release; gives the exit code."""
    place: list[Path] = []
    found: list[int] = []

    def work() -> None:
        chosen = _arguments(argv)
        if chosen.release not in GRAMMARS:
            known = ", ".join(sorted(GRAMMARS))
            near = folders.nearest(chosen.release, GRAMMARS)
            raise BadInput(f"no release {chosen.release!r}; known: {known}{near}")
        root = chosen.root or Path(os.environ.get(DATA) or "data") / chosen.release
        place.append(root)
        words = {"fetch": _fetch, "verify": _verify, "show": _show}
        found.append(words[chosen.word](chosen, root))

    try:
        return answer("asdgan data", work) or found[0]
    except KeyboardInterrupt:
        there = fetch.kept(place[0]) if place else 0
        kept = f"; {fetch.gigabytes(there)} stay in {place[0]}/archives" if there else ""
        print(f"stopped{kept}; the same command goes on from there")
        return 130


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("asdgan data", description="Releases: fetch, verify, show.")
    words = parser.add_subparsers(dest="word", required=True, metavar="fetch | verify | show")
    shared = Parser(add_help=False)
    shared.add_argument("release", help="dcase2020 ... dcase2025, mimii, toyadmos, folder")
    shared.add_argument(
        "--root", type=Path, help=f"the data root (default: ${DATA} or data, and the release)"
    )
    shared.add_argument(
        "--machine", action="append", default=[], metavar="TYPE", help="only this; repeatable"
    )
    shared.add_argument(
        "--subset",
        metavar="NAME",
        help="dev, eval or all; for mimii 0_dB, 6_dB, --subset=-6_dB or all "
        "(fetch: the first of them, otherwise: all that are there)",
    )
    fetching = words.add_parser(
        "fetch", parents=[shared], help="download what is missing, verify and unpack it"
    )
    fetching.add_argument("--keep", action="store_true", help="keep archives after unpacking")
    fetching.add_argument(
        "--base",
        default=os.environ.get(fetch.BASE, fetch.ZENODO),
        metavar="URL",
        help=f"another server with the same records (${fetch.BASE}; default: {fetch.ZENODO})",
    )
    for word, does in (
        ("verify", "read every clip; hold it against what was fetched, and label lists against "
         "each other"),
        ("show", "count clips"),
    ):  # fmt: skip
        looking = words.add_parser(word, parents=[shared], help=does)
        looking.add_argument(
            "--truth", type=Path, metavar="PATH", help="the organisers' label lists"
        )
    return parser.parse_args(argv)


def _fetch(chosen: argparse.Namespace, root: Path) -> int:
    asked = fetch.wanted(chosen.release, chosen.subset, chosen.machine)
    with bars(True, fetch.gigabytes) as bar:
        fetch.fetch(
            chosen.release,
            root,
            asked,
            base=chosen.base.rstrip("/"),
            keep=chosen.keep,
            patience=Patience(),
            counter=lambda title, total: bar(title, total).advance,
            say=lambda sentence: console.print(escape(sentence)),
        )
    return 0


def _show(chosen: argparse.Namespace, root: Path) -> int:
    asked = _asked(chosen, root)
    counted = audit.counts(clip for one in asked for clip in _table(chosen, root, *one))
    table = Table(title=f"{chosen.release} in {root}", title_justify="left")
    for heading in ("subset", "machine type", "section", "domain", "split", "label"):
        table.add_column(heading)
    table.add_column("clips", justify="right")
    for group, count in counted.items():
        table.add_row(*map(escape, group), str(count))
    table.add_section()
    table.add_row("all", *[""] * 5, str(sum(counted.values())))
    sheet().print(table)
    return 0


def _verify(chosen: argparse.Namespace, root: Path) -> int:
    wrong = 0

    def say(where: str, report: audit.Report) -> None:
        nonlocal wrong
        wrong += len(report.wrong)
        for kind, sentences in (("wrong", report.wrong), ("note", report.noted)):
            for sentence in sentences:
                print(printable(f"{kind}: {where}{sentence}"))

    with bars(True) as bar:
        for subset, machine_type in _asked(chosen, root):
            where = f"{subset or 'all'} {machine_type}: "
            try:
                table = _table(chosen, root, subset, machine_type)
            except BadInput as error:  # the other machine types are looked at all the same
                say(where, audit.Report(wrong=[str(error)]))
                continue
            say(where, audit.audit(table, root, bar(f"{where}clips", len(table)).advance))
            split = ", ".join(f"{count} {name}" for name, count in _split(table).items())
            print(f"{where}{len(table)} clips read ({split})")
        manifests = fetch.manifests(root)
        lost = audit.installed(root, bar("fetched files", len(manifests)).advance)
    say("", audit.Report(wrong=lost))
    if manifests:
        print(f"{len(manifests)} archives held against what was fetched")
    if chosen.truth is not None:
        found = labels.lists(chosen.truth)
        for sentence in labels.disagreements(found):
            print(f"note: {sentence}")
        print(f"{len(found)} label lists held against each other")
    print(f"{wrong} wrong" if wrong else "nothing wrong")
    return 1 if wrong else 0


def _split(table: Sequence[Clip]) -> dict[str, int]:
    found: dict[str, int] = {}
    for clip in table:
        name = "train" if clip.split == "train" else f"test {clip.label}"
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), reverse=True))


def _asked(chosen: argparse.Namespace, root: Path) -> list[tuple[str | None, str]]:
    """Subset and machine type of all that is there, or of what was asked for.

    Raises:
        BadInput: Nothing of the release is there, or not what was asked for.
    """
    grammar = GRAMMARS[chosen.release]
    subsets: list[str | None] = list(grammar.homes) or [None]
    if chosen.subset is not None and (chosen.subset != "all" or "all" in subsets):
        subsets = [folders.subset_of(chosen.release, chosen.subset)]
    there: dict[str | None, dict[str, Path]] = {}
    seen: set[Path] = set()
    for subset in subsets if root.is_dir() else ():
        types = folders.types_in(root, grammar, subset or "")
        if not set(types.values()) <= seen:  # the root itself would be every subset
            there[subset] = types
            seen |= set(types.values())
    if not there:
        folders.machine_types(
            root, chosen.release, subsets[0]
        )  # its sentence says what is missing
    known = sorted({name for types in there.values() for name in types})
    for name in chosen.machine:
        if name not in known:
            raise BadInput(f"{root} has no machine type {name!r}; it has {', '.join(known)}")
    return [
        (subset, name)
        for subset, types in there.items()
        for name in sorted(types)
        if not chosen.machine or name in chosen.machine
    ]


def _table(
    chosen: argparse.Namespace, root: Path, subset: str | None, machine_type: str
) -> tuple[Clip, ...]:
    """The clips of one machine type in one subset."""
    # Training clips of both, for an evaluation set may come without its own; then only those of
    # this subset are kept.
    labelled = chosen.truth if subset == "eval" else None
    # Bad clips are told one by one, where clips are read.
    choice = Choice(subset=subset, truth=labelled, train="both", strict=False)
    table = clips.clip_table(root, chosen.release, machine_type, choice)
    return tuple(clip for clip in table if clip.subset == (subset or clip.subset))


if __name__ == "__main__":
    raise SystemExit(main())
