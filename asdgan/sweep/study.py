"""Search by trials: Optuna asks, stacks answer, and every trial is a point of the ledger.

A round of trials is asked for at once, as many as fill the stacks. Where several numbers of epochs
are given, most trials of a round end at an early one (successive halving; rounds take turns in
when that begins, as in Hyperband: Li et al., JMLR 18, 2018). A trial's value is read off results
on disk, whoever wrote them. The study is a record of what was asked; one that is damaged is made
anew from the trials that the plan lists, and their results.
"""

import hashlib
import logging
import math
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from asdgan._system.files import canonical, read_json
from asdgan.errors import BadInput, Damaged
from asdgan.results import ledger, metrics
from asdgan.sweep.search_space import Dimension, Value
from asdgan.training.evaluate import Kept

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("asdgan")

# What trials are judged by, whether more is better, and what kind of selection that is.
OBJECTIVES = {
    "auc": (True, "oracle", "AUC weighted by test clips"),
    "pauc": (True, "oracle", "pAUC weighted by test clips"),
    "val_loss": (False, "label_free", "score of held-out normal windows"),
}
LEAST_ROUNDS = 5  # of a search: a sampler learns between rounds, not within one


@dataclass
class Trial:
    """One trial of a study.

    Attributes:
        number: In the study.
        values: Of every dimension.
        round: In which it was asked for.
        seen: Its value after each number of epochs that it was trained for.
    """

    number: int
    values: Mapping[str, Value]
    round: int
    seen: dict[int, float] = field(default_factory=dict)


class Study:
    """What was asked and what it gave, kept by Optuna in a journal or a database.

    Args:
        name: Of the sweep.
        node: The settings `sweep`.
        dimensions: What varies.
        folder: Of the sweep.

    Raises:
        BadInput: The storage cannot be used, or holds a search of other dimensions.
    """

    def __init__(
        self, name: str, node: DictConfig, dimensions: Sequence[Dimension], folder: Path
    ) -> None:
        """Opens the study, or begins it."""
        self._node, self._folder = node, folder
        self._database: optuna.storages.RDBStorage | None = None
        self._distributions = {one.key: one.distribution() for one in dimensions}
        self._higher = OBJECTIVES[node.objective][0]
        space = {one.key: repr(one) for one in dimensions}
        with _quietly():
            self._study = self._opened(name)
            held = self._study.user_attrs.setdefault("space", space)
            if held != space:
                raise BadInput(
                    f"the study {name} searches {_said(held)}, not {_said(space)}; "
                    "give this search another sweep.name"
                )
            self._study.set_user_attr("space", space)

    def _opened(self, name: str) -> "optuna.Study":
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        about = {
            "study_name": name,
            "direction": "maximize" if self._higher else "minimize",
            "load_if_exists": True,
        }
        if self._node.storage is not None:
            # The driver that the extra installs, whatever SQLAlchemy's default is.
            address = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self._node.storage)
            try:
                self._database = optuna.storages.RDBStorage(address)
                return optuna.create_study(storage=self._database, **about)
            except Exception as error:  # of any database driver
                said = " ".join(str(error).split())[:200]
                hint = "; pip install 'asdgan[postgres]'" if "psycopg" in said else ""
                shown = re.sub(r"//([^:@/]*):[^@/]*@", r"//\1:***@", self._node.storage)
                raise BadInput(
                    f"sweep.storage={shown}: {type(error).__name__}: {said}{hint}"
                ) from None
        path = self._folder / "study.journal"
        self._folder.mkdir(parents=True, exist_ok=True)
        for lock in self._folder.glob("study.journal.lock*"):
            lock.unlink()  # of a process that was killed: the sweep's own lock is ours
        try:
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))), **about
            )
            len(study.trials)
            return study
        except Exception as error:  # whatever a damaged line makes of it
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            log.warning(
                "%s: %s; it was put aside as %s and is made anew from the plan and its results",
                path,
                " ".join(str(error).split())[:120] or type(error).__name__,
                aside.name,
            )
        return optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), **about)

    def close(self) -> None:
        """Ends the connections to a database."""
        if self._database is not None:
            self._database.remove_session()
            self._database.engine.dispose()

    def __len__(self) -> int:
        """Trials asked for so far."""
        return len(self._study.trials)

    def counts(self) -> dict[str, int]:
        """Trials by how they stand: running, complete, pruned, fail."""
        names = [trial.state.name.lower() for trial in self._study.get_trials(deepcopy=False)]
        return {name: names.count(name) for name in ("running", "complete", "pruned", "fail")}

    def begun(self) -> list[Trial]:
        """Trials that were asked for and not told, by a call that was stopped.

        In a storage that several hosts share, those of a process of this host that is gone.
        """
        from optuna.trial import TrialState

        found = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        shared = self._node.storage is not None
        return [
            Trial(one.number, dict(one.params), one.user_attrs.get("round", 0))
            for one in found
            if not shared or _is_gone(one.user_attrs.get("owner", ""))
        ]

    def restore(self, trials: Sequence[Mapping[str, Any]]) -> list[Trial]:
        """Takes in trials that a plan lists, where the study has none; as trials that run."""
        if self._study.get_trials(deepcopy=False):
            return []
        for one in trials:
            self._study.enqueue_trial(one["values"])
        return [self._asked(one["round"]) for one in trials]

    def again(self) -> int:
        """Has the trials that failed asked for again; gives how many."""
        from optuna.trial import TrialState

        every = self._study.get_trials(deepcopy=False)
        lasting = [t.params for t in every if t.state is not TrialState.FAIL]
        lost: list[dict[str, Any]] = []
        for trial in every:
            if trial.state is TrialState.FAIL and trial.params not in [*lasting, *lost]:
                lost.append(trial.params)
                self._study.enqueue_trial(trial.params)
        return len(lost)

    def ask(self, count: int) -> list[Trial]:
        """A round of new trials; the same ones after the same history."""
        import optuna

        number = len(self)
        seed = _seed(self._node.search_seed, number)
        rounds = {one.user_attrs.get("round", 0) for one in self._study.get_trials(deepcopy=False)}
        with _quietly():
            self._study.sampler = (
                optuna.samplers.TPESampler(seed=seed, constant_liar=True)
                if self._node.search == "tpe"
                else optuna.samplers.RandomSampler(seed=seed)
            )
            return [self._asked(max(rounds, default=-1) + 1) for _ in range(count)]

    def _asked(self, number: int) -> Trial:
        with _quietly():
            trial = self._study.ask(self._distributions)
        trial.set_user_attr("round", number)
        trial.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")
        return Trial(trial.number, dict(trial.params), number)

    def tell(self, trial: Trial, state: str) -> None:
        """Ends a trial as `complete`, `pruned` or `fail`; its value is the last it was seen at."""
        import optuna

        frozen = self._study.trials[trial.number]
        handle = optuna.trial.Trial(self._study, frozen._trial_id)
        for epochs, value in sorted(trial.seen.items()):
            if epochs not in frozen.intermediate_values:
                handle.report(value, epochs)
        value = trial.seen[max(trial.seen)] if state == "complete" else None
        self._study.tell(handle, value, state=optuna.trial.TrialState[state.upper()])

    def best(self) -> tuple[int, float, dict[str, Value]] | None:
        """Number, value and settings of the best complete trial."""
        if not self.counts()["complete"]:
            return None
        found = self._study.best_trial
        assert found.value is not None
        return found.number, found.value, found.params

    def listed(self) -> list[dict[str, Any]]:
        """Every trial, for the plan."""
        return [
            {"values": one.params, "round": one.user_attrs.get("round", 0)}
            for one in self._study.get_trials(deepcopy=False)
            if one.params
        ]


def _is_gone(owner: str) -> bool:
    host, _, process = owner.rpartition(":")
    return host == socket.gethostname() and not Path(f"/proc/{process}").exists()


def _said(space: Mapping[str, str]) -> str:
    return ", ".join(space)


def _seed(*place: int) -> int:
    return int.from_bytes(hashlib.sha256(canonical(list(place))).digest()[:4], "big")


@contextmanager
def _quietly() -> Iterator[None]:
    """Optuna tells of each trial, and warns of what it may change one day."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def listed_in(path: Path) -> list[dict[str, Any]]:
    """The trials that a plan lists; none where there is no such plan."""
    try:
        return read_json(path).get("trials", [])
    except (FileNotFoundError, Damaged):
        return []


# Rounds -----------------------------------------------------------------------------------------


def rungs(readings: Sequence[int], number: int, reduction: int) -> list[tuple[int, ...]]:
    """The readings of a round, parted where trials are taken out.

    Each round begins one reading later than the one before, until none takes any out; then the
    first again.

    >>> [rungs((1, 3, 9), number, 3) for number in range(4)]
    [[(1,), (3,), (9,)], [(1, 3), (9,)], [(1, 3, 9)], [(1,), (3,), (9,)]]
    """
    if reduction == 1:
        return [tuple(readings)]
    first = number % len(readings) + 1
    return [tuple(readings[:first]), *((one,) for one in readings[first:])]


def promoted(trials: Sequence[Trial], reduction: int, higher: bool) -> list[Trial]:
    """The best of some trials by the value seen last: one in `reduction`, at least one."""
    kept = math.ceil(len(trials) / reduction)
    ranked = sorted(
        trials, key=lambda one: one.seen[max(one.seen)] * (-1 if higher else 1)
    )  # stable: of equals the first
    return sorted(ranked[:kept], key=lambda one: one.number)


def size(node: DictConfig, *, lanes: int, seeds: int, machine_types: int, shapes: int) -> int:
    """Trials in a round: what fills the stacks, in no fewer rounds than a sampler learns from.

    Args:
        node: The settings `sweep`.
        lanes: In all stacks that run at once.
        seeds: Of a trial.
        machine_types: Of a trial.
        shapes: Kinds of model among trials; each makes stacks of its own.
    """
    if node.ask != "auto":
        return node.ask
    filling = math.ceil(lanes * max(1, shapes / 2) / (seeds * machine_types))
    return max(1, min(filling, math.ceil(node.trials / LEAST_ROUNDS)))


# Values -----------------------------------------------------------------------------------------


class Results:
    """Rows of a ledger by signature, read when asked for.

    Args:
        runs: The folder of results.
    """

    def __init__(self, runs: Path) -> None:
        """Lists what is there."""
        self._runs = runs
        self._where: dict[str, Path] = {}
        self._read: dict[Path, dict[str, dict[str, Any]]] = {}
        self._note(ledger.each(runs))

    def look(self, folders: Sequence[str]) -> None:
        """Lists what some folders hold by now."""
        for folder in folders:
            self._note(ledger.each(self._runs / folder))

    def _note(self, found: Iterator[tuple[Path, ledger.Result | str]]) -> None:
        for path, result in found:
            if isinstance(result, str):
                log.warning("not counted, so it is made again: %s: %s", path, result)
            else:
                self._where |= {own["signature"]: path for own in result.own}

    @property
    def done(self) -> set[str]:
        """Signatures that have a result."""
        return set(self._where)

    def row(self, signature: str) -> dict[str, Any] | None:
        """The row of a point; None where there is none that verifies."""
        found = self.kept(signature)
        return None if found is None else found.row

    def kept(self, signature: str) -> Kept | None:
        """The same, and where it stands."""
        path = self._where.get(signature)
        if path is None:
            return None
        if path not in self._read:
            try:
                self._read[path] = {row["signature"]: row for row in ledger.read(path).rows}
            except (Damaged, OSError):
                self._read[path] = {}
        row = self._read[path].get(signature)
        return None if row is None else Kept(row=row, path=path)


def value_of(rows: Mapping[str, Sequence[Mapping[str, Any]]], objective: str) -> float | None:
    """What a trial is worth at one number of epochs.

    Args:
        rows: Of the trial's points by machine type, one a seed.
        objective: One of `OBJECTIVES`.

    Returns:
        The mean over seeds, then over machine types: weighted by test clips for an area, plain for
        a loss. None where it is undefined.

    Raises:
        BadInput: Rows have no such loss.
    """
    if objective == "val_loss":
        means = [_mean([_held_out(row) for row in of_type]) for of_type in rows.values()]
        return _mean(means)
    judged = {}
    for machine_type, of_type in rows.items():
        areas = [row[objective] for row in of_type if row[objective] is not None]
        mean = _mean(areas) if areas else None
        judged[machine_type] = {"auc": mean, "pauc": mean, "clips": of_type[0]["clips"]}
    return metrics.overall(judged)["auc_weighted"]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _held_out(row: Mapping[str, Any]) -> float:
    losses = row["losses"].get(f"val/{row['primary']}")
    if not losses:
        raise BadInput(
            f"sweep.objective=val_loss: {row['model']} has no score of held-out windows here; "
            "hold some out with windows.val_split=random_clips"
        )
    return losses[-1]
