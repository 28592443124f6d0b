"""The section classifier: what it sees of a clip, what it learns, and how it is scored."""

import csv

import pytest
import torch
from small_models import Recording, compose, detector_of, learn, noise_for, windows_for, windows_of

from asdgan import run
from asdgan.config import compose as settings
from asdgan.data.frames import Frames
from asdgan.data.windows import Batch, Drawing, Windows
from asdgan.errors import BadInput
from asdgan.nn.embeddings import NETWORKS
from asdgan.nn.lanes import Draw
from asdgan.sweep import grid
from asdgan.training import machine_data, train

SHRUNK = compose("sc")
NOTHING = Draw(torch.tensor(1.0), None, None)
SMALL = (
    "model.networks.cnn6.filters=[4,8]",
    "model.networks.cnn6.width=8",
    "model.networks.ecapa_tdnn.filters=16",
    "model.networks.ecapa_tdnn.merged=8",
    "windows.frames=8",
)
# What the report calls them, as its table of settings was typed.
PRINTED = {
    "MFN": "mobilefacenet", "MFNSE": "mobilefacenet_se", "Ecapa-tdnn": "ecapa_tdnn",
    "Cnn6": "cnn6",
}  # fmt: skip


def test_a_ten_second_clip_gives_a_crop_an_epoch_and_three_windows_at_test():
    config = settings.compose(["model=sc"])
    frames, clips = Frames(torch.zeros(313, 2), torch.tensor([0, 313])), [Recording(0)]
    crops, cut = (
        Windows(frames, clips, length=192, stride=stride)
        for stride in (config.windows.stride, config.windows.test_stride)
    )
    assert cut.starts.tolist() == [0, 60, 120]
    drawing, generator = Drawing(per_clip=config.windows.per_clip), torch.Generator()
    drawn = {int(drawing.draw(crops, torch.arange(122), generator)) for _ in range(50)}
    assert len(crops) == 122
    assert len(drawn) > 30


def test_the_network_sees_the_whole_spectrum_of_2048_samples():
    detector = settings.build(settings.compose(["model=sc"]))
    detector.prepare(windows_of(clips=12))
    assert detector.network.layers[-2][0].kernel_size == (65, 12)
    assert sum(p.numel() for p in detector.network.parameters()) == 1_376_256
    assert detector.arcface.W.shape == (128, 2)


def test_bands_are_rows_and_frames_columns_of_what_the_network_sees():
    detector, seen = detector_of(SHRUNK).eval(), []
    detector.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    windows = windows_for(SHRUNK)
    detector.embed_windows(Batch(windows.gather(torch.arange(1)), torch.arange(1), windows, -1))
    assert torch.equal(seen[0][0, 0], windows.frames[:3].T)


def test_a_clip_of_another_section_is_strange_once_they_are_told_apart():
    windows = windows_for(compose("sc"), clips=12)
    windows.frames[windows.starts[windows.clip % 2 == 1]] += 4
    detector = detector_of(compose("sc", "lr=0.01"))
    picks = torch.arange(len(windows))
    losses = [
        detector.learn(Batch(windows.gather(picks), picks, windows, step), NOTHING)["loss"]
        for step in range(20)
    ]
    assert losses[-1] < losses[0] / 10
    detector.fit(windows)
    right = detector.score_clips(windows)
    windows.sections = windows.sections[1:] + windows.sections[:1]
    wrong = detector.score_clips(windows)
    assert all((wrong[name] > right[name]).all() for name in ("knn", "cosine", "mahalanobis"))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_does_not_depend_on_what_was_drawn_before_it(network):
    config = compose("sc", f"model.network={network}", *SMALL)
    losses = []
    for before in (0, 1):
        detector = detector_of(config)
        torch.rand(before)
        losses.append([float(of["loss"]) for of in learn(detector, noise_for(config), range(3))])
    assert losses[0] == losses[1]


def test_every_step_drops_other_units():
    config = compose("sc", "model.network=cnn6", "lr=1e-12", *SMALL)
    first, second = learn(detector_of(config), noise_for(config), range(2))
    assert abs(first["loss"] - second["loss"]) > 1e-3


def test_sections_and_what_is_fitted_travel_with_the_weights():
    detector, other = detector_of(SHRUNK), settings.build(SHRUNK)
    other.load_state_dict(detector.state_dict())
    assert other.sections == ("00", "01")
    ours, theirs = (one.score_clips(windows_for(SHRUNK)) for one in (detector, other))
    assert list(ours) == ["knn", "lof", "cosine", "mahalanobis"]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_one_section_and_too_few_clips_are_refused_before_training():
    one, few = windows_of(), windows_of(clips=4)
    one.sections = ("04",) * 4
    with pytest.raises(BadInput, match=r"sc tells sections .* are of section 04; take a release"):
        settings.build(SHRUNK).prepare(one)
    with pytest.raises(BadInput, match="at least 3 training clips, and section '00' has 2"):
        settings.build(SHRUNK).prepare(few)


def test_windows_are_not_held_out_in_vain():
    config = compose("sc", "windows.val_split=random_clips", "epochs=1")
    with pytest.raises(BadInput, match=r"detector scores clips, not windows; take windows\.val"):
        train.fit(config, windows_for(config, clips=12))


def test_outliers_are_fitted_on_windows_cut_as_those_of_test_clips(tmp_path):
    demo = [f"dataset.{key}=1" for key in ("ids", "seconds", "train_clips", "test_clips")]
    short = ("windows.frames=10", "windows.test_stride=9", f"outputs={tmp_path}")
    config = settings.compose(["model=sc", "machine=fan", *demo, *short])
    root = machine_data.root_of(config, machine_data.uncounted)
    heard = machine_data.listen(config, root, "fan", machine_data.uncounted)
    assert heard.known.sections == heard.train.sections
    assert heard.known.bounds[1] == heard.test.bounds[1] == 3  # of 32 frames, windows of 10
    assert heard.train.bounds[1] == 23


def test_another_scorer_needs_no_training(tmp_path, caplog):
    caplog.set_level("INFO", "asdgan")
    sizes = {"seconds": 2, "ids": 2, "train_clips": 5, "test_clips": 2}
    demo = [f"dataset.{key}={value}" for key, value in sizes.items()]
    config = compose("sc", "dataset=demo", "machine=fan", "epochs=2", "logger=none", *demo)
    config.dataset.root = None
    rows = []
    for place, per in (("a", "section"), ("a", "pooled"), ("b", "pooled")):
        config.outputs, config.model.outliers.per = str(tmp_path / place), per
        rows.append(run.run(config)[0].row)
    first, again, whole = rows
    assert f"trained before as {first['signature']}: scored anew" in caplog.text
    assert again["losses"] == first["losses"]
    assert again["signature"] == whole["signature"] != first["signature"]
    assert again["components"] == whole["components"] != first["components"]
    assert list(again["components"]) == ["knn", "lof", "cosine", "mahalanobis"]


def test_the_sweep_has_the_networks_and_features_that_the_report_prints(repository):
    with (repository / "sweeps/published/aithu_settings.csv").open(newline="") as file:
        said = [row for row in csv.DictReader(file) if row["model"] == "sc"]
    asked = {}
    for part in grid.expand(["sweep.file=aithu_sc", "sweep.dry_run=true"]).parts:
        config = part.config
        bands = "" if config.features.mel_scale == "none" else str(config.features.mels)
        asked[config.machine] = {
            "network": config.model.network, "nMels": bands, "nFrames": config.windows.frames,
            "nffts": config.features.n_fft, "feature": "logmel" if bands else "STFT",
        }  # fmt: skip
    for row in said:
        value = PRINTED.get(row["value"], row["value"])
        assert str(asked[row["machine_type"]][row["setting"]]) == value
    assert len(said) == 5 * len(asked) == 35
