"""The leaderboard: `python -m asdgan.board [FOLDER]` lists results, best first.

A line is one detector with the same settings everywhere: rows that differ only by machine type,
data and seed. Releases never share a table, and two fingerprints of one machine type never share
a mean. What speaks against a number stands beside it: machine types that are missing or
undefined, means below 0.5, flags of the run, results that do not verify.
"""

import argparse
import csv
import difflib
import io
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asdgan import ledger, metrics
from asdgan.errors import BadInput
from asdgan.files import write_whole
from asdgan.terminal import hung_up

Row = dict[str, Any]  # of the ledger, and its `setting`
Line = dict[str, Any]  # one line of the board: raw values by column

APART = {"machine", "machine_type", "seed"}  # settings that differ inside a line
AGAIN = {"detector", "model.primary"}  # settings that a row says under a shorter name
NAMED = ("model", "recipe", "release", "machine_type", "data", "seed", "epochs", "primary")
ORIGIN = ("signature", "commit", "device")
HIDDEN = {"release", "types", "missing", "undefined", "auc_sd", "pauc_sd", "pauc_mean"}
HEADINGS = {
    "machine_type": "machine type",
    "machine_types": "machine types",
    "auc": "AUC",
    "pauc": "pAUC",
    "auc_mean": "mean AUC",
    "per_id": "per id",
    "signatures": "signature",
    "commits": "commit",
}
LOW = "below 0.5"
PIPE_WIDTH = 250  # columns where the output is no terminal: nothing is folded that grep may want


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the board; gives the exit code, 2 for what the user can mend."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may not fit the terminal
    try:
        _board(_arguments(argv))
    except BrokenPipeError:
        return hung_up()
    except (BadInput, OSError) as error:
        print(f"asdgan.board: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def printable(text: str) -> str:
    """The text on one line, control and direction characters as escapes."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m asdgan.board", description="Results, best first.")
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help="searched for results (default: outputs)")
    add(
        "--by",
        choices=("settings", "machine_type"),
        default="settings",
        help="a line for each detector setting, or for each point of each machine type",
    )
    add("--sort", choices=metrics.AREAS, default="auc", help="best first by this area")
    add(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only such rows; repeatable",
    )
    add("--top", type=int, default=50, metavar="N", help="best ranks printed (50; 0: all)")
    add("--csv", type=Path, metavar="F", help="write all lines there as CSV")
    add("--markdown", type=Path, metavar="F", help="write all lines there as Markdown tables")
    return parser.parse_args(argv)


def _board(chosen: argparse.Namespace) -> None:
    folder = chosen.folder or Path("outputs")
    if chosen.folder and not folder.is_dir():
        raise BadInput(f"no folder {folder}; name the one that runs were written to")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style))  # Text: what rows say is never markup

    results, refused = ledger.read_all(folder)
    rows, again = _once(row for result in results for row in result.rows)
    kept = _where(rows, chosen.where)
    if not rows and not refused:
        say(f"no results under {folder}; make a first one: python -m asdgan.run model=ganomaly")
    elif rows and not kept:
        say(f"none of {len(rows)} points has {' and '.join(chosen.where)}")
    varying, shared = _factored(kept)
    view = _by_settings if chosen.by == "settings" else _by_machine_type
    tables = {
        release: _ranked(view(mine, varying), chosen.sort)
        for release, mine in sorted(_grouped(kept, lambda row: row["release"]).items())
    }
    for sentence in shared:
        say(sentence, "dim")
    for release, lines in tables.items():
        weighted = ": AUC and pAUC weighted by test clips" if chosen.by == "settings" else ""
        say(release + weighted, "bold")
        shown = [line for line in lines if line["rank"] <= chosen.top or chosen.top <= 0]
        console.print(_table(shown))
        if rest := [line for line in lines if line["rank"] > chosen.top > 0]:
            low = sum(LOW in line["notes"] for line in rest)
            say(f"{len(rest)} more lines, {low} of them {LOW}: --top 0 prints them all")
    if again:
        say(f"{again} rows repeat a point of another result and are not counted")
    for path, why in refused:
        say(f"not counted: {path}: {why}", "red")
    if chosen.csv:
        write_whole(chosen.csv, _csv([line for lines in tables.values() for line in lines]))
    if chosen.markdown:
        write_whole(chosen.markdown, _markdown(tables, shared))


def _once(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """Each point once, the first by path, with its `setting`; and how many rows came again.

    A setting is what makes a row's line: everything but machine type, data and seed.
    """
    first: dict[str, Row] = {}
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007 - the last count is wanted
        if row["signature"] not in first:
            setting = {
                **{key: row[key] for key in ("recipe", "epochs", "primary")},
                **{
                    key: value
                    for key, value in row["settings"].items()
                    if key not in AGAIN and key.removeprefix("dataset.") not in APART
                },
            }
            first[row["signature"]] = {**row, "setting": setting}
    return list(first.values()), count - len(first)


def _where(rows: list[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that meet every KEY=VALUE."""
    fields = [
        {
            **row["settings"],
            **{key: row.get(key) for key in NAMED + ORIGIN},
            **{f"selection.{key}": value for key, value in row["selection"].items()},
        }
        for row in rows
    ]
    known = sorted(set().union(*fields))
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals:
            raise BadInput(f"--where {condition!r} is not KEY=VALUE")
        if rows and key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise BadInput(f"--where {condition!r}: no result has a setting {key!r}; {hint}")
        pairs = zip(rows, fields, strict=True)
        kept = [(row, field) for row, field in pairs if _says(field.get(key), value)]
        rows, fields = [row for row, _ in kept], [field for _, field in kept]
    return rows


def _says(value: Any, text: str) -> bool:  # noqa: ANN401 - a setting
    """Whether a setting has the value that was typed."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    if value is None or isinstance(value, bool):
        return (
            text.casefold() in {"null", "none"}
            if value is None
            else text.casefold() == _said(value)
        )
    return text == _said(value)


def _factored(rows: list[Row]) -> tuple[list[str], list[str]]:
    """The settings that are columns, and sentences for those that are not.

    A setting is no column where every row shares its value, or where only some models know it
    and it is the same in all rows of each: a network's own widths would be empty columns beside
    another network.
    """
    values: dict[str, dict[str, set[Hashable]]] = defaultdict(lambda: defaultdict(set))
    known: dict[tuple[str, str], tuple[int, Any]] = {}
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[row["model"]] += 1
        for key, value in row["setting"].items():
            values[key][row["model"]].add(_key(value))
            known[key, row["model"]] = (known.get((key, row["model"]), (0, None))[0] + 1, value)
    varying: list[str] = []
    said: dict[str, list[str]] = {"every line": [], **{model: [] for model in sorted(counts)}}
    for key, by_model in sorted(values.items()):
        steady = all(
            len(found) == 1 and known[key, model][0] == counts[model]
            for model, found in by_model.items()
        )
        everywhere = len(by_model) == len(counts)
        if steady and not everywhere:
            for model in by_model:
                said[model].append(f"{key} {_said(known[key, model][1])}")
        elif steady and len(set().union(*by_model.values())) == 1:
            said["every line"].append(f"{key} {_said(known[key, next(iter(by_model))][1])}")
        else:
            varying.append(key)
    return varying, [f"{who}: {', '.join(what)}" for who, what in said.items() if what]


def _by_settings(rows: list[Row], varying: list[str]) -> list[Line]:
    """One line a detector setting: its machine types and seeds together."""
    present = {row["machine_type"] for row in rows}
    alike = _grouped(rows, lambda row: _key([row["model"], row["setting"], row["selection"]]))
    return [
        _over_types(mine, varying, present)
        for group in alike.values()
        for mine in _one_data(group)
    ]


def _one_data(rows: list[Row]) -> list[list[Row]]:
    """Rows of one setting, parted so that no machine type has two fingerprints in a part.

    The largest data of each machine type come together, then the second largest: a small sample
    of a release is not averaged with the whole.
    """
    parts: dict[int, list[Row]] = defaultdict(list)
    for mine in _grouped(rows, lambda row: row["machine_type"]).values():
        by_data = _grouped(mine, lambda row: row["data"])
        sizes = {data: some[0].get("train_clips", 0) for data, some in by_data.items()}
        for part, data in enumerate(sorted(by_data, key=lambda data: (-sizes[data], data))):
            parts[part] += by_data[data]
    return list(parts.values())


def _over_types(rows: list[Row], varying: list[str], present: set[str]) -> Line:
    """The line of one setting; `present` are the machine types that the release has here."""
    by_seed = _grouped(rows, lambda row: row["seed"])
    by_type = _grouped(rows, lambda row: row["machine_type"])
    whole = metrics.overall({name: _over_seeds(mine) for name, mine in by_type.items()})
    full = [
        metrics.overall({row["machine_type"]: row for row in mine})
        for mine in by_seed.values()
        if {row["machine_type"] for row in mine} == set(by_type)
    ]  # the mean of a seed that lacks a type differs for another reason than chance
    spread = {}
    for area in metrics.AREAS:
        each = [one[f"{area}_weighted"] for one in full if one["undefined"] == whole["undefined"]]
        spread[area] = statistics.stdev(each) if len(each) > 1 and None not in each else None
    missing, lacking = sorted(present - set(by_type)), len(by_seed) - len(full)
    notes = [
        *([f"missing: {', '.join(missing)}"] if missing else []),
        *([f"undefined: {', '.join(whole['undefined'])}"] if whole["undefined"] else []),
        *([f"{lacking} of {len(by_seed)} seeds lack a machine type"] if lacking else []),
    ]
    return {
        **_head(rows[0], varying),
        "types": len(by_type),
        "machine_types": " ".join(sorted(by_type)),
        "missing": " ".join(missing),
        "undefined": " ".join(whole["undefined"]),
        "clips": sum(mine[0]["clips"] for mine in by_type.values()),
        "seeds": len(by_seed),
        "auc": whole["auc_weighted"],
        "auc_sd": spread["auc"],
        "pauc": whole["pauc_weighted"],
        "pauc_sd": spread["pauc"],
        "auc_mean": whole["auc_mean"],
        "pauc_mean": whole["pauc_mean"],
        **_tail(rows, notes, [whole["auc_weighted"], whole["auc_mean"]]),
    }


def _over_seeds(rows: list[Row]) -> Row:
    """The mean of one machine type over its seeds."""
    mean: Row = {"clips": rows[0]["clips"]}
    for area in metrics.AREAS:
        defined = [row[area] for row in rows if row[area] is not None]
        mean[area] = statistics.fmean(defined) if defined else None
    return mean


def _by_machine_type(rows: list[Row], varying: list[str]) -> list[Line]:
    """One line a point."""
    lines = []
    for row in rows:
        sections = sorted(row["sections"].items())
        reasons = [entry["reason"] for _, entry in sections if "reason" in entry]
        line = {
            "machine_type": row["machine_type"],
            **_head(row, varying),
            "seed": row["seed"],
            "clips": row["clips"],
            "auc": row["auc"],
            "pauc": row["pauc"],
            "per_id": "  ".join(f"id_{name} {_area(entry['auc'])}" for name, entry in sections),
            **_tail([row], reasons, [row["auc"]]),
        }
        lines.append(line)
    return lines


def _head(row: Row, varying: list[str]) -> Line:
    chosen = {key: row["setting"].get(key) for key in varying}
    return {"release": row["release"], "model": row["model"], **chosen}


def _tail(rows: list[Row], notes: list[str], means: list[float | None]) -> Line:
    selection = rows[0]["selection"]
    flags = sorted({str(flag) for row in rows for flag in row.get("flags") or ()})
    low = [LOW] if any(mean is not None and mean < 0.5 for mean in means) else []
    return {
        "selection": f"{selection.get('settings')}/{selection.get('checkpoint')}",
        "signatures": " ".join(sorted(row["signature"] for row in rows)),
        "commits": " ".join(sorted({str(row.get("commit") or "unknown")[:8] for row in rows})),
        "notes": "; ".join([*low, *notes, *flags]),
    }


def _ranked(lines: list[Line], area: str) -> list[Line]:
    """Best first, undefined last, ranked; within each machine type where lines are of one."""

    def place(line: Line) -> tuple[Any, ...]:
        worth = line[area]
        return line.get("machine_type", ""), worth is None, -(worth or 0.0), line["signatures"]

    ranked: list[Line] = []
    for line in sorted(lines, key=place):
        goes_on = ranked and ranked[-1].get("machine_type") == line.get("machine_type")
        ranked.append({"rank": ranked[-1]["rank"] + 1 if goes_on else 1, **line})
    return ranked


def _cells(line: Line) -> dict[str, str]:
    """A line as a person wants it: numbers with their spread, long lists counted."""
    cells = {key: _said(value) for key, value in line.items() if key not in HIDDEN}
    for area in metrics.AREAS:
        spread = line.get(f"{area}_sd")
        cells[area] = _area(line[area]) + (f" ± {spread:.4f}" if spread is not None else "")
    if "types" in line:
        cells["auc_mean"] = _area(line["auc_mean"])
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
        style = "yellow" if LOW in line["notes"] else None
        table.add_row(*(Text(printable(text)) for text in row.values()), style=style)
    return table


def _csv(lines: list[Line]) -> bytes:
    """All lines with raw values; text that a spreadsheet would run begins with a quote."""

    def cell(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        text = _said(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([cell(column) for column in lines[0]] if lines else [])
    writer.writerows([cell(value) for value in line.values()] for line in lines)
    return stream.getvalue().encode(errors="backslashreplace")


def _markdown(tables: dict[str, list[Line]], shared: list[str]) -> bytes:
    """A table a release, under the settings that are no column."""
    parts = [_escaped(sentence) for sentence in shared]
    for release, lines in tables.items():
        rows = [_cells(line) for line in lines]
        head = [_escaped(HEADINGS.get(key, key)) for key in rows[0]]
        body = [[_escaped(text) for text in row.values()] for row in rows]
        block = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body]]
        parts += [f"## {_escaped(release)}", "\n".join(block)]
    return ("\n\n".join(parts) + "\n").encode()


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: it ends no cell, and is neither markup nor HTML."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in r"\|`*[]" else sign for sign in text)


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _key(value: Any) -> Hashable:  # noqa: ANN401 - any JSON value
    """The value as something to compare by: 1 is 1.0, but not true, nor "1"."""
    if isinstance(value, dict):
        return tuple((key, _key(value[key])) for key in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(_key(item) for item in value)
    return (bool, value) if isinstance(value, bool) else value


def _said(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _area(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    raise SystemExit(main())
