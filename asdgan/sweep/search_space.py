"""What a search may vary, as it is typed: an interval, a range, or choices."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from asdgan.config.rules import Rule
from asdgan.errors import BadInput

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = int | float | str | bool | None

MULTIPLIED = ("epochs", "machine", "seed")  # a trial is tried at each of them, not at one


@dataclass(frozen=True)
class Dimension:
    """A setting that a search varies.

    Attributes:
        key: Of the setting.
        choices: Its values as typed; empty for an interval.
        low: Lower end of an interval, itself allowed.
        high: Its upper end.
        log: Whether the interval is searched on a logarithmic scale.
        step: From one value to the next, for whole numbers; 0 for any number between the ends.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: int = 0

    @property
    def ends(self) -> tuple[str, ...]:
        """Values between which all others lie, as text: what can be checked beforehand."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def text(self, value: Value) -> str:
        """A value as it is typed."""
        if self.step and isinstance(value, int | float):
            value = int(value)
        return value if isinstance(value, str) else repr(value)

    def under(self, rules: Iterable[Rule]) -> "Dimension":
        """Itself, and over whole numbers where one of these rules takes no others.

        Hydra makes floats of the ends of interval(8,64); int(interval(8,64)) keeps them whole.
        """
        low, high = int(self.low), int(self.high)
        if self.choices or self.step or (low, high) != (self.low, self.high):
            return self
        whole = any(rule.holds(high) and not rule.holds(float(high)) for rule in rules)
        return replace(self, step=int(whole))

    def distribution(self) -> "BaseDistribution":
        """As Optuna has it; choices by their text."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.step:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=self.step)
        return FloatDistribution(self.low, self.high, log=self.log)


def dimension_of(override: Override) -> Dimension:
    """The dimension that an override with several values stands for.

    Raises:
        BadInput: No search can go over it.
    """
    key, typed, swept = override.get_key_element(), override.input_line, override.value()
    if key.partition("@")[0].partition(".")[0] in ("dataset", "outputs", "trainer", "logger"):
        raise BadInput(f"{typed}: a search goes over settings of detectors, not over {key}")
    logarithmic = "log" in (getattr(swept, "tags", None) or ())
    if isinstance(swept, IntervalSweep):
        low, high = swept.start, swept.end
        if low is None or high is None or not low < high:
            raise BadInput(f"{typed}: an interval goes from a lower to a higher value")
        if logarithmic and low <= 0:
            raise BadInput(f"{typed}: a logarithmic interval begins above 0")
        whole = isinstance(low, int) and isinstance(high, int)
        return Dimension(key, (), low, high, logarithmic, int(whole))
    texts = tuple(dict.fromkeys(str(text) for text in override.sweep_string_iterator()))
    if isinstance(swept, RangeSweep) and len(texts) > 1 and isinstance(swept.step, int):
        values = sorted(int(text) for text in texts)
        return Dimension(key, (), values[0], values[-1], False, abs(swept.step))
    return Dimension(key, texts)
