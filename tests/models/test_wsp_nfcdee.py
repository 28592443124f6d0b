"""WSP-NFCDEE: pooling, splits and conditional densities."""

import csv
import itertools
import math

import pytest
import torch
from small_models import compose, detector_of, learn, windows_of

from asdgan.config import compose as settings
from asdgan.errors import BadInput
from asdgan.sweep import grid

FLOWS = ("nsf", "maf")


def nfcdee(*overrides, name="wsp_nfcdee"):
    detector = detector_of(compose(name, *overrides), torch.float64)
    windows = windows_of()
    detector.fit_scaling(windows, torch.arange(len(windows)))
    return detector


def noise(windows, numbers=48, seed=0):
    return torch.randn(windows, numbers, generator=torch.Generator().manual_seed(seed)).double()


def pooled(weights, of_scale):
    """Vectors of all windows by numpy, weighted by one alpha and standardised as at another."""
    windows = windows_of()
    frames = windows.gather(torch.arange(len(windows))).double().view(len(windows), 3, 16).numpy()
    vectors, scaling = (
        alpha * frames.mean(1) + (1 - alpha) * frames.std(1) for alpha in (weights, of_scale)
    )
    return torch.from_numpy((vectors - scaling.mean(0)) / scaling.std(0))


# Pooling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("scale", ["follows", "fixed"])
def test_vectors_are_standardised_at_any_alpha_or_as_they_would_be_at_one_half(raw, scale):
    detector, windows = nfcdee(f"model.pooled_scale={scale}"), windows_of()
    with torch.no_grad():
        detector.pooling.raw.fill_(raw)
        found = detector.pooling(windows.gather(torch.arange(len(windows))).double())
    alpha = 1 / (1 + math.exp(-raw))
    wanted = pooled(alpha, alpha if scale == "follows" else 0.5)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_moments_do_not_depend_on_the_pieces_they_are_summed_in():
    windows = windows_of().gather(torch.arange(70)).double()
    whole, pieces = (nfcdee().pooling for _ in range(2))
    whole.fit([windows])
    pieces.fit(windows.split(9))
    for name in ("mean", "covariance"):
        torch.testing.assert_close(
            whole.get_buffer(name), pieces.get_buffer(name), rtol=1e-9, atol=1e-12
        )


def test_a_constant_bin_is_shifted_to_0_and_not_stretched():
    windows = noise(40)
    windows.view(40, 3, 16)[..., 5] = -83.7
    pooling = nfcdee().pooling
    pooling.fit(windows.split(16))
    found = pooling(windows).detach()
    assert found[:, 5].abs().max() < 1e-9
    torch.testing.assert_close(
        pooling(windows + 1).detach()[:, 5] - found[:, 5], torch.full((40,), 0.5).double()
    )


@pytest.mark.parametrize("scale", ["follows", "fixed"])
def test_a_gradient_reaches_alpha_and_it_is_told_with_beta(scale):
    detector = nfcdee(f"model.pooled_scale={scale}")
    told = learn(detector, noise(32), range(6))
    alphas = [float(step["alpha"]) for step in told]
    assert alphas[0] == 0.5
    assert len(set(alphas)) == 6
    assert all(float(step["alpha"] + step["beta"]) == pytest.approx(1) for step in told)


def test_the_likelihood_of_a_fixed_scale_prefers_whatever_makes_vectors_small():
    # Deviations of white noise vary less than means do: alpha falls, though nothing is to be told.
    x, ends = noise(200, seed=1), {}
    for scale in ("fixed", "follows"):
        change = f"model.pooled_scale={scale}"
        detector = nfcdee(change, "lr=0.02", "model.flow=maf")
        detector.pooling.fit([x])
        ends[scale] = float(learn(detector, x, range(40))[-1]["alpha"])
    assert ends["fixed"] < 0.4
    assert abs(ends["follows"] - 0.5) < abs(ends["fixed"] - 0.5) / 2


def test_one_frame_cannot_be_pooled():
    with pytest.raises(BadInput, match=r"windows\.frames=1: wsp_nfcdee pools a mean and a dev"):
        settings.build(compose("wsp_nfcdee", "windows.frames=1"))


# Splits and densities ---------------------------------------------------------------------------


def test_each_bin_is_a_target_equally_often_and_context_wherever_it_is_none():
    changes = ("wsp_nfcdee", "model.splits=8")
    detector = settings.build(compose(*changes))
    both = torch.cat([detector.targets, detector.context], -1).sort(-1).values
    assert torch.equal(both, torch.arange(16).expand(8, 16))
    assert detector.targets.flatten().bincount().tolist() == [2] * 16
    other = settings.build(compose(*changes, "seed=1")).targets
    assert not torch.equal(detector.targets, other)


@pytest.mark.parametrize(("share", "targets"), [(0.01, 0), (0.99, 16)])
def test_a_split_with_nothing_on_one_side_is_refused(share, targets):
    with pytest.raises(BadInput, match=f"of 16 numbers are {targets} targets; a split needs one"):
        settings.build(compose("wsp_nfcdee", f"model.target_share={share}"))


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("targets", [1, 2])
def test_the_density_of_targets_integrates_to_one_whatever_the_context(flow, targets):
    changes = ("features.mels=6", f"model.target_share={targets / 6}", "model.splits=1")
    detector = detector_of(
        compose("nfcdee", *changes, f"model.flow={flow}", "windows.frames=1"), torch.float64
    )
    learn(detector, 1 + noise(32, 6), range(20))
    line = torch.linspace(-12, 12, 2401 if targets == 1 else 241, dtype=torch.float64)
    at = line[:, None] if targets == 1 else torch.cartesian_prod(line, line)
    vectors = noise(1, 6, seed=3).repeat(len(at), 1)
    vectors[:, detector.targets[0]] = at
    with torch.no_grad():
        density = (-detector.surprise(vectors, torch.ones(len(at), dtype=torch.int64))).exp()
    step = float(line[1] - line[0])
    assert float(density.sum()) * step**targets == pytest.approx(1, abs=2e-3)


def test_a_score_is_the_mean_over_splits_of_the_negative_log_density():
    detector, x = nfcdee(), noise(9, 16)
    told = torch.nn.functional.one_hot(torch.ones(9, dtype=torch.int64), 2).double()
    each = [
        -flow(torch.cat([x[:, c], told], -1)).log_prob(x[:, t])
        for flow, t, c in zip(detector.flows, detector.targets, detector.context, strict=True)
    ]
    torch.testing.assert_close(detector.surprise(x, told.argmax(-1)), sum(each) / 2)


# Sections ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["one_hot", "per_section"])
def test_flows_tell_sections_apart(how):
    detector, x = nfcdee(f"model.by_section={how}"), noise(5, 16)
    first, second = (detector.surprise(x, torch.full((5,), section)) for section in (0, 1))
    assert (first != second).all()
    mixed = detector.surprise(x, torch.tensor([0, 1, 0, 0, 1]))
    torch.testing.assert_close(mixed[[0, 2, 3]], first[[0, 2, 3]])
    torch.testing.assert_close(mixed[[1, 4]], second[[1, 4]])


def test_a_section_has_flows_of_its_own_which_others_do_not_move():
    detector = nfcdee("model.by_section=per_section")
    before = [p.clone() for p in detector.flows[2:].parameters()]
    x = noise(6, 16)
    loss = detector.surprise(x, torch.zeros(6, dtype=torch.int64)).mean()
    gradients = torch.autograd.grad(loss, list(detector.flows.parameters()), allow_unused=True)
    assert len(detector.flows) == 4
    assert all(g is None for g in gradients[len(before) :])
    assert all(g is not None for g in gradients[: len(before)])


@pytest.mark.parametrize("how", ["one_hot", "per_section"])
def test_a_section_that_was_not_trained_on_is_refused_by_name(how):
    detector, windows = nfcdee(f"model.by_section={how}"), windows_of()
    windows.sections = ("00", "01", "00", "07")
    with pytest.raises(BadInput, match="sections 00, 01 and knows nothing of '07'"):
        detector.score_clips(windows)


def test_without_sections_any_is_scored_alike():
    detector, windows, other = nfcdee("model.by_section=none"), windows_of(), windows_of()
    other.sections = ("05", "06", "07", "08")
    ours, theirs = (detector.score_clips(one)["nll"] for one in (windows, other))
    assert torch.equal(ours, theirs)


# Sizes and published settings -------------------------------------------------------------------


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize(
    ("how", "sets", "told"), [("one_hot", 1, 3), ("per_section", 3, 0), ("none", 1, 0)]
)
def test_parameters_are_those_of_the_layers(flow, how, sets, told):
    config = settings.compose(
        ["model=wsp_nfcdee", f"model.flow={flow}", f"model.by_section={how}"]
    )
    detector = settings.build(config)
    detector.know(("00", "01", "02"))
    outputs = 32 * (2 if flow == "maf" else 3 * 8 - 1)
    widths = [32 + 96 + told, 128, 128, outputs]
    of_transform = sum(i * o + o for i, o in itertools.pairwise(widths))
    assert sum(p.numel() for p in detector.parameters()) == 1 + sets * 8 * 3 * of_transform


def test_the_sweep_has_the_settings_that_the_report_gives_by_machine_type(repository):
    with (repository / "sweeps" / "published" / "aithu_settings.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "wsp_nfcdee"]
    names = {"nMels": "features.mels", "nffts": "features.n_fft", "nFrames": "windows.frames"}
    parts = grid.expand(["sweep.file=wsp_nfcdee", "sweep.dry_run=true"]).parts
    found = {
        (part.config.machine, name): settings.flatten(part.config)[key]
        for part in parts
        for name, key in names.items()
    }
    told = {
        (r["machine_type"], r["setting"]): int(r["value"]) for r in rows if r["setting"] in names
    }
    assert found == told
