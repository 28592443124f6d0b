"""Sound as codes: an autoencoder between whose halves stand entries of two codebooks.

VQ-VAE-2 (Razavi et al., 2019) with the layers of DSR (Zavrtanik et al., 2022), for one channel:
the fine level has a code for every 4 by 4 numbers of a spectrogram, the coarse one for every 8 by
8. `models/auddsr_codes.py` trains it, `models/auddsr.py` puts anomalies among its codes.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from asdgan.data.scaling import Scaling
from asdgan.data.windows import Windows
from asdgan.errors import BadInput

if TYPE_CHECKING:
    from vector_quantize_pytorch import VectorQuantize

PIECE = 1 << 14  # features compared with a codebook at once: 4096 codes make 0.25 GiB of these
BEGUN_WITH = 256  # windows whose features are the first codes, at most
STRIDE = 32  # what heights and widths of images are filled up to multiples of


class Codes(nn.Module):
    """The discrete autoencoder.

    Args:
        width: Channels of the features, and numbers in a code.
        residual: Channels within a residual block.
        codes: In each codebook.
        decay: Share of the old average that a step keeps, of the codes.
        commitment: Weight of the features' distance to their codes.
        revived: Features a step, on average, below which a code is given up and becomes a feature
            of the batch, drawn from torch's global generator; 0 for never.

    Attributes:
        coarse: Codebook of the coarse level, by vector-quantize-pytorch.
        fine: Of the fine level.
        level: What images are shifted by, after they were stretched by the second number: to mean
            0 and standard deviation 1, over all bands of the frames that it learned from.
    """

    coarse: "VectorQuantize"
    fine: "VectorQuantize"
    level: Tensor

    def __init__(
        self,
        *,
        width: int,
        residual: int,
        codes: int,
        decay: float,
        commitment: float,
        revived: float,
    ) -> None:
        """Makes the networks, drawing from torch's global generator."""
        from vector_quantize_pytorch import VectorQuantize

        super().__init__()
        shared = {"width": width, "residual": residual}
        self.encode_fine = nn.Sequential(
            nn.Conv2d(1, width // 2, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            residuals(**shared),
        )
        self.encode_coarse = nn.Sequential(
            nn.Conv2d(width, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(),
            residuals(**shared),
            nn.Conv2d(width, width, 1),
        )
        self.raise_coarse = nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.join_fine = nn.Conv2d(2 * width, width, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, 1, 1), residuals(**shared), *to_image(width)
        )
        book = {
            "dim": width,
            "codebook_size": codes,
            "decay": decay,
            "commitment_weight": commitment,
            "threshold_ema_dead_code": revived,
            "accept_image_fmap": True,
            "rotation_trick": False,
        }
        self.coarse, self.fine = VectorQuantize(**book), VectorQuantize(**book)
        self.register_buffer("level", torch.tensor([0.0, 1.0]))

    @torch.no_grad()
    def begin(
        self, windows: Windows, numbers: Tensor, frames: int, generator: torch.Generator
    ) -> None:
        """Learns the level of the frames of some windows, and takes features of them for codes.

        Args:
            windows: Of the training clips.
            numbers: Of those that are trained on.
            frames: In a window.
            generator: Draws the features.
        """
        scaling = Scaling("global_standard", features=windows.features // frames, lanes=())
        scaling.fit(windows, numbers)
        self.level.copy_(torch.stack([scaling.shift[0, 0], scaling.scale[0, 0]]))
        drawn = torch.randperm(len(numbers), generator=generator)[:BEGUN_WITH]
        x = self.image(windows.gather(numbers[drawn]).to(self.level), frames)
        found, halved = self.features(x)
        self._start(self.coarse, found, generator)
        coarse = nearest(found, self.coarse.codebook)
        self._start(self.fine, self.fine_features(halved, coarse), generator)

    def _start(self, book: "VectorQuantize", features: Tensor, generator: torch.Generator) -> None:
        """Codes that are features, drawn with replacement."""
        flat = features.movedim(1, -1).flatten(0, -2)
        picks = torch.randint(len(flat), (book.codebook_size,), generator=generator)
        first = flat[picks.to(flat.device)]
        for name in ("embed", "embed_avg"):
            book.get_buffer(f"_codebook.{name}").copy_(first[None])

    def image(self, windows: Tensor, frames: int) -> Tensor:
        """Windows (windows, frames * mels) as images (windows, 1, rows, columns), standardised.

        Both axes are filled up to a multiple of 32 with what stands at the edge; rows to 64 at
        least, so that something is left to normalise where the networks have halved them 5 times.
        """
        x = windows.view(len(windows), 1, frames, -1)
        rows, columns = (-(-size // STRIDE) * STRIDE for size in x.shape[-2:])
        beyond = (0, columns - x.shape[-1], 0, max(2 * STRIDE, rows) - frames)
        return functional.pad(x, beyond, mode="replicate") * self.level[1] + self.level[0]

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of images, before quantisation: coarse, and what the fine ones are made of."""
        halved = self.encode_fine(x)
        return self.encode_coarse(halved), halved

    def fine_features(self, halved: Tensor, coarse: Tensor) -> Tensor:
        """The fine level's features before quantisation, by quantised coarse ones."""
        return self.join_fine(torch.cat([halved, self.raise_coarse(coarse)], 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images as they are rebuilt, and the commitment loss; in training, codes move."""
        found, halved = self.features(x)
        coarse, coarse_loss = self._learnt(self.coarse, found)
        fine, fine_loss = self._learnt(self.fine, self.fine_features(halved, coarse))
        return self.rebuilt(coarse, fine), coarse_loss + fine_loss

    def rebuilt(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Images of the codes of both levels, by the general decoder."""
        return self.decoder(joined(coarse, fine))

    @torch.no_grad()
    def spelt(self, x: Tensor) -> "Spelt":
        """Images in codes; no gradient, and no code moves."""
        found, halved = self.features(x)
        coarse = nearest(found, self.coarse.codebook)
        fine = nearest(self.fine_features(halved, coarse), self.fine.codebook)
        return Spelt(coarse, fine, found, halved)

    def _learnt(self, book: "VectorQuantize", features: Tensor) -> tuple[Tensor, Tensor]:
        """Features as codes, and their commitment loss, in pieces that memory holds.

        The codes move once, by the averages over all pieces.
        """
        if not self.training:
            return nearest(features, book.codebook), features.new_zeros(())
        each = max(1, PIECE // features[0, 0].numel())
        pieces = features.split(each)
        codes, losses = [], []
        for i, piece in enumerate(pieces):
            code, _, loss = book(piece, accum_ema_update=i + 1 < len(pieces))
            codes.append(code)
            losses.append(loss * len(piece) / len(features))
        return torch.cat(codes), torch.stack(losses).sum()


class Spelt(NamedTuple):
    """Images in codes.

    Attributes:
        coarse: Codes of the coarse level, shape (windows, width, rows / 8, columns / 8).
        fine: Of the fine level, (windows, width, rows / 4, columns / 4).
        features: That became the coarse codes.
        halved: What the fine level's features are made of, beside the coarse codes.
    """

    coarse: Tensor
    fine: Tensor
    features: Tensor
    halved: Tensor


def nearest(features: Tensor, book: Tensor) -> Tensor:
    """The code nearest to each of the features: (windows, width, rows, columns) in and out.

    Args:
        features: What is quantised.
        book: Shape (codes, width).
    """
    flat = features.movedim(1, -1).reshape(-1, book.shape[-1])
    half = book.square().sum(-1) / 2
    picks = [(piece @ book.mT - half).argmax(-1) for piece in flat.split(PIECE)]
    found = book[torch.cat(picks)].view(*features.movedim(1, -1).shape)
    return found.movedim(-1, 1).contiguous()


def joined(coarse: Tensor, fine: Tensor) -> Tensor:
    """Both levels as one, at the resolution of the fine one: what decoders take."""
    size = fine.shape[-2:]
    return torch.cat([functional.interpolate(coarse, size, mode="bilinear"), fine], 1)


def check_frames(scaling: object) -> None:
    """Refuses windows that were scaled already: the codes bring their own scale.

    Raises:
        BadInput: They were.
    """
    if scaling is not None:
        raise BadInput(
            "windows.feature_norm scales by one machine type's frames, and the codes keep the "
            "scale of all that they learned from; leave it null"
        )


# Layers -----------------------------------------------------------------------------------------


class _Residual(nn.Sequential):
    """A residual block: what comes in, and two convolutions of it added."""

    def __init__(self, width: int, residual: int) -> None:
        """Makes the layers."""
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(width, residual, 3, 1, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(residual, width, 1, bias=False),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Shape (windows, channels, rows, columns)."""
        return input + super().forward(input)


def residuals(*, width: int, residual: int) -> nn.Sequential:
    """Two residual blocks and a ReLU."""
    return nn.Sequential(_Residual(width, residual), _Residual(width, residual), nn.ReLU())


def to_image(width: int) -> list[nn.Module]:
    """From the fine level's features to images of one channel."""
    return [
        nn.ConvTranspose2d(width, width // 2, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(width // 2, 1, 4, 2, 1),
    ]
