"""Group MADE: the density of a window of log-mel frames, one frame given those before it."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asdgan.data.windows import Batch
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn.lanes import Draw, LaneAdam, initialise
from asdgan.nn.perceptrons import Masked, PlainDense, through

LOG_STD = (-7.0, 7.0)  # of a component, clamped: a band that hardly varies has no bound otherwise


class Gmade(Detector):
    """A masked autoencoder as a density; a sound is strange where it is improbable.

    The frames of a window are groups, put in an order. Masks let the outputs of a group see only
    the frames before it, so that the product of what they say is a density of the whole window:
    in each group every mel band has a Gaussian, or a mixture of Gaussians, of its own, given the
    groups before. With the centre frame last it is an interpolation with a spread. Loss and score
    are the negative log-likelihood per number; a clip's score is the mean over its windows.

    **Paper**: Giri et al., "Group masked autoencoder based density estimator for audio anomaly
    detection", DCASE Workshop 2020; the density part of their entry to DCASE 2020 Task 2.

    **Departures**: the paper was not at hand; this is built from descriptions of it. Unknown, and
    so ours: layer sizes, number of components (1 and 10 are what others took), the order of the
    frames, epochs and learning rate. Degrees of hidden units go round; weights begin as if none
    were masked. Mixtures begin with their means spread over the quantiles of N(0, 1): the first
    group has nothing but biases, and equal ones would stay equal. The logarithm of a standard
    deviation is clamped. Features are standardised by mel band over the training frames
    (`windows.feature_norm`), and the likelihood is that of standardised features.

    Args:
        seed: One, or one per lane.
        frames: Frames in a window, 2 at least.
        mels: Mel bands in a frame.
        hidden_layers: Hidden layers.
        hidden_width: Units in each.
        dropout: As in `Detector`.
        init: As in `lanes.initialise`, one or one per lane.
        init_std: Likewise.
        frame_order: `centre_last` (0, 1, 4, 3, 2 of five frames) or `natural`.
        n_components: Of each band's mixture; 1 for one Gaussian.
        primary: As in `Detector`.
        pool: Likewise.
        optimizer: Makes an optimiser from parameters.

    Raises:
        BadInput: A window has one frame only.
    """

    stackable = True

    def __init__(
        self,
        *,
        seed: int | Sequence[int],
        frames: int,
        mels: int,
        hidden_layers: int,
        hidden_width: int,
        dropout: float | Sequence[float],
        init: str | Sequence[str],
        init_std: float,
        frame_order: str,
        n_components: int,
        primary: str,
        pool: str,
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the masked network and fills it, lane by lane."""
        super().__init__(
            seed=seed, dropout=dropout, primary=primary, pool=pool, optimizer=optimizer
        )
        if frames < 2:
            raise BadInput(f"windows.frames={frames}: gmade needs a frame before another; take 5")
        ordered = order_of(frames, frame_order)
        self._components, self._width = n_components, hidden_width
        self._numbers = frames * mels
        self._centre = slice(ordered[-1] * mels, (ordered[-1] + 1) * mels)
        # A number is of degree g where its frame is the g-th; a unit of degree m sees those up to
        # m, and is seen by outputs above it.
        place = torch.tensor([ordered.index(frame) + 1 for frame in range(frames)])
        inputs = place.repeat_interleave(mels)
        hidden = torch.arange(hidden_width) % (frames - 1) + 1
        self._kinds = 2 if n_components == 1 else 3  # means, log-deviations, and maybe logits
        outputs = inputs.repeat(self._kinds * n_components)
        layers: list[nn.Module] = []
        before = inputs
        for _ in range(hidden_layers):
            linear = Masked(_mask(hidden[None, :] >= before[:, None]), lanes=self.lanes)
            layers.append(PlainDense(linear, dropout=self.dropout_rates))
            before = hidden
        layers.append(Masked(_mask(outputs[None, :] > before[:, None]), lanes=self.lanes))
        self.layers = nn.ModuleList(layers)
        initialise(self.layers, init=init, std=init_std, seed=seed, place=("layers",))
        self._spread_means()

    @torch.no_grad()
    def _spread_means(self) -> None:
        """Adds quantiles of N(0, 1) to the biases of a mixture's means."""
        output = self.layers[-1]
        assert isinstance(output, Masked)
        assert output.bias is not None
        count = self._components
        middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        means = torch.special.ndtri(middles).repeat_interleave(self._numbers)
        output.bias[..., : len(means)] += means.to(output.bias)

    def networks(self) -> dict[str, list[nn.Module]]:
        """One network."""
        return {"gmade": [self.layers]}

    def noise_columns(self) -> tuple[int, int]:
        """Dropout of every hidden layer."""
        return (len(self.layers) - 1) * self._width, 0

    def outputs(self, x: Tensor, draw: Draw | None) -> Tensor:
        """What each number is expected to be: means, log-deviations, logits of the components.

        Args:
            x: Windows, shape (..., windows, frames * mels).
            draw: Of a step, or None.

        Returns:
            Shape (*lanes, windows, 2 or 3, components, frames * mels); one Gaussian has no logit.
        """
        for layer in self.layers:
            x = through(layer, x, draw)
        return x.unflatten(-1, (self._kinds, self._components, self._numbers))

    def surprise(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Negative log-likelihood of each number of a window, shape (*lanes, windows, numbers)."""
        mean, log_std, *logits = self.outputs(x, draw).unbind(-3)
        log_std = log_std.clamp(*LOG_STD)
        apart = (x[..., None, :] - mean) * (-log_std).exp()
        each = -0.5 * apart.square() - log_std - 0.5 * math.log(2 * math.pi)
        if not logits:
            return -each.squeeze(-2)
        return -torch.logsumexp(logits[0].log_softmax(-2) + each, -2)

    def loss(self, x: Tensor, draw: Draw) -> Tensor:
        """The negative log-likelihood, shape lanes."""
        return self.surprise(x, draw).mean((-2, -1))

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Negative log-likelihood per number, of all frames and of the last in order."""
        surprise = self.surprise(batch.windows, None)
        return {"nll_all": surprise.mean(-1), "nll_last": surprise[..., self._centre].mean(-1)}


def order_of(frames: int, order: str) -> list[int]:
    """Numbers of the frames, in the order in which each is told from those before it."""
    if order == "natural":
        return list(range(frames))
    centre = frames // 2
    return [*range(centre), *range(frames - 1, centre, -1), centre]


def _mask(allowed: Tensor) -> Tensor:
    return allowed.to(torch.get_default_dtype())
