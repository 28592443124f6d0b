"""Blocks of fully connected networks that two or more detectors share.

All are built on `lanes`: with lanes = () plain layers, else many models at once. `forward` takes
the `Draw` of a training step, or None for scoring.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from asdgan.nn.lanes import Draw, Linear, Norm, affine, kept, rectified

VECTOR = 32  # float32 numbers that a kernel of torch takes at once, at most (two of AVX-512)
CODES = {"bn_relu": "norm", "linear": "linear"}  # `latent_activation` as a layer's `output`


def in_whole_vectors(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An elementwise function, whose bits in one lane do not depend on how many lanes there are.

    On a CPU torch takes 32 numbers at a time, and what is left at the end one by one, by another
    exponential. A lane filled up to whole blocks never stands among what is left.
    """
    windows, features = x.shape[-2:]
    rest = -windows % (VECTOR // math.gcd(VECTOR, features))
    if x.dim() < 3 or not rest:
        return function(x)
    return function(nn.functional.pad(x, (0, 0, 0, rest)))[..., :windows, :]


class Masked(Linear):
    """A linear map some of whose weights are not there: neither values nor gradients pass.

    Args:
        mask: Shape (inputs, outputs), 1 where there is a weight and 0 where there is none.
        lanes: Leading shape of the parameters.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, lanes: tuple[int, ...]) -> None:
        """Makes zero parameters; `lanes.initialise` fills them as if all were there."""
        inputs, outputs = mask.shape
        super().__init__(inputs, outputs, lanes=lanes, bias=True)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """As `Linear`."""
        return affine(x, self.weight * self.mask, self.bias)


class Dense(nn.Module):
    """Linear, batch normalisation, ReLU, dropout.

    Args:
        inputs: Features in.
        outputs: Features out.
        lanes: Leading shape of the parameters.
        dropout: Rates, shape (*lanes, 1, 1), or None for a layer that never drops.
        bias: Whether the linear map has one. In front of a batch normalisation it changes
            nothing in function and its gradient is rounding noise, which Adam turns into steps:
            only where published weights must load.
        slope: Of the activation below 0; 0 for ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        lanes: tuple[int, ...],
        dropout: Tensor | None,
        bias: bool = False,
        slope: float = 0.0,
    ) -> None:
        """Makes zero weights; `lanes.initialise` fills them."""
        super().__init__()
        self.linear = Linear(inputs, outputs, lanes=lanes, bias=bias)
        self.norm = Norm(outputs, lanes=lanes, dropout=dropout, slope=slope)

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Shape (*lanes, windows, inputs) to (*lanes, windows, outputs)."""
        return self.norm(self.linear(x), draw)


class PlainDense(nn.Module):
    """Linear, ReLU, dropout: for networks where batch statistics would leak."""

    dropout: Tensor

    def __init__(self, linear: Linear, *, dropout: Tensor, slope: float = 0.0) -> None:
        """Takes the linear map."""
        super().__init__()
        self._slope = slope
        self.linear = linear
        self.register_buffer("dropout", dropout, persistent=False)

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Shape (*lanes, windows, inputs) to (*lanes, windows, outputs)."""
        y = rectified(self.linear(x), self._slope)
        keep = None if draw is None else kept(self.dropout, draw, y.shape[-1])
        return y if keep is None else y * keep


class Squashed(Linear):
    """Linear, then tanh."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*lanes, windows, inputs) to (*lanes, windows, outputs), from -1 to 1."""
        return in_whole_vectors(torch.tanh, super().forward(x))


def last_layer(
    output: str, inputs: int, outputs: int, *, lanes: tuple[int, ...], bias: bool = False
) -> Dense | Linear:
    """The layer that ends a network: `linear`, `tanh`, or `norm` for a `Dense` without dropout."""
    if output == "norm":
        return Dense(inputs, outputs, lanes=lanes, dropout=None, bias=bias)
    kind = {"linear": Linear, "tanh": Squashed}[output]
    return kind(inputs, outputs, lanes=lanes, bias=True)


def hidden_layer(
    inputs: int,
    outputs: int,
    *,
    lanes: tuple[int, ...],
    dropout: Tensor,
    norm: bool,
    bias: bool = False,
    slope: float = 0.0,
) -> nn.Module:
    """A `Dense`, or without `norm` a `PlainDense`, which always has a bias."""
    if norm:
        return Dense(inputs, outputs, lanes=lanes, dropout=dropout, bias=bias, slope=slope)
    linear = Linear(inputs, outputs, lanes=lanes, bias=True)
    return PlainDense(linear, dropout=dropout, slope=slope)


def through(layer: nn.Module, x: Tensor, draw: Draw | None) -> Tensor:
    """What a layer makes of `x`; a `Linear` takes no noise."""
    return layer(x) if isinstance(layer, Linear) else layer(x, draw)


class Perceptron(nn.Module):
    """Hidden layers of equal width, then an output layer.

    Args:
        inputs: Features in.
        outputs: Features out.
        hidden: Widths of the hidden layers.
        lanes: Leading shape of the parameters.
        dropout: Rates of the hidden layers, shape (*lanes, 1, 1).
        output: As in `last_layer`.
        norm: Batch normalisation in the hidden layers.
        bias: A bias in front of each batch normalisation (see `Dense`).
        slope: Of the hidden activations below 0; 0 for ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: list[int],
        lanes: tuple[int, ...],
        dropout: Tensor,
        output: str,
        norm: bool = True,
        bias: bool = False,
        slope: float = 0.0,
    ) -> None:
        """Makes zero weights; `lanes.initialise` fills them."""
        super().__init__()
        widths = [inputs, *hidden]
        shared = {"lanes": lanes, "dropout": dropout, "norm": norm, "bias": bias, "slope": slope}
        self.hidden = nn.ModuleList(
            hidden_layer(i, o, **shared) for i, o in zip(widths, hidden, strict=False)
        )
        self.output = last_layer(output, widths[-1], outputs, lanes=lanes, bias=bias)
        self.dropped = sum(hidden)  # columns of uniform noise that one pass takes

    def features(self, x: Tensor, draw: Draw | None) -> Tensor:
        """The last hidden layer, shape (*lanes, windows, width)."""
        for layer in self.hidden:
            x = layer(x, draw)
        return x

    def finish(self, features: Tensor, draw: Draw | None) -> Tensor:
        """The output layer on top of `features`."""
        return through(self.output, features, draw)

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Shape (*lanes, windows, inputs) to (*lanes, windows, outputs)."""
        return self.finish(self.features(x, draw), draw)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over the last two axes: one number a lane."""
    return (a - b).abs().mean((-2, -1))


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over the last two axes: one number a lane."""
    return (a - b).square().mean((-2, -1))


def l1_norm(a: Tensor, b: Tensor) -> Tensor:
    """Sum of absolute differences over features, averaged over windows: one number a lane."""
    return (a - b).abs().sum(-1).mean(-1)


def l2_norm(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance over features, averaged over windows: one number a lane."""
    return torch.linalg.vector_norm(a - b, dim=-1).mean(-1)  # its gradient at 0 is 0


REDUCTIONS = {"mean": (l1, l2), "norm": (l1_norm, l2_norm)}  # L1 and L2 of a loss


def window_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over features: shape (*lanes, windows)."""
    return (a - b).abs().mean(-1)


def window_l2(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over features: shape (*lanes, windows)."""
    return (a - b).square().mean(-1)
