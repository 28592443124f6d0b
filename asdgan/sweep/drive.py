"""A sweep from its command line to its leaderboard: plan, start, watch, conclude.

Whoever runs the jobs (the local workers, Slurm, Ray) is handed text: a plan file and a number.
What is done and what failed is read off the ledger, so that nobody's death loses a result.
"""

import copy
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from asdgan import board, ledger, material, settings, terminal
from asdgan.errors import BadInput
from asdgan.files import canonical, remove_remains
from asdgan.sweep import grid as grids
from asdgan.sweep import pace, traits
from asdgan.sweep import plan as plans
from asdgan.sweep.grid import Grid, Part
from asdgan.sweep.plan import Heard, Job, Plan
from asdgan.sweep.watch import Watch

log = logging.getLogger("asdgan")

SHOWN = 10  # lines of the leaderboard at the end of a sweep

# Hands jobs, each as (plan, number), to whoever runs them; returns when all have ended.
Launch = Callable[[Sequence[tuple[Path, int]]], None]


@lru_cache(maxsize=1)
def expanded(typed: tuple[str, ...]) -> Grid:
    """The grid of a command line, worked out once in a process."""
    return grids.expand(typed)


def answer(typed: Sequence[str], launcher: Launcher) -> int:
    """What Hydra's `-m` comes to: the sweep, its leaderboard, and an exit code.

    Args:
        typed: The command line, Hydra's own settings left out.
        launcher: The one that its config names.
    """
    grid = expanded(tuple(typed))

    def launch(jobs: Sequence[tuple[Path, int]]) -> None:
        try:
            launcher.launch([plans.overrides_of(*job) for job in jobs], initial_job_idx=0)
        except BadInput:
            raise
        except Exception as error:
            # Launchers of others say by raising that a job of many died; its files say which.
            said = " ".join(str(error).split())[:200]
            log.error(
                "the launcher: %s: %s; what its jobs wrote counts", type(error).__name__, said
            )

    try:
        slots, on_gpu = _room(grid, launcher)
        return sweep(typed, launch, slots=slots, on_gpu=on_gpu)
    except BadInput as error:
        return terminal.refusal(error)
    except (KeyboardInterrupt, SystemExit) as end:
        log.error(
            "stopped; what was finished is kept, and the same command goes on from there: "
            "python -m asdgan.run -m %s",
            " ".join(typed),
        )
        return 130 if isinstance(end, KeyboardInterrupt) else int(end.code or 0)


def _room(grid: Grid, launcher: Launcher) -> tuple[int, bool]:
    """Jobs at once, and whether on GPUs: here, or as the launcher says.

    Of a cluster no more is known before jobs wait in its queue.
    """
    from asdgan.sweep.local import slots_of

    found = slots_of(grid.parts[0].config)
    elsewhere = getattr(launcher, "gpus", None)
    on_gpu = found[0].gpu is not None if elsewhere is None else elsewhere > 0
    return len(found), on_gpu


def sweep(typed: Sequence[str], launch: Launch, *, slots: int, on_gpu: bool) -> int:
    """Runs what is missing of a grid; gives the exit code.

    Args:
        typed: The command line, Hydra's own settings left out.
        launch: Runs the jobs.
        slots: Jobs that it runs at once.
        on_gpu: Whether on GPUs.

    Raises:
        BadInput: Anything wrong with the grid or its data, before anything starts.
        KeyboardInterrupt: Asked to stop; what was finished is kept.
    """
    began = time.monotonic()
    grid = expanded(tuple(typed))
    outputs = _outputs(grid)
    plan = _planned(grid, outputs, slots, on_gpu)
    folder = outputs / "sweeps" / plan.name
    _say_plan(plan, time.monotonic() - began)
    if grid.settings.dry_run:
        if plan.jobs:
            hours, said = pace.estimate(plan.jobs, slots=slots)
            terminal.console.print(
                f"about {hours:,.1f} hours of training with {slots} jobs at once ({said})"
            )
        terminal.console.print("nothing started: sweep.dry_run=true")
        return 0
    with _alone(folder):
        path = plans.write(plan, folder)
        failed: set[str] = set(plan.failed)
        if plan.jobs:
            for stack in {job.stack.folder for job in plan.jobs}:
                remove_remains(outputs / "runs" / stack)
            try:
                failed |= _run(plan.jobs, path, outputs, launch)
            finally:
                _show(plan, outputs)
    return 1 if failed else 0


def _run(jobs: Sequence[Job], path: Path, outputs: Path, launch: Launch) -> set[str]:
    """Starts jobs and watches them; those that ran out of memory are halved and run again.

    Returns:
        Signatures of the points that failed.
    """
    todo = list(jobs)
    failed: set[str] = set()
    turn = 1
    while todo:
        wanted = sum(len(job.wanted) for job in todo)
        with terminal.bars(shown=True) as bar:
            counted = bar("points", wanted)
            watch = Watch(todo, outputs / "runs", counted.advance, terminal.console.print)
            watch.start()
            try:
                launch([(path, number) for number in range(len(todo))])
            finally:
                watch.finish()
        missing = [[name for name in job.wanted if name not in watch.done] for job in todo]
        full = {
            number
            for number, names in enumerate(missing)
            if len(todo[number].stack.lanes) > 1
            and any(name in watch.failed and watch.failed[name].kind == "memory" for name in names)
        }
        for number, names in enumerate(missing):
            if number in full:
                continue
            failed.update(names)
            if any(name not in watch.failed for name in names):
                plans.fail(path, number, "lost", "ended without a result or a word why")
        todo = [half for number in sorted(full) for half in _halves(todo[number])]
        if todo:
            turn += 1
            log.warning("out of memory: %d jobs are tried again as halves", len(full))
            path = _stored(todo, path, turn)
    return failed


def _halves(job: Job) -> list[Job]:
    middle = (len(job.stack.lanes) + 1) // 2
    return [job.narrowed(range(middle)), job.narrowed(range(middle, len(job.stack.lanes)))]


def _stored(jobs: Sequence[Job], path: Path, turn: int) -> Path:
    points = frozenset(name for job in jobs for lane in job.signatures for name in lane)
    plan = Plan(f"{path.parent.name}-{turn}", (), tuple(jobs), points, frozenset(), frozenset())
    return plans.write(plan, path.parent / f"turn_{turn}")


# Planning ---------------------------------------------------------------------------------------


def _outputs(grid: Grid) -> Path:
    named = {part.config.outputs for part in grid.parts}
    if len(named) > 1:
        raise BadInput(f"outputs takes one folder for a whole sweep, not {', '.join(named)}")
    return Path(named.pop())


def _planned(grid: Grid, outputs: Path, slots: int, on_gpu: bool) -> Plan:
    heard, roots = _heard(grid)
    done: set[str] = set()
    for path, found in ledger.each(outputs / "runs"):
        if isinstance(found, str):
            log.warning("not counted, so it is made again: %s: %s", path, found)
        else:
            done |= {own["signature"] for own in found.own}
    failed: set[str] = set()
    if grid.settings.retry == "never":
        records, _ = ledger.failures(outputs / "runs")
        failed = {name for record in records for name in record.signatures}
    plan = plans.make(
        grid,
        heard,
        roots,
        {
            target: traits.of(target)
            for target in {part.config.model._target_ for part in grid.parts}
        },
        done=done,
        failed=failed,
        slots=slots,
        on_gpu=on_gpu,
    )
    return _buildable(plan, skip=grid.settings.skip_invalid)


def _heard(grid: Grid) -> tuple[dict[int, list[Heard]], dict[int, str]]:
    """The machine types of each part and the fingerprints of their clips, each worked out once."""
    heard: dict[int, list[Heard]] = {}
    roots: dict[int, str] = {}
    known: dict[bytes, str] = {}
    prints: dict[tuple[bytes, str], str] = {}
    with terminal.bars(shown=True) as bar:
        for number, part in enumerate(grid.parts):
            config = part.config
            data = canonical(OmegaConf.to_container(config.dataset))
            if grid.settings.dry_run and not _is_there(part):
                roots[number] = ""
                types = part.machine if part.machine != "all" else ("each machine type",)
                heard[number] = [Heard(name, "not there yet") for name in types]
                continue
            if data not in known:
                root = material.root_of(config, lambda title, total: bar(title, total).advance)
                known[data] = str(root.resolve())
            root = Path(known[data])
            roots[number] = known[data]
            types = material.machine_types_of(part.machine, root, config.dataset.release)
            for name in types:
                if (data, name) not in prints:
                    prints[data, name] = material.fingerprint_of(config, root, name)
            heard[number] = [Heard(name, prints[data, name]) for name in types]
    return heard, roots


def _is_there(part: Part) -> bool:
    root = OmegaConf.to_container(part.config.dataset)["root"]  # pyright: ignore - maybe ???
    return root is not None and Path(root).is_dir()


def _buildable(plan: Plan, *, skip: bool) -> Plan:
    """The plan without jobs whose model cannot be built; each distinct shape is tried once.

    Raises:
        BadInput: One cannot, and `sweep.skip_invalid` was not asked for.
    """
    shapes: dict[bytes, DictConfig] = {}
    shape_of: dict[int, bytes] = {}  # by the config's id; many jobs share one
    for job in plan.jobs:
        config = job.stack.config
        if id(config) not in shape_of:
            shape_of[id(config)] = _shape(config)
            shapes.setdefault(shape_of[id(config)], config)
    wrong = dict(zip(shapes, traits.unbuildable(list(shapes.values())), strict=True))
    if not any(wrong.values()):
        return plan
    refused = dict.fromkeys(
        f"{_named(config)}: {wrong[shape]}" for shape, config in shapes.items() if wrong[shape]
    )
    said = "; ".join(refused)
    if not skip:
        raise BadInput(f"{said}; leave it out, or add sweep.skip_invalid=true to run the others")
    log.warning("left out, because it cannot be built: %s", said)
    jobs = tuple(job for job in plan.jobs if not wrong[shape_of[id(job.stack.config)]])
    return Plan(plan.name, plan.typed, jobs, plan.points, plan.done, plan.failed)


def _shape(config: DictConfig) -> bytes:
    """All that decides whether a model can be built: not what lanes may differ in."""
    plain = OmegaConf.to_container(copy.deepcopy(config), resolve=True)
    assert isinstance(plain, dict)
    inside = {*settings.LANE_AXES, "epochs", "machine", "dataset", "sweep", "selection", "outputs"}
    return canonical({key: value for key, value in plain.items() if key not in inside})


def _named(config: DictConfig) -> str:
    said = {key: config[key] for key in ("batch", "latent", "hidden_layers")}
    return " ".join(
        [config.detector, *(f"{key}={value}" for key, value in said.items() if value is not None)]
    )


# Speaking ---------------------------------------------------------------------------------------


def _say_plan(plan: Plan, seconds: float) -> None:
    say = terminal.console.print
    left = sum(len(job.wanted) for job in plan.jobs)
    if not plan.jobs:
        say(f"nothing to do: {len(plan.done)} done, {len(plan.failed)} failed")
        return
    lanes = [len(job.stack.lanes) for job in plan.jobs]
    types = len({job.stack.machine_type for job in plan.jobs})
    say(
        f"{plan.name}: {len(plan.points):,} points, {len(plan.done):,} done before, {left:,} to "
        f"run on {_count(types, 'machine type')}, as {_count(len(plan.jobs), 'stack')} of up to "
        f"{_count(max(lanes), 'lane')} (planned in {seconds:.1f} s)"
    )
    if plan.failed:
        say(f"{len(plan.failed):,} failed before and are not tried again (sweep.retry=never)")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _show(plan: Plan, outputs: Path) -> None:
    """The leaderboard of the sweep's points."""
    failures, _ = ledger.failures(outputs / "runs")
    results = (found for _, found in ledger.each(outputs / "runs") if not isinstance(found, str))
    board.show(results, failures, wanted=plan.points, top=SHOWN)
    terminal.console.print(f"all of it: python -m asdgan.board {plan.name}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One call of a sweep at a time; the second is told who runs it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "running.json"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.read(descriptor, 4096).decode(errors="replace") or "another process"
            raise BadInput(f"this sweep is running already: {said.strip()}; wait for it") from None
        who = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.ctime()}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(who).encode())
        yield
    finally:
        os.close(descriptor)
