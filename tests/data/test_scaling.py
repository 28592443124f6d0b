"""Windows scaled as learnt from the training frames."""

import pytest
import torch
from small_models import Recording, compose, detector_of, windows_of

from asdgan.config import compose as settings
from asdgan.data.frames import Frames
from asdgan.data.scaling import Scaling
from asdgan.data.windows import Windows

HOW = ("standard", "minmax", "global_standard", "global_minmax")
CLIPS = [Recording(0), Recording(1)]


def fitted(how, windows, numbers=None, lanes=()):
    made = Scaling(how, features=windows.features, lanes=lanes).double()
    made.fit(windows, torch.arange(len(windows)) if numbers is None else numbers)
    return made


def frames_of(windows, numbers):
    return torch.cat(list(windows.frames_of(numbers, piece=7))).double()


def test_the_frames_of_windows_come_once_each_in_order():
    windows = windows_of(clips=2, frames=20)
    first = windows.gather(windows.bounds[:-1])[:, :16]
    frames = frames_of(windows, torch.arange(len(windows)))
    assert len(frames) == 20 + 21
    assert torch.equal(frames[[0, 20]], first.double())
    assert len(frames_of(windows, torch.tensor([4, 5]))) == 4


def test_standard_gives_each_band_mean_0_and_deviation_1():
    windows = windows_of()
    seen = fitted("standard", windows)(frames_of(windows, torch.arange(len(windows))).repeat(1, 3))
    torch.testing.assert_close(seen.mean(0), torch.zeros(48).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        seen.std(0, correction=0), torch.ones(48).double(), rtol=0, atol=1e-12
    )


def test_minmax_gives_each_band_the_range_from_minus_1_to_1():
    windows = windows_of()
    seen = fitted("minmax", windows)(frames_of(windows, torch.arange(len(windows))).repeat(1, 3))
    torch.testing.assert_close(seen.amin(0), -torch.ones(48).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.amax(0), torch.ones(48).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("how", "width"), [("global_standard", 1), ("global_minmax", 2)])
def test_all_bands_together_keep_their_levels_to_one_another(how, width):
    windows = windows_of()
    frames = frames_of(windows, torch.arange(len(windows)))
    seen = fitted(how, windows)(frames.repeat(1, 3))[:, :16]
    middle, reach = (
        (frames.mean(), frames.std(correction=0))
        if width == 1
        else ((frames.amax() + frames.amin()) / 2, (frames.amax() - frames.amin()) / 2)
    )
    torch.testing.assert_close(seen, (frames - middle) / reach, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", HOW)
def test_frames_held_out_are_not_looked_at(how):
    values = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    alone, both = (
        Windows(Frames(values[:last], starts), CLIPS[: len(starts) - 1], length=3, stride=1)
        for last, starts in ((20, torch.tensor([0, 20])), (50, torch.tensor([0, 20, 50])))
    )
    first = torch.arange(len(alone))
    for name, value in fitted(how, alone).named_buffers():
        assert torch.equal(fitted(how, both, first).get_buffer(name), value)
        assert not torch.equal(fitted(how, both).get_buffer(name), value)


@pytest.mark.parametrize("how", HOW[:2])
def test_a_constant_band_is_shifted_to_0_and_not_stretched(how):
    values = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    values[:, 1] = -83.7
    windows = Windows(Frames(values, torch.tensor([0, 30])), CLIPS[:1], length=3, stride=1)
    made = fitted(how, windows)
    assert made.scale[0, 1::2].tolist() == [1.0] * 3
    torch.testing.assert_close(
        made(windows.gather(torch.arange(5)).double())[:, 1::2],
        torch.zeros(5, 3).double(), rtol=0, atol=1e-5,
    )  # fmt: skip


def test_lanes_hold_the_scale_of_a_single_run():
    windows = windows_of()
    alone, stack = (fitted("standard", windows, lanes=lanes) for lanes in ((), (3,)))
    x = windows.gather(torch.arange(5)).double()
    assert torch.equal(alone(x), stack(x))
    assert all(torch.equal(stack.shift[lane], alone.shift) for lane in range(3))


@pytest.mark.parametrize("how", HOW)
def test_a_detector_scores_new_sound_by_the_scale_kept_in_its_weights(how):
    windows, sound = windows_of(), windows_of(seed=5)
    config = compose("ganomaly", f"windows.feature_norm={how}")
    ours, theirs = detector_of(config), detector_of(config)
    ours.fit_scaling(windows, torch.arange(len(windows)))
    theirs.load_state_dict(ours.state_dict())
    first, again = (of.score_clips(sound)["recon_l1"] for of in (ours, theirs))
    assert torch.equal(first, again)
    plain = detector_of(compose("ganomaly"))
    assert not torch.equal(first, plain.score_clips(sound)["recon_l1"])


def test_without_the_setting_nothing_is_scaled_and_nothing_kept():
    detector = settings.build(compose("ganomaly"))
    assert detector.scaling is None
    assert not [key for key in detector.state_dict() if "scaling" in key]
