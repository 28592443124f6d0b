"""The discrete autoencoder: its size, its codebooks, and what its training draws."""

import pytest
import torch
from small_models import windows_of

from asdgan.errors import BadInput
from asdgan.nn import vq
from asdgan.nn.lanes import keyed

SMALL = {"width": 16, "residual": 8, "codes": 32, "decay": 0.99, "commitment": 0.25}
SMALL |= {"revived": 0.0}
X = torch.randn(5, 1, 64, 32, generator=torch.Generator().manual_seed(0))


def small(**changes):
    with keyed(0, "codes"):
        made = vq.Codes(**{**SMALL, **changes})
    windows = windows_of(mels=32, frames=70, length=64)
    made.begin(windows, torch.arange(len(windows)), 64, torch.Generator().manual_seed(1))
    return made


def test_it_has_as_many_numbers_as_the_reference():
    sizes = {"width": 128, "residual": 64, "codes": 4096}
    made = vq.Codes(**{**SMALL, **sizes})
    learnt = sum(p.numel() for p in made.parameters())
    averages = sum(v.numel() for k, v in made.named_buffers() if "embed" in k or "size" in k)
    assert learnt == 1_920_129
    assert learnt + averages == pytest.approx(4.0e6, rel=0.01)


def test_the_nearest_code_is_the_librarys():
    made = small().eval()
    features = torch.randn(3, 16, 4, 5)
    theirs, _, _ = made.fine(features)
    assert vq.nearest(features, made.fine.codebook).equal(theirs)


def test_scoring_leaves_the_codes_alone_and_training_moves_those_that_were_used():
    made = small()
    before = {name: value.clone() for name, value in made.named_buffers()}
    made.eval()(X)
    made.train().spelt(X)
    assert all(value.equal(before[name]) for name, value in made.named_buffers())
    found = made.coarse(made.features(X)[0])[1].unique()
    moved = (made.coarse.codebook != before["coarse._codebook.embed"][0]).any(-1).nonzero()
    assert set(found.tolist()) <= set(moved[:, 0].tolist())


def test_codes_follow_the_running_means_of_the_features_they_stand_for():
    made = small(decay=0.9, codes=2)
    features = torch.randn(4, 16, 8, 8)
    book, sums, sizes = made.fine.codebook.clone(), made.fine.codebook.clone(), torch.ones(2)
    picks = torch.cdist(features.movedim(1, -1).reshape(-1, 16), book).argmin(-1)
    for i in (0, 1):
        mine = features.movedim(1, -1).reshape(-1, 16)[picks == i]
        sizes[i] = 0.9 * sizes[i] + 0.1 * len(mine)
        sums[i] = 0.9 * sums[i] + 0.1 * mine.sum(0)
    made._learnt(made.fine, features)
    torch.testing.assert_close(made.fine.codebook, sums / sizes[:, None], rtol=1e-4, atol=1e-5)


def test_pieces_that_memory_holds_give_what_the_whole_gives(monkeypatch):
    found = []
    for piece in (vq.PIECE, 2 * 8 * 16):
        monkeypatch.setattr(vq, "PIECE", piece)
        made = small()
        rebuilt, loss = made(X)
        found.append([rebuilt, loss, made.fine.codebook, made.coarse.codebook])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_training_draws_nothing_from_the_global_generator():
    made = small()
    state = torch.get_rng_state()
    _, loss = made(X)
    loss.backward()
    assert torch.get_rng_state().equal(state)
    with keyed(7, "elsewhere"):
        torch.rand(3)
    assert torch.get_rng_state().equal(state)


def test_gradients_pass_the_codes_to_the_encoders():
    made = small()
    rebuilt, _ = made(X)
    rebuilt.square().mean().backward()
    assert made.encode_fine[0].weight.grad.abs().sum() > 0


def test_the_first_codes_are_features_of_training_windows_and_the_level_that_of_their_frames():
    made, windows = small().eval(), windows_of(mels=32, frames=70, length=64)
    frames = windows.frames * made.level[1] + made.level[0]
    assert float(frames.mean()) == pytest.approx(0, abs=1e-5)
    assert float(frames.std()) == pytest.approx(1, abs=1e-3)
    everything = made.image(windows.gather(torch.arange(len(windows))), 64)
    features = made.features(everything)[0].movedim(1, -1).reshape(-1, 16)
    assert torch.cdist(made.coarse.codebook, features).amin(-1).max() < 1e-3


@pytest.mark.parametrize(("frames", "mels", "rows"), [(313, 128, 320), (3, 16, 64), (64, 40, 64)])
def test_windows_of_any_size_are_filled_up_from_their_edges(frames, mels, rows):
    made = vq.Codes(**SMALL)
    windows = torch.randn(2, frames * mels)
    image = made.image(windows, frames)
    assert image.shape == (2, 1, rows, -(-mels // 32) * 32)
    assert image[:, 0, :frames, :mels].flatten(1).equal(windows)
    assert image[:, 0, frames:, 0].equal(
        image[:, 0, frames - 1 : frames, 0].expand(-1, rows - frames)
    )
    assert made.eval()(image)[0].shape == image.shape


def test_windows_that_were_scaled_already_are_refused():
    with pytest.raises(BadInput, match=r"windows\.feature_norm scales by one machine type's"):
        vq.check_frames(object())
