"""Frames seen as windows, and minibatches of them: nothing is ever materialised.

The frames of all clips lie in one tensor, flattened; seen with a row step of one frame, its rows
*are* the windows, and a minibatch is one `index_select` of row starts. A window never reaches
over the edge of a clip. An epoch is a permutation drawn from (seed, epoch).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from asdgan._system.seeds import key_of
from asdgan.data.log_mel import too_few
from asdgan.errors import BadInput

if TYPE_CHECKING:
    from asdgan.data.clips import Clip
    from asdgan.data.frames import Frames

VAL_SPLITS = ("none", "keras_tail", "random_clips")


class Windows:
    """All windows of some clips, in clip order.

    Args:
        frames: The clips' frames.
        clips: The clips themselves; their labels are not looked at.
        length: Frames in a window.
        stride: Frames between the starts of neighbouring windows.

    Raises:
        BadInput: A clip has fewer frames than one window.

    Attributes:
        starts: First frame of each window, shape (windows,).
        clip: Number of the clip each window belongs to, shape (windows,).
        bounds: Clip i owns windows bounds[i] to bounds[i + 1], shape (clips + 1,).
        sections: Section of each clip.
        domains: Domain of each clip, or None.
        attributes: Attributes of each clip.
    """

    def __init__(
        self, frames: "Frames", clips: Sequence["Clip"], *, length: int, stride: int
    ) -> None:
        """Finds the starts of all windows."""
        counts = frames.starts.diff()
        for clip, count in zip(clips, counts.tolist(), strict=True):
            if count < length:
                raise BadInput(f"{clip.path}: {too_few(count, length)}")
        per_clip = (counts - length) // stride + 1
        self.clip = torch.repeat_interleave(per_clip)
        self.bounds = torch.cat([torch.zeros(1, dtype=torch.int64), per_clip.cumsum(0)])
        within = torch.arange(len(self.clip)) - self.bounds[self.clip]
        self.starts = frames.starts[self.clip] + within * stride
        self.sections = tuple(clip.section for clip in clips)
        self.domains = tuple(clip.domain for clip in clips)
        self.attributes = tuple(clip.attributes for clip in clips)
        self._length, self._mels = length, frames.values.shape[1]
        self._rows = self._seen_as_rows(frames.values)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts)

    @property
    def features(self) -> int:
        """Numbers in one window: frames times mels, frame-major (frame 0's mels first)."""
        return self._length * self._mels

    @property
    def frames(self) -> Tensor:
        """The frames of all clips, shape (frames, mels); not a copy."""
        count = self._rows.shape[0] + self._length - 1
        return self._rows.as_strided((count, self._mels), (self._mels, 1))

    def to(self, device: torch.device | str) -> "Windows":
        """Moves the frames to a device where they fit into half of what is free there."""
        device = torch.device(device)
        if device.type == "cuda" and self._rows.device.type == "cpu":
            values = self.frames
            free, _ = torch.cuda.mem_get_info(device)
            if values.nbytes * 2 < free:
                self._rows = self._seen_as_rows(values.to(device))
        return self

    def gather(self, picks: Tensor) -> Tensor:
        """The windows of numbers `picks` (any shape): shape (*picks, frames * mels)."""
        starts = self.starts[picks.reshape(-1)].to(self._rows.device)
        return self._rows.index_select(0, starts).reshape(*picks.shape, -1)

    def frames_of(self, picks: Tensor, piece: int = 1 << 16) -> Iterator[Tensor]:
        """The frames that windows of numbers `picks` see, each once: pieces (frames, mels)."""
        values = self.frames
        seen = torch.zeros(len(values), dtype=torch.bool)
        for i in range(self._length):
            seen[self.starts[picks] + i] = True
        for numbers in seen.nonzero().squeeze(-1).split(piece):
            yield values.index_select(0, numbers.to(values.device))

    def _seen_as_rows(self, values: Tensor) -> Tensor:
        rows = values.shape[0] - self._length + 1
        return values.as_strided((rows, self._length * self._mels), (self._mels, 1))


class Joined(Windows):
    """The windows of several machine types, one after the other, each where it lies.

    A section is named after its machine type, too: `fan 00`.

    Args:
        parts: By machine type; all windows have one shape.
    """

    def __init__(self, parts: Mapping[str, Windows]) -> None:
        """Takes what is known of each part."""
        self._parts = tuple(parts.values())
        sizes = torch.tensor([0, *(len(part) for part in self._parts)]).cumsum(0)
        clips = torch.tensor([0, *(len(part.sections) for part in self._parts)]).cumsum(0)
        self._firsts = sizes.tolist()
        self.clip = torch.cat([p.clip + first for p, first in zip(self._parts, clips)])  # noqa: B905 - one edge more
        bounds = [p.bounds[1:] + first for p, first in zip(self._parts, sizes)]  # noqa: B905 - likewise
        self.bounds = torch.cat([sizes[:1], *bounds])
        self.sections = tuple(f"{name} {one}" for name, of in parts.items() for one in of.sections)
        self.domains = tuple(one for part in self._parts for one in part.domains)
        self.attributes = tuple(one for part in self._parts for one in part.attributes)

    def __len__(self) -> int:
        """Number of windows."""
        return self._firsts[-1]

    @property
    def features(self) -> int:
        """As `Windows`."""
        return self._parts[0].features

    def to(self, device: torch.device | str) -> "Joined":
        """As `Windows`, part by part."""
        for part in self._parts:
            part.to(device)
        return self

    def gather(self, picks: Tensor) -> Tensor:
        """As `Windows`."""
        flat, found = picks.reshape(-1), None
        for part, first, last in zip(self._parts, self._firsts, self._firsts[1:], strict=False):
            mine = ((flat >= first) & (flat < last)).nonzero().squeeze(-1)
            if len(mine):
                values = part.gather(flat[mine] - first)
                if found is None:
                    found = values.new_empty(len(flat), self.features)
                found[mine.to(values.device)] = values.to(found.device)
        assert found is not None  # nobody asks for none
        return found.reshape(*picks.shape, -1)

    def frames_of(self, picks: Tensor, piece: int = 1 << 16) -> Iterator[Tensor]:
        """As `Windows`."""
        for part, first, last in zip(self._parts, self._firsts, self._firsts[1:], strict=False):
            mine = picks[(picks >= first) & (picks < last)] - first
            if len(mine):
                yield from part.frames_of(mine, piece)


@dataclass(frozen=True, slots=True)
class Batch:
    """One minibatch: what a detector learns from, labels not included.

    Attributes:
        windows: Shape (windows, features), or (lanes, windows, features) where lanes differ in
            seed.
        picks: The windows' numbers in `source`, shape as `windows` without its last axis.
        source: Where they come from, with each clip's section, domain and attributes.
        step: Counted from 0 over the whole training; -1 in scoring.
    """

    windows: Tensor
    picks: Tensor
    source: Windows
    step: int

    @property
    def clip(self) -> Tensor:
        """Number of each window's clip, shape as `picks`."""
        return self.source.clip[self.picks]


def held_out(windows: Windows, *, split: str, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Window numbers to train on, and window numbers held out for validation.

    Args:
        windows: Of the training clips, in name order.
        split: `keras_tail`: the last windows, as Keras' validation_split takes them (the tail of
            the last section); `random_clips`: whole clips, drawn; `none`.
        fraction: Of the windows or clips, 0 to 1, exclusive.
        seed: For the draw; not the training's seed, so that lanes hold out the same clips.

    Raises:
        BadInput: Nothing would be left on one side.
    """
    numbers = torch.arange(len(windows))
    if split == "none":
        return numbers, numbers[:0]
    if split == "keras_tail":
        edge = int(len(windows) * (1 - fraction))
        train, held = numbers[:edge], numbers[edge:]
    else:
        clips = len(windows.bounds) - 1
        generator = torch.Generator().manual_seed(key_of(seed, "held_out"))
        chosen = torch.randperm(clips, generator=generator)[: max(1, round(clips * fraction))]
        out = torch.isin(windows.clip, chosen)
        train, held = numbers[~out], numbers[out]
    if len(train) < 2 or not len(held):
        raise BadInput(
            f"windows.val_split={split} with val_fraction={fraction} leaves {len(train)} windows "
            f"to train on and {len(held)} held out; change the fraction or take val_split=none"
        )
    return train, held


@dataclass(frozen=True, slots=True)
class Drawing:
    """How many of the training windows an epoch draws; all of them, once, as it stands.

    Attributes:
        per_clip: Of each clip at most that many, others in every epoch; None for all.
        per_epoch: In all: once all were drawn they are drawn again, in another order, and the
            epoch ends where that many have been; None for all once.
    """

    per_clip: int | None = None
    per_epoch: int | None = None

    def count(self, per_clip: Tensor) -> int:
        """Windows in an epoch of clips that have `per_clip` windows each, shape (clips,)."""
        most = per_clip if self.per_clip is None else per_clip.clamp(max=self.per_clip)
        return self.per_epoch or int(most.sum())

    def draw(self, windows: Windows, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Some of the window numbers, in the order in which they are learnt from."""
        rounds = [self._all(windows, numbers, generator)]
        if self.per_epoch is None:
            return rounds[0]
        while sum(map(len, rounds)) < self.per_epoch:
            rounds.append(self._all(windows, numbers, generator))
        return torch.cat(rounds)[: self.per_epoch]

    def _all(self, windows: Windows, numbers: Tensor, generator: torch.Generator) -> Tensor:
        drawn = numbers[torch.randperm(len(numbers), generator=generator)]
        if self.per_clip is None:
            return drawn
        by_clip = windows.clip[drawn].argsort(stable=True)
        counts = torch.bincount(windows.clip[drawn])
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        place = torch.empty_like(by_clip)  # of each among the drawn of its clip
        place[by_clip] = torch.arange(len(drawn)) - first
        return drawn[place < self.per_clip]


EVERYTHING = Drawing()


class Block:
    """Some minibatches in a row: what Lightning takes for one batch.

    Lightning's loop costs 0.2 to 0.5 ms of Python a step, which is as much as a small step
    itself; a block pays it once.
    """

    def __init__(
        self, source: Windows, orders: Tensor, seed_of_lane: Tensor, *, batch: int, step: int
    ) -> None:
        """Takes window numbers in order, shape (seeds, windows), from global step `step` on."""
        self.source, self._orders, self._seed_of_lane = source, orders, seed_of_lane
        self._batch, self._step = batch, step

    def __len__(self) -> int:
        """Optimiser steps in this block."""
        return steps_of(self._orders.shape[1], self._batch)

    def __iter__(self) -> Iterator[Batch]:
        """The minibatches; a last one that holds a single window is skipped (it has no spread)."""
        for i, picks in enumerate(self._orders.split(self._batch, dim=1)):
            if picks.shape[1] < 2:
                continue
            gathered = self.source.gather(picks)
            if len(picks) == 1:
                windows, picks = gathered[0], picks[0]
            else:
                windows = gathered.index_select(0, self._seed_of_lane.to(gathered.device))
                picks = picks[self._seed_of_lane]
            yield Batch(windows, picks, self.source, self._step + i)


class Served:
    """What the trainer takes one by one; a plain list would be many loaders to it."""

    def __init__(self, items: Sequence[Any]) -> None:
        """Keeps the items."""
        self._items = items

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        """The items, in order."""
        return iter(self._items)


class WindowData(pl.LightningDataModule):
    """Training and validation windows, served in blocks.

    Args:
        source: Windows of the training clips.
        train: Numbers of the windows to train on.
        held: Numbers of the windows held out, maybe none.
        seeds: One per lane; lanes of one seed share their minibatches.
        batch: Windows in a minibatch.
        drawing: Which of the training windows an epoch takes.
        block: Minibatches in a block.
        first_epoch: Epoch of this training that is the trainer's first, where it is resumed.
        first_block: Blocks of that epoch that are done already.

    Raises:
        BadInput: An epoch has no block of number `first_block`.
    """

    def __init__(
        self,
        source: Windows,
        *,
        train: Tensor,
        held: Tensor,
        seeds: Sequence[int],
        batch: int,
        drawing: Drawing = EVERYTHING,
        block: int = 64,
        first_epoch: int = 0,
        first_block: int = 0,
    ) -> None:
        """Keeps the tables; nothing is copied."""
        super().__init__()
        self.source, self.train, self.held = source, train, held
        self._seeds = sorted(set(seeds))
        self._seed_of_lane = torch.tensor([self._seeds.index(seed) for seed in seeds])
        self._batch, self._block, self._drawing = batch, block, drawing
        self.first_epoch, self.first_block = first_epoch, first_block
        self._count = drawing.count(torch.bincount(source.clip[train]))
        blocks = steps_of(self._count, batch * block)
        if first_block and first_block >= blocks:
            raise BadInput(
                f"first_block={first_block}, but {self._count} windows make {blocks} blocks of "
                f"{block} minibatches of {batch}; this position is of another training"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""
        return steps_of(self._count, self._batch)

    @property
    def steps_before(self) -> int:
        """Optimiser steps done before this training was resumed."""
        return self.first_epoch * self.steps_per_epoch + self.first_block * self._block

    def setup(self, stage: str) -> None:
        """Moves the frames to the trainer's device where they fit."""
        if self.trainer is not None:
            self.source.to(self.trainer.strategy.root_device)

    def order(self, epoch: int) -> Tensor:
        """Window numbers of one epoch, shape (seeds, windows): drawn for each seed by itself."""
        orders = []
        for seed in self._seeds:
            generator = torch.Generator().manual_seed(key_of(seed, "order", epoch))
            orders.append(self._drawing.draw(self.source, self.train, generator))
        return torch.stack(orders)

    def blocks(self, epoch: int) -> list[Block]:
        """The blocks of one epoch."""
        pieces = self.order(epoch).split(self._batch * self._block, dim=1)
        first = epoch * self.steps_per_epoch
        return [
            Block(
                self.source,
                piece,
                self._seed_of_lane,
                batch=self._batch,
                step=first + i * self._block,
            )
            for i, piece in enumerate(pieces)
            if piece.shape[1] > 1
        ]

    def train_dataloader(self) -> "Served":
        """Blocks of the trainer's current epoch (the trainer asks anew for each)."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        blocks = self.blocks(self.first_epoch + epoch)
        return Served(blocks if epoch else blocks[self.first_block :])

    def val_dataloader(self) -> "Served":
        """Batches of held-out windows, in order."""
        return Served(
            [
                Batch(self.source.gather(picks), picks, self.source, -1)
                for picks in self.held.split(4096)
                if len(picks)
            ]
        )

    def transfer_batch_to_device(
        self,
        batch: Any,  # noqa: ANN401 - as Lightning declares it
        device: torch.device,
        dataloader_idx: int,
    ) -> Any:  # noqa: ANN401 - likewise
        """Leaves a block as it is: its frames are where they should be already."""
        return batch


def steps_of(windows: int, batch: int) -> int:
    """Minibatches in an epoch of `windows`; a last one of a single window does not count."""
    whole, rest = divmod(windows, batch)
    return whole + (rest > 1)
