"""Anomaly maps of clips as files: how strange each moment is at each frequency, for pictures.

Some detectors draw one of a clip before they score it (`Detector.map_clips`). A file holds the
maps of some clips one after the other, with what their rows and columns stand for.
"""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from asdgan.data.log_mel import LogMel

if TYPE_CHECKING:
    from torch import Tensor

MOST = 255  # what 1 is stored as


def packed(maps: Iterable["Tensor"], clips: Sequence[str], features: LogMel) -> bytes:
    """The content of an npz file.

    Args:
        maps: Of each clip, shape (frames, mels), 0 to 1, or NaN where no window reaches.
        clips: Their names.
        features: Of the frames.

    Returns:
        Arrays `map` (frames of all clips, mels), whose 255 is 1, and 0 where nothing is known;
        `starts` (clips + 1), where in it each clip begins; `clip` (clips); `seconds` between
        frames, the first of which is centred on the clip's beginning; `hertz` (mels).
    """
    # Clip by clip, or a full test set's maps would take a gigabyte before they are rounded.
    found = [
        np.round(np.nan_to_num(one.numpy()).clip(0, 1) * MOST).astype(np.uint8) for one in maps
    ]
    arrays = {
        "map": np.concatenate(found),
        "starts": np.cumsum([0, *(len(one) for one in found)]),
        "clip": np.array(list(clips), dtype=np.str_),
        "seconds": np.array(features.hop / features.sample_rate),
        "hertz": hertz(features),
    }
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # pyright: ignore - savez takes any names
    return stream.getvalue()


def hertz(features: LogMel) -> NDArray[np.float64]:
    """The frequency at the middle of each band.

    Source: the mel scales of Slaney's Auditory Toolbox (1998), and of the HTK book.
    """
    top = features.sample_rate / 2
    if features.mel_scale == "none":
        return np.linspace(0, top, features.mels)
    if features.mel_scale == "htk":
        edges = np.linspace(0, 2595 * np.log10(1 + top / 700), features.mels + 2)
        return 700 * (10 ** (edges[1:-1] / 2595) - 1)
    step = np.log(6.4) / 27  # above 1000 Hz, which is 15 mel; linear below
    highest = 15 + np.log(top / 1000) / step if top > 1000 else top * 15 / 1000
    mels = np.linspace(0, highest, features.mels + 2)[1:-1]
    return np.where(mels < 15, mels * 1000 / 15, 1000 * np.exp(step * (mels - 15)))
