"""Windows brought to one scale before a network sees them, as learnt from the training frames.

`windows.feature_norm` asks for it. What it learnt is part of the detector's weights, so that new
sound is scaled as the training sound was; a frame held out for validation is not looked at.
"""

import torch
from torch import Tensor, nn

from asdgan.data.windows import Windows


class Scaling(nn.Module):
    """Each mel band shifted and stretched; the identity until it is fitted.

    Args:
        how: `standard` (mean 0, standard deviation 1) or `minmax` (from -1 to 1), of each band by
            itself; `global_standard` and `global_minmax` of all bands together. What is constant
            is shifted only, and test frames may lie beyond the range.
        features: Numbers in a window.
        lanes: Leading shape of what is kept. Lanes hear the same frames: all hold the same.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, how: str, *, features: int, lanes: tuple[int, ...]) -> None:
        """Begins as the identity."""
        super().__init__()
        self._how = how
        self.register_buffer("shift", torch.zeros(*lanes, 1, features))
        self.register_buffer("scale", torch.ones(*lanes, 1, features))

    def forward(self, windows: Tensor) -> Tensor:
        """Shape (..., windows, features) in and out."""
        shift, scale = self.shift, self.scale
        if shift.dim() == 3:
            shift, scale = shift[0], scale[0]
        return torch.addcmul(shift, windows, scale)

    @torch.no_grad()
    def fit(self, windows: Windows, numbers: Tensor) -> None:
        """Learns from the frames of the windows of these numbers, each frame once."""
        counts, totals, squares, lows, highs = zip(
            *map(_summed, windows.frames_of(numbers)), strict=True
        )
        low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
        total, square = (torch.stack(of).sum(0) / sum(counts) for of in (totals, squares))
        if self._how.startswith("global_"):
            low, high = low.amin().expand_as(low), high.amax().expand_as(high)
            total, square = (of.mean().expand_as(of) for of in (total, square))
        if self._how.endswith("standard"):
            middle = total
            reach = (square - middle.square()).clamp_min(0).sqrt()
        else:
            middle, reach = (high + low) / 2, (high - low) / 2
        # Of a constant band the two sums leave rounding, no spread.
        reach = torch.where(high > low, reach, 1.0)
        repeats = self.scale.shape[-1] // len(reach)
        self.scale.copy_((1 / reach).repeat(repeats))
        self.shift.copy_((-middle / reach).repeat(repeats))


def _summed(frames: Tensor) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    """Of frames (frames, mels): how many, then sum, sum of squares, least and most, in float64."""
    frames = frames.to("cpu", torch.float64)
    return len(frames), frames.sum(0), frames.square().sum(0), frames.amin(0), frames.amax(0)
