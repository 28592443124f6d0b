"""Scores from embeddings: against scikit-learn and hand sums, and what is kept of a fit."""

import copy

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

from asdgan._system.seeds import key_of
from asdgan.errors import BadInput
from asdgan.nn.outliers import KINDS, Outliers

SETTINGS = {
    "kinds": list(KINDS), "per": "section", "normalise": False, "metric": "cosine",
    "neighbours": 2, "distances": "mean", "lof_neighbours": 4, "contamination": 1e-6,
    "nu": 0.1, "trees": 20, "seed": 3,
}  # fmt: skip


def drawn(clips, seed, features=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, features, generator=generator, dtype=torch.float64) / 2 + 2


KNOWN, SECTIONS = drawn(40, 1), ["00", "01"] * 20
ASKED = drawn(6, 2)


def fitted(known=KNOWN, sections=SECTIONS, **changed):
    outliers = Outliers(**SETTINGS | changed)
    outliers.fit(known, sections)
    return outliers


def cosine(a, b):
    return 1 - (a @ b.T) / a.norm(dim=1)[:, None] / b.norm(dim=1)


@pytest.mark.parametrize("distances", ["mean", "sum"])
def test_knn_is_the_distance_to_the_nearest_by_hand(distances):
    found = fitted(distances=distances, per="pooled").scores(ASKED, ["05"] * 6)["knn"]
    nearest = cosine(ASKED, KNOWN).sort(1).values[:, :2]
    torch.testing.assert_close(found, getattr(nearest, distances)(1))


def test_a_sections_clips_are_compared_with_its_own_training_clips():
    found = fitted().scores(ASKED, ["00", "01"] * 3)
    for number, section in enumerate(["00", "01"]):
        alone = fitted(KNOWN[number::2], [section] * 20)
        for kind, values in alone.scores(ASKED[number::2], [section] * 3).items():
            assert torch.equal(found[kind][number::2], values)


def test_cosine_and_mahalanobis_are_distances_to_the_mean():
    found = fitted(per="pooled").scores(ASKED, SECTIONS[:6])
    torch.testing.assert_close(found["cosine"], cosine(ASKED, KNOWN.mean(0)[None])[:, 0])
    apart = (ASKED - KNOWN.mean(0)).numpy()
    precision = np.linalg.inv(LedoitWolf().fit(KNOWN.numpy()).covariance_)
    by_hand = np.sqrt(np.einsum("ij,jk,ik->i", apart, precision, apart))
    assert found["mahalanobis"].numpy() == pytest.approx(by_hand)


def test_the_others_are_scikit_learns_own():
    found, x = fitted(per="pooled").scores(ASKED, SECTIONS[:6]), KNOWN.numpy()
    lof = LocalOutlierFactor(n_neighbors=4, metric="cosine", contamination=1e-6, novelty=True)
    forest = IsolationForest(n_estimators=20, random_state=key_of(3, "forest") % 2**32)
    oracles = {
        "lof": -lof.fit(x).decision_function(ASKED.numpy()),
        "ocsvm": -OneClassSVM(nu=0.1).fit(x).decision_function(ASKED.numpy()),
        "forest": -forest.fit(x).score_samples(ASKED.numpy()),
    }
    for kind, values in oracles.items():
        assert found[kind].numpy() == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalise", [False, True])
def test_what_lies_elsewhere_is_stranger_than_nine_clips_in_ten(kind, normalise):
    far = torch.tensor([[-4.0, 4, -4, 4, -4]], dtype=torch.float64)
    near = KNOWN[::2] + 0.01 * drawn(20, 5)
    found = fitted(normalise=normalise).scores(torch.cat([near, far]), ["00"] * 21)[kind]
    assert (found[-1] > found[:-1]).sum() >= 18


@pytest.mark.parametrize("kind", ["knn", "lof"])
def test_a_training_clip_is_scored_as_if_it_had_been_left_out(kind):
    changed = {"neighbours": 1, "kinds": [kind], "per": "pooled"}
    scores = fitted(**changed).scores(KNOWN, SECTIONS)[kind]
    if kind == "lof":  # its factor is among the others, none of which is above 0
        assert scores.max() == pytest.approx(0, abs=1e-3)
    else:
        alone = fitted(KNOWN[1:], SECTIONS[1:], **changed).scores(KNOWN[:1], ["00"])[kind]
        assert scores[0] == pytest.approx(float(alone[0]), rel=1e-9)
    assert scores.unique().numel() > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_clips_score_does_not_depend_on_those_beside_it(kind):
    outliers = fitted()
    alone = [outliers.scores(ASKED[i : i + 1], ["00"])[kind] for i in range(6)]
    together = outliers.scores(ASKED, ["00"] * 6)[kind]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-12, atol=1e-14)


def test_normalised_embeddings_have_no_length():
    outliers, stretch = fitted(normalise=True), torch.arange(1, 7)[:, None]
    for kind, values in outliers.scores(ASKED * stretch, SECTIONS[:6]).items():
        torch.testing.assert_close(values, outliers.scores(ASKED, SECTIONS[:6])[kind])


def test_a_fit_of_any_size_travels_with_the_state_and_keeps_its_bits():
    outliers, other = fitted(), fitted(drawn(12, 9, features=3), ["07"] * 12)
    other.load_state_dict(copy.deepcopy(outliers.state_dict()))
    other.float()
    assert other.embeddings.dtype == torch.float64
    mine, theirs = (one.scores(ASKED, SECTIONS[:6]) for one in (outliers, other))
    assert all(torch.equal(mine[kind], theirs[kind]) for kind in KINDS)


def test_sections_of_a_folder_without_any_are_one_section():
    outliers = fitted(sections=[""] * 40)
    assert len(outliers.scores(ASKED, [""] * 6)["knn"]) == 6


def test_an_embedding_that_is_not_finite_scores_nan_and_spoils_no_other():
    broken = ASKED.clone()
    broken[2, 0] = torch.nan
    for values in fitted().scores(broken, SECTIONS[:6]).values():
        assert values.isnan().tolist() == [False, False, True, False, False, False]
    with pytest.raises(BadInput, match="embeddings of training clips are not finite"):
        fitted(known=broken, sections=["00"] * 6)


def test_too_few_clips_are_said():
    with pytest.raises(BadInput, match="at least 5 training clips, and section '02' has 4; train"):
        fitted(sections=["00"] * 36 + ["02"] * 4)
    with pytest.raises(BadInput, match=r"all sections has 40; train on more, or take fewer \w+$"):
        fitted(per="pooled", neighbours=40)
    with pytest.raises(BadInput, match="section '09' has 0"):
        Outliers(**SETTINGS).check(SECTIONS, ["09"])


def test_a_section_without_training_clips_is_refused():
    with pytest.raises(BadInput, match=r"section '05' is not among those .*\(00, 01\); name one"):
        fitted().scores(ASKED, ["05"] * 6)


@pytest.mark.parametrize("kinds", [[], ["knn", "nearest"]])
def test_kinds_that_are_none_are_refused(kinds):
    with pytest.raises(BadInput, match=r"model\.outliers\.kinds=.*: one or more of knn, lof"):
        Outliers(**SETTINGS | {"kinds": kinds})
