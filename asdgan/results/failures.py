"""Points that have no result, and why: records beside the results, never results themselves.

A failure is `failure_<signature>.json` in the folder of the points' results: which points have
none, of what kind the end was, and one line of reason.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asdgan._system.files import read_json, write_json
from asdgan.errors import Damaged
from asdgan.results.ledger import FORMAT, SIGNATURE, paths

FAILURE = re.compile(r"failure_[0-9a-f]{16}\.json")
TEXTS = ("kind", "reason", "model", "machine_type")
KINDS = {
    "nan": "losses were not finite",
    "raised": "an exception",
    "exit": "the process ended by itself",
    "killed": "a signal ended the process",
    "memory": "out of memory, of the machine or of the GPU",
    "hung": "no sign of life for longer than sweep.timeout",
    "lost": "the machine or the scheduler lost the job",
    "member": "a member of the ensemble has no result",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Points that a job could not finish.

    Attributes:
        path: Of the record.
        signatures: Of the points.
        kind: One of `KINDS`.
        reason: One line.
        model: The detector's name.
        machine_type: The points' own.
        settings: Those of the first point, flat.
    """

    path: Path
    signatures: tuple[str, ...]
    kind: str
    reason: str
    model: str
    machine_type: str
    settings: dict[str, Any]


def write_failure(
    folder: Path,
    *,
    signatures: Sequence[str],
    kind: str,
    reason: str,
    model: str,
    machine_type: str,
    settings: Mapping[str, Any],
    losses: Mapping[str, Any] | None = None,
) -> Path:
    """Stores why points have no result; a record of the same first point is replaced.

    Args:
        folder: Of the points' results; made as needed.
        signatures: Of the points, at least one.
        kind: One of `KINDS`.
        reason: Its lines become one.
        model: The detector's name.
        machine_type: The points' own.
        settings: Those of the first point, flat.
        losses: Per epoch, where there are any; what is not finite becomes None.

    Raises:
        ValueError: An unknown kind, or no signature.
        OSError: The disk refused, or is full.
    """
    if kind not in KINDS or not signatures:
        raise ValueError(f"failure of kind {kind!r} with {len(signatures)} signatures")
    path = folder / f"failure_{signatures[0]}.json"
    body = {
        "format": FORMAT,
        "signatures": list(signatures),
        "kind": kind,
        "reason": " ".join(reason.split()),
        "model": model,
        "machine_type": machine_type,
        "settings": dict(settings),
    }
    if losses is not None:
        body["losses"] = _finite(losses)
    write_json(path, body)
    return path


def failures_in(root: Path) -> tuple[list[Failure], list[tuple[Path, str]]]:
    """Every failure below `root`, sorted by path, and the files that are not one, with the reason.

    A point that failed and was run again has a result too: the result counts.
    """
    found, refused = [], []
    for path in paths(root, FAILURE):
        try:
            body = read_json(path)
            if body.get("format") != FORMAT or not _is_failure(body):
                raise Damaged(f"{path}: not a failure of format {FORMAT}")
            found.append(
                Failure(
                    path,
                    tuple(body["signatures"]),
                    **{name: body[name] for name in TEXTS},
                    settings=body["settings"],
                )
            )
        except (Damaged, OSError) as error:
            refused.append((path, str(error).removeprefix(f"{path}: ")))
    return found, refused


def _is_failure(body: Mapping[str, Any]) -> bool:
    signatures = body.get("signatures")
    return (
        isinstance(signatures, list)
        and all(isinstance(one, str) and SIGNATURE.fullmatch(one) for one in signatures)
        and all(isinstance(body.get(name), str) for name in TEXTS)
        and isinstance(body.get("settings"), dict)
    )


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The value with None for every number that JSON cannot say."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
