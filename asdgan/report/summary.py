"""The table at the end of a run: AUC and pAUC of each machine type, and their means."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from asdgan._system.console import figure
from asdgan.results import metrics


def results_table(rows: Sequence[Mapping[str, Any]], overall: Mapping[str, Any]) -> Table:
    """A line per machine type with its sections, the means over types, and those of other scores.

    Args:
        rows: As the ledger keeps them.
        overall: As `metrics.overall` gives it.
    """
    first = rows[0]
    table = Table(
        title=f"{first['model']} on {first['release']}, score {first['primary']} (per cent)",
        caption=_caption(rows, overall),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("machine type")
    for name in ("AUC", "pAUC", "test clips"):
        table.add_column(name, justify="right")
    table.add_column("per section: AUC / pAUC")
    for row in rows:
        sections = "  ".join(
            f"{name} {figure(of['auc'])} / {figure(of['pauc'])}"
            for name, of in row["sections"].items()
        )
        table.add_row(
            escape(row["machine_type"]),
            figure(row["auc"]),
            figure(row["pauc"]),
            str(row["test_clips"]),
            escape(sections),
        )
    table.add_section()
    weighted = (figure(overall["auc_weighted"]), figure(overall["pauc_weighted"]))
    counted = str(sum(row["clips"] for row in rows))
    table.add_row("weighted mean", *weighted, counted, "weights: test clips of judged sections")
    plain = (figure(overall["auc_mean"]), figure(overall["pauc_mean"]))
    table.add_row("plain mean", *plain, "", f"over {len(overall['machine_types'])} machine types")
    table.add_section()
    for name in first["components"]:
        if name != first["primary"] and all(name in row["components"] for row in rows):
            of_types = {row["machine_type"]: row | row["components"][name] for row in rows}
            whole = metrics.overall(of_types)
            areas = (figure(whole["auc_weighted"]), figure(whole["pauc_weighted"]))
            table.add_row(f"by {escape(name)}", *areas, "", "weighted mean of another score")
    return table


def _caption(rows: Sequence[Mapping[str, Any]], overall: Mapping[str, Any]) -> str:
    notes = []
    for row in rows:
        for name, section in row["sections"].items():
            if section.get("reason"):
                notes.append(f"{row['machine_type']} {name} undefined: {section['reason']}")
        notes += [f"{row['machine_type']}: {flag}" for flag in row["flags"]]
        if row["auc"] is not None and row["auc"] < 0.5:
            notes.append(f"{row['machine_type']}: AUC below 0.5, worse than a coin")
    if overall["undefined"]:
        notes.append(f"left out of the means: {', '.join(overall['undefined'])}")
    return escape("\n".join(notes))
