"""AudDSR: the size of its networks, what it changes among the codes, its loss and its map."""

import pytest
import torch
from small_models import compose, detector_of, learn, windows_of

from asdgan.config import compose as settings
from asdgan.data.windows import Batch
from asdgan.models import auddsr

X = torch.randn(6, 48, generator=torch.Generator().manual_seed(0))


def begun():
    """The weights of a stage before its first step."""
    stage, windows = detector_of(compose("auddsr_codes")), windows_of()
    stage.fit_scaling(windows, torch.arange(len(windows)))
    return stage.state_dict()


def built(name="auddsr", *overrides):
    """A shrunk detector on codes that were begun, not trained."""
    detector = detector_of(compose(name, *overrides))
    detector.take_stage("auddsr_codes", begun())
    return detector


def heard(step=0, **changes):
    detector = built(*changes)
    image = detector.codes.image(X, 3)
    return detector, image, detector._changed(image, step, torch.Generator().manual_seed(step))


def counted(module):
    return sum(p.numel() for p in module.parameters())


def test_its_networks_have_as_many_parameters_as_the_references():
    detector = settings.build(settings.compose(["model=auddsr"]))
    (made,) = detector.specific
    parts = (made.coarse, made.fine, made.decoder, made.detection)
    found = [counted(part) / 1e6 for part in parts]
    assert found == pytest.approx([7.82, 7.82, 9.41, 5.61], abs=0.005)
    assert counted(detector.codes) == 1_920_129


def test_the_codes_are_those_of_stage_one_and_training_leaves_them_alone():
    detector = built()
    stage = begun()
    learn(detector, X, range(3))
    for name, value in detector.codes.state_dict().items():
        assert value.equal(stage[f"codes.{name}"]), name


def test_every_other_window_is_changed_and_the_others_next_time():
    for step in range(4):
        _, _, found = heard(step)
        changed = found.map_.flatten(1).any(1)
        assert not changed[(step + 1) % 2 :: 2].any()
        assert changed[step % 2 :: 2].all()


def test_codes_are_exchanged_within_the_map_and_nowhere_else():
    for step in range(8):
        _, _, found = heard(step)
        moved = (found.coarse != found.was_coarse).any(1, keepdim=True).float()
        moved_fine = (found.fine != found.was_fine).any(1, keepdim=True).float()
        seen = torch.maximum(
            auddsr.spread(moved, found.map_), auddsr.spread(moved_fine, found.map_)
        )
        beneath = (moved.flatten(1).any(1))[:, None, None, None]
        assert (seen[~beneath.expand_as(seen)] <= found.map_[~beneath.expand_as(seen)]).all()
        assert (auddsr.spread(moved, found.map_) <= found.map_).all()


def test_an_anomalys_codes_are_neither_the_nearest_nor_beyond_its_strength():
    generator = torch.Generator().manual_seed(0)
    book, features = torch.randn(100, 8, generator=generator), torch.randn(500, 8)
    most = torch.full((500,), 31)
    new = auddsr.exchanged(features, book, torch.rand(500, generator=generator), most)
    order = torch.cdist(features, book).argsort(-1)
    number = torch.cdist(new, book).argmin(-1)
    ranks = (order == number[:, None]).nonzero()[:, 1]
    assert (ranks.min(), ranks.max()) == (5, 30)
    assert torch.bincount(ranks, minlength=31)[5:].float().std() < 3 * (500 / 26) ** 0.5


def test_uniform_sampling_takes_any_code_equally_often():
    book, uniform = torch.arange(4.0)[:, None], (torch.arange(400) + 0.5) / 400
    new = auddsr.exchanged(torch.zeros(400, 1), book, uniform, None)
    assert torch.bincount(new[:, 0].long()).tolist() == [100] * 4


def test_the_focal_loss_is_the_cross_entropy_without_gamma_and_less_with_it():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 4, 5).double(), (torch.rand(3, 1, 4, 5) < 0.3).double()
    entropy = torch.nn.functional.cross_entropy(logits, target[:, 0].long(), reduction="none")
    found = auddsr.focal_loss(logits, target, 0.0)
    assert float(found) == pytest.approx(float(entropy.mean()), abs=1e-4)
    by_hand = ((1 - (-entropy).exp()) ** 2 * entropy).mean()
    assert float(auddsr.focal_loss(logits, target, 2.0)) == pytest.approx(float(by_hand), abs=1e-4)


def test_a_step_draws_from_seed_and_step_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = learn(built(), X, range(2))
    torch.manual_seed(2)
    assert learn(built(), X, range(2)) == first
    assert not state.equal(torch.get_rng_state())


def test_the_score_is_the_mean_of_the_map_over_what_was_heard():
    detector, windows = built(), windows_of()
    detector.eval()
    picks = torch.arange(5)
    batch = Batch(windows.gather(picks), picks, windows, -1)
    with torch.no_grad():
        maps, scores = detector.map_windows(batch), detector.score_windows(batch)
    assert maps.shape == (5, 3, 16)
    assert bool((maps >= 0).all() & (maps <= 1).all())
    assert scores["map_mean"].allclose(maps.mean((1, 2)))


def test_a_section_of_annotated_clips_has_a_detector_of_its_own():
    detector = built("auddsr_annot")
    assert [*detector.networks()] == ["specific_0", "specific_1"]
    windows = windows_of()
    before = detector.score_clips(windows)["map_mean"]
    with torch.no_grad():
        detector.specific[1].detection.output.bias += torch.tensor([0.0, 5.0])
    after = detector.score_clips(windows)["map_mean"]
    assert [bool(a > b) for a, b in zip(after, before, strict=True)] == [False, True, False, True]


def test_clips_of_other_sections_are_strange_all_over_and_teach_the_map_alone(monkeypatch):
    detector, found = built("auddsr_annot"), []
    image = detector.codes.image(X, 3)

    def noted(logits, target, gamma):
        found.append(target)
        return logits.sum() * 0

    monkeypatch.setattr(auddsr, "focal_loss", noted)
    losses = [
        detector._losses(detector._of(0), image[:4], others, 0, torch.Generator().manual_seed(0))
        for others in (image[:0], image[4:])
    ]
    assert all(losses[0][name].equal(losses[1][name]) for name in ("con", "lat"))
    assert found[1][:4].equal(found[0])
    assert found[0].mean() < 0.9
    assert found[1][4:].all()


def test_pooled_masks_cover_all_that_a_code_spells():
    mask = torch.zeros(1, 1, 32, 64)
    mask[..., 5, 9] = 1
    small = auddsr.pooled(mask, torch.zeros(1, 4, 8, 16))
    assert small.sum() == 1
    assert small[0, 0, 1, 2] == 1
    assert auddsr.spread(small, mask)[0, 0, 4:8, 8:12].all()
