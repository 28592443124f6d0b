"""GANomaly on windows of log-mel frames, as the 2024 paper reads it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asdgan.adversarial import Rebirth, taken_for_fake, taken_for_real
from asdgan.detector import Detector
from asdgan.lanes import Draw, LaneAdam, initialise, per_lane
from asdgan.layers import Perceptron, l1, l2, window_l1, window_l2
from asdgan.windows import Batch


class Ganomaly(Detector):
    """Encode, decode, encode again; a sound is strange where the output differs from it.

    The generator is three perceptrons: encoder (x to z), decoder (z to x^), second encoder (x^
    to z^). The discriminator, an encoder-shaped trunk with one logit, tells x from x^. The
    generator minimises lambda_adv BCE(D(x^), real) + lambda_con |x - x^| + lambda_lat (z - z^)^2,
    all element means; the discriminator half the sum of its two cross-entropies.

    **Paper**: de Oliveira Neto, Guedes, Figueiredo, JISA 2024 (Eqs. 4 to 7; Tables 3 and 4),
    after Akcay, Atapour-Abarghouei, Breckon, "GANomaly", ACCV 2018, and its repository.
    Defaults: the settings that Table 4 gives most often (fan, slider, valve: 10 epochs, batch 16,
    3 hidden layers, lambdas 1, 50, 1) with the paper's common optimum for the rest.

    **Departures** and readings of what the paper leaves open:

    - ReLU and batch normalisation everywhere but on the decoder's output, the code included, as
      the paper's text says; the output is linear, the features are raw dB.
    - The adversarial loss is the paper's Eq. 5 (cross-entropy), not the feature matching of the
      repository's later code.
    - The generator steps first, both on one forward pass, as in the repository; the
      discriminator is passed twice a step, not four times, which gives equal losses and leaves
      its running statistics updated twice.
    - Scoring uses running statistics; the repository never leaves training mode.
    - The primary score is the paper's sentence on scoring (Section 3), the distance between
      input and output, taken as its reconstruction loss is (Eq. 6, L1). The repository's score,
      the squared difference of the codes, is the component `latent`: on the demo plant a guess.
    - A discriminator whose loss falls below 1e-5 is given fresh weights (`adversarial.Rebirth`).
    - Running statistics as in `lanes.Draw`; last epoch's weights, never the best on test clips.

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
        lambda_adv: Weight of the adversarial loss, one or one per lane.
        lambda_con: Weight of the reconstruction loss, likewise.
        lambda_lat: Weight of the code's loss, likewise.
        rebirth_below: Bound of the discriminator's loss; 0 for never.
        primary: As in `Detector`.
        pool: Likewise.
        optimizer: Makes an optimiser from parameters.
    """

    stackable = True
    lambda_adv: Tensor
    lambda_con: Tensor
    lambda_lat: Tensor

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
        lambda_adv: float | Sequence[float],
        lambda_con: float | Sequence[float],
        lambda_lat: float | Sequence[float],
        rebirth_below: float,
        primary: str,
        pool: str,
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the networks and fills them, lane by lane."""
        super().__init__(
            seed=seed, dropout=dropout, primary=primary, pool=pool, optimizer=optimizer
        )
        inputs, hidden = frames * mels, [hidden_width] * hidden_layers
        shared = {"hidden": hidden, "lanes": self.lanes, "dropout": self.dropout_rates}
        self.encoder = Perceptron(inputs, latent, output="norm", **shared)
        self.decoder = Perceptron(latent, inputs, output="linear", **shared)
        self.reencoder = Perceptron(inputs, latent, output="norm", **shared)
        self.discriminator = Perceptron(inputs, 1, output="linear", **shared)
        for name in ("encoder", "decoder", "reencoder", "discriminator"):
            network = getattr(self, name)
            initialise(network, init=init, std=init_std, seed=seed, place=(name,))
        self.rebirth = Rebirth(
            [self.discriminator], below=rebirth_below, init=init, std=init_std, seed=seed
        )
        for name, value in (("adv", lambda_adv), ("con", lambda_con), ("lat", lambda_lat)):
            weight = per_lane(value, self.lanes)
            self.register_buffer(f"lambda_{name}", weight, persistent=False)

    def networks(self) -> dict[str, list[nn.Module]]:
        """Generator and discriminator."""
        return {
            "generator": [self.encoder, self.decoder, self.reencoder],
            "discriminator": [self.discriminator],
        }

    def noise_columns(self) -> tuple[int, int]:
        """Dropout of one pass through the generator and two through the discriminator."""
        generator = self.encoder.dropped + self.decoder.dropped + self.reencoder.dropped
        return generator + 2 * self.discriminator.dropped, 0

    def gradients(
        self, x: Tensor, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Losses, each of shape lanes, and their gradients for both networks.

        One pass serves both: where only D's parameters are asked for, the gradient stops at x^,
        as if it had been detached.
        """
        draw = Draw(momentum, uniform, normal)
        z = self.encoder(x, draw)
        fake = self.decoder(z, draw)
        z_fake = self.reencoder(fake, draw)
        logit_real, logit_fake = self.discriminator(x, draw), self.discriminator(fake, draw)
        adv, con, lat = taken_for_real(logit_fake), l1(fake, x), l2(z_fake, z)
        loss_g = self.lambda_adv * adv + self.lambda_con * con + self.lambda_lat * lat
        loss_d = (taken_for_real(logit_real) + taken_for_fake(logit_fake)) / 2
        of_g = torch.autograd.grad(
            loss_g.sum(), tuple(self.parameters_of("generator")), retain_graph=True
        )
        of_d = torch.autograd.grad(loss_d.sum(), tuple(self.parameters_of("discriminator")))
        losses = {"loss_g": loss_g, "loss_d": loss_d, "adv": adv, "con": con, "lat": lat}
        return {name: value.detach() for name, value in losses.items()}, of_g, of_d

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The generator's step, then the discriminator's, on one forward pass."""
        step = self.step_function("gradients", batch.windows)
        losses, of_g, of_d = step(batch.windows, draw.momentum, draw.uniform, draw.normal)
        self.adams["generator"].descend(of_g)
        self.adams["discriminator"].descend(of_d)
        self.rebirth.apply_where(losses["loss_d"])
        return losses

    def between_blocks(self) -> None:
        """Draws fresh discriminator weights where they were used up."""
        self.rebirth.restock()

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Distances in code, in features of the discriminator, and between input and output."""
        x = batch.windows
        z = self.encoder(x, None)
        fake = self.decoder(z, None)
        z_fake = self.reencoder(fake, None)
        of_real, of_fake = (self.discriminator.features(w, None) for w in (x, fake))
        return {
            "latent": window_l2(z, z_fake),
            "recon_l1": window_l1(x, fake),
            "recon_l2": window_l2(x, fake),
            "disc_features": window_l2(of_real, of_fake),
        }
