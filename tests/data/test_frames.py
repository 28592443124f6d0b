"""Log-mel against published numbers and librosa; a store that never gives what was not written."""

import hashlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from math import log10
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from asdgan._system import parallel
from asdgan.data import frames as features
from asdgan.data.clips import Clip
from asdgan.data.frames import AT_ONCE, Frames, LogMel, log_mel, stored_frames
from asdgan.data.wav import read_wav
from asdgan.errors import BadInput

YAML = Path(__file__).parents[2] / "conf" / "features" / "logmel.yaml"
PUBLISHED = LogMel(**yaml.safe_load(YAML.read_text()))
SMALL = replace(PUBLISHED, n_fft=256, hop=128, mels=16)
LENGTHS = [*[2000] * 9, 1000, 2000, 256]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape)


def write_clips(root: Path, lengths: Sequence[int] = LENGTHS, rate: int = 16000) -> list[Clip]:
    clips = []
    for number, length in enumerate(lengths):
        name = f"fan/train/normal_id_00_{number:08d}.wav"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(length, seed=number), rate, subtype="PCM_16")
        clips.append(
            Clip(path, name, "dcase2020", "fan", "00", None, (), "dev", "train", "normal")
        )
    return clips


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return write_clips(tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(features, "PIECE", 20)  # of these clips two, so that threads share them
    return tmp_path / "store"


def frames(clips: Sequence[Clip], store: Path, settings: LogMel = SMALL, **more) -> Frames:
    chosen = {"data": "d", "threads": 2, "on_clip": None, **more}
    return stored_frames(clips, settings, store=store, **chosen)


def expected(clip: Clip, settings: LogMel = SMALL) -> torch.Tensor:
    samples = read_wav(clip.path, sample_rate=settings.sample_rate, resample=settings.resample)
    return log_mel(torch.from_numpy(samples)[None], settings)[0].T


def test_log_mel_agrees_with_the_published_array(shared, tmp_path):
    golden = shared / "golden" / "ToyCar_normal_id_01_00000000_logmel_50_250_float32_200x128.bin"
    dev_data = shared / "data" / "dcase2020_clips" / "dev_data"
    flac = next(dev_data.glob("ToyCar/*/normal_id_01_00000000.flac"), None)
    if flac is None or not golden.exists():
        pytest.skip(f"no published array, or not its clip, under {shared}")
    samples, rate = soundfile.read(flac, dtype="int16")
    soundfile.write(tmp_path / "clip.wav", samples, rate, subtype="PCM_16")
    read = torch.from_numpy(read_wav(tmp_path / "clip.wav", sample_rate=16000, resample=False))
    published = np.fromfile(golden, "<f4").reshape(200, 128)
    for values, most in ((read, 2e-4), (read.double(), 5e-6)):  # dB
        found = log_mel(values[None], PUBLISHED)[0].T[50:250].numpy()
        assert np.abs(found - published).max() < most


def test_a_trainings_precision_does_not_reach_the_features():
    sounds = 0.1 * torch.randn(8, 160_000, generator=torch.Generator().manual_seed(0))
    settings = PUBLISHED
    wanted = log_mel(sounds, settings)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(log_mel(sounds, settings), wanted)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("mel_norm", ["slaney", "none"])
@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_log_mel_agrees_with_librosa(pad_mode, mel_norm, mel_scale, power):
    librosa = pytest.importorskip("librosa")
    # More frames than are in work at once; at whole hops librosa rounds the last to float32.
    samples = noise(512 * (AT_ONCE + 3) + 100)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=16000, n_fft=1024, hop_length=512, n_mels=128, power=power, dtype=np.float64,
        pad_mode=pad_mode, htk=mel_scale == "htk", norm=None if mel_norm == "none" else mel_norm,
    )  # fmt: skip
    some = replace(
        PUBLISHED, pad_mode=pad_mode, mel_norm=mel_norm, mel_scale=mel_scale, power=power
    )
    by_librosa = 20 / power * np.log10(mel + some.eps)
    found = log_mel(torch.from_numpy(samples)[None], some)[0].numpy()
    assert np.abs(found - by_librosa).max() < 1e-8
    single = log_mel(torch.from_numpy(samples).float()[None], some)[0].numpy()
    assert np.abs(single - by_librosa).max() < 2e-3


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_without_mel_bands_and_logarithm_frames_are_librosas_spectrum(power):
    librosa = pytest.importorskip("librosa")
    samples = noise(512 * (AT_ONCE + 3) + 100)
    spectrum = np.abs(librosa.stft(samples, n_fft=1024, hop_length=512, pad_mode="reflect"))
    some = replace(PUBLISHED, mel_scale="none", floor="none", mels=513, power=power)
    found = log_mel(torch.from_numpy(samples)[None], some)[0].numpy()
    np.testing.assert_allclose(found, spectrum**power, atol=1e-9)


def test_top_db_raises_what_is_too_far_below_the_loudest_of_its_own_clip():
    librosa = pytest.importorskip("librosa")
    samples = np.stack([noise(16000) * np.linspace(0, 1, 16000) ** 9, noise(16000) * 1e-3])
    plain = log_mel(torch.from_numpy(samples), PUBLISHED).numpy()
    found = log_mel(torch.from_numpy(samples), replace(PUBLISHED, top_db=60)).numpy()
    for clip in range(2):
        bounded = librosa.power_to_db(10 ** (plain[clip] / 10), amin=1e-30, top_db=60)
        np.testing.assert_allclose(found[clip], bounded, atol=1e-9)


@pytest.mark.parametrize(("samples", "count"), [(1024, 3), (160000, 313), (176000, 344)])
def test_there_are_samples_by_hop_plus_one_frames(samples, count):
    assert log_mel(torch.zeros(2, samples), PUBLISHED).shape == (2, 128, count)


@pytest.mark.parametrize("floor", ["add", "max"])
@pytest.mark.parametrize(("power", "eps"), [(2.0, 2.220446049250313e-16), (1.0, 1e-10)])
def test_silence_lies_on_the_floor(floor, power, eps):
    settings = replace(PUBLISHED, floor=floor, power=power, eps=eps)
    found = log_mel(torch.zeros(1, 2048, dtype=torch.float64), settings)
    assert torch.allclose(found, torch.tensor(20 / power * log10(eps), dtype=torch.float64))


def test_the_two_floors_differ_by_3_db_where_mel_equals_eps():
    samples = torch.from_numpy(noise(1, 2048))
    mel = 10 ** (log_mel(samples, PUBLISHED)[0, 40, 2].item() / 10)
    added, larger = (
        log_mel(samples, replace(PUBLISHED, floor=floor, eps=mel))[0, 40, 2].item()
        for floor in ("add", "max")
    )
    assert added - larger == pytest.approx(10 * log10(2))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_ten_times_the_amplitude_is_20_db_at_any_power(power):
    samples = torch.from_numpy(noise(1, 4000))
    settings = replace(PUBLISHED, power=power, eps=1e-30)
    louder = log_mel(10 * samples, settings) - log_mel(samples, settings)
    assert torch.allclose(louder, torch.full_like(louder, 20))


def test_a_clip_ignores_its_batch_mates():
    samples = torch.from_numpy(noise(5, 4000)).float()
    together = log_mel(samples, PUBLISHED)
    assert torch.equal(together[3], log_mel(samples[3:4], PUBLISHED)[0])


def test_a_clip_shorter_than_a_frame_is_refused():
    with pytest.raises(BadInput, match=r"100 samples \(0.006 s\), but at least n_fft=1024"):
        log_mel(torch.zeros(1, 100), PUBLISHED)


def test_the_config_names_exactly_the_settings():
    assert yaml.safe_load(YAML.read_text()) == asdict(PUBLISHED)


def test_two_and_two_point_nought_are_one_setting():
    assert repr(replace(PUBLISHED, power=2)) == repr(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("sample_rate", 0), ("sample_rate", 16000.0), ("n_fft", 0), ("hop", 0), ("hop", 1025)],
        *[("hop", True), ("mels", 0), ("mels", 514), ("power", 0), ("power", float("nan"))],
        *[("power", "2"), ("eps", 0.0), ("eps", 1e-50), ("eps", float("inf")), ("resample", 1)],
        *[("mel_scale", "mel"), ("mel_norm", None), ("pad_mode", "edge"), ("floor", "clip")],
        *[("top_db", 0), ("top_db", "80")],
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(BadInput, match=rf"out of range: {name}={value!r} \(.* expected\)"):
        replace(PUBLISHED, **{name: value})


def test_bins_of_a_spectrum_are_as_many_as_they_are():
    with pytest.raises(BadInput, match=r"mels=128 \(513, the bins .* mel_scale=none expected\)"):
        replace(PUBLISHED, mel_scale="none")


def test_all_settings_out_of_range_are_named_at_once():
    with pytest.raises(BadInput, match=r"power=-1 .*floor='no' .*hop=2048 .*mels=999"):
        replace(PUBLISHED, power=-1, floor="no", hop=2048, mels=999)


def test_stored_frames_are_each_clips_own_in_the_order_given(clips, store):
    found = frames(clips[::-1], store)
    assert found.starts.dtype == torch.int64
    assert found.starts.tolist() == [0, *np.cumsum([n // 128 + 1 for n in LENGTHS[::-1]])]
    for i, clip in enumerate(clips[::-1]):
        assert torch.equal(found.values[found.starts[i] : found.starts[i + 1]], expected(clip))


def test_what_is_stored_is_mapped_and_nothing_is_written(clips, store):
    first = frames(clips, store)
    (lock,) = store.glob("*.lock")
    lock.unlink()
    before = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    second = frames(clips, store, on_clip=pytest.fail)
    assert torch.equal(first.values, second.values)
    assert {path: path.stat().st_mtime_ns for path in store.iterdir()} == before


def test_the_store_is_three_files_named_by_type_split_and_key(clips, store):
    frames(clips, store)
    names = sorted(path.name for path in store.iterdir())
    key = names[0].removeprefix("fan-train-").removesuffix(".json")
    assert len(key) == 16
    assert names == [f"fan-train-{key}.{kind}" for kind in ("json", "lock", "npy")]


@pytest.mark.parametrize(("piece", "count"), [(1, len(LENGTHS)), (features.PIECE, 1)])
def test_progress_counts_every_clip_once(clips, store, monkeypatch, piece, count):
    monkeypatch.setattr(features, "PIECE", piece)
    counts: list[int] = []
    frames(clips, store, on_clip=counts.append)
    assert sum(counts) == len(LENGTHS)
    assert len(counts) == count


@pytest.mark.parametrize("piece", [1, 20, features.PIECE])
def test_pieces_of_any_size_are_one_file(clips, store, tmp_path, monkeypatch, piece):
    whole = frames(clips, tmp_path / "whole").values.clone()
    monkeypatch.setattr(features, "PIECE", piece)
    frames(clips, store)
    monkeypatch.undo()  # what is stored says itself how it is divided
    assert torch.equal(frames(clips, store, on_clip=pytest.fail).values, whole)
    stored, direct = (
        next(place.glob("*.npy")).read_bytes() for place in (store, tmp_path / "whole")
    )
    assert stored == direct


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_other_settings_are_another_file(clips, store, power):
    frames(clips, store)
    other = replace(SMALL, power=power)
    found = frames(clips, store, other)
    assert len(list(store.glob("*.npy"))) == 2
    assert torch.equal(found.values[: found.starts[1]], expected(clips[0], other))


def test_other_data_other_clips_or_another_order_are_other_files(clips, store):
    frames(clips, store)
    frames(clips, store, data="e")
    frames(clips[1:], store)
    frames(clips[::-1], store)
    assert len(list(store.glob("*.npy"))) == 4


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": ("npy", flip, "checksum"),
    "cut": ("npy", lambda p: p.write_bytes(p.read_bytes()[:-5]), "bytes found"),
    "header only": ("npy", lambda p: p.write_bytes(p.read_bytes()[:128]), "bytes found"),
    "empty": ("npy", lambda p: p.write_bytes(b""), "0 bytes found"),
    "zero-filled": ("npy", lambda p: p.write_bytes(bytes(p.stat().st_size)), "checksum"),
    "missing": ("npy", Path.unlink, "nothing found"),
    "record missing": ("json", Path.unlink, "is missing"),
    "record cut": ("json", lambda p: p.write_bytes(p.read_bytes()[:-9]), "was cut"),
    "record changed": ("json", flip, "json"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_store_is_reported_and_computed_again(clips, store, caplog, name):
    kind, damage, words = DAMAGE[name]
    whole = frames(clips, store).values.clone()
    (path,) = store.glob(f"*.{kind}")
    damage(path)
    with caplog.at_level(logging.WARNING, "asdgan"):
        again = frames(clips, store)
    assert torch.equal(again.values, whole)
    assert [words in line for line in caplog.messages] == [True]
    frames(clips, store, on_clip=pytest.fail)


def test_the_record_of_other_features_is_not_believed(clips, store, caplog):
    frames(clips, store)
    (record,) = store.glob("*.json")
    frames(clips, store, data="e")
    other = next(path for path in store.glob("*.json") if path != record)
    record.write_bytes(other.read_bytes())
    frames(clips, store)
    assert "is the record of other features" in caplog.text
    assert json.loads(record.read_text())["data"] == "d"


def test_frames_that_are_mapped_survive_their_file_being_replaced(clips, store):
    old = frames(clips, store)
    before = old.values.clone()
    (path,) = store.glob("*.npy")
    path.with_suffix(".json").unlink()
    frames(clips, store)
    assert torch.equal(old.values, before)


def test_writing_into_the_frames_does_not_reach_the_file(clips, store):
    frames(clips, store).values.zero_()
    assert torch.equal(frames(clips, store, on_clip=pytest.fail).values[:16], expected(clips[0]))


def asked(clips: Sequence[Clip], store: Path, start, answers) -> None:
    """A process that asks for the frames when all others do."""
    counts: list[int] = []
    start.wait()
    try:
        found = [frames(clips, store, threads=1, on_clip=counts.append) for _ in range(3)][-1]
        answers.put((sum(counts), hashlib.sha256(found.values.numpy()).hexdigest()))
    except BaseException as error:
        answers.put((sum(counts), repr(error)))


def eight_processes(clips: Sequence[Clip], store: Path) -> tuple[list[int], set[str]]:
    """Clips that each of them computed, and what they got."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["asdgan.data.frames"])  # torch is loaded once, not eight times
    start, answers = context.Barrier(8), context.Queue()
    processes = [
        context.Process(target=asked, args=(clips, store, start, answers)) for _ in range(8)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return sorted(count for count, _ in found), {said for _, said in found}


def test_eight_processes_at_once_are_one_computation(clips, store, tmp_path):
    alone = hashlib.sha256(frames(clips, tmp_path / "alone").values.numpy()).hexdigest()
    assert eight_processes(clips, store) == ([0] * 7 + [len(clips)], {alone})
    (path,) = store.glob("*.npy")
    flip(path)  # and a damaged file too is made again by one of them
    assert eight_processes(clips, store) == ([0] * 7 + [len(clips)], {alone})
    before = path.stat().st_ino
    assert eight_processes(clips, store) == ([0] * 8, {alone})
    assert path.stat().st_ino == before


def test_processes_compute_the_bits_that_threads_do(clips, store, monkeypatch):
    parallel.dismiss()
    monkeypatch.setattr(features, "MANY", 1)
    whole = torch.cat([expected(clip) for clip in clips])
    assert torch.equal(frames(clips, store).values, whole)
    monkeypatch.undo()
    assert parallel.ready(2)  # and so they compute a small set too
    assert torch.equal(frames(clips, store, data="e").values, whole)
    parallel.dismiss()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_how_many_threads_compute_changes_no_bit(clips, store, threads):
    found = frames(clips, store, threads=threads).values
    assert torch.equal(found, torch.cat([expected(clip) for clip in clips]))


def test_threads_of_a_fresh_process_load_what_they_need_once(clips, store):
    code = (
        "import sys, test_frames as t; from pathlib import Path;"
        "t.features.PIECE = 1; clips = t.write_clips(Path(sys.argv[1]));"
        "t.frames(clips, Path(sys.argv[2]), threads=4)"
    )
    command = [sys.executable, "-c", code, str(clips[0].path.parents[3]), str(store)]
    subprocess.run(
        command,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert len(frames(clips, store, on_clip=pytest.fail).starts) == len(clips) + 1


def test_threads_leave_torchs_own_settings_alone(clips, store):
    before = torch.get_num_threads()
    torch.set_float32_matmul_precision("medium")
    try:
        torch.set_num_threads(3)
        frames(clips, store)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(before)


def test_what_was_interrupted_leaves_only_the_lock_and_is_done_by_the_next(clips, store):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frames(clips, store, on_clip=interrupt)
    assert [path.suffix for path in store.iterdir()] == [".lock"]
    assert len(frames(clips, store).starts) == len(clips) + 1


def test_what_a_killed_process_left_is_swept_away(clips, store):
    frames(clips, store)
    (path,) = store.glob("*.npy")
    strays = [store / f".{path.name}.x1.part", store / f".{path.stem}.json.x2.part"]
    others = store / ".pump-train-0123456789abcdef.npy.x3.part"
    for stray in (*strays, others):
        stray.write_bytes(b"half")
    path.unlink()
    frames(clips, store)
    assert list(store.glob(".*.part")) == [others]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "NaN or infinite at sample 77"),
        (1e25, r"sample 77 is 1e\+25"),
        (99, "its features are not finite"),
    ],
)
def test_a_wav_with_impossible_samples_is_named(clips, store, value, words):
    samples = noise(2000)
    samples[77] = value
    soundfile.write(clips[5].path, samples, 16000, subtype="FLOAT")
    with pytest.raises(BadInput, match=f"normal_id_00_00000005.wav: {words}"):
        frames(clips, store, replace(SMALL, power=26.0))
    assert not list(store.glob("*.npy"))


def test_a_clip_shorter_than_a_frame_is_named(clips, store):
    soundfile.write(clips[5].path, noise(255), 16000)
    with pytest.raises(BadInput, match=r"id_00_00000005.wav: 255 samples .*n_fft=256 are needed"):
        frames(clips, store)


def test_no_clips_are_refused(store):
    with pytest.raises(BadInput, match="no clips to compute features of"):
        frames([], store)


def test_another_rate_is_resampled_only_when_asked(tmp_path, store):
    clips = write_clips(tmp_path / "data", [4410, 4411], rate=44100)
    with pytest.raises(BadInput, match=r"set features.resample=true"):
        frames(clips, store)
    found = frames(clips, store, replace(SMALL, resample=True))
    assert found.starts.tolist() == [0, 13, 26]
