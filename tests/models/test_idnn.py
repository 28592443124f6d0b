"""IDNN: what goes in, what comes out, and what its score may not depend on."""

import pytest
import torch
from small_models import compose, detector_of

from asdgan.config import compose as settings
from asdgan.errors import BadInput


def test_idnn_is_the_baselines_body_with_512_numbers_in_and_128_out():
    detector = settings.build(settings.compose(["model=idnn"]))
    linear = [(512, 128), *[(128, 128)] * 3, (128, 8), (8, 128), *[(128, 128)] * 3, (128, 128)]
    matrices = [tuple(p.shape) for p in detector.parameters() if p.shape[0] > 1]
    assert matrices == linear
    norms, last = 2 * (8 * 128 + 8), 128  # no bias but the output's
    assert sum(p.numel() for p in detector.parameters()) == (
        sum(i * o for i, o in linear) + norms + last
    )


def test_the_centre_frame_is_told_from_the_others_alone():
    detector = detector_of(compose("idnn"))
    x = torch.randn(9, 48, requires_grad=True)
    told, centre = detector.centre(x, None)
    assert torch.equal(centre, x[:, 16:32])
    (gradient,) = torch.autograd.grad(told.sum(), x)
    assert torch.equal(gradient[:, 16:32], torch.zeros(9, 16))
    assert (gradient[:, :16] != 0).any()
    assert (gradient[:, 32:] != 0).any()


@pytest.mark.parametrize("frames", [1, 4])
def test_a_window_without_a_centre_is_refused(frames):
    with pytest.raises(BadInput, match=rf"windows\.frames={frames} has no centre frame"):
        detector_of(compose("idnn", f"windows.frames={frames}"))
