"""Anybody's score files to the official numbers of their year: `asdgan judge 2022 DIR`.

`challenge` and `truth` read the files, `official` has the year's rule; here they meet, and the
numbers are printed with ten decimals, or written as JSON or as the organisers' result files are.
Every section of the truth must have its scores; all files that are missing are named together.
"""

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from asdgan._system.console import Parser, answer, printable, sheet
from asdgan._system.files import write_whole
from asdgan.errors import BadInput
from asdgan.results.challenge import official, score_files
from asdgan.results.challenge.ground_truth import Truth, aligned, truth_by_names, truth_of
from asdgan.results.challenge.official import Report, Section
from asdgan.results.challenge.score_files import DECISIONS, SCORES, Place

EVERYWHERE = "all machine types"
MEANT = {
    2021: "harmonic mean of every AUC and pAUC",
    **dict.fromkeys(range(2022, 2026), "harmonic mean of every AUC (source), AUC (target), pAUC"),
}
NAMED = 6  # of files that need not be there


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what scores are worth; gives the exit code, 2 for what the user can mend."""
    return answer("asdgan judge", lambda: _judge(_arguments(argv)))


def judged(year: int, folder: Path, truth: Path | None = None, *, partial: bool = False) -> Report:
    """The official numbers of a submission.

    Args:
        year: 2020 to 2025.
        folder: Holds `anomaly_score_*.csv`, and maybe `decision_result_*.csv`.
        truth: As for `truth.truth_of`; None where the clip names themselves say it.
        partial: Sections without scores are left out and noted, not refused.

    Returns:
        As the year's function in `official`, with `year` and `notes`.

    Raises:
        BadInput: A file is missing, or is not what it should be.
    """
    files, strays = _files(folder, SCORES, year)
    decisions, _ = score_files.listed(folder, DECISIONS, year)
    if truth is None:
        known = truth_by_names(files, year)
    else:
        known = truth_of(truth, year, files)
    expected = {place: score_files.file_name(SCORES, year, place) for place in known}
    missing = [name for place, name in expected.items() if place not in files]
    extra = [path.name for place, path in files.items() if place not in known]
    if len(missing) == len(expected):
        raise BadInput(
            f"{folder} has no scores for any section of the ground truth in {truth}: it wants "
            f"{_names(missing)}, and there are {_names(extra)}; is it the truth of another year, "
            "or of another set?"
        )
    if missing and not partial:
        beside = f" ({_names(extra)} there has no ground truth)" if extra else ""
        raise BadInput(
            f"{folder} lacks {len(missing)} of {len(expected)} score files for the ground truth "
            f"in {truth}: {', '.join(missing)}{beside}; add them, or judge the others by --partial"
        )
    places = [place for place in known if place in files]
    lack = [place for place in places if place not in decisions]
    notes = []
    if missing:
        notes.append(
            f"judged: {len(places)} of {len(expected)} files; missing: {', '.join(missing)}"
        )
    if extra or strays:
        notes.append(f"not judged, no ground truth for it: {_names([*extra, *strays])}")
    if lack and decisions and year != 2020:
        absent = [score_files.file_name(DECISIONS, year, place) for place in lack]
        notes.append(f"no precision, recall and F1: {', '.join(absent)} missing")
    given = {} if lack or year == 2020 else decisions
    report = official.OFFICIAL[year](_sections(places, files, given, known))
    return {"year": year, **report, "notes": notes}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "asdgan judge",
        description="Official DCASE Task 2 numbers of a folder of anomaly_score_*.csv files.",
    )
    add = parser.add_argument
    add("year", type=int, choices=sorted(official.OFFICIAL), help="of the challenge")
    add("scores", type=Path, metavar="SCORES_DIR", help="folder of the score files")
    add(
        "--truth",
        type=Path,
        metavar="TRUTH_DIR",
        help="ground truth as the year's evaluator has it, or a list of original names; "
        "without it the clip names must say their labels, as in a development set",
    )
    add("--partial", action="store_true", help="judge the sections that have scores")
    add("--json", type=Path, metavar="F", help="write all numbers there")
    add("--csv", type=Path, metavar="F", help="write them as the organisers' result files")
    return parser.parse_args(argv)


def _judge(chosen: argparse.Namespace) -> None:
    report = judged(chosen.year, chosen.scores, chosen.truth, partial=chosen.partial)
    _print(report)
    if chosen.json:
        write_whole(chosen.json, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    if chosen.csv:
        write_whole(chosen.csv, _csv(report))


def _files(folder: Path, kind: str, year: int) -> tuple[dict[Place, Path], list[str]]:
    """The score files of a folder; some at least."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; name the one that holds {kind}_*.csv")
    files, strays = score_files.listed(folder, kind, year)
    if files:
        return files, strays
    if fits := score_files.other_year(strays, kind):
        later = " or later" if fits == 2022 else ""
        raise BadInput(
            f"{folder}: {strays[0]} is a name of {fits}{later}, not of {year}; judge that year"
        )
    below = [inner for inner in sorted(folder.iterdir()) if any(inner.glob(f"{kind}_*.csv"))]
    wanted = score_files.file_name(kind, year, Place("fan", "00", "source"))
    hint = f"did you mean {below[0]}?" if below else f"{year} calls them like {wanted}"
    raise BadInput(f"{folder} holds no {kind}_*.csv of {year}; {hint}")


def _sections(
    places: Sequence[Place],
    files: Mapping[Place, Path],
    decisions: Mapping[Place, Path],
    known: Mapping[Place, Truth],
) -> list[Section]:
    """What was said and what was true, section by section; the domains of 2021 put together."""
    parts: dict[tuple[str, str], list[Section]] = {}
    for place in places:
        truth = known[place]
        scores = aligned(files[place], truth, "anomaly score", score_files.score)
        decided = None
        if place in decisions:
            what = "decision (0 or 1)"
            decided = aligned(decisions[place], truth, what, score_files.zero_or_one) == 1
        one = Section(
            place.machine_type, place.section, scores, truth.anomalous, truth.target, decided
        )
        parts.setdefault((place.machine_type, place.section), []).append(one)
    return [_together(some) for some in parts.values()]


def _together(parts: Sequence[Section]) -> Section:
    def whole(name: str) -> Any:  # noqa: ANN401 - an array, or None
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    names = ("scores", "anomalous", "target", "decided")
    return Section(parts[0].machine_type, parts[0].section, *map(whole, names))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# What is printed and written --------------------------------------------------------------------


def figure(value: Any) -> str:  # noqa: ANN401 - a number, a word or None
    """A number with ten decimals."""
    if value is None:
        return "undefined"
    return f"{value:.10f}" if isinstance(value, float) else str(value)


def _print(report: Report) -> None:
    console = sheet(folded=False)  # half of a number in the next line is no number
    lines = [
        {"machine type": name, **line}
        for name, machine in report["machines"].items()
        for line in machine["sections"]
    ]
    means = [
        {"machine type": name, "mean": title, **values}
        for name, machine in [*report["machines"].items(), (EVERYWHERE, _overall(report))]
        for title, values in machine["means"].items()
    ]
    for table in (lines, means):
        console.print(_table(table))
        console.print()
    for sentence in (*report["notes"], *report["undefined"]):
        console.print(Text(printable(sentence), style="yellow"), soft_wrap=True)
    year = report["year"]
    if year == 2020:
        said = "2020 has no official score: teams were ranked by these averages in each type"
    else:
        score = figure(report["overall"][official.SCORE])
        said = f"official score {year}: {score} ({MEANT[year]})"
    console.print(Text(said, style="bold"), soft_wrap=True)


def _overall(report: Report) -> dict[str, Any]:
    return {"means": {k: v for k, v in report["overall"].items() if isinstance(v, dict)}}


def _table(lines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, value in lines[0].items():
        justify = "left" if isinstance(value, str) else "right"
        table.add_column(key, justify=justify, overflow="fold")
    before = None
    for line in lines:
        name = line["machine type"]
        cells = [name if name != before else "", *map(figure, list(line.values())[1:])]
        table.add_row(*(Text(printable(cell)) for cell in cells))
        before = name
    return table


def _csv(report: Report) -> bytes:
    """The numbers as the year's evaluator lays them out; what is undefined stays empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    year = report["year"]
    for name, machine in report["machines"].items():
        writer.writerow([name])
        writer.writerow(machine["sections"][0])
        writer.writerows(line.values() for line in machine["sections"])
        if year >= 2022:
            writer.writerow(["", "", *machine["means"]["arithmetic mean"]])
        pad = [] if year == 2020 else [""]
        for title, values in machine["means"].items():
            writer.writerow([title, *pad, *values.values()])
        writer.writerow([])
    if year > 2020:
        overall = _overall(report)["means"]
        writer.writerow(["", "", *overall["arithmetic mean"]])
        for title, values in overall.items():
            whole = f"{title} over all machine types, sections, and domains"
            writer.writerow([whole, "", *values.values()])
        writer.writerow([])
        writer.writerow([official.SCORE, "", report["overall"][official.SCORE]])
    return stream.getvalue().encode()


if __name__ == "__main__":
    raise SystemExit(main())
