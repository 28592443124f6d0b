"""What is odd about recordings, and may be so by design: told, counted, never refused."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

SLACK = 0.01  # of the usual length, by which a clip may differ from it
FULL = 0.99  # of full scale; the highest value of 8 bits is 0.992
CLIPPED = 0.001  # share of samples there, from which on a recording is called clipped


def usual(lengths: Sequence[float]) -> float | None:
    """The length that most have; None where at most half are within `SLACK` of it."""
    if not lengths:
        return None
    ((found, _),) = Counter(lengths).most_common(1)
    alike = sum(not differs(length, found) for length in lengths)
    return found if 2 * alike > len(lengths) else None


def differs(length: float, usual: float) -> bool:
    """Whether a length is farther from the usual one than it may be."""
    return abs(length - usual) > SLACK * usual


def length_said(seconds: float, usual: float) -> str:
    """What to say of a clip of another length."""
    return f"{seconds:.2f} s; {usual:.2f} s ± {SLACK:.0%} is usual on this machine type"


def sign(samples: np.ndarray) -> tuple[str, str] | None:
    """What a recording is in one word, and why; None where nothing strikes.

    Args:
        samples: Shape (samples,), full scale ±1, finite.
    """
    if not samples.any():
        return "silent", "every sample is 0"
    mean, spread = float(samples.mean(dtype=np.float64)), float(samples.std(dtype=np.float64))
    if abs(mean) > spread:
        return "DC", f"a mean of {mean:.3g} and a spread of {spread:.3g} about it"
    share = float(np.mean(np.abs(samples) >= FULL))
    if share >= CLIPPED:
        return "clipped", f"{share:.1%} of its samples are at full scale"
    return None
