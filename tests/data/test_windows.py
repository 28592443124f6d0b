"""Windows seen over frames, held-out parts, and the order of an epoch."""

import pytest
import torch
from small_models import Recording, windows_of

from asdgan.data.frames import Frames
from asdgan.data.windows import (
    EVERYTHING,
    Drawing,
    Joined,
    WindowData,
    Windows,
    held_out,
    steps_of,
)
from asdgan.errors import BadInput


def data_of(windows, seeds=(0,), batch=8, block=3, drawing=EVERYTHING):
    everything = torch.arange(len(windows))
    return WindowData(
        windows, train=everything, held=everything[:0], seeds=seeds, batch=batch, block=block,
        drawing=drawing,
    )  # fmt: skip


def test_a_window_is_consecutive_frames_of_one_clip_oldest_first():
    values = torch.arange(14 * 2, dtype=torch.float32).reshape(14, 2)
    frames = Frames(values, torch.tensor([0, 6, 14]))
    windows = Windows(frames, [Recording(0), Recording(1)], length=5, stride=1)
    assert len(windows) == 2 + 4
    assert windows.bounds.tolist() == [0, 2, 6]
    for number, start in enumerate((0, 1, 6, 7, 8, 9)):
        expected = values[start : start + 5].reshape(-1)
        assert torch.equal(windows.gather(torch.tensor([number]))[0], expected)


@pytest.mark.parametrize(("frames", "windows"), [(313, 309), (344, 340)])
def test_ten_and_eleven_second_clips_give_the_published_number_of_windows(frames, windows):
    made = Windows(
        Frames(torch.zeros(frames, 2), torch.tensor([0, frames])),
        [Recording(0)],
        length=5,
        stride=1,
    )
    assert len(made) == windows


def test_stride_skips_starts_within_a_clip():
    made = Windows(
        Frames(torch.zeros(20, 2), torch.tensor([0, 11, 20])),
        [Recording(0), Recording(1)],
        length=5,
        stride=3,
    )
    assert made.starts.tolist() == [0, 3, 6, 11, 14]


def test_a_clip_shorter_than_a_window_is_refused_by_name():
    frames = Frames(torch.zeros(9, 2), torch.tensor([0, 6, 9]))
    with pytest.raises(BadInput, match=r"clip_1.wav: 3 frames, but one window takes 5"):
        Windows(frames, [Recording(0), Recording(1)], length=5, stride=1)


def test_keras_tail_holds_out_the_last_windows():
    windows = windows_of()
    train, held = held_out(windows, split="keras_tail", fraction=0.1, seed=0)
    assert torch.equal(torch.cat([train, held]), torch.arange(len(windows)))
    assert len(train) == int(len(windows) * 0.9)


def test_random_clips_are_held_out_whole():
    windows = windows_of(clips=10)
    train, held = held_out(windows, split="random_clips", fraction=0.3, seed=0)
    out = set(windows.clip[held].tolist())
    assert len(out) == 3
    assert not out & set(windows.clip[train].tolist())
    assert len(train) + len(held) == len(windows)


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(BadInput, match="leaves 0 windows to train on"):
        held_out(windows_of(clips=1), split="random_clips", fraction=0.5, seed=0)


def test_an_epoch_shows_every_window_once_and_skips_a_minibatch_of_one():
    windows = windows_of(clips=2, frames=20)  # 18 + 19 windows
    data = data_of(windows, batch=9)
    seen = [batch for block in data.blocks(0) for batch in block]
    assert [len(batch.picks) for batch in seen] == [9, 9, 9, 9]
    assert len(seen) == data.steps_per_epoch == steps_of(37, 9)
    assert [batch.step for batch in seen] == [0, 1, 2, 3]
    assert len(torch.cat([batch.picks for batch in seen]).unique()) == 36
    assert [batch.step for block in data.blocks(2) for batch in block] == [8, 9, 10, 11]


def test_an_epoch_may_draw_some_windows_of_every_clip_others_each_time():
    windows = windows_of(clips=3, frames=20)
    data = data_of(windows, drawing=Drawing(per_clip=2), batch=4)
    orders = [data.order(epoch)[0] for epoch in range(8)]
    assert all(windows.clip[order].bincount().tolist() == [2, 2, 2] for order in orders)
    assert len(torch.cat(orders).unique()) > 20
    assert data.steps_per_epoch == len([batch for block in data.blocks(0) for batch in block]) == 2
    assert any(windows.clip[order].diff().lt(0).any() for order in orders)


@pytest.mark.parametrize(("per_epoch", "least", "most"), [(10, 0, 1), (37, 1, 1), (100, 2, 3)])
def test_an_epoch_may_draw_so_many_windows_and_none_again_before_all_were(per_epoch, least, most):
    windows = windows_of(clips=2, frames=20)
    data = data_of(windows, drawing=Drawing(per_epoch=per_epoch), batch=7)
    drawn = data.order(1)[0].bincount(minlength=37)
    assert (drawn.sum(), drawn.min(), drawn.max()) == (per_epoch, least, most)
    assert sum(len(block) for block in data.blocks(1)) == data.steps_per_epoch


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    alone, among = data_of(windows_of(), seeds=[4]), data_of(windows_of(), seeds=[1, 4])
    assert torch.equal(alone.order(3)[0], among.order(3)[1])
    assert not torch.equal(alone.order(3), alone.order(2))


def test_lanes_of_equal_seed_share_minibatches_and_others_have_their_own():
    windows = windows_of()
    batch = next(iter(data_of(windows, seeds=[1, 4, 1]).blocks(0)[0]))
    alone = next(iter(data_of(windows, seeds=[4]).blocks(0)[0]))
    assert torch.equal(batch.windows[0], batch.windows[2])
    assert torch.equal(batch.windows[1], alone.windows)
    assert torch.equal(batch.clip[1], windows.clip[alone.picks])


def test_a_batch_holds_no_label():
    batch = next(iter(data_of(windows_of()).blocks(0)[0]))
    names = {name for name in dir(batch) + dir(batch.source) if not name.startswith("__")}
    assert not [name for name in names if "label" in name]


def test_the_trainer_sees_every_block_of_every_epoch():
    pl = pytest.importorskip("pytorch_lightning")
    windows, seen = windows_of(clips=6), []

    class Listening(pl.LightningModule):
        def training_step(self, block, index):
            seen.extend(batch.step for batch in block)

        def configure_optimizers(self):
            return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)

        def validation_step(self, batch, index):
            raise AssertionError("nothing is held out")

        automatic_optimization = False

    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        reload_dataloaders_every_n_epochs=1,
    )
    data = data_of(windows, batch=8, block=3)
    trainer.fit(Listening(), datamodule=data)
    assert len(data.blocks(0)) > 3
    assert seen == list(range(2 * data.steps_per_epoch))


def test_joined_windows_are_those_of_each_part_one_after_the_other():
    fan, valve = windows_of(clips=2, seed=1), windows_of(clips=3, seed=2)
    both = Joined({"fan": fan, "valve": valve})
    parts = [part.gather(torch.arange(len(part))) for part in (fan, valve)]
    order = torch.randperm(len(both))
    assert torch.equal(both.gather(order.reshape(2, -1)).flatten(0, 1), torch.cat(parts)[order])
    assert both.sections == ("fan 00", "fan 01", "valve 00", "valve 01", "valve 00")
    counts = both.clip.bincount().tolist()
    assert counts == both.bounds.diff().tolist() == [18, 19, 18, 19, 20]
    frames = [torch.cat(list(part.frames_of(torch.arange(len(part))))) for part in (fan, valve)]
    assert torch.equal(torch.cat(list(both.frames_of(torch.arange(len(both))))), torch.cat(frames))
