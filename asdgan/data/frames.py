"""Log-mel frames: from samples to a store on disk that training maps and never copies.

The store keeps each frame once, un-stacked; windows are views of it. A file's name holds a hash
of all that its content depends on, so another setting or another clip is another file.
"""

import functools
import glob
import hashlib
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

from asdgan._system.files import canonical, locked, read_json, whole_path, write_json
from asdgan._system.parallel import in_order, ready
from asdgan.data.log_mel import LogMel, too_short
from asdgan.data.wav import import_torchaudio, read_wav, wav_length
from asdgan.errors import BadInput, Damaged

if TYPE_CHECKING:
    from asdgan.data.clips import Clip

FORMAT = 4  # raised when the same settings and clips give other files
AT_ONCE = 512  # frames in work; more are no faster, and an hour would take gigabytes
BLOCK = 32  # neighbouring mel bands that are computed together
PIECE = 5_000  # frames, see `_Layout`
MANY = 800_000  # frames from which on processes take less time than threads; 2,560 clips of 10 s

LOGGER = logging.getLogger("asdgan")


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """The frames of many clips, one after the other.

    Args:
        values: Shape (frames, mels), float32, dB, on a copy-on-write memory map.
        starts: Shape (clips + 1,), int64: clip i owns frames starts[i] to starts[i + 1].
    """

    values: Tensor
    starts: Tensor


def log_mel(samples: Tensor, settings: LogMel) -> Tensor:
    """Log-mel energies of a batch of clips; by other settings mel energies, or spectra.

    Args:
        samples: Shape (clips, samples), full scale ±1, on any device.
        settings: The rate in them is that of the samples.

    Returns:
        Shape (clips, mels, frames), in dB; frames = samples // hop + 1, centred (313 for 10 s at
        16 kHz and hop 512). Silence gives 20 / power * log10(eps). Without a logarithm
        (`floor=none`) they are magnitudes to the power of `power`.

    Raises:
        BadInput: The clips are shorter than one frame.

    Source: DCASE 2020 Task 2 baseline, feature section; `max` floor: the baselines of 2021 on.
    """
    if samples.shape[-1] < settings.n_fft:
        raise BadInput(too_short(samples.shape[-1], settings))
    window, bands = _window_and_bands(settings, samples.device, samples.dtype)
    count, half = samples.shape[-1] // settings.hop + 1, settings.n_fft // 2
    mel = samples.new_empty(len(samples), count, settings.mels)
    # A few frames after the others, so that what is in work stays in the processor's cache: all
    # clips at once, as torchaudio does it, take three times as long.
    with _full_precision():
        for clip, of_clip in zip(samples, mel, strict=True):
            padded = _padded(clip, half, settings.pad_mode)
            frames = padded.unfold(0, settings.n_fft, settings.hop)
            for some, of_some in zip(frames.split(AT_ONCE), of_clip.split(AT_ONCE), strict=True):
                spectrum = torch.fft.rfft(some * window)
                if settings.power == 2:  # real and imaginary parts in turn, as `bands` has them
                    energy = torch.view_as_real(spectrum).square_().view(len(some), -1)
                else:
                    energy = spectrum.abs().pow_(settings.power)
                if settings.mel_scale == "none":
                    both = energy.view(len(some), -1, 2).sum(-1) if settings.power == 2 else energy
                    of_some.copy_(both)
                for first, low, weights in bands:
                    high, last = low + weights.shape[0], first + weights.shape[1]
                    torch.mm(energy[:, low:high], weights, out=of_some[:, first:last])
    if settings.floor == "none":
        return mel.mT
    mel = mel.add_(settings.eps) if settings.floor == "add" else mel.clamp_(min=settings.eps)
    # 10 log10 of an energy is 20 log10 of an amplitude
    mel.log10_().mul_(20 / settings.power)
    if settings.top_db is not None:
        mel = torch.maximum(mel, mel.amax((1, 2), keepdim=True) - settings.top_db)
    return mel.mT


def stored_frames(
    clips: Sequence["Clip"],
    settings: LogMel,
    *,
    store: Path,
    data: str,
    threads: int,
    on_clip: Callable[[int], None] | None,
) -> Frames:
    """The log-mel frames of a machine type's split, computed once and mapped ever after.

    Any number of processes may ask at once: one computes, the others wait for it. A stored file
    that does not verify is reported and computed again.

    Args:
        clips: At least one, all of one machine type and split; their order is kept. They may
            differ in length.
        settings: Of the features.
        store: A folder, made as needed; three files in it are this split's.
        data: Fingerprint of the clips' names and content.
        threads: That compute at once, or processes where frames are `MANY`; how many does not
            change what comes out.
        on_clip: Called with how many more clips are computed; not called for what is mapped.

    Raises:
        BadInput: A wav is refused, shorter than one frame, or so loud that its energy overflows.
        OSError: The store cannot be written.
    """
    if not clips:
        raise BadInput("no clips to compute features of; check the dataset's folder")
    used = {name: value for name, value in asdict(settings).items() if value is not None}
    body = {"format": FORMAT, "settings": used, "data": data}
    body |= {"clips": [clip.name for clip in clips]}
    key = hashlib.sha256(canonical(body)).hexdigest()
    path = store / f"{clips[0].machine_type}-{clips[0].split}-{key[:16]}.npy"
    with suppress(FileNotFoundError, Damaged):
        return _mapped(path, body, threads)
    with locked(path.with_suffix(".lock")):
        try:
            return _mapped(path, body, threads)  # another process may have finished it meanwhile
        except FileNotFoundError:
            pass
        except Damaged as error:
            LOGGER.warning("%s; computing these features again", error)
        for stray in store.glob(f".{glob.escape(path.stem)}.*.part"):
            stray.unlink()  # of a process that was killed: whoever holds the lock is alone
        _compute(path, body, clips, settings, threads, on_clip)
        return _mapped(path, body, threads, fresh=True)


def clip_frames(clip: "Clip", settings: LogMel) -> Tensor:
    """The frames of one clip by itself, without a store: shape (frames, mels), float32, dB.

    Raises:
        BadInput: As `stored_frames`.
    """
    return _values(settings, clip, _clip_length(clip, settings))


def _padded(clip: Tensor, half: int, mode: str) -> Tensor:
    """As `torch.nn.functional.pad`, whose reflection takes three times as long."""
    if mode != "reflect":
        return pad(clip, (half, half), mode)
    return torch.cat([clip[1 : half + 1].flip(0), clip, clip[-half - 1 : -1].flip(0)])


@contextmanager
def _full_precision() -> Iterator[None]:
    """Within it, matrix products are float32's own, whatever a training may have asked for.

    In `medium` precision a value would be off by 0.03 dB, and would stay so in the store.
    """
    asked = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(asked)


class _InFloat64(TorchFunctionMode):
    """Within it, the tensors that a transform is built from are float64.

    In float32 torchaudio misplaces the corners of the bands: a weight is wrong by up to 2 %, a
    value by 4e-4 dB. Torch's own default type would do as well, but it is shared by all threads.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever `func` gives
        kwargs = kwargs or {}
        if func in (torch.linspace, torch.zeros, torch.hann_window):
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)


@functools.lru_cache(maxsize=8)
def _window_and_bands(
    settings: LogMel, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, list[tuple[int, int, Tensor]]]:
    """A frame's window, shape (n_fft,), and the mel bands in blocks of neighbours.

    A block is its first band, the first number of a spectrum that any of its bands weighs, and
    the weights from there, shape (numbers, bands): a band hears a small part of the spectrum, so
    blocks are a quarter of one matrix's work. Where the power is 2 a spectrum has two numbers a
    bin, the squares of its real and its imaginary part.
    """
    if settings.mel_scale == "none":
        with _InFloat64():
            return torch.hann_window(settings.n_fft).to(device, dtype), []
    with _InFloat64():
        # Its defaults differ from the baselines' in scale and norm, so every value is said.
        transform = import_torchaudio().transforms.MelSpectrogram(
            sample_rate=settings.sample_rate,
            n_fft=settings.n_fft,
            f_min=0.0,
            f_max=settings.sample_rate / 2,
            n_mels=settings.mels,
            window_fn=torch.hann_window,
            norm=None if settings.mel_norm == "none" else settings.mel_norm,
            mel_scale=settings.mel_scale,
        )
    window, bands = transform.spectrogram.window, transform.mel_scale.fb
    if settings.power == 2:
        bands = bands.repeat_interleave(2, 0)
    blocks = []
    for first, some in zip(range(0, settings.mels, BLOCK), bands.split(BLOCK, 1), strict=True):
        heard = some.any(1).nonzero()
        # Bands narrower than a bin may hear nothing; a product of no numbers is zero.
        low, high = (int(heard[0]), int(heard[-1]) + 1) if len(heard) else (0, 0)
        blocks.append((first, low, some[low:high].to(device, dtype).contiguous()))
    return window.to(device, dtype), blocks


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where which clip lies in the array's file: a head, and the frames of all clips in turn."""

    starts: list[int]
    mels: int
    piece: int  # frames at least that are computed, written and verified as one

    @property
    def head(self) -> bytes:
        """The first bytes of the file, as numpy writes them."""
        header = io.BytesIO()
        shape = {"descr": "<f4", "fortran_order": False, "shape": (self.starts[-1], self.mels)}
        np.lib.format.write_array_header_1_0(header, shape)
        return header.getvalue()

    def bytes_to(self, clip: int) -> int:
        """How many bytes of frames lie before those of a clip."""
        return self.starts[clip] * self.mels * 4

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.head) + self.bytes_to(len(self.starts) - 1)

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """The first clip of each piece, and the first behind it."""
        bounds = [0]
        for clip, start in enumerate(self.starts):
            if start - self.starts[bounds[-1]] >= self.piece:
                bounds.append(clip)
        if bounds[-1] < len(self.starts) - 1:
            bounds.append(len(self.starts) - 1)
        return list(pairwise(bounds))

    def sha256(self, head: bytes, pieces: Iterable[bytes]) -> str:
        """Hex checksum of the file: of its head and of the sha256 of each piece."""
        return hashlib.sha256(head + b"".join(pieces)).hexdigest()


def _mapped(path: Path, body: dict[str, Any], threads: int, *, fresh: bool = False) -> Frames:
    """The stored frames, verified against the record beside them.

    Their checksum is not read again where this process has just had them written.
    """
    record_path = path.with_suffix(".json")
    if not record_path.exists():
        if path.exists():
            raise Damaged(f"{path}: its record {record_path.name} is missing")
        raise FileNotFoundError(record_path)
    record = read_json(record_path)
    stated = {key: record.pop(key, None) for key in ("starts", "mels", "piece", "values_sha256")}
    digest = stated.pop("values_sha256")
    if record != body:
        raise Damaged(f"{record_path}: is the record of other features")
    layout = _Layout(**stated)
    if not path.exists() or path.stat().st_size != layout.size:
        found = f"{path.stat().st_size} bytes" if path.exists() else "nothing"
        raise Damaged(f"{path}: {found} found, {layout.size} bytes written")
    if not fresh and (found := _found(path, layout, threads)) != digest:
        raise Damaged(f"{path}: checksum {found[:12]} found, {digest[:12]} written")
    # Copy-on-write and not read-only, because torch warns at tensors that nobody may write.
    values = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    return Frames(values, torch.tensor(layout.starts, dtype=torch.int64))


def _found(path: Path, layout: _Layout, threads: int) -> str:
    """The checksum of what lies in a file, by threads."""
    head = len(layout.head)
    parts = [tuple(head + layout.bytes_to(clip) for clip in piece) for piece in layout.pieces]
    work = in_order(functools.partial(_part, path), parts, hands=threads, apart=False)
    with path.open("rb") as file, closing(work) as digests:
        return layout.sha256(file.read(head), digests)


def _compute(
    path: Path,
    body: dict[str, Any],
    clips: Sequence["Clip"],
    settings: LogMel,
    threads: int,
    on_clip: Callable[[int], None] | None,
) -> None:
    """Writes the array, and after it the record without which it does not count."""
    lengths = [_clip_length(clip, settings) for clip in clips]
    starts = [0, *accumulate(length // settings.hop + 1 for length in lengths)]
    layout = _Layout(starts, settings.mels, PIECE)
    head, pieces = layout.head, layout.pieces
    apart = threads > 1 and (starts[-1] >= MANY or ready(threads))
    if not apart:  # threads that import torchaudio together find it half loaded
        _window_and_bands(settings, torch.device("cpu"), torch.float32)
    digests = []
    # The precision is the whole process's, so it is not left to the threads.
    with whole_path(path, lasting=False) as temporary, _full_precision():
        temporary.write_bytes(head)
        asked = (
            (len(head) + layout.bytes_to(first), clips[first:last], lengths[first:last])
            for first, last in pieces
        )
        written = functools.partial(_written, settings, temporary)
        with closing(in_order(written, asked, hands=threads, apart=apart)) as work:
            for (first, last), digest in zip(pieces, work, strict=True):
                digests.append(digest)
                if on_clip is not None:
                    on_clip(last - first)
    stored = asdict(layout) | {"values_sha256": layout.sha256(head, digests)}
    write_json(path.with_suffix(".json"), body | stored)


def _written(
    settings: LogMel, path: Path, start: int, clips: Sequence["Clip"], lengths: Sequence[int]
) -> bytes:
    """Computes a piece and writes it where it begins in the file; gives its sha256."""
    digest = hashlib.sha256()
    with path.open("r+b", buffering=0) as file:
        file.seek(start)
        for clip, length in zip(clips, lengths, strict=True):
            rest = _values(settings, clip, length).numpy().data.cast("B")
            digest.update(rest)
            while rest:  # a disk that is nearly full takes a part, and refuses the next
                rest = rest[file.write(rest) :]
    return digest.digest()


def _part(path: Path, start: int, stop: int) -> bytes:
    """The sha256 of what lies between two bytes of a file."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return hashlib.sha256(file.read(stop - start)).digest()


def _clip_length(clip: "Clip", settings: LogMel) -> int:
    length = wav_length(
        clip.path,
        sample_rate=settings.sample_rate,
        resample=settings.resample,
        channel=clip.channel,
    )
    if length < settings.n_fft:
        raise BadInput(f"{clip.path}: {too_short(length, settings)}")
    return length


def _values(settings: LogMel, clip: "Clip", length: int) -> Tensor:
    """The frames of a clip as they lie in the file: shape (frames, mels), float32."""
    rate, resample = settings.sample_rate, settings.resample
    samples = read_wav(clip.path, sample_rate=rate, resample=resample, channel=clip.channel)
    if len(samples) != length:
        raise BadInput(f"{clip.path}: changed while it was being read; start again")
    values = log_mel(torch.from_numpy(samples)[None], settings).mT  # (1, frames, mels)
    if not math.isfinite(values.sum()):  # a tenth of the time that asking each takes
        raise BadInput(
            f"{clip.path}: its features are not finite, because samples beyond full scale "
            "overflow; scale the recording to ±1"
        )
    return values[0].contiguous()
