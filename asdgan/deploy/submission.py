"""A result as the challenge's own CSV files: `asdgan submission SWEEP --year 2022 DIR`.

One point of each machine type is submitted: the only one, the one that `--where` leaves, or the
one that `--choose` takes, which says by what. Its test scores become `anomaly_score_*.csv`; from
2021 on they become decisions too, by a threshold fitted to the scores of its training clips, as
the baselines do it. `submission.json` beside them says what was submitted and how it was chosen.
"""

import argparse
import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from asdgan._system.console import Parser, answer, printable, sheet
from asdgan._system.files import write_json, write_whole
from asdgan.data.labels import said_by
from asdgan.errors import BadInput, Damaged
from asdgan.results import choose, ledger
from asdgan.results.challenge.score_files import DECISIONS, SCORES, Place, file_name, stem
from asdgan.results.choose import Choice, Stored
from asdgan.results.points import said
from asdgan.results.threshold import FITS, Threshold, add_quantile, refuse_quantile, threshold

YEARS = range(2020, 2026)
RECORD = "submission.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Writes a submission; gives the exit code, 2 for what the user can mend."""
    return answer("asdgan submission", lambda: _submit(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "asdgan submission",
        description="The challenge's own CSV files of a result.",
    )
    add = parser.add_argument
    add(
        "place",
        metavar="RUN_OR_SWEEP",
        help="a sweep by its name or folder, a folder of results, or one result's JSON",
    )
    add("--year", type=int, choices=YEARS, required=True, help="of the challenge")
    add("outdir", type=Path, metavar="OUTDIR", help="where the files go; made as needed")
    choose.add_options(parser)
    add(
        "--decision",
        choices=FITS,
        help="how the threshold is fitted to the scores of training clips (gamma); none: no "
        "decision files; 2020 has none",
    )
    add_quantile(parser)
    return parser.parse_args(argv)


def _submit(chosen: argparse.Namespace) -> None:
    refuse_quantile(chosen.quantile)
    fit = chosen.decision or ("none" if chosen.year == 2020 else "gamma")
    if chosen.year == 2020 and fit != "none":
        raise BadInput(f"--decision {fit}: the challenge of 2020 took no decisions; leave it out")
    files: dict[str, bytes] = {}
    record: list[dict[str, Any]] = []
    try:
        choices, notes = choose.chosen(chosen.place, chosen.where, chosen.choose)
        for name, one in sorted(choices.items()):
            own, limit = _files(name, one.stored, chosen.year, fit, chosen.quantile)
            files |= own
            record.append(_recorded(one, limit))
    except Damaged as error:
        raise BadInput(f"{error}; run that point again") from None
    _refuse_others(chosen.outdir, files)
    (chosen.outdir / RECORD).unlink(missing_ok=True)  # it comes last, and speaks for all files
    for name, data in files.items():
        write_whole(chosen.outdir / name, data)
    write_json(chosen.outdir / RECORD, {"year": chosen.year, "points": record})
    _print(record, files, notes, chosen)


# Files ------------------------------------------------------------------------------------------


def _files(
    name: str, one: Stored, year: int, fit: str, quantile: float
) -> tuple[dict[str, bytes], Threshold | None]:
    """The files of one machine type by their names, and the threshold of its decisions."""
    row, result, number = one
    of_year = re.fullmatch(r"dcase(20[0-9]{2})", row["release"])
    if of_year and int(of_year[1]) != year:
        raise BadInput(
            f"{result.path} is a result on {row['release']}, and --year is {year}; a submission "
            "scores the clips of its own year"
        )
    if "_" in name:
        raise BadInput(
            f"machine type {name!r} has an underscore, at which the organisers' evaluators end "
            "a machine type's name; rename its folder"
        )
    stored = ledger.read_scores(result)
    clips = stored["clip"].tolist()
    if not clips:
        raise BadInput(f"{result.path}: no test clips were scored on {name}; nothing to submit")
    lost = [one for one in row.get("left_out", ()) if one["split"] == "test"]
    if lost:
        raise BadInput(
            f"{result.path}: {len(lost)} bad test clips of {name} were left out and have no score "
            f"({lost[0]['clip']}: {lost[0]['why']}), and a submission lists every clip; mend them "
            "and run that point again"
        )
    renamed = next((clip for clip in clips if said_by(stem(clip))), None)
    if year < 2023 and row["settings"].get("dataset.subset") == "eval" and renamed:
        raise BadInput(
            f"{result.path}: clips of the evaluation set have original names ({renamed}), which "
            f"the organisers' evaluator of {year} would sort into another order than its truth; "
            "unpack them again under their own names, and run that again"
        )
    domains = stored["domain"].tolist() if "domain" in stored else [""] * len(clips)
    if year == 2021 and not set(domains) <= {"source", "target"}:
        raise BadInput(
            f"{result.path}: files of 2021 are named by domain, and clips of {row['release']} "
            "do not say theirs"
        )
    limit = None if fit == "none" else _limit(one, stored, fit, quantile)
    scores = stored[f"score/{row['primary']}"][number].tolist()
    by_place: dict[Place, list[tuple[str, float]]] = defaultdict(list)
    for clip, section, domain, score in zip(
        clips, stored["section"].tolist(), domains, scores, strict=True
    ):
        place = Place(name, section, domain if year == 2021 else "")
        by_place[place].append((clip.rpartition("/")[2], score))
    files = {}
    for place, rows in sorted(by_place.items()):
        rows.sort()
        doubled = [clip for clip, count in Counter(clip for clip, _ in rows).items() if count > 1]
        if doubled:
            raise BadInput(
                f"{result.path}: two clips of {name} are called {doubled[0]}, and a submission "
                "knows a clip by its name; rename one"
            )
        files[file_name(SCORES, year, place)] = _csv(rows)
        if limit is not None:
            decided = [(clip, int(score > limit.value)) for clip, score in rows]
            files[file_name(DECISIONS, year, place)] = _csv(decided)
    return files, limit


def _limit(one: Stored, stored: Mapping[str, Any], fit: str, quantile: float) -> Threshold:
    name, machine_type = f"train_score/{one.row['primary']}", one.row["machine_type"]
    if name not in stored:
        raise BadInput(
            f"{one.result.path} has no scores of training clips, so no threshold can be fitted "
            "(trainer.train_scores was false, or it is older than that); write the scores alone "
            "by --decision none"
        )
    try:
        return threshold(stored[name][one.number], fit, quantile)
    except ValueError as error:
        raise BadInput(
            f"{one.result.path}: no {fit} threshold for {machine_type}: {error}; try another "
            "--decision"
        ) from None


def _csv(rows: Sequence[tuple[str, float]]) -> bytes:
    """Rows without a heading; a number in as many digits as bring it back."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()


def _refuse_others(outdir: Path, files: Mapping[str, bytes]) -> None:
    """Files of another submission would be judged with this one."""
    there = [path.name for kind in (SCORES, DECISIONS) for path in outdir.glob(f"{kind}_*.csv")]
    others = sorted(set(there) - set(files))
    if others:
        raise BadInput(
            f"{outdir} holds {len(others)} files of another submission ({others[0]}); name an "
            "empty folder, or remove them"
        )


# What is said -----------------------------------------------------------------------------------


def _recorded(made: Choice, limit: Threshold | None) -> dict[str, Any]:
    row, result, _ = made.stored
    kept = ("machine_type", "signature", "model", "recipe", "release", "data", "seed", "epochs")
    selection = {**row["selection"], "settings": made.selection}
    return {
        **{key: row[key] for key in kept},
        "primary": row["primary"],
        "settings": row["settings"],
        "selection": selection,
        "chosen_by": made.by,
        "chosen_among": made.among,
        "result": result.path.name,
        "threshold": None
        if limit is None
        else {
            "fit": limit.fit,
            "quantile": limit.quantile,
            "value": limit.value,
            **limit.parameters,
        },
    }


def _print(
    record: Sequence[Mapping[str, Any]],
    files: Mapping[str, bytes],
    notes: Sequence[str],
    chosen: argparse.Namespace,
) -> None:
    console, table = sheet(), Table(box=None, pad_edge=False, header_style="bold")
    headings = ("machine type", "model", "epochs", "seed", "signature", "settings", "threshold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for one in record:
        how = one["selection"]["settings"]
        if one["chosen_by"]:
            how += f": best of {one['chosen_among']} by {one['chosen_by']}"
        limit = one["threshold"]
        cells = (
            *(said(one[key]) for key in ("machine_type", "model", "epochs", "seed", "signature")),
            how,
            f"{limit['value']:g} ({limit['fit']} at {limit['quantile']:g})" if limit else "none",
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    for note in notes:
        console.print(Text(printable(note), style="yellow"), soft_wrap=True)
    told = f"{len(files)} files of {chosen.year} and {RECORD} in {chosen.outdir}"
    console.print(Text(printable(told)), soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
