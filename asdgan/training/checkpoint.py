"""Where a training stands, in one file from which it goes on bit for bit.

The file is a safetensors file, which holds tensors and a few words and nothing that could run;
behind it stands the sha256 (64 hex digits) of all of it. It is written and read tensor by tensor,
because a stack's state takes gigabytes and has no room for a second copy.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from asdgan._system.files import whole_file
from asdgan.errors import BadInput, Damaged

if TYPE_CHECKING:
    from asdgan.detector import Detector

log = logging.getLogger("asdgan")

FORMAT = "2"  # raised when an older file would be misread; blocks of another default length, say
DIGEST = 64  # bytes
CHUNK = 1 << 20  # bytes that are read at once
DTYPES = {
    "BOOL": torch.bool,
    "I64": torch.int64,
    "F32": torch.float32,
    "F64": torch.float64,
}  # of safetensors; all that a detector holds
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Header:
    """Where a training stands, and of what.

    Attributes:
        epoch: Epochs completed.
        block: Blocks completed of the epoch in progress; 0 right after an epoch.
        lanes: () for a single run, (n,) for a stack of n.
        points: A name for each lane (one for a single run) of all that its training depends on.
    """

    epoch: int
    block: int
    lanes: tuple[int, ...]
    points: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint(Header):
    """A training between two blocks.

    Attributes:
        state: For `Detector.load_training_state`; on the CPU.
    """

    state: dict[str, Tensor]


def write(
    path: Path, detector: "Detector", *, epoch: int, block: int, points: Sequence[str]
) -> None:
    """Writes a checkpoint; one that was there before stays until this one is whole.

    Args:
        path: The file.
        detector: Between two blocks.
        epoch: Epochs completed.
        block: Blocks completed of the epoch in progress.
        points: Names what each lane is: its settings, data and model, whatever a position or the
            state's meaning depends on.

    Raises:
        ValueError: Not one name a lane.
        OSError: The disk refused, or is full.
    """
    if len(points) != len(detector.seeds):
        raise ValueError(f"{len(points)} names for {len(detector.seeds)} lanes")
    state = detector.training_state()
    said = {
        "format": FORMAT,
        "epoch": epoch,
        "block": block,
        "lanes": detector.lanes,
        "points": list(points),
    }
    header: dict[str, Any] = {"__metadata__": {"asdgan": json.dumps(said)}}
    end = 0
    for name, value in state.items():
        start, end = end, end + value.nbytes
        shape = list(value.shape)
        header[name] = {"dtype": NAMES[value.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in state.values():
            file.write(value.detach().cpu().contiguous().numpy().tobytes())
        file.write(file.sha256.encode())


def read(path: Path) -> Checkpoint | None:
    """The checkpoint in a file, verified; None where there is no file.

    Raises:
        Damaged: It is not what was written.
        BadInput: It is whole, but of another format.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        _verify(path, file)
        file.seek(0)
        said, tensors = _header(path, file)
        state = {name: _next_tensor(file, entry) for name, entry in tensors.items()}
    return Checkpoint(said.epoch, said.block, said.lanes, said.points, state)


def latest(paths: Iterable[Path], points: Sequence[str], *, epochs: int) -> Checkpoint | None:
    """The state of some points where it stands furthest, from as many files as it takes.

    A file may hold other points too: a stack goes on though some of its lanes are another's now.
    Files that cannot be used are named in a warning and passed over.

    Args:
        paths: Of checkpoints.
        points: Names of the lanes, in the order wanted.
        epochs: What stands after so many epochs is too far.

    Returns:
        A stack's state, lane by lane as asked; that of a single run where its point alone was
        asked for. None where no files hold all points at one place.
    """
    headers: dict[Path, Header] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                headers[path] = _header(path, file)[0]
        except FileNotFoundError:
            continue
        except (Damaged, BadInput) as error:
            log.warning("%s; passed over", error)
    while True:
        sources = _sources(headers, points, epochs)
        if not sources:
            return None
        read_in: dict[Path, Checkpoint] = {}
        for path in dict.fromkeys(path for path, _ in sources):
            try:
                if (found := read(path)) is not None:
                    read_in[path] = found
                    continue
            except (Damaged, BadInput) as error:
                log.warning("%s; passed over", error)
            del headers[path]
        if len(read_in) == len({path for path, _ in sources}):
            return _joined([(read_in[path], lane) for path, lane in sources], tuple(points))


def _sources(
    headers: dict[Path, Header], points: Sequence[str], epochs: int
) -> list[tuple[Path, int]]:
    """For each point the file and the lane that hold it, all at the place furthest on."""
    places: dict[tuple[int, int], dict[str, tuple[Path, int]]] = {}
    for path, header in headers.items():
        # A single run's state has no lane axis, and does not say what would get one.
        if (header.lanes or len(points) == 1) and (header.epoch, header.block) <= (epochs, 0):
            there = places.setdefault((header.epoch, header.block), {})
            there |= {name: (path, lane) for lane, name in enumerate(header.points)}
    for _, there in sorted(places.items(), reverse=True):
        if all(name in there for name in points):
            return [there[name] for name in points]
    return []


def _joined(sources: Sequence[tuple[Checkpoint, int]], points: tuple[str, ...]) -> Checkpoint:
    """One state from lanes of several; what is 0-dimensional holds for all lanes of a stack."""
    first = sources[0][0]
    if first.points == points and all(of is first for of, _ in sources):
        return first
    state = {}
    for name, value in first.state.items():
        if value.dim():
            state[name] = torch.stack([of.state[name][lane] for of, lane in sources])
        else:
            state[name] = value
    return Checkpoint(first.epoch, first.block, (len(points),), points, state)


def _header(path: Path, file: BinaryIO) -> tuple[Header, dict[str, Any]]:
    """What stands in front of the tensors, and what is said of each."""
    try:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        said = json.loads(header.pop("__metadata__")["asdgan"])
        form = said["format"]
    except (ValueError, KeyError, TypeError, MemoryError, OverflowError):
        raise Damaged(f"{path}: not a checkpoint; it was changed or cut") from None
    if form != FORMAT:
        raise BadInput(
            f"{path}: a checkpoint of format {form}, this version reads {FORMAT}; "
            f"go on with the version that wrote it, or remove it"
        )
    found = Header(said["epoch"], said["block"], tuple(said["lanes"]), tuple(said["points"]))
    return found, header


def _verify(path: Path, file: BinaryIO) -> None:
    """Compares the digest behind the tensors with what is in front of it."""
    digest, left = hashlib.sha256(), path.stat().st_size - DIGEST
    while left > 0 and (piece := file.read(min(CHUNK, left))):
        digest.update(piece)
        left -= len(piece)
    if (stated := file.read()) != digest.hexdigest().encode():
        raise Damaged(
            f"{path}: checksum {digest.hexdigest()[:12]} found, "
            f"{stated[:12].decode(errors='replace')!r} stated at its end; it was changed or cut"
        )


def _next_tensor(file: BinaryIO, entry: dict[str, Any]) -> Tensor:
    """The tensor that begins where the file stands: they lie in the order of the header."""
    tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
    start, end = entry["data_offsets"]
    read = file.readinto(memoryview(tensor.reshape(-1).numpy()).cast("B"))  # pyright: ignore
    assert read == end - start == tensor.nbytes
    return tensor
