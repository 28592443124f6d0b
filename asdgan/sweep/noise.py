"""Windows over noise, for a plan that tries steps before there is anything to listen to."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:
    from asdgan.windows import Windows


def windows(config: DictConfig, count: int) -> "Windows":
    """So many windows of a config's shape, of two clips and sections. Loads torch."""
    import torch

    from asdgan.clips import Clip
    from asdgan.features import Frames
    from asdgan.windows import Windows

    frames = config.windows.frames - 1
    edge = frames + (count + 1) // 2
    length = 2 * frames + count
    values = torch.randn(length, config.features.mels)
    clips = [
        Clip(
            path=Path("noise"),
            name="noise",
            release="noise",
            machine_type="noise",
            section=section,
            domain=None,
            attributes=(),
            subset="dev",
            split="train",
            label="normal",
        )
        for section in ("00", "01")
    ]
    starts = torch.tensor([0, edge, length])
    return Windows(Frames(values, starts), clips, length=frames + 1, stride=1)
