"""Anomaly maps: what shapes they have, how large they are, and that seeds alone decide."""

import math

import pytest
import torch

from asdgan.errors import BadInput
from asdgan.nn import simulation

SIZES = {"octaves": 6, "threshold": 0.5, "band": 0.5, "segments": 5, "shortest": 0.1}
SIZES |= {"longest": 0.5, "whole": 0.3}


def drawn(number, **changes):
    maps = simulation.Maps(**{"perlin": 0.0, **SIZES, **changes})
    generator = torch.Generator().manual_seed(0)
    return [maps.draw(320, 128, generator) for _ in range(number)]


def test_perlin_noise_is_nought_at_the_corners_of_its_cells_and_within_one_elsewhere():
    noise = simulation.perlin(64, 96, (4, 8), torch.Generator().manual_seed(1))
    assert noise[::16, ::12].abs().max() == 0
    assert 0.5 < noise.abs().max() <= 1
    assert not noise[8].allclose(noise[24])


def test_one_cell_of_perlin_noise_is_its_four_slopes_blended():
    noise = simulation.perlin(4, 4, (1, 1), torch.Generator().manual_seed(2))
    angles = 2 * math.pi * torch.rand(2, 2, generator=torch.Generator().manual_seed(2))
    down, right = 0.25, 0.5
    weights = [6 * t**5 - 15 * t**4 + 10 * t**3 for t in (down, right)]
    by_hand = sum(
        abs(1 - i - weights[0]) * abs(1 - j - weights[1])
        * (math.cos(angles[i, j]) * (down - i) + math.sin(angles[i, j]) * (right - j))
        for i in (0, 1) for j in (0, 1)
    )  # fmt: skip
    assert float(noise[1, 2]) == pytest.approx(math.sqrt(2) * by_hand, abs=1e-6)


def test_an_image_turned_by_a_right_angle_is_turned_by_it():
    image = torch.rand(6, 6)
    assert simulation.turned(image, math.pi / 2).allclose(image.rot90(), atol=1e-5)
    wide = torch.zeros(8, 32).index_fill(1, torch.tensor([16]), 1.0)
    upright = simulation.turned(wide, math.pi / 2)
    assert upright[:, 12:20].sum() == pytest.approx(8)
    assert upright.sum(1).max() == pytest.approx(8)


def test_bands_are_a_band_of_frequencies_times_segments_of_time():
    for found in drawn(50):
        time, band = found.any(1).float(), found.any(0).float()
        assert found.equal(time[:, None] * band)
        assert 1 <= band.sum() <= 64
        assert band.diff().abs().sum() <= 2  # in one piece
        assert time.sum() >= 32


def test_as_many_bands_last_from_beginning_to_end_as_were_asked_for():
    whole = sum(bool(found.any(1).all()) for found in drawn(300, longest=0.2, segments=2))
    assert whole == pytest.approx(90, abs=4 * math.sqrt(300 * 0.3 * 0.7))


def test_perlin_maps_are_no_bands_and_hardly_ever_empty():
    maps = drawn(40, perlin=1.0)
    assert all(0 < found.mean() < 0.6 for found in maps)
    ranks = [int(torch.linalg.matrix_rank(found)) for found in maps]
    assert sorted(ranks)[20] > 5


def test_the_generator_alone_decides():
    torch.manual_seed(3)
    first = drawn(6, perlin=0.5)
    torch.manual_seed(4)
    assert all(a.equal(b) for a, b in zip(first, drawn(6, perlin=0.5), strict=True))


def test_segments_that_cannot_be_are_refused():
    with pytest.raises(BadInput, match=r"maps\.shortest=0\.6 is longer than model\.maps\.longest"):
        simulation.Maps(**{"perlin": 0.5, **SIZES, "shortest": 0.6})
