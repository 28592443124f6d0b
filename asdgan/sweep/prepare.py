"""Before a sweep starts: which data it is about, what is done, and whether its models exist."""

import logging
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asdgan._system import console
from asdgan._system.files import canonical
from asdgan.config import compose, traits
from asdgan.errors import BadInput
from asdgan.results import ledger
from asdgan.results.failures import failures_in
from asdgan.sweep import building
from asdgan.sweep import plan as plans
from asdgan.sweep.grid import Grid, Part
from asdgan.sweep.plan import Heard, Plan
from asdgan.training import machine_data

log = logging.getLogger("asdgan")


def outputs_of(grid: Grid) -> Path:
    """The folder that all of a sweep is written below.

    Raises:
        BadInput: It names several.
    """
    named = {part.config.outputs for part in grid.parts}
    if len(named) > 1:
        raise BadInput(f"outputs takes one folder for a whole sweep, not {', '.join(named)}")
    return Path(named.pop())


def planned(grid: Grid, outputs: Path, slots: int, on_gpu: bool) -> Plan:
    """The jobs that are missing of a grid.

    Args:
        grid: Of a command line.
        outputs: Where results are looked for.
        slots: Jobs that run at once.
        on_gpu: Whether on GPUs.

    Raises:
        BadInput: Its data cannot be used.
    """
    heard, roots = heard_of(grid)
    done: set[str] = set()
    for path, found in ledger.each(outputs / "runs"):
        if isinstance(found, str):
            log.warning("not counted, so it is made again: %s: %s", path, found)
        else:
            done |= {own["signature"] for own in found.own}
    failed: set[str] = set()
    if grid.settings.retry == "never":
        records, _ = failures_in(outputs / "runs")
        failed = {name for record in records for name in record.signatures}
    told = traits_of(grid)
    return plans.make(
        grid, heard, roots, told, done=done, failed=failed, slots=slots, on_gpu=on_gpu
    )


def traits_of(grid: Grid) -> dict[str, traits.Trait]:
    """What is to be known of each model of a grid, by its `_target_`."""
    targets = {part.config.model._target_ for part in grid.whole}
    return {target: traits.of(target) for target in targets}


def heard_of(grid: Grid) -> tuple[dict[int, list[Heard]], dict[int, str]]:
    """The machine types of each part and the fingerprints of their clips, each worked out once.

    Parts are numbered as `grid.whole` has them.
    """
    heard: dict[int, list[Heard]] = {}
    roots: dict[int, str] = {}
    known: dict[bytes, str] = {}
    prints: dict[tuple[bytes, str], str] = {}
    with console.bars(shown=True) as bar:

        def counter(title: str, total: int) -> machine_data.Advance:
            return bar(title, total).advance

        for number, part in enumerate(grid.whole):
            config = part.config
            data = canonical(OmegaConf.to_container(config.dataset))
            if grid.settings.dry_run and not _is_there(part):
                roots[number] = ""
                types = part.machine if part.machine != "all" else ("each machine type",)
                heard[number] = [Heard(name, "not there yet") for name in types]
                continue
            if data not in known:
                root = machine_data.root_of(config, counter)
                known[data] = str(root.resolve())
            # Which clips are bad depends on what is asked of them.
            asked = data + canonical(OmegaConf.to_container(config.features))
            asked += canonical(config.windows.frames)
            # And a stage hears more than the part does.
            asked += canonical(OmegaConf.to_container(config.model).get("stages"))  # pyright: ignore
            root = Path(known[data])
            roots[number] = known[data]
            types = machine_data.machine_types_of(part.machine, root, config)
            for name in types:
                if (asked, name) not in prints:
                    prints[asked, name] = machine_data.fingerprint_of(config, root, name, counter)
            heard[number] = [Heard(name, prints[asked, name]) for name in types]
    return heard, roots


def _is_there(part: Part) -> bool:
    dataset = OmegaConf.to_container(part.config.dataset, resolve=True)
    root = dataset["root"]  # pyright: ignore - maybe ???
    return root is not None and Path(root).is_dir()


_tried: dict[bytes, str | None] = {}  # why a shape cannot be built; rounds ask again and again


def buildable(plan: Plan, *, skip: bool) -> Plan:
    """The plan without jobs whose model cannot be built; each distinct shape is tried once.

    Raises:
        BadInput: One cannot, and `sweep.skip_invalid` was not asked for.
    """
    shapes: dict[bytes, DictConfig] = {}
    shape_of: dict[int, bytes] = {}  # by the config's id; many jobs share one
    for job in plan.jobs:
        config = job.stack.config
        if id(config) not in shape_of:
            shape_of[id(config)] = same_shape(config)
            shapes.setdefault(shape_of[id(config)], config)
    new = {shape: config for shape, config in shapes.items() if shape not in _tried}
    _tried.update(zip(new, building.unbuildable(list(new.values())), strict=True))
    wrong = {shape: _tried[shape] for shape in shapes}
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
    gone = {name for job in plan.jobs for name in job.wanted}
    gone -= {name for job in jobs for name in job.wanted}
    together = tuple(one for one in plan.ensembles if gone.isdisjoint(one.members.values()))
    return replace(plan, jobs=jobs, ensembles=together)


def same_shape(config: DictConfig) -> bytes:
    """What models of one shape have in common: all but what lanes may differ in."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    inside = {*compose.LANE_AXES, "epochs", "machine", "dataset", "sweep", "selection", "outputs"}
    return canonical({key: value for key, value in plain.items() if key not in inside})


def _named(config: DictConfig) -> str:
    said = {key: config[key] for key in ("batch", "latent", "hidden_layers")}
    return " ".join(
        [config.detector, *(f"{key}={value}" for key, value in said.items() if value is not None)]
    )
