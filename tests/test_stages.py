"""What is learnt first: once for all runs that ask for it, and found again."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load

from asdgan import job, material, settings, stages
from asdgan.errors import BadInput
from asdgan.windows import Joined

PLANT = (
    "dataset=demo", "dataset.seconds=1", "dataset.ids=2", "dataset.train_clips=2",
    "dataset.test_clips=1", "features.mels=8", "trainer.compile=false",
)  # fmt: skip
TYPED = ["epochs=1", "hidden_layers=1", "model.hidden_width=8", "latent=2"]


def staged(outputs, *overrides, typed=TYPED):
    """The settings of a run that has another autoencoder learnt first."""
    config = settings.compose(["model=dcase_ae", *PLANT, f"outputs={outputs}", *overrides])
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    config.model.stages = {"dcase_ae": list(typed)}
    return config


def learnt(config, on_steps=None):
    return stages.learnt(config, job._stage, job.recipe_of, on_steps)["dcase_ae"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    material.root_of(staged(folder), material.uncounted)
    return folder


def test_a_stage_is_the_model_trained_on_every_machine_type(outputs):
    config = staged(outputs)
    weights = learnt(config)
    one = settings.stages_of(config)["dcase_ae"]
    root = material.root_of(one, material.uncounted)
    types = material.machine_types_of("all", root, one)
    heard = {m: material.listen(one, root, m, material.uncounted).train for m in types}
    theirs = job.fit(one, Joined(heard)).state_dict()
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
    assert settings.identity(one, "fan") != settings.identity(other, "fan")
    root = material.root_of(one, material.uncounted)
    plain, heard = (
        material.listen(one, root, "fan", material.uncounted),
        material.learnt_from(one, root),
    )
    one.model.stages = {"dcase_ae": [*TYPED, "machine=valve"]}
    narrow = material.listen(one, root, "fan", material.uncounted)
    assert narrow.data != plain.data
    assert material.learnt_from(one, root) == heard


def test_a_run_is_the_same_whichever_machine_types_were_asked_for_beside_its_own(outputs):
    asked = (
        staged(outputs),
        staged(outputs, "machine=fan"),
        staged(outputs, "machine=[fan,pump]"),
    )
    first, *others = (settings.identity(config, "fan") for config in asked)
    assert first["dcase_ae.machine"] == "all"
    assert others == [first, first]


def test_what_is_wrong_with_a_stage_is_said(outputs):
    config = staged(outputs, typed=["features.mels=4"])
    with pytest.raises(BadInput, match=r"model.stages.dcase_ae: features.mels=4: a stage has it"):
        settings.stages_of(config)
    config = staged(outputs, typed=["lr=1e30"])
    with pytest.raises(BadInput, match=r"dcase_ae: its losses were not finite"):
        learnt(config)
