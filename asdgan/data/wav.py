"""Wav files, read strictly: a clip comes back whole, or one sentence says why not.

The audio library reads a cut file as a shorter good one, waits for ever on a pipe, and passes
NaN, stereo and foreign codecs on. So the header is walked here first, and what the library then
finds has to agree with it.
"""

import functools
import math
import os
import pwd
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
import soundfile

from asdgan.errors import BadInput

LONGEST = 3600  # seconds; a longer clip is a mistake, and would fill the memory
HIGHEST_RATE = 768_000  # Hz; beyond any recorder
MOST_CHUNKS = 1000  # a real wav has a handful; a crafted one could have millions
LOUDEST = 100.0  # full scales: 40 dB beyond it is no recording, but numbers in another unit
STRICTNESS = 1  # raised when a file that was accepted is refused, or the other way round
# Rates without a common divisor, as 15999 and 16000, make a resampling filter of gigabytes.
LARGEST_RATIO = 1_000_000

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
WIDTHS = {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}  # bits per sample
CODECS = {
    2: "Microsoft ADPCM",
    6: "A-law",
    7: "mu-law",
    0x11: "IMA ADPCM",
    0x31: "GSM 6.10",
    0x50: "MPEG",
    0x55: "MP3",
}
STREAMED = 0xFFFFFFFF  # data size left by a writer that could not go back
# Chunks that recorders and editors are known to write; another one is noted, and passed over.
KNOWN_CHUNKS = frozenset(
    b"fmt |data|LIST|fact|cue |plst|smpl|inst|bext|iXML|axml|chna|qlty|mext|levl|link|PEAK|JUNK|"
    b"junk|PAD |FLLR|filr|elm1|id3 |ID3 |DISP|acid|afsp|cart|umid|minf|regn|_PMX|aXML".split(b"|")
)
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # a sub-format is a codec and this

AGAIN = "download or unpack it again"
CONVERT = "convert it to a 16-bit PCM wav file"
FOREIGN = (
    (b"RIFX", "RIFX (a big-endian wav)", CONVERT),
    (b"RF64", "RF64 (a wav for more than 4 GB)", CONVERT),
    (b"BW64", "BW64 (a wav for more than 4 GB)", CONVERT),
    (b"riff", "riff (a Wave64 file)", CONVERT),
    (b"FORM", "FORM (an AIFF file)", CONVERT),
    (b"fLaC", "fLaC (a FLAC file)", CONVERT),
    (b"OggS", "OggS (an OGG file)", CONVERT),
    (b"ID3", "ID3 (an MP3 file)", CONVERT),
    (b"\xff\xfb", "an MP3 frame", CONVERT),
    (b"\xff\xf3", "an MP3 frame", CONVERT),
    (b"PK", "PK (a zip archive)", "unpack it"),
    (b"\x1f\x8b", "1F 8B (a gzip archive)", "unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the content with git lfs pull"),
)


@dataclass(frozen=True, slots=True)
class Format:
    """What the header of an accepted wav says.

    Attributes:
        codec: `PCM` or `FLOAT`.
        bits: Per sample.
        channels: At least 1.
        rate: In Hz.
        samples: Of each channel, at least 1.
        notes: What is accepted in it, and odd.
    """

    codec: int
    bits: int
    channels: int
    rate: int
    samples: int
    notes: tuple[str, ...]


def read_wav(
    path: Path, *, sample_rate: int, resample: bool, channel: int | None = None
) -> np.ndarray:
    """The samples of one mono wav file, or of one channel of another.

    Args:
        path: PCM of 8, 16, 24 or 32 bits, or float of 32 or 64; at most one hour.
        sample_rate: Of what comes back, in Hz.
        resample: Whether a file of another rate is converted or refused.
        channel: The one to read, from 1; None: the file must have one only.

    Returns:
        Shape (samples,), float32, full scale ±1, finite; as long as `wav_length` says.

    Raises:
        BadInput: The file is missing, cut, not such a wav, or holds NaN, an infinity, or numbers
            beyond `LOUDEST`.
    """
    with _opened(path) as file:
        header = _header(path, file, sample_rate, resample, channel)
        samples = _decoded(path, file, header, (channel or 1) - 1)
    if header.rate == sample_rate:
        return samples
    return _resampled(samples, header.rate, sample_rate)


def wav_length(path: Path, *, sample_rate: int, resample: bool, channel: int | None = None) -> int:
    """How many samples `read_wav` will give, from the header alone.

    Args:
        path: A wav file as for `read_wav`.
        sample_rate: In Hz.
        resample: Whether a file of another rate is converted or refused.
        channel: As for `read_wav`.

    Raises:
        BadInput: As `read_wav`, except that the samples themselves are not looked at.
    """
    with _opened(path) as file:
        header = _header(path, file, sample_rate, resample, channel)
    return _length_at(header.samples, header.rate, sample_rate)


def checked_length(
    path: Path, *, sample_rate: int, resample: bool, channel: int | None = None
) -> int:
    """As `wav_length`, after a look at every sample: what this accepts, `read_wav` reads.

    Args:
        path: A wav file as for `read_wav`.
        sample_rate: In Hz.
        resample: Whether a file of another rate is converted or refused.
        channel: As for `read_wav`.

    Raises:
        BadInput: As `read_wav`; where the system refused the file, not its content, that error
            is its cause.
    """
    with _opened(path) as file:
        header = _header(path, file, sample_rate, resample, channel)
        _decoded(path, file, header, (channel or 1) - 1)
    return _length_at(header.samples, header.rate, sample_rate)


def wav_format(path: Path, *, channel: int | None = None) -> Format:
    """What the header of a wav file says.

    Args:
        path: A wav file as for `read_wav`.
        channel: As for `read_wav`.

    Raises:
        BadInput: As `wav_length`.
    """
    with _opened(path) as file:
        return _header(path, file, None, True, channel)


def require_file(path: Path) -> None:
    """Refuses what cannot be opened as a wav file without waiting or effects.

    Raises:
        BadInput: It is missing, or a folder, a pipe, a socket or a device.
    """
    try:
        _require_regular(path)
    except OSError as error:
        raise BadInput(unreadable(path, error)) from error


def unreadable(path: Path, error: OSError) -> str:
    """What to say of a file that the system does not give."""
    if isinstance(error, FileNotFoundError):
        what = f"is a link to {os.readlink(path)}, where nothing is" if path.is_symlink() else ""
        return f"{path}: {what or 'no such file'}; check the path, or {AGAIN}"
    why = error.strerror
    if isinstance(error, PermissionError):
        try:
            found = path.stat()
        except OSError:  # a folder on the way to it is closed
            pass
        else:
            why = f"{why}, mode {stat.S_IMODE(found.st_mode):03o}, owner {_name(found.st_uid)}"
    return f"{path}: cannot be read ({why}); check it and its rights"


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


@functools.cache
def import_torchaudio() -> ModuleType:
    """Torchaudio, usable also where its compiled part does not fit this torch.

    The published wheel is linked against CUDA, so that importing it beside a CPU-only torch
    fails. Nothing of that part is needed for spectrograms and resampling, which are Python.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import torchaudio
    except (OSError, RuntimeError):  # a library is missing, or built for another CUDA
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stub = ModuleType("torchaudio._extension")
        stub.__dict__.update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False,
            _IS_ALIGN_AVAILABLE=False,
            _check_cuda_version=lambda: None,
            fail_if_no_align=lambda function: function,
        )
        sys.modules[stub.__name__] = stub
        import torchaudio
    return torchaudio


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, opened only when that cannot wait or have effects: never a pipe or a device."""
    try:
        _require_regular(path)
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise BadInput(unreadable(path, error)) from error


def _require_regular(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise BadInput(f"{path}: is a folder, but a wav file is expected; name a file in it")
    if not stat.S_ISREG(mode):
        what = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise BadInput(f"{path}: is a {what}, but a wav file is expected; save one first")


def _header(
    path: Path, file: BinaryIO, sample_rate: int | None, resample: bool, channel: int | None
) -> Format:
    """What the header promises, after everything that it alone can show has been checked."""
    size = os.fstat(file.fileno()).st_size  # bytes
    _require_riff(path, file.read(64), size)
    fmt, data, notes = _chunks(path, file, size)
    codec, bits, channels, rate = _format(path, fmt, channel)
    samples, rest = divmod(data, bits // 8 * channels)
    if rest:
        each = f" of {channels} channels" if channels > 1 else ""
        raise BadInput(
            f"{path}: {data} bytes of audio are no whole number of {bits}-bit samples{each}; "
            f"{AGAIN}"
        )
    if samples == 0:
        raise BadInput(f"{path}: 0 samples, but a recording is expected; export it again")
    if samples > LONGEST * rate:
        raise BadInput(
            f"{path}: {samples / rate:.0f} s long, but at most {LONGEST} s are read; cut it"
        )
    found = Format(codec, bits, channels, rate, samples, notes)
    if sample_rate is None:
        return found
    if rate != sample_rate and not resample:
        raise BadInput(
            f"{path}: sample rate {rate} Hz, but {sample_rate} Hz is expected; convert the file, "
            f"or set features.resample=true, or features.sample_rate={rate} for all clips"
        )
    old, new = _ratio(rate, sample_rate)
    if old * new > LARGEST_RATIO:
        raise BadInput(
            f"{path}: sample rate {rate} Hz, which has too little in common with {sample_rate} Hz "
            f"to be resampled here (ratio {old}:{new}); convert the file"
        )
    return found


def _require_riff(path: Path, start: bytes, size: int) -> None:
    """Refuses what is not a RIFF wav, by its first bytes."""
    if size == 0:
        raise BadInput(f"{path}: is empty (0 bytes), but a wav file is expected; {AGAIN}")
    if start[:4] == b"RIFF":
        if size < 12:
            raise BadInput(f"{path}: ends inside its header ({size} bytes in all); {AGAIN}")
        if start[8:12] == b"WAVE":
            return
        what, cure = f"RIFF, but as {_shown(start[8:12])} instead of WAVE", CONVERT
    elif not any(start):
        what, cure = f"zero bytes ({size} bytes in all, an unfinished copy)", AGAIN
    elif start.lstrip(b"\xef\xbb\xbf\r\n\t ")[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        what, cure = "a tag (a saved web page)", AGAIN
    else:
        known = [(text, cure) for magic, text, cure in FOREIGN if start.startswith(magic)]
        what, cure = known[0] if known else (_shown(start[:12]), CONVERT)
    raise BadInput(f"{path}: begins with {what}, but a RIFF wav file is expected; {cure}")


def _shown(raw: bytes) -> str:
    return repr(raw)[1:]


def _chunks(path: Path, file: BinaryIO, size: int) -> tuple[bytes, int, tuple[str, ...]]:
    """The format chunk's content, the length of the audio in bytes, and what is odd in them.

    Whatever follows the audio has to be chunks to the file's very end: bytes that are not are
    either audio that the header keeps quiet about, or rubbish.
    """
    fmt, data, end, notes = b"", -1, 0, {}
    position = 12
    for _ in range(MOST_CHUNKS):
        if position >= size:
            break
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        start = position + 8
        if name == b"data" and length == STREAMED:
            length = size - start
            notes["no length for its audio (a streamed wav); read to the file's end"] = None
        if data >= 0 and (start + length > size or not _is_name(name)):
            raise BadInput(
                f"{path}: the header declares {data} bytes of audio, but {size - end} more follow "
                f"that are no wav chunk; {AGAIN}"
            )
        if (name == b"data" and data >= 0) or (name == b"fmt " and fmt):
            raise BadInput(f"{path}: impossible header: two {_shown(name)} chunks; {CONVERT}")
        if name == b"data":
            if not fmt:
                raise BadInput(f"{path}: impossible header: no 'fmt ' before the audio; {CONVERT}")
            if start + length > size:
                raise BadInput(
                    f"{path}: cut off: the header promises {length} bytes of audio, the file has "
                    f"{size - start} ({(size - start) / length:.0%}); {AGAIN}"
                )
            data, end = length, start + length
        elif start + length > size:
            raise BadInput(f"{path}: ends inside its header ({size} bytes in all); {AGAIN}")
        elif name == b"fmt ":
            fmt = file.read(min(length, 40)) or b"\0"
        elif name not in KNOWN_CHUNKS:
            notes[f"a chunk {_shown(name)} of unknown use, passed over"] = None
        position = start + length + length % 2  # an odd chunk is followed by a byte of padding
    else:
        raise BadInput(f"{path}: impossible header: over {MOST_CHUNKS} chunks; {CONVERT}")
    if data < 0:
        raise BadInput(f"{path}: ends inside its header ({size} bytes in all); {AGAIN}")
    return fmt, data, tuple(notes)


def _is_name(raw: bytes) -> bool:
    return all(32 <= byte < 127 for byte in raw)


def _format(path: Path, fmt: bytes, channel: int | None) -> tuple[int, int, int, int]:
    """Codec (`PCM` or `FLOAT`), bits a sample, channels and rate in Hz of a format chunk."""
    if len(fmt) < 16:
        raise BadInput(f"{path}: impossible header: 'fmt ' of {len(fmt)} bytes, not 16; {CONVERT}")
    codec, channels, rate, byte_rate, align, bits = struct.unpack("<HHIIHH", fmt[:16])
    if codec == EXTENSIBLE and len(fmt) == 40 and fmt[26:] == GUID_TAIL:
        codec = int.from_bytes(fmt[24:26], "little")
    if codec not in WIDTHS:
        name = CODECS.get(codec, f"unknown codec 0x{codec:04X}")
        raise BadInput(f"{path}: compressed as {name}, but PCM or float is expected; {CONVERT}")
    if channels == 0 or not 1 <= rate <= HIGHEST_RATE:
        raise BadInput(f"{path}: impossible header: {channels} channels at {rate} Hz; {CONVERT}")
    if channel is None and channels != 1:
        raise BadInput(f"{path}: {channels} channels, but 1 is expected; save one of them as mono")
    if channel is not None and channel > channels:
        raise BadInput(f"{path}: channel {channel} is asked for, of {channels}; name another")
    if bits not in WIDTHS[codec] or align != bits // 8 * channels or byte_rate != rate * align:
        raise BadInput(
            f"{path}: impossible header: {bits} bits, block align {align} and byte rate "
            f"{byte_rate} disagree at {rate} Hz; {CONVERT}"
        )
    return codec, bits, channels, rate


def _decoded(path: Path, file: BinaryIO, header: Format, column: int) -> np.ndarray:
    """The samples at the file's own rate, shape (samples,), float32, finite."""
    whole = (header.codec, header.bits) == (PCM, 16)
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # the library begins where the descriptor stands
    try:
        with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            found = sound.frames
            samples = sound.read(
                header.samples, dtype="int16" if whole else "float32", always_2d=True
            )
    except soundfile.SoundFileError as error:
        raise BadInput(f"{path}: cannot be decoded ({error}); {CONVERT}") from None
    if found != header.samples or samples.shape != (header.samples, header.channels):
        raise BadInput(
            f"{path}: {found} samples decoded, {header.samples} declared by the header; {CONVERT}"
        )
    samples = np.ascontiguousarray(samples[:, column])
    if whole:
        return samples * np.float32(1 / 32768)  # a power of two: exact, and as fast as it gets
    wrong = np.flatnonzero(~np.isfinite(samples))
    if wrong.size:
        raise BadInput(
            f"{path}: NaN or infinite at sample {wrong[0]} ({samples[wrong[0]]}), {wrong.size} "
            "such samples in all, but numbers are expected; export it again"
        )
    loud = np.flatnonzero(np.abs(samples) > LOUDEST)
    if loud.size:
        raise BadInput(
            f"{path}: sample {loud[0]} is {samples[loud[0]]:g}, {loud.size} beyond ±{LOUDEST:g} "
            "in all, but full scale is ±1; scale the recording to that"
        )
    return samples


def _ratio(rate: int, sample_rate: int) -> tuple[int, int]:
    divisor = math.gcd(rate, sample_rate)
    return rate // divisor, sample_rate // divisor


def _length_at(samples: int, rate: int, sample_rate: int) -> int:
    return -(-samples * sample_rate // rate)


def _resampled(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """The samples at another rate, by a windowed sinc; shape (samples,), float32."""
    import torch

    # torchaudio rounds the new length in float32, sometimes down: so it gets zeros to spare at
    # the end, where its filter sees zeros anyway, and the exact length is cut out.
    spare = np.zeros(8 * _ratio(rate, sample_rate)[0], np.float32)
    longer = torch.from_numpy(np.concatenate([samples, spare]))
    length = _length_at(len(samples), rate, sample_rate)
    return _resampler(rate, sample_rate)(longer).numpy()[:length]


@functools.lru_cache(maxsize=4)
def _resampler(rate: int, sample_rate: int):  # noqa: ANN202 - torchaudio's class, imported late
    return import_torchaudio().transforms.Resample(rate, sample_rate)
