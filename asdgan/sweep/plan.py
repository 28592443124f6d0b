"""From a grid to jobs: which points are missing, which train together, in what order.

The plan is a file, `sweeps/<name>/plan.json`, and a job is that file and a number. What is planned
is settled: a YAML that is edited meanwhile changes nothing.
"""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from asdgan._system.files import canonical, read_json, write_json
from asdgan.config import compose
from asdgan.config.traits import Trait
from asdgan.config.traits import of as trait_of
from asdgan.errors import BadInput, Damaged
from asdgan.results import ledger
from asdgan.results.failures import write_failure
from asdgan.sweep.grid import Grid, Part
from asdgan.training import ensembles as ensemble
from asdgan.training.ensembles import Ensemble
from asdgan.training.stack import Stack

FORMAT = 2
HOW = (
    "dry_run",
    "slots",
    "jobs_per_gpu",
    "retry",
    "timeout",
    "trials",
    "storage",
    "ask",
)  # fmt: skip - settings under which a sweep stays the same one
SECRET = "sweep.storage="  # an address may hold a password
LEAST_LANES = 8  # from here on a lane's bits do not depend on its neighbours
# Lanes that a CPU's caches hold, by the windows in a minibatch: benchmarks/step.py
CPU_LANES = ((32, 16), (math.inf, 8))


@dataclass(frozen=True)
class Heard:
    """What a plan knows of one machine type of one data set: its fingerprint."""

    machine_type: str
    data: str


@dataclass(frozen=True)
class Job:
    """A stack with something left to do.

    Attributes:
        stack: What to train.
        signatures: Of its points, by lane and reading.
        skip: Those of them that are done, or are another job's.
        root: Of the data set.
        goes_on: Its last checkpoint stays, because a later job trains some of its lanes further.
    """

    stack: Stack
    signatures: tuple[tuple[str, ...], ...]
    skip: frozenset[str]
    root: str
    goes_on: bool = False

    @property
    def wanted(self) -> list[str]:
        """Signatures of the points to write."""
        return [name for lane in self.signatures for name in lane if name not in self.skip]

    def narrowed(self, lanes: Sequence[int]) -> "Job":
        """The same job for some of its lanes."""
        return replace(
            self,
            stack=replace(self.stack, lanes=tuple(self.stack.lanes[lane] for lane in lanes)),
            signatures=tuple(self.signatures[lane] for lane in lanes),
        )


@dataclass(frozen=True)
class Together:
    """An ensemble without a result, and the signature of each member by name."""

    ensemble: Ensemble
    members: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """Jobs, and what is not among them.

    Attributes:
        name: Of the sweep.
        typed: Its command line; on disk without what may be secret.
        jobs: Stacks with something left to do, those of one machine type together.
        points: Signatures of all points of the grid, each once; members of ensembles are some.
        done: Those that have a result.
        failed: Those that have only a failure, where such are not tried again.
        ensembles: What is to be put together once the jobs have ended.
    """

    name: str
    typed: tuple[str, ...]
    jobs: tuple[Job, ...]
    points: frozenset[str]
    done: frozenset[str]
    failed: frozenset[str]
    ensembles: tuple[Together, ...] = ()


def name_of(grid: Grid) -> str:
    """The name of a sweep: the same command line, in any order, gives the same."""
    if grid.settings.name is not None:
        return grid.settings.name
    models = dict.fromkeys(part.config.detector for part in grid.parts)
    said = grid.settings.file or "-".join(models)
    unlike = tuple(f"sweep.{key}=" for key in HOW)
    text = sorted(one for one in grid.typed if not one.startswith(unlike))
    return f"{said[:60]}-{hashlib.sha256(canonical(text)).hexdigest()[:8]}"


def make(
    grid: Grid,
    heard: Mapping[int, Sequence[Heard]],
    roots: Mapping[int, str],
    traits: Mapping[str, Trait],
    *,
    done: Collection[str],
    failed: Collection[str],
    slots: int,
    on_gpu: bool,
) -> Plan:
    """The jobs of a grid.

    Args:
        grid: What was asked for.
        heard: The machine types of each part, by the part's number in `grid.whole`.
        roots: The data set's folder of each part.
        traits: Of each model, by its `_target_`.
        done: Signatures that have a result.
        failed: Signatures not to be tried again.
        slots: Jobs that run at once.
        on_gpu: Whether they run on GPUs, where memory and not a cache bounds a stack.
    """
    points: set[str] = set()
    jobs: list[Job] = []
    together: list[Together] = []
    settled = set(done) | set(failed)
    of_part: dict[int, Sequence[Heard]] = {}  # by the part's id
    for number, part in enumerate(grid.whole):
        trait = traits[part.config.model._target_]
        of_part[id(part)] = heard[number]
        if part.members:
            theirs = {name: of_part[id(one)] for name, one in part.members.items()}
            for place, one in enumerate(heard[number]):
                every = _together(part, one, trait, {n: of[place] for n, of in theirs.items()})
                for it in every:
                    name = it.ensemble.signature
                    if name not in settled and name not in points:
                        together.append(it)
                    points.add(name)
            continue
        for one in heard[number]:
            for stack in _stacks(part, one, trait, grid.settings.lanes, slots, on_gpu):
                named = tuple(
                    tuple(stack.signature(lane, epochs) for epochs in stack.readings)
                    for lane in range(len(stack.lanes))
                )
                mine = {name for lane in named for name in lane}
                skip = (mine & settled) | (mine & points)  # not the union of all: that is long
                points |= mine
                job = Job(stack, named, frozenset(skip), roots[number])
                open_lanes = [i for i, lane in enumerate(named) if not skip.issuperset(lane)]
                if open_lanes:
                    jobs.append(job.narrowed(open_lanes) if len(open_lanes) < len(named) else job)
    return Plan(
        name=name_of(grid),
        typed=grid.typed,
        jobs=tuple(jobs),
        points=frozenset(points),
        done=frozenset(points & set(done)),
        failed=frozenset(points & set(failed) - set(done)),
        ensembles=tuple(together),
    )


def signatures(part: Part, heard: Heard, trait: Trait) -> list[list[str]]:
    """Of the points of a part on one machine type: by row, then by reading."""
    if part.members:
        return [[one.signature] for one in _ensembles(part, heard, trait)]
    found = []
    every = tuple(dict(zip(part.axes, values, strict=True)) for values in part.rows)
    about = (heard.machine_type, heard.data, trait.recipe)
    together = Stack(part.config, *about, every, part.readings)
    for lane, row in enumerate(every):
        stack = together if part.alike else Stack(_with(part, row), *about, ({},), part.readings)
        place = lane if part.alike else 0
        found.append([stack.signature(place, epochs) for epochs in part.readings])
    return found


def _ensembles(part: Part, heard: Heard, trait: Trait) -> Iterator[Ensemble]:
    """The ensembles of a part on one machine type, in the order of its rows."""
    first: dict[str, Any] | None = None
    for values in part.rows:
        row = dict(zip(part.axes, values, strict=True))
        config = _with(part, row)
        if first is None or not part.alike:
            members = {name: _with(one, row) for name, one in part.members.items()}
            first = ensemble.identity(config, members, heard.machine_type)
        told = {**first, **row}
        name = ledger.signature(told, trait.recipe, heard.data)
        yield Ensemble(config, heard.machine_type, told, trait.recipe, name)


def _together(
    part: Part, heard: Heard, trait: Trait, of_members: Mapping[str, Heard]
) -> Iterator[Together]:
    """The same with their members, who may hear other clips: some are bad for one only."""
    members = {
        name: signatures(one, of_members[name], trait_of(one.config.model._target_))
        for name, one in part.members.items()
    }
    for row, one in enumerate(_ensembles(part, heard, trait)):
        yield Together(one, {name: of[row][0] for name, of in members.items()})


def _with(part: Part, row: Mapping[str, Any]) -> DictConfig:
    """The settings of one row, for a stack of its own."""
    config = OmegaConf.merge(part.config, row)
    assert isinstance(config, DictConfig)
    return config


def _stacks(
    part: Part, heard: Heard, trait: Trait, lanes: int | str, slots: int, on_gpu: bool
) -> Iterator[Stack]:
    """The stacks of one part on one machine type, whether done or not: always cut alike."""
    every = [dict(zip(part.axes, values, strict=True)) for values in part.rows]
    # Neighbours with one learning rate and beta1 share a group of the optimiser.
    every.sort(key=lambda lane: [float(lane.get(axis, 0)) for axis in ("lr", "beta1", "seed")])
    together = trait.stackable and part.alike
    width = _width(len(every), part.config.batch, lanes, slots, on_gpu) if together else 1
    readings = [part.readings] if trait.prefix_stable else [(one,) for one in part.readings]
    shared = compose.identity(part.config, heard.machine_type)
    signer = ledger.Signer(shared, trait.recipe, heard.data, [*part.axes, "epochs"])
    for first in range(0, len(every), width):
        chunk = tuple(every[first : first + width])
        config = part.config
        if not part.alike:
            config, chunk = _with(part, chunk[0]), ({},)
        for some in readings:
            yield Stack(
                config=config,
                machine_type=heard.machine_type,
                data=heard.data,
                recipe=trait.recipe,
                lanes=chunk,
                readings=some,
                signer=signer if part.alike else None,
            )


def _width(count: int, batch: int, lanes: int | str, slots: int, on_gpu: bool) -> int:
    """Lanes in a stack: as asked, or what a cache holds, spread over the slots."""
    if lanes != "auto":
        return int(lanes)
    if on_gpu:
        return count
    most = min(widest(batch), max(LEAST_LANES, math.ceil(count / slots)))
    return math.ceil(count / math.ceil(count / most))  # of equal size: the last one is waited for


def widest(batch: int) -> int:
    """Most lanes of a stack on a CPU."""
    return next(width for up_to, width in CPU_LANES if batch <= up_to)


# On disk ----------------------------------------------------------------------------------------


def write(plan: Plan, folder: Path, **more: Any) -> Path:  # noqa: ANN401 - any JSON value
    """Stores a plan whole, and what else is to be known of it; gives its path."""
    configs: dict[int, int] = {}
    texts: list[Any] = []
    for job in plan.jobs:
        if id(job.stack.config) not in configs:
            configs[id(job.stack.config)] = len(texts)
            texts.append(_anywhere(job.stack.config))
    path = folder / "plan.json"
    write_json(
        path,
        {
            "format": FORMAT,
            "name": plan.name,
            "typed": [text for text in plan.typed if not text.lstrip("+").startswith(SECRET)],
            "configs": texts,
            "jobs": [_as_json(job, configs[id(job.stack.config)]) for job in plan.jobs],
            "points": sorted(plan.points),
            "done": sorted(plan.done),
            "failed": sorted(plan.failed),
            **more,
        },
    )
    return path


def _anywhere(config: DictConfig) -> Any:  # noqa: ANN401 - what JSON can say
    """Settings that mean the same in another working directory, where a cluster's jobs run."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    if config.dataset.get("truth") is not None:
        plain["dataset"]["truth"] = str(Path(config.dataset.truth).resolve())
    return {**plain, "outputs": str(Path(config.outputs).resolve())}


def _as_json(job: Job, config: int) -> dict[str, Any]:
    stack = job.stack
    return {
        "config": config,
        "machine_type": stack.machine_type,
        "data": stack.data,
        "recipe": stack.recipe,
        "root": job.root,
        "lanes": {axis: [lane[axis] for lane in stack.lanes] for axis in stack.lanes[0]},
        "count": len(stack.lanes),
        "readings": list(stack.readings),
        "signatures": [list(lane) for lane in job.signatures],
        "skip": sorted(job.skip),
        "goes_on": job.goes_on,
    }


def read(path: Path) -> list[Job]:
    """The jobs of a plan.

    Raises:
        BadInput: There is no such plan.
        Damaged: The file is not what was written.
    """
    try:
        body = read_json(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no plan there; start the sweep again with -m") from None
    if body.get("format") != FORMAT:
        raise Damaged(f"{path}: not a plan of format {FORMAT}")
    configs = [DictConfig(one) for one in body["configs"]]
    return [_from_json(one, configs) for one in body["jobs"]]


def _from_json(one: Mapping[str, Any], configs: Sequence[DictConfig]) -> Job:
    columns = one["lanes"]
    lanes = tuple({axis: of[i] for axis, of in columns.items()} for i in range(one["count"]))
    stack = Stack(
        config=configs[one["config"]],
        machine_type=one["machine_type"],
        data=one["data"],
        recipe=one["recipe"],
        lanes=lanes,
        readings=tuple(one["readings"]),
    )
    signatures = tuple(tuple(lane) for lane in one["signatures"])
    return Job(stack, signatures, frozenset(one["skip"]), one["root"], one["goes_on"])


@lru_cache(maxsize=2)
def _jobs_of(path: Path, changed: int) -> list[Job]:
    return read(path)


def job_of(path: Path, number: int) -> Job:
    """One job of a plan; a process that asks for many reads the file once.

    Raises:
        BadInput: There is no such plan, or no such job in it.
        Damaged: The file is not what was written.
    """
    changed = path.stat().st_mtime_ns if path.exists() else 0
    jobs = _jobs_of(path, changed)
    if not 0 <= number < len(jobs):
        raise BadInput(f"{path} has {len(jobs)} jobs, and none of number {number}")
    return jobs[number]


def overrides_of(path: Path, number: int) -> list[str]:
    """A job as Hydra's launchers take it: overrides, as text."""
    quoted = str(path.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return [f"sweep.job='{quoted}#{number}'"]


def told(overrides: Sequence[str]) -> tuple[Path, int]:
    """The plan and number that `overrides_of` spelt."""
    value = OverridesParser.create().parse_override(overrides[0]).value()
    return named(str(value))


def named(job: str) -> tuple[Path, int]:
    """The plan and number that a setting `sweep.job` names.

    Raises:
        BadInput: It names none.
    """
    path, _, number = job.rpartition("#")
    if not (path and number.isdecimal()):
        raise BadInput(f"sweep.job={job}: set by a sweep itself, as PLAN#NUMBER; start it with -m")
    return Path(path), int(number)


def fail(path: Path, number: int, kind: str, reason: str) -> None:
    """Marks the points of a job that have no result as failed."""
    job = job_of(path, number)
    folder = Path(job.stack.config.outputs) / "runs" / job.stack.folder
    missing = [
        (lane, epochs)
        for lane, names in enumerate(job.signatures)
        for epochs, name in zip(job.stack.readings, names, strict=True)
        if name not in job.skip and ledger.find(folder, name) is None
    ]
    if missing:
        write_failure(
            folder,
            signatures=[job.stack.signature(lane, epochs) for lane, epochs in missing],
            kind=kind,
            reason=reason,
            model=job.stack.config.detector,
            machine_type=job.stack.machine_type,
            settings=job.stack.settings(*missing[0]),
        )
