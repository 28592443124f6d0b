"""Group MADE: its masks, its likelihood, and that it is a density."""

import math

import pytest
import torch
from small_models import compose, detector_of, learn, windows_of
from torch import distributions

from asdgan.config import compose as settings
from asdgan.errors import BadInput
from asdgan.models.gmade import order_of


def gmade(*overrides, seed=0):
    return detector_of(compose("gmade", f"seed={seed}", *overrides), torch.float64)


def noise(windows, numbers=80, seed=0):
    return torch.randn(windows, numbers, generator=torch.Generator().manual_seed(seed)).double()


def test_the_centre_frame_comes_last_unless_the_order_is_natural():
    assert order_of(5, "centre_last") == [0, 1, 4, 3, 2]
    assert order_of(4, "centre_last") == [0, 1, 3, 2]
    assert order_of(5, "natural") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("components", [1, 10])
@pytest.mark.parametrize("order", ["centre_last", "natural"])
def test_no_gradient_of_a_group_reaches_it_or_later_ones_and_some_each_earlier(order, components):
    changes = (
        "windows.frames=5",
        f"model.frame_order={order}",
        f"model.n_components={components}",
    )
    detector, x = gmade(*changes), noise(7).requires_grad_()
    said, ordered = detector.outputs(x, None).unflatten(-1, (5, 16)), order_of(5, order)
    for place, frame in enumerate(ordered):
        (gradient,) = torch.autograd.grad(said[..., frame, :].sum(), x, retain_graph=True)
        by_frame = gradient.unflatten(-1, (5, 16)).abs().sum((0, 2))
        assert by_frame[ordered[place:]].eq(0).all()
        assert by_frame[ordered[:place]].gt(0).all()


@pytest.mark.parametrize("components", [1, 10])
def test_the_likelihood_is_that_of_torch_distributions(components):
    detector = gmade(f"model.n_components={components}")
    learn(detector, noise(16, 48), range(3))
    x = noise(9, 48, seed=1)
    mean, log_std, *logits = detector.outputs(x, None).transpose(-1, -2).unbind(-3)
    each = distributions.Normal(mean, log_std.exp())
    weights = distributions.Categorical(logits=logits[0] if logits else torch.zeros_like(mean))
    mixed = distributions.MixtureSameFamily(weights, each)
    surprise = detector.surprise(x, None)
    torch.testing.assert_close(surprise, -mixed.log_prob(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("components", [1, 3])
def test_the_density_of_a_window_integrates_to_one(components):
    changes = ("features.mels=1", "windows.frames=2")
    detector = gmade(*changes, f"model.n_components={components}")
    learn(detector, 1 + noise(32, 2), range(20))
    line = torch.linspace(-12, 12, 481, dtype=torch.float64)
    with torch.no_grad():
        density = (-detector.surprise(torch.cartesian_prod(line, line), None).sum(-1)).exp()
    assert float(density.sum()) * (24 / 480) ** 2 == pytest.approx(1, abs=1e-6)


def test_what_was_never_heard_is_stranger_by_both_scores():
    detector = gmade("lr=0.01")
    learn(detector, noise(64, 48), range(50))
    near, far = windows_of(seed=3), windows_of(seed=3)
    far.frames.mul_(4)
    for name in ("nll_all", "nll_last"):
        scores = [detector.score_clips(windows)[name] for windows in (near, far)]
        assert (scores[1] > scores[0]).all()


def test_the_last_score_is_of_the_centre_frame_alone():
    detector, windows = gmade(), windows_of()
    picks = torch.arange(len(windows))
    with torch.no_grad():
        surprise = detector.surprise(windows.gather(picks).double(), None)
    of_clip = windows.clip == 0
    scores = detector.score_clips(windows)
    assert float(scores["nll_last"][0]) == pytest.approx(float(surprise[of_clip, 16:32].mean()))
    assert float(scores["nll_all"][0]) == pytest.approx(float(surprise[of_clip].mean()))


def test_the_components_of_the_first_group_learn_to_differ():
    detector = gmade("model.n_components=3", "model.frame_order=natural")
    learn(detector, noise(64, 48).sign() * 2, range(30))
    mean = detector.outputs(noise(1, 48), None)[0, 0, :, 0]
    assert len(set(mean.tolist())) == 3


def test_gmade_has_the_layers_it_says():
    detector = settings.build(settings.compose(["model=gmade", "model.n_components=10"]))
    shapes = [tuple(p.shape) for p in detector.parameters() if p.shape[0] > 1]
    assert shapes == [(640, 512), *[(512, 512)] * 3, (512, 640 * 3 * 10)]
    first = detector.layers[0].linear.mask.view(5, 128, 512)[:, 0].sum(-1)
    assert first.tolist() == [512, 384, 0, 128, 256]  # of frames 0, 1, and 2, which comes last


def test_a_window_of_one_frame_is_refused():
    with pytest.raises(BadInput, match=r"windows\.frames=1: gmade needs a frame before another"):
        settings.build(compose("gmade", "windows.frames=1"))


def test_a_gaussian_of_no_spread_is_bounded():
    detector = gmade("lr=1.0")
    learn(detector, torch.zeros(16, 48, dtype=torch.float64), range(40))
    least = -7 + 0.5 * math.log(2 * math.pi)
    with torch.no_grad():
        assert float(detector.surprise(torch.zeros(1, 48).double(), None).min()) >= least
