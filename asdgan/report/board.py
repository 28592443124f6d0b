"""The leaderboard: `asdgan board [SWEEP or FOLDER]` lists results, best first.

`points` says what counts, `ranking` which lines there are; here they are printed and written.
What speaks against a number stands beside it: machine types that are missing or undefined, means
below 0.5, settings that test labels chose, flags of the run, points that failed, results that do
not verify. `compare` adds how sure the lines are, and says whether two of them differ.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asdgan._system.console import Parser, answer, bars, printable, sheet
from asdgan._system.files import as_csv, write_whole
from asdgan.errors import BadInput
from asdgan.report import selection, significance, split_half
from asdgan.report.formats import in_markdown
from asdgan.results import intervals, ledger, metrics, points, ranking
from asdgan.results.choose import Source
from asdgan.results.failures import Failure, failures_in
from asdgan.results.points import said
from asdgan.results.ranking import LOW, PLAIN, WEIGHTED, Line, area_said

HIDDEN = {"release", "types", "missing", "undefined", "auc_sd", "pauc_sd", "pauc_mean"}
HIDDEN |= {"split_half_sd", "label_free_signatures", *significance.ENDS}
HEADINGS = {
    "machine_type": "machine type",
    "machine_types": "machine types",
    "chosen_among": "chosen among",
    "auc": "AUC",
    "pauc": "pAUC",
    "auc_interval": f"AUC {significance.SURE}",
    "pauc_interval": f"pAUC {significance.SURE}",
    "auc_mean": "mean AUC",
    "per_id": "per id",
    "in_halves": "in halves",
    "split_half": "split half",
    "gap_split_half": "half gap",
    "label_free": "label-free",
    "gap_label_free": "free gap",
    "label_free_by": "label-free by",
    "signatures": "signature",
    "commits": "commit",
}
MEANING = {
    "settings": ": AUC and pAUC weighted by test clips",
    "machine_type": "",
    "point": "",
    "best": ": best settings per machine type by {}; oracle: test labels chose among several",
    selection.VIEW: ": what the best settings by {} owe to the choice",
}
SHOWN = 10  # lines of the board at the end of a sweep
REASONS = 8  # kinds of failure that are printed


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the board; gives the exit code, 2 for what the user can mend."""
    return answer("asdgan board", lambda: _board(_arguments(argv)))


def show_sweep(runs: Path, points: Collection[str]) -> None:
    """Prints the best lines among some points, for the end of a sweep.

    Args:
        runs: The folder of results.
        points: Signatures of the points that count.
    """
    failures, _ = failures_in(runs)
    results = (found for _, found in ledger.each(runs) if not isinstance(found, str))
    show(results, failures, wanted=points, top=SHOWN)


def show(
    results: Iterable[ledger.Result],
    failures: Iterable[Failure] = (),
    *,
    by: str = "settings",
    sort: str = "auc",
    where: Sequence[str] = (),
    score: str | None = None,
    pooled: bool = False,
    top: int = 50,
    wanted: Collection[str] | None = None,
    refused: Sequence[tuple[Path, str]] = (),
    csv_file: Path | None = None,
    markdown_file: Path | None = None,
    sure: Callable[[Sequence[Line]], str] | None = None,
    console: Console | None = None,
) -> int:
    """Prints a board of results that were read already; gives how many points have one.

    Args:
        results: Let go one by one, so that a generator costs little memory.
        failures: Of points, some of which may have a result by now.
        by: One of `ranking.VIEWS`, or `selection.VIEW`, which reads the clip scores too.
        sort: Best first by this area.
        where: Conditions KEY=VALUE that all must hold.
        score: The component score that judges; each point's primary where it is None.
        pooled: Points are judged by all clips of their machine type at once, not by section.
        top: Best ranks printed; all where it is 0.
        wanted: Signatures of a sweep's points, the only ones that count; None for all.
        refused: Files that are no result or no failure, with the reason; looked at last.
        csv_file: Written with all lines.
        markdown_file: Written with all lines.
        sure: Adds `compare.ENDS` to lines that are printed, and says of what.
        console: Printed to; the terminal where it is None.

    Raises:
        BadInput: A condition is no KEY=VALUE, or no result knows its key, or none has the score.
        OSError: A file cannot be written.
    """
    console = console or sheet()

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style))  # Text: what rows say is never markup

    noted = split_half.Noted()
    passing = noted.passing(results) if by == selection.VIEW else results
    gathered = points.gather(passing, where=where, wanted=wanted, score=score, pooled=pooled)
    failed = points.lacking(failures, gathered.done, where=where, wanted=wanted)
    if gathered.done and not gathered.points:
        say(f"none of {len(gathered.done)} points has {' and '.join(where)}")
    varying, shared = ranking.factored(gathered)
    if by == selection.VIEW:
        with bars(True) as bar:
            on_points = bar("clip scores", len(gathered.points)).advance
            tables = selection.lines(gathered, noted, area=sort, on_points=on_points)
        shared += selection.MEANING
    else:
        tables = ranking.ranked(gathered, by=by, area=sort, varying=varying)
    if sure:
        every = [line for lines in tables.values() for line in lines]
        for line in every:
            line |= dict.fromkeys(significance.ENDS)
        shared.append(sure([line for line in every if line["rank"] <= top or top <= 0]))
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
    parser = Parser("asdgan board", description="Results, best first.")
    add = parser.add_argument
    add(
        "place",
        nargs="?",
        metavar="SWEEP or FOLDER",
        help="a sweep by its name or folder, or a folder searched for results (default: outputs)",
    )
    add(
        "--by",
        choices=(*ranking.VIEWS, selection.VIEW),
        default="settings",
        help="a line for each detector setting over machine types, for each machine type over "
        "seeds, for each point, for the best settings of each machine type, or for what those "
        "owe to the choice",
    )
    add("--sort", choices=metrics.AREAS, default="auc", help="best first by this area")
    points.add_where(parser)
    add(
        "--score",
        metavar="NAME",
        help="judge by this component score (latent, recon_l1, ...), not by each point's primary",
    )
    add(
        "--pooled",
        action="store_true",
        help="areas over all clips of a machine type at once; else the mean over its sections",
    )
    add(
        "--intervals",
        action="store_true",
        help="how sure AUC and pAUC are: intervals beside the lines that are printed, over clips, "
        "and over seeds where a line has several",
    )
    add(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="whether two lines differ on the clips that both scored, by machine type and over "
        f"all. Each is {significance.GRAMMAR}; --by says which lines there are",
    )
    draws = f"of clips, for intervals and comparisons ({intervals.DRAWS})"
    add("--draws", type=int, default=intervals.DRAWS, metavar="N", help=draws)
    add("--top", type=int, default=50, metavar="N", help="best ranks printed (50; 0: all)")
    add("--csv", type=Path, metavar="F", help="write all lines there as CSV")
    add("--markdown", type=Path, metavar="F", help="write all lines there as Markdown tables")
    return parser.parse_args(argv)


def _board(chosen: argparse.Namespace) -> None:
    folder, wanted = points.place(chosen.place)
    source = Source(folder)
    if chosen.draws < 2:
        raise BadInput(f"--draws {chosen.draws}: a spread needs 2 at least, and 1000 are usual")
    if chosen.by == selection.VIEW and (chosen.intervals or chosen.compare):
        raise BadInput(f"--by {selection.VIEW} takes neither --intervals nor --compare")
    other = f"--score {chosen.score}" if chosen.score else "--pooled" if chosen.pooled else ""
    if other and (chosen.by == selection.VIEW or chosen.intervals or chosen.compare):
        raise BadInput(
            f"{other}: --intervals, --compare and --by {selection.VIEW} speak of each point's "
            "primary score only, section by section"
        )
    if chosen.score and chosen.pooled:
        raise BadInput(f"--pooled judges each point's primary score; leave out {other}")
    if chosen.compare:
        _compare(chosen, source, wanted)
        return
    # Failures first: a point that is mended meanwhile has a result, and is no failure.
    failures, refused = failures_in(folder)
    done = show(
        _results(folder, refused),
        failures,
        by=chosen.by,
        sort=chosen.sort,
        where=chosen.where,
        score=chosen.score,
        pooled=chosen.pooled,
        top=chosen.top,
        wanted=wanted,
        refused=refused,
        csv_file=chosen.csv,
        markdown_file=chosen.markdown,
        sure=(lambda lines: significance.add_intervals(lines, source, chosen.draws))
        if chosen.intervals
        else None,
    )
    if not done and not failures and not refused and wanted is None:
        print(f"no results under {printable(str(folder))}; make a first one: ", end="")
        print("python -m asdgan.run model=ganomaly")


def _compare(chosen: argparse.Namespace, source: Source, wanted: Collection[str] | None) -> None:
    if chosen.markdown or chosen.intervals:
        raise BadInput("--compare takes neither --intervals nor --markdown; --csv F it takes")
    lines = significance.compare(
        source,
        chosen.compare,
        by=chosen.by,
        draws=chosen.draws,
        where=chosen.where,
        wanted=wanted,
        console=sheet(),
    )
    if chosen.csv:
        write_whole(chosen.csv, as_csv(lines))


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
    cells: dict[str, str] = {}
    for key in (key for key in line if key not in HIDDEN):
        cells[key] = said(line[key])
        if f"{key}_low" in line:
            cells[f"{key}_interval"] = significance.range_said(line, key)
    for area in metrics.AREAS:
        spread = line.get(f"{area}_sd")
        cells[area] = area_said(line[area]) + (f" ± {spread:.4f}" if spread is not None else "")
    for area in (*selection.AREAS, *selection.GAPS):
        if line.get(area) is not None:
            spread = line.get(f"{area}_sd")
            cells[area] = area_said(line[area]) + (f" ± {spread:.4f}" if spread else "")
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
    parts = [in_markdown(sentence) for sentence in shared]
    for title, lines in tables.items():
        rows = [_cells(line) for line in lines]
        head = [in_markdown(HEADINGS.get(key, key)) for key in rows[0]]
        body = [[in_markdown(text) for text in row.values()] for row in rows]
        block = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body]]
        parts += [f"## {in_markdown(title)}", "\n".join(block)]
    parts += ["\n".join(f"- {in_markdown(sentence)}" for sentence in failed)] if failed else []
    return ("\n\n".join(parts) + "\n").encode()


if __name__ == "__main__":
    raise SystemExit(main())
