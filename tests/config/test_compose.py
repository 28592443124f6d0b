"""Settings: what is refused at the door, and what makes a point what it is."""

import pytest

from asdgan.config import compose
from asdgan.errors import BadInput
from asdgan.results.ledger import signature
from asdgan.sweep import grid

FOLDER = ("dataset=folder", "dataset.root=x")

REFUSED = [
    (["modle=egbad"], r"modle: no such setting; did you mean model\?"),
    (["model.latnt=3"], r"model.latnt: no such setting; did you mean model.latent\?"),
    (["model=wgan2"], "model=wgan2: no such choice.*there are .*dcase_ae, egbad"),
    (["batch=0"], "batch=0: a whole number of at least 2 is expected"),
    (["batch=abc"], "batch=abc: a whole number"),
    (["lr=nan"], "lr=nan: a number above 0"),
    (["lr=-1", "dropout=1.5"], "lr=-1: .*; dropout=1.5: a number from 0 to 1"),
    (["init=kaiming"], "init=kaiming: glorot_uniform or normal is expected"),
    (["seed=-1"], "seed=-1: a whole number from 0"),
    (["epochs=null"], "epochs has no value"),
    (["model=dcase_ae", "lambda_adv=3"], "lambda_adv=3: dcase_ae has no such setting"),
    (["features.hop=5000"], "hop=5000"),
    (["dataset=dcase2020", "dataset.ids=1"], "dataset.ids: dataset=dcase2020 has no such setting"),
    (["+speed=fast"], "speed: no such setting, nothing would read it"),
    (["dataset=folder"], "dataset.root is missing: set it with dataset.root="),
    (["model._target_=os.system"], "model._target_=os.system: only asdgan.models"),
    (["batch=["], r"batch=\[: not a setting of the form key=value"),
    (["seed=1", "seed=2"], "seed is given twice"),
]


@pytest.mark.parametrize(("overrides", "sentence"), REFUSED, ids=[" ".join(o) for o, _ in REFUSED])
def test_a_mistake_is_refused_with_its_key_and_what_would_do(overrides, sentence):
    with pytest.raises(BadInput, match=sentence):
        compose.preview(overrides)


def test_several_values_without_m_are_refused_with_the_way_out():
    with pytest.raises(BadInput, match="batch=16,512 names several values: add -m"):
        compose.preview(["batch=16,512"])


def test_one_wrong_value_of_a_sweep_is_found_before_it_starts():
    with pytest.raises(BadInput, match="batch=x: a whole number"):
        grid.expand(["model=ganomaly", "batch=16,x"])


def test_a_detector_outside_the_house_is_never_built():
    config = compose.compose(["model=dcase_ae", *FOLDER])
    config.model.optimizer._target_ = "os.system"
    with pytest.raises(BadInput, match=r"optimizer._target_=os.system: only"):
        compose.build(config)


@pytest.mark.parametrize(
    "target",
    [
        "asdgan.models.dcase_ae.torch.hub.load",
        "asdgan.models.dcase_ae.Path",
        "asdgan.models.dcase_ae.Perceptron",
        "asdgan.models.dcase_ae.Detector",
        "asdgan.models.none.None",
        7,
    ],
)
def test_what_a_models_module_imports_is_no_detector(target):
    config = compose.compose(["model=dcase_ae", *FOLDER])
    config.model._target_ = target
    with pytest.raises(BadInput, match=f"model._target_={target}: only the detectors of"):
        compose.build(config)


def test_a_target_in_a_list_is_found():
    config = compose.compose(["model=dcase_ae", *FOLDER])
    config.model.init_std = [{"_target_": "os.getcwd"}]
    with pytest.raises(BadInput, match=r"model.init_std.0._target_=os.getcwd: only"):
        compose.build(config)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (compose.CONF / "tempo" / "quick").glob("*.yaml"))
)
def test_a_first_look_at_a_model_trains_less_of_it(name):
    whole, short = (compose.compose([f"model={name}", *more]) for more in ((), ("trainer=quick",)))
    assert short.epochs < whole.epochs
    assert short.dataset == whole.dataset


def test_paths_and_hardware_do_not_make_another_point():
    one = compose.compose(["model=ganomaly", *FOLDER])
    same = compose.compose(
        [
            *("model=ganomaly", "dataset=folder", "dataset.root=y", "outputs=z", "logger=none"),
            *("trainer.accelerator=cpu", "trainer.threads=1", "trainer.compile=false"),
        ]
    )
    assert compose.identity(one, "fan") == compose.identity(same, "fan")


def test_a_point_is_the_same_before_and_after_its_detector_was_built():
    config = compose.compose(["model=ganomaly", *FOLDER])
    before = compose.identity(config, "fan")
    compose.build(config)
    assert compose.identity(config, "fan") == before


@pytest.mark.parametrize(
    "override",
    [
        *("seed=1", "epochs=3", "lr=0.1", "beta1=0.3", "model.pool=max", "features.hop=256"),
        *("windows.stride=2", "trainer.dtype=float64", "optimizer.eps=1e-7", "model.init_std=0.1"),
    ],
)
def test_every_setting_that_changes_a_result_makes_another_point(override):
    one = compose.identity(compose.compose(["model=ganomaly", *FOLDER]), "fan")
    other = compose.identity(compose.compose(["model=ganomaly", *FOLDER, override]), "fan")
    assert signature(one, 1, "data") != signature(other, 1, "data")


def test_a_setting_that_follows_another_counts_by_its_value():
    follows, typed = (
        compose.identity(compose.compose(["model=ganomaly", *FOLDER, override]), "fan")
        for override in ("lambda_con=${latent}", "lambda_con=8")
    )
    assert follows == typed


def test_machine_type_recipe_and_data_make_another_point():
    config = compose.compose(["model=ganomaly", *FOLDER])
    fan, pump = (compose.identity(config, name) for name in ("fan", "pump"))
    found = {signature(fan, 1, "a"), signature(pump, 1, "a"), signature(fan, 2, "a")}
    assert len(found | {signature(fan, 1, "b")}) == 4


def test_an_empty_folder_of_releases_is_as_good_as_none(monkeypatch):
    monkeypatch.setenv("ASDGAN_DATA", "")
    assert compose.compose(["dataset=dcase2020"]).dataset.root == "data/dcase2020"
    monkeypatch.setenv("ASDGAN_DATA", "elsewhere")
    assert compose.compose(["dataset=dcase2020"]).dataset.root == "elsewhere/dcase2020"
