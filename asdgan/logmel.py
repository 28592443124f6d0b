"""What log-mel frames are made with: settings alone, so that checking them loads nothing heavy."""

from dataclasses import dataclass

from asdgan.errors import BadInput

SMALLEST = 2.0**-126  # float32's smallest normal number
CHOICES = {
    "mel_scale": ("slaney", "htk"),
    "mel_norm": ("slaney", "none"),
    "pad_mode": ("reflect", "constant"),
    "floor": ("add", "max"),
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
        mel_scale: `slaney` or `htk`.
        mel_norm: `slaney`, where every band has the same area, or `none`.
        pad_mode: What the frames at a clip's ends see beyond it: `reflect` or `constant` (zeros).
        floor: The logarithm is of mel + eps (`add`) or of max(mel, eps) (`max`).
        eps: In the unit of mel; at least float32's smallest, 1.2e-38, or silence would give -inf.
        resample: Whether wavs of another rate are converted or refused.

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
