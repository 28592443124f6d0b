"""AEGAN-AD: its size, what both networks minimise, its 19 scores, its sections, its tables."""

import copy
import csv

import numpy as np
import pytest
import torch
from small_models import compose, detector_of, windows_for

from asdgan._system.seeds import key_of
from asdgan.config import compose as settings
from asdgan.data.windows import Batch
from asdgan.errors import BadInput
from asdgan.nn.adversarial import gradient_penalty
from asdgan.sweep import grid

REAL = ["dataset=folder", "dataset.root=unused"]


def numbers_of(module):
    return sum(parameter.numel() for parameter in module.parameters())


def small(*overrides, name="aegan_ad"):
    return detector_of(compose(name, *overrides), torch.float64)


def batch_of(detector, windows, step=3):
    picks = torch.arange(0, len(windows), 7)
    taken = detector._taken_in(windows.gather(picks))
    return Batch(taken, picks, windows, step)


def seen(detector, batch):
    """Windows, their codes, what is made of them, and its codes."""
    x = detector._images(batch)
    z = detector.encoder(x)
    fake = detector.rebuilt(z, batch)
    return x, z, fake, detector.encoder(fake)


@pytest.mark.parametrize(("first_norm", "encoder"), [(False, 5_128_704), (True, 5_390_848)])
def test_the_networks_have_the_repositorys_numbers_of_parameters(first_norm, encoder):
    words = ["model=aegan_ad_repository", f"model.first_norm={first_norm}".lower(), *REAL]
    detector = settings.build(settings.compose(words))
    assert numbers_of(detector.encoder) == encoder
    assert numbers_of(detector.decoder) == 5_390_848
    assert numbers_of(detector.critic) == 3_303_424
    assert numbers_of(detector) == encoder + 5_390_848 + 3_303_424


def test_every_section_of_the_report_adds_a_scale_and_a_shift_of_the_code():
    detector = settings.build(settings.compose(["model=aegan_ad", *REAL]))
    before = numbers_of(detector)
    detector.know(("00", "01", "02"))
    assert numbers_of(detector) - before == 3 * 2 * 256


def test_the_critic_minimises_the_wasserstein_distance_and_the_penalty_by_the_steps_key():
    detector, windows = small("seed=5"), windows_for(compose("aegan_ad"), clips=8)
    batch = batch_of(detector, windows)
    x, _, fake, _ = seen(detector, batch)
    key = key_of(5, "gradient_penalty", batch.step)
    penalty = gradient_penalty(detector.critic, x, fake, key=key).item()
    expected = (
        10 * penalty - detector.critic(x).mean().item() + detector.critic(fake).mean().item()
    )
    losses = detector.learn(batch, None)
    assert losses["loss_d"].item() == pytest.approx(expected, rel=1e-9)
    assert losses["con"].item() == pytest.approx((x - fake).square().mean().item(), rel=1e-9)


def test_what_is_told_of_a_step_is_what_its_losses_and_gradients_say():
    detector, windows = small(), windows_for(compose("aegan_ad"), clips=8)
    twin, batch = copy.deepcopy(detector), batch_of(detector, windows)
    x, z, fake, _ = seen(twin, batch)
    losses = detector.learn(batch, None)
    twin.critic.load_state_dict(detector.critic.state_dict())  # the generator's step comes after
    loss = torch.nn.functional.mse_loss(fake, x) + 0.1 * twin.matching(twin.critic, x, fake)
    gradients = torch.autograd.grad(loss, twin.parameters_of("generator"))
    pull = torch.cat([of.flatten() for of in gradients]).square().mean().sqrt()
    distance = np.linalg.norm((x - fake).detach().flatten(1), axis=1).mean()
    told = detector.vitals
    assert told.pull.item() == pytest.approx(pull.item(), rel=1e-9)
    assert told.distance.item() == pytest.approx(distance, rel=1e-9)
    assert (told.gap, told.penalty) == (losses["gap"], losses["penalty"])
    assert torch.equal(told.code, z.detach().flatten(1))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_feature_matching_is_between_means_and_by_its_weight_between_deviations(weight):
    detector = small(f"model.lambda_std={weight}")
    batch = batch_of(detector, windows_for(compose("aegan_ad"), clips=8))
    x, _, fake, _ = seen(detector, batch)
    a, b = (detector.critic.features(of).detach().numpy() for of in (x, fake))
    by_hand = ((a.mean(0) - b.mean(0)) ** 2).mean()
    by_hand += weight * ((a.std(0) - b.std(0)) ** 2).mean()
    assert detector.matching(detector.critic, x, fake).item() == pytest.approx(by_hand, rel=1e-9)
    losses = detector.learn(batch, None)
    total = losses["con"] + 0.1 * losses["adv"]
    assert losses["loss_g"].item() == pytest.approx(total.item(), rel=1e-9)


def test_the_nineteen_scores_are_those_of_plain_numpy():
    detector, windows = small(), windows_for(compose("aegan_ad"), clips=8)
    detector.learn(batch_of(detector, windows), None)
    detector.fit(windows)
    found = detector.score_clips(windows)
    picks = torch.arange(len(windows))
    batch = Batch(windows.gather(picks).double(), picks, windows, -1)
    with torch.no_grad():
        x, z, fake, z_fake = (of.flatten(1).numpy() for of in seen(detector.eval(), batch))
    norms = np.linalg.norm(z, axis=1) * np.linalg.norm(z_fake, axis=1)
    by_hand = {"latent_cos": 1 - (z * z_fake).sum(1) / norms}
    for space, gap in (("recon", x - fake), ("latent", z - z_fake)):
        by_hand |= {f"{space}_l1": abs(gap).mean(1), f"{space}_l2": (gap**2).mean(1)}
    outliers = {"mahalanobis", "knn", "lof", "cosine"}
    pooled = {f"{name}_{how}" for name in by_hand for how in ("mean", "min", "max")}
    assert len(found) == 19
    assert found.keys() == pooled | outliers
    edges = windows.bounds.tolist()
    for name in pooled:
        component, _, how = name.rpartition("_")
        clips = np.split(by_hand[component], edges[1:-1])
        assert found[name].tolist() == pytest.approx([getattr(np, how)(of) for of in clips])


def test_outliers_are_sought_among_clips_means_of_the_critics_features(monkeypatch):
    detector, windows = small(), windows_for(compose("aegan_ad"), clips=8)
    monkeypatch.setattr(detector, "score_windows", None)  # fitting scores no window
    detector.fit(windows)
    with torch.no_grad():
        images = windows.gather(torch.arange(len(windows))).double()
        features = detector.critic.features(images.view(-1, 1, *detector._shape))
    means = [of.mean(0) for of in features.split(windows.bounds.diff().tolist())]
    torch.testing.assert_close(detector.outliers.embeddings, torch.stack(means))


@pytest.mark.parametrize("primary", ["knn", "lof", "mahalanobis", "recon_l2_max"])
def test_training_clips_are_embedded_once_and_score_what_they_scored(primary, monkeypatch):
    detector = small(f"model.primary={primary}", "model.outliers.per=section")
    windows = windows_for(compose("aegan_ad"), clips=12)
    detector.fit(windows)
    wanted = detector.score_clips(windows)[primary]
    monkeypatch.setattr(detector, "embed_windows", None)
    assert torch.equal(detector.score_known(windows), wanted)


def test_without_a_critic_an_autoencoder_and_fifteen_scores_are_left():
    detector = small("model.critic=false")
    assert set(detector.networks()) == {"generator"}
    windows = windows_for(compose("aegan_ad"), clips=8)
    losses = detector.learn(batch_of(detector, windows), None)
    assert losses["loss_g"] == losses["con"]
    assert len(detector.score_clips(windows)) == 15


def test_a_code_is_styled_as_its_section_learnt_and_no_other():
    detector = small()
    z = torch.randn(4, detector._latent, 1, 1).double()
    section = torch.tensor([0, 1, 0, 1])
    before = detector.styles(z, section)
    assert before.mean(1).abs().max().item() < 1e-9  # layer normalisation
    with torch.no_grad():
        detector.styles.shift[1] += 3.0
    moved = detector.styles(z, section) - before
    assert moved.amax((1, 2, 3)).tolist() == pytest.approx([0, 3, 0, 3])


def test_windows_that_cannot_be_halved_so_often_are_refused():
    config = settings.compose(["model=aegan_ad", "windows.frames=100", *REAL])
    with pytest.raises(BadInput, match=r"windows.frames=100 and features.mels=128 cannot be halv"):
        settings.build(config)


@pytest.mark.parametrize("name", ["aegan_ad", "aegan_ad_repository"])
def test_a_training_taken_up_again_goes_on_bit_for_bit(name):
    windows = windows_for(compose(name), clips=8)
    first, second = small(name=name), small("seed=0", name=name)
    for step in range(2):
        first.learn(batch_of(first, windows, step), None)
    state = {key: value.clone() for key, value in first.training_state().items()}
    second.load_training_state(state)
    second.configure_optimizers()
    for detector in (first, second):
        detector.learn(batch_of(detector, windows, 2), None)
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_step_leaves_torchs_own_random_state_as_it_is():
    detector, windows = small(), windows_for(compose("aegan_ad"), clips=8)
    before = torch.get_rng_state()
    detector.learn(batch_of(detector, windows), None)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["aegan_ad_2022", "aegan_ad_2020"])
def test_each_published_result_has_a_point_judged_by_the_score_it_was_judged_by(repository, name):
    parts = grid.expand([f"sweep.file={name.removesuffix('_2022')}", "sweep.dry_run=true"]).parts
    ours = {(part.config.detector, part.config.machine): part.config.model for part in parts}
    said = {"x": "recon", "z": "latent", "1": "l1", "sum": "mean"}
    with (repository / "sweeps" / "published" / f"{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            kind, *words = row["note"].split("by ")[1].lower().split("-")
            wanted = words[0] if kind == "d" else "_".join(said.get(w, w) for w in words)
            assert ours[row["model"], row["machine_type"]].primary == wanted
