"""A search, round by round: asks for trials, plans and trains them, takes out the worst, tells."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from asdgan._system import console
from asdgan._system.files import read_json
from asdgan.errors import BadInput, Damaged
from asdgan.sweep import grid as grids
from asdgan.sweep import plan as plans
from asdgan.sweep import prepare
from asdgan.sweep import study as search
from asdgan.sweep.grid import Grid
from asdgan.sweep.plan import Heard, Job, Plan
from asdgan.sweep.study import Results, Study, Trial

GPU_LANES = 64  # of a stack of trials on a GPU: more would leave a sampler few rounds


@dataclass
class Search:
    """Trials of a command line, up to as many as it says.

    Attributes:
        grid: Of the command line.
        outputs: Everything is written below it.
        run: Runs jobs of a plan file to their end.
        slots: Jobs that run at once.
        on_gpu: Whether on GPUs.
        begin: Told of a folder and a number of jobs that are to come.
        points: Signatures of all points that the trials of this call are made of.
        conclusion: The best trial and how it was chosen, once there is one to speak of.
    """

    grid: Grid
    outputs: Path
    run: Callable[[Sequence[Job], Path], object]
    slots: int
    on_gpu: bool
    begin: Callable[[Path, int], None]
    points: set[str] = field(default_factory=set)
    conclusion: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Refuses what cannot be judged."""
        self._node = self.grid.settings
        self.name = plans.name_of(self.grid)
        if self._node.objective == "val_loss" and any(
            part.config.windows.val_split == "none" for part in self.grid.parts
        ):
            raise BadInput(
                "sweep.objective=val_loss judges by held-out windows, and none are held out: add "
                "windows.val_split=random_clips"
            )
        heard, roots = prepare.heard_of(self.grid)
        self._heard: Sequence[Heard] = heard[0]  # a search goes over one data set
        self._root = roots[0]
        self._told = prepare.traits_of(self.grid)

    @property
    def folder(self) -> Path:
        """Of this search."""
        return self.outputs / "sweeps" / self.name

    @cached_property
    def size(self) -> int:
        """Trials in a round."""
        if self.on_gpu:
            lanes = GPU_LANES
        else:
            lanes = max(plans.widest(part.config.batch) for part in self.grid.parts)
        seeds = math.prod(len(axis.values) for axis in self.grid.block if axis.key == "seed")
        return search.size(
            self._node,
            lanes=self.slots * lanes,
            seeds=seeds,
            machine_types=len(self._heard),
            shapes=len(self.grid.parts),
        )

    def __str__(self) -> str:
        """What it will do."""
        higher, kind, what = search.OBJECTIVES[self._node.objective]
        return (
            f"{self.name}: {self._node.search} search over "
            f"{', '.join(one.key for one in self.grid.dimensions)}, {self._node.trials:,} trials "
            f"in rounds of {self.size}; best is the {'highest' if higher else 'lowest'} {what} "
            f"({kind})"
        )

    def go(self) -> int:
        """Runs what is missing, from where a call before it stopped; gives how many trials failed.

        Raises:
            BadInput: The storage cannot be used, or holds another search.
        """
        with closing(Study(self.name, self._node, self.grid.dimensions, self.folder)) as study:
            return self._go(study)

    def _go(self, study: Study) -> int:
        listed = search.listed_in(self.folder / "plan.json")
        results = Results(self.outputs / "runs")
        begun = study.restore(listed) or study.begun()
        before = study.counts()
        forgiven = 0  # they leave room to be tried again, once a call: they may fail again
        if self._node.retry == "failed":
            forgiven = before["fail"]
            study.again()
        try:
            for number in dict.fromkeys(trial.round for trial in begun):
                self._round(study, results, [one for one in begun if one.round == number])
            while (room := self._node.trials - sum(study.counts().values()) + forgiven) > 0:
                self._round(study, results, study.ask(min(self.size, room)))
        finally:
            kind = search.OBJECTIVES[self._node.objective][1]
            self.conclusion = f"{_best(study)}; chosen among {len(study)} ({kind})"
        counts = study.counts()
        failed = counts["fail"] - forgiven
        if not self.points:
            done = counts["complete"] + counts["pruned"]
            console.console.print(f"nothing to do: {done} done, {failed} failed")
        return failed

    def every_point(self) -> frozenset[str]:
        """Signatures of the points of all trials, those of earlier calls too."""
        try:
            before = read_json(self.folder / "plan.json")["points"]
        except (FileNotFoundError, Damaged, KeyError):
            before = []
        return frozenset(self.points.union(before))

    def _round(self, study: Study, results: Results, trials: Sequence[Trial]) -> None:
        """Runs one round to its end."""
        reduction = self._node.reduction
        rungs = search.rungs(self.grid.parts[0].readings, trials[0].round, reduction)
        higher = search.OBJECTIVES[self._node.objective][0]
        going, failed = list(trials), list[Trial]()
        left_over: set[Path] = set()
        for number, readings in enumerate(rungs):
            last = number == len(rungs) - 1
            left_over |= self._train(study, results, going, readings, goes_on=not last)
            failed += [trial for trial in going if readings[-1] not in trial.seen]
            going = [trial for trial in going if readings[-1] in trial.seen]
            if not last:
                going = search.promoted(going, reduction, higher)
        for trial in trials:
            state = "fail" if trial in failed else "complete" if trial in going else "pruned"
            study.tell(trial, state)
        for path in left_over:
            path.unlink(missing_ok=True)
        counts = study.counts()
        told = [f"{counts['complete'] + counts['pruned']} of {self._node.trials} trials"]
        told += [f"{counts['pruned']} of them ended early"] if counts["pruned"] else []
        told += [f"{counts['fail']} failed"] if counts["fail"] else []
        console.console.print(f"{', '.join(told)}; {_best(study)}")

    def _train(
        self,
        study: Study,
        results: Results,
        trials: Sequence[Trial],
        readings: Sequence[int],
        *,
        goes_on: bool,
    ) -> set[Path]:
        """Trains what is missing of some trials and sees their values.

        Returns:
            Checkpoints that are left for their next numbers of epochs.
        """
        parts, places = grids.parts_of(self.grid, [trial.values for trial in trials], readings)
        jobs, plan = self._planned(parts, results, goes_on)
        self.points |= plan.points
        plan = replace(plan, name=self.name, jobs=jobs, points=self.every_point())
        path = plans.write(plan, self.folder, trials=study.listed())
        runs = self.outputs / "runs"
        if jobs:
            self.run(jobs, path)
            results.look([job.stack.folder for job in jobs])
        self._see(trials, parts, places, results)
        return {runs / job.stack.folder / job.stack.checkpoint for job in jobs if job.goes_on}

    def _planned(
        self, parts: Sequence[grids.Part], results: Results, goes_on: bool
    ) -> tuple[tuple[Job, ...], Plan]:
        every = dict.fromkeys(range(len(parts)), self._heard)
        plan = plans.make(
            replace(self.grid, parts=tuple(parts)),
            every,
            dict.fromkeys(every, self._root),
            self._told,
            done=results.done,
            failed=(),
            slots=self.slots,
            on_gpu=self.on_gpu,
        )
        if plan.jobs:
            self.begin(self.folder, len(plan.jobs))
        plan = prepare.buildable(plan, skip=True)
        jobs = tuple(
            replace(
                job,
                goes_on=goes_on and self._told[job.stack.config.model._target_].prefix_stable,
            )
            for job in plan.jobs
        )
        return jobs, plan

    def _see(
        self,
        trials: Sequence[Trial],
        parts: Sequence[grids.Part],
        places: Sequence[Sequence[tuple[int, int]]],
        results: Results,
    ) -> None:
        """Notes what trials are worth where all their rows are there."""
        names = {
            (number, heard.machine_type): plans.signatures(
                part, heard, self._told[part.config.model._target_]
            )
            for number, part in enumerate(parts)
            for heard in self._heard
        }
        for trial, mine in zip(trials, places, strict=True):
            for reading, epochs in enumerate(parts[0].readings):
                rows = {}
                for heard in self._heard:
                    found = [
                        results.row(names[part, heard.machine_type][row][reading])
                        for part, row in mine
                    ]
                    rows[heard.machine_type] = [one for one in found if one is not None]
                if all(len(of_type) == len(mine) for of_type in rows.values()):
                    value = search.value_of(rows, self._node.objective)
                    if value is not None:
                        trial.seen[epochs] = value


def _best(study: Study) -> str:
    found = study.best()
    if found is None:
        return "none complete yet"
    number, value, chosen = found
    named = " ".join(
        f"{key}={one if isinstance(one, str) else f'{one:.6g}'}" for key, one in chosen.items()
    )
    return f"best trial {number}: {value:.4f} with {named}"
