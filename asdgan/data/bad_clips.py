"""Clips that can be listened to, and those that are left out, each with the reason.

With `dataset.bad_clips=strict` the first bad clip ends a run with its sentence, and this room is
not asked. With `skip` it is asked first, so that the table, its fingerprint and everything made of
them are of the same clips in every process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asdgan._system.file_cache import Known
from asdgan._system.files import locked
from asdgan.data import folders
from asdgan.data.clips import Clip
from asdgan.data.log_mel import LogMel, too_few, too_short
from asdgan.data.wav import STRICTNESS, checked_length
from asdgan.errors import BadInput


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A clip that cannot be used, and why: its sentence without the path in front."""

    clip: Clip
    why: str


def sieved(
    clips: Sequence[Clip],
    settings: LogMel,
    *,
    window: int,
    root: Path,
    store: Path,
    on_clip: Callable[[int], object],
) -> tuple[tuple[Clip, ...], tuple[LeftOut, ...]]:
    """The clips that can be used, in their order, and the others.

    Every sample of a clip is looked at once, by whichever process asks first; the others wait.

    Args:
        clips: Of one machine type, all heard by one channel.
        settings: Of the features.
        window: Frames that a clip has to have at least.
        root: The data root.
        store: A JSON file of what was found, as `known` keeps it.
        on_clip: Told how many more were looked at.

    Raises:
        BadInput: Nothing is left of the clips, of a split of them, or of a section in a split.
        OSError: The store cannot be written.
    """
    kept, left = [], []
    how = [STRICTNESS, settings.sample_rate, settings.resample, clips[0].channel]
    with locked(store.with_suffix(".lock")):
        known = Known(store, f"{how} ")
        try:
            for clip in clips:
                why = _why(clip, settings, window, root, known)
                if why is None:
                    kept.append(clip)
                else:
                    left.append(LeftOut(clip, why))
                on_clip(1)
        finally:  # whoever is stopped here goes on from here
            known.save()
    _refuse_nothing(clips, left)
    return tuple(kept), tuple(left)


def _why(clip: Clip, settings: LogMel, window: int, root: Path, known: Known) -> str | None:
    """Why a clip is bad, or None."""
    try:
        folders.refuse_unfit(clip.path, root)
        now = clip.path.stat()
        found = known.get(clip.path, now)
        if found is None:
            found = _length(clip, settings)
            known.put(clip.path, now, found)
    except (BadInput, OSError) as error:  # of the system; another time it may give the file
        found = _without_path(clip.path, str(error))
    if isinstance(found, str):
        return found
    if found < settings.n_fft:
        return too_short(found, settings)
    frames = found // settings.hop + 1
    return too_few(frames, window) if frames < window else None


def _length(clip: Clip, settings: LogMel) -> int | str:
    """Samples at the wanted rate, or what is wrong with the file's content."""
    try:
        return checked_length(
            clip.path,
            sample_rate=settings.sample_rate,
            resample=settings.resample,
            channel=clip.channel,
        )
    except BadInput as error:
        if isinstance(error.__cause__, OSError):
            raise
        return _without_path(clip.path, str(error))


def _without_path(path: Path, sentence: str) -> str:
    plain = sentence.removeprefix(f"{path}: ")
    return plain.encode(errors="backslashreplace").decode()


def _refuse_nothing(clips: Sequence[Clip], left: Sequence[LeftOut]) -> None:
    """A section without clips would vanish from a result, and a mean over sections with it."""
    bad = {one.clip: one.why for one in left}
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        of_split = f"{clip.split} clips"
        for group in ("clips", of_split, f"{of_split} of section {clip.section}"):
            groups.setdefault(group, []).append(clip)
    for group, mine in sorted(groups.items(), key=lambda item: len(item[0])):
        if bad.keys() >= set(mine):
            raise BadInput(
                f"{mine[0].machine_type}: nothing is left of {len(mine)} {group}, because all are "
                f"bad; the first: {mine[0].path}: {bad[mine[0]]}"
            )
