"""Lanes: rank-polymorphic layers, noise and the optimiser, against torch's own."""

import math

import pytest
import torch
from torch import nn

from asdgan._system.seeds import key_of
from asdgan.errors import BadInput
from asdgan.nn.adversarial import softplus
from asdgan.nn.lanes import Draw, LaneAdam, Linear, Noise, Norm, adam, initialise, listed, per_lane

DOUBLE = torch.float64


def filled(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=DOUBLE))
    return module


def drawn(momentum=0.01, uniform=None):
    return Draw(torch.tensor(momentum, dtype=DOUBLE), uniform, None)


def test_linear_agrees_with_torch_lane_by_lane():
    ours = filled(Linear(5, 3, lanes=(2,), bias=True))
    x = torch.randn(7, 5, dtype=DOUBLE)
    for lane in range(2):
        theirs = nn.functional.linear(x, ours.weight[lane].T, ours.bias[lane, 0])
        torch.testing.assert_close(ours(x)[lane], theirs, rtol=0, atol=1e-12)


def test_norm_agrees_with_torch_batch_norm_relu_and_its_gradients():
    ours = filled(Norm(4, lanes=(), dropout=None))
    x = torch.randn(9, 4, dtype=DOUBLE, requires_grad=True)
    mean, var = torch.zeros(4, dtype=DOUBLE), torch.ones(4, dtype=DOUBLE)
    theirs = nn.functional.batch_norm(
        x, mean, var, ours.weight[0], ours.bias[0], True, 0.01, 1e-3
    ).relu()
    y = ours(x, drawn())
    torch.testing.assert_close(y, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.running_var[0], var, rtol=0, atol=1e-12)
    wanted = (x, ours.weight, ours.bias)
    weights = torch.randn_like(y)
    for mine, other in zip(
        torch.autograd.grad((y * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-11)


def test_norm_scores_with_running_statistics_as_torch_does():
    ours = filled(Norm(4, lanes=(), dropout=None))
    ours.running_mean.uniform_(-1, 1)
    ours.running_var.uniform_(0.5, 2)
    x = torch.randn(6, 4, dtype=DOUBLE)
    theirs = nn.functional.batch_norm(
        x, ours.running_mean[0], ours.running_var[0], ours.weight[0], ours.bias[0], False, 0, 1e-3
    )
    torch.testing.assert_close(ours(x, None), theirs.relu(), rtol=0, atol=1e-12)


def test_first_hundred_steps_average_the_running_statistics_plainly():
    noise, like = Noise([0], uniforms=0, normals=0), torch.zeros(1, dtype=DOUBLE)
    norm = filled(Norm(2, lanes=(), dropout=None))
    batches = torch.randn(100, 8, 2, dtype=DOUBLE)
    for step, batch in enumerate(batches):
        norm(batch, noise.draw(step, 8, like=like))
    means = batches.mean(1).mean(0)
    torch.testing.assert_close(norm.running_mean[0], means, rtol=0, atol=1e-12)
    assert float(noise.draw(5000, 8, like=like).momentum) == pytest.approx(0.01)


def test_dropout_keeps_the_mean_and_a_rate_of_zero_keeps_everything():
    rates = torch.tensor([0.0, 0.25, 0.5], dtype=DOUBLE).reshape(3, 1, 1)
    norm = Norm(64, lanes=(3,), dropout=rates).double()
    x = torch.randn(500, 64, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    uniform = torch.rand(500, 64, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    y = norm(x.expand(3, -1, -1), drawn(uniform=uniform))
    dropped = (y[1:] == 0).double().mean((-2, -1)) - (y[0] == 0).double().mean()
    torch.testing.assert_close(dropped * 2, rates[1:, 0, 0], rtol=0, atol=0.01)
    torch.testing.assert_close(y.mean((-2, -1)), y[0].mean().expand(3), rtol=0.02, atol=0)


def test_noise_is_keyed_by_seed_and_step_alone():
    like = torch.zeros(1)
    alone = Noise([7], uniforms=3, normals=2)
    among = Noise([1, 7, 1], uniforms=3, normals=2)
    for step in (0, 5):
        a, b = alone.draw(step, 4, like=like), among.draw(step, 4, like=like)
        assert torch.equal(a.uniforms(3), b.uniforms(3)[1])
        assert torch.equal(b.normals(2)[0], b.normal[2])
    again = alone.draw(5, 4, like=like).uniforms(3)
    assert torch.equal(again, a.uniform)
    assert not torch.equal(again, alone.draw(6, 4, like=like).uniform)


def test_a_lane_starts_as_the_same_point_alone():
    def perceptron(lanes):
        return nn.Sequential(
            Linear(6, 4, lanes=lanes, bias=True), Norm(4, lanes=lanes, dropout=None)
        )

    seeds, inits = [3, 5, 3], ["glorot_uniform", "normal", "normal"]
    stack = perceptron((3,))
    initialise(stack, init=inits, std=0.02, seed=seeds, place=("net",))
    for lane in range(3):
        alone = perceptron(())
        initialise(alone, init=inits[lane], std=0.02, seed=seeds[lane], place=("net",))
        for ours, theirs in zip(stack.parameters(), alone.parameters(), strict=True):
            assert torch.equal(ours[lane], theirs)


def test_initial_weights_have_the_papers_spread():
    layer = Linear(640, 128, lanes=(2,), bias=False)
    initialise(layer, init=["glorot_uniform", "normal"], std=0.02, seed=[0, 0], place=("net",))
    limit = math.sqrt(6 / 768)
    assert float(layer.weight.detach()[0].std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert float(layer.weight.detach()[0].abs().max()) <= limit
    assert float(layer.weight.detach()[1].std()) == pytest.approx(0.02, rel=0.02)


def test_an_unknown_initialisation_is_refused():
    layer = Linear(2, 2, lanes=(), bias=False)
    with pytest.raises(BadInput, match="init='kaiming' is not known"):
        initialise(layer, init="kaiming", std=0.02, seed=0, place=("net",))


def test_adam_steps_each_lane_as_torch_steps_it_alone():
    rates, betas = [1e-3, 5e-3, 1e-3, 1e-3], [0.5, 0.5, 0.9, 0.9]
    start = torch.randn(4, 3, 32)
    stack = nn.Parameter(start.clone())
    ours = adam([stack], lr=rates, beta1=betas, beta2=0.999, eps=1e-8)
    alone = [nn.Parameter(start[lane].clone()) for lane in range(4)]
    theirs = [
        torch.optim.Adam([p], lr, (beta, 0.999), fused=True)
        for p, lr, beta in zip(alone, rates, betas, strict=True)
    ]
    for step in range(5):
        gradient = torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(step))
        ours.descend([gradient])
        for lane in range(4):
            alone[lane].grad = gradient[lane].clone()
            theirs[lane].step()
            assert torch.equal(stack[lane], alone[lane])


def test_adam_takes_right_steps_for_gradients_that_are_not_contiguous():
    ours, theirs = (nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    gradient = torch.randn(4, 3).T
    assert not gradient.is_contiguous()
    LaneAdam([ours], lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8).descend([gradient])
    theirs.grad = gradient.contiguous()
    torch.optim.Adam([theirs], 0.1, fused=False, foreach=False).step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 16)])
def test_adam_moves_a_lane_by_equal_bits_however_many_stand_beside_it(shape):
    torch.manual_seed(0)
    values, gradients = torch.randn(2, 200, *shape)

    def moved(lanes, rates):
        parameter = nn.Parameter(values[lanes].clone())
        optimizer = LaneAdam([parameter], lr=rates, beta1=0.5, beta2=0.999, eps=1e-8)
        for step in range(1, 6):
            optimizer.descend([gradients[lanes] * step])
        return [parameter.detach(), *optimizer.lane_state().values()]

    whole = moved(slice(None), 1e-3)
    for lanes in (slice(0, 1), slice(3, 12), slice(8, 24), slice(100, 200)):
        for rates in (1e-3, [1e-3] * (lanes.stop - lanes.start - 1) + [1e-2]):
            for ours, theirs in zip(moved(lanes, rates), whole, strict=True):
                if ours.dim():
                    alike = ours[:-1] if isinstance(rates, list) else ours
                    assert torch.equal(alike, theirs[lanes][: len(alike)])


def test_softplus_of_a_lane_has_equal_bits_wherever_it_stands():
    logits = torch.randn(11, 6, 1, generator=torch.Generator().manual_seed(0)) * 3
    alone = [softplus(logits[lane : lane + 1]) for lane in range(11)]
    assert torch.equal(softplus(logits), torch.cat(alone))
    torch.testing.assert_close(softplus(logits), nn.functional.softplus(logits))


def test_values_for_another_number_of_lanes_are_refused():
    with pytest.raises(BadInput, match=r"2 values .* for 3 lanes"):
        listed([0.1, 0.2], (3,))
    assert per_lane(0.5, (3,)).tolist() == [0.5] * 3
    assert per_lane(0.5, ()).shape == ()


def test_keys_of_different_places_differ():
    keys = {key_of(seed, "noise", step) for seed in range(20) for step in range(20)}
    assert len(keys) == 400
    assert key_of(1, "a") == key_of(1, "a") < 2**63


def test_weight_decay_is_that_of_adamw():
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    rates = {"lr": 0.1, "eps": 1e-8, "weight_decay": 0.3}
    adam = LaneAdam([ours], beta1=0.9, beta2=0.999, **rates)
    oracle = torch.optim.AdamW([theirs], betas=(0.9, 0.999), **rates)
    for step in range(4):
        gradient = torch.sin(torch.arange(7.0) + step)
        adam.descend([gradient])
        theirs.grad = gradient.clone()
        oracle.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
