"""The leaderboard: `python -m asdgan.board [SWEEP or FOLDER]` lists results, best first.

`points` says what counts, `ranking` which lines there are; here they are printed and written.
What speaks against a number stands beside it: machine types that are missing or undefined, means
below 0.5, settings that test labels chose, flags of the run, points that failed, results that do
not verify.
"""

import argparse
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asdgan import ledger, metrics, points, ranking
from asdgan.files import as_csv, write_whole
from asdgan.points import said
from asdgan.ranking import LOW, PLAIN, WEIGHTED, Line, area_said
from asdgan.terminal import Parser, answer, printable, sheet

HIDDEN = {"release", "types", "missing", "undefined", "auc_sd", "pauc_sd", "pauc_mean"}
HEADINGS = {
    "machine_type": "machine type",
    "machine_types": "machine types",
    "chosen_among": "chosen among",
    "auc": "AUC",
    "pauc": "pAUC",
    "auc_mean": "mean AUC",
    "per_id": "per id",
    "signatures": "signature",
    "commits": "commit",
}
MEANING = {
    "settings": ": AUC and pAUC weighted by test clips",
    "machine_type": "",
    "point": "",
    "best": ": best settings per machine type by {}; oracle: test labels chose among several",
}
REASONS = 8  # kinds of failure that are printed


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the board; gives the exit code, 2 for what the user can mend."""
    return answer("asdgan.board", lambda: _board(_arguments(argv)))


def show(
    results: Iterable[ledger.Result],
    failures: Iterable[ledger.Failure] = (),
    *,
    by: str = "settings",
    sort: str = "auc",
    where: Sequence[str] = (),
    score: str | None = None,
    top: int = 50,
    wanted: Collection[str] | None = None,
    refused: Sequence[tuple[Path, str]] = (),
    csv_file: Path | None = None,
    markdown_file: Path | None = None,
    console: Console | None = None,
) -> int:
    """Prints a board of results that were read already; gives how many points have one.

    Args:
        results: Let go one by one, so that a generator costs little memory.
        failures: Of points, some of which may have a result by now.
        by: One of `ranking.VIEWS`.
        sort: Best first by this area.
        where: Conditions KEY=VALUE that all must hold.
        score: The component score that judges; each point's primary where it is None.
        top: Best ranks printed; all where it is 0.
        wanted: Signatures of a sweep's points, the only ones that count; None for all.
        refused: Files that are no result or no failure, with the reason; looked at last.
        csv_file: Written with all lines.
        markdown_file: Written with all lines.
        console: Printed to; the terminal where it is None.

    Raises:
        BadInput: A condition is no KEY=VALUE, or no result knows its key, or none has the score.
        OSError: A file cannot be written.
    """
    console = console or sheet()

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style))  # Text: what rows say is never markup

    gathered = points.gather(results, where=where, wanted=wanted, score=score)
    failed = points.lacking(failures, gathered.done, where=where, wanted=wanted)
    if gathered.done and not gathered.points:
        say(f"none of {len(gathered.done)} points has {' and '.join(where)}")
    varying, shared = ranking.factored(gathered)
    tables = ranking.ranked(gathered, by=by, area=sort, varying=varying)
    for sentence in shared:
        say(sentence, "dim")
    for release, lines in tables.items():
        say(_title(release, by, sort), "bold")
        shown = [line for line in lines if line["rank"] <= top or top <= 0]
        console.print(_table(shown))
        if rest := [line for line in lines if line["rank"] > top > 0]:
            low = sum(LOW in line["notes"] for line in rest)
            say(f"{len(rest)} more lines, {low} of them {LOW}: --top 0 prints them all")
    if gathered.again:
        say(f"{gathered.again} rows repeat a point of another result and are not counted")
    if wanted is not None:
        lost = f", {failed.total()} failed" if failed else ""
        say(f"{len(gathered.done)} of {len(wanted)} points done{lost}")
    for sentence in _failed(failed):
        say(sentence, "red")
    for path, why in refused:
        say(f"not counted: {path}: {why}", "red")
    if csv_file:
        write_whole(csv_file, as_csv([line for lines in tables.values() for line in lines]))
    if markdown_file:
        titled = {_title(release, by, sort): lines for release, lines in tables.items()}
        write_whole(markdown_file, _markdown(titled, shared, _failed(failed)))
    return len(gathered.done)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("python -m asdgan.board", description="Results, best first.")
    add = parser.add_argument
    add(
        "place",
        nargs="?",
        metavar="SWEEP or FOLDER",
        help="a sweep by its name or folder, or a folder searched for results (default: outputs)",
    )
    add(
        "--by",
        choices=ranking.VIEWS,
        default="settings",
        help="a line for each detector setting over machine types, for each machine type over "
        "seeds, for each point, or for the best settings of each machine type",
    )
    add("--sort", choices=metrics.AREAS, default="auc", help="best first by this area")
    points.add_where(parser)
    add(
        "--score",
        metavar="NAME",
        help="judge by this component score (latent, recon_l1, ...), not by each point's primary",
    )
    add("--top", type=int, default=50, metavar="N", help="best ranks printed (50; 0: all)")
    add("--csv", type=Path, metavar="F", help="write all lines there as CSV")
    add("--markdown", type=Path, metavar="F", help="write all lines there as Markdown tables")
    return parser.parse_args(argv)


def _board(chosen: argparse.Namespace) -> None:
    folder, wanted = points.place(chosen.place)
    # Failures first: a point that is mended meanwhile has a result, and is no failure.
    failures, refused = ledger.failures(folder)
    done = show(
        _results(folder, refused),
        failures,
        by=chosen.by,
        sort=chosen.sort,
        where=chosen.where,
        score=chosen.score,
        top=chosen.top,
        wanted=wanted,
        refused=refused,
        csv_file=chosen.csv,
        markdown_file=chosen.markdown,
    )
    if not done and not failures and not refused and wanted is None:
        print(f"no results under {printable(str(folder))}; make a first one: ", end="")
        print("python -m asdgan.run model=ganomaly")


def _results(folder: Path, refused: list[tuple[Path, str]]) -> Iterator[ledger.Result]:
    """The results of a folder one by one; what is none is added to `refused`."""
    for path, found in ledger.each(folder):
        if isinstance(found, ledger.Result):
            yield found
        else:
            refused.append((path, found))


def _title(release: str, by: str, area: str) -> str:
    return release + MEANING[by].format(HEADINGS[area])


def _failed(counts: Counter[tuple[str, str, str, str]]) -> list[str]:
    """A sentence for each reason why points failed, the most frequent first."""
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    sentences = [
        f"failed: {count} {'point' if count == 1 else 'points'} of {model} on {machine_type}: "
        f"{kind}: {reason}"
        for (model, machine_type, kind, reason), count in listed[:REASONS]
    ]
    if rest := listed[REASONS:]:
        more = sum(count for _, count in rest)
        sentences.append(f"failed: {more} more points, for {len(rest)} other reasons")
    return sentences


def _cells(line: Line) -> dict[str, str]:
    """A line as a person wants it: numbers with their spread, long lists counted."""
    cells = {key: said(value) for key, value in line.items() if key not in HIDDEN}
    for area in metrics.AREAS:
        spread = line.get(f"{area}_sd")
        cells[area] = area_said(line[area]) + (f" ± {spread:.4f}" if spread is not None else "")
    if "types" in line:
        cells["auc_mean"] = area_said(line["auc_mean"])
        seen = line["types"] + len(line["missing"].split())
        if line["types"] > 2 or seen > line["types"]:
            cells["machine_types"] = (
                f"{line['types']} of {seen} types" if line["missing"] else f"{seen} types"
            )
    names, commits = line["signatures"].split(), line["commits"].split()
    cells["signatures"] = names[0][:8] + (f" +{len(names) - 1}" if len(names) > 1 else "")
    cells["commits"] = commits[0] if len(commits) == 1 else f"{len(commits)} commits"
    return cells


def _table(lines: list[Line]) -> Table:
    rows = [_cells(line) for line in lines]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in rows[0]:
        number = isinstance(lines[0].get(key), int | float)
        heading = Text(printable(HEADINGS.get(key, key)))
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for line, row in zip(lines, rows, strict=True):
        mean = "bold" if line.get("machine_type") in (WEIGHTED, PLAIN) else None
        style = "yellow" if LOW in line["notes"] else mean
        table.add_row(*(Text(printable(text)) for text in row.values()), style=style)
    return table


def _markdown(tables: dict[str, list[Line]], shared: list[str], failed: list[str]) -> bytes:
    """A table a release, under the settings that are no column and above what failed."""
    parts = [_escaped(sentence) for sentence in shared]
    for title, lines in tables.items():
        rows = [_cells(line) for line in lines]
        head = [_escaped(HEADINGS.get(key, key)) for key in rows[0]]
        body = [[_escaped(text) for text in row.values()] for row in rows]
        block = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body]]
        parts += [f"## {_escaped(title)}", "\n".join(block)]
    parts += ["\n".join(f"- {_escaped(sentence)}" for sentence in failed)] if failed else []
    return ("\n\n".join(parts) + "\n").encode()


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: it ends no cell, and is neither markup nor HTML."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in r"\|`*[]" else sign for sign in text)


if __name__ == "__main__":
    raise SystemExit(main())
