"""What each setting may be: a sentence of it, and the test of a value.

Settings of a model, below `model.`, have one meaning and one rule wherever they are; a value that
no rule names may be anything. `settings.check` holds a run against them.
"""

import math
from collections.abc import Callable
from typing import Any

POOLED = ("mean", "max", "min", "p90")  # of detector.py
NORMS = ("standard", "minmax", "global_standard", "global_minmax")  # of scaling.py


def _whole(least: int) -> tuple[str, Callable[[Any], bool]]:
    return (
        f"a whole number of at least {least}",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
    )


def _number(v: Any) -> bool:  # noqa: ANN401 - any config value
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


def _one_of(*choices: str) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(choices), lambda v: isinstance(v, str) and v in choices


def _none_or(rule: tuple[str, Callable[[Any], bool]]) -> Callable[[Any], bool]:
    return lambda v: v is None or rule[1](v)


_POSITIVE = ("a number above 0", lambda v: _number(v) and v > 0)
_RATE = ("a number from 0 to 1, 1 itself excluded", lambda v: _number(v) and 0 <= v < 1)
_SHARE = ("a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1)
_WEIGHT = ("a number of at least 0", lambda v: _number(v) and v >= 0)
_COUNT = (
    "auto or a whole number of at least 1",
    lambda v: v == "auto" or _whole(1)[1](v),
)
_EVEN = (
    "an even whole number of at least 2",
    lambda v: _whole(2)[1](v) and v % 2 == 0,
)
_FLAG = ("true or false", lambda v: isinstance(v, bool))

_WHOLES = (
    "a list of whole numbers of at least 1",
    lambda v: isinstance(v, list) and len(v) > 0 and all(map(_whole(1)[1], v)),
)

_BLOCKS = (
    "a list of blocks, each [expansion, channels, repeats, stride]",
    lambda v: (
        isinstance(v, list)
        and len(v) > 0
        and all(isinstance(b, list) and len(b) == 4 and all(map(_whole(1)[1], b)) for b in v)
    ),
)

RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "epochs": _whole(1),
    "batch": _whole(2),
    "seed": ("a whole number from 0 to 4294967295", lambda v: _whole(0)[1](v) and v < 2**32),
    "lr": _POSITIVE,
    "beta1": _RATE,
    "latent": _whole(1),
    "hidden_layers": _whole(1),
    "dropout": _RATE,
    "init": _one_of("glorot_uniform", "normal"),
    "lambda_adv": _WEIGHT,
    "lambda_con": _WEIGHT,
    "lambda_lat": _WEIGHT,
    "windows.frames": _whole(1),
    "windows.stride": _whole(1),
    "windows.feature_norm": (
        f"{', '.join(NORMS)} or null", lambda v: v is None or v in NORMS,
    ),
    "windows.per_clip": ("null or a whole number of at least 1", _none_or(_whole(1))),
    "windows.per_epoch": ("null or a whole number of at least 2", _none_or(_whole(2))),
    "windows.test_stride": _whole(1),
    "windows.val_split": _one_of("none", "keras_tail", "random_clips"),
    "windows.val_fraction": ("a number between 0 and 1", lambda v: _number(v) and 0 < v < 1),
    "windows.val_seed": _whole(0),
    "model.hidden_width": _whole(1),
    "model.init_std": _POSITIVE,
    "model.rebirth_below": _WEIGHT,
    "model.score_weight": _SHARE,
    "model.blocks": _BLOCKS,
    "model.last": _whole(1),
    "model.n_components": _whole(1),
    "model.frame_order": _one_of("centre_last", "natural"),
    "model.pool": (
        f"{', '.join(POOLED)}, or a list of them",
        lambda v: v in POOLED or (isinstance(v, list) and bool(v) and all(p in POOLED for p in v)),
    ),
    "model.latent_activation": _one_of("bn_relu", "linear"),
    "model.output_activation": _one_of("linear", "tanh"),
    "model.activation_slope": _RATE,
    "model.reduction": _one_of("mean", "norm"),
    "model.bn_at_test": _one_of("running", "clip"),
    "model.adv_loss": _one_of("bce", "feature_matching", "feature_matching_inert"),
    "model.d_loss": _one_of("half", "sum", "features"),
    "model.latent_loss": _one_of("encoder", "disc_features"),
    "model.order": _one_of("g_first", "d_first"),
    "model.rebirth_by": _one_of("loss_d", "either"),
    "model.skip_mode": _one_of("concat", "add"),
    "model.disc_feature": _one_of("code", "last_hidden"),
    "model.lat_in_d_loss": _FLAG,
    "model.input_noise_std": _WEIGHT,
    "model.bn_in_d": _FLAG,
    "model.bn_in_eg": _FLAG,
    "model.disc_join": _one_of("early", "late"),
    "model.disc_score": _one_of("features", "cross_entropy"),
    "model.dropout_in": _one_of("all", "discriminator"),
    "model.ema": _RATE,
    "model.frame_pooling": _one_of("weighted", "none"),
    "model.pooled_scale": _one_of("follows", "fixed"),
    "model.by_section": _one_of("one_hot", "per_section", "none"),
    "model.splits": _whole(1),
    "model.target_share": ("a number between 0 and 1", lambda v: _number(v) and 0 < v < 1),
    "model.flow": _one_of("nsf", "maf"),
    "model.transforms": _whole(1),
    "model.bins": _whole(2),
    "model.weight": _SHARE,
    "model.width": _POSITIVE,
    "model.networks.mobilefacenet.blocks": _BLOCKS,
    **{
        f"model.networks.{name}": _whole(1)
        for name in (
            "mobilefacenet.last", "mobilefacenet.width", "mobilefacenet.stem",
            "mobilefacenet.squeeze", "ecapa_tdnn.filters", "ecapa_tdnn.merged",
            "ecapa_tdnn.attention", "ecapa_tdnn.groups", "ecapa_tdnn.squeezed",
            "ecapa_tdnn.width", "cnn6.width",
        )
    },
    **{
        f"model.networks.{name}": _WHOLES
        for name in ("ecapa_tdnn.kernels", "ecapa_tdnn.dilations", "cnn6.filters")
    },
    "model.networks.cnn6.dropout": _RATE,
    "model.networks.cnn6.dropout_last": _RATE,
    "model.margin": ("an angle from 0 to 180 degrees", lambda v: _number(v) and 0 <= v < 180),
    "model.scale": _POSITIVE,
    "model.channels": _whole(1),
    "model.halvings": _whole(1),
    "model.norm": _one_of("layer", "batch"),
    "model.first_norm": _FLAG,
    "model.section_affine": _FLAG,
    "model.critic": _FLAG,
    "model.lambda_std": _WEIGHT,
    "model.lambda_gp": _WEIGHT,
    "model.code_size": _EVEN,
    "model.residual": _whole(1),
    "model.codes": _whole(2),
    "model.unet": _whole(1),
    "model.decay": _RATE,
    "model.commitment": _WEIGHT,
    "model.revived": _WEIGHT,
    "model.maps.perlin": _SHARE,
    "model.maps.octaves": _whole(1),
    "model.maps.threshold": _SHARE,
    "model.maps.band": _SHARE,
    "model.maps.segments": _whole(1),
    "model.maps.shortest": _SHARE,
    "model.maps.longest": _SHARE,
    "model.maps.whole": _SHARE,
    "model.sampling": _one_of("ranked", "uniform"),
    "model.gamma": _WEIGHT,
    "model.others": _WEIGHT,
    "model.outliers.per": _one_of("section", "pooled"),
    "model.outliers.normalise": _FLAG,
    "model.outliers.metric": _one_of("cosine", "euclidean"),
    "model.outliers.neighbours": _whole(1),
    "model.outliers.distances": _one_of("mean", "sum"),
    "model.outliers.lof_neighbours": _whole(1),
    "model.outliers.contamination": (
        "a number above 0, 0.5 at most", lambda v: _number(v) and 0 < v <= 0.5,
    ),
    "model.outliers.nu": (
        "a number above 0, 1 at most", lambda v: _number(v) and 0 < v <= 1,
    ),
    "model.outliers.trees": _whole(1),
    "optimizer.beta2": _RATE,
    "optimizer.eps": _POSITIVE,
    "optimizer.weight_decay": ("null or a number of at least 0", _none_or(_WEIGHT)),
    "selection.settings": _one_of("named", "published", "label_free", "oracle"),
    "selection.checkpoint": _one_of("last"),
    "trainer.quick": _FLAG,
    "trainer.accelerator": _one_of("auto", "cpu", "gpu"),
    "trainer.dtype": _one_of("float32", "float64"),
    "trainer.precision": _one_of("highest", "medium"),
    "trainer.compile": ("true, false or auto", lambda v: isinstance(v, bool) or v == "auto"),
    "trainer.threads": _COUNT,
    "trainer.progress": _FLAG,
    "trainer.train_scores": _FLAG,
    "trainer.maps": _FLAG,
    "features.resample": _FLAG,
    "dataset.train": _one_of("same", "both"),
    "dataset.channel": _whole(1),
    "dataset.bad_clips": _one_of("strict", "skip"),
    "sweep.dry_run": _FLAG,
    "sweep.skip_invalid": _FLAG,
    "sweep.retry": _one_of("failed", "never"),
    "sweep.timeout": _POSITIVE,
    "sweep.slots": _COUNT,
    "sweep.jobs_per_gpu": _whole(1),
    "sweep.lanes": _COUNT,
    "sweep.keep_weights": _whole(0),
    "sweep.search": ("tpe, random or null", lambda v: v in (None, "tpe", "random")),
    "sweep.trials": _whole(1),
    "sweep.objective": _one_of("auc", "pauc", "val_loss"),
    "sweep.reduction": _whole(1),
    "sweep.ask": _COUNT,
    "sweep.search_seed": _whole(0),
}  # fmt: skip
