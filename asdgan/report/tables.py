"""Published tables: `asdgan tables [TABLE] [KEY=VALUE ...]`.

Without a name it lists them: what each is, how far it has been run, what is missing, the command
that runs it, and the detectors that it waits for. With one it sets ours beside theirs. What is
typed beside the name is what is typed beside `asdgan.run -m`: `dataset=demo` asks for the demo
plant's rows, `outputs=FOLDER` for those of another folder.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asdgan._system.console import Parser, answer, sheet
from asdgan._system.files import write_whole
from asdgan.config import compose
from asdgan.data.folders import nearest
from asdgan.errors import BadInput
from asdgan.report import comparison, published, selection
from asdgan.report.formats import FORMATS, Sheet, written
from asdgan.report.published import Entry
from asdgan.report.requested import Asked, asked, missing
from asdgan.results import ledger, points
from asdgan.results.points import Gathered
from asdgan.results.ranking import Line
from asdgan.sweep import grid, sweep_file
from asdgan.sweep.sweep_file import SweepFile


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        name: As it is typed.
        file: The sweep that runs it; None where nothing does yet.
        entries: What was published.
    """

    name: str
    file: SweepFile | None
    entries: tuple[Entry, ...]

    @property
    def about(self) -> str:
        """What it is."""
        if self.file is not None:
            return self.file.about
        places: dict[str, dict[str, None]] = {}
        for one in self.entries:
            places.setdefault(one.source, {})[one.table] = None
        said = [f"{source}: {', '.join(where)}" for source, where in places.items()]
        return f"{'; '.join(said)}; on {self.entries[0].release}."

    def systems(self) -> list[str]:
        """Detectors that have published numbers here."""
        return list(dict.fromkeys(entry.model for entry in self.entries))


def main(argv: Sequence[str] | None = None) -> int:
    """Lists published tables, or sets ours beside one; gives the exit code."""
    return answer("asdgan tables", lambda: _tables(_arguments(argv)))


def tables() -> list[Table]:
    """Every table: of sweep files, then those that no sweep file speaks of."""
    files = [sweep_file.read(grid.SWEEPS, name) for name in sweep_file.names(grid.SWEEPS)]
    spoken = {name for file in files for name in file.published}
    found = [Table(file.name, file, _entries(file)) for file in files]
    alone = [name for name in published.names(grid.SWEEPS) if name not in spoken]
    return found + [Table(name, None, tuple(published.read(grid.SWEEPS, name))) for name in alone]


def _entries(file: SweepFile) -> tuple[Entry, ...]:
    """Its own file of numbers whole; of others what is about a detector of its blocks."""
    return tuple(
        entry
        for name in file.published
        for entry in published.read(grid.SWEEPS, name)
        if name == file.name or entry.model in file.models
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "asdgan tables",
        description="Published tables: how far each has been run, and ours beside theirs.",
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="TABLE", help="which one (default: a list of all)")
    add(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="as beside asdgan.run -m: dataset=demo, dataset.root=FOLDER, 'seed=range(0,5)', ...",
    )
    add("--format", choices=FORMATS, default="text", help="text, or for a paper or a program")
    add("--out", type=Path, metavar="FILE", help="write it there")
    return parser.parse_args(argv)


def _tables(chosen: argparse.Namespace) -> None:
    words = [*chosen.words, *chosen.settings]
    typed = [word for word in words if "=" in word]
    named = [word for word in words if "=" not in word]
    if len(named) > 1:
        raise BadInput(f"one table at a time, not {' and '.join(named)}")
    there = tables()
    by_name = {table.name: table for table in there}
    if named and named[0] not in by_name:
        hint = nearest(named[0], by_name)
        raise BadInput(f"no table {named[0]!r}; there are {', '.join(by_name)}{hint}")
    outputs = [word.partition("=")[2] for word in typed if word.startswith("outputs=")]
    folder = Path(outputs[-1]) if outputs else points.OUTPUTS
    gathered = _gathered(folder)
    if named:
        sheets = _compared(by_name[named[0]], typed, gathered, folder)
    else:
        sheets = [_state(table, typed, gathered) for table in there]
    if chosen.out is not None:
        write_whole(chosen.out, written(sheets, chosen.format).encode())
    elif chosen.format == "text":
        written(sheets, chosen.format, sheet())
    else:
        sys.stdout.write(written(sheets, chosen.format))


def _gathered(folder: Path) -> Gathered:
    found = ledger.each(folder)
    return points.gather(result for _, result in found if isinstance(result, ledger.Result))


def _compared(table: Table, typed: Sequence[str], gathered: Gathered, folder: Path) -> list[Sheet]:
    """A sheet for each detector of a table, and source."""
    sizes = published.sizes(grid.SWEEPS)
    if table.file is None:
        return [
            comparison.sheet(block, None, {}, sizes)
            for block in comparison.blocks(table.entries, ())
        ]
    sweep = asked(table.name, typed, gathered, sizes, every_seed=True)
    ours = comparison.ours_of(sweep, gathered, folder)
    models = dict.fromkeys(part.config.detector for part in sweep.grid.parts)
    head = Sheet(
        title=f"{table.name}: {table.about}",
        lines=[],
        numbers=frozenset(),
        raw=[],
        sentences=_beforehand(sweep, bool(ours)),
    )
    return [
        head,
        *(
            comparison.sheet(block, sweep, ours, sizes)
            for block in comparison.blocks(table.entries, models)
        ),
        *_selected(sweep, folder),
    ]


CHOSEN = ("auc", *selection.AREAS, *selection.GAPS)


def _selected(sweep: Asked, folder: Path) -> list[Sheet]:
    """What the best settings of a grid owe to the choice; none where nothing was to be chosen."""
    if max(sweep.total().values()) < 2:
        return []
    names = {name for *_, found in sweep.wanted() for lane in found for name in lane}
    results = (one for _, one in ledger.each(folder) if isinstance(one, ledger.Result))
    try:
        found = selection.of(results, wanted=names) if names else {}
    except BadInput:  # one setting a machine type is done so far
        return []
    return [
        Sheet(
            title=f"{release}: what the best settings by AUC owe to the choice, per cent",
            lines=[_chosen_cells(line) for line in lines],
            numbers=frozenset(map(_heading, CHOSEN)),
            raw=[],  # `asdgan board --by selection --csv` writes these, in columns of their own
            remarks=selection.MEANING,
        )
        for release, lines in found.items()
    ]


def _chosen_cells(line: Line) -> dict[str, str]:
    cells = {"model": line["model"], "machine type": line["machine_type"]}
    cells["settings"] = str(line["chosen_among"] or "")
    return cells | {
        _heading(key): "" if line[key] is None else f"{100 * line[key]:.2f}" for key in CHOSEN
    }


def _heading(key: str) -> str:
    return {"auc": "AUC"}.get(key, key.replace("_", " "))


def _beforehand(sweep: Asked, have: bool) -> list[str]:
    found = []
    if sweep.other_settings:
        found.append(f"ours with {' '.join(sweep.other_settings)}: not as the table has it")
    if not have:
        found.append(f"nothing of it has been run on {sweep.release}: {sweep.command}")
        found += [sweep.absent] if sweep.absent else []
    return found


def _state(table: Table, typed: Sequence[str], gathered: Gathered) -> Sheet:
    waiting = [name for name in table.systems() if not _exists(name)]
    said: dict[str, str] = {}
    raw: dict[str, object] = {"table": table.name, "about": table.about, "done": 0, "total": 0}
    if table.file is None:
        runnable = [name for name in table.systems() if _exists(name)]
        said["systems"] = ", ".join(table.systems())
        if runnable:
            said["no sweep yet for"] = ", ".join(runnable)
    else:
        try:
            sweep = asked(table.name, typed, gathered, published.sizes(grid.SWEEPS))
            said |= _progress(sweep, gathered, raw)
            models = {part.config.detector for part in sweep.grid.parts}
            idle = [n for n in table.systems() if _exists(n) and n not in models]
            if idle:
                said["no block for"] = ", ".join(idle)
        except BadInput as error:
            said["refused"] = str(error)
    if waiting:
        said["waits for"] = ", ".join(f"model {name}" for name in waiting)
    return Sheet(
        title=f"{table.name}: {table.about}",
        lines=[],
        numbers=frozenset(),
        raw=[{**raw, **{key: said.get(key, "") for key in COLUMNS}}],
        remarks=[f"  {key:10} {text}" for key, text in said.items()],
    )


COLUMNS = (
    "systems", "points", "missing", "data", "run", "no block for", "waits for", "refused",
)  # fmt: skip


def _progress(sweep: Asked, gathered: Gathered, raw: dict[str, object]) -> dict[str, str]:
    total, done = sweep.total(), sweep.counted(gathered.done)
    raw |= {"done": done.total(), "total": total.total()}
    said = {
        "systems": ", ".join(dict.fromkeys(model for model, _ in total)),
        "points": f"{done.total():,} of {total.total():,} done on {sweep.release}",
    }
    if left := missing(total, done):
        said["missing"] = left
    at_hand = [key for key in total if key[1] not in sweep.lacking]
    if any(total[key] > done[key] for key in at_hand):
        said["run"] = sweep.command
    if sweep.absent:
        said["data"] = sweep.absent
    elif sweep.lacking:
        root = sweep.grid.parts[0].config.dataset.root
        kinds = " ".join(f"--machine {name}" for name in sweep.lacking)
        fetch = f"asdgan data fetch {sweep.release} {kinds} --root {root}"
        said["data"] = f"{root} has no {', '.join(sweep.lacking)}: {fetch}"
    return said


def _exists(model: str) -> bool:
    return (compose.CONF / "model" / f"{model}.yaml").is_file()


if __name__ == "__main__":
    raise SystemExit(main())
