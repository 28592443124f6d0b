"""GAN objectives against critics whose slopes are known."""

import pytest
import torch
from torch import nn

from asdgan.nn.adversarial import gradient_penalty

REAL, FAKE = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).double()


def test_the_penalty_of_a_linear_critic_is_that_of_its_weights_norm():
    weight = torch.full((12, 1), 0.5, dtype=torch.float64)  # its norm is the root of 3
    found = gradient_penalty(lambda x: x.flatten(1) @ weight, REAL, FAKE, key=1)
    assert found.item() == pytest.approx((3**0.5 - 1) ** 2, rel=1e-12)


def test_the_penalty_of_a_quadratic_critic_is_taken_between_real_and_fake_by_the_keyed_alphas():
    found = gradient_penalty(lambda x: x.square().sum((1, 2)) / 2, REAL, FAKE, key=7)
    alpha = torch.rand(5, generator=torch.Generator().manual_seed(7)).double()[:, None, None]
    between = alpha * REAL + (1 - alpha) * FAKE  # which is this critic's gradient itself
    by_hand = ((between.square().sum((1, 2)).sqrt() - 1) ** 2).mean()
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-12)
    other = gradient_penalty(lambda x: x.square().sum((1, 2)) / 2, REAL, FAKE, key=8)
    assert other.item() != pytest.approx(found.item(), rel=1e-3)


def test_the_penalty_pulls_a_critics_weights_and_nothing_else():
    critic = nn.Linear(12, 1).double()
    fake = FAKE.clone().requires_grad_()
    penalty = gradient_penalty(lambda x: critic(x.flatten(1)), REAL, fake, key=1)
    of_weight, of_fake = torch.autograd.grad(penalty, [critic.weight, fake], allow_unused=True)
    norm = critic.weight.norm()
    torch.testing.assert_close(of_weight, 2 * (norm - 1) * critic.weight / norm)
    assert of_fake is None
