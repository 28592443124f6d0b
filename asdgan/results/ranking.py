"""Points to ranked lines: what the board shows, before anything is printed.

A line of `settings` is one detector with the same settings everywhere: points that differ only
by machine type, data and seed. A line of `machine_type` is the same on one machine type, over
its seeds; of `point`, one point; of `best`, what won on a machine type. Two fingerprints of one
machine type never share a mean. What speaks against a number stands beside it.
"""

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asdgan.results import metrics
from asdgan.results.points import Gathered, Point, Settings, said

Line = dict[str, Any]  # one line of the board: raw values by column

VIEWS = ("settings", "machine_type", "point", "best")
LOW = "below 0.5"
NUMBER = re.compile(r"[0-9]+")
WEIGHTED, PLAIN = "weighted mean", "plain mean"  # in place of a machine type


def factored(gathered: Gathered) -> tuple[list[str], list[str]]:
    """The settings that are columns, and sentences for those that are not.

    A setting is no column where every point shares its value, or where only some models know it
    and it is the same in all points of each: a network's own widths would be empty columns beside
    another network.
    """
    settings, sets = gathered.settings, defaultdict[str, set[int]](set)
    for point in gathered.points:
        sets[point.model].add(point.setting)
    found = defaultdict[str, dict[str, list[tuple[int, int]]]](dict)  # key, model: pair, how often
    for model, numbers in sets.items():
        counts = Counter(pair for number in numbers for pair in settings.sets[number])
        for pair, count in counts.items():
            found[settings.pairs[pair][0]].setdefault(model, []).append((pair, count))
    varying: list[str] = []
    sentences: dict[str, list[str]] = {"every line": [], **{model: [] for model in sorted(sets)}}
    for key, by_model in sorted(found.items()):
        steady = all(
            len(pairs) == 1 and pairs[0][1] == len(sets[model])
            for model, pairs in by_model.items()
        )
        pairs = {model: some[0][0] for model, some in by_model.items()}
        if steady and len(by_model) < len(sets):
            for model, pair in pairs.items():
                sentences[model].append(f"{key} {said(settings.pairs[pair][1])}")
        elif steady and len(set(pairs.values())) == 1:
            sentences["every line"].append(f"{key} {said(settings.pairs[min(pairs.values())][1])}")
        else:
            varying.append(key)
    return varying, [f"{who}: {', '.join(what)}" for who, what in sentences.items() if what]


def ranked(
    gathered: Gathered, *, by: str, area: str, varying: Sequence[str]
) -> dict[str, list[Line]]:
    """Lines by release, best first, undefined last, each with its rank.

    Args:
        gathered: As `gather` gave it.
        by: One of `VIEWS`.
        area: Best first by this one; for `best` it chooses, too.
        varying: Settings that are columns.
    """
    tables: dict[str, list[Line]] = {}
    for release, points in sorted(grouped(gathered.points, lambda one: one.release).items()):
        sheet = _Sheet(gathered.settings, varying, area, {one.machine_type for one in points})
        if by == "best":
            blocks = sheet.best(points)
        elif by == "settings":
            blocks = [[line] for line in sheet.over_types(points)]
        else:
            blocks = [[line] for line in sheet.of_types(points, single=by == "point")]
        tables[release] = in_order(blocks, area, apart=by in ("machine_type", "point"))
    return tables


def in_order(blocks: list[list[Line]], area: str, *, apart: bool) -> list[Line]:
    """The lines of blocks in their order, ranked; within each machine type where `apart`.

    A block is worth what its last line but one is: the weighted mean, or its only line.
    """

    def place(block: list[Line]) -> tuple[Any, ...]:
        line = block[-2:][0]
        kind, worth = line["machine_type"] if apart else "", line[area]
        return kind, worth is None, -(worth or 0.0), line["signatures"]

    lines: list[Line] = []
    rank, before = 0, None
    for block in sorted(blocks, key=place):
        kind = block[0]["machine_type"] if apart else None
        rank, before = (rank + 1 if kind == before else 1), kind
        lines += [{"rank": rank, **line} for line in block]
    return lines


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The lines of one release; `present` are the machine types that it has here."""

    settings: Settings
    varying: Sequence[str]
    area: str
    present: set[str]

    def over_types(self, points: list[Point]) -> list[Line]:
        """A line a detector setting: its machine types and seeds together."""
        alike = grouped(points, lambda one: (one.model, one.setting, one.selection))
        return [self._whole(part) for some in alike.values() for part in one_data(some)]

    def of_types(self, points: list[Point], *, single: bool) -> list[Line]:
        """A line a detector setting and machine type, its seeds together; or a line a point."""
        if single:
            return [self._of_type([point], {"seed": point.seed}) for point in points]
        alike = grouped(
            points, lambda one: (one.model, one.setting, one.selection, one.machine_type, one.data)
        )
        return [self._of_type(some, {"seeds": _seeds(some)}) for some in alike.values()]

    def best(self, points: list[Point]) -> list[list[Line]]:
        """For each detector the line that won on each machine type, and their means."""
        return [
            self._winners(part)
            for some in grouped(points, lambda one: one.model).values()
            for part in one_data(some)
        ]

    def _winners(self, points: list[Point]) -> list[Line]:
        lines, judged = [], {}
        for name, mine in sorted(grouped(points, lambda one: one.machine_type).items()):
            rivals = grouped(mine, lambda one: (one.setting, one.selection)).values()
            winner = min(rivals, key=self._standing)
            judged[name] = _over_seeds(winner)
            line = self._of_type(winner, {"chosen_among": len(rivals), "seeds": _seeds(winner)})
            if len(rivals) > 1 and line[self.area] is not None:
                line["selection"] = f"oracle/{line['selection'].partition('/')[2]}"
            del line["per_id"]
            lines.append(line)
        whole = metrics.overall(judged)
        together = {
            **dict.fromkeys(lines[0]),
            **{key: lines[0][key] for key in ("release", "model")},
            "clips": sum(line["clips"] for line in lines),
            **{
                key: " ".join(sorted({word for line in lines for word in line[key].split()}))
                for key in ("selection", "signatures", "commits")
            },
        }
        notes = self._gaps(judged, whole["undefined"])
        for kind, name in (("weighted", WEIGHTED), ("mean", PLAIN)):
            areas = {area: whole[f"{area}_{kind}"] for area in metrics.AREAS}
            said_of = {"machine_type": name, "notes": "; ".join([*_low(areas["auc"]), *notes])}
            lines.append({**together, **areas, **said_of})
        return lines

    def _standing(self, points: list[Point]) -> tuple[bool, float, str]:
        worth = _mean(getattr(point, self.area) for point in points)
        return worth is None, -(worth or 0.0), min(point.signature for point in points)

    def _whole(self, points: list[Point]) -> Line:
        """The line of one setting over machine types and seeds."""
        by_seed = grouped(points, lambda one: one.seed)
        by_type = grouped(points, lambda one: one.machine_type)
        whole = metrics.overall({name: _over_seeds(mine) for name, mine in by_type.items()})
        # The mean of a seed that lacks a type differs for another reason than chance.
        full = [
            metrics.overall({point.machine_type: _over_seeds([point]) for point in mine})
            for mine in (by_seed.values() if len(by_seed) > 1 else ())
            if len({point.machine_type for point in mine}) == len(by_type)
        ]
        same = [one for one in full if one["undefined"] == whole["undefined"]]
        spread = {
            area: _spread([one[f"{area}_weighted"] for one in same]) for area in metrics.AREAS
        }
        lack = len(by_seed) - len(full) if len(by_seed) > 1 else 0
        notes = self._gaps(by_type, whole["undefined"])
        notes += [f"{lack} of {len(by_seed)} seeds lack a machine type"] if lack else []
        return {
            **self._head(points[0]),
            "types": len(by_type),
            "machine_types": " ".join(sorted(by_type)),
            "missing": " ".join(sorted(self.present - set(by_type))),
            "undefined": " ".join(whole["undefined"]),
            "clips": sum(mine[0].clips for mine in by_type.values()),
            "seeds": len(by_seed),
            "auc": whole["auc_weighted"],
            "auc_sd": spread["auc"],
            "pauc": whole["pauc_weighted"],
            "pauc_sd": spread["pauc"],
            "auc_mean": whole["auc_mean"],
            "pauc_mean": whole["pauc_mean"],
            **self._tail(points, [*_low(whole["auc_weighted"], whole["auc_mean"]), *notes]),
        }

    def _of_type(self, points: list[Point], counted: Line) -> Line:
        """The line of one setting on one machine type; `counted` are columns about its points."""
        first, mean = points[0], _over_seeds(points)
        lack = sum(point.auc is None for point in points)
        notes = [
            *([f"{lack} of {len(points)} seeds undefined"] if 0 < lack < len(points) else []),
            *dict.fromkeys(reason for point in points for reason in point.reasons),
        ]
        by_section: dict[str, list[float | None]] = {}
        for point in points:
            for name, auc in point.sections:
                by_section.setdefault(name, []).append(auc)
        spread = {
            area: _spread([getattr(point, area) for point in points if point.auc is not None])
            for area in metrics.AREAS
        }
        return {
            "machine_type": first.machine_type,
            **self._head(first),
            **counted,
            "clips": first.clips,
            "auc": mean["auc"],
            "auc_sd": spread["auc"],
            "pauc": mean["pauc"],
            "pauc_sd": spread["pauc"],
            "per_id": "  ".join(
                f"id_{name} {area_said(_mean(aucs))}" for name, aucs in sorted(by_section.items())
            ),
            **self._tail(points, [*_low(mean["auc"]), *notes]),
        }

    def _head(self, point: Point) -> Line:
        values = self.settings.values(point.setting)
        chosen = {key: values.get(key) for key in self.varying}
        return {"release": point.release, "model": point.model, **chosen}

    def _tail(self, points: list[Point], notes: list[str]) -> Line:
        selection = self.settings.pairs[points[0].selection][1]
        flags = _together(flag for point in points for flag in point.flags)
        return {
            "selection": f"{selection.get('settings')}/{selection.get('checkpoint')}",
            "signatures": " ".join(sorted(point.signature for point in points)),
            "commits": " ".join(sorted({point.commit for point in points})),
            "notes": "; ".join([*notes, *flags]),
        }

    def _gaps(self, types: Collection[str], undefined: list[str]) -> list[str]:
        missing = sorted(self.present - set(types))
        return [
            *([f"missing: {', '.join(missing)}"] if missing else []),
            *([f"undefined: {', '.join(undefined)}"] if undefined else []),
        ]


def one_data(points: list[Point]) -> list[list[Point]]:
    """Points parted so that no machine type has two fingerprints in a part.

    The largest data of each machine type come together, then the second largest: a small sample
    of a release is not averaged with the whole.
    """
    parts: dict[int, list[Point]] = defaultdict(list)
    for mine in grouped(points, lambda one: one.machine_type).values():
        by_data = grouped(mine, lambda one: one.data)
        sizes = {data: some[0].train_clips for data, some in by_data.items()}
        for part, data in enumerate(sorted(by_data, key=lambda data: (-sizes[data], data))):
            parts[part] += by_data[data]
    return list(parts.values())


def _over_seeds(points: list[Point]) -> dict[str, Any]:
    """The mean of one machine type over its seeds, as `metrics.overall` takes it."""
    return {
        "auc": _mean(point.auc for point in points),
        "pauc": _mean(point.pauc for point in points),
        "clips": points[0].clips,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None


def _spread(values: Sequence[float | None]) -> float | None:
    """The standard deviation, where there are two numbers at least and no gap."""
    defined = [value for value in values if value is not None]
    if len(defined) < 2 or len(defined) < len(values):
        return None
    mean = statistics.fmean(defined)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in defined) / (len(defined) - 1))


def _seeds(points: list[Point]) -> int:
    return len({point.seed for point in points})


def _together(flags: Iterable[str]) -> list[str]:
    """Flags, each once; of those that differ in numbers only the one with the lowest."""
    alike: dict[str, set[str]] = defaultdict(set)
    for flag in flags:
        alike[NUMBER.sub("", flag)].add(flag)
    said = []
    for _, some in sorted(alike.items()):
        first = min(some, key=lambda flag: ([int(one) for one in NUMBER.findall(flag)], flag))
        said.append(first if len(some) == 1 else f"{first}, and {len(some) - 1} like it")
    return said


def _low(*means: float | None) -> list[str]:
    return [LOW] if any(mean is not None and mean < 0.5 for mean in means) else []


def grouped(points: Iterable[Point], key: Callable[[Point], Any]) -> dict[Any, list[Point]]:
    """Points by what they have in common, in their order."""
    groups: dict[Any, list[Point]] = defaultdict(list)
    for point in points:
        groups[key(point)].append(point)
    return groups


def area_said(value: float | None) -> str:
    """An area as it is printed."""
    return "undefined" if value is None else f"{value:.4f}"
