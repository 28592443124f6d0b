"""Results on disk: written once, verified when read, found by signature.

A result is what one training gave at one number of epochs: `epochs_00010.json` with a row per
point, and beside it the clip scores, the weights where they are kept, and the config that made
them. The JSON holds the sha256 of each of them and of itself, and is written last: where it
stands, the result is whole. Listing reads the JSON files only.
"""

import fcntl
import hashlib
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdgan._system.files import canonical, read_json, sha256_of, write_json, write_whole
from asdgan.errors import Damaged

FORMAT = 2  # of the JSON file; raised when its keys change their meaning
RESULT = re.compile(r"epochs_[0-9]{5,}\.json")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # a path would lead out of the folder
SIGNATURE = re.compile(r"[0-9a-f]{16}")
ROW = {
    "signature": str,
    "model": str,
    "recipe": int,
    "release": str,
    "data": str,
    "machine_type": str,
    "settings": dict,
    "seed": int,
    "epochs": int,
    "selection": dict,
    "primary": str,
    "auc": (float, int, type(None)),  # a tuple is looked through faster than a union
    "pauc": (float, int, type(None)),
    "sections": dict,
    "clips": int,
}


@dataclass(frozen=True, slots=True)
class Result:
    """One result.

    What all rows of a stack say is stored and kept once: a row is `shared`, and its own entries
    beside it; so are its settings.

    Attributes:
        path: Of its JSON.
        epochs: Of training, the same in each row.
        files: The sha256 of each file beside it, by name.
        shared: What all rows say.
        own: What each row says beside that.
    """

    path: Path
    epochs: int
    files: dict[str, str]
    shared: dict[str, Any]
    own: tuple[dict[str, Any], ...]

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """The rows whole, put together anew at each call."""
        return tuple(
            {
                **self.shared,
                **own,
                "settings": {**self.shared.get("settings", {}), **own.get("settings", {})},
            }
            for own in self.own
        )


def flatten(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Nested settings as one level of dotted keys; lists stay whole, an empty mapping stays.

    Raises:
        ValueError: Two settings have the same dotted key.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and len(value) > 0
        for tail, item in flatten(value).items() if nested else [(None, value)]:
            name = str(key) if tail is None else f"{key}.{tail}"
            if name in flat:
                raise ValueError(f"two settings are called {name!r}")
            flat[name] = item
    return flat


def signature(settings: Mapping[Any, Any], recipe: int, data: str) -> str:
    """The name of a point, 16 hex digits: the same settings, recipe and data give the same.

    Settings may be nested or flat, in any order. Numbers count by value (1 and 1.0 are the
    same), text and true/false by themselves ("1" is another setting).

    Args:
        settings: Resolved settings, without paths, workers and hardware.
        recipe: The model's recipe number.
        data: Fingerprint of the clips.

    Raises:
        ValueError: A setting is NaN or infinite, or two have the same dotted key.
        TypeError: A setting is not a JSON value.
    """
    body = {"settings": _by_value(flatten(settings)), "recipe": recipe, "data": data}
    return hashlib.sha256(canonical(body)).hexdigest()[:16]


class Signer:
    """Signatures of many points that differ in a few settings: what they share is spelt once.

    Args:
        settings: Of any of the points, flat.
        recipe: As in `signature`.
        data: Likewise.
        axes: The settings that differ.
    """

    def __init__(
        self, settings: Mapping[str, Any], recipe: int, data: str, axes: Sequence[str]
    ) -> None:
        """Spells the point with gaps."""
        gaps = {axis: f"\0{number}\0" for number, axis in enumerate(axes)}
        shared = _by_value(flatten({**settings, **gaps}))
        text = canonical({"settings": shared, "recipe": recipe, "data": data}).decode()
        pieces = re.split(r'"\\u0000(\d+)\\u0000"', text)
        names = list(axes)
        self._pieces = pieces[::2]
        self._axes = [names[int(number)] for number in pieces[1::2]]
        self._spelt: dict[tuple[type, Any], str] = {}

    def __call__(self, values: Mapping[str, Any]) -> str:
        """The signature of the point with these values on the axes.

        Raises:
            ValueError: A value is NaN or infinite.
            TypeError: A value is not a number, text, true, false or None.
        """
        parts = [self._pieces[0]]
        for axis, piece in zip(self._axes, self._pieces[1:], strict=True):
            value = values[axis]
            known = (type(value), value)
            if known not in self._spelt:
                self._spelt[known] = canonical(_by_value(value)).decode()
            parts += self._spelt[known], piece
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def write(
    folder: Path,
    *,
    epochs: int,
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, NDArray[Any]],
    weights: bytes | None,
    config: str,
    maps: bytes | None = None,
) -> Path:
    """Stores one result and gives the path of its JSON.

    A leftover of a writer that died is replaced; a damaged result is kept as `*.damaged`.

    Args:
        folder: Made as needed.
        epochs: Of training, the same in each row.
        rows: One per point.
        scores: `clip`, `section` and `label`, each of shape (clips,), and arrays like
            `score/latent` of shape (rows, clips). Of training clips, where they were scored,
            `train_section` and the like of shape (train clips,), and one `train_score/latent`.
        weights: The content of a safetensors file, or None where weights are not kept.
        config: The resolved config, as YAML.
        maps: The content of a file of anomaly maps (asdgan/training/maps.py), or None for a
            detector that draws none.

    Raises:
        FileExistsError: The folder holds a valid result of as many epochs.
        ValueError: A row lacks what a row must have, a number is NaN, or an array's shape
            disagrees.
        OSError: The disk refused, or is full.
    """
    if wrong := _wrong_rows({}, rows, epochs):
        raise ValueError(f"{folder} cannot be stored: {wrong}")
    signatures = [row["signature"] for row in rows]
    if len(set(signatures)) != len(signatures) or not rows:
        raise ValueError(f"{len(rows)} rows for {folder} with {len(set(signatures))} signatures")
    canonical([dict(row) for row in rows])  # refuses NaN before anything is written
    arrays = _as_npz(scores, len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epochs_{epochs:05d}.json"
    with _alone(folder):
        _make_room(path)
        files = {f"{path.stem}.scores.npz": arrays, "config.yaml": config.encode()}
        if weights is not None:
            files[f"{path.stem}.safetensors"] = weights
        if maps is not None:
            files[f"{path.stem}.maps.npz"] = maps
        present = folder / "config.yaml"
        if present.exists() and present.read_bytes() != files["config.yaml"]:
            # another reading's file, which its own JSON vouches for
            files[f"{path.stem}.config.yaml"] = files.pop("config.yaml")
        stated = {name: write_whole(folder / name, data) for name, data in sorted(files.items())}
        shared, own = _factored([dict(row) for row in rows])
        body = {"format": FORMAT, "epochs": epochs, "files": stated, "shared": shared, "rows": own}
        write_json(path, body)
    return path


def read(path: Path) -> Result:
    """A result, every file of which verifies.

    Raises:
        FileNotFoundError: There is no such result.
        Damaged: The JSON, or a file beside it, is not what was written; or it is not a result.
    """
    result = _listed(path)
    for name, stated in result.files.items():
        beside = path.parent / name
        try:
            found = sha256_of(beside)
        except OSError as error:
            raise Damaged(f"{beside}: cannot be read ({error.strerror})") from None
        if found != stated:
            raise Damaged(
                f"{beside}: sha256 {found[:12]} found, {stated[:12]} stated in {path.name}"
            )
    return result


def read_scores(result: Result) -> dict[str, NDArray[Any]]:
    """The arrays that were stored with a result, verified.

    Raises:
        Damaged: They are missing or not what was written.
    """
    data = _beside(result, f"{result.path.stem}.scores.npz")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def read_config(result: Result) -> str:
    """The resolved settings that a result was made with, as YAML, verified.

    Raises:
        Damaged: They are missing or not what was written.
    """
    own = f"{result.path.stem}.config.yaml"
    return _beside(result, own if own in result.files else "config.yaml").decode()


def read_weights(result: Result) -> bytes | None:
    """The content of a result's safetensors file, verified; None where weights are not kept.

    Raises:
        Damaged: They are missing or not what was written.
    """
    name = f"{result.path.stem}.safetensors"
    return _beside(result, name) if name in result.files else None


def read_maps(result: Result) -> dict[str, NDArray[Any]]:
    """The anomaly maps of a result's test clips, verified; empty where none were kept.

    Raises:
        Damaged: They are missing or not what was written.
    """
    name = f"{result.path.stem}.maps.npz"
    if name not in result.files:
        return {}
    with np.load(io.BytesIO(_beside(result, name)), allow_pickle=False) as arrays:
        return dict(arrays)


def _beside(result: Result, name: str) -> bytes:
    """The content of a file beside a result's JSON, verified."""
    path = result.path.with_name(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != result.files.get(name):
        raise Damaged(f"{path}: sha256 is not the one stated in {result.path.name}")
    return data


def each(root: Path, verify: bool = False) -> Iterator[tuple[Path, Result | str]]:
    """Every result below `root` as it is read, by path; for a file that is none, the reason.

    Args:
        root: As for `read_all`.
        verify: As for `read_all`.
    """
    for path in paths(root):
        try:
            result = read(path) if verify else _listed(path)
            if missing := [name for name in result.files if not (path.parent / name).is_file()]:
                raise Damaged(f"{path}: {', '.join(missing)} missing beside it")
        except (Damaged, OSError) as error:
            yield path, str(error).removeprefix(f"{path}: ")
        else:
            yield path, result


def read_all(root: Path, verify: bool = False) -> tuple[list[Result], list[tuple[Path, str]]]:
    """Every result below `root`, sorted by path, and the files that are not one, with the reason.

    Args:
        root: Searched whole, hidden folders and links left out; need not exist.
        verify: Also hash the files beside each JSON, which reads all scores and weights. Without
            it their presence is checked only.
    """
    results, refused = [], []
    for path, found in each(root, verify):
        if isinstance(found, Result):
            results.append(found)
        else:
            refused.append((path, found))
    return results, refused


def find(root: Path, signature: str) -> tuple[Path, dict[str, Any]] | None:
    """The first result below `root` with a point of this signature, if it verifies fully.

    Returns:
        The path of its JSON and the point's row; None where there is none.
    """
    for path in paths(root):
        try:
            if signature.encode() not in path.read_bytes():
                continue
            for row in read(path).rows:
                if row["signature"] == signature:
                    return path, row
        except (Damaged, OSError):
            continue
    return None


def paths(root: Path, kind: re.Pattern[str] = RESULT) -> list[Path]:
    """The files below a folder with names of a kind, sorted; what is hidden is passed over."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(folder, name) for name in names if kind.fullmatch(name)]
    return sorted(found)


def _listed(path: Path) -> Result:
    """A result whose JSON verifies; the files beside it are not looked at."""
    body = read_json(path)
    epochs, shared, rows, files = (body.get(key) for key in ("epochs", "shared", "rows", "files"))
    if body.get("format") != FORMAT or type(epochs) is not int or not isinstance(files, dict):
        raise Damaged(f"{path}: not a result of format {FORMAT} (format {body.get('format')!r})")
    for name, stated in files.items():
        if not (PLAIN_NAME.fullmatch(name) and isinstance(stated, str)):
            raise Damaged(f"{path}: names {name!r} as a file beside it")
    if not isinstance(rows, list) or not rows:
        raise Damaged(f"{path}: has no rows")
    if not isinstance(shared, dict):
        raise Damaged(f"{path}: what rows share is {type(shared).__name__}")
    if wrong := _wrong_rows(shared, rows, epochs):
        raise Damaged(f"{path}: {wrong}")
    return Result(path, epochs, files, shared, tuple(rows))


def _factored(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all rows say, and what each says beside it; the same one level down, in `settings`.

    A single row shares nothing: it stands as it is.
    """
    if len(rows) == 1:
        return {}, rows
    shared, own = _common(rows)
    if "settings" not in shared:
        settings, rest = _common([row["settings"] for row in rows])
        shared["settings"] = settings
        own = [row | {"settings": mine} for row, mine in zip(own, rest, strict=True)]
    return shared, own


def _common(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The entries that are the same text in every row, and the others of each."""
    same = {}
    for key, value in rows[0].items():
        text = canonical(value)
        if all(
            key in row and (row[key] is value or canonical(row[key]) == text) for row in rows[1:]
        ):
            same[key] = value
    rest = [{key: row[key] for key in row if key not in same} for row in rows]
    return same, rest


def _wrong_rows(shared: Mapping[str, Any], rows: Sequence[object], epochs: int) -> str | None:
    """What keeps rows from being some; None for good ones. What they share is looked at once."""
    if wrong := _wrong_values(shared, epochs):
        return wrong
    needed = ROW.keys() - shared.keys()
    for row in rows:
        if not isinstance(row, Mapping):
            return f"a row is {type(row).__name__}"
        if not needed <= row.keys():
            return f"a row has no {min(needed - row.keys(), key=[*ROW].index)!r}"
        if wrong := _wrong_values(row, epochs):
            return wrong
    return None


def _wrong_values(row: Mapping[str, Any], epochs: int) -> str | None:
    """What is wrong with what a row says, all of it or a part."""
    for key, value in row.items():
        kind = ROW.get(key)
        if kind is not None and (not isinstance(value, kind) or value is True or value is False):
            return f"a row's {key!r} is {value!r}"
    name, auc, pauc = (row.get(key) for key in ("signature", "auc", "pauc"))
    if name is not None and not SIGNATURE.fullmatch(name):
        return f"a row's signature is {name!r}"
    if row.get("epochs", epochs) != epochs:
        return f"a row of {row['epochs']} epochs in a result of {epochs}"
    for area, value in (("auc", auc), ("pauc", pauc)):
        if value is not None and not 0 <= value <= 1:
            return f"a row's {area!r} is {value!r}"
    return None


def _as_npz(scores: Mapping[str, NDArray[Any]], rows: int) -> bytes:
    if missing := {"clip", "section", "label"} - set(scores):
        raise ValueError(f"scores lack {', '.join(sorted(missing))}")
    counts = {False: len(scores["clip"]), True: len(scores.get("train_section", ()))}
    for name, array in scores.items():
        clips = counts[name.startswith("train_")]
        shape = (rows, clips) if "score/" in name else (clips,)
        if array.shape != shape or array.dtype.hasobject:
            raise ValueError(
                f"{name!r} has shape {array.shape} and type {array.dtype}, not {shape}"
            )
    stream, arrays = io.BytesIO(), dict[str, Any](scores)
    np.savez(stream, **arrays)
    return stream.getvalue()


def _make_room(path: Path) -> None:
    """Refuses where a valid result stands; moves a damaged one, and its files, aside."""
    try:
        read(path)
    except FileNotFoundError:
        return
    except Damaged:
        names = [path.name, f"{path.stem}.scores.npz", f"{path.stem}.safetensors"]
        for name in names:
            old, aside, turn = path.with_name(name), path.with_name(f"{name}.damaged"), 1
            while aside.exists():
                turn += 1
                aside = path.with_name(f"{name}.{turn}.damaged")
            if old.exists():
                os.replace(old, aside)
        return
    raise FileExistsError(f"{path} holds a finished result already, and results are written once")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer in a folder at a time: two would mix their files under one JSON."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # some network disks lock no folders; one writer in each is then the plan's duty
        yield
    finally:
        os.close(descriptor)


def _by_value(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The value with each number in one spelling."""
    if isinstance(value, Mapping):
        return {str(key): _by_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_by_value(item) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # -0.0 equals 0.0
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1024:
        return float(value) if float(value) == value else value
    return value
