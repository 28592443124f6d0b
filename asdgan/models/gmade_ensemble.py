"""Density and classification together: `gmade` and `id_classifier`, one score of two runs."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from asdgan.errors import BadInput


class GmadeEnsemble:
    """A weighted mean of two standardised scores; strange is what is so to both, or much to one.

    Each member is a run of its own. What it gives a clip is standardised by the mean and standard
    deviation of what it gives the training clips, all normal, of the clip's section; a clip's
    score is weight * first + (1 - weight) * second. Nothing is learned beside that.

    **Paper**: Giri et al., "Unsupervised anomalous sound detection using self-supervised
    classification and group masked autoencoder for density estimation", DCASE 2020 Task 2
    technical report; what the 2024 paper calls GMADE.

    **Departures**: how the report combines its parts is not known to us: the standardisation and
    equal weights are ours. Its classifiers were several, of architectures and augmentations that
    we do not have; here one takes their place. Training clips score lower than new normal ones,
    by a classifier above all, so that its share of the sum is larger than the weight says.

    Args:
        seed: Of the members.
        members: What is typed for each, by its model's name; asdgan/training/ensembles.py
            trains or finds them.
        weight: Of the first, 0 to 1.
        primary: `combined`, or the name of a member.

    Raises:
        BadInput: There are not two members, or no such score.
    """

    recipe: ClassVar[int] = 1
    stackable: ClassVar[bool] = False
    prefix_stable: ClassVar[bool] = True

    def __init__(
        self, *, seed: int, members: Mapping[str, Sequence[str]], weight: float, primary: str
    ) -> None:
        """Keeps the weights."""
        if len(members) != 2:
            raise BadInput(
                f"model.members names {', '.join(members) or 'nobody'}; gmade_ensemble takes two"
            )
        if primary not in ("combined", *members):
            raise BadInput(
                f"model.primary={primary} is none of the scores combined, {', '.join(members)}"
            )
        self.primary, self.seed = primary, seed
        self._weights = dict(zip(members, (weight, 1 - weight), strict=True))

    def combine(self, scores: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """Component scores of clips from each member's standardised ones, shape (clips,)."""
        combined = sum(weight * scores[name] for name, weight in self._weights.items())
        return {"combined": np.asarray(combined), **scores}
