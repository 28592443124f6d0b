"""What log-mel frames are made with: settings alone, so that checking them loads nothing heavy."""

from dataclasses import dataclass

from asdgan.errors import BadInput

SMALLEST = 2.0**-126  # float32's smallest normal number
CHOICES = {
    "mel_scale": ("slaney", "htk", "none"),
    "mel_norm": ("slaney", "none"),
    "pad_mode": ("reflect", "constant"),
    "floor": ("add", "max", "none"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMel:
    """The settings of `features.log_mel`, as in `conf/features/logmel.yaml`.

    Args:
        sample_rate: In Hz.
        n_fft: Frame length, in samples.
        hop: Distance between neighbouring frames, in samples, at most `n_fft`.
        mels: Bands between 0 Hz and `sample_rate / 2`, at most `n_fft // 2 + 1`.
        power: Exponent of the magnitude: 2 for energy, 1 for amplitude.
        mel_scale: `slaney` or `htk`; `none` for the bins of the spectrum themselves, which are
            n_fft // 2 + 1, and `mels` has to say so.
        mel_norm: `slaney`, where every band has the same area, or `none`.
        pad_mode: What the frames at a clip's ends see beyond it: `reflect` or `constant` (zeros).
        floor: The logarithm is of mel + eps (`add`) or of max(mel, eps) (`max`); `none` takes no
            logarithm.
        eps: In the unit of mel; at least float32's smallest, 1.2e-38, or silence would give -inf.
        resample: Whether wavs of another rate are converted or refused.
        top_db: What lies farther below the loudest value of its clip, in dB, is raised to there;
            None for no such bound.

    Raises:
        BadInput: Some are out of range; all of those are listed.
    """

    sample_rate: int
    n_fft: int
    hop: int
    mels: int
    power: float
    mel_scale: str
    mel_norm: str
    pad_mode: str
    floor: str
    eps: float
    resample: bool
    top_db: float | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        wrong: dict[str, str] = {}
        for name in ("sample_rate", "n_fft", "hop", "mels"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                wrong[name] = "a whole number above 0"
        for name, least in (("power", 1e-3), ("eps", SMALLEST)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value < float("inf"):
                wrong[name] = f"a number from {least:.2g} on"
            else:  # 2 and 2.0 must not be two settings
                object.__setattr__(self, name, float(value))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                wrong[name] = " or ".join(choices)
        if type(self.resample) is not bool:
            wrong["resample"] = "true or false"
        if not wrong.keys() & {"hop", "n_fft"} and self.hop > self.n_fft:
            wrong["hop"] = f"at most n_fft={self.n_fft}"
        if not wrong.keys() & {"mels", "n_fft"} and self.mels > self.n_fft // 2 + 1:
            wrong["mels"] = f"at most n_fft // 2 + 1 = {self.n_fft // 2 + 1}"
        if not wrong.keys() & {"mels", "n_fft", "mel_scale"}:
            if self.mel_scale == "none" and self.mels != self.n_fft // 2 + 1:
                wrong["mels"] = f"{self.n_fft // 2 + 1}, the bins of a spectrum, as mel_scale=none"
        if self.top_db is not None:
            if type(self.top_db) not in (int, float) or not 0 < self.top_db < float("inf"):
                wrong["top_db"] = "null or a number above 0"
            elif self.floor == "none":
                wrong["top_db"] = "null, as floor=none takes no logarithm"
            else:
                object.__setattr__(self, "top_db", float(self.top_db))
        if wrong:
            found = ", ".join(f"{k}={getattr(self, k)!r} ({v} expected)" for k, v in wrong.items())
            raise BadInput(f"features out of range: {found}; change them in the config")


def too_short(samples: int, settings: LogMel) -> str:
    """What to say of a clip that is shorter than a frame."""
    seconds = samples / settings.sample_rate
    return (
        f"{samples} samples ({seconds:.3f} s), but at least n_fft={settings.n_fft} are needed; "
        "leave the clip out, or use a smaller n_fft"
    )


def too_few(frames: int, window: int) -> str:
    """What to say of a clip that has fewer frames than a window."""
    return (
        f"{frames} frames, but one window takes {window}; "
        "leave the clip out or lower windows.frames"
    )
