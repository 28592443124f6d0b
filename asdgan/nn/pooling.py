"""From windows to clips: which clips are scored together, and how a clip's windows become one."""

from collections.abc import Callable, Sequence

from torch import Tensor

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda scores: scores.mean(-1),
    "max": lambda scores: scores.amax(-1),
    "min": lambda scores: scores.amin(-1),
    "p90": lambda scores: scores.quantile(0.9, dim=-1),
}
AT_ONCE = 2048  # windows scored at once


def clip_groups(bounds: Tensor, most: int = AT_ONCE) -> list[tuple[int, int]]:
    """Runs of whole clips, first to last (exclusive), of at most so many windows each.

    A clip that alone has more is a group of its own.
    """
    groups, first = [], 0
    edges = bounds.tolist()
    for clip in range(1, len(edges)):
        if edges[clip] - edges[first] > most and clip - 1 > first:
            groups.append((first, clip - 1))
            first = clip - 1
    if first < len(edges) - 1:
        groups.append((first, len(edges) - 1))
    return groups


def overlaid(maps: Tensor, starts: Sequence[int]) -> Tensor:
    """Maps of windows as one of their clip: the mean where they overlap, NaN where none reaches.

    Args:
        maps: Shape (windows, frames, mels).
        starts: The first frame of each window, in rising order.

    Returns:
        Shape (frames, mels), up to the last frame that a window sees.
    """
    length = maps.shape[1]
    total = maps.new_zeros(starts[-1] + length, maps.shape[2])
    seen = maps.new_zeros(starts[-1] + length, 1)
    for start, one in zip(starts, maps, strict=True):
        total[start : start + length] += one
        seen[start : start + length] += 1
    return total / seen
