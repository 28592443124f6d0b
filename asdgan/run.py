"""One run: every machine type that the settings name, one after the other, and a table.

`python -m asdgan.run model=ganomaly` trains, scores and judges; with `-m` the line is a sweep
(asdgan/sweep/). A machine type whose result is in the ledger already is read back, not trained
again.
"""

import functools
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from asdgan._system import console
from asdgan._system.parallel import usable_cores
from asdgan.config import compose
from asdgan.errors import BadInput
from asdgan.report import summary
from asdgan.results import ledger, metrics
from asdgan.results.threshold import training_scores, usual_threshold
from asdgan.sweep import grid, sweep
from asdgan.sweep.launchers import remote
from asdgan.training import ensembles, machine_data, train
from asdgan.training.evaluate import Kept

log = logging.getLogger("asdgan")

SHOWN = 20  # clips without labels, of each machine type

_outcome: list[int] = []  # exit codes of the jobs that Hydra ran in this process


def run(config: DictConfig) -> list[Kept]:
    """Runs every machine type that the settings name, and prints the table.

    Returns:
        One row per machine type, in the order run.

    Raises:
        BadInput: The data set or one of its clips cannot be used.
        FloatingPointError: A machine type has no result; the others have theirs.
        SystemExit: Asked to stop by a signal; the next call goes on from there.
    """
    train.quiet_libraries()
    kept: list[Kept] = []
    failures: list[str] = []
    logger = _logger(config)
    with console.stopping() as check, console.bars(config.trainer.progress) as bar:

        def counter(title: str, total: int) -> Callable[..., None]:
            shown = bar(title, total)

            def advance(count: int = 1, note: str = "") -> None:
                shown.advance(count, note)
                check()

            return advance

        root = machine_data.root_of(config, counter)
        for machine_type in machine_data.machine_types_of(config.machine, root, config):
            if compose.is_ensemble(config):
                trained = functools.partial(_point, root, machine_type, None, counter)
                one = ensembles.run(config, root, machine_type, trained, counter)
            else:
                one = _point(root, machine_type, logger, counter, config)
            if one is None:
                failures.append(machine_type)
            else:
                kept.append(one)
    _conclude(kept, failures, logger)
    if failures:
        raise FloatingPointError(
            f"no result for {', '.join(failures)}; the other types have theirs"
        )
    return kept


def _point(
    root: Path,
    machine_type: str,
    logger: Any,  # noqa: ANN401 - a Lightning logger
    counter: Callable[[str, int], Callable[..., None]],
    config: DictConfig,
) -> Kept | None:
    """The result of a point, read back or trained; None where it has none, which is said."""
    import torch

    torch.set_num_threads(train.threads_of(config, 1, usable_cores()))
    outputs = Path(config.outputs)
    heard = machine_data.listen(config, root, machine_type, counter)
    point = train.alone(config, heard)
    found = ledger.find(outputs / "runs", point.signature(0, config.epochs))
    if found is not None:
        log.info("%s: %s done before, read back from %s", machine_type, config.detector, found[0])
        return Kept(row=found[1], path=found[0])
    steps = train.steps_of(config, heard.train, config.epochs)
    training = counter(f"{machine_type}: {config.detector}", steps)
    rows = train.train(point, heard, outputs=outputs, logger=logger, on_steps=training)
    if rows:
        return rows[0]
    log.error(
        "%s: losses of %s were not finite, so there is no result; its record is in %s; a lower "
        "lr may help",
        machine_type,
        config.detector,
        outputs / "runs" / point.folder,
    )
    return None


def _logger(config: DictConfig) -> Any:  # noqa: ANN401 - a Lightning logger
    if not config.logger:
        return None
    try:
        return hydra.utils.instantiate(config.logger)
    except InstantiationException as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        name = str(config.logger._target_).rpartition(".")[2].removesuffix("Logger").lower()
        missing = str(error.__cause__).partition(". ")[0]
        raise BadInput(
            f"logger={name} needs a package that is not installed ({missing}); "
            f"pip install 'asdgan[{name}]', or take logger=csv"
        ) from None


def _conclude(kept: Sequence[Kept], failures: Sequence[str], logger: Any) -> None:  # noqa: ANN401
    if not kept:
        return
    rows = [one.row for one in kept]
    overall = metrics.overall({row["machine_type"]: row for row in rows})
    if any(_labelled(row) for row in rows):
        console.console.print(summary.results_table(rows, overall))
    for one in kept:
        if one.row["auc"] is None:
            _unjudged(one)
    folders = sorted({str(one.path.parent) for one in kept})
    console.console.print("results: " + " ".join(folders), markup=False)
    if logger is not None:
        named = {f"weighted/{name}": overall[f"{name}_weighted"] for name in ("auc", "pauc")}
        named |= {f"mean/{name}": overall[f"{name}_mean"] for name in ("auc", "pauc")}
        logger.log_metrics(
            {name: value for name, value in named.items() if value is not None},
            step=max(row["epochs"] for row in rows),
        )
        logger.finalize("failed" if failures else "success")


def _labelled(row: Mapping[str, Any]) -> int:
    """Clips with a label."""
    return sum(section["normal"] + section["anomaly"] for section in row["sections"].values())


def _unjudged(one: Kept) -> None:
    """Prints the scores of what could not be judged, strangest first, and a threshold for them."""
    row, result = one.row, ledger.read(one.path)
    name, primary = row["machine_type"], row["primary"]
    number = next(i for i, r in enumerate(result.own) if r["signature"] == row["signature"])
    stored = ledger.read_scores(result)
    known = training_scores(stored, primary, number)
    limit = None if known is None else usual_threshold(known)
    say = functools.partial(console.console.print, markup=False)
    why = "no section has clips of both labels" if _labelled(row) else "no labels to judge by"
    say(f"{name}: not judged, {why}")
    if f"score/{primary}" in stored:
        scored = sorted(
            zip(stored[f"score/{primary}"][number].tolist(), stored["clip"].tolist(), strict=True),
            key=lambda pair: (-pair[0], pair[1]),
        )
        for score, clip in scored[:SHOWN]:
            verdict = f"  {limit.verdict(score)}" if limit else ""
            say(f"  {score:12.6g}  {console.printable(clip)}{verdict}")
        if len(scored) > SHOWN:
            say(
                f"  and {len(scored) - SHOWN} lower ones, in {one.path.with_suffix('.scores.npz')}"
            )
    if limit is None or known is None:
        reason = "trainer.train_scores=false" if known is None else "their scores are not finite"
        say(f"{name}: no threshold, as training clips have no scores ({reason})")
    else:
        say(
            f"{name}: threshold {limit.value:.6g} of {primary}, {limit.fit} at "
            f"{limit.quantile:g} of the scores of {len(known)} training clips"
        )
    say(f"{name}: new clips are scored by `asdgan score {one.path} clip.wav ...`")


# The door ---------------------------------------------------------------------------------------


@hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="run")
def _job(config: DictConfig) -> Any:  # noqa: ANN401 - for whoever launched it, as text
    """One job as Hydra starts it; what a person can mend ends it with a sentence."""
    if config.sweep.job is not None:
        return remote.named(config.sweep.job)
    try:
        run(compose.checked(config))
        _outcome.append(0)
    except BadInput as error:
        _outcome.append(console.refusal(error))
    except FloatingPointError as error:
        log.error("%s", error)
        _outcome.append(1)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m asdgan.run`; gives the exit code, 2 for what a person got wrong."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _answered(arguments)
    except BrokenPipeError:
        return console.hung_up()
    except KeyboardInterrupt:  # outside of what finishes writing first
        return console.stopped(signal.SIGINT)


def _answered(arguments: list[str]) -> int:
    asked = get_args_parser().parse_args(arguments)
    asks_hydra = ("help", "hydra_help", "cfg", "info", "shell_completion")
    if not any(getattr(asked, name) for name in asks_hydra):
        short = [grid.in_full(text) for text in asked.overrides]
        arguments = [grid.in_full(text) if text in asked.overrides else text for text in arguments]
        try:
            remote.refuse_missing(asked.overrides)
            if asked.multirun:
                sweep.expanded(tuple(text for text in short if not compose.is_hydras(text)))
            else:
                compose.preview(short)
        except BadInput as error:
            return console.refusal(error)
    sys.argv = [sys.argv[0], *arguments]
    _outcome.clear()
    try:
        _job()
    except SystemExit as end:  # of a sweep, or asked to stop
        return end.code if isinstance(end.code, int) else 1
    return max(_outcome, default=0)


if __name__ == "__main__":
    raise SystemExit(main())
