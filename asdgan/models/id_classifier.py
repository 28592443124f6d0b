"""The MobileNetV2 baseline of DCASE 2021 and 2022: sections told from one another."""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from asdgan.data.windows import Batch, Windows
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn.lanes import Draw, LaneAdam, Linear, initialise, kept

NORM_MOMENTUM = 0.001  # share of a new batch in the running statistics: Keras' MobileNetV2
NORM_EPS = 1e-3  # likewise
STEM = 32  # channels of the first convolution, before the multiplier
DIVISOR = 8  # of every number of channels
EPS = sys.float_info.epsilon  # that probabilities are kept away from 0 by, in the literal score


class IdClassifier(Detector):
    """A classifier of sections; a sound is strange where it is not taken for its own machine.

    MobileNetV2 on windows of 64 log-mel frames learns which section, a machine of its own, a
    window is of; p is the probability that it gives to the section that the clip's name says. The
    score of a window is log((1 - p) / p), and a clip's the mean over its windows. No label of an
    anomaly is seen, but the sections must be known, at test too, and differ: it works where
    machines of one type sound unlike, and says nothing where they sound alike.

    **Paper**: Kawaguchi et al., "Description and discussion on DCASE 2021 challenge task 2", 2021,
    and the code of its Keras baseline (the same in 2022); after Giri et al., "Self-supervised
    classification for detecting anomalous sounds", DCASE Workshop 2020. Width 0.5, Adam 1e-5, 20
    epochs, batch 32; windows 8 frames apart in training and 1 in test; `keras_tail` holds out
    the last tenth, which is of the last section.

    **Departures**:

    - Three component scores, `primary` names one. `neg_logit` is the intended one, from logits,
      so that it does not saturate. `dcase_literal` is what the baseline's code computes: a
      misplaced parenthesis gives log(max(1 - p, eps) - log max(p, eps)), which cannot rise above
      3.6 for a confident mistake. `neg_log_p` is -log p.
    - A clip of a section that was not trained on is refused; the baseline's code takes it for the
      last class. So is a machine type with one section.
    - The running statistics start as plain averages, as in `lanes.Draw`, up to Keras' share of
      0.001 a step: at the published 20 epochs of a small set Keras' own would still be half
      their starting values.
    - log(mel + eps) as the 2020 baseline, where this one takes log(max(mel, eps));
      `features.floor=max` says so. Dropout in front of the classifier, initialisation and
      `windows.feature_norm` are settings; at a rate above 1e-4 `standard` is advisable.
    - Training clips are scored, for thresholds, at the windows of training.
    - One point at a time, and its step is never compiled.

    Args:
        seed: Of this run.
        frames: Frames in a window.
        mels: Mel bands in a frame.
        width: Multiplies the channels of the stem and of every block.
        blocks: For each group of inverted residuals its expansion, channels, repeats, and the
            stride of the first.
        last: Channels that are averaged over a window and classified.
        dropout: Rate of these, as in `Detector`.
        init: As in `lanes.initialise`.
        init_std: Likewise.
        primary: As in `Detector`.
        pool: Likewise.
        optimizer: Makes an optimiser from parameters.
    """

    stackable = False
    convolutional = True
    tells_sections = True
    scored_at_once = 256  # their activations take a megabyte each
    dropping: Tensor

    def __init__(
        self,
        *,
        seed: int,
        frames: int,
        mels: int,
        width: float,
        blocks: Sequence[Sequence[int]],
        last: int,
        dropout: float,
        init: str,
        init_std: float,
        primary: str,
        pool: str,
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes all but the classes, which `prepare` or a stored state knows."""
        super().__init__(
            seed=seed, dropout=dropout, primary=primary, pool=pool, optimizer=optimizer
        )
        self._shape, self._averaged = (frames, mels), last
        self._filling = {"init": init, "std": init_std, "seed": seed}
        self.body = _mobilenet(width, blocks, last)
        initialise(self.body, **self._filling, place=("body",))
        self.head: Linear | None = None
        self.register_buffer("dropping", self.dropout_rates, persistent=False)

    # Sections ---------------------------------------------------------------------------------

    def prepare(self, windows: Windows, scored: Sequence[str] = ()) -> None:
        """Learns which sections there are.

        Raises:
            BadInput: All clips are of one section, or others than theirs will be scored.
        """
        super().prepare(windows, scored)
        if len(set(windows.sections)) < 2:
            raise BadInput(
                f"id_classifier tells sections of a machine type apart, and all its training "
                f"clips are of section {windows.sections[0]}; take a release with several, or "
                "another model"
            )

    def know(self, sections: Sequence[str]) -> None:
        """Makes a classifier of so many sections."""
        self.head = Linear(self._averaged, len(sections), lanes=(), bias=True)
        initialise(self.head, **self._filling, place=("head",))

    # Learning and scoring ---------------------------------------------------------------------

    def networks(self) -> dict[str, list[nn.Module]]:
        """One optimiser for all of it."""
        return {"classifier": [self.body, *([] if self.head is None else [self.head])]}

    def noise_columns(self) -> tuple[int, int]:
        """Dropout in front of the classifier."""
        return self._averaged, 0

    def logits(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Of windows, shape (windows, frames * mels), one logit a section."""
        assert self.head is not None  # prepared, or loaded
        image = x.view(-1, 1, *self._shape).expand(-1, 3, -1, -1)
        image = image.contiguous(memory_format=torch.channels_last)  # half again as fast on a CPU
        found = self.body(image).mean((-2, -1))
        keep = None if draw is None else kept(self.dropping, draw, self._averaged)
        return self.head(found if keep is None else found * keep)

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """One step on the cross-entropy."""
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = max(NORM_MOMENTUM, 1 / (batch.step + 1))
        loss = functional.cross_entropy(self.logits(batch.windows, draw), self.classes(batch))
        parameters = self.parameters_of("classifier")
        self.adams["classifier"].descend(torch.autograd.grad(loss, parameters))
        return {"loss": loss.detach()}

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """How little a window is taken for its own section, in three ways."""
        own = self.classes(batch)[:, None]
        logs = self.logits(batch.windows, None).double().log_softmax(-1)
        log_p = logs.gather(-1, own).squeeze(-1)
        log_others = logs.scatter(-1, own, -torch.inf).logsumexp(-1)  # of 1 - p
        literal = log_others.exp().clamp(min=EPS) - log_p.exp().clamp(min=EPS).log()
        return {
            "neg_logit": log_others - log_p,
            "dcase_literal": literal.log(),
            "neg_log_p": -log_p,
        }


# MobileNetV2 ------------------------------------------------------------------------------------


class _Convolution(nn.Sequential):
    """Convolution without bias, batch normalisation, and ReLU6 unless it is linear.

    A step of 2 pads an even number of rows at its end only, as Keras does.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, groups: int, linear: bool
    ) -> None:
        """Makes the layers."""
        padding = kernel // 2 if stride == 1 else 0
        convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False
        )
        norm = nn.BatchNorm2d(outputs, eps=NORM_EPS)
        super().__init__(convolution, norm, *([] if linear else [nn.ReLU6()]))
        self._strides = stride > 1

    def forward(self, input: Tensor) -> Tensor:
        """Shape (windows, channels, rows, columns)."""
        if self._strides:
            rows, columns = input.shape[-2:]
            input = functional.pad(input, (columns % 2, 1, rows % 2, 1))
        return super().forward(input)


class _Inverted(nn.Sequential):
    """An inverted residual: wider, one filter a channel, narrow again; added where it fits."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        """Makes the layers."""
        wide = expansion * inputs
        narrow = {"kernel": 1, "stride": 1, "groups": 1}
        first = [_Convolution(inputs, wide, **narrow, linear=False)] if expansion > 1 else []
        super().__init__(
            *first,
            _Convolution(wide, wide, kernel=3, stride=stride, groups=wide, linear=False),
            _Convolution(wide, outputs, **narrow, linear=True),
        )
        self._adds = stride == 1 and inputs == outputs

    def forward(self, input: Tensor) -> Tensor:
        """Shape (windows, channels, rows, columns)."""
        output = super().forward(input)
        return input + output if self._adds else output


def _mobilenet(width: float, blocks: Sequence[Sequence[int]], last: int) -> nn.Sequential:
    """Everything up to the average over a window: shape (windows, last, rows, columns)."""
    channels = _channels(STEM * width)
    layers: list[nn.Module] = [
        _Convolution(3, channels, kernel=3, stride=2, groups=1, linear=False)
    ]
    for expansion, outputs, repeats, first in blocks:
        for repeat in range(repeats):
            stride = first if repeat == 0 else 1
            wanted = _channels(outputs * width)
            layers.append(_Inverted(channels, wanted, expansion=expansion, stride=stride))
            channels = wanted
    layers.append(_Convolution(channels, last, kernel=1, stride=1, groups=1, linear=False))
    return nn.Sequential(*layers)


def _channels(wanted: float) -> int:
    """The nearest multiple of 8, and never less than nine tenths of what was wanted."""
    found = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
    return found + DIVISOR if found < 0.9 * wanted else found
