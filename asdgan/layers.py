"""Blocks of fully connected networks that two or more detectors share.

All are built on `lanes`: with lanes = () plain layers, else many models at once. `forward` takes
the `Draw` of a training step, or None for scoring.
"""

import torch
from torch import Tensor, nn

from asdgan.lanes import Draw, Linear, Norm, affine, kept


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
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        lanes: tuple[int, ...],
        dropout: Tensor | None,
        bias: bool = False,
    ) -> None:
        """Makes zero weights; `lanes.initialise` fills them."""
        super().__init__()
        self.linear = Linear(inputs, outputs, lanes=lanes, bias=bias)
        self.norm = Norm(outputs, lanes=lanes, dropout=dropout)

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Shape (*lanes, windows, inputs) to (*lanes, windows, outputs)."""
        return self.norm(self.linear(x), draw)


class PlainDense(nn.Module):
    """Linear, ReLU, dropout: for networks where batch statistics would leak."""

    dropout: Tensor

    def __init__(self, linear: Linear, *, dropout: Tensor) -> None:
        """Takes the linear map."""
        super().__init__()
        self.linear = linear
        self.register_buffer("dropout", dropout, persistent=False)

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Shape (*lanes, windows, inputs) to (*lanes, windows, outputs)."""
        y = torch.relu(self.linear(x))
        keep = None if draw is None else kept(self.dropout, draw, y.shape[-1])
        return y if keep is None else y * keep


class Perceptron(nn.Module):
    """Hidden layers of equal width, then an output layer.

    Args:
        inputs: Features in.
        outputs: Features out.
        hidden: Widths of the hidden layers.
        lanes: Leading shape of the parameters.
        dropout: Rates of the hidden layers, shape (*lanes, 1, 1).
        output: `linear`, or `norm` for batch normalisation and ReLU behind it (no dropout).
        norm: Batch normalisation in the hidden layers.
        bias: A bias in front of each batch normalisation (see `Dense`).
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
    ) -> None:
        """Makes zero weights; `lanes.initialise` fills them."""
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for i, o in zip(widths, hidden, strict=False):
            if norm:
                layers.append(Dense(i, o, lanes=lanes, dropout=dropout, bias=bias))
            else:
                linear = Linear(i, o, lanes=lanes, bias=True)
                layers.append(PlainDense(linear, dropout=dropout))
        self.hidden = nn.ModuleList(layers)
        if output == "norm":
            self.output = Dense(widths[-1], outputs, lanes=lanes, dropout=None, bias=bias)
        else:
            self.output = Linear(widths[-1], outputs, lanes=lanes, bias=True)
        self.dropped = sum(hidden)  # columns of uniform noise that one pass takes

    def features(self, x: Tensor, draw: Draw | None) -> Tensor:
        """The last hidden layer, shape (*lanes, windows, width)."""
        for layer in self.hidden:
            x = layer(x, draw)
        return x

    def finish(self, features: Tensor, draw: Draw | None) -> Tensor:
        """The output layer on top of `features`."""
        if isinstance(self.output, Dense):
            return self.output(features, draw)
        return self.output(features)

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Shape (*lanes, windows, inputs) to (*lanes, windows, outputs)."""
        return self.finish(self.features(x, draw), draw)


class Standardise(nn.Module):
    """Each mel band brought to mean 0 and standard deviation 1 over the training frames.

    All lanes listen to the same frames: what they keep is equal, and the first one's is used.

    Args:
        mels: Bands of a frame.
        lanes: Leading shape of what is kept.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mels: int, *, lanes: tuple[int, ...]) -> None:
        """Starts as the identity."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(*lanes, mels))
        self.register_buffer("deviation", torch.ones(*lanes, mels))

    @torch.no_grad()
    def fit(self, frames: Tensor) -> None:
        """Learns from frames, shape (frames, mels); a band that never changes is only shifted."""
        pieces = frames.split(1 << 16)  # in float64 all of them would take twice their memory
        mean = torch.stack([piece.double().sum(0) for piece in pieces]).sum(0) / len(frames)
        squares = [(piece.double() - mean).square().sum(0) for piece in pieces]
        deviation = (torch.stack(squares).sum(0) / len(frames)).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Windows, shape (..., frames * mels), in and out."""
        mels = self.mean.shape[-1]
        mean, deviation = self.mean.view(-1, mels)[0], self.deviation.view(-1, mels)[0]
        return ((x.unflatten(-1, (-1, mels)) - mean) / deviation).flatten(-2)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over the last two axes: one number a lane."""
    return (a - b).abs().mean((-2, -1))


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over the last two axes: one number a lane."""
    return (a - b).square().mean((-2, -1))


def window_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over features: shape (*lanes, windows)."""
    return (a - b).abs().mean(-1)


def window_l2(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over features: shape (*lanes, windows)."""
    return (a - b).square().mean(-1)
