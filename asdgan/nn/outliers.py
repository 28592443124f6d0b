"""Outliers: how far a clip's embedding lies from those of the training clips.

A network that gives embeddings says nothing about what is strange; a detector of outliers, fitted
on the embeddings of normal clips, does. Here are six of them, all scikit-learn's and all in
float64 on the CPU. They are fitted side by side, for each section or for all sections together, so
that one pass over the clips scores all of them and another one is chosen without training again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM
from torch import Tensor, nn

from asdgan._system.seeds import key_of
from asdgan.errors import BadInput

Array = np.ndarray[Any, np.dtype[np.float64]]
# What a fitted detector of outliers is: the scores of any embeddings, and those of the embeddings
# it was fitted on, each beside the others only (None: those it gives to any).
Fitted = tuple[Callable[[Array], Array], Array | None]
DISTANCES = {"mean": np.mean, "sum": np.sum}  # `distances`: k of them as one


class Outliers(nn.Module):
    """Detectors of outliers among embeddings; higher scores are stranger.

    - `knn`: mean or sum of the distances to the nearest training embeddings;
    - `lof`: the local outlier factor, above that of nearly all training embeddings;
    - `cosine`: cosine distance to the mean training embedding;
    - `mahalanobis`: Mahalanobis distance to it, covariance by Ledoit and Wolf's shrinkage;
    - `ocsvm`: a one-class support vector machine's, negated, with a Gaussian kernel;
    - `forest`: an isolation forest's.

    A clip that is among those fitted on has itself for its nearest neighbour: `knn` and `lof`
    compare it with the others, so that training clips' scores stand for those of new normal
    clips, as thresholds and ensembles take them.

    What is kept, with the weights of the detector that owns this, are the training embeddings and
    their sections; the detectors are fitted anew when they are first asked. They stay in float64
    on the CPU wherever the owner moves.

    Args:
        kinds: Which detectors, of those above.
        per: `section`: each section's clips among its own training clips; `pooled`: all together.
        normalise: Whether embeddings are brought to length 1 first.
        metric: Of `knn` and `lof`: `cosine` or `euclidean`.
        neighbours: Of `knn`.
        distances: `mean` or `sum`: what becomes of these neighbours' distances.
        lof_neighbours: Of `lof`.
        contamination: Share of training embeddings that `lof` places above 0, 0 to 0.5.
        nu: Share of them, at most, that `ocsvm` leaves outside, 0 to 1.
        trees: Of `forest`.
        seed: Of `forest`.

    Raises:
        BadInput: No kind, or one that is not known.

    Attributes:
        embeddings: Those fitted on, shape (clips, features).
        spelt: Their sections, as bytes of text with a line for each.
    """

    embeddings: Tensor
    spelt: Tensor

    def __init__(
        self,
        *,
        kinds: Sequence[str],
        per: str,
        normalise: bool,
        metric: str,
        neighbours: int,
        distances: str,
        lof_neighbours: int,
        contamination: float,
        nu: float,
        trees: int,
        seed: int,
    ) -> None:
        """Makes what knows nothing yet."""
        super().__init__()
        if not kinds or set(kinds) - KINDS.keys():
            raise BadInput(
                f"model.outliers.kinds={list(kinds)}: one or more of {', '.join(KINDS)} are "
                "expected"
            )
        self.kinds, self.per, self.normalise = tuple(kinds), per, normalise
        self.metric, self.neighbours, self.distances = metric, neighbours, distances
        self.lof_neighbours, self.contamination = lof_neighbours, contamination
        self.nu, self.trees, self.seed = nu, trees, seed
        self.register_buffer("embeddings", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("spelt", torch.zeros(0, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_make_room)
        self.forget()

    def forget(self) -> None:
        """Has the detectors fitted anew when they are next asked."""
        self._fitted: dict[str, tuple[dict[bytes, int], dict[str, Fitted]]] = {}

    def check(self, sections: Sequence[str], scored: Sequence[str] = ()) -> None:
        """Refuses training clips that cannot be fitted, before anything is trained on them.

        Args:
            sections: Of the training clips.
            scored: Sections that will be scored, as far as they are known.

        Raises:
            BadInput: Too few clips, of a section or in all, or a section without any.
        """
        needed = 2  # a covariance of one clip is none
        if "knn" in self.kinds:
            needed = max(needed, self.neighbours + 1)
        if "lof" in self.kinds:
            needed = max(needed, self.lof_neighbours + 1)
        groups = [self._group(section) for section in sections]
        for group in sorted({*groups, *map(self._group, scored)}):
            if groups.count(group) < needed:
                where, ways = "all sections", "train on more, or take fewer neighbours"
                if self.per == "section":
                    where = f"section {group!r}"
                    ways = "train on more, take fewer neighbours, or model.outliers.per=pooled"
                raise BadInput(
                    f"model.outliers compares clips with at least {needed} training clips, and "
                    f"{where} has {groups.count(group)}; {ways}"
                )

    def fit(self, embeddings: Tensor, sections: Sequence[str]) -> None:
        """Takes in the training clips' embeddings, shape (clips, features), and their sections.

        Raises:
            BadInput: As `check`, or an embedding is not finite.
        """
        self.check(sections)
        if not bool(embeddings.isfinite().all()):
            raise BadInput(
                "the embeddings of training clips are not finite: the network has diverged; "
                "train it at a smaller lr"
            )
        self.embeddings = embeddings.detach().to("cpu", torch.float64, copy=True)
        self.spelt = torch.tensor(list("\n".join(sections).encode()), dtype=torch.int64)
        self.forget()

    def scores(self, embeddings: Tensor, sections: Sequence[str]) -> dict[str, Tensor]:
        """Scores of clips by kind, each of shape (clips,), float64.

        Args:
            embeddings: Shape (clips, features). One that is not finite scores NaN.
            sections: Of these clips.

        Raises:
            BadInput: A section of which no training clip is known.
        """
        asked = embeddings.detach().to("cpu", torch.float64).numpy()
        found = {kind: np.full(len(asked), np.nan) for kind in self.kinds}
        groups = np.array([self._group(section) for section in sections])
        for group in sorted(set(groups.tolist())):
            of_group = (groups == group) & np.isfinite(asked).all(1)
            if of_group.any():
                for kind, values in self._scored(group, asked[of_group]).items():
                    found[kind][of_group] = values
        return {kind: torch.from_numpy(values) for kind, values in found.items()}

    def _scored(self, group: str, asked: Array) -> dict[str, Array]:
        if group not in self._fitted:
            self._fitted[group] = self._fit(group)
        rows, fitted = self._fitted[group]
        asked = self._seen(asked)
        itself = np.array([rows.get(row.tobytes(), -1) for row in asked])
        found = {}
        for kind, (of_any, of_known) in fitted.items():
            found[kind] = of_any(asked)
            if of_known is not None:
                found[kind][itself >= 0] = of_known[itself[itself >= 0]]
        return found

    def _fit(self, group: str) -> tuple[dict[bytes, int], dict[str, Fitted]]:
        """Every kind fitted on a section's embeddings, and where each of these stands."""
        names = bytes(self.spelt.tolist()).decode().split("\n") if len(self.embeddings) else []
        members = [i for i, name in enumerate(names) if self._group(name) == group]
        if not members:
            raise BadInput(
                f"section {group!r} is not among those that model.outliers was fitted on "
                f"({', '.join(sorted(set(names))) or 'none'}); name one of these, leave such "
                "clips out, or take model.outliers.per=pooled"
            )
        known = self._seen(self.embeddings[members].numpy())
        rows = {row.tobytes(): i for i, row in enumerate(known)}
        return rows, {kind: KINDS[kind](self, known) for kind in self.kinds}

    def _group(self, section: str) -> str:
        return section if self.per == "section" else ""

    def _seen(self, embeddings: Array) -> Array:
        if not self.normalise:
            return np.ascontiguousarray(embeddings)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings / np.where(lengths > 0, lengths, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Outliers":
        return self  # scikit-learn computes on the CPU in float64, wherever the network is


def _make_room(outliers: Outliers, state: dict[str, Tensor], prefix: str, *_: Any) -> None:  # noqa: ANN401
    """Before a state is loaded: embeddings of any number and width, not only of those here."""
    for name, mine in outliers.named_buffers():
        if (kept := state.get(f"{prefix}{name}")) is not None:
            setattr(outliers, name, torch.empty_like(kept, dtype=mine.dtype, device="cpu"))
    outliers.forget()


def _knn(how: Outliers, known: Array) -> Fitted:
    one = DISTANCES[how.distances]
    fitted = NearestNeighbors(n_neighbors=how.neighbours, metric=how.metric, algorithm="brute")
    fitted.fit(known)
    return lambda asked: one(fitted.kneighbors(asked)[0], axis=1), one(
        fitted.kneighbors()[0], axis=1
    )


def _lof(how: Outliers, known: Array) -> Fitted:
    fitted = LocalOutlierFactor(
        n_neighbors=how.lof_neighbours,
        metric=how.metric,
        algorithm="brute",
        contamination=how.contamination,  # pyright: ignore[reportArgumentType] - says str
        novelty=True,
    ).fit(known)
    of_known = fitted.offset_ - fitted.negative_outlier_factor_
    return lambda asked: -fitted.decision_function(asked), of_known


def _cosine(how: Outliers, known: Array) -> Fitted:
    mean = known.mean(0, keepdims=True)
    return lambda asked: cosine_distances(asked, mean)[:, 0], None


def _mahalanobis(how: Outliers, known: Array) -> Fitted:
    fitted = LedoitWolf().fit(known)
    return lambda asked: np.sqrt(fitted.mahalanobis(asked)), None


def _ocsvm(how: Outliers, known: Array) -> Fitted:
    fitted = OneClassSVM(nu=how.nu).fit(known)
    return lambda asked: -fitted.decision_function(asked), None


def _forest(how: Outliers, known: Array) -> Fitted:
    state = key_of(how.seed, "forest") % 2**32
    fitted = IsolationForest(n_estimators=how.trees, random_state=state).fit(known)
    return lambda asked: -fitted.score_samples(asked), None


KINDS: dict[str, Callable[[Outliers, Array], Fitted]] = {
    "knn": _knn,
    "lof": _lof,
    "cosine": _cosine,
    "mahalanobis": _mahalanobis,
    "ocsvm": _ocsvm,
    "forest": _forest,
}
