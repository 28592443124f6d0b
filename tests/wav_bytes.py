"""Wav files byte by byte, good ones and all kinds of bad ones."""

import struct

import numpy as np

RATE = 16000
SAMPLES = 320  # of the plain clip that the broken ones are made from
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def noise(samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20000, 20000, samples).astype("<i2")


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    padding = b"\0" * (len(body) % 2 if size is None else 0)
    return name + struct.pack("<I", len(body) if size is None else size) + body + padding


def fmt(codec=1, channels=1, rate=RATE, bits=16, align=None, byte_rate=None, tail=b"") -> bytes:
    align = channels * bits // 8 if align is None else align
    byte_rate = rate * align % 2**32 if byte_rate is None else byte_rate
    body = struct.pack("<HHIIHH", codec, channels, rate, byte_rate, align, bits)
    return chunk(b"fmt ", body + tail)


def riff(*chunks: bytes, magic: bytes = b"RIFF", form: bytes = b"WAVE") -> bytes:
    body = form + b"".join(chunks)
    return magic + struct.pack("<I", len(body)) + body


def extensible(sub_codec: int, bits: int) -> bytes:
    tail = struct.pack("<HHIH", 22, bits, 4, sub_codec) + GUID_TAIL
    return fmt(codec=0xFFFE, bits=bits, tail=tail)


def floats(*values: float) -> bytes:
    return riff(fmt(codec=3, bits=32), chunk(b"data", np.array(values, "<f4").tobytes()))


def of(samples: np.ndarray, channels: int = 1, rate: int = RATE) -> bytes:
    """A wav of 16-bit samples."""
    return riff(fmt(channels=channels, rate=rate), chunk(b"data", samples.astype("<i2").tobytes()))


PCM = noise().tobytes()
DATA = chunk(b"data", PCM)
WAV = riff(fmt(), DATA)
