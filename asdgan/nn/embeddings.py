"""Networks that give a window an embedding, and the loss with a margin by which they learn.

All take images of shape (windows, channels, mels, frames) and return (windows, width). They are
torch's own layers and draw from torch's own generator, which `lanes.keyed` sets for a while: one
model at a time, never a stack.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_metric_learning.losses import ArcFaceLoss
from torch import Tensor, nn

from asdgan.errors import BadInput


def make(
    network: str, networks: Mapping[str, Mapping[str, Any]], *, mels: int, frames: int
) -> "Embedding":
    """One of `NETWORKS`, for windows of one channel.

    Args:
        network: Its name.
        networks: Settings of each by name, without those of `MobileFaceNet.excited`.
        mels: Bands in a frame.
        frames: Frames in a window.

    Raises:
        BadInput: There is no such network, or it cannot take such windows.
    """
    if network not in NETWORKS:
        raise BadInput(f"model.network={network} is not known; there are {', '.join(NETWORKS)}")
    settings = networks[network.removesuffix("_se")]
    return NETWORKS[network](**settings, channels=1, mels=mels, frames=frames)


class Embedding(nn.Module):
    """What all networks here share.

    Attributes:
        width: Of the embedding.
    """

    width: int


# MobileFaceNet ----------------------------------------------------------------------------------


class _Convolution(nn.Sequential):
    """Convolution without bias, batch normalisation, and a PReLU per channel unless linear."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        """Makes the layers, filled as for a ReLU by the number of their outputs."""
        convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False
        )
        area = math.prod(convolution.kernel_size)
        nn.init.normal_(convolution.weight, std=math.sqrt(2 / (area * outputs)))
        activation = [] if linear else [nn.PReLU(outputs)]
        super().__init__(convolution, nn.BatchNorm2d(outputs), *activation)


class Squeeze(nn.Sequential):
    """Squeeze and excitation: every channel weighted by what the means of all channels say.

    Args:
        channels: In and out.
        hidden: Units in between.
        axes: How many axes follow the channels: 2 of an image, 1 of a series.
    """

    def __init__(self, channels: int, hidden: int, *, axes: int) -> None:
        """Makes the layers."""
        convolution = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
        super().__init__(
            convolution(channels, hidden, 1),
            nn.ReLU(),
            convolution(hidden, channels, 1),
            nn.Sigmoid(),
        )
        self._over = tuple(range(-axes, 0))

    def forward(self, input: Tensor) -> Tensor:
        """Shape (windows, channels, ...) in and out."""
        return input * super().forward(input.mean(self._over, keepdim=True))


class _Bottleneck(nn.Sequential):
    """An inverted residual: wider, one filter a channel, narrow again; added where it fits."""

    def __init__(
        self, inputs: int, outputs: int, *, expansion: int, stride: int, squeeze: int | None
    ) -> None:
        """Makes the layers; `squeeze` divides the wide channels for an excitation, or is None."""
        wide = expansion * inputs
        excitation = [Squeeze(wide, max(1, wide // squeeze), axes=2)] if squeeze else []
        super().__init__(
            _Convolution(inputs, wide),
            _Convolution(wide, wide, kernel=3, stride=stride, padding=1, groups=wide),
            *excitation,
            _Convolution(wide, outputs, linear=True),
        )
        self._adds = stride == 1 and inputs == outputs

    def forward(self, input: Tensor) -> Tensor:
        """Shape (windows, channels, rows, columns)."""
        output = super().forward(input)
        return input + output if self._adds else output


class MobileFaceNet(Embedding):
    """Inverted residuals, then one filter a channel as large as what is left of the window.

    **Source**: Chen et al., "MobileFaceNets", CCBR 2018; sizes and initial weights as in the
    STgram-MFN repository. Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.

    Args:
        channels: Of the image.
        mels: Rows of the image.
        frames: Its columns.
        blocks: For each group of bottlenecks its expansion, channels, repeats, and the stride of
            the first.
        last: Channels in front of the large filter.
        width: Of the embedding.
        stem: Channels of the first two convolutions.
        squeeze: Wide channels for each hidden unit of the excitation.
        excited: Whether bottlenecks are squeezed and excited.
    """

    def __init__(
        self,
        *,
        channels: int,
        mels: int,
        frames: int,
        blocks: Sequence[Sequence[int]],
        last: int,
        width: int,
        stem: int,
        squeeze: int,
        excited: bool,
    ) -> None:
        """Makes the network."""
        super().__init__()
        self.width = width
        layers: list[nn.Module] = [
            _Convolution(channels, stem, kernel=3, stride=2, padding=1),
            _Convolution(stem, stem, kernel=3, padding=1, groups=stem),
        ]
        left, inputs = [_strided(mels, 2), _strided(frames, 2)], stem
        for expansion, outputs, repeats, first in blocks:
            for repeat in range(repeats):
                stride = first if repeat == 0 else 1
                layers.append(
                    _Bottleneck(
                        inputs,
                        outputs,
                        expansion=expansion,
                        stride=stride,
                        squeeze=squeeze if excited else None,
                    )
                )
                left, inputs = [_strided(size, stride) for size in left], outputs
        whole = (left[0], left[1])
        self.layers = nn.Sequential(
            *layers,
            _Convolution(inputs, last),
            _Convolution(last, last, kernel=whole, groups=last, linear=True),
            _Convolution(last, width, linear=True),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Shape (windows, channels, mels, frames) to (windows, width)."""
        return self.layers(image).flatten(1)


def _strided(size: int, stride: int) -> int:
    """What a filter of 3, padded by 1, leaves of a length."""
    return (size - 1) // stride + 1


# Cnn6 -------------------------------------------------------------------------------------------


class Cnn6(Embedding):
    """Four convolutions of 5 x 5, each halving the window; mean over mels, max and mean over time.

    **Source**: Kong et al., "PANNs", IEEE/ACM TASLP 2020, and its repository: dropout 0.2 after
    each block, 0.5 in front of the last layer, and Glorot's uniform initial weights. Its dropout
    between embedding and classifier is left out: what follows here is not a linear layer of
    AudioSet classes but a loss on the embedding's direction.

    Args:
        channels: Of the image.
        mels: Rows of the image, each normalised over the batch.
        frames: Its columns.
        filters: Channels of each block.
        width: Of the embedding.
        dropout: Rate after each block.
        dropout_last: Rate in front of the last layer.

    Raises:
        BadInput: The window is too small to be halved so often.
    """

    def __init__(
        self,
        *,
        channels: int,
        mels: int,
        frames: int,
        filters: Sequence[int],
        width: int,
        dropout: float,
        dropout_last: float,
    ) -> None:
        """Makes the network."""
        super().__init__()
        least = 2 ** len(filters)
        if min(mels, frames) < least:
            raise BadInput(
                f"model.network=cnn6 halves its windows {len(filters)} times and takes {least} "
                f"frames of {least} mels or more, not {frames} of {mels}; make windows.frames or "
                "features.mels larger"
            )
        self.width = width
        self.norm = nn.BatchNorm2d(mels)
        layers: list[nn.Module] = []
        for inputs, outputs in zip([channels, *filters], filters, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 5, padding=2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.AvgPool2d(2),
                nn.Dropout(dropout),
            ]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Sequential(
            nn.Dropout(dropout_last), nn.Linear(filters[-1], width), nn.ReLU()
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Shape (windows, channels, mels, frames) to (windows, width)."""
        image = self.norm(image.transpose(1, 2)).transpose(1, 2)
        image = self.layers(image)
        series = image.mean(-2)  # (windows, channels, time)
        return self.last(series.amax(-1) + series.mean(-1))


# ECAPA-TDNN -------------------------------------------------------------------------------------


class _Delay(nn.Sequential):
    """A convolution over time that keeps its length by reflection, ReLU, batch normalisation."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, dilation: int = 1) -> None:
        """Makes the layers."""
        convolution = nn.Conv1d(
            inputs,
            outputs,
            kernel,
            dilation=dilation,
            padding=dilation * (kernel - 1) // 2,
            padding_mode="reflect",
        )
        super().__init__(convolution, nn.ReLU(), nn.BatchNorm1d(outputs))


class _Cascade(nn.Module):
    """Channels in groups, each group seen together with what the group before it became."""

    def __init__(self, channels: int, *, groups: int, kernel: int, dilation: int) -> None:
        """Makes a layer for each group but the first, which passes as it is."""
        super().__init__()
        width = channels // groups
        self.layers = nn.ModuleList(
            _Delay(width, width, kernel=kernel, dilation=dilation) for _ in range(groups - 1)
        )

    def forward(self, series: Tensor) -> Tensor:
        """Shape (windows, channels, frames) in and out."""
        first, *others = series.chunk(len(self.layers) + 1, dim=1)
        found: list[Tensor] = []
        for layer, group in zip(self.layers, others, strict=True):
            found.append(layer(group + found[-1] if found else group))
        return torch.cat([first, *found], dim=1)


class _Residual(nn.Sequential):
    """A cascade between two dense layers, squeezed and excited, added to what came in."""

    def __init__(
        self, channels: int, *, kernel: int, dilation: int, groups: int, squeezed: int
    ) -> None:
        """Makes the layers."""
        super().__init__(
            _Delay(channels, channels),
            _Cascade(channels, groups=groups, kernel=kernel, dilation=dilation),
            _Delay(channels, channels),
            Squeeze(channels, squeezed, axes=1),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Shape (windows, channels, frames) in and out."""
        return input + super().forward(input)


class EcapaTdnn(Embedding):
    """Dilated convolutions over time, then mean and deviation weighted by an attention a channel.

    **Source**: Desplanques et al., "ECAPA-TDNN", Interspeech 2020, sizes and order of layers as
    in SpeechBrain.

    Args:
        channels: Of the image: 1.
        mels: Numbers in a frame.
        frames: In a window.
        filters: Channels of the layers over time.
        kernels: Frames that the first layer and each residual see.
        dilations: Of these frames, likewise.
        merged: Channels of the layer that takes what all residuals gave.
        attention: Hidden units of the attention.
        groups: Of each cascade.
        squeezed: Hidden units of each excitation.
        width: Of the embedding.

    Raises:
        BadInput: A window is too short to be reflected at its edges, or the numbers of layers
            or groups do not go together.
    """

    def __init__(
        self,
        *,
        channels: int,
        mels: int,
        frames: int,
        filters: int,
        kernels: Sequence[int],
        dilations: Sequence[int],
        merged: int,
        attention: int,
        groups: int,
        squeezed: int,
        width: int,
    ) -> None:
        """Makes the network."""
        super().__init__()
        even = [kernel for kernel in kernels if kernel % 2 == 0]
        if len(kernels) != len(dilations) or even or filters % groups:
            raise BadInput(
                f"model.networks.ecapa_tdnn: odd kernels, a dilation for each, and filters in "
                f"equal groups are expected, not kernels {list(kernels)} with dilations "
                f"{list(dilations)}, and {filters} filters in {groups} groups"
            )
        reaches = [
            dilation * (kernel - 1) // 2
            for kernel, dilation in zip(kernels, dilations, strict=True)
        ]
        if frames <= max(reaches):
            raise BadInput(
                f"model.network=ecapa_tdnn looks {max(reaches)} frames to each side and takes "
                f"windows of {max(reaches) + 1} frames or more, not {frames}; make "
                "windows.frames larger"
            )
        self.width = width
        self.first = _Delay(channels * mels, filters, kernel=kernels[0], dilation=dilations[0])
        self.residuals = nn.ModuleList(
            _Residual(filters, kernel=kernel, dilation=dilation, groups=groups, squeezed=squeezed)
            for kernel, dilation in zip(kernels[1:], dilations[1:], strict=True)
        )
        self.merge = _Delay(filters * len(self.residuals), merged)
        self.attention = nn.Sequential(
            _Delay(3 * merged, attention), nn.Tanh(), nn.Conv1d(attention, merged, 1)
        )
        self.last = nn.Sequential(nn.BatchNorm1d(2 * merged), nn.Linear(2 * merged, width))

    def forward(self, image: Tensor) -> Tensor:
        """Shape (windows, channels, mels, frames) to (windows, width)."""
        series = self.first(image.flatten(1, 2))
        found = []
        for residual in self.residuals:
            series = residual(series)
            found.append(series)
        series = self.merge(torch.cat(found, dim=1))
        even = series.new_full((), 1 / series.shape[-1])
        whole = [of.expand_as(series) for of in _moments(series, even)]
        shares = self.attention(torch.cat([series, *whole], dim=1)).softmax(-1)
        return self.last(torch.cat(_moments(series, shares), dim=1).squeeze(-1))


def _moments(series: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time, each of shape (windows, channels, 1)."""
    mean = (series * shares).sum(-1, keepdim=True)
    spread = ((series - mean).square() * shares).sum(-1, keepdim=True)
    return mean, spread.clamp_min(1e-12).sqrt()  # whose gradient at 0 is none


NETWORKS: dict[str, Callable[..., Embedding]] = {
    "mobilefacenet": partial(MobileFaceNet, excited=False),
    "mobilefacenet_se": partial(MobileFaceNet, excited=True),
    "ecapa_tdnn": EcapaTdnn,
    "cnn6": Cnn6,
}


# The loss ---------------------------------------------------------------------------------------


class ArcFace(ArcFaceLoss):
    """ArcFace of pytorch-metric-learning, whose gradient stays finite where an angle is 0.

    The loss of embeddings (windows, width) and their classes (windows,); the margin is an angle,
    in degrees, and each class has a direction of its own, which is trained too. An embedding that
    points there exactly, as float32 allows, would have an infinite gradient.
    """

    def get_angles(self, cosine_of_target_classes: Tensor) -> Tensor:
        """Angles between embeddings and the directions of their classes."""
        inside = 1 - 2 * torch.finfo(cosine_of_target_classes.dtype).eps
        return super().get_angles(cosine_of_target_classes * inside)
