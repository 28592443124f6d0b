"""Where a training stands, in one file from which it goes on bit for bit.

The file is a safetensors file, which holds tensors and a few words and nothing that could run;
behind it stands the sha256 (64 hex digits) of all of it. It is written and read tensor by tensor,
because a stack's state takes gigabytes and has no room for a second copy.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from asdgan.errors import BadInput, Damaged
from asdgan.files import CHUNK, whole_file

if TYPE_CHECKING:
    from asdgan.detector import Detector

FORMAT = "1"  # raised when an older file would be misread; blocks of another default length, say
DIGEST = 64  # bytes
DTYPES = {
    "BOOL": torch.bool,
    "I64": torch.int64,
    "F32": torch.float32,
    "F64": torch.float64,
}  # of safetensors; all that a detector holds
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A training between two blocks.

    Attributes:
        epoch: Epochs completed.
        block: Blocks completed of the epoch in progress; 0 right after an epoch.
        lanes: () for a single run, (n,) for a stack of n.
        state: For `Detector.load_training_state`; on the CPU.
    """

    epoch: int
    block: int
    lanes: tuple[int, ...]
    state: dict[str, Tensor]


def write(path: Path, detector: "Detector", *, epoch: int, block: int, key: str) -> None:
    """Writes a checkpoint; one that was there before stays until this one is whole.

    Args:
        path: The file.
        detector: Between two blocks.
        epoch: Epochs completed.
        block: Blocks completed of the epoch in progress.
        key: Names what is trained: whatever a position or the state's meaning depends on (the
            points in order, data, batch, windows to train on).

    Raises:
        OSError: The disk refused, or is full.
    """
    state = detector.training_state()
    said = {"format": FORMAT, "key": key, "epoch": epoch, "block": block, "lanes": detector.lanes}
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


def read(path: Path, *, key: str) -> Checkpoint | None:
    """The checkpoint in a file, verified; None where there is no file.

    Raises:
        Damaged: It is not what was written.
        BadInput: It is whole, but of another format or key.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        _verify(path, file)
        file.seek(0)
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        said = json.loads(header.pop("__metadata__")["asdgan"])
        if said["format"] != FORMAT:
            raise BadInput(
                f"{path}: a checkpoint of format {said['format']}, this version reads {FORMAT}; "
                f"go on with the version that wrote it, or remove it"
            )
        if said["key"] != key:
            raise BadInput(
                f"{path}: a checkpoint of {said['key']!r}, but {key!r} is what is trained here; "
                f"remove it, or say another file"
            )
        state = {name: _next_tensor(file, entry) for name, entry in header.items()}
    return Checkpoint(said["epoch"], said["block"], tuple(said["lanes"]), state)


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
