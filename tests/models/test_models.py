"""Every detector found in conf/model/: life, isolation, lanes, and its YAML twin."""

import inspect
from functools import partial

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from small_models import (
    ENSEMBLES,
    NAMES,
    STACKABLE,
    compose,
    detector_of,
    dropping,
    learn,
    noise_for,
    windows_for,
)

from asdgan.config import compose as settings

WINDOWS = torch.randn(16, 48, generator=torch.Generator().manual_seed(5))
# Of an even number of windows as many may lie above an output as below it: then the L1 loss gives
# its bias no gradient, the discriminator's batch statistics give it rounding alone, and Adam turns
# that into steps. One ulp of input grows 1000 times faster in such a batch, whatever is compared.
ODD = torch.randn(17, 48, generator=torch.Generator().manual_seed(5)).double()
LANES = {
    "seed": [0, 1, 0, 2, 0, 1, 0, 0],
    "lr": [1e-3, 1e-3, 5e-3, 2e-4, 1e-3, 5e-3, 1e-3, 2e-4],
    "beta1": [0.5, 0.3, 0.5, 0.5, 0.3, 0.5, 0.5, 0.5],
    "dropout": [0.0, 0.25, 0.5, 0.0, 0.25, 0.5, 0.0, 0.25],
    "init": ["glorot_uniform", "normal"] * 4,
    "lambda_adv": [1.0, 50.0] * 4,
    "lambda_con": [50.0, 1.0] * 4,
    "lambda_lat": [1.0, 1.0, 50.0, 50.0] * 2,
}


def stack_of(name, lanes, **changes):
    """A stack whose lane i is point lanes[i], and what each point is alone."""
    config = compose(name, *[f"{key}={value}" for key, value in changes.items()])
    axes = [axis for axis in LANES if config.get(axis) is not None]
    for axis in axes:
        config[axis] = [LANES[axis][lane] for lane in lanes]
    alone = []
    for lane in lanes:
        one = compose(name, *[f"{key}={value}" for key, value in changes.items()])
        for axis in axes:
            one[axis] = LANES[axis][lane]
        alone.append(one)
    return config, alone


def totals(losses):
    """What the networks minimise, without the terms it is made of."""
    return {key: value for key, value in losses.items() if key.startswith("loss")}


@pytest.mark.parametrize("name", [*NAMES, *ENSEMBLES])
def test_yaml_gives_every_argument_of_the_constructor_and_no_other(name):
    node = OmegaConf.to_container(compose(name).model, resolve=False)
    signature = inspect.signature(hydra.utils.get_class(node.pop("_target_")).__init__)
    wanted = {key: p for key, p in signature.parameters.items() if key != "self"}
    assert set(node) == set(wanted)
    assert all(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in wanted.values())


@pytest.mark.parametrize("name", [*NAMES, *ENSEMBLES])
def test_a_models_own_defaults_survive_composition(name):
    own = OmegaConf.load(settings.CONF / "model" / f"{name}.yaml")
    composed = settings.compose([f"model={name}", "dataset=folder", "dataset.root=unused"])
    assert own.detector == name
    for key, value in own.items():
        if key not in ("defaults", "model", "rules", "windows", "features", "optimizer"):
            assert composed[key] == value, key
    for group in ("windows", "features", "optimizer"):
        for key, value in own.get(group, {}).items():
            assert composed[group][key] == value, key


@pytest.mark.parametrize("name", [*NAMES, *ENSEMBLES])
def test_docstring_names_paper_and_departures(name):
    doc = hydra.utils.get_class(compose(name).model._target_).__doc__
    assert "**Paper**" in doc
    assert "**Departures**" in doc


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_moves_in_training(name):
    config = compose(name, *dropping(name, 0.25))
    detector = detector_of(config)
    before = {key: value.clone() for key, value in detector.named_parameters()}
    learn(detector, noise_for(config), range(3))
    for key, value in detector.named_parameters():  # what a stage gave is frozen
        assert torch.equal(value, before[key]) != value.requires_grad, key


@pytest.mark.parametrize("name", NAMES)
def test_optimisers_share_no_parameter_and_leave_none_out(name):
    detector = detector_of(compose(name))
    owned = [id(p) for network in detector.networks() for p in detector.parameters_of(network)]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in detector.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_one_network_leaves_the_others_alone(name):
    detector = detector_of(compose(name))
    optimizers = detector.adams
    assert set(optimizers) == set(detector.networks())
    for network, optimizer in optimizers.items():
        before = {key: value.clone() for key, value in detector.named_parameters()}
        own = {id(p) for p in detector.parameters_of(network)}
        optimizer.descend([torch.ones_like(p) for p in detector.parameters_of(network)])
        for key, value in detector.named_parameters():
            assert torch.equal(value, before[key]) != (id(value) in own), (network, key)


@pytest.mark.parametrize("name", NAMES)
def test_scores_ignore_batch_mates_and_leave_the_detector_untouched(name):
    config = compose(name, *dropping(name, 0.5))
    detector = detector_of(config)
    learn(detector, noise_for(config), range(2))
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    together = detector.score_clips(windows_for(config))
    alone = detector.score_clips(windows_for(config, clips=1))
    assert detector.primary in together
    for key, scores in together.items():
        assert scores.shape == (4,)
        assert scores.dtype == torch.float64
        torch.testing.assert_close(scores[:1], alone[key], rtol=1e-6, atol=1e-7)
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_weights_reloaded_give_the_same_scores(name):
    detector = detector_of(compose(name))
    learn(detector, noise_for(compose(name)), range(2))
    other = detector_of(compose(name, "seed=9"))
    other.load_state_dict(detector.state_dict())
    ours, theirs = (d.score_clips(windows_for(compose(name))) for d in (detector, other))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", STACKABLE)
def test_float64_lanes_agree_with_the_points_alone_at_step_5(name):
    config, alone = stack_of(name, range(8))
    steps = learn(detector_of(config, torch.float64), ODD, range(5))
    for lane, one in enumerate(alone):
        theirs = learn(detector_of(one, torch.float64), ODD, range(5))
        for key, value in totals(steps[4]).items():
            torch.testing.assert_close(value[lane], theirs[4][key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", STACKABLE)
def test_float32_lanes_agree_with_the_points_alone_at_step_1(name):
    config, alone = stack_of(name, range(8))
    first = learn(detector_of(config), WINDOWS, range(1))[0]
    for lane, one in enumerate(alone):
        theirs = learn(detector_of(one), WINDOWS, range(1))[0]
        for key, value in totals(first).items():
            torch.testing.assert_close(value[lane], theirs[key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", STACKABLE)
def test_float32_lanes_drift_no_farther_than_one_ulp_of_input_takes_the_plain_run(name):
    lanes, steps = range(4), range(12)
    config, alone = stack_of(name, lanes)
    ours = learn(detector_of(config), WINDOWS, steps)[-1]
    nudged = WINDOWS * (1 + torch.finfo(torch.float32).eps)
    drifts, floors = [], []
    for lane, one in enumerate(alone):
        plain = learn(detector_of(one), WINDOWS, steps)[-1]
        other = learn(detector_of(one), nudged, steps)[-1]
        for key, value in totals(plain).items():
            drifts.append(float((ours[key][lane] - value).abs() / (value.abs() + 1e-6)))
            floors.append(float((other[key] - value).abs() / (value.abs() + 1e-6)))
    # Both are draws from one chaotic spread: medians are compared, with room for their noise.
    assert torch.tensor(drifts).median() <= 10 * torch.tensor(floors).median() + 1e-6


@pytest.mark.parametrize("name", STACKABLE)
def test_a_lane_gives_equal_bits_whichever_lanes_stand_beside_it(name):
    first, _ = stack_of(name, range(8))
    lanes = [3, 0, 7, 1, 5, 2, 4, 6, 1, 3]
    other, _ = stack_of(name, lanes)
    ours = learn(detector_of(first), WINDOWS, range(12))[-1]
    theirs = learn(detector_of(other), WINDOWS, range(12))[-1]
    for key, value in theirs.items():
        for place, lane in enumerate(lanes):
            assert torch.equal(value[place], ours[key][lane]), (key, lane)


@pytest.mark.parametrize("name", STACKABLE)
def test_a_lane_that_meets_nan_touches_no_other(name):
    def spoil(detector):
        with torch.no_grad():
            next(detector.parameters())[2].fill_(float("nan"))

    config, _ = stack_of(name, range(8))
    well = learn(detector_of(config), WINDOWS, range(6))[-1]
    ill = learn(detector_of(config), WINDOWS, range(6), change=spoil)[-1]
    others = [lane for lane in range(8) if lane != 2]
    for key, value in ill.items():
        assert torch.equal(value[others], well[key][others])
    assert any(bool(value[2].isnan()) for value in ill.values())


@pytest.mark.parametrize("name", [n for n in STACKABLE if "rebirth_below" in compose(n).model])
def test_a_discriminator_is_reborn_lane_by_lane_as_it_is_alone(name):
    windows = WINDOWS.double()
    start = learn(detector_of(compose(name), torch.float64), windows, range(1))[0]["loss_d"]
    change = {"model.rebirth_below": round(0.999 * float(start), 4)}
    config, alone = stack_of(name, range(8), **change)

    def count(detector):
        detector.between_blocks()

    stack = detector_of(config, torch.float64)
    learn(stack, windows, range(12), change=count)
    births = []
    for one in alone:
        single = detector_of(one, torch.float64)
        learn(single, windows, range(12), change=count)
        births.append(int(single.rebirth.births))
    assert stack.rebirth.births.tolist() == births
    assert 0 < sum(births) < 8 * 12


@pytest.mark.parametrize("name", STACKABLE)
def test_a_traced_step_gives_the_plain_steps_losses(name, monkeypatch, caplog):
    # Tracing is where a step fails to compile; checks/compiled_steps.py goes on to machine code.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = (detector_of(compose(name, "dropout=0.25")) for _ in range(2))
    compiled.compile_steps(len(WINDOWS))
    ours, theirs = (learn(d, WINDOWS, range(2)) for d in (compiled, plain))
    for key, value in theirs[0].items():
        torch.testing.assert_close(ours[0][key], value, rtol=1e-5, atol=1e-6)
    assert "compiling the step failed" not in caplog.text


def test_a_process_compiles_one_detector_after_another(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    with torch._dynamo.config.patch(recompile_limit=2):
        for width in (8, 12, 16, 20):
            detector = detector_of(compose("ganomaly", f"model.hidden_width={width}"))
            detector.compile_steps(len(WINDOWS))
            learn(detector, WINDOWS, range(1))
    assert "compiling the step failed" not in caplog.text


def test_a_step_that_cannot_be_compiled_runs_plainly_and_says_so(monkeypatch, caplog):
    def no_compiler(*_):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda plain, **_: no_compiler)
    plain, compiled = (detector_of(compose("ganomaly")) for _ in range(2))
    compiled.compile_steps(len(WINDOWS))
    ours, theirs = (learn(d, WINDOWS, range(3)) for d in (compiled, plain))
    assert all(torch.equal(ours[2][key], value) for key, value in theirs[2].items())
    assert caplog.text.count("running it plainly: no C++ compiler found") == 1


def test_dcase_ae_has_the_baselines_number_of_parameters():
    config = settings.compose(["model=dcase_ae", "dataset=folder", "dataset.root=unused"])
    detector = settings.build(config)
    assert sum(p.numel() for p in detector.parameters()) == 267_928
    statistics = [v for k, v in detector.state_dict().items() if "running" in k]
    assert sum(v.numel() for v in statistics) == 2_064


def test_the_adversarial_loss_reaches_the_generator():
    config = compose("ganomaly", "lambda_con=0.0", "lambda_lat=0.0")
    detector = detector_of(config)
    losses, _, (of_g, _) = detector.gradients(WINDOWS, torch.tensor(0.01), None, None)
    assert losses["loss_g"].item() == pytest.approx(losses["adv"].item())
    encoder = len(list(detector.encoder.parameters()))
    assert all(float(g.abs().sum()) > 0 for g in of_g[:encoder])
