"""The 35 ways a wav goes wrong that the reliability study lists, each with its whole sentence."""

import os
import socket
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import yaml
from wav_bytes import DATA, PCM, RATE, SAMPLES, WAV, chunk, floats, fmt, noise, of, riff

from asdgan._system.files import write_json
from asdgan.data import audit, clips
from asdgan.data.fetch import archives
from asdgan.data.frames import LogMel, stored_frames
from asdgan.data.wav import read_wav

YAML = Path(__file__).parents[1] / "conf" / "features" / "logmel.yaml"
LOGMEL = LogMel(**yaml.safe_load(YAML.read_text()))
AGAIN = "download or unpack it again"
CONVERT = "convert it to a 16-bit PCM wav file"
RIFF = "but a RIFF wav file is expected"
FILE = "but a wav file is expected"
RATES = "16000 Hz is expected; convert the file, or set features.resample=true, or"


# What is done with a file ------------------------------------------------------------------------


def read(path):
    """What reading it gives."""
    return f"{len(read_wav(path, sample_rate=RATE, resample=False))} samples"


def table(path):
    return clips.clip_table(path.parents[1], "folder", "lathe")


def trained(path):
    """What training on it gives."""
    found = table(path)
    data, store = clips.fingerprint(found, None), path.parents[2] / "store"
    frames = stored_frames(found, LOGMEL, store=store, data=data, threads=1, on_clip=None)
    return f"{len(frames.values)} frames"


def verified(path):
    """What `verify` says of it, and of what was fetched with it."""
    report = audit.audit(table(path), path.parents[1], lambda _: None)
    told = audit.installed(path.parents[1], lambda _: None)
    return "; ".join([*report.wrong, *told, *report.noted])


def gone(path):
    """What training gives when it vanishes after it was listed."""
    listed = table(path)
    path.unlink()
    return clips.fingerprint(listed, None)


def closed(path):
    """What reading it gives whom its mode keeps out."""
    before = Path.cwd()
    os.chdir(path.parent)  # the folders above are not everybody's either
    try:
        with nobody():
            read(Path(path.name))  # the file's mode alone is in the way below
        path.chmod(0)
        with nobody():
            return read(Path(path.name))
    finally:
        os.chdir(before)


@contextmanager
def nobody():
    """Root may read everything, so root becomes somebody else for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


# How a file is made ------------------------------------------------------------------------------


def sound(samples, subtype="PCM_16", format="WAV"):
    return lambda path: soundfile.write(path, samples, RATE, subtype=subtype, format=format)


def long(path):
    """Two hours of silence, which take no room on the disk."""
    size = 7200 * RATE
    path.write_bytes(riff(fmt(bits=8), chunk(b"data", b"", size)))
    os.truncate(path, 44 + size)


def beside_others(content):
    """Beside two clips that are one second long."""

    def make(path):
        for number in (1, 2):
            path.with_name(f"other{number}.wav").write_bytes(of(noise(RATE, seed=number)))
        path.write_bytes(content)

    return make


def flipped(path):
    """One bit of a file that was fetched."""
    path.write_bytes(WAV)
    member = ["train/clip.wav", len(WAV), archives.crc_of(path)]
    (path.parents[1] / "archives").mkdir()
    write_json(path.parents[1] / "archives" / "lathe.zip.json", {"members": [member]})
    path.write_bytes(WAV[:-1] + bytes([WAV[-1] ^ 1]))


def listening(path):
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 108 characters only
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def linked(target):
    return lambda path: path.symlink_to(target)


def outside(path):
    there = path.parents[2] / "elsewhere.wav"
    there.write_bytes(WAV)
    path.symlink_to(there)


@dataclass(frozen=True)
class Case:
    """How a file is made, what is said, and of what."""

    make: bytes | Callable[[Path], object]
    says: str
    ask: Callable[[Path], str] = read

    def put(self, path: Path) -> None:
        """Makes the file."""
        path.write_bytes(self.make) if isinstance(self.make, bytes) else self.make(path)


def square(level):
    return np.where(np.arange(SAMPLES) // 20 % 2, level, -level - 1)


HEADER = "{path}: impossible header: "
NOT_A_FILE = f"{FILE}; save one first"
CASES = {
    "A1 empty": Case(b"", f"{{path}}: is empty (0 bytes), {FILE}; {AGAIN}"),
    "A2 header only": Case(WAV[:44], "{path}: cut off: the header promises 640 bytes of audio, "
        f"the file has 0 (0%); {AGAIN}"),
    "A3 cut in the header": Case(WAV[:20], "{path}: ends inside its header (20 bytes in all); "
        f"{AGAIN}"),
    "A4 cut in half": Case(WAV[:364], "{path}: cut off: the header promises 640 bytes of audio, "
        f"the file has 320 (50%); {AGAIN}"),
    "A5 odd audio": Case(riff(fmt(), chunk(b"data", PCM[:-1])),
        "{path}: 639 bytes of audio are no "
        f"whole number of 16-bit samples; {AGAIN}"),
    "A5 odd byte after it": Case(WAV + b"\0", "{path}: the header declares 640 bytes of audio, "
        f"but 1 more follow that are no wav chunk; {AGAIN}"),
    "A6 no samples": Case(riff(fmt(), chunk(b"data", b"")), "{path}: 0 samples, but a recording "
        "is expected; export it again"),
    "A7 one sample": Case(of(noise(1)), "{path}: 1 samples (0.000 s), but at least n_fft=1024 "
        "are needed; leave the clip out, or use a smaller n_fft", trained),
    "A7 shorter than a frame": Case(of(noise(100)), "{path}: 100 samples (0.006 s), but at least "
        "n_fft=1024 are needed; leave the clip out, or use a smaller n_fft", trained),
    "A8 streamed": Case(riff(fmt(), chunk(b"data", PCM, 2**32 - 1)), "320 samples"),
    "A8 streamed, verified": Case(riff(fmt(), chunk(b"data", PCM, 2**32 - 1)),
        "header: train/clip.wav: no length for its audio (a streamed wav); read to the file's end",
        verified),
    "A8 streamed and cut": Case(riff(fmt(), chunk(b"data", PCM[:-1], 2**32 - 1)), "{path}: 639 "
        f"bytes of audio are no whole number of 16-bit samples; {AGAIN}"),
    "A9 size doubled": Case(riff(fmt(), chunk(b"data", PCM, 1280)), "{path}: cut off: the header "
        f"promises 1280 bytes of audio, the file has 640 (50%); {AGAIN}"),
    "A10 size halved": Case(riff(fmt(), chunk(b"data", PCM, 320)), "{path}: the header declares "
        f"320 bytes of audio, but 320 more follow that are no wav chunk; {AGAIN}"),
    "A11 known chunks": Case(riff(chunk(b"LIST", b"INFO"), fmt(), DATA, chunk(b"bext", b"0")), "",
        verified),
    "A11 unknown chunk": Case(riff(fmt(), DATA, chunk(b"abcd", b"0")), "header: train/clip.wav: a "
        "chunk 'abcd' of unknown use, passed over", verified),
    "A11 rubbish": Case(WAV + bytes(9), "{path}: the header declares 640 bytes of audio, but 9 "
        f"more follow that are no wav chunk; {AGAIN}"),
    "A12 no channels": Case(riff(fmt(channels=0, align=2), DATA), HEADER + "0 channels at 16000 "
        f"Hz; {CONVERT}"),
    "A13 65535 channels": Case(riff(fmt(channels=65535, align=2), DATA), "{path}: 65535 channels, "
        "but 1 is expected; save one of them as mono"),
    "A14 stereo": Case(of(noise(), channels=2), "{path}: 2 channels, but 1 is expected; save one "
        "of them as mono"),
    "A14 8 channels": Case(of(noise(), channels=8), "{path}: 8 channels, but 1 is expected; save "
        "one of them as mono"),
    "A15 mono called stereo": Case(riff(fmt(channels=2), DATA), "{path}: 2 channels, but 1 is "
        "expected; save one of them as mono"),
    "A16 rate 0": Case(riff(fmt(rate=0), DATA), HEADER + f"1 channels at 0 Hz; {CONVERT}"),
    "A16 rate 4e9": Case(riff(fmt(rate=4 * 10**9), DATA), HEADER + "1 channels at 4000000000 Hz; "
        f"{CONVERT}"),
    "A17 48 kHz": Case(of(noise(), rate=48000), "{path}: sample rate 48000 Hz, but "
        f"{RATES} features.sample_rate=48000 for all clips"),
    "A17 8 kHz": Case(of(noise(), rate=8000), "{path}: sample rate 8000 Hz, but "
        f"{RATES} features.sample_rate=8000 for all clips"),
    "A18 0 bits": Case(riff(fmt(bits=0, align=2), DATA), HEADER + "0 bits, block align 2 and byte "
        f"rate 32000 disagree at 16000 Hz; {CONVERT}"),
    "A18 16 bits called 8": Case(riff(fmt(bits=8, align=2), DATA), HEADER + "8 bits, block align "
        f"2 and byte rate 32000 disagree at 16000 Hz; {CONVERT}"),
    "A19 8 bits": Case(sound(noise() / 32768, "PCM_U8"), "320 samples"),
    "A19 24 bits": Case(sound(noise() / 32768, "PCM_24"), "format: 1 clips of 24-bit PCM at 16000 "
        "Hz, train/clip.wav first", verified),
    "A19 32 bits": Case(sound(noise() / 32768, "PCM_32"), "320 samples"),
    "A19 float": Case(sound(noise() / 32768, "FLOAT"), "format: 1 clips of 32-bit float at 16000 "
        "Hz, train/clip.wav first", verified),
    "A19 double": Case(sound(noise() / 32768, "DOUBLE"), "320 samples"),
    "A20 A-law": Case(sound(noise() / 32768, "ALAW"), "{path}: compressed as A-law, but PCM or "
        f"float is expected; {CONVERT}"),
    "A20 ADPCM": Case(sound(noise() / 32768, "IMA_ADPCM"), "{path}: compressed as IMA ADPCM, but "
        f"PCM or float is expected; {CONVERT}"),
    "A21 FLAC": Case(sound(noise() / 32768, format="FLAC"), "{path}: begins with fLaC (a FLAC "
        f"file), {RIFF}; {CONVERT}"),
    "A21 OGG": Case(sound(noise() / 32768, "VORBIS", "OGG"), "{path}: begins with OggS (an OGG "
        f"file), {RIFF}; {CONVERT}"),
    "A21 MP3": Case(b"ID3\x04" + PCM,
        f"{{path}}: begins with ID3 (an MP3 file), {RIFF}; {CONVERT}"),
    "A22 shorter than others": Case(beside_others(of(noise(14400))),
        "length: train/clip.wav: 0.90 "
        "s; 1.00 s ± 1% is usual on this machine type", verified),
    "A22 within 1 %": Case(beside_others(of(noise(15900))), "", verified),
    "A23 NaN": Case(floats(0, 1, np.nan, np.nan), "{path}: NaN or infinite at sample 2 (nan), 2 "
        "such samples in all, but numbers are expected; export it again"),
    "A23 infinite": Case(floats(0, -np.inf, 1), "{path}: NaN or infinite at sample 1 (-inf), 1 "
        "such samples in all, but numbers are expected; export it again"),
    "A23 1e30": Case(floats(0, 1, 2, -1e30), "{path}: sample 3 is -1e+30, 1 beyond ±100 in all, "
        "but full scale is ±1; scale the recording to that"),
    "A24 zeros": Case(of(np.zeros(SAMPLES)),
        "silent: train/clip.wav: every sample is 0", verified),
    "A24 DC": Case(of(noise() // 100 + 9000),
        "DC: train/clip.wav: a mean of 0.275 and a spread of "
        "0.00366 about it", verified),
    "A24 clipped": Case(of(square(32767)), "clipped: train/clip.wav: 100.0% of its samples are at "
        "full scale", verified),
    "A25 web page": Case(b"\n<!DOCTYPE html><html>", "{path}: begins with a tag (a saved web "
        f"page), {RIFF}; {AGAIN}"),
    "A25 LFS": Case(b"version https://git-lfs.github.com/spec/v1\noid",
        "{path}: begins with a Git "
        f"LFS pointer, {RIFF}; fetch the content with git lfs pull"),
    "A25 zip": Case(b"PK\x03\x04" + PCM, f"{{path}}: begins with PK (a zip archive), {RIFF}; "
        "unpack it"),
    "A26 zero bytes": Case(bytes(4096), "{path}: begins with zero bytes (4096 bytes in all, an "
        f"unfinished copy), {RIFF}; {AGAIN}"),
    "A27 RIFX": Case(riff(fmt(), DATA, magic=b"RIFX"), "{path}: begins with RIFX (a big-endian "
        f"wav), {RIFF}; {CONVERT}"),
    "A27 RF64": Case(sound(noise() / 32768, format="RF64"), "{path}: begins with RF64 (a wav for "
        f"more than 4 GB), {RIFF}; {CONVERT}"),
    "A27 W64": Case(sound(noise() / 32768, format="W64"), "{path}: begins with riff (a Wave64 "
        f"file), {RIFF}; {CONVERT}"),
    "A28 bit flip": Case(flipped, "not as it was fetched (lathe.zip): train/clip.wav (other "
        "content)", verified),
    "A29 folder": Case(Path.mkdir, f"{{path}}: is a folder, {FILE}; name a file in it"),
    "A29 folder, trained": Case(Path.mkdir, f"{{path}}: is a folder, {FILE}; name a file in it",
        trained),
    "A30 pipe": Case(os.mkfifo, f"{{path}}: is a pipe, {NOT_A_FILE}"),
    "A30 pipe, trained": Case(os.mkfifo, f"{{path}}: is a pipe, {NOT_A_FILE}", trained),
    "A30 device": Case(linked("/dev/null"), f"{{path}}: is a device, {NOT_A_FILE}"),
    "A30 socket": Case(listening, f"{{path}}: is a socket, {NOT_A_FILE}"),
    "A31 link to nothing": Case(linked("gone.wav"), "{path}: is a link to gone.wav, where nothing "
        f"is; check the path, or {AGAIN}", trained),
    "A31 link out of the root": Case(outside, "{path}: is a link that leaves the data root, to "
        "{path.parents[2]}/elsewhere.wav; copy the clips in instead", trained),
    "A32 no permission": Case(WAV, "clip.wav: cannot be read (Permission denied, mode 000, owner "
        "{owner}); check it and its rights", closed),
    "A33 two hours": Case(long, "{path}: 7200 s long, but at most 3600 s are read; cut it"),
    "A33 two hours of FLAC": Case(b"fLaC" + PCM, "{path}: begins with fLaC (a FLAC file), "
        f"{RIFF}; {CONVERT}"),
    "A34 a billion samples": Case(riff(fmt(), chunk(b"data", PCM, 2**31)), "{path}: cut off: the "
        f"header promises 2147483648 bytes of audio, the file has 640 (0%); {AGAIN}"),
    "A35 gone": Case(WAV, "{path}: was there when the clips were listed, and is gone; put it "
        "back, and start again", gone),
    "A35 gone while read": Case(lambda path: None, "{path}: no such file; check the path, or "
        f"{AGAIN}"),
}  # fmt: skip
