"""Every broken wav gets its sentence; what is accepted is whole, finite and at the right rate.

The files of the reliability study stand in test_bad_clips.py with their whole sentences.
"""

import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from wav_bytes import DATA, PCM, RATE, SAMPLES, WAV, chunk, extensible, floats, fmt, noise, riff

from asdgan.data.wav import import_torchaudio, read_wav, wav_length
from asdgan.errors import BadInput

BAD = {
    "web page in capitals": (b"<HTML><HEAD>", "a saved web page"),
    "gzip": (b"\x1f\x8b\x08" + PCM, "a gzip archive"),
    "mp3 frame": (b"\xff\xfb\x90" + PCM, "an MP3 frame"),
    "aiff": (b"FORM" + PCM, "an AIFF file"),
    "rubbish": (b"hello, world, hello", r"begins with 'hello, world'"),
    "control characters": (b"\x1b[31m" + PCM, r"begins with '\\x1b\[31m"),
    "avi": (riff(fmt(), DATA, form=b"AVI "), "begins with RIFF, but as 'AVI ' instead of WAVE"),
    "cut in the magic": (WAV[:8], r"ends inside its header \(8 bytes in all\)"),
    "cut before data": (WAV[:36], r"ends inside its header \(36 bytes in all\)"),
    "data size zero": (riff(fmt(), chunk(b"data", PCM, 0)), "0 bytes of audio, but 640"),
    "cut in a later chunk": (WAV + chunk(b"LIST", b"abcd", 64), "12 more follow that are no"),
    "over an hour": (riff(fmt(rate=1, byte_rate=2), chunk(b"data", bytes(7202))), "3601 s long"),
    "byte rate": (riff(fmt(byte_rate=32001), DATA), "byte rate 32001 disagree at 16000 Hz"),
    "short fmt": (riff(chunk(b"fmt ", bytes(14)), DATA), "'fmt ' of 14 bytes, not 16"),
    "no fmt": (riff(DATA), "impossible header: no 'fmt ' before the audio"),
    "fmt after data": (riff(DATA, fmt()), "impossible header: no 'fmt ' before the audio"),
    "two fmt": (riff(fmt(), fmt(), DATA), "impossible header: two 'fmt ' chunks"),
    "two data": (riff(fmt(), DATA, DATA), "impossible header: two 'data' chunks"),
    "chunk bomb": (riff(*[chunk(b"JUNK", b"")] * 1001, fmt(), DATA), "over 1000 chunks"),
    "unknown codec": (riff(fmt(codec=0x1234), DATA), "unknown codec 0x1234"),
    "extensible a-law": (riff(extensible(6, 8), DATA), "compressed as A-law"),
    "extensible, no guid": (riff(fmt(codec=0xFFFE), DATA), "unknown codec 0xFFFE"),
}
GOOD = {
    "plain": (WAV, SAMPLES),
    "streamed": (riff(fmt(), chunk(b"data", PCM, 2**32 - 1)), SAMPLES),
    "LIST before": (riff(chunk(b"LIST", b"INFO?"), fmt(), DATA), SAMPLES),
    "bext after": (riff(fmt(), DATA, chunk(b"bext", bytes(7)), chunk(b"LIST", b"")), SAMPLES),
    "fmt of 18 bytes": (riff(fmt(tail=b"\0\0"), DATA), SAMPLES),
    "8 bits": (riff(fmt(bits=8), chunk(b"data", PCM[:321])), 321),
    "8 bits unpadded": (riff(fmt(bits=8), b"data" + struct.pack("<I", 321) + PCM[:321]), 321),
    "24 bits": (riff(fmt(bits=24), chunk(b"data", PCM[:630])), 210),
    "32 bits": (riff(fmt(bits=32), DATA), 160),
    "float": (floats(*np.linspace(-1, 1, 99)), 99),
    "double": (riff(fmt(codec=3, bits=64), chunk(b"data", np.linspace(0, 1, 50).tobytes())), 50),
    "extensible": (riff(extensible(1, 16), DATA), SAMPLES),
    "extensible 24": (riff(extensible(1, 24), chunk(b"data", PCM[:630])), 210),
    "extensible float": (riff(extensible(3, 32), chunk(b"data", bytes(400))), 100),
}


@pytest.fixture
def wav(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "clip.wav"
        path.write_bytes(content)
        return path

    return write


def read(path: Path, *, resample: bool = False) -> np.ndarray:
    return read_wav(path, sample_rate=RATE, resample=resample)


def length(path: Path, *, resample: bool = False) -> int:
    return wav_length(path, sample_rate=RATE, resample=resample)


@pytest.mark.parametrize("name", BAD)
def test_a_broken_wav_gets_one_sentence_that_begins_with_its_path(wav, name):
    content, sentence = BAD[name]
    path = wav(content)
    with pytest.raises(BadInput, match=sentence) as refusal:
        read(path)
    text = str(refusal.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert text.isprintable()
    assert str(pickle.loads(pickle.dumps(refusal.value))) == text


@pytest.mark.parametrize("name", BAD)
def test_the_header_alone_is_refused_with_the_same_sentence(wav, name):
    content, sentence = BAD[name]
    path = wav(content)
    with pytest.raises(BadInput, match=sentence):
        length(path)


@pytest.mark.parametrize("name", GOOD)
def test_an_accepted_wav_is_finite_float32_and_as_long_as_its_header_says(wav, name):
    content, samples = GOOD[name]
    path = wav(content)
    found = read(path)
    assert found.shape == (samples,) == (length(path),)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_sixteen_bits_are_divided_by_32768_exactly(wav):
    extremes = np.array([-32768, -1, 0, 1, 32767], "<i2")
    found = read(wav(riff(fmt(), chunk(b"data", extremes.tobytes()))))
    assert found.tolist() == (extremes / 32768).tolist()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("format", ["WAV", "WAVEX"])
def test_every_width_agrees_with_soundfile(tmp_path, subtype, format):
    path = tmp_path / "clip.wav"
    soundfile.write(path, noise() / 32768, RATE, subtype=subtype, format=format)
    assert np.array_equal(read(path), soundfile.read(path, dtype="float32")[0])


def test_a_link_to_a_wav_is_read(tmp_path, wav):
    (tmp_path / "link.wav").symlink_to(wav(WAV))
    assert len(read(tmp_path / "link.wav")) == SAMPLES


def test_a_path_through_a_file_is_refused(wav):
    with pytest.raises(BadInput, match=r"cannot be read \(Not a directory\)"):
        read(wav(WAV) / "clip.wav")


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("samples", [1, 441, 44101, 60001])
def test_a_resampled_wav_is_as_long_as_was_said(wav, rate, samples):
    path = wav(riff(fmt(rate=rate), chunk(b"data", noise(samples).tobytes())))
    assert (
        len(read(path, resample=True)) == length(path, resample=True) == -(-samples * RATE // rate)
    )


def test_resampling_keeps_a_tone(wav):
    tone = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
    path = wav(riff(fmt(rate=48000), chunk(b"data", (tone * 20000).astype("<i2").tobytes())))
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000) * 20000 / 32768
    assert np.abs(read(path, resample=True) - expected)[100:-100].max() < 1e-3


def test_resampling_leaves_a_wav_of_the_right_rate_alone(wav):
    path = wav(WAV)
    assert np.array_equal(read(path, resample=True), read(path))


def test_a_rate_that_would_need_a_huge_filter_is_refused(wav):
    path = wav(riff(fmt(rate=15999), DATA))
    with pytest.raises(BadInput, match=r"too little in common with 16000 Hz .*15999:16000"):
        length(path, resample=True)


def test_no_mutated_header_brings_anything_but_a_refusal(wav):
    rng = np.random.default_rng(7)
    words = [b"data", b"fmt ", b"LIST", b"\xff\xff\xff\xff", b"\xfe\xff", b"\0\0\0\0", b"\1\0\0\0"]
    accepted = 0
    for _ in range(3000):
        content = bytearray((WAV, GOOD["extensible"][0], GOOD["LIST before"][0])[rng.integers(3)])
        for _ in range(rng.integers(1, 4)):
            at, word = int(rng.integers(84)), rng.bytes(int(rng.integers(1, 5)))
            content[at : at + len(word)] = words[rng.integers(7)] if rng.random() < 0.3 else word
        path = wav(bytes(content[: rng.integers(len(content))] if rng.random() < 0.1 else content))
        try:
            found = read(path)
        except BadInput:
            continue
        accepted += 1
        assert len(found) == length(path) > 0
        assert np.isfinite(found).all()
    assert 100 < accepted < 2900


def test_torchaudio_comes_here_and_only_once():
    assert import_torchaudio().transforms.MelSpectrogram
    assert sys.modules["torchaudio"] is import_torchaudio()


@pytest.mark.parametrize("error", [None, "OSError('libcudart.so')", "RuntimeError('CUDA 13.2')"])
def test_torchaudio_comes_with_and_without_its_compiled_part(tmp_path, error):
    extension = f"raise {error}" if error else "fail_if_no_align = 1"
    for name, text in {
        "__init__": "from . import inner, _extension, functional",
        "inner": "",
        "_extension": extension,
        "functional": "from torchaudio._extension import fail_if_no_align as answer",
    }.items():
        (tmp_path / "torchaudio").mkdir(exist_ok=True)
        (tmp_path / "torchaudio" / f"{name}.py").write_text(text)
    code = "from asdgan.data.wav import *; print(type(import_torchaudio().functional.answer))"
    assert python(code, str(tmp_path)) == f"<class '{'function' if error else 'int'}'>\n"


def test_reading_a_wav_does_not_load_torch():
    assert (
        python("import sys; from asdgan.data import wav; print('torch' in sys.modules)")
        == "False\n"
    )


def python(code: str, *folders: str) -> str:
    paths = os.pathsep.join([*folders, *sys.path])
    call = [sys.executable, "-W", "error", "-c", code]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(call, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_channel_of_several_is_the_one_that_was_asked_for(tmp_path, subtype):
    eight = np.stack([noise(seed=seed) for seed in range(8)], axis=1) / 32768
    soundfile.write(tmp_path / "a.wav", eight, RATE, subtype=subtype)
    for channel in (1, 8):
        samples = read_wav(tmp_path / "a.wav", sample_rate=RATE, resample=False, channel=channel)
        assert np.array_equal(samples, eight[:, channel - 1].astype(np.float32))
    rest = {"sample_rate": RATE, "resample": False}
    assert wav_length(tmp_path / "a.wav", channel=2, **rest) == SAMPLES
    with pytest.raises(BadInput, match="channel 9 is asked for, of 8"):
        read_wav(tmp_path / "a.wav", channel=9, **rest)
    with pytest.raises(BadInput, match="8 channels, but 1 is expected"):
        read_wav(tmp_path / "a.wav", **rest)


def test_half_a_sample_of_the_last_channel_is_refused(wav):
    path = wav(riff(fmt(channels=8), chunk(b"data", PCM + b"\0\0")))
    with pytest.raises(BadInput, match="no whole number of 16-bit samples of 8 channels"):
        read_wav(path, sample_rate=RATE, resample=False, channel=1)
