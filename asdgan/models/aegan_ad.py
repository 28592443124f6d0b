"""AEGAN-AD: a convolutional autoencoder that a Wasserstein critic helps to train and to score."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asdgan._system.seeds import key_of
from asdgan.data.windows import Batch
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn.adversarial import detached, gradient_penalty
from asdgan.nn.health import CriticVitals
from asdgan.nn.lanes import Draw, LaneAdam, Linear, initialise
from asdgan.nn.outliers import Outliers
from asdgan.nn.perceptrons import window_l1, window_l2

SLOPE = 0.2  # of the activations of encoder and critic below 0


class AeganAd(Detector):
    """A generator that rebuilds windows, and a critic that tells them from real ones.

    The generator is an autoencoder of the shape of a DCGAN: its encoder halves a window of 128
    frames by 128 mel bands down to 4 x 4 and then to a code, its decoder goes the same way back.
    It learns to rebuild normal sound, x~ = G(x); the critic D learns to give x more than x~, held
    by a gradient penalty, and lends the generator its features f, the output of its last
    convolution, whose means over a minibatch are to be the same for x and x~. A sound is strange
    where it is rebuilt badly, where the encoder takes what was rebuilt for something else,
    z~ = E(x~) and not z = E(x), or where f, averaged over a clip, lies far from that of the
    training clips.

    Of each clip 19 scores are stored: `recon_l1` and `recon_l2` between x and x~, `latent_l1`,
    `latent_l2` and `latent_cos` between z and z~, of each the mean, min and max over a clip's
    windows (`recon_l2_mean`); and of the critic's features `mahalanobis`, `knn`, `lof` and
    `cosine`. Which of them is best differs from one machine type to the next, and both sources
    choose it by the labels of the test clips, as the repository does the epoch. Here `primary`
    names one, in the YAML what the generator minimises, and the last epoch counts.

    **Paper**: Liu et al., "AITHU system for unsupervised anomalous detection of machine working
    status via sounding", DCASE 2022 challenge, section 3.3 and Table 9: `model=aegan_ad`; and the
    repository jianganbai/AEGAN-AD, commit 5a62682, of Jiang et al., "Unsupervised anomaly
    detection and localization of machine audio: a GAN-based approach", ICASSP 2023:
    `model=aegan_ad_repository`. The report passes z through a layer normalisation whose scale and
    shift are the section's own (`section_affine`) for ToyCar and gearbox, and has a critic for
    gearbox and slider only (`critic=false` leaves the autoencoder, and 15 scores). The repository
    knows no sections and always has a critic, matches the deviations of f too for some machine
    types (`lambda_std`), has batch normalisation in the generator for others, and none after the
    encoder's first convolution for others again. `sweeps/aegan_ad.yaml` says which.

    **Departures**:

    - Where the report gives no value (epochs, beta1, the weight of feature matching, critic steps)
      it is the repository's. Both terms of the generator's loss are means, as in the repository;
      the report's formula has sums, which would make feature matching count a 32nd of that.
    - One pass through the generator serves both networks' steps; the repository passes it twice
      with the same weights, which tells only in the running statistics of batch normalisation.
    - The critic's last map has no bias: both means of its loss hold it, so that nothing but
      rounding would ever move it.
    - Scores are means over a window's numbers where the repository has sums: the same order. Its
      sum over a clip's windows is the mean here.
    - `mahalanobis` rests on a shrunk covariance: the repository's own is singular where there are
      no more clips than features.
    - The last, smaller minibatch is kept; what is random is drawn from `seed`. One point at a
      time, and its step is never compiled.
    - Windows whose sides are any multiples of 2^`halvings` are taken.

    Args:
        seed: Of this run.
        frames: Frames in a window.
        mels: Mel bands in a frame.
        channels: Of the first convolution; each halving doubles them.
        halvings: Convolutions of stride 2 in encoder and critic.
        latent: Units of the code.
        norm: Of the generator: `layer` or `batch`. The critic's is always `layer`.
        first_norm: Whether there is one after the encoder's first convolution.
        section_affine: Whether the code is scaled and shifted for each section by itself.
        critic: Whether there is one.
        init: As in `lanes.initialise`.
        init_std: Likewise.
        lambda_adv: Weight of feature matching, the report's mu; beside 1 for the rebuilding.
        lambda_std: Weight of the features' deviations beside 1 for their means.
        lambda_gp: Weight of the gradient penalty.
        primary: As in `Detector`.
        pool: Likewise.
        outliers: Settings of `Outliers`, of the critic's features; without one they are not used.
        optimizer: Makes an optimiser from parameters.
    """

    stackable = False
    convolutional = True
    scored_at_once = 256  # their activations take two megabytes each
    SCORING = (*Detector.SCORING, "model.outliers.")

    def __init__(
        self,
        *,
        seed: int,
        frames: int,
        mels: int,
        channels: int,
        halvings: int,
        latent: int,
        norm: str,
        first_norm: bool,
        section_affine: bool,
        critic: bool,
        init: str,
        init_std: float,
        lambda_adv: float,
        lambda_std: float,
        lambda_gp: float,
        primary: str,
        pool: str | Sequence[str],
        outliers: Mapping[str, Any],
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the networks; the sections' scales and shifts as soon as these are known."""
        self.tells_sections = section_affine
        super().__init__(seed=seed, dropout=0.0, primary=primary, pool=pool, optimizer=optimizer)
        self.outliers = Outliers(**outliers, seed=seed) if critic else None
        self._shape, self._latent = (frames, mels), latent
        self._lambdas = {"adv": lambda_adv, "std": lambda_std, "gp": lambda_gp}
        sizes = _sizes(frames, mels, channels=channels, halvings=halvings)
        shared = {"norm": norm, "first_norm": first_norm}
        self.encoder = nn.Sequential(*_down(sizes, **shared), _to_code(sizes[-1], latent))
        self.decoder = nn.Sequential(*_up(sizes, latent=latent, norm=norm))
        self.critic = Critic(sizes) if critic else None
        for name in ("encoder", "decoder", *(["critic"] if critic else [])):
            network = getattr(self, name)
            initialise(network, init=init, std=init_std, seed=seed, place=(name,))
        self.styles: SectionAffine | None = None

    def know(self, sections: Sequence[str]) -> None:
        """Makes a scale and a shift of the code for each section."""
        self.styles = SectionAffine(self._latent, len(sections))

    def networks(self) -> dict[str, list[nn.Module]]:
        """Generator and, where there is one, critic."""
        styles = [] if self.styles is None else [self.styles]
        networks: dict[str, list[nn.Module]] = {"generator": [self.encoder, *styles, self.decoder]}
        return networks if self.critic is None else {**networks, "critic": [self.critic]}

    def noise_columns(self) -> tuple[int, int]:
        """None: only the gradient penalty draws, by a key of its own."""
        return 0, 0

    # Learning and scoring ---------------------------------------------------------------------

    def rebuilt(self, z: Tensor, batch: Batch) -> Tensor:
        """What the decoder makes of codes, shape (windows, 1, frames, mels), from -1 to 1."""
        if self.styles is not None:
            z = self.styles(z, self.classes(batch))
        return self.decoder(z)

    def _images(self, batch: Batch) -> Tensor:
        return batch.windows.reshape(-1, 1, *self._shape)

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """A step of the critic, then one of the generator."""
        x = self._images(batch)
        z = self.encoder(x)
        fake = self.rebuilt(z, batch)
        loss_g = con = functional.mse_loss(fake, x)
        losses = {"con": con}
        if self.critic is not None:
            losses |= self._criticise(self.critic, x, fake.detach(), batch.step)
            losses["adv"] = self.matching(self.critic, x, fake)
            loss_g = con + self._lambdas["adv"] * losses["adv"]
        gradients = torch.autograd.grad(loss_g, self.parameters_of("generator"))
        self.adams["generator"].descend(gradients)
        losses = detached({"loss_g": loss_g, **losses})
        if self.critic is not None:
            self.vitals = CriticVitals(
                gap=losses["gap"],
                distance=(x - fake.detach()).flatten(1).norm(dim=1).mean(),
                penalty=losses["penalty"],
                pull=nn.utils.get_total_norm(gradients) / sum(g.numel() for g in gradients) ** 0.5,
                code=z.detach().flatten(1),
            )
        return losses

    def _criticise(
        self, critic: "Critic", x: Tensor, fake: Tensor, step: int
    ) -> dict[str, Tensor]:
        """A step of the critic; its loss, and how far it then tells real from rebuilt."""
        gap = critic(x).mean() - critic(fake).mean()
        key = key_of(self.seeds[0], "gradient_penalty", step)
        penalty = gradient_penalty(critic, x, fake, key=key)
        loss = self._lambdas["gp"] * penalty - gap
        self.adams["critic"].descend(torch.autograd.grad(loss, self.parameters_of("critic")))
        return {"loss_d": loss, "gap": gap, "penalty": penalty}

    def matching(self, critic: "Critic", x: Tensor, fake: Tensor) -> Tensor:
        """How far the features of rebuilt windows are, as a minibatch, from those of real ones."""
        with torch.no_grad():
            of_real = critic.features(x)
        of_fake = critic.features(fake)
        found = functional.mse_loss(of_fake.mean(0), of_real.mean(0))
        if self._lambdas["std"]:
            spreads = (of.std(0, correction=0) for of in (of_fake, of_real))
            found = found + self._lambdas["std"] * functional.mse_loss(*spreads)
        return found

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """How far windows lie from what is made of them, and their codes from its codes."""
        x = self._images(batch)
        z = self.encoder(x)
        fake = self.rebuilt(z, batch)
        z_fake = self.encoder(fake)
        flat, flat_fake, z, z_fake = (of.flatten(1) for of in (x, fake, z, z_fake))
        return {
            "recon_l1": window_l1(flat, flat_fake),
            "recon_l2": window_l2(flat, flat_fake),
            "latent_l1": window_l1(z, z_fake),
            "latent_l2": window_l2(z, z_fake),
            "latent_cos": 1 - functional.cosine_similarity(z, z_fake, dim=1),
        }

    def embed_windows(self, batch: Batch) -> Tensor:
        """The critic's features, shape (windows, channels of its last convolution)."""
        assert self.critic is not None  # else there are no outliers
        return self.critic.features(self._images(batch))


# Networks ---------------------------------------------------------------------------------------

Size = tuple[int, int, int]  # channels, rows, columns


class Critic(nn.Module):
    """As the encoder, then one filter a channel over all that is left, and an answer.

    Args:
        sizes: As `_sizes` gives them.
    """

    def __init__(self, sizes: Sequence[Size]) -> None:
        """Makes the layers."""
        super().__init__()
        widest, rows, columns = sizes[-1]
        self.features = nn.Sequential(
            *_down(sizes, norm="layer", first_norm=True),
            nn.Conv2d(widest, widest, (rows, columns), groups=widest, bias=False),
            nn.Flatten(),
        )
        head = Linear(widest, 1, lanes=(), bias=False)
        self.answer = nn.Sequential(nn.LayerNorm(widest), nn.LeakyReLU(SLOPE), head)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (windows, 1, frames, mels) to (windows, 1): more for what it takes for real."""
        return self.answer(self.features(x))


class SectionAffine(nn.Module):
    """A code normalised by itself, then scaled and shifted as learnt for its section."""

    def __init__(self, units: int, sections: int) -> None:
        """Begins with scales of 1 and shifts of 0."""
        super().__init__()
        self.scale = nn.Parameter(torch.ones(sections, units))
        self.shift = nn.Parameter(torch.zeros(sections, units))

    def forward(self, z: Tensor, section: Tensor) -> Tensor:
        """Shape (windows, units, 1, 1) in and out; `section` by number, shape (windows,)."""
        normed = functional.layer_norm(z.flatten(1), self.scale.shape[1:])
        styled = torch.addcmul(self.shift[section], normed, self.scale[section])
        return styled.reshape(z.shape)


def _sizes(frames: int, mels: int, *, channels: int, halvings: int) -> list[Size]:
    """Of a window and of what each halving makes of it.

    Raises:
        BadInput: A side cannot be halved so often.
    """
    step = 2**halvings
    if frames % step or mels % step:
        raise BadInput(
            f"windows.frames={frames} and features.mels={mels} cannot be halved "
            f"model.halvings={halvings} times; take multiples of {step} for both"
        )
    halved = [(channels << i, frames >> i + 1, mels >> i + 1) for i in range(halvings)]
    return [(1, frames, mels), *halved]


def _down(sizes: Sequence[Size], *, norm: str, first_norm: bool) -> list[nn.Module]:
    """Halvings: each a convolution, a normalisation, a LeakyReLU."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(sizes)):
        layers.append(nn.Conv2d(before[0], after[0], 4, stride=2, padding=1, bias=False))
        layers += [_normalised(after, norm)] if number or first_norm else []
        layers.append(nn.LeakyReLU(SLOPE, inplace=True))
    return layers


def _to_code(size: Size, latent: int) -> nn.Module:
    return nn.Conv2d(size[0], latent, size[1:], bias=False)


def _up(sizes: Sequence[Size], *, latent: int, norm: str) -> list[nn.Module]:
    """From a code back to a window: the way of `_down` in reverse, and tanh at its end."""
    code = nn.ConvTranspose2d(latent, sizes[-1][0], sizes[-1][1:], bias=False)
    layers: list[nn.Module] = [code]
    for after, before in reversed(list(pairwise(sizes))):
        layers += [_normalised(before, norm), nn.ReLU(inplace=True)]
        layers.append(nn.ConvTranspose2d(before[0], after[0], 4, stride=2, padding=1, bias=False))
    return [*layers, nn.Tanh()]


def _normalised(size: Size, norm: str) -> nn.Module:
    return nn.BatchNorm2d(size[0]) if norm == "batch" else nn.LayerNorm([*size])
