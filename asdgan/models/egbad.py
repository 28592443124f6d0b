"""EGBAD (a BiGAN) on windows of log-mel frames, as the 2024 paper reads it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asdgan.adversarial import softplus, taken_for_fake, taken_for_real
from asdgan.detector import Detector
from asdgan.lanes import Draw, LaneAdam, initialise
from asdgan.layers import Perceptron, window_l1, window_l2
from asdgan.windows import Batch


class Egbad(Detector):
    """Learn to invert a generator; a sound is strange where its inverse does not lead back.

    An encoder E (x to z), a generator G (z to x^), and a discriminator that tells pairs
    (x, E(x)) from pairs (G(z), z), z drawn from N(0, I). A window's score is
    (1 - score_weight) |x - G(E(x))| + score_weight |f(x, E(x)) - f(G(E(x)), E(x))|, sums over
    dimensions, f being the discriminator's last hidden layer.

    **Paper**: de Oliveira Neto, Guedes, Figueiredo, JISA 2024 (Section 3; not in its grid, so
    run at its common optimum), after Zenati et al., "Efficient GAN-based anomaly detection",
    2018, and its repository.

    **Departures** and readings of what the paper leaves open:

    - E's code is linear: a code that cannot be negative can never match N(0, I), and the
      discriminator would win by its sign alone. Likewise no batch normalisation in D: real and
      fake pairs pass in batches of their own, whose statistics give the answer away.
    - D joins x and z at its input; the repository gives each a branch first.
    - E and G step on the same minibatch as D with fresh z; the repository draws theirs from a
      second permutation of the data. Weights are not averaged for scoring.
    - ReLU for LeakyReLU, learning rate 2e-4 for 1e-5: the 2024 paper's.
    - The paper's own EGBAD figures lie below 0.5 for three types: scores are reported as they
      are, no sign is turned.
    - Running statistics as in `lanes.Draw`; last epoch's weights.

    Args:
        seed: One, or one per lane.
        frames: Frames in a window.
        mels: Mel bands in a frame.
        hidden_layers: Hidden layers of each perceptron.
        hidden_width: Units in each.
        latent: Units of the code.
        dropout: As in `Detector`.
        init: As in `lanes.initialise`, one or one per lane.
        init_std: Likewise.
        score_weight: Share of the discriminator's features in `combined`, 0 to 1.
        primary: As in `Detector`.
        pool: Likewise.
        optimizer: Makes an optimiser from parameters.
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
        latent: int,
        dropout: float | Sequence[float],
        init: str | Sequence[str],
        init_std: float,
        score_weight: float,
        primary: str,
        pool: str,
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the networks and fills them, lane by lane."""
        super().__init__(
            seed=seed, dropout=dropout, primary=primary, pool=pool, optimizer=optimizer
        )
        inputs = frames * mels
        hidden = [hidden_width] * hidden_layers
        shared = {"hidden": hidden, "lanes": self.lanes, "dropout": self.dropout_rates}
        self.encoder = Perceptron(inputs, latent, output="linear", **shared)
        self.generator = Perceptron(latent, inputs, output="linear", **shared)
        self.discriminator = Perceptron(inputs + latent, 1, output="linear", norm=False, **shared)
        for name in ("encoder", "generator", "discriminator"):
            network = getattr(self, name)
            initialise(network, init=init, std=init_std, seed=seed, place=(name,))
        self._latent, self._score_weight = latent, score_weight

    def networks(self) -> dict[str, list[nn.Module]]:
        """Encoder, generator and discriminator, each with an optimiser of its own."""
        return {
            "encoder": [self.encoder],
            "generator": [self.generator],
            "discriminator": [self.discriminator],
        }

    def noise_columns(self) -> tuple[int, int]:
        """Two turns, each one pass through E and G, two through D, and one z."""
        dropped = self.encoder.dropped + self.generator.dropped + 2 * self.discriminator.dropped
        return 2 * dropped, 2 * self._latent

    def _logits(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """The discriminator's logits of pairs (x, E(x)) and (G(z), z)."""
        z = draw.normals(self._latent).expand(*self.lanes, x.shape[-2], self._latent)
        pairs = (_pair(x, self.encoder(x, draw)), _pair(self.generator(z, draw), z))
        return self.discriminator(pairs[0], draw), self.discriminator(pairs[1], draw)

    def discriminator_gradients(
        self, x: Tensor, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The discriminator's loss, shape lanes, and gradients."""
        real, fake = self._logits(x, Draw(momentum, *_half(uniform, normal, 0)))
        loss = taken_for_real(real) + taken_for_fake(fake)
        parameters = tuple(self.parameters_of("discriminator"))
        gradients = torch.autograd.grad(loss.sum(), parameters)
        return loss.detach(), gradients

    def other_gradients(
        self, x: Tensor, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Losses of generator and encoder, shape lanes, and their gradients."""
        real, fake = self._logits(x, Draw(momentum, *_half(uniform, normal, 1)))
        loss_g, loss_e = taken_for_real(fake), taken_for_fake(real)
        of_g = torch.autograd.grad(
            loss_g.sum(), tuple(self.parameters_of("generator")), retain_graph=True
        )
        of_e = torch.autograd.grad(loss_e.sum(), tuple(self.parameters_of("encoder")))
        return loss_g.detach(), loss_e.detach(), of_g, of_e

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The discriminator's step, then generator's and encoder's with fresh z."""
        taken = (batch.windows, draw.momentum, draw.uniform, draw.normal)
        step = self.step_function("discriminator_gradients", batch.windows)
        loss_d, of_d = step(*taken)
        self.adams["discriminator"].descend(of_d)
        step = self.step_function("other_gradients", batch.windows)
        loss_g, loss_e, of_g, of_e = step(*taken)
        self.adams["generator"].descend(of_g)
        self.adams["encoder"].descend(of_e)
        return {"loss_d": loss_d, "loss_g": loss_g, "loss_e": loss_e}

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction errors, feature distance, the rebuilt pair's cross-entropy, the mix."""
        x = batch.windows
        z = self.encoder(x, None)
        fake = self.generator(z, None)
        x = x.expand_as(fake)
        of_real = self.discriminator.features(_pair(x, z), None)
        of_fake = self.discriminator.features(_pair(fake, z), None)
        recon, features = (x - fake).abs().sum(-1), (of_real - of_fake).abs().sum(-1)
        return {
            "combined": (1 - self._score_weight) * recon + self._score_weight * features,
            "recon_l1": window_l1(x, fake),
            "recon_l2": window_l2(x, fake),
            "disc_features": window_l1(of_real, of_fake),
            "cross_entropy": softplus(-self.discriminator.finish(of_fake, None)).squeeze(-1),
        }


def _pair(x: Tensor, z: Tensor) -> Tensor:
    """A window and a code, joined along features."""
    return torch.cat([x.expand(*z.shape[:-1], x.shape[-1]), z], -1)


def _half(uniform: Tensor | None, normal: Tensor | None, turn: int) -> tuple[Tensor | None, ...]:
    """The first or second half of a step's noise columns."""
    return tuple(
        None if noise is None else noise.chunk(2, -1)[turn] for noise in (uniform, normal)
    )
