"""Where jobs can run at once: on which GPU, or on which share of the cores.

GPUs are found by asking nvidia-smi: a process that asks CUDA holds memory on each from then on.
"""

import logging
import os
import re
import subprocess
from dataclasses import dataclass

from asdgan._system.parallel import usable_cores

DEVICE = re.compile(r"(?:GPU (?P<index>\d+)|\s+MIG)\b.*\(UUID: (?P<uuid>[^)]+)\)")
ASKING_SECONDS = 60  # a driver that is loaded for the first time takes its time

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one process works.

    Attributes:
        gpu: For CUDA_VISIBLE_DEVICES, an index or a UUID; None on a CPU.
        threads: Of its arithmetic.
    """

    gpu: str | None
    threads: int


def slots(jobs_per_gpu: int, cpu_slots: int | None, *, gpus: bool = True) -> list[Slot]:
    """A slot for each job that can run at once, GPU after GPU; CPU slots where there is none.

    GPUs are those that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows. Threads are divided
    evenly, at least one each, and never more than OMP_NUM_THREADS where that is set.

    Args:
        jobs_per_gpu: How many share a GPU.
        cpu_slots: How many where there is no GPU; None for one per usable core.
        gpus: Whether GPUs are looked for.

    Raises:
        ValueError: Less than one.
    """
    if jobs_per_gpu < 1 or (cpu_slots is not None and cpu_slots < 1):
        raise ValueError(
            f"{jobs_per_gpu} jobs per GPU, {cpu_slots} CPU slots: at least one of each is needed"
        )
    cores = usable_cores()
    # GPU by GPU and not job by job, so that fewer jobs than slots spread over the GPUs
    places: list[str | None] = [*(_gpus() if gpus else [])] * jobs_per_gpu or [None] * (
        cpu_slots or cores
    )
    fair, more = divmod(cores, len(places))
    capped = os.environ.get("OMP_NUM_THREADS", "")
    most = int(capped) if capped.isdecimal() and int(capped) else cores
    return [
        Slot(gpu, max(1, min(fair + (number < more), most))) for number, gpu in enumerate(places)
    ]


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name here, one GPU (or slice of one) each."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            check=True,
            timeout=ASKING_SECONDS,
        )
    except FileNotFoundError:
        return []
    except (OSError, subprocess.SubprocessError) as error:
        if allowed != "":
            logger.warning("nvidia-smi gives no list of GPUs, so none is used: %s", error)
        return []
    whole, slices = [], dict[str, list[str]]()
    for device in filter(None, map(DEVICE.match, done.stdout.splitlines())):
        if device["index"] is not None:
            whole.append(device["uuid"])
            slices[device["uuid"]] = []
        else:
            slices[whole[-1]].append(device["uuid"])
    if allowed is None:
        # A GPU that is cut in slices is reached by a slice's name only.
        return [name for at, uuid in enumerate(whole) for name in slices[uuid] or [str(at)]]
    names, known = [], [*whole, *(one for of in slices.values() for one in of)]
    for name in map(str.strip, allowed.split(",")):
        by_index = name.isdecimal() and int(name) < len(whole)
        by_name = name.startswith(("GPU-", "MIG-")) and any(k.startswith(name) for k in known)
        if not by_index and not by_name:
            break  # CUDA reads no further either: this is how -1 hides what follows
        names.append(name)
    return names
