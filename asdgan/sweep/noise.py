"""Windows over noise, for a plan that tries steps before there is anything to listen to."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:
    from asdgan.windows import Windows


def windows(config: DictConfig, count: int) -> "Windows":
    """So many windows of a config's shape, all of one clip. Loads torch."""
    import torch

    from asdgan.clips import Clip
    from asdgan.features import Frames
    from asdgan.windows import Windows

    length = config.windows.frames + count - 1
    frames = Frames(
        values=torch.randn(length, config.features.mels), starts=torch.tensor([0, length])
    )
    clip = Clip(
        path=Path("noise"),
        name="noise",
        release="noise",
        machine_type="noise",
        section="00",
        domain=None,
        attributes=(),
        subset="dev",
        split="train",
        label="normal",
    )
    return Windows(frames, [clip], length=config.windows.frames, stride=1)
