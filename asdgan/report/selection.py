"""How much of a grid's best number is selection: its winner, chosen with and without test labels.

Where test labels choose among many points, the best of them is also the luckiest. For each model
and machine type of a grid, beside the oracle's winner: the winner on one half of the test clips,
judged on the other; the winner by normal clips held out of training; the model's defaults; and
the median, about what a choice by lot gives. Decided so:

- Points that differ by seed only are one setting, worth the mean over its seeds. Epochs are a
  setting like any other: to choose them by test labels is to select.
- The area in a half is the mean over sections. A section that cannot be halved is named, and left
  out of every number of the line.
- A split counts in both directions, chosen on either half and judged on the other. The spread is
  that of splits, which share their clips: no interval. The oracle's winner is judged on the same
  halves for the gap: a pAUC of half as many clips is larger, because no false positive rate lies
  between 0 and one clip's share, and an AUC is the same in the mean only.
- Half of the clips choose worse than all of them, so the gap to the split half says a little more
  than what luck alone gave. It says too little where a search asked for the points, since its
  trials were judged on all test clips before.
- Held-out clips choose by the mean unweighted reconstruction error at the end of training, the
  same for all points: `recon_l1` whatever the primary score; the primary where a model has none.
- Of equal settings the first by signature counts.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from asdgan._system.resources import CONF
from asdgan.errors import BadInput
from asdgan.report import split_half
from asdgan.report.split_half import Noted
from asdgan.results import ledger, metrics, points
from asdgan.results.points import Point, Settings
from asdgan.results.ranking import LOW, PLAIN, WEIGHTED, Line, grouped, in_order, one_data

VIEW = "selection"  # beside those of ranking
AREAS = ("in_halves", "split_half", "label_free", "default", "median")
GAPS = ("gap_split_half", "gap_label_free")
SPLITS = 20
MEANING = (
    "AUC and pAUC: the settings that all test clips chose (oracle), epochs among them; in halves: "
    "the same, judged on halves of the test clips",
    f"split half: chosen on one half of the test clips, judged on the other; mean ± standard "
    f"deviation of {SPLITS} splits, each in both directions",
    "label-free: the lowest error of held-out normal clips chose; default: the model's own "
    "settings, where the grid has them; median: of all settings, about what a choice by lot gives",
    "half gap, free gap: what the oracle's number loses, on halves to the split half, and on all "
    "test clips to the label-free choice",
)


def of(
    results: Iterable[ledger.Result],
    *,
    area: str = "auc",
    where: Sequence[str] = (),
    wanted: Collection[str] | None = None,
    splits: int = SPLITS,
) -> dict[str, list[Line]]:
    """What selection is worth in results, by release: the lines that the board prints.

    For each model, best first, a line a machine type, then `ranking.WEIGHTED` and `PLAIN` in
    place of a machine type. The numbers of a line are None where they are undefined:

    - `auc`, `pauc` of the oracle's winner, whose `signatures` stand there, `chosen_among` so many
      settings;
    - by the area that chooses: `in_halves`, that winner judged on halves; `split_half` with
      `split_half_sd`; `label_free` (chosen by `label_free_by`, or why not;
      `label_free_signatures`); `default`; `median`; and the gaps `gap_split_half`, of `in_halves`
      and `split_half`, and `gap_label_free`, of all clips.

    Args:
        results: Let go one by one, in the order of their paths.
        area: What chooses and is judged, one of `metrics.AREAS`.
        where: Conditions KEY=VALUE that all must hold.
        wanted: Signatures that count; all do where it is None.
        splits: Into halves, each judged in both directions.

    Raises:
        BadInput: As `lines`; or a condition is no KEY=VALUE, or no result knows its key.
    """
    noted = Noted()
    gathered = points.gather(noted.passing(results), where=where, wanted=wanted)
    return lines(gathered, noted, area=area, splits=splits)


def lines(
    gathered: points.Gathered,
    noted: Noted,
    *,
    area: str,
    splits: int = SPLITS,
    on_points: Callable[[int], None] = lambda count: None,
) -> dict[str, list[Line]]:
    """As `of`, of points that were gathered and whose results `noted` saw.

    Args:
        gathered: A model that has one setting on every machine type chose nothing: it has no line.
        noted: Of the same results.
        area: As in `of`.
        splits: As in `of`.
        on_points: Told of how many more points the clip scores were read.

    Raises:
        BadInput: No model has two settings on one machine type.
    """
    tables: dict[str, list[Line]] = {}
    for release, those in sorted(grouped(gathered.points, lambda one: one.release).items()):
        present = {one.machine_type for one in those}
        blocks = []
        for of_model in grouped(those, lambda one: one.model).values():
            for part in one_data(of_model):
                by_type = grouped(part, lambda one: one.machine_type)
                rivals = {(one.machine_type, one.setting, one.selection) for one in part}
                if len(rivals) > len(by_type):
                    told = [
                        _told(mine, gathered.settings, noted, area, splits, on_points)
                        for _, mine in sorted(by_type.items())
                    ]
                    blocks.append(_block(told, sorted(present - set(by_type)), area))
        if blocks:
            tables[release] = in_order(blocks, area, apart=False)
    if gathered.points and not tables:
        raise BadInput(
            f"--by {VIEW}: no model among {len(gathered.points)} points has two settings on one "
            "machine type, so nothing was chosen; name a sweep, or run one: "
            "python -m asdgan.run -m batch=16,512 epochs=10,20 windows.val_split=random_clips"
        )
    return tables


# The points of one model on one machine type ----------------------------------------------------


class _Rivals:
    """Settings by their first signature, each with the numbers of its points: one a seed."""

    def __init__(self, mine: Sequence[Point], known: Settings) -> None:
        """Takes points of one model on one machine type."""
        self.points, self.known = mine, known
        alike: dict[tuple[int, int], list[int]] = {}
        for number, point in enumerate(mine):
            alike.setdefault((point.setting, point.selection), []).append(number)
        self.settings = sorted(alike.values(), key=lambda some: min(self.signatures(some)))

    def signatures(self, numbers: Iterable[int]) -> list[str]:
        """Of points, sorted."""
        return sorted(self.points[number].signature for number in numbers)

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Over the seeds of each setting, of values of shape (points, ...)."""
        counts = np.array([len(some) for some in self.settings])
        ordered = values[np.concatenate(self.settings)]
        sums = np.add.reduceat(ordered, counts.cumsum() - counts, axis=0)
        return (sums.T / counts).T

    def pairs(self) -> list[set[int]]:
        """Of each setting, as `Settings` numbers them."""
        return [set(self.known.sets[self.points[some[0]].setting]) for some in self.settings]


@dataclass(frozen=True, slots=True)
class _Told:
    """A line, and what means over machine types need: the split-half area of each split."""

    line: Line
    by_split: NDArray[np.float64] | None


def _told(
    mine: Sequence[Point],
    known: Settings,
    noted: Noted,
    area: str,
    splits: int,
    on_points: Callable[[int], None],
) -> _Told:
    """The line of one model on one machine type."""
    stored = [noted.stored[point.signature] for point in mine]
    data = mine[0].data
    judged = split_half.judged(stored, data, area=area, splits=splits, on_points=on_points)
    line: Line = {
        **{key: getattr(mine[0], key) for key in ("machine_type", "release", "model")},
        "chosen_among": 0,
        "seeds": 0,
        "clips": 0,
        **dict.fromkeys(("auc", "pauc", "in_halves", "split_half", "split_half_sd")),
        **dict.fromkeys(("gap_split_half", "label_free", "gap_label_free", "label_free_by")),
        **dict.fromkeys(("default", "median")),
        **dict.fromkeys(("selection", "signatures", "label_free_signatures", "commits"), ""),
        "notes": "; ".join(judged.notes or ["no test clips"]),
    }
    read = [number for number, auc in enumerate(judged.whole[:, 0]) if not np.isnan(auc)]
    if not read:
        return _Told(line, None)
    rivals = _Rivals([mine[number] for number in read], known)
    whole, in_halves = rivals.means(judged.whole[read]), rivals.means(judged.halves[read])
    worth = whole[:, metrics.AREAS.index(area)]
    best, by_split = int(worth.argmax()), _judged_elsewhere(in_halves)
    free, by = _label_free(rivals, [stored[number].held for number in read])
    usual = _default(rivals)
    seeds = [len(some) for some in rivals.settings]
    winner = [rivals.points[number] for number in rivals.settings[best]]
    checkpoint = known.pairs[winner[0].selection][1].get("checkpoint")
    notes = [
        *([LOW] if whole[best, 0] < 0.5 else []),
        *judged.notes,
    ]
    if min(seeds) < max(seeds):
        notes.append(f"settings have {min(seeds)} to {max(seeds)} seeds")
    line |= {
        "chosen_among": len(seeds),
        "seeds": max(seeds),
        "clips": judged.clips,
        "auc": float(whole[best, 0]),
        "pauc": float(whole[best, 1]),
        "in_halves": float(in_halves[best].mean()),
        "split_half": float(by_split.mean()),
        "split_half_sd": _spread(by_split),
        "label_free": None if free is None else float(worth[free]),
        "label_free_by": by,
        "default": None if usual is None else float(worth[usual]),
        "median": float(np.median(worth)),
        "selection": f"oracle/{checkpoint}",
        "signatures": " ".join(rivals.signatures(rivals.settings[best])),
        "label_free_signatures": " ".join(
            rivals.signatures([] if free is None else rivals.settings[free])
        ),
        "commits": " ".join(sorted({one.commit for one in winner})),
        "notes": "; ".join(notes),
    }
    return _Told(_with_gaps(line, area), by_split)


def _judged_elsewhere(areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the winner of one half is worth on the other, of each split.

    Args:
        areas: Shape (settings, 2 splits): in a half, then in its complement.

    Returns:
        Shape (splits,): the mean of both directions.
    """
    other = areas.reshape(len(areas), -1, 2)[:, :, ::-1].reshape(areas.shape)
    return other[areas.argmax(0), np.arange(areas.shape[1])].reshape(-1, 2).mean(1)


def _label_free(rivals: _Rivals, held: Sequence[Mapping[str, float]]) -> tuple[int | None, str]:
    """The setting that held-out clips choose, and by which measure; or None, and why."""
    if lack := sum(not one for one in held):
        usual = _defaults(rivals.points[0].model)
        if any(key.startswith("model.members.") for key in usual):
            return None, "an ensemble has no held-out clips"
        some = "" if lack == len(held) else f"{lack} of {len(held)} points lack it: "
        return None, f"{some}train with windows.val_split=random_clips"
    pairs = rivals.pairs()
    varying = set[int]().union(*pairs) - set[int].intersection(*pairs)
    keys = {rivals.known.pairs[pair][0] for pair in varying}
    other = {key for key in keys if key.startswith(("features.", "windows.val_"))}
    common = set(held[0]).intersection(*held)
    if other or not common:
        return None, f"no common measure: {', '.join(sorted(other or ['primary']))} varies"
    measure = split_half.MEASURE if split_half.MEASURE in common else min(common)
    errors = rivals.means(np.array([one[measure] for one in held]))
    return int(errors.argmin()), measure


def _default(rivals: _Rivals) -> int | None:
    """The setting that has the model's own defaults; None where none, or several, have."""
    pairs, known = rivals.pairs(), rivals.known
    keys = {known.pairs[pair][0] for pair in pairs[0]}
    usual = _defaults(rivals.points[0].model)
    wanted = {known.pair(key, value) for key, value in usual.items() if key in keys}
    found = [number for number, mine in enumerate(pairs) if wanted <= mine]
    return found[0] if len(found) == 1 and wanted else None


def _defaults(model: str) -> Mapping[str, Any]:
    """What `model=<name>` sets itself."""
    path = CONF / "model" / f"{model}.yaml"
    if not ledger.PLAIN_NAME.fullmatch(model) or not path.is_file():
        return {}
    settings = ledger.flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    return {**settings, "primary": settings.get("model.primary")}


def _spread(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _with_gaps(line: Line, area: str) -> Line:
    for name, upper in (("split_half", "in_halves"), ("label_free", area)):
        known = None not in (line[upper], line[name])
        line[f"gap_{name}"] = line[upper] - line[name] if known else None
    return line


def _block(told: Sequence[_Told], missing: Sequence[str], area: str) -> list[Line]:
    """The lines of a model's machine types, and their means."""
    lines = [one.line for one in told]
    judged = [one.line for one in told if one.by_split is not None]
    by_split = [one.by_split for one in told if one.by_split is not None]
    undefined = [line["machine_type"] for line in lines if line not in judged]
    notes = [
        *([f"missing: {', '.join(missing)}"] if missing else []),
        *([f"undefined: {', '.join(undefined)}"] if undefined else []),
    ]
    together = {
        **dict.fromkeys(lines[0]),
        **{key: lines[0][key] for key in ("release", "model")},
        "clips": sum(line["clips"] for line in lines),
        **{
            key: " ".join(sorted({word for line in lines for word in line[key].split()}))
            for key in ("selection", "signatures", "label_free_signatures", "commits")
        },
    }
    means = []
    for name, weigh in ((WEIGHTED, True), (PLAIN, False)):
        line = {**together, "machine_type": name}
        weights = [one["clips"] if weigh else 1 for one in judged]
        for key in (*metrics.AREAS, *AREAS):
            values = [one[key] for one in judged]
            if values and None not in values:
                line[key] = float(np.average(values, weights=weights))
        if by_split:
            line["split_half_sd"] = _spread(np.average(by_split, axis=0, weights=weights))
        low = [LOW] if line["auc"] is not None and line["auc"] < 0.5 else []
        means.append(_with_gaps({**line, "notes": "; ".join([*low, *notes])}, area))
    return [*lines, *means]
