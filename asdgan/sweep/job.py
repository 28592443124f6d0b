"""A job of a plan, run: what a worker process, a Slurm job or a Ray task calls."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from asdgan._system.files import canonical
from asdgan.errors import BadInput
from asdgan.results import ledger
from asdgan.sweep import memory, plan
from asdgan.training import train
from asdgan.training.machine_data import Material, listen

_last: dict[bytes, Material] = {}  # what was listened to last: one machine type fills memory


def run(path: Path, number: int, beat: Callable[[str], None]) -> None:
    """Trains one job of a plan and writes its rows.

    Args:
        path: Of the plan.
        number: Of the job.
        beat: Called with a note after every block of steps, and every clip listened to; an
            exception that it raises ends the job, after a checkpoint.

    Raises:
        BadInput: The plan or its data is not what it was.
        MemoryError: The stack is too large for this machine.
    """
    planned = plan.job_of(path, number)
    stack = planned.stack
    train.quiet_libraries()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    outputs = Path(stack.config.outputs)
    found = {name for name in planned.wanted if ledger.find(outputs / "runs" / stack.folder, name)}
    wanted = set(planned.wanted) - found
    if not wanted:
        if not planned.goes_on:
            (outputs / "runs" / stack.folder / stack.checkpoint).unlink(missing_ok=True)
        return
    heard = _heard(stack.config, planned.root, stack.machine_type, beat)
    if heard.data != stack.data:
        raise BadInput(
            f"{planned.root}: the clips of {stack.machine_type} are not those that were planned "
            "for; start the sweep again, and it plans for these"
        )
    memory.refuse_too_large(stack)
    train.train(
        stack,
        heard,
        outputs=outputs,
        wanted=wanted,
        keep=stack.config.sweep.keep_weights,
        goes_on=planned.goes_on,
        on_steps=lambda _, note: beat(note),
    )


def _heard(
    config: DictConfig, root: str, machine_type: str, beat: Callable[[str], None]
) -> Material:
    """The machine type's material; jobs of one process that share it listen once."""
    told = {
        "root": root,
        "machine_type": machine_type,
        **{
            node: OmegaConf.to_container(config[node], resolve=True)
            for node in ("dataset", "features", "windows")
        },
    }
    named = canonical(told)
    if named not in _last:
        _last.clear()
        _last[named] = listen(
            config, Path(root), machine_type, lambda title, _: lambda _count: beat(title)
        )
    return _last[named]
