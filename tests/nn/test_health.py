"""Health of adversarial training: planted failures are named, sound runs are left alone."""

import re

import pytest
import torch
from small_models import compose, detector_of, dropping, windows_for, windows_of

from asdgan.data.windows import WindowData
from asdgan.models.ganomaly import Ganomaly
from asdgan.nn import health

GANS = ("ganomaly", "skip_ganomaly", "egbad")
CRITICS = ("aegan_ad", "aegan_ad_repository")
SOUND = {
    "d_real": [0.7, 0.8, 0.75], "d_fake": [0.6, 0.99, 0.7], "dead": [0.0, 0.2, 0.0],
    "balance": [0.5, 0.3, 0.6], "spread": [0.2, 0.1, 0.3], "births": [0.0, 0.0, 0.0],
}  # fmt: skip
SOUND_CRITIC = {
    "gap": [0.01, 0.05, 0.1], "slope": [0.5, 0.2, 0.1], "pull": [1e-3, 1e-4, 1e-5],
    "dead": [0.0, 0.0, 0.0], "spread": [0.1, 0.2, 0.1],
}  # fmt: skip


def trained(detector, epochs=2, windows=None):
    """The detector after some epochs, as the trainer calls it."""
    windows = windows_of(clips=12) if windows is None else windows
    numbers = torch.arange(len(windows))
    data = WindowData(
        windows, train=numbers, held=numbers[:0], seeds=detector.seeds, batch=16, block=9
    )
    for epoch in range(epochs):
        for block in data.blocks(epoch):
            detector.training_step(block, 0)
        detector.on_train_epoch_end()
    return detector


def verdict(detector, lane=0):
    return health.verdict(health.of_lane(detector.history, lane), 8)


def changed(sound=SOUND, **other):
    return health.verdict({**sound, **other}, 8)


def criticised(name, *overrides, epochs=3, plant=None):
    """The verdict on a model with a critic, trained on levels of bands that hardly change."""
    config = compose(name, *overrides)
    detector, windows = detector_of(config), windows_for(config, clips=12)
    windows.frames.mul_(0.1).add_(torch.linspace(0.5, -0.5, config.features.mels))
    if plant is not None:
        plant(detector)
    return verdict(trained(detector, epochs=epochs, windows=windows))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"d_real": [0.5, 1.0, 1.0], "d_fake": [1.0, 1.0, 0.995]}, "saturated at epoch 2"),
        ({"balance": [0.001, 0.001, 0.001]}, "discriminator outweighs the generator from epoch 1"),
        ({"balance": [0.5, 0.5, 0.999]}, "generator outweighs the discriminator from epoch 3"),
        ({"dead": [0.0, 3.0, 2.9]}, "3 of 8 code units dead from epoch 2"),
        ({"spread": [0.1, 0.0, 1e-5]}, "scores constant from epoch 2"),
        ({"births": [0.0, 2.0, 12.0]}, "discriminator given fresh weights 12 times"),
    ],
)
def test_a_verdict_names_what_ails_a_run_and_since_when(other, said):
    (sentence,) = changed(**other)
    assert said in sentence


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"gap": [0.01, -0.02, 0.0009]}, "critic tells nothing apart from epoch 2"),
        ({"slope": [1.0, 1.9, 2.1]}, "critic's slope runs away from epoch 3"),
        ({"pull": [1e-9, 0.0, 0.0]}, "generator learns nothing from epoch 1"),
        ({"dead": [0.0, 3.0, 2.9]}, "3 of 8 code units dead from epoch 2"),
        ({"spread": [0.1, 0.0, 1e-5]}, "scores constant from epoch 2"),
    ],
)
def test_a_verdict_on_a_critic_goes_by_its_own_measures(other, said):
    assert changed(SOUND_CRITIC, **other) == [said]
    assert changed(SOUND_CRITIC) == []


def test_a_sound_run_one_that_mended_and_one_never_measured_have_no_verdict():
    assert health.verdict(SOUND, 8) == []
    assert changed(d_real=[1.0, 1.0, 0.9], d_fake=[1.0, 1.0, 1.0], dead=[8.0, 8.0, 0.0]) == []
    assert health.verdict({}, 8) == []


def test_measures_agree_with_a_count_by_hand():
    logits = torch.tensor([[2.0], [-1.0], [0.5], [3.0]])
    code = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.5], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    loss_d, adv = torch.tensor(0.25), torch.tensor(0.75)
    found = health.of_minibatch(health.Vitals(logits, -logits, code, loss_d, adv, None))
    wanted = {"d_real": 0.75, "d_fake": 0.75, "dead": 2.0, "balance": 0.25}
    assert {name: float(value) for name, value in found.items()} == wanted
    seen = health.CriticVitals(3 * loss_d, adv, loss_d, loss_d, code)
    wanted = {"gap": 1.0, "slope": 0.5, "pull": 0.25, "dead": 2.0}
    assert {name: float(value) for name, value in health.of_minibatch(seen).items()} == wanted
    scores = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    assert health.of_epoch(
        health.Vitals(logits, logits, code, adv, None, None), scores
    )["spread"].tolist() == [0.5, 0.0, 0.0]  # fmt: skip


@pytest.mark.parametrize("name", GANS)
def test_every_epoch_has_every_measure_of_every_lane(name):
    config = compose(name)
    config.seed = [0, 1, 2]
    detector = trained(detector_of(config), epochs=3)
    found = {key: values for key, values in detector.history.items() if key.startswith("health/")}
    births = set() if name == "egbad" else {"health/births"}
    assert set(found) == births | {f"health/{of}" for of in SOUND if of != "births"}
    assert all(torch.stack(values).shape == (3, 3) for values in found.values())
    assert all(torch.stack(values).isfinite().all() for values in found.values())


def test_a_discriminator_made_perfect_is_called_saturated(monkeypatch):
    plain = Ganomaly._passed

    def perfect(self, x, draw):
        passed = plain(self, x, draw)
        return passed._replace(
            logit_real=passed.logit_real + 30, logit_fake=passed.logit_fake - 30
        )

    monkeypatch.setattr(Ganomaly, "_passed", perfect)
    found = verdict(trained(detector_of(compose("ganomaly", "model.rebirth_below=0"))))
    assert "discriminator saturated at epoch 1" in found
    assert "discriminator outweighs the generator from epoch 1" in found


@pytest.mark.parametrize("name", CRITICS)
def test_a_critic_that_is_held_has_every_measure_and_no_verdict(name):
    assert criticised(name) == []
    detector = trained(detector_of(compose(name)), windows=windows_for(compose(name)))
    found = {key: of for key, of in detector.history.items() if key.startswith(health.PREFIX)}
    assert set(found) == {f"{health.PREFIX}{of}" for of in SOUND_CRITIC}
    assert all(torch.stack(values).isfinite().all() for values in found.values())
    assert all(len(values) == 2 for values in found.values())


def test_a_critic_without_a_penalty_is_told_of_since_it_ran_away():
    typed = ("model.lambda_gp=0", "lr=0.002")
    assert criticised("aegan_ad", *typed, epochs=1) == []
    (sentence,) = criticised("aegan_ad", *typed, epochs=10)
    assert re.fullmatch(r"critic's slope runs away from epoch ([3-9]|10)", sentence)


def test_a_critic_with_one_answer_for_everything_is_told_of():
    def plant(detector):
        answer = detector.critic.answer.forward
        detector.critic.answer.forward = lambda features: 1e-6 * answer(features)

    assert criticised("aegan_ad", plant=plant) == ["critic tells nothing apart from epoch 1"]


def test_a_generator_whose_gradients_vanish_is_told_of():
    @torch.no_grad()
    def plant(detector):
        detector.decoder[-2].weight.mul_(1e9)  # tanh is flat there

    assert "generator learns nothing from epoch 1" in criticised("aegan_ad", plant=plant)


def test_an_epochs_last_look_leaves_running_statistics_as_they_are():
    config = compose("aegan_ad", "model.norm=batch")
    detector, states = detector_of(config), []
    plain = detector.on_train_epoch_end

    def ended():
        states.append({name: of.clone() for name, of in detector.state_dict().items()})
        plain()

    detector.on_train_epoch_end = ended
    trained(detector, epochs=1, windows=windows_for(config))
    assert any("running_var" in name for name in states[0])
    assert all(torch.equal(of, states[0][name]) for name, of in detector.state_dict().items())
    assert detector.training


def test_code_units_forced_to_zero_are_counted_in_their_lane_alone():
    config = compose("ganomaly", "lr=1e-5")
    config.seed = [0, 1]
    detector = detector_of(config)
    with torch.no_grad():
        detector.encoder.output.norm.bias[1, :, :3] = -1e3
    trained(detector)
    assert "3 of 8 code units dead from epoch 1" in verdict(detector, lane=1)
    assert not any("dead" in sentence for sentence in verdict(detector, lane=0))


def test_scores_that_are_constant_are_named(monkeypatch):
    def same(self, batch):
        return {"recon_l1": torch.full(batch.windows.shape[:-1], 0.3)}

    detector = detector_of(compose("ganomaly"))
    monkeypatch.setattr(Ganomaly, "score_windows", same)
    assert "scores constant from epoch 1" in verdict(trained(detector))


def test_a_discriminator_given_fresh_weights_is_told_of_every_time():
    detector = detector_of(compose("ganomaly", "model.rebirth_below=100"))
    trained(detector, epochs=1)
    steps = int(detector.rebirth.births)
    assert steps > 10
    assert f"discriminator given fresh weights {steps} times" in verdict(detector)


@pytest.mark.parametrize("name", [*GANS, *CRITICS])
def test_looking_changes_no_bit_of_training(name, monkeypatch):
    config = compose(name, *dropping(name, 0.25))
    watched = trained(detector_of(config), windows=windows_for(config))
    monkeypatch.setattr(health, "of_minibatch", lambda vitals: {})
    monkeypatch.setattr(health, "of_epoch", lambda vitals, scores: {})
    alone = trained(detector_of(config), windows=windows_for(config))
    assert not [key for key in alone.history if key.startswith("health/")]
    theirs = alone.training_state()
    assert all(torch.equal(watched.training_state()[key], of) for key, of in theirs.items())


def test_a_lane_is_as_healthy_as_the_point_alone():
    config, one = (compose("ganomaly") for _ in range(2))
    config.seed, one.seed = [0, 3], 3
    stack, alone = (trained(detector_of(of, torch.float64), epochs=1) for of in (config, one))
    for name, values in alone.history.items():
        torch.testing.assert_close(stack.history[name][0][1], values[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*GANS, *CRITICS])
def test_what_is_looked_at_carries_no_gradient(name):
    config = compose(name)
    detector = trained(detector_of(config), epochs=1, windows=windows_for(config))
    assert not any(of.requires_grad for of in detector.vitals if of is not None)
