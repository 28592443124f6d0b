"""A training cut anywhere and resumed from its file equals one that was never cut, to the bit.

One training per model is never cut and writes nothing; another writes a checkpoint at every
boundary between two blocks, and each of those files is what a process that died there leaves.
"""

import functools
import random
import shutil

import hydra
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load
from small_models import NAMES, STACKABLE, compose, dropping, windows_for
from torch import nn

from asdgan.data.windows import WindowData, held_out
from asdgan.errors import BadInput, Damaged
from asdgan.nn.lanes import adam
from asdgan.training import checkpoint
from asdgan.training.callbacks import Checkpointing, Readings, Reporting

EPOCHS, BATCH = 4, 16  # of 5 blocks each, the last minibatch smaller
EDGES = [(0, 1), (1, 0), (1, 1), (EPOCHS - 1, 4), (EPOCHS, 0)]  # around an epoch's end
# Ten lanes; the third meets NaN, as no float32 holds what its learning rate makes.
LANES = {
    "seed": [0, 1, 0, 0, 1, 0, 1, 0, 0, 0],
    "lr": [1e-3, 1e-3, 1e38, 5e-3, 5e-3, 2e-4, 1e-3, 5e-3, 5e-3, 1e-3],
    "beta1": [0.5, 0.3, 0.5, 0.5, 0.5, 0.3, 0.5, 0.5, 0.5, 0.9],
    "dropout": [0.0, 0.25, 0.0, 0.5, 0.0, 0.25, 0.5, 0.0, 0.25, 0.0],
    "init": ["glorot_uniform", "normal"] * 5,
}
DEAD = 2
ALL = tuple(range(10))
FEWER = (9, 0, 7, 5, 3, 4, 8, 1)  # eight lanes in another order, so other runs of equal rates
ONE_SEED = (0, 3, 5, 7, 8, 9, 3, 0)


@functools.cache
def _maker(name, lanes):
    config = compose(name, *dropping(name, 0.25))
    if "rebirth_below" in config.model:
        config.model.rebirth_below = 0.68 if name.startswith("ganomaly") else 1.36
    if lanes is not None:
        for axis, values in LANES.items():
            config[axis] = [values[lane] for lane in lanes]
    return hydra.utils.instantiate(config.model, _partial_=True, _convert_="all")


def names_of(lanes):
    return [f"p{lane}" for lane in lanes or [0]]


def detector_of(name, lanes):
    """A stack of those lanes, or for None a single run; discriminators are often reborn."""
    detector = _maker(name, lanes)()
    detector.heard = material(name)
    detector.prepare(detector.heard[0])
    return detector


@functools.cache
def material(name):
    windows = windows_for(compose(name), clips=12, more=1)
    return windows, *held_out(windows, split="keras_tail", fraction=0.1, seed=0)


def fit(detector, *callbacks, epoch=0, block=0, epochs=EPOCHS):
    """Trains as a run does, in blocks of one minibatch, from a position on."""
    windows, train, held = detector.heard
    data = WindowData(
        windows, train=train, held=held, seeds=detector.seeds, batch=BATCH, block=1,
        first_epoch=epoch, first_block=block,
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs - epoch, logger=False,
        callbacks=list(callbacks), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=1,
        deterministic=True,
    )  # fmt: skip
    trainer.fit(detector, datamodule=data)
    return detector


def outcome(detector):
    """All that a training leaves: its state, and the scores of every clip."""
    state = {key: value.clone() for key, value in detector.training_state().items()}
    detector.fit(detector.heard[0])
    scores = detector.score_clips(detector.heard[0])
    return state | {f"score/{name}": values for name, values in scores.items()}


def differing(ours, theirs, lanes=None):
    """Names under which two outcomes do not hold the same bits; NaN equals NaN here."""
    assert ours.keys() == theirs.keys()
    wrong = []
    for name, value in theirs.items():
        value = value[list(lanes)] if lanes is not None and value.dim() else value
        if not torch.equal(ours[name].nan_to_num(nan=1.5), value.nan_to_num(nan=1.5)):
            wrong.append(name)
    return wrong


class Keeping(pl.Callback):
    """Keeps every checkpoint that was written; stands behind `Checkpointing`."""

    def __init__(self, path):
        self.path, self.kept = path, {}

    def keep(self, *_):
        found = checkpoint.read(self.path)
        place = found.epoch, found.block
        if place not in self.kept:
            self.kept[place] = shutil.copy(self.path, self.path.with_suffix(f".{len(self.kept)}"))

    on_train_epoch_start = on_train_batch_end = on_train_end = keep


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By model and lanes: the outcome of a training never cut, and one's checkpoints by place."""

    @functools.cache
    def of(name, lanes):
        whole = outcome(fit(detector_of(name, lanes)))
        path = tmp_path_factory.mktemp(name) / "checkpoint"
        keeping = Keeping(path)
        writing = Checkpointing(path, points=names_of(lanes), every_seconds=0)
        assert not differing(outcome(fit(detector_of(name, lanes), writing, keeping)), whole)
        return whole, keeping.kept

    return of


def resumed(name, lanes, path, picks=None, epochs=EPOCHS):
    """A detector made anew that went on from a file."""
    found = checkpoint.read(path)
    detector = detector_of(name, lanes)
    detector.load_training_state(found.state, picks)
    return fit(detector, epoch=found.epoch, block=found.block, epochs=epochs)


@pytest.mark.parametrize("name", STACKABLE)
def test_a_stack_cut_anywhere_goes_on_bit_for_bit(name, trained):
    whole, kept = trained(name, ALL)
    assert sorted(kept) == [(e, b) for e in range(EPOCHS) for b in range(5)] + [(EPOCHS, 0)]
    for place in EDGES:
        assert not differing(outcome(resumed(name, ALL, kept[place])), whole), place
    others = sorted(set(kept) - set(EDGES))
    for place in random.Random(NAMES.index(name)).sample(others, 20 - len(EDGES)):
        state = resumed(name, ALL, kept[place], epochs=place[0] + 1).training_state()
        there = checkpoint.read(kept[place[0] + 1, 0]).state
        assert not differing(state, there), place


@pytest.mark.parametrize("name", STACKABLE)
def test_the_trainings_compared_here_are_eventful(name, trained):
    whole, _ = trained(name, ALL)
    assert whole["alive"].tolist() == [lane != DEAD for lane in ALL]
    held = [value.shape for key, value in whole.items() if key.startswith("history/val/")]
    assert held
    assert set(held) == {(10, EPOCHS)}
    births = whole.get("weights/rebirth.births")
    assert births is None or (0 < int((births > 0).sum()) and int(births.max()) < 5 * EPOCHS)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_run_cut_anywhere_goes_on_bit_for_bit(name, trained):
    whole, kept = trained(name, None)
    for place in EDGES:
        assert not differing(outcome(resumed(name, None, kept[place])), whole), place


@pytest.mark.parametrize("name", STACKABLE)
def test_fewer_lanes_go_on_as_they_do_among_all(name, trained):
    whole, kept = trained(name, ALL)
    for lanes, place in ((FEWER, (1, 0)), (FEWER, (2, 3)), (ONE_SEED, (0, 2))):
        ours = outcome(resumed(name, lanes, kept[place], lanes))
        assert not differing(ours, whole, lanes), place


def test_a_lane_of_a_stack_loads_into_a_single_run(trained):
    _, kept = trained("ganomaly", ALL)
    state = checkpoint.read(kept[2, 3]).state
    single = detector_of("ganomaly", None)
    single.load_training_state(state, [4])
    ours = single.training_state()
    assert ours.keys() == state.keys()
    assert not [k for k, v in state.items() if not torch.equal(ours[k], v[4] if v.dim() else v)]


def part_of(path, lanes, at):
    """A file with some of the lanes that another holds."""
    found = checkpoint.read(path)
    detector = detector_of("ganomaly", lanes)
    detector.load_training_state(found.state, lanes)
    place = {"epoch": found.epoch, "block": found.block}
    checkpoint.write(at, detector, **place, points=names_of(lanes))
    return at


@pytest.mark.parametrize("lanes", [FEWER, (4, 0, 9), (6,)], ids=len)
def test_points_are_found_in_whatever_files_hold_them(lanes, trained, tmp_path):
    _, kept = trained("ganomaly", ALL)
    halves = [
        part_of(kept[2, 3], ALL[:5], tmp_path / "a"),
        part_of(kept[2, 3], ALL[5:], tmp_path / "b"),
    ]
    for files in ([kept[2, 3], kept[1, 0]], [*halves, kept[1, 0]]):
        found = checkpoint.latest(files, names_of(lanes), epochs=4)
        assert (found.epoch, found.block, found.points) == (2, 3, tuple(names_of(lanes)))
        assert not differing(found.state, checkpoint.read(kept[2, 3]).state, lanes)


def test_what_stands_too_far_or_lacks_a_point_is_passed_over(trained):
    _, kept = trained("ganomaly", ALL)
    files = [kept[3, 1], kept[2, 0], kept[1, 4]]
    assert checkpoint.latest(files, names_of(FEWER), epochs=2).epoch == 2
    assert checkpoint.latest(files, names_of(FEWER), epochs=1) is None
    assert checkpoint.latest(files, ["p0", "p10"], epochs=4) is None


def test_a_damaged_file_is_named_and_an_earlier_one_taken(trained, tmp_path, caplog):
    _, kept = trained("ganomaly", ALL)
    whole = kept[2, 3].read_bytes()
    damaged, cut = tmp_path / "damaged", tmp_path / "cut"
    damaged.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    cut.write_bytes(whole[:50])
    assert checkpoint.latest([damaged, cut, kept[1, 0]], names_of(ALL), epochs=4).epoch == 1
    assert f"{damaged}: checksum" in caplog.text
    assert f"{cut}: not a checkpoint" in caplog.text


def test_a_state_before_the_first_step_is_one_to_begin_from(tmp_path, trained):
    start = detector_of("ganomaly", ALL)
    start.configure_optimizers()
    checkpoint.write(tmp_path / "c", start, epoch=0, block=0, points=names_of(ALL))
    whole, _ = trained("ganomaly", ALL)
    assert not differing(outcome(resumed("ganomaly", ALL, tmp_path / "c")), whole)


def test_lanes_that_do_not_fit_are_refused():
    state, other = (detector_of("ganomaly", lanes).training_state() for lanes in (ALL, None))
    with pytest.raises(ValueError, match=r"lanes \(10,\) does not fit a detector of lanes \(8,\)"):
        detector_of("ganomaly", FEWER).load_training_state(state)
    with pytest.raises(ValueError, match=r"lanes \[0, 1\] of \(10,\) saved do not fit"):
        detector_of("ganomaly", FEWER).load_training_state(state, [0, 1])
    with pytest.raises(ValueError, match=r"lanes \[0\] of \(\) saved do not fit"):
        detector_of("ganomaly", None).load_training_state(other, [0])


def test_adam_goes_on_in_another_grouping_of_learning_rates():
    rates, order = [1e-3, 1e-3, 5e-3, 1e-3, 5e-3], [4, 2, 0, 3, 1]
    shapes = [(5, 3, 2), (5, 1, 7)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    one = adam(ours, lr=rates, beta1=0.5, beta2=0.999, eps=1e-8)
    assert one.lane_state() == {}
    for _ in range(3):
        one.descend([torch.randn(shape) for shape in shapes])
    theirs = [nn.Parameter(p.detach()[order]) for p in ours]
    two = adam(theirs, lr=[rates[i] for i in order], beta1=0.5, beta2=0.999, eps=1e-8)
    assert len(two._cuts) != len(one._cuts)
    state = one.lane_state().items()
    two.load_lane_state({k: value[order] if value.dim() else value for k, value in state})
    for _ in range(3):
        gradients = [torch.randn(shape) for shape in shapes]
        one.descend(gradients)
        two.descend([gradient[order] for gradient in gradients])
    assert all(torch.equal(a[order], b) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(ValueError, match=r"exp_avg/0 has shape \(5, 3, 2\), its parameter"):
        adam(
            [nn.Parameter(torch.zeros(4, 3, 2))], lr=0.1, beta1=0.5, beta2=0.999, eps=1e-8
        ).load_lane_state(one.lane_state())


# Readings, and when a checkpoint is written -----------------------------------------------------


def test_readings_are_taken_of_closed_epochs_and_leave_training_untouched(trained):
    whole, kept = trained("ganomaly", ALL)
    seen = {}

    def look(epochs, detector):
        seen[epochs] = outcome(detector)

    before = torch.get_rng_state()
    read = fit(detector_of("ganomaly", ALL), Readings([1, 3, EPOCHS], look))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(seen) == [1, 3, EPOCHS]
    assert not differing(outcome(read), whole)
    assert not differing(seen[EPOCHS], whole)
    assert seen[3]["history/train/loss_g"].shape == (10, 3)
    state = checkpoint.read(kept[3, 0]).state
    assert not [k for k, v in state.items() if differing({k: seen[3][k]}, {k: v})]


def test_a_training_resumed_at_a_reading_reads_again_even_with_no_epoch_left(trained):
    whole, kept = trained("ganomaly", ALL)
    for place, wanted in (((1, 0), [1, 4]), ((1, 1), [4]), ((EPOCHS, 0), [4])):
        seen, found = [], checkpoint.read(kept[place])
        detector = detector_of("ganomaly", ALL)
        detector.load_training_state(found.state)
        readings = Readings([1, EPOCHS], lambda epochs, _, seen=seen: seen.append(epochs))
        fit(detector, readings, epoch=place[0], block=place[1])
        assert seen == wanted
        assert not differing(outcome(detector), whole)


def test_a_checkpoint_asked_for_in_a_reading_is_of_that_epoch(tmp_path):
    places, path = [], tmp_path / "c"
    writing = Checkpointing(path, points=["p0"], every_seconds=3600)

    def look(epochs, _):
        if epochs > 1 and path.exists():
            found = checkpoint.read(path)
            places.append((found.epoch, found.block))
        writing.write_now()

    fit(detector_of("dcase_ae", None), Readings([1, 2, 3], look), writing, epochs=3)
    found = checkpoint.read(path)
    assert [*places, (found.epoch, found.block)] == [(1, 0), (2, 0), (3, 0)]


def test_a_checkpoint_asked_for_within_a_block_waits_for_its_end(tmp_path):
    path = tmp_path / "c"
    writing = Checkpointing(path, points=["p0"], every_seconds=3600)
    detector, steps = detector_of("dcase_ae", None), []
    learn = detector.learn

    def asking(batch, draw):
        steps.append(batch.step)
        if len(steps) in (3, 6):
            writing.write_now()
        assert path.exists() == (len(steps) > 3)
        return learn(batch, draw)

    detector.learn = asking
    fit(detector, writing, epochs=2)
    found = checkpoint.read(path)
    assert (found.epoch, found.block) == (1, 1)


def test_epochs_are_reported_and_logged_by_their_own_numbers(trained):
    _, kept = trained("ganomaly", None)
    told, logged = [], []

    class Logger:
        def log_metrics(self, metrics, step):
            logged.append(step)

    found = checkpoint.read(kept[2, 3])
    detector = detector_of("ganomaly", None)
    detector.load_training_state(found.state)
    reporting = Reporting(Logger(), prefix="", on_steps=lambda *said: told.append(said))
    fit(detector, reporting, epoch=2, block=3)
    done, *rest = told
    assert done == (13, "epoch 3/4")  # what was done before it was cut
    # An epoch's last block is told of when the epoch is closed.
    assert rest == [(1, "epoch 3/4")] + [(1, "epoch 4/4")] * 6
    assert logged == [3, 4]


def test_a_position_of_another_training_is_refused():
    with pytest.raises(BadInput, match="first_block=5, but 81 windows make 5 blocks"):
        fit(detector_of("dcase_ae", None), block=5)


# The file ----------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "c"
    detector = detector_of("dcase_ae", None)
    checkpoint.write(path, detector, epoch=1, block=2, points=["p0"])
    return path, detector


def test_a_checkpoint_is_what_the_safetensors_library_reads(written):
    path, detector = written
    theirs, ours = load(path.read_bytes()[:-64]), checkpoint.read(path)
    assert (ours.epoch, ours.block, ours.lanes) == (1, 2, ())
    assert list(ours.state) == list(detector.training_state())
    assert not differing(ours.state, theirs)


def test_a_flipped_byte_is_found_wherever_it_is(written):
    path, _ = written
    whole = path.read_bytes()
    for place in (0, 9, 200, len(whole) // 2, len(whole) - 65, len(whole) - 64, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged, match=r"checksum \w{12} found, .* it was changed or cut"):
            checkpoint.read(path)


def test_a_cut_file_is_refused(written):
    path, _ = written
    whole = path.read_bytes()
    for length in (0, 7, 64, 100, len(whole) // 2, len(whole) - 64, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match="it was changed or cut"):
            checkpoint.read(path)


def test_another_format_is_refused_and_no_file_is_none(written, monkeypatch):
    path, _ = written
    monkeypatch.setattr(checkpoint, "FORMAT", "3")
    with pytest.raises(BadInput, match="a checkpoint of format 2, this version reads 3"):
        checkpoint.read(path)
    assert checkpoint.read(path.with_name("none")) is None


def test_the_checkpoint_before_stays_when_writing_fails(written, monkeypatch):
    path, detector = written
    monkeypatch.setitem(detector.history, "loss", [torch.zeros((), dtype=torch.int64)])
    original = torch.Tensor.contiguous

    def full_disk(tensor):
        if tensor.dtype == torch.int64:
            raise OSError(28, "No space left on device")
        return original(tensor)

    monkeypatch.setattr(torch.Tensor, "contiguous", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, detector, epoch=3, block=0, points=["p0"])
    assert checkpoint.read(path).epoch == 1
    assert [found.name for found in path.parent.iterdir()] == ["c"]
