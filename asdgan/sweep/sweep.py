"""A sweep from its command line to its leaderboard: plan, start, watch, conclude.

Whoever runs the jobs (the local workers, Slurm, Ray) is handed text: a plan file and a number.
What is done and what failed is read off the ledger, so that nobody's death loses a result.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from hydra.plugins.launcher import Launcher

from asdgan._system import console
from asdgan._system.files import remove_remains
from asdgan.errors import BadInput
from asdgan.sweep import combine, estimate, prepare
from asdgan.sweep import grid as grids
from asdgan.sweep import plan as plans
from asdgan.sweep import search as rounds
from asdgan.sweep.grid import Grid
from asdgan.sweep.launchers import local, slurm
from asdgan.sweep.plan import Job, Plan
from asdgan.sweep.progress import Watch

log = logging.getLogger("asdgan")


# Hands jobs, each as (plan, number), to whoever runs them; returns when all have ended.
Launch = Callable[[Sequence[tuple[Path, int]]], None]
# Prints the leaderboard: the folder of results, and the signatures of the points that count.
Show = Callable[[Path, Collection[str]], None]


@lru_cache(maxsize=1)
def expanded(typed: tuple[str, ...]) -> Grid:
    """The grid of a command line, worked out once in a process."""
    return grids.expand(typed)


def answer(
    typed: Sequence[str], launcher: Launcher, hydras: Sequence[str] = (), *, show: Show
) -> int:
    """What Hydra's `-m` comes to: the sweep, its leaderboard, and an exit code.

    Args:
        typed: The command line, Hydra's own settings left out.
        launcher: The one that its config names.
        hydras: Hydra's own settings on the command line.
        show: Prints the leaderboard at the end.
    """
    grid = expanded(tuple(typed))
    try:
        with _room(grid, launcher) as (launch, slots, on_gpu):
            begin = getattr(launcher, "begin", _later)
            return sweep(typed, launch, slots=slots, on_gpu=on_gpu, show=show, begin=begin)
    except BadInput as error:
        return console.refusal(error)
    except (KeyboardInterrupt, SystemExit) as end:
        log.error(
            "stopped; what was finished is kept, and the same command goes on from there: "
            "python -m asdgan.run -m %s",
            " ".join([*typed, *hydras]),
        )
        return 130 if isinstance(end, KeyboardInterrupt) else int(end.code or 0)


@contextmanager
def _room(grid: Grid, launcher: Launcher) -> Iterator[tuple[Launch, int, bool]]:
    """What runs jobs; how many at once, as far as one can know; and whether on GPUs."""
    config = grid.parts[0].config
    if slurm.is_one(launcher):
        slots, on_gpu = slurm.room(launcher, config)
        yield lambda jobs: slurm.launch(launcher, jobs, slots), slots, on_gpu
        return

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

    opened = getattr(launcher, "opened", None)
    if opened is not None:
        with opened(config) as (slots, on_gpu):
            yield launch, slots, on_gpu
        return
    found = local.slots_of(config)
    yield launch, len(found), found[0].gpu is not None


def _later(folder: Path, jobs: int) -> None:
    """Most launchers start nothing before they have jobs."""


def sweep(
    typed: Sequence[str],
    launch: Launch,
    *,
    slots: int,
    on_gpu: bool,
    show: Show,
    begin: Callable[[Path, int], None] = _later,
) -> int:
    """Runs what is missing of a grid; gives the exit code.

    Args:
        typed: The command line, Hydra's own settings left out.
        launch: Runs the jobs.
        slots: Jobs that it runs at once.
        on_gpu: Whether on GPUs.
        show: Prints the leaderboard at the end.
        begin: Told where and how many jobs there will be, before their models are tried.

    Raises:
        BadInput: Anything wrong with the grid or its data, before anything starts.
        KeyboardInterrupt: Asked to stop; what was finished is kept.
    """
    began = time.monotonic()
    grid = expanded(tuple(typed))
    outputs = prepare.outputs_of(grid)
    if grid.settings.search is not None:
        return _search(grid, outputs, launch, slots, on_gpu, show, begin)
    plan = prepare.planned(grid, outputs, slots, on_gpu)
    folder = outputs / "sweeps" / plan.name
    if plan.jobs and not grid.settings.dry_run:
        begin(folder, len(plan.jobs))
    plan = prepare.buildable(plan, skip=grid.settings.skip_invalid)
    _say_plan(plan, time.monotonic() - began)
    if grid.settings.dry_run:
        if plan.jobs:
            hours, said = estimate.estimate(plan.jobs, slots=slots)
            console.console.print(
                f"about {hours:,.1f} hours of training with {slots} jobs at once ({said})"
            )
        console.console.print("nothing started: sweep.dry_run=true")
        return 0
    with _alone(folder):
        path = plans.write(plan, folder)
        failed: set[str] = set(plan.failed)
        if plan.jobs or plan.ensembles:
            for stack in {job.stack.folder for job in plan.jobs}:
                remove_remains(outputs / "runs" / stack)
            try:
                failed |= _run(plan.jobs, path, outputs, launch)
                if plan.ensembles:
                    failed |= combine.put_together(plan.ensembles, outputs, console.console.print)
            finally:
                _show(show, plan.name, plan.points, outputs)
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
        with console.bars(shown=True) as bar:
            counted = bar("points", wanted)
            watch = Watch(todo, outputs / "runs", counted.advance, console.console.print)
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


def _search(
    grid: Grid,
    outputs: Path,
    launch: Launch,
    slots: int,
    on_gpu: bool,
    show: Show,
    begin: Callable[[Path, int], None],
) -> int:
    """Runs what is missing of a search; gives the exit code."""

    def run(jobs: Sequence[Job], path: Path) -> None:
        _run(jobs, path, outputs, launch)

    search = rounds.Search(grid, outputs, run, slots, on_gpu, begin)
    console.console.print(str(search))
    if grid.settings.dry_run:
        console.console.print("nothing started: sweep.dry_run=true")
        return 0
    with _alone(search.folder):
        try:
            failed = search.go()
        finally:
            if search.points:
                _show(show, search.name, search.every_point(), outputs)
                console.console.print(search.conclusion)
    return 1 if failed else 0


# Speaking ---------------------------------------------------------------------------------------


def _say_plan(plan: Plan, seconds: float) -> None:
    say = console.console.print
    left = sum(len(job.wanted) for job in plan.jobs)
    if not plan.jobs and not plan.ensembles:
        say(f"nothing to do: {len(plan.done)} done, {len(plan.failed)} failed")
        return
    parts = [f"{len(plan.points):,} points", f"{len(plan.done):,} done before"]
    if plan.jobs:
        lanes = [len(job.stack.lanes) for job in plan.jobs]
        types = len({job.stack.machine_type for job in plan.jobs})
        parts.append(
            f"{left:,} to run on {_count(types, 'machine type')}, as "
            f"{_count(len(plan.jobs), 'stack')} of up to {_count(max(lanes), 'lane')}"
        )
    if plan.ensembles:
        parts.append(f"{_count(len(plan.ensembles), 'ensemble')} to put together of their members")
    say(f"{plan.name}: {', '.join(parts)} (planned in {seconds:.1f} s)")
    if plan.failed:
        say(f"{len(plan.failed):,} failed before and are not tried again (sweep.retry=never)")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _show(show: Show, name: str, points: Collection[str], outputs: Path) -> None:
    """Prints the leaderboard of the sweep's points, and the command that lists all of it."""
    show(outputs / "runs", points)
    console.console.print(f"all of it: asdgan board {name}")


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
