"""Health of adversarial training: what is measured in each epoch, and the verdict on a run.

A network that learns by losing to another can look trained and be none. Measured are, each epoch,
in one minibatch of eight, from what the training step computed anyway:

- `dead`: how many units of the code gave one and the same value for all windows of a minibatch;

of a discriminator, whose answers are logits (`Vitals`):

- `d_real`, `d_fake`: the shares of real windows and of imitations that it tells rightly;
- `balance`: its part of both adversarial losses; 0 where it wins, 1 where the generator does
  (only where the generator's is a cross-entropy);

of a Wasserstein critic, whose answers are rightly of any size (`CriticVitals`):

- `gap`: how much more it gives a real window than its imitation, by the distance of the two. A
  critic of slope 1 cannot give more than that: from 0, where it tells nothing, to 1;
- `slope`: how far its slope is from 1, in root mean square: what its gradient penalty holds down;
- `pull`: the root mean square of the numbers in the generator's gradients;

and as an epoch ends:

- `spread`: how far the scores of its last minibatch's windows lie apart, as a part of their mean;
- `births`: how often the discriminator was given fresh weights so far.

A verdict names what holds at the end and since when: what an epoch mended is no verdict. Losses
that are not finite need none: they end a run.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "health/"  # of measures among the losses in a detector's history
EVERY = 8  # of so many minibatches one is looked at; a look takes ten small operations
SATURATED = 0.99  # share told rightly, of both kinds, where an even fight has about 0.5
OUTWEIGHED = 0.01  # of both losses; an even fight has 0.5 (mean) or 0.67 (sum of two terms)
STILL = 1e-5  # of a unit's values: a hundred times the rounding of float32
# On the demo plant a sound critic's gap goes from 0.006 in its first epoch to 0.27 in the twelfth,
# its slope is off by 0.7 and then by 0.1 to 0.2, and the generator feels a pull of 1e-5 to 1e-3.
BLIND = 1e-3  # of the gap that a slope of 1 allows
STEEP = 2.0  # from a slope of 1: twice as far as the flattest critic is, so that it must be steep
IDLE = 1e-8  # Adam's usual eps, below which its steps shrink with the gradients
CONSTANT = 1e-3  # of the mean score: between windows of the demo plant it is 0.03 to 0.8


class Vitals(NamedTuple):
    """What one training step shows of itself; nothing of it is differentiated.

    Attributes:
        logit_real: The discriminator's logits of real windows, shape (*lanes, windows, 1).
        logit_fake: Of imitations, likewise.
        code: Shape (*lanes, windows, units).
        loss_d: The discriminator's loss, shape lanes.
        adv: The generator's cross-entropy, shape lanes; None where it learns by another distance.
        births: As `adversarial.Rebirth` counts them; None where there is no such rule.
    """

    logit_real: "Tensor"
    logit_fake: "Tensor"
    code: "Tensor"
    loss_d: "Tensor"
    adv: "Tensor | None"
    births: "Tensor | None"


class CriticVitals(NamedTuple):
    """What one training step with a critic shows of itself; likewise.

    Attributes:
        gap: How much more the critic gives real windows than their imitations, in the mean, shape
            lanes.
        distance: From a real window to its imitation, Euclidean, in the mean; likewise.
        penalty: The mean of (slope - 1)^2; likewise.
        pull: The root mean square of the numbers in the generator's gradients; likewise.
        code: Shape (*lanes, windows, units).
    """

    gap: "Tensor"
    distance: "Tensor"
    penalty: "Tensor"
    pull: "Tensor"
    code: "Tensor"


def of_minibatch(vitals: Vitals | CriticVitals) -> dict[str, "Tensor"]:
    """The measures of one minibatch, each of shape lanes."""
    high, low = vitals.code.amax(-2), vitals.code.amin(-2)  # (*lanes, units)
    like = vitals.code.dtype
    dead = (high - low <= STILL * (high.abs() + low.abs())).sum(-1).to(like)
    if isinstance(vitals, CriticVitals):
        return {
            "gap": vitals.gap / vitals.distance.clamp_min(1e-30),
            "slope": vitals.penalty.sqrt(),
            "pull": vitals.pull,
            "dead": dead,
        }
    measures = {
        "d_real": (vitals.logit_real > 0).to(like).mean((-2, -1)),
        "d_fake": (vitals.logit_fake < 0).to(like).mean((-2, -1)),
        "dead": dead,
    }
    if vitals.adv is not None:
        measures["balance"] = vitals.loss_d / (vitals.loss_d + vitals.adv)
    return measures


def of_epoch(vitals: Vitals | CriticVitals, scores: "Tensor") -> dict[str, "Tensor"]:
    """The measures of an epoch's end, each of shape lanes.

    Args:
        vitals: Of its last step.
        scores: Of the last minibatch's windows by the primary component, shape (*lanes, windows).
    """
    spread = scores.std(-1) / scores.abs().mean(-1).clamp_min(1e-30)  # of all zeros it is 0
    births = vitals.births if isinstance(vitals, Vitals) else None
    return {"spread": spread, **({} if births is None else {"births": births})}


def of_lane(history: Mapping[str, Sequence["Tensor"]], lane: int) -> dict[str, list[float]]:
    """What a detector's history holds of one lane: from each measure to its value in every epoch.

    Values have three digits: of 250,000 rows each says them.
    """
    return {
        name.removeprefix(PREFIX): [_brief(float(value.reshape(-1)[lane])) for value in values]
        for name, values in history.items()
        if name.startswith(PREFIX)
    }


def _brief(value: float) -> float:
    value = float(f"{value:.3g}") if abs(value) < 100 else float(round(value))
    return int(value) if value.is_integer() else value


def verdict(health: Mapping[str, Sequence[float]], units: int) -> list[str]:
    """What ails one run, a sentence each; empty for a sound one, or where nothing was measured.

    Args:
        health: From each measure to its value in every epoch.
        units: Of the code.
    """
    if not health:
        return []
    both = zip(health.get("d_real", ()), health.get("d_fake", ()), strict=True)
    gap, slope, pull = (health.get(name, ()) for name in ("gap", "slope", "pull"))
    said = [
        ("discriminator saturated at epoch {}", [min(pair) >= SATURATED for pair in both]),
        (
            "discriminator outweighs the generator from epoch {}",
            [part <= OUTWEIGHED for part in health.get("balance", ())],
        ),
        (
            "generator outweighs the discriminator from epoch {}",
            [part >= 1 - OUTWEIGHED for part in health.get("balance", ())],
        ),
        ("critic tells nothing apart from epoch {}", [part <= BLIND for part in gap]),
        ("critic's slope runs away from epoch {}", [off >= STEEP for off in slope]),
        ("generator learns nothing from epoch {}", [size <= IDLE for size in pull]),
        (
            f"{round(health['dead'][-1])} of {units} code units dead from epoch {{}}",
            [round(count) > 0 for count in health["dead"]],
        ),
        ("scores constant from epoch {}", [spread <= CONSTANT for spread in health["spread"]]),
    ]
    sentences = [text.format(epoch) for text, holds in said if (epoch := _since(holds))]
    if births := int(health.get("births", [0])[-1]):
        sentences.append(f"discriminator given fresh weights {births} times")
    return sentences


def _since(holds: Sequence[bool]) -> int | None:
    """The first epoch, counted from 1, from which on it held to the end; None if it does not."""
    epoch = len(holds)
    while epoch and holds[epoch - 1]:
        epoch -= 1
    return epoch + 1 if epoch < len(holds) else None
