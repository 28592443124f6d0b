"""The classifier of sections: its network, its scores, and which sections it knows."""

import math

import pytest
import torch
from small_models import Recording, compose, detector_of, learn, windows_of

from asdgan.config import compose as settings
from asdgan.data.frames import Frames
from asdgan.data.windows import Batch, Windows
from asdgan.errors import BadInput
from asdgan.nn.lanes import Draw

SHRUNK = compose("id_classifier")
NOTHING = Draw(torch.tensor(1.0), None, None)  # is drawn where nothing is dropped


def windows_by(*sections, frames=12):
    """A clip of noise for each section that is named."""
    values = torch.randn(frames * len(sections), 16, generator=torch.Generator().manual_seed(1))
    starts = torch.arange(len(sections) + 1) * frames
    clips = [Recording(number, section) for number, section in enumerate(sections)]
    return Windows(Frames(values, starts), clips, length=3, stride=1)


def saying(*logits):
    """A classifier of two sections that says these logits of every window."""
    detector = detector_of(SHRUNK, torch.float64)
    with torch.no_grad():
        detector.head.weight.zero_()
        detector.head.bias.copy_(torch.tensor(logits).double())
    return detector


def test_the_network_is_keras_mobilenet_of_width_a_half():
    detector = settings.build(settings.compose(["model=id_classifier"]))
    statistics = sum(b.numel() for name, b in detector.body.named_buffers() if "running" in name)
    assert sum(p.numel() for p in detector.body.parameters()) + statistics == 706_224
    detector.prepare(windows_of(length=3))
    assert detector.head.weight.shape == (1280, 2)


@pytest.mark.parametrize(("frames", "mels"), [(64, 128), (63, 33)])
def test_every_step_of_two_halves_the_image_and_rounds_up(frames, mels):
    detector = settings.build(settings.compose(["model=id_classifier"]))
    image = torch.zeros(1, 3, frames, mels)
    assert detector.body(image).shape[-2:] == (math.ceil(frames / 32), math.ceil(mels / 32))


def test_a_ten_second_clip_has_32_windows_in_training_and_250_at_test():
    config = settings.compose(["model=id_classifier"])
    frames = Frames(torch.zeros(313, 2), torch.tensor([0, 313]))
    strides = (config.windows.stride, config.windows.test_stride)
    made = [Windows(frames, [Recording(0)], length=64, stride=stride) for stride in strides]
    assert [len(windows) for windows in made] == [32, 250]


@pytest.mark.parametrize("logit", [-3.0, 0.0, 5.0])
def test_the_three_scores_are_those_of_the_sections_own_probability(logit):
    scores = saying(logit, 0.0).score_clips(windows_by("00", "01"))
    for clip, p in enumerate([1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))]):
        found = {name: float(values[clip]) for name, values in scores.items()}
        assert found == pytest.approx({
            "neg_logit": math.log((1 - p) / p),
            "dcase_literal": math.log(1 - p - math.log(p)),
            "neg_log_p": -math.log(p),
        })  # fmt: skip


def test_the_literal_score_saturates_where_the_intended_one_does_not():
    scores = saying(1000.0, 0.0).score_clips(windows_by("00", "01"))
    assert scores["dcase_literal"].tolist() == pytest.approx([-36.04, 3.61], abs=0.01)
    assert scores["neg_logit"].tolist() == [-1000, 1000]


def test_a_sound_of_another_section_is_strange_once_they_are_told_apart():
    windows, config = windows_by("00", "01", frames=40), compose("id_classifier", "lr=0.01")
    windows.frames[40:] += 4
    detector = detector_of(config)
    picks = torch.arange(len(windows))
    losses = [
        detector.learn(Batch(windows.gather(picks), picks, windows, step), NOTHING)
        for step in range(30)
    ]
    assert losses[-1]["loss"] < 0.1 < losses[0]["loss"]
    right = detector.score_clips(windows)
    windows.sections = ("01", "00")
    wrong = detector.score_clips(windows)
    assert all((wrong[name] > right[name]).all() for name in right)


def test_the_sections_are_those_of_the_training_clips_and_travel_with_the_weights():
    detector = settings.build(SHRUNK)
    detector.prepare(windows_by("06", "00", "02", "00"))
    other = settings.build(SHRUNK)
    other.load_state_dict(detector.state_dict())
    assert other.sections == detector.sections == ("00", "02", "06")
    assert other.head.weight.shape == (32, 3)


def test_one_section_is_refused_before_training():
    with pytest.raises(BadInput, match="all its training clips are of section 04; take a release"):
        settings.build(SHRUNK).prepare(windows_by("04", "04"))


@pytest.mark.parametrize("section", ["05", ""])
def test_a_section_that_was_not_trained_on_is_refused(section):
    detector = detector_of(SHRUNK)
    with pytest.raises(BadInput, match=f"sections 00, 01 and knows nothing of '{section}', which"):
        detector.score_clips(windows_by("00", section))
    with pytest.raises(BadInput, match=f"sections 00, 01 and knows nothing of '{section}', which"):
        detector.prepare(windows_by("00", "01"), ["00", section])


def test_running_statistics_are_plain_averages_first_and_then_keras_share():
    detector = detector_of(compose("id_classifier"))
    norm, x = detector.body[0][1], torch.randn(8, 48)
    learn(detector, x, range(1))
    assert norm.momentum == 1
    learn(detector, x, range(5000, 5001))
    assert norm.momentum == 0.001


@pytest.mark.parametrize("blocks", ["[]", "[[6,24,2]]", "[[0,24,2,2]]"])
def test_blocks_that_are_none_are_refused(blocks):
    with pytest.raises(BadInput, match=r"model\.blocks=.*list of \[expansion, channels, repeats"):
        compose("id_classifier", f"model.blocks={blocks}")
