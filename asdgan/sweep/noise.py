"""Windows over noise, for a plan that tries steps before there is anything to listen to."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:
    from asdgan.data.windows import Windows


def windows(config: DictConfig, count: int) -> "Windows":
    """At least so many windows of a config's shape, a clip each, of two sections. Loads torch.

    There are more where outliers could not be fitted on so few clips.
    """
    import torch

    from asdgan.data.clips import Clip
    from asdgan.data.frames import Frames
    from asdgan.data.windows import Windows

    frames = config.windows.frames
    outliers = config.model.get("outliers") or {}
    near = [of for name, of in outliers.items() if name in ("neighbours", "lof_neighbours")]
    count = max(count, 2 * (1 + max(near, default=0)))
    clips = [
        Clip(
            path=Path("noise"),
            name="noise",
            release="noise",
            machine_type="noise",
            section=f"{number % 2:02d}",
            domain=None,
            attributes=(),
            subset="dev",
            split="train",
            label="normal",
        )
        for number in range(count)
    ]
    values = torch.randn(count * frames, config.features.mels)
    return Windows(
        Frames(values, torch.arange(count + 1) * frames), clips, length=frames, stride=1
    )
