"""Real configs, shrunk: what the tests of lanes, detectors and training have in common.

Models are found by their YAML; a new one is tested without being named anywhere.
"""

import copy
import functools
from pathlib import Path

import hydra
import torch
from omegaconf import OmegaConf

from asdgan.config import compose as settings
from asdgan.data.frames import Frames
from asdgan.data.windows import Batch, Windows
from asdgan.errors import BadInput
from asdgan.nn.lanes import Noise

YAMLS = sorted((settings.CONF / "model").glob("*.yaml"))
ENSEMBLES = [path.stem for path in YAMLS if settings.is_ensemble(OmegaConf.load(path))]
NAMES = [path.stem for path in YAMLS if path.stem not in ENSEMBLES]
SMALL = ("dataset=folder", "dataset.root=unused", "features.mel_scale=slaney")
SMALL += ("trainer.threads=1",)  # two wait for each other longer than small steps take
SHORT = 96  # windows in an epoch, where a model says how many
SIZES = ((3, 16), (16, 16), (32, 32), (64, 64))  # frames and mel bands of a window
# Widths whose rows fill whole cache lines, as the real ones do: elsewhere a lane's place decides
# its alignment, and with it which kernel multiplies its matrices.
SMALLER = {
    "model.hidden_width": 16,
    "model.blocks": [[1, 16, 1, 1], [2, 24, 2, 2]],
    "model.last": 32,
    "model.splits": 2,
    "model.transforms": 1,
    "model.networks.mobilefacenet.blocks": [[2, 16, 2, 2]],
    "model.networks.mobilefacenet.last": 32,
    "model.networks.mobilefacenet.width": 16,
    "model.networks.mobilefacenet.stem": 16,
    "model.halvings": 2,
    "model.channels": 8,
    "model.code_size": 8,
    "model.residual": 8,
    "model.codes": 16,
    "model.unet": 8,
}


class Recording:
    """What `Windows` needs to know of a clip."""

    def __init__(self, number: int, section: str = "00") -> None:
        self.path, self.section = Path(f"clip_{number}.wav"), section
        self.domain, self.attributes = None, ()


@functools.cache
def _composed(name: str, *overrides: str):
    return settings.compose([f"model={name}", *SMALL, *overrides])


@functools.cache
def size_of(name: str):
    """The smallest window, frames and mel bands, that the model takes when it is shrunk."""
    for frames, mels in SIZES[:-1]:
        try:
            settings.build(_shrunk(name, frames, mels))
        except BadInput:
            continue
        return frames, mels
    return SIZES[-1]


def _shrunk(name: str, frames: int, mels: int, *overrides: str):
    size = (f"windows.frames={frames}", f"features.mels={mels}")
    config = copy.deepcopy(_composed(name, *size, *overrides))
    typed = {override.split("=")[0] for override in overrides}
    for key, value in SMALLER.items():
        at, _, last = key.rpartition(".")
        group = OmegaConf.select(config, at) if at else config
        if key not in typed and last in (group or ()):
            group[last] = value
    if config.windows.per_epoch is not None and "windows.per_epoch" not in typed:
        config.windows.per_epoch = SHORT
    for first in (config.model.get("stages") or {}).values():
        first += ["epochs=1", "batch=32", f"windows.per_epoch={SHORT}"]
    return config


def compose(name: str, *overrides: str):
    """The model's real config with a small network and small windows."""
    return _shrunk(name, *size_of(name), *overrides)


def dropping(name, rate):
    """What has a model drop units, where it knows how to."""
    return () if compose(name).dropout is None else (f"dropout={rate}",)


STACKABLE = [
    name for name in NAMES
    if hydra.utils.get_class(compose(name).model._target_).stackable
]  # fmt: skip


def detector_of(config, dtype=torch.float32):
    """The detector, prepared on noise of its windows' shape, its optimisers made."""
    detector = settings.build(config).to(dtype)
    windows = windows_for(config, clips=12)
    detector.prepare(windows)
    detector.configure_optimizers()
    detector.fit(windows)
    return detector


def windows_for(config, clips: int = 4, more: int = 17):
    """Windows over noise, of the shape that a config says; the first clip has `more` + 1."""
    frames, mels = config.windows.frames, config.features.mels
    return windows_of(clips=clips, frames=frames + more, mels=mels, length=frames)


def noise_for(config, windows: int = 16):
    """Noise in the shape of a minibatch of windows, (windows, features)."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(windows, config.windows.frames * config.features.mels, generator=generator)


def windows_of(clips: int = 4, frames: int = 20, mels: int = 16, length: int = 3, seed: int = 0):
    """Windows over seeded noise, clips of unequal level and length."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([frames + i for i in range(clips)])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    values = torch.randn(int(starts[-1]), mels, generator=generator)
    listed = [Recording(i, f"{i % 2:02d}") for i in range(clips)]
    return Windows(Frames(values, starts), listed, length=length, stride=1)


def learn(detector, windows: torch.Tensor, steps: range, change=None):
    """Some steps on the same windows; the losses of each."""
    uniforms, normals = detector.noise_columns()
    noise = Noise(detector.seeds, uniforms=uniforms if detector._drops else 0, normals=normals)
    source = windows_of()
    picks = 4 * torch.arange(windows.shape[-2]) % len(source)  # from every clip
    losses = []
    for step in steps:
        draw = noise.draw(step, windows.shape[-2], like=windows)
        batch = Batch(windows, picks, source, step)
        losses.append(detector.learn(batch, draw))
        if change is not None:
            change(detector)
    return losses
