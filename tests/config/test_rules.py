"""Rules: what a line of them allows, and that every setting of every model has one."""

import functools
import shutil

import pytest
from omegaconf import OmegaConf
from small_models import ENSEMBLES, NAMES

from asdgan.config import compose
from asdgan.config.rules import parsed
from asdgan.data.windows import VAL_SPLITS
from asdgan.errors import BadInput
from asdgan.models.wsp_nfcdee import FLOWS
from asdgan.nn.outliers import DISTANCES
from asdgan.nn.pooling import POOLS
from asdgan.sweep import grid

MODELS = [*NAMES, *ENSEMBLES]
NAN, INF = float("nan"), float("inf")
LINES = {  # line: its sentence, values that keep it, values that break it
    "whole >= 1": ("a whole number of at least 1", [1, 10**400], [0, 1.0, True, "1", None, [1]]),
    "even >= 2": ("an even whole number of at least 2", [2, 128], [0, 3, 2.0]),
    "0 <= whole <= 9": ("a whole number from 0 to 9", [0, 9], [-1, 10]),
    "number": ("a number", [-1, 0.5, 10**400], [NAN, INF, False, "x"]),
    "number > 0": ("a number above 0", [1e-9, 3], [0, -1, INF, NAN]),
    "number < -0.5": ("a number below -0.5", [-1], [-0.5]),
    "number <= 2": ("a number of at most 2", [2], [2.1]),
    "0 <= number < 1": ("a number from 0 to 1, 1 itself excluded", [0, 0.99], [1, -0.1]),
    "0 <= number <= 1": ("a number from 0 to 1", [0, 1, 0.5], [1.1]),
    "0 < number < 1": ("a number between 0 and 1", [0.1], [0, 1]),
    "0 < number <= 0.5": ("a number above 0, 0.5 at most", [0.5], [0, 0.6]),
    "0 <= number of degrees < 180": (
        "a number of degrees from 0 to 180, 180 itself excluded", [0, 40.1], [180, -1],
    ),
    "true | false": ("true or false", [True, False], [0, 1, "true", None]),
    "bce | half | sum": ("bce, half or sum", ["bce", "sum"], ["mean", 1, None, ["bce"]]),
    "null | whole >= 2": ("null or a whole number of at least 2", [None, 2], [1, "null"]),
    "auto | number > 0": ("auto or a number above 0", ["auto", 0.1], ["other", 0]),
    "name": ("a name", ["recon_l2"], ["", "a b", 3, None]),
    "list of name": ("a list of names", [["knn", "lof"]], ["knn", [], [1]]),
    "list of knn | lof": ("a list of knn or lof", [["lof"]], ["lof", ["other"]]),
    "mean | p90 | list of them": (
        "mean, p90 or a list of them", ["p90", ["mean", "p90"]], [[], ["min"], [["mean"]]],
    ),
    "null | list of whole >= 1": (
        "null or a list of whole numbers of at least 1", [None, [1, 2]], [[], [0], [1, "2"], 1],
    ),
    "list of [width, stride] of whole >= 1": (
        "a list of [width, stride], whole numbers of at least 1", [[[1, 2], [3, 4]]],
        [[], [1, 2], [[1]], [[1, 2, 3]], [[1, 0]]],
    ),
}  # fmt: skip
NONE = ("", "layer |", "whole>=1", "whole >=", "2 < whole < 2", "1 <= whole >= 3", "0 > number")
NONE += ("layer|batch", " layer", "list of", "list of them", "[a, b] of", "name >= 1", "0..1")


@functools.cache
def composed(*overrides):
    return compose.composed([*overrides, "dataset.root=unused"])


def leaves(config):
    """The values below `model`, as they stand in its YAML."""
    return compose.flatten(OmegaConf.to_container(config, resolve=False)["model"], "model.")


@pytest.mark.parametrize("line", LINES)
def test_a_line_says_and_allows_what_it_states(line):
    rule, (sentence, kept, broken) = parsed(line), LINES[line]
    assert rule.sentence == sentence
    assert [value for value in kept if not rule.holds(value)] == []
    assert [value for value in broken if rule.holds(value)] == []


@pytest.mark.parametrize("line", NONE)
def test_a_line_that_states_no_rule_is_refused_with_one_that_does(line):
    with pytest.raises(BadInput, match="is no rule; write one as 'whole >= 1', '0 <= number"):
        parsed(line)


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_of_a_model_has_a_rule(name):
    config = composed(f"model={name}")
    ruled = compose.rules_of(config)
    others = ("model._target_", "model.stages.", "model.members.")  # what is built, or typed
    open_to_anything = [
        key for key, value in leaves(config).items()
        if key not in ruled and not key.startswith(others) and not str(value).startswith("${")
    ]  # fmt: skip
    assert open_to_anything == []


@pytest.mark.parametrize("name", MODELS)
def test_every_rule_of_a_model_is_of_a_setting_that_it_has(name):
    config = composed(f"model={name}")
    own = compose.flatten(OmegaConf.to_container(config.rules))
    assert own.keys() <= compose.flatten(OmegaConf.to_container(config, resolve=False)).keys()


def test_every_rule_for_all_is_of_a_setting_that_there_is():
    there = set()
    for choice in [*(f"model={name}" for name in MODELS), "dataset=dcase2020", "dataset=mimii"]:
        there |= compose.flatten(OmegaConf.to_container(composed(choice), resolve=False)).keys()
    assert compose._shared().keys() <= there


def test_words_of_rules_are_those_that_the_code_knows():
    ruled = compose.rules_of(composed("model=wsp_nfcdee"))
    known = {"windows.val_split": VAL_SPLITS, "model.outliers.distances": DISTANCES}
    known |= {"model.pool": [*POOLS, "list of them"], "model.flow": FLOWS}
    for key, words in known.items():
        assert ruled[key] == parsed(" | ".join(words)), key


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model=aegan_ad", "model.norm=group"], "model.norm=group: layer or batch is expected"),
        (["model=sc", "model.margin=180"], "model.margin=180: a number of degrees from 0 to 180"),
        (["model=gmade", "model.n_components=null"], "model.n_components has no value: a whole"),
        (["model=gmade", "windows.frames=null"], "windows.frames has no value: a whole number"),
        (["model=egbad_original", "model.ema=1"], "model.ema=1: a number from 0 to 1, 1 itself"),
        (["model=auddsr_annot", "model.maps.band=2"], "model.maps.band=2: a number from 0 to 1"),
        (["model=ganomaly", "rules.model.order=name"], "rules.model.order=name: what a setting"),
        (["model=ganomaly", "+rules.model.new=name"], "new=name: what a setting may be is not"),
    ],
)
def test_a_value_is_held_against_the_rules_of_its_model(overrides, sentence):
    with pytest.raises(BadInput, match=sentence):
        compose.preview(overrides)


def test_settings_that_were_checked_bring_no_rules():
    config = compose.compose(["model=aegan_ad"])
    assert "rules" not in config
    assert not [key for key in compose.identity(config, "fan") if "rules" in key]
    with pytest.raises(BadInput, match="model=aegan_ad brings no rules: its YAML says below"):
        compose.checked(config)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Configs with two models more: one name has a meaning of its own in each."""
    shutil.copytree(compose.CONF, tmp_path / "conf")
    for name, line in (("narrow", "8 <= whole <= 16"), ("wide", "number > 100")):
        (tmp_path / "conf" / "model" / f"{name}.yaml").write_text(
            f"# @package _global_\ndefaults: [dcase_ae, _self_]\ndetector: {name}\n"
            f"model:\n  hidden_width: {16 if name == 'narrow' else 128}\n"
            f"rules:\n  model:\n    hidden_width: {line}\n"
        )
    monkeypatch.setattr(compose, "CONF", tmp_path / "conf")
    return tmp_path / "conf"


def test_each_model_of_a_sweep_is_held_against_its_own_rules(folder):
    assert grid.expand(["model=narrow", "model.hidden_width=8,16"]).points == 2
    assert grid.expand(["model=wide", "model.hidden_width=100.5,128"]).points == 2
    with pytest.raises(BadInput) as found:
        grid.expand(["model=narrow,wide,dcase_ae", "model.hidden_width=16,128"])
    assert str(found.value) == (
        "model.hidden_width=128: a whole number from 8 to 16 is expected; "
        "model.hidden_width=16: a number above 100 is expected"
    )


def test_an_interval_is_of_whole_numbers_where_the_rules_of_its_model_say_so(folder):
    typed = ["sweep.search=random", "epochs=1", "sweep.dry_run=true"]
    for name, ends, step in (("narrow", "8,16", 1), ("wide", "101,200", 0)):
        words = [f"model={name}", f"model.hidden_width=interval({ends})", *typed]
        assert [one.step for one in grid.expand(words).dimensions] == [step]


def test_a_model_of_ones_own_brings_its_rules(folder, tmp_path):
    mine = tmp_path / "own" / "model"
    mine.mkdir(parents=True)
    shutil.move(folder / "model" / "wide.yaml", mine / "mine.yaml")
    with pytest.raises(BadInput, match=r"model\.hidden_width=99: a number above 100 is expected"):
        compose.preview(
            [f"hydra.searchpath=[file://{mine.parent}]", "model=mine", "model.hidden_width=99"]
        )


def test_a_rule_that_is_none_is_said_with_its_place(folder):
    path = folder / "model" / "wide.yaml"
    path.write_text(path.read_text().replace("number > 100", "broad"))
    with pytest.raises(BadInput, match=r"model\.hidden_width=128: broad is expected"):
        compose.compose(["model=wide"])
    path.write_text(path.read_text().replace("broad", "true"))
    with pytest.raises(BadInput, match="True is a value, not a rule"):
        compose.compose(["model=wide"])
    path.write_text(path.read_text().replace("width: true", "width: number>1"))
    with pytest.raises(BadInput, match=r"model=wide: the rule of model\.hidden_width: 'number>1'"):
        compose.compose(["model=wide"])


def test_planning_parses_no_rule_twice():
    words = ["model=ganomaly,egbad", "batch=16,32", "model.hidden_width=64,128", "seed=0,1"]
    grid.expand(words)
    before = parsed.cache_info().misses
    assert grid.expand([*words, "latent=4,8,16"]).points == 2 * 2 * 2 * 3 * 2
    assert parsed.cache_info().misses == before
