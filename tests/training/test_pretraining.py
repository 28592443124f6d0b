"""What is learnt first: once for all runs that ask for it, and found again."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load

from asdgan.config import compose, traits
from asdgan.data.windows import Joined
from asdgan.errors import BadInput
from asdgan.results import ledger
from asdgan.sweep import grid, plan
from asdgan.training import machine_data, pretraining, train

PLANT = (
    "dataset=demo", "dataset.seconds=1", "dataset.ids=2", "dataset.train_clips=2",
    "dataset.test_clips=1", "features.mels=8", "trainer.compile=false",
)  # fmt: skip
TYPED = ["epochs=1", "hidden_layers=1", "model.hidden_width=8", "latent=2"]


def staged(outputs, *overrides, typed=TYPED):
    """The settings of a run that has another autoencoder learnt first."""
    config = compose.compose(["model=dcase_ae", *PLANT, f"outputs={outputs}", *overrides])
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    config.model.stages = {"dcase_ae": list(typed)}
    return config


def learnt(config, on_steps=None):
    return pretraining.learnt(config, train._stage, on_steps)["dcase_ae"]


def signatures(*typed):
    """Of the points of a plan."""
    (part,) = grid.expand([*typed, "dataset=demo"]).parts
    told = traits.of(part.config.model._target_)
    rows = plan.signatures(part, plan.Heard("fan", "data"), told)
    return [name for row in rows for name in row]


def raise_recipe(monkeypatch, target):
    plain = traits.of

    def raised(asked):
        told = plain(asked)
        return replace(told, recipe=told.recipe + 1) if asked == target else told

    monkeypatch.setattr(traits, "of", raised)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    machine_data.root_of(staged(folder), machine_data.uncounted)
    return folder


def test_a_stage_is_the_model_trained_on_every_machine_type(outputs):
    config = staged(outputs)
    weights = learnt(config)
    one = compose.stages_of(config)["dcase_ae"]
    root = machine_data.root_of(one, machine_data.uncounted)
    types = machine_data.machine_types_of("all", root, one)
    heard = {m: machine_data.listen(one, root, m, machine_data.uncounted).train for m in types}
    theirs = train.fit(one, Joined(heard)).state_dict()
    assert len(types) == 6
    assert all(torch.equal(weights[name], value) for name, value in theirs.items())


def test_a_stage_is_trained_once_however_many_ask_at_once(outputs, caplog):
    caplog.set_level(logging.INFO, "asdgan")
    configs = [staged(outputs, f"seed={n}", typed=[*TYPED, "batch=33"]) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(learnt, configs))
    assert all(torch.equal(found[0][name], one[name]) for one in found for name in found[0])
    assert caplog.text.count("learnt first, from") == 1


def test_a_stage_that_does_not_verify_is_trained_again(outputs, caplog):
    config = staged(outputs, typed=[*TYPED, "batch=34"])
    before = {*outputs.glob("stages/*/weights*")}
    weights = learnt(config)
    (path,) = {*outputs.glob("stages/*/weights*")} - before
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = learnt(config)
    assert "weights.safetensors: checksum" in caplog.text
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert load(path.read_bytes()).keys() == weights.keys()


def test_a_run_is_another_where_its_stage_or_what_that_heard_is_another(outputs):
    one, other = staged(outputs), staged(outputs, typed=[*TYPED, "lr=0.1"])
    assert compose.identity(one, "fan") != compose.identity(other, "fan")
    root = machine_data.root_of(one, machine_data.uncounted)
    plain, heard = (
        machine_data.listen(one, root, "fan", machine_data.uncounted),
        machine_data.learnt_from(one, root),
    )
    one.model.stages = {"dcase_ae": [*TYPED, "machine=valve"]}
    narrow = machine_data.listen(one, root, "fan", machine_data.uncounted)
    assert narrow.data != plain.data
    assert machine_data.learnt_from(one, root) == heard


def test_a_run_is_another_where_the_recipe_of_its_stage_is_raised(monkeypatch):
    before, without = signatures("model=auddsr"), signatures("model=dcase_ae")
    raise_recipe(monkeypatch, "asdgan.models.auddsr_codes.AuddsrCodes")
    assert not {*signatures("model=auddsr")} & {*before}
    assert signatures("model=dcase_ae") == without


def test_a_stage_whose_recipe_is_raised_is_learnt_again_and_said_in_its_runs_settings(
    outputs, monkeypatch, caplog
):
    config = staged(outputs, typed=[*TYPED, "batch=35"])
    learnt(config)
    before = compose.identity(config, "fan")
    raise_recipe(monkeypatch, config.model._target_)
    caplog.set_level(logging.INFO, "asdgan")
    learnt(config)
    assert compose.identity(config, "fan") == {**before, "dcase_ae.recipe": 2}
    assert caplog.text.count("learnt first, from") == 1


def test_a_planned_run_with_a_stage_is_the_one_that_is_run_alone():
    asked = [["model=auddsr", "dataset=demo", f"seed={seed}"] for seed in (0, 1)]
    alone = [compose.identity(compose.compose(typed), "fan") for typed in asked]
    recipe = traits.of("asdgan.models.auddsr.AudDsr").recipe
    names = [ledger.signature(one, recipe, "data") for one in alone]
    assert signatures("model=auddsr", "seed=0,1") == names
    assert [one["auddsr_codes.seed"] for one in alone] == [0, 0]


def test_a_stage_says_all_that_it_has_not_from_its_run_even_where_that_says_the_same(outputs):
    config = staged(outputs, "windows.per_epoch=9", typed=[*TYPED, "windows.per_epoch=9"])
    said, one = compose.identity(config, "fan"), compose.stages_of(config)["dcase_ae"]
    own = {f"dcase_ae.{key}": value for key, value in compose.identity(one, "all").items()}
    own["dcase_ae.recipe"] = traits.recipe_of(one)
    lacking = own.items() - said.items()
    assert {key.split(".")[1] for key, _ in lacking} <= {*compose.WITH_STAGES}
    assert said.items() >= own.items() - lacking
    assert said["dcase_ae.windows.per_epoch"] == said["windows.per_epoch"] == 9


def test_a_run_is_the_same_whichever_machine_types_were_asked_for_beside_its_own(outputs):
    asked = (
        staged(outputs),
        staged(outputs, "machine=fan"),
        staged(outputs, "machine=[fan,pump]"),
    )
    first, *others = (compose.identity(config, "fan") for config in asked)
    assert first["dcase_ae.machine"] == "all"
    assert others == [first, first]


def test_what_is_wrong_with_a_stage_is_said(outputs):
    config = staged(outputs, typed=["features.mels=4"])
    with pytest.raises(BadInput, match=r"model.stages.dcase_ae: features.mels=4: a stage has it"):
        compose.stages_of(config)
    config = staged(outputs, typed=["lr=1e30"])
    with pytest.raises(BadInput, match=r"dcase_ae: its losses were not finite"):
        learnt(config)
