"""Anomaly maps: of whole clips, of their right frequencies, and kept where they are looked for."""

import io

import numpy as np
import pytest
import torch
from recordings import TWO_MACHINES, plant, settings_of
from small_models import Recording, compose, detector_of, windows_of

from asdgan import run
from asdgan.config import compose as settings
from asdgan.data import frames as features
from asdgan.data.log_mel import LogMel
from asdgan.data.windows import Windows
from asdgan.deploy import score
from asdgan.results import ledger
from asdgan.training import maps

LOGMEL = LogMel(**settings.compose([]).features)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The result of a run that draws maps, and the folder of its recordings."""
    root = tmp_path_factory.mktemp("maps")
    config = settings_of("auddsr", plant(root / "pump", names=TWO_MACHINES))
    config.dataset = settings.compose(["dataset=dcase2020", f"dataset.root={root}"]).dataset
    (kept,) = run.run(config)
    return ledger.read(kept.path), root


@pytest.mark.parametrize(("scale", "rate"), [("slaney", 16000), ("htk", 16000), ("slaney", 44100)])
def test_the_frequency_of_a_band_is_where_its_filter_peaks(scale, rate):
    asked = {**settings.compose([]).features, "mel_scale": scale, "sample_rate": rate, "mels": 64}
    logmel = LogMel(**{**asked, "n_fft": 8192})
    _, blocks = features._window_and_bands(logmel, torch.device("cpu"), torch.float64)
    peaks = [low + band.argmax() for _, low, some in blocks for band in some.T]
    found = torch.stack(peaks).numpy() // 2 * rate / logmel.n_fft
    assert np.abs(maps.hertz(logmel) - found).max() <= rate / logmel.n_fft


def test_a_spectrums_bands_lie_evenly_up_to_half_the_rate():
    asked = settings.compose(["features=stft"]).features
    found = maps.hertz(LogMel(**asked))
    assert found[[0, -1]].tolist() == [0, 8000]
    assert np.allclose(np.diff(found), found[1])


def test_a_clips_map_is_the_mean_of_its_windows_and_unknown_between_them(monkeypatch):
    detector = detector_of(compose("auddsr"))
    monkeypatch.setattr(
        detector, "map_windows", lambda batch: batch.picks[:, None, None].expand(-1, 3, 2).float()
    )
    windows = windows_of(clips=2, frames=8, length=3)  # of 6 and 7 windows
    first, second = detector.map_clips(windows)
    assert first[:, 0].tolist() == [0, 0.5, 1, 2, 3, 4, 4.5, 5]
    assert second.shape == (9, 2)
    frames = features.Frames(torch.zeros(12, 16), torch.tensor([0, 12]))
    (apart,) = detector.map_clips(Windows(frames, [Recording(0)], length=3, stride=4))
    assert apart[:, 0].isnan().tolist() == [*([False] * 3 + [True]) * 2, *[False] * 3]


def test_packed_maps_come_back_to_a_255th():
    drawn = [torch.rand(5, 128), torch.rand(7, 128)]
    drawn[0][2] = torch.nan
    with np.load(io.BytesIO(maps.packed(drawn, ["a.wav", "b.wav"], LOGMEL))) as file:
        found = dict(file)
    assert found["starts"].tolist() == [0, 5, 12]
    assert found["clip"].tolist() == ["a.wav", "b.wav"]
    assert float(found["seconds"]) == pytest.approx(0.032)
    assert np.abs(found["map"][5:] / 255 - drawn[1].numpy()).max() < 0.5 / 254
    assert found["map"][2].max() == 0


def test_a_run_keeps_the_maps_of_its_test_clips_and_their_means_are_the_scores(finished):
    result, _ = finished
    kept, scores = ledger.read_maps(result), ledger.read_scores(result)
    assert kept["clip"].tolist() == scores["clip"].tolist()
    each = np.split(kept["map"] / 255, kept["starts"][1:-1])
    assert [one.shape[1] for one in each] == [len(kept["hertz"])] * len(each)
    assert all(0 < one.mean() < 1 for one in each)
    strange = np.array([one.mean() for one in each])
    assert strange == pytest.approx(scores["score/map_mean"][0], abs=0.05)


def test_new_clips_get_the_maps_that_the_run_kept(finished, tmp_path):
    result, root = finished
    kept = ledger.read_maps(result)
    clip = str(kept["clip"][0])
    asked = [str(result.path), str(root / clip), "--maps", str(tmp_path / "m"), "--threshold"]
    assert score.main([*asked, "none"]) == 0
    with np.load((tmp_path / "m" / clip.rpartition("/")[2]).with_suffix(".npz")) as found:
        ours = kept["map"][: kept["starts"][1]].astype(int)
        assert np.abs(found["map"].astype(int) - ours).max() <= 1


def test_a_detector_without_maps_says_so(tmp_path, capsys):
    root = plant(tmp_path / "pump")
    (kept,) = run.run(settings_of("dcase_ae", root))
    assert ledger.read_maps(ledger.read(kept.path)) == {}
    assert score.main([str(kept.path), str(root), "--maps", str(tmp_path / "m")]) == 2
    assert "dcase_ae scores a clip without a map of it; take auddsr" in capsys.readouterr().err


def test_two_clips_of_one_name_are_no_two_maps(finished, tmp_path, capsys):
    result, root = finished
    wavs = [str(root / str(ledger.read_maps(result)["clip"][0]))] * 2
    assert score.main([str(result.path), *wavs, "--maps", str(tmp_path)]) == 2
    assert "several of the clips are called" in capsys.readouterr().err
