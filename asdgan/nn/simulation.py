"""Simulated anomalies: where in a spectrogram something strange is put, in training.

An anomaly map says of every frame and band of a window whether it is made strange. Two processes
draw one: thresholded Perlin noise, as for pictures, and a band of frequencies within some
segments of time, as faults show in spectrograms. What is put there is the detector's affair.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from asdgan.errors import BadInput

TRIES = 20  # maps that are drawn for one that is not empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """How anomaly maps are drawn.

    Args:
        perlin: Share of the maps that are of Perlin noise, 0 to 1; the others are bands.
        octaves: Perlin noise has 2^k cells along each axis, k below this, by axis.
        threshold: Above which the noise, about -1 to 1, is strange.
        band: The widest band, as a share of all.
        segments: Segments of time in a band, at most; they may overlap.
        shortest: Segment, as a share of the frames.
        longest: Likewise.
        whole: Share of the bands that are strange from the first frame to the last.

    Raises:
        BadInput: The shortest segment is longer than the longest.
    """

    perlin: float
    octaves: int
    threshold: float
    band: float
    segments: int
    shortest: float
    longest: float
    whole: float

    def __post_init__(self) -> None:
        """Compares the lengths."""
        if self.shortest > self.longest:
            raise BadInput(
                f"model.maps.shortest={self.shortest} is longer than "
                f"model.maps.longest={self.longest}; exchange them"
            )

    def draw(self, frames: int, mels: int, generator: torch.Generator) -> Tensor:
        """One map, shape (frames, mels), 1 where it is strange and 0 elsewhere.

        Of Perlin noise that nowhere passes the threshold another is drawn, up to a point.
        """
        if float(torch.rand((), generator=generator)) >= self.perlin:
            return self._bands(frames, mels, generator)
        for _ in range(TRIES):
            cells = 2 ** torch.randint(self.octaves, (2,), generator=generator)
            noise = perlin(frames, mels, (int(cells[0]), int(cells[1])), generator)
            angle = math.pi * (float(torch.rand((), generator=generator)) - 0.5)
            found = (turned(noise, angle) > self.threshold).float()
            if found.any():
                return found
        return torch.zeros(frames, mels)

    def _bands(self, frames: int, mels: int, generator: torch.Generator) -> Tensor:
        """A band of frequencies, in some segments of time."""

        def share(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        width = max(1, round(share(0, self.band) * mels))
        lowest = int(torch.randint(mels - width + 1, (), generator=generator))
        map_ = torch.zeros(frames, mels)
        if share(0, 1) < self.whole:
            map_[:, lowest : lowest + width] = 1
            return map_
        for _ in range(1 + int(torch.randint(self.segments, (), generator=generator))):
            length = max(1, round(share(self.shortest, self.longest) * frames))
            first = int(torch.randint(frames - length + 1, (), generator=generator))
            map_[first : first + length, lowest : lowest + width] = 1
        return map_


def perlin(frames: int, mels: int, cells: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Gradient noise, shape (frames, mels), about -1 to 1, and 0 at the corners of its cells.

    Args:
        frames: Rows.
        mels: Columns.
        cells: Of the lattice, along rows and columns.
        generator: Draws the gradient at each corner.

    Source: Perlin, "Improving noise", 2002 (the blend), in two dimensions.
    """
    angles = 2 * math.pi * torch.rand(cells[0] + 1, cells[1] + 1, generator=generator)
    places = [
        torch.arange(count) * (of / count) for count, of in zip((frames, mels), cells, strict=True)
    ]
    (row, column), (down, right) = zip(*((p.long(), p - p.long()) for p in places), strict=True)
    corners = []
    for i in (0, 1):
        for j in (0, 1):
            angle = angles[row + i][:, column + j]
            corners.append(angle.cos() * (down - i)[:, None] + angle.sin() * (right - j))
    blend_down, blend_right = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (down, right))
    upper, lower = (torch.lerp(a, b, blend_right) for a, b in (corners[:2], corners[2:]))
    return math.sqrt(2) * torch.lerp(upper, lower, blend_down[:, None])


def turned(image: Tensor, angle: float) -> Tensor:
    """An image (rows, columns) turned about its centre, in radians; 0 where nothing was."""
    rows, columns = image.shape
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[[cos, -sin * rows / columns, 0], [sin * columns / rows, cos, 0]]])
    grid = functional.affine_grid(turn, [1, 1, rows, columns], align_corners=False)
    return functional.grid_sample(image[None, None], grid, align_corners=False)[0, 0]
