"""What a stack will take of a machine's memory, measured on one lane of it. Loads torch.

A stack that does not fit is refused before it trains: on a GPU it would fail somewhere in the
middle, and without one the system would kill whoever asks for memory next.
"""

import weakref
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asdgan.config import compose
from asdgan.data.windows import Block
from asdgan.sweep import noise
from asdgan.sweep.prepare import same_shape
from asdgan.training.stack import Stack

HUGE = 4 << 30  # bytes of a lane's weights and moments from which on no step is tried
COPIES = 4  # of a weight in training: itself, its gradient, Adam's two moments
SPARE = 1.5  # allocators round up, and keep what is free in pieces that are too small


_weighed: dict[bytes, int] = {}  # bytes of a lane; a worker's jobs have few shapes


def refuse_too_large(stack: Stack) -> None:
    """Refuses a stack that the machine has no memory for.

    Raises:
        MemoryError: It would take more than is free.
    """
    free = free_bytes(gpu=stack.config.trainer.accelerator != "cpu" and torch.cuda.is_available())
    if free is None:
        return
    lanes = max(1, len(stack.lanes))
    shape = same_shape(stack.config)
    if shape not in _weighed:
        _weighed[shape] = lane_bytes(stack.config)
    needed = int(SPARE * lanes * _weighed[shape])
    if needed > free:
        what = "a lane" if lanes == 1 else f"a stack of {lanes} lanes"
        raise MemoryError(
            f"{what} takes about {needed / 1e9:.3g} GB here, and {free / 1e9:.3g} GB are free"
        )


def free_bytes(*, gpu: bool) -> int | None:
    """Bytes that are free, of the GPU or of the machine; None where nobody says."""
    if gpu:
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        said = dict(line.split(":", 1) for line in lines)
        found = int(said["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None
    for name in ("max", "high"):  # a container's limit, where there is one
        try:
            limit = int(Path(f"/sys/fs/cgroup/memory.{name}").read_text())
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        except (OSError, ValueError):  # no such file, or `max`
            continue
        found = min(found, max(0, limit - used))
    return found


def lane_bytes(config: DictConfig) -> int:
    """Most bytes that live at once while one lane takes a step on noise, or scores some."""
    with torch.device("meta"):
        shape = compose.build(config)
    weights = COPIES * sum(one.nelement() * one.element_size() for one in shape.parameters())
    if weights > HUGE:
        return weights
    config = config.copy()
    if shape.stackable:
        config.seed = [0]
    heard = noise.windows(config, max(config.batch, shape.scored_at_once))
    picks = torch.arange(config.batch)
    with _Living() as living:
        detector = compose.build(config)
        detector.to(torch.float64 if config.trainer.dtype == "float64" else torch.float32)
        detector.prepare(heard)
        detector.configure_optimizers()
        detector.training_step(
            Block(
                heard, picks[None], torch.zeros(1, dtype=torch.int64), batch=config.batch, step=0
            ),
            0,
        )
        detector.fit(heard)
        detector.score_clips(heard)
    return living.most


class _Living(TorchDispatchMode):
    """Follows every tensor that operations make: bytes of those that live, and their most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor):
                self._note(one.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
