"""Tables in four dresses: text for a terminal, Markdown, CSV, LaTeX.

A sheet is a title, sentences and lines of one kind; what is a number stands to the right.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asdgan._system.console import PIPE_WIDTH, printable
from asdgan._system.files import as_csv

FORMATS = ("text", "markdown", "csv", "latex")
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": "$<$", ">": "$>$", "|": "$|$"},
}


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        title: One line.
        lines: Cells by column, as a person reads them; all with the same columns.
        numbers: Columns that stand to the right.
        raw: The lines for a program, whose columns may be others.
        sentences: What is to be known, above the table.
        remarks: Likewise, below it.
    """

    title: str
    lines: Sequence[Mapping[str, str]]
    numbers: frozenset[str]
    raw: Sequence[Mapping[str, object]]
    sentences: Sequence[str] = ()
    remarks: Sequence[str] = ()


def written(sheets: Sequence[Sheet], kind: str, console: Console | None = None) -> str:
    """Sheets as text in one of `FORMATS`; printed, too, where there is a console.

    All raw lines are one CSV file, with every column that any of them has.
    """
    if kind == "text":
        return _text(sheets, console)
    if kind == "csv":
        rows = [row for sheet in sheets for row in sheet.raw]
        columns = dict.fromkeys(key for row in rows for key in row)
        found = as_csv([{key: row.get(key) for key in columns} for row in rows]).decode()
    else:
        dress = _markdown if kind == "markdown" else _latex
        found = "\n\n".join(part for sheet in sheets for part in dress(sheet)) + "\n"
    if console is not None:
        console.file.write(found)
    return found


def _text(sheets: Sequence[Sheet], console: Console | None) -> str:
    stream = io.StringIO()
    console = console or Console(file=stream, highlight=False, width=PIPE_WIDTH)
    for number, sheet in enumerate(sheets):
        if number:
            console.print()
        console.print(Text(printable(sheet.title), style="bold"))
        for sentence in sheet.sentences:
            console.print(Text(printable(sentence), style="yellow"))
        if sheet.lines:
            console.print(_table(sheet))
        for remark in sheet.remarks:
            console.print(Text(printable(remark), style="dim"))
    return stream.getvalue()


def _table(sheet: Sheet) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in sheet.lines[0]:
        justify = "right" if key in sheet.numbers else "left"
        table.add_column(Text(printable(key)), justify=justify, overflow="fold")
    for line in sheet.lines:
        table.add_row(*(Text(printable(text)) for text in line.values()))
    return table


def _markdown(sheet: Sheet) -> list[str]:
    parts = [f"## {in_markdown(sheet.title)}", *map(in_markdown, sheet.sentences)]
    if sheet.lines:
        rules = ["---:" if key in sheet.numbers else "---" for key in sheet.lines[0]]
        head = [in_markdown(key) for key in sheet.lines[0]]
        body = [[in_markdown(text) for text in line.values()] for line in sheet.lines]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in [head, rules, *body]))
    return parts + [f"- {in_markdown(remark)}" for remark in sheet.remarks]


def in_markdown(text: str) -> str:
    """Text that Markdown shows as it is: it ends no cell, and is neither markup nor HTML."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in r"\|`*[]" else sign for sign in text)


def _latex(sheet: Sheet) -> list[str]:
    """A table for a paper that uses booktabs; remarks stand under it."""
    parts = [f"% {printable(text)}" for text in (sheet.title, *sheet.sentences)]
    if sheet.lines:
        columns = "".join("r" if key in sheet.numbers else "l" for key in sheet.lines[0])
        rows = [[in_latex(text) for text in line.values()] for line in sheet.lines]
        head = [in_latex(key) for key in sheet.lines[0]]
        parts += [
            r"\begin{table}",
            rf"\caption{{{in_latex(' '.join((sheet.title + '.', *sheet.sentences)))}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            f"{' & '.join(head)} \\\\",
            r"\midrule",
            *(f"{' & '.join(row)} \\\\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {in_latex(remark)}" for remark in sheet.remarks),
            r"\end{table}",
        ]
    return ["\n".join(parts)]


def in_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(LATEX.get(sign, sign) for sign in printable(text))
