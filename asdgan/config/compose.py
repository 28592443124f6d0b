"""From a command line to checked settings: composition behind our own door.

Hydra answers some mistakes itself, at length, and others not at all (an appended key, a negative
learning rate). Here every one of them is a `BadInput` before anything runs: an unknown key with
the nearest, a wrong choice with the choices, all bad values in one list.
"""

import copy
import difflib
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from asdgan._system.resources import CONF
from asdgan.config.rules import Rule, stated
from asdgan.config.traits import recipe_of
from asdgan.data.log_mel import LogMel
from asdgan.errors import BadInput

if TYPE_CHECKING:
    from asdgan.detector import Detector

# Axes that may differ from lane to lane of a stack: a list there, or one value for all.
LANE_AXES = (
    "seed", "lr", "beta1", "dropout", "init", "lambda_adv", "lambda_con", "lambda_lat",
)  # fmt: skip

# Where a composed config has its model's rules, and what the file of those for all is called.
RULES = "rules"

# What a stored config may build. A model is one of ours; nothing else is ever called.
TARGETS = ("asdgan.nn.lanes.adam",)
MODELS = "asdgan.models."
LOGGERS = "pytorch_lightning.loggers."


def compose(overrides: Sequence[str]) -> DictConfig:
    """The settings of one run, composed and checked.

    Args:
        overrides: As typed on the command line, no sweeps.

    Raises:
        BadInput: Anything in them that is unknown, of the wrong kind or out of range.
    """
    return checked(composed(overrides))


def composed(overrides: Sequence[str]) -> DictConfig:
    """The settings of one run, composed; their values are not checked.

    Beside them stand, below `rules`, those of the model for its own settings: `checked` holds the
    values against them and takes them out, so that no run, plan or signature knows of them.

    Raises:
        BadInput: An unknown key or choice.
    """
    config = _composed(overrides)
    if any(override.lstrip().startswith("+") for override in overrides):
        _refuse_appended(config, overrides)
    return config


def preview(overrides: Sequence[str]) -> None:
    """Refuses what is wrong in the command line of one run before anything of it starts.

    Raises:
        BadInput: As `compose`, and for what only a sweep can take.
    """
    for override in parsed(overrides):
        key = override.get_key_element()
        if key.partition(".")[0] == "sweep":
            raise BadInput(f"{override.input_line}: belongs to a sweep; add -m to run one")
        if override.is_sweep_override():
            raise BadInput(
                f"{override.input_line} names several values: add -m to run them all as a sweep, "
                f"or write {key}=[...] where one run takes a list"
            )
    compose(overrides)


def parsed(typed: Iterable[str]) -> list[Override]:
    """Overrides by Hydra's grammar.

    Raises:
        BadInput: One that is none, or a key that is given twice.
    """
    parser, found = OverridesParser.create(), []
    seen: set[str] = set()
    for text in typed:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise BadInput(
                f"{text}: not a setting of the form key=value ({_one_line(error)})"
            ) from None
        key = override.get_key_element()
        if key.lstrip("+~").partition(".")[0] == RULES:
            raise BadInput(f"{text}: what a setting may be is not set; write it in a model's YAML")
        if key in seen:
            raise BadInput(f"{key} is given twice; give it once, with all its values: {key}=a,b")
        seen.add(key)
        found.append(override)
    return found


def is_hydras(override: str) -> bool:
    """Whether an override is of Hydra's own settings (`hydra/launcher=ray`)."""
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def is_ensemble(config: DictConfig) -> bool:
    """Whether the model of a run puts results of others together."""
    return "members" in config.model


# What a stage shares with the run it is for.
WITH_STAGES = ("dataset", "features", "trainer", "outputs")


def stages_of(config: DictConfig) -> dict[str, DictConfig]:
    """The settings of each model that has to be learnt first, checked.

    Raises:
        BadInput: What was typed for a stage is wrong, or is not the stage's to choose.
    """
    return named_by(
        config,
        "stages",
        shared=WITH_STAGES,
        refusal="a stage has it from its run; say it there",
        first=["trainer=quick"] if config.trainer.get("quick") else [],
    )


def named_by(
    config: DictConfig,
    group: str,
    *,
    shared: Sequence[str],
    refusal: str,
    first: Sequence[str] = (),
    without: Sequence[str] = (),
) -> dict[str, DictConfig]:
    """The settings of each model that a run names below `model`, composed and checked.

    Args:
        config: Of the run.
        group: Of names and what is typed for each: `model.stages`, say.
        shared: What they have from the run, and may not be typed for one.
        refusal: What is said where it is.
        first: In front of what is typed.
        without: Settings that may be missing, as for `checked`.

    Raises:
        BadInput: What was typed for one is wrong, or shared.
    """
    found = {}
    for name, typed in (config.model.get(group) or {}).items():
        try:
            for override in parsed(typed):
                if override.get_key_element().partition(".")[0] in shared:
                    raise BadInput(f"{override.input_line}: {refusal}")
            one = copy.deepcopy(_composed_once((f"model={name}", *first, *typed)))
            for key in shared:
                one[key] = config[key]
            found[str(name)] = checked(one, without=without)
        except BadInput as error:
            raise BadInput(f"model.{group}.{name}: {error}") from None
    return found


@functools.lru_cache(maxsize=64)
def _composed_once(typed: tuple[str, ...]) -> DictConfig:
    """To be copied, not changed: points of a sweep name the same models."""
    return composed(typed)


def rules_of(config: DictConfig) -> dict[str, Rule]:
    """What each setting may be, by its key: the rules for all, and those that the model brings.

    A setting that none of them names may be anything.

    Args:
        config: As composed; `checked` takes the model's rules out of it.

    Raises:
        BadInput: The model brings no rules, or a line that is none.
    """
    if RULES not in config:
        raise BadInput(
            f"model={config.detector} brings no rules: its YAML says below `rules:` what its own "
            "settings may be, or `rules: {}` where it has none"
        )
    own = flatten(OmegaConf.to_container(config[RULES]))
    return _shared() | stated(own, f"model={config.detector}")


@functools.cache
def _shared() -> dict[str, Rule]:
    path = CONF / f"{RULES}.yaml"
    return stated(flatten(yaml.safe_load(path.read_text(encoding="utf-8"))), str(path))


def checked(config: DictConfig, *, without: Sequence[str] = ()) -> DictConfig:
    """The settings themselves, held against the rules, which they bring no longer.

    Refused are values that break a rule, settings that a model does not use, and missing ones.

    Args:
        config: Of a run, as composed.
        without: Settings that may be missing.

    Raises:
        BadInput: With every violation found, not only the first.
    """
    wrong = []
    try:
        plain = flatten(OmegaConf.to_container(config, resolve=True))  # pyright: ignore
    except OmegaConfBaseException as error:
        raise BadInput(_one_line(error)) from None
    for key, value in plain.items():
        if value == "???" and key not in without:
            wrong.append(f"{key} is missing: set it with {key}=...")
    read = config.model if is_ensemble(config) else config  # an ensemble trains nothing itself
    used = set(re.findall(r"\$\{([\w.]+)\}", str(OmegaConf.to_container(read, resolve=False))))
    used |= set() if is_ensemble(config) else {"epochs", "batch"}
    for key, rule in rules_of(config).items():
        if key not in plain:
            continue
        value = plain[key]
        values = value if isinstance(value, list) and key in LANE_AXES else [value]
        if value is None:
            if (key in used or key.startswith("model.")) and not rule.holds(None):
                wrong.append(f"{key} has no value: {rule.sentence} is expected")
        elif not all(rule.holds(one) for one in values):
            wrong.append(f"{key}={_shown(value)}: {rule.sentence} is expected")
        elif "." not in key and key not in used and key != "machine":
            hint = " (its members may: model.members.NAME)" if is_ensemble(config) else ""
            wrong.append(f"{key}={_shown(value)}: {config.detector} has no such setting{hint}")
    wrong += _wrong_features(plain)
    if plain.get("trainer.quick"):
        short = sorted(path.stem for path in (CONF / "tempo" / "quick").glob("*.yaml"))
        if config.detector not in short:
            wrong.append(
                f"trainer=quick: {config.detector} has nothing that it would cut short; it is for "
                f"{', '.join(short)}; leave it out, and set epochs or windows.per_epoch instead"
            )
    target = plain.get("model._target_", "")
    if not str(target).startswith(MODELS):
        wrong.append(f"model._target_={target}: only {MODELS}* is ever built")
    if wrong:
        raise BadInput("; ".join(wrong))
    with open_dict(config):
        del config[RULES]
    return config


def _wrong_features(plain: Mapping[str, Any]) -> list[str]:
    values = {
        k.removeprefix("features."): v for k, v in plain.items() if k.startswith("features.")
    }
    try:
        LogMel(**values)
    except (BadInput, TypeError) as error:
        return [str(error)]
    return []


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - any config node
    """Nested settings as one level: {"model.latent": 8}; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(config: DictConfig, machine_type: str) -> dict[str, Any]:
    """The settings that make a point what it is, flat: no paths, no hardware, no way of running.

    A stage's stand behind its name, its recipe among them.

    Args:
        config: Of a run, all its machine types.
        machine_type: The one this point is about.
    """
    flat = flatten(OmegaConf.to_container(config, resolve=True))
    typed = flatten(OmegaConf.to_container(config, resolve=False))
    left_out = (
        "dataset.", "trainer.", "logger.", "selection.", "sweep.", "outputs", "model._target_",
        "model.stages.",
    )  # fmt: skip
    kept = {
        key: flat[key]
        for key, value in typed.items()
        if key in flat
        and flat[key] is not None
        and not key.startswith(left_out)
        and not key.endswith("_partial_")
        and not _says_again(key, value)
    }
    chosen = ("release", "subset", "train", "channel")
    own = kept | {
        **{
            f"dataset.{name}": flat[f"dataset.{name}"]
            for name in chosen
            if f"dataset.{name}" in flat
        },
        "machine": machine_type,
        "trainer.dtype": flat["trainer.dtype"],
        "trainer.precision": flat["trainer.precision"],
    }
    # In full: what is left out where the run says the same would, as a run's axis moves on, say
    # something else.
    of_stages = {
        f"{name}.{key}": value
        for name, one in stages_of(config).items()
        for key, value in {**identity(one, one.machine), "recipe": recipe_of(one)}.items()
        if key.partition(".")[0] not in WITH_STAGES
    }
    return own | of_stages


def _says_again(key: str, value: Any) -> bool:  # noqa: ANN401 - any config value
    """Whether a setting only repeats another of its name: model.latent is ${latent}."""
    named = re.fullmatch(r"\$\{(?:\w+\.)*(\w+)\}", str(value))
    return named is not None and named[1] == key.rpartition(".")[2]


def build(config: DictConfig) -> "Detector":
    """The detector that the settings describe; a stack where `seed` is a list.

    Raises:
        BadInput: A target outside asdgan.models and the named optimisers, or what the detector
            itself cannot use.
    """
    model = OmegaConf.to_container(config.model, resolve=True)
    for key, value in _targets(model, "model"):
        if key == "model._target_" and not _is_model(value):
            raise BadInput(f"{key}={value}: only the detectors of {MODELS}* are built")
        if key != "model._target_" and value not in TARGETS:
            raise BadInput(f"{key}={value}: only {', '.join(TARGETS)} is built beside a model")
    # Hydra writes what it resolves into the tree that it reads, and `identity` reads that too.
    try:
        detector = hydra.utils.instantiate(copy.deepcopy(config).model, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, BadInput):
            raise error.__cause__ from None
        raise
    if how := config.windows.get("feature_norm"):
        detector.scale_windows(how, config.windows.frames * config.features.mels)
    return detector


def _targets(tree: Any, key: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a config node
    """Every target below a node, in lists too, by its dotted key."""
    for name, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        if str(name) == "_target_":
            yield f"{key}.{name}", value
        elif isinstance(value, Mapping | list):
            yield from _targets(value, f"{key}.{name}")


def _is_model(target: Any) -> bool:  # noqa: ANN401 - any config value
    """Whether a target is a detector or ensemble of ours, and no name that its module imported.

    By its beginning alone `asdgan.models.NAME.torch.hub.load` would be one too.
    """
    found = re.fullmatch(r"(asdgan\.models\.[a-z][a-z0-9_]*)\.([A-Za-z][A-Za-z0-9]*)", str(target))
    if not found:
        return False
    try:
        made = getattr(import_module(found[1]), found[2], None)
    except ModuleNotFoundError:
        return False
    return isinstance(made, type) and hasattr(made, "recipe") and made.__module__ == found[1]


def _composed(overrides: Sequence[str]) -> DictConfig:
    was_there = GlobalHydra.instance().is_initialized()
    if was_there:
        GlobalHydra.instance().clear()
    try:
        if not os.environ.get("ASDGAN_DATA", "set"):
            del os.environ["ASDGAN_DATA"]  # empty is not set; OmegaConf differs
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("run", list(overrides))
    except HydraException as error:
        raise BadInput(_explained(error, overrides)) from None
    except OmegaConfBaseException as error:
        raise BadInput(_one_line(error)) from None


def _explained(error: HydraException, overrides: Sequence[str]) -> str:
    """Hydra's complaint in our words, with the nearest thing that exists."""
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1].lstrip("+~")
        known = _known_keys()
        group = key.partition(".")[0]
        if key in known:  # of the group's usual choice, and this is another
            choice = [text for text in overrides if text.startswith(f"{group}=")][-1:]
            return f"{key}: {(choice or [group])[0]} has no such setting"
        return f"{key}: no such setting{_nearest(key, known)}"
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, choice = found[1].rpartition("/")
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group else []
        if options:
            near = _nearest(choice, options)
            return f"{group}={choice}: no such choice{near}; there are {', '.join(options)}"
    return _one_line(error)


def _known_keys() -> list[str]:
    """Every key that can be set, and every config group."""
    plain = flatten(OmegaConf.to_container(_composed([]), resolve=False))
    parents = {key.rsplit(".", 1)[0] for key in plain if "." in key}
    return [*plain, *sorted(parents)]


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:  # the last word may be right, in another place
        near = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    return f"; did you mean {near[0]}?" if near else "; see --cfg job for all there are"


def _refuse_appended(config: DictConfig, overrides: Sequence[str]) -> None:
    """An appended key that no config has would be read by nobody."""
    kept = [override for override in overrides if not override.lstrip().startswith("+")]
    known = flatten(OmegaConf.to_container(_composed(kept), resolve=False))
    for key in flatten(OmegaConf.to_container(config, resolve=False)):
        if key not in known:
            raise BadInput(
                f"{key}: no such setting, nothing would read it{_nearest(key, list(known))}"
            )


def _shown(value: Any) -> str:  # noqa: ANN401 - any config value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        " ".join(line for line in lines if not line.startswith("full_key")) or type(error).__name__
    )
