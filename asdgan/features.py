"""Log-mel frames: from samples to a store on disk that training maps and never copies.

The store keeps each frame once, un-stacked; windows are views of it. A file's name holds a hash
of all that its content depends on, so another setting or another clip is another file.
"""

import functools
import glob
import hashlib
import io
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from asdgan.audio import import_torchaudio, read_wav, wav_length
from asdgan.errors import BadInput, Damaged
from asdgan.files import canonical, locked, read_json, sha256_of, whole_file, write_json
from asdgan.logmel import LogMel, too_short

if TYPE_CHECKING:
    from asdgan.clips import Clip

FORMAT = 2  # raised when the same settings and clips give other files
# Small batches stay in the processor's cache: 8 clips of 10 s measured four times as fast as 200.
BATCH_CLIPS = 8
BATCH_SAMPLES = 1 << 21  # 131 s at 16 kHz, so that long clips come one by one

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
    """Log-mel energies of a batch of clips.

    Args:
        samples: Shape (clips, samples), full scale ±1, on any device.
        settings: The rate in them is that of the samples.

    Returns:
        Shape (clips, mels, frames), in dB; frames = samples // hop + 1, centred (313 for 10 s at
        16 kHz and hop 512). Silence gives 20 / power * log10(eps).

    Raises:
        BadInput: The clips are shorter than one frame.

    Source: DCASE 2020 Task 2 baseline, feature section; `max` floor: the baselines of 2021 on.
    """
    if samples.shape[-1] < settings.n_fft:
        raise BadInput(too_short(samples.shape[-1], settings))
    window, bands = _window_and_bands(settings, samples.device, samples.dtype)
    count, half = samples.shape[-1] // settings.hop + 1, settings.n_fft // 2
    mel = samples.new_empty(len(samples), count, settings.mels)
    # Clip by clip, through the same few arrays: they stay in the processor's cache, and nothing
    # is paged in anew. All at once, as torchaudio does it, takes twice as long.
    padded = samples.new_zeros(samples.shape[-1] + 2 * half)
    frames = samples.new_empty(count, settings.n_fft)
    energy = samples.new_empty(count, half + 1)
    with _full_precision():
        for clip, of_clip in zip(samples, mel, strict=True):
            padded[half : half + len(clip)] = clip
            if settings.pad_mode == "reflect":
                padded[:half] = clip[1 : half + 1].flip(0)
                padded[half + len(clip) :] = clip[-half - 1 : -1].flip(0)
            torch.mul(padded.unfold(0, settings.n_fft, settings.hop), window, out=frames)
            spectrum = torch.fft.rfft(frames)
            if settings.power == 2:  # without the root that is squared again
                torch.square(spectrum.real, out=energy).addcmul_(spectrum.imag, spectrum.imag)
            else:
                torch.abs(spectrum, out=energy).pow_(settings.power)
            torch.mm(energy, bands, out=of_clip)
    mel = mel.add_(settings.eps) if settings.floor == "add" else mel.clamp_(min=settings.eps)
    # 10 log10 of an energy is 20 log10 of an amplitude
    return mel.log10_().mul_(20 / settings.power).mT


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
        threads: That compute at once; how many does not change what comes out.
        on_clip: Called with the number of clips just computed; not called for what is mapped.

    Raises:
        BadInput: A wav is refused, shorter than one frame, or so loud that its energy overflows.
        OSError: The store cannot be written.
    """
    if not clips:
        raise BadInput("no clips to compute features of; check the dataset's folder")
    body = {"format": FORMAT, "settings": asdict(settings), "data": data}
    body |= {"clips": [clip.name for clip in clips]}
    key = hashlib.sha256(canonical(body)).hexdigest()
    path = store / f"{clips[0].machine_type}-{clips[0].split}-{key[:16]}.npy"
    with suppress(FileNotFoundError, Damaged):
        return _mapped(path, body)
    with locked(path.with_suffix(".lock")):
        try:
            return _mapped(path, body)  # another process may have finished it meanwhile
        except FileNotFoundError:
            pass
        except Damaged as error:
            LOGGER.warning("%s; computing these features again", error)
        for stray in store.glob(f".{glob.escape(path.stem)}.*.part"):
            stray.unlink()  # of a process that was killed: whoever holds the lock is alone
        _compute(path, body, clips, settings, threads, on_clip)
        return _mapped(path, body)


def clip_frames(clip: "Clip", settings: LogMel) -> Tensor:
    """The frames of one clip by itself, without a store: shape (frames, mels), float32, dB.

    Raises:
        BadInput: As `stored_frames`.
    """
    values = _values([clip], _clip_length(clip, settings), settings)
    return torch.frombuffer(bytearray(values), dtype=torch.float32).reshape(-1, settings.mels)


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
) -> tuple[Tensor, Tensor]:
    """A frame's window, shape (n_fft,), and the mel bands, shape (n_fft // 2 + 1, mels)."""
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
    return window.to(device, dtype), bands.to(device, dtype)


def _mapped(path: Path, body: dict[str, Any]) -> Frames:
    """The stored frames, verified against the record beside them."""
    record_path = path.with_suffix(".json")
    if not record_path.exists():
        if path.exists():
            raise Damaged(f"{path}: its record {record_path.name} is missing")
        raise FileNotFoundError(record_path)
    record = read_json(record_path)
    starts, size, digest = (record.pop(key, None) for key in ("starts", "bytes", "values_sha256"))
    if record != body:
        raise Damaged(f"{record_path}: is the record of other features")
    if not path.exists() or path.stat().st_size != size:
        found = f"{path.stat().st_size} bytes" if path.exists() else "nothing"
        raise Damaged(f"{path}: {found} found, {size} bytes written")
    if (found := sha256_of(path)) != digest:
        raise Damaged(f"{path}: checksum {found[:12]} found, {digest[:12]} written")
    # Copy-on-write and not read-only, because torch warns at tensors that nobody may write.
    values = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    return Frames(values, torch.tensor(starts, dtype=torch.int64))


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
    batches = list(_batches(lengths))
    # Threads that import torchaudio together find it half loaded.
    _window_and_bands(settings, torch.device("cpu"), torch.float32)

    def values(batch: range) -> bytes:
        return _values([clips[i] for i in batch], lengths[batch[0]], settings)

    with whole_file(path) as file, closing(_in_order(values, batches, threads)) as computed:
        file.write(_npy_header(starts[-1], settings.mels))
        for batch, data in zip(batches, computed, strict=True):
            file.write(data)
            if on_clip is not None:
                on_clip(len(batch))
    stored = {"starts": starts, "bytes": path.stat().st_size, "values_sha256": file.sha256}
    write_json(path.with_suffix(".json"), body | stored)


def _in_order(
    work: Callable[[range], bytes], batches: Sequence[range], threads: int
) -> Generator[bytes]:
    """What `work` gives for each batch, in their order; no more in memory than a few.

    Each thread computes a batch by itself: torch's own threads share out single operations, which
    are too small for that, and would round as many ways as there are threads.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with _full_precision():  # it is the process's, so it is not left to the threads
            pending: deque[Future[bytes]] = deque()
            for batch in batches:
                pending.append(pool.submit(work, batch))
                if len(pending) > threads + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # for threads that begin later, as the pool's did


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


def _batches(lengths: Sequence[int]) -> Iterator[range]:
    """Runs of neighbouring clips of equal length, no longer than a batch may be."""
    start = 0
    for length, run in groupby(lengths):
        stop = start + len(list(run))
        step = max(1, min(BATCH_CLIPS, BATCH_SAMPLES // length))
        yield from (range(first, min(first + step, stop)) for first in range(start, stop, step))
        start = stop


def _values(batch: Sequence["Clip"], length: int, settings: LogMel) -> bytes:
    """The frames of equally long clips, as they lie in the file: (frames, mels), float32."""
    rate, resample = settings.sample_rate, settings.resample
    samples = [
        read_wav(clip.path, sample_rate=rate, resample=resample, channel=clip.channel)
        for clip in batch
    ]
    for clip, values in zip(batch, samples, strict=True):
        if len(values) != length:
            raise BadInput(f"{clip.path}: changed while it was being read; start again")
    values = log_mel(torch.from_numpy(np.stack(samples)), settings).mT  # (clips, frames, mels)
    for clip, finite in zip(batch, values.isfinite().all(-1).all(-1).tolist(), strict=True):
        if not finite:
            raise BadInput(
                f"{clip.path}: its features are not finite, because samples beyond full scale "
                "overflow; scale the recording to ±1"
            )
    return values.contiguous().numpy().tobytes()


def _npy_header(frames: int, mels: int) -> bytes:
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (frames, mels)}
    np.lib.format.write_array_header_1_0(header, shape)
    return header.getvalue()
