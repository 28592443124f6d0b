"""Both readings of the GANs: every open question is one setting, which does what it says."""

import pytest
import torch
from omegaconf import OmegaConf
from small_models import compose, detector_of, learn, windows_of

from asdgan.config.compose import composed, rules_of
from asdgan.config.rules import parsed
from asdgan.data.windows import Batch
from asdgan.errors import BadInput
from asdgan.models.ganomaly import ADV_LOSSES, BOUNDED, D_LOSSES, ORDERS
from asdgan.nn.adversarial import Averages, taken_for_fake, taken_for_real
from asdgan.nn.lanes import Draw, Linear
from asdgan.nn.perceptrons import l1_norm, l2_norm

WINDOWS = torch.randn(17, 48, generator=torch.Generator().manual_seed(5)).double()
COMMON = {
    "output_activation": ["tanh"], "activation_slope": [0.2], "reduction": ["mean", "norm"],
    "latent_activation": ["bn_relu", "linear"], "bn_at_test": ["clip"],
}  # fmt: skip
READINGS = {
    "ganomaly": COMMON | {
        "adv_loss": ["feature_matching", "feature_matching_inert"], "d_loss": ["sum", "features"],
        "latent_loss": ["disc_features"], "order": ["d_first"], "rebirth_by": ["either"],
    },
    "skip_ganomaly": COMMON | {
        "skip_mode": ["add"], "disc_feature": ["last_hidden"], "lat_in_d_loss": [True],
        "input_noise_std": [0.5],
    },
    "egbad": COMMON | {
        "bn_in_eg": [False], "bn_in_d": [True], "disc_join": ["late"], "ema": [0.9],
        "disc_score": ["cross_entropy"], "dropout_in": ["discriminator"],
    },
}  # fmt: skip
CHANGES = [
    (name, f"model.{key}={value}")
    for name, settings in READINGS.items()
    for key, values in settings.items()
    for value in values
    if compose(name).model[key] != value
]
# From the repository's history: adv_loss, d_loss, order, rebirth_by, and whether G feels D.
GENERATIONS = [
    ("bce", "sum", "d_first", "either", True),
    ("bce", "features", "d_first", "loss_d", True),
    ("feature_matching_inert", "half", "g_first", "loss_d", False),
    ("feature_matching", "half", "g_first", "loss_d", True),
]
AXES = ("adv_loss", "d_loss", "order", "rebirth_by")
NOISELESS = (torch.tensor(0.01).double(), None, None)


def trained(name, *changes, seed=0, steps=2):
    """A detector after some steps, and their losses and its scores, lane by lane."""
    bound = [] if name == "egbad" else ["model.rebirth_below=0.6"]
    config = compose(name, "dropout=0.25", *bound, *changes)
    config.seed = seed
    detector = detector_of(config, torch.float64)
    losses = learn(detector, WINDOWS, range(steps))
    return detector, {**losses[-1], **detector.score_clips(windows_of())}


def generation(*values, **other):
    typed = [f"model.{axis}={value}" for axis, value in zip(AXES, values, strict=False)]
    return detector_of(
        compose("ganomaly", *typed, *[f"{key}={value}" for key, value in other.items()]),
        torch.float64,
    )


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_every_reading_is_felt_and_lanes_have_it_as_points_alone(name, change):
    _, plain = trained(name)
    _, alone = trained(name, change)
    _, stack = trained(name, change, seed=[1, 0])
    assert any(not torch.equal(alone[key], value) for key, value in plain.items())
    for key, value in alone.items():
        torch.testing.assert_close(stack[key][1], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", READINGS)
def test_every_setting_of_an_original_is_one_that_is_tried_here(name):
    paper, original = (
        OmegaConf.to_container(compose(of).model) for of in (name, f"{name}_original")
    )
    differ = {key for key, value in original.items() if paper[key] != value}
    assert differ - {"hidden_width", "primary"} <= set(READINGS[name])
    assert "model=" + name + "_original" in type(detector_of(compose(name))).__doc__


@pytest.mark.parametrize(("adv", "d", "order", "by", "felt"), GENERATIONS)
def test_the_adversarial_loss_reaches_the_generator_in_all_generations_but_one(
    adv, d, order, by, felt
):
    detector = generation(adv, d, order, by, lambda_con=0.0, lambda_lat=0.0)
    losses, _, (of_g, _) = detector.gradients(WINDOWS, *NOISELESS)
    networks = (detector.encoder, detector.decoder)
    count = sum(len(list(network.parameters())) for network in networks)
    assert losses["loss_g"].item() == pytest.approx(losses["adv"].item())
    assert losses["adv"].item() > 0
    assert all((float(g.abs().sum()) > 0) == felt for g in of_g[:count])
    assert not any(float(g.abs().sum()) for g in of_g[count:])


def test_a_step_of_two_turns_can_be_traced(monkeypatch, caplog):
    plain_compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda step, **how: plain_compile(step, backend="aot_eager", **how)
    )
    ours, theirs = (generation(*GENERATIONS[1][:4], hidden_layers=1) for _ in range(2))
    ours.compile_steps(len(WINDOWS))
    found, wanted = (learn(of, WINDOWS, range(2)) for of in (ours, theirs))
    assert "compiling the step failed" not in caplog.text
    for key, value in wanted[1].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-9, atol=1e-9)


def test_the_second_generation_never_trains_its_classifier():
    detector = generation(*GENERATIONS[1][:4])
    before = [p.clone() for p in detector.discriminator.parameters()]
    learn(detector, WINDOWS, range(3))
    after = list(detector.discriminator.parameters())
    moved = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert moved[-2:] == [False, False]
    assert all(moved[:-2])


def test_where_the_discriminator_is_first_it_takes_the_same_step_and_the_generator_another():
    first, second = generation("bce", "half", "g_first"), generation("bce", "half", "d_first")
    for detector in (first, second):
        learn(detector, WINDOWS, range(1))
    alike = {
        name: [
            torch.equal(one, other)
            for one, other in zip(
                first.parameters_of(name), second.parameters_of(name), strict=True
            )
        ]
        for name in ("discriminator", "generator")
    }
    assert all(alike["discriminator"])
    assert not any(alike["generator"][:4])


@pytest.mark.parametrize(("by", "reborn"), [("loss_d", False), ("either", True)])
def test_fresh_weights_are_due_by_the_whole_loss_or_by_either_term(by, reborn):
    detector = generation("bce", "half", "g_first", by)
    with torch.no_grad():  # everything is taken for real: one term is small, their mean is not
        detector.discriminator.output.bias.fill_(9.0)
    learn(detector, WINDOWS, range(1))
    detector.rebirth.below = 1e-2
    learn(detector, WINDOWS, range(1))
    assert bool(detector.rebirth.births) == reborn


def test_the_feature_loss_in_d_has_the_gradient_of_one_on_detached_imitations():
    detector = detector_of(compose("skip_ganomaly", "model.lat_in_d_loss=true"), torch.float64)
    *_, of_d = detector.gradients(WINDOWS, *NOISELESS)
    fake = detector.generator(WINDOWS, draw := Draw(*NOISELESS))[0].detach()
    (f_real, real), (f_fake, imitated) = (detector._judged(x, draw) for x in (WINDOWS, fake))
    loss = taken_for_real(real) + taken_for_fake(imitated) + (f_fake - f_real).square().mean()
    wanted = torch.autograd.grad(loss, tuple(detector.parameters_of("discriminator")))
    for one, other in zip(of_d, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_norms_agree_with_sums_by_hand_and_have_a_gradient_where_nothing_differs():
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    b = torch.zeros(2, 2)
    assert (l1_norm(a, b).item(), l2_norm(a, b).item()) == (3.5, 2.5)
    (gradient,) = torch.autograd.grad(l2_norm(a, b), a)
    assert gradient.tolist() == [[pytest.approx(0.3), pytest.approx(0.4)], [0.0, 0.0]]


@pytest.mark.parametrize("name", READINGS)
def test_a_clip_by_its_own_statistics_ignores_the_running_ones_and_other_clips(name):
    detector, _ = trained(name, "model.bn_at_test=clip")
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    first, alone = (detector.score_clips(windows_of(clips=n)) for n in (4, 1))
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    for key, value in detector.named_buffers():
        if "running" in key:
            value.add_(1.0)
    again = detector.score_clips(windows_of())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(first[key][:1], alone[key]) for key in first)
    assert detector.at_test is None


def test_a_clip_of_one_window_has_no_statistics_of_its_own():
    detector, _ = trained("ganomaly", "model.bn_at_test=clip")
    with pytest.raises(BadInput, match=r"model\.bn_at_test=clip: a clip of one window"):
        detector.score_clips(windows_of(clips=1, frames=3))


def test_averages_are_the_sum_by_hand_and_serve_scoring_only():
    layer = Linear(2, 1, lanes=(), bias=False).double()
    averages = Averages([layer], decay=0.75)
    for value in (4.0, 8.0):
        layer.weight.data.fill_(value)
        averages.update()
    with averages.in_use():
        assert layer.weight.flatten().tolist() == [2.75, 2.75]  # (0.75 * 0.25 * 4) + 0.25 * 8
    assert layer.weight.flatten().tolist() == [8.0, 8.0]


def test_egbad_scores_by_its_averages_and_trains_on_without_them():
    plain, _ = trained("egbad")
    averaged, _ = trained("egbad", "model.ema=0.9")
    for one, other in zip(plain.parameters(), averaged.parameters(), strict=True):
        assert torch.equal(one, other)
    with averaged.averages.in_use():
        plain.load_state_dict(averaged.state_dict(), strict=False)
    ours, theirs = (detector.score_clips(windows_of()) for detector in (averaged, plain))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_input_noise_is_in_training_alone():
    quiet, noisy = (
        detector_of(compose("skip_ganomaly", f"model.input_noise_std={std}")) for std in (0, 0.5)
    )
    assert (quiet.noise_columns()[1], noisy.noise_columns()[1]) == (0, 48)
    batch = Batch(WINDOWS.float(), None, None, -1)
    ours, theirs = (detector.score_windows(batch) for detector in (quiet, noisy))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_late_branches_need_a_layer_behind_them():
    with pytest.raises(Exception, match="hidden_layers of at least 2") as found:
        detector_of(compose("egbad", "model.disc_join=late", "hidden_layers=1"))
    assert isinstance(found.value.__cause__ or found.value, BadInput)


@pytest.mark.parametrize("word", ["adv_loss", "order", "bn_at_test", "reduction"])
def test_an_unknown_reading_is_refused_with_those_that_are(word):
    with pytest.raises(BadInput, match=rf"model\.{word}=other: .* or .* is expected"):
        compose("ganomaly", f"model.{word}=other")


def test_the_readings_that_are_checked_are_those_that_are_built():
    built = dict(zip(AXES, (ADV_LOSSES, D_LOSSES, ORDERS, BOUNDED), strict=True))
    rules = rules_of(composed(["model=ganomaly"]))
    for axis, values in built.items():
        assert rules[f"model.{axis}"] == parsed(" | ".join(values))
