"""Skip-GANomaly on windows of log-mel frames, as the 2024 paper reads it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asdgan.adversarial import Rebirth, taken_for_fake, taken_for_real
from asdgan.detector import Detector
from asdgan.lanes import Draw, LaneAdam, Linear, initialise, per_lane
from asdgan.layers import Dense, Perceptron, l1, l2, window_l1, window_l2
from asdgan.windows import Batch


class SkipGenerator(nn.Module):
    """An autoencoder whose decoder also sees every hidden layer of its encoder.

    Encoder h1 .. hL and code z; decoder d1 = f(z), d(k+1) = f(d(k), h(L-k+1)); the output is
    linear in (d(L), h1). The input itself is not passed on, so the path that carries most is
    h1, of `hidden_width` units: the code is not the bottleneck here.

    Args:
        inputs: Features in a window.
        latent: Units of the code.
        hidden: Widths of the encoder's hidden layers, all equal.
        lanes: Leading shape of the parameters.
        dropout: Rates of the hidden layers, shape (*lanes, 1, 1).
    """

    def __init__(
        self,
        inputs: int,
        latent: int,
        *,
        hidden: list[int],
        lanes: tuple[int, ...],
        dropout: Tensor,
    ) -> None:
        """Makes zero weights; `lanes.initialise` fills them."""
        super().__init__()
        width = hidden[0]
        into = [inputs, *hidden[:-1]]
        self.down = nn.ModuleList(Dense(i, width, lanes=lanes, dropout=dropout) for i in into)
        self.code = Dense(width, latent, lanes=lanes, dropout=None)
        into = [latent] + [2 * width] * (len(hidden) - 1)
        self.up = nn.ModuleList(Dense(i, width, lanes=lanes, dropout=dropout) for i in into)
        self.output = Linear(2 * width, inputs, lanes=lanes, bias=True)
        self.dropped = 2 * sum(hidden)  # columns of uniform noise that one pass takes

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Shape (*lanes, windows, inputs) in and out."""
        passed = []
        for layer in self.down:
            x = layer(x, draw)
            passed.append(x)
        x = self.code(x, draw)
        for i, layer in enumerate(self.up):
            x = layer(x if i == 0 else torch.cat([x, passed.pop()], -1), draw)
        return self.output(torch.cat([x, passed.pop()], -1))


class SkipGanomaly(Detector):
    """Rebuild a window past skip connections; strange where input and features come back changed.

    The discriminator is an encoder to `latent` linear features f and one logit on top. The
    generator minimises lambda_adv BCE(D(x^), real) + lambda_con |x - x^| + lambda_lat
    (f(x) - f(x^))^2, all element means; the discriminator the sum of its two cross-entropies.
    A window's score is score_weight (x - x^)^2 + (1 - score_weight) (f(x) - f(x^))^2, as means.

    **Paper**: de Oliveira Neto, Guedes, Figueiredo, JISA 2024 (Section 3; Tables 3 and 5), after
    Akcay, Atapour-Abarghouei, Breckon, "Skip-GANomaly", IJCNN 2019, and its repository.
    Defaults: Table 5's row for fan (10 epochs, batch 16, 3 hidden layers, lambdas 1, 50, 1) with
    the paper's common optimum for the rest.

    **Departures** and readings of what the paper leaves open:

    - "Residual connections" and "concatenations" both stand in the paper; these concatenate.
    - The latent loss compares the discriminator's features (there is no second encoder); it is
      not added to the discriminator's own loss, as the repository does: the paper describes D
      as a classifier only.
    - The generator steps first, both on one forward pass; the discriminator's running
      statistics are updated twice a step.
    - Scoring uses running statistics; the repository never leaves training mode, scales scores
      by the test set's range (which changes no AUC), and adds noise it never draws.
    - A discriminator whose loss falls below 1e-5 is given fresh weights (`adversarial.Rebirth`).
    - Running statistics as in `lanes.Draw`; last epoch's weights, never the best on test clips.

    Args:
        seed: One, or one per lane.
        frames: Frames in a window.
        mels: Mel bands in a frame.
        hidden_layers: Hidden layers of the encoder, of the decoder and of the discriminator.
        hidden_width: Units in each.
        latent: Units of the code, and of the discriminator's features.
        dropout: As in `Detector`.
        init: As in `lanes.initialise`, one or one per lane.
        init_std: Likewise.
        lambda_adv: Weight of the adversarial loss, one or one per lane.
        lambda_con: Weight of the reconstruction loss, likewise.
        lambda_lat: Weight of the feature loss, likewise.
        rebirth_below: Bound of the discriminator's loss; 0 for never.
        score_weight: Share of the reconstruction error in `combined`, 0 to 1.
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
        score_weight: float,
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
        self.generator = SkipGenerator(inputs, latent, **shared)
        self.trunk = Perceptron(inputs, latent, output="linear", **shared)
        self.logit = Linear(latent, 1, lanes=self.lanes, bias=True)
        for name in ("generator", "trunk", "logit"):
            network = getattr(self, name)
            initialise(network, init=init, std=init_std, seed=seed, place=(name,))
        self.rebirth = Rebirth(
            [self.trunk, self.logit], below=rebirth_below, init=init, std=init_std, seed=seed
        )
        for name, value in (("adv", lambda_adv), ("con", lambda_con), ("lat", lambda_lat)):
            weight = per_lane(value, self.lanes)
            self.register_buffer(f"lambda_{name}", weight, persistent=False)
        self._score_weight = score_weight

    def networks(self) -> dict[str, list[nn.Module]]:
        """Generator and discriminator."""
        return {"generator": [self.generator], "discriminator": [self.trunk, self.logit]}

    def noise_columns(self) -> tuple[int, int]:
        """Dropout of one pass through the generator and two through the discriminator."""
        return self.generator.dropped + 2 * self.trunk.dropped, 0

    def gradients(
        self, x: Tensor, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Losses, each of shape lanes, and their gradients for both networks."""
        draw = Draw(momentum, uniform, normal)
        fake = self.generator(x, draw)
        of_real, of_fake = self.trunk(x, draw), self.trunk(fake, draw)
        logit_real, logit_fake = self.logit(of_real), self.logit(of_fake)
        adv, con, lat = taken_for_real(logit_fake), l1(fake, x), l2(of_fake, of_real)
        loss_g = self.lambda_adv * adv + self.lambda_con * con + self.lambda_lat * lat
        loss_d = taken_for_real(logit_real) + taken_for_fake(logit_fake)
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
        """Reconstruction errors, feature distance, and the published mix of the two squares."""
        x = batch.windows
        fake = self.generator(x, None)
        recon = window_l2(x, fake)
        features = window_l2(self.trunk(x, None), self.trunk(fake, None))
        return {
            "combined": self._score_weight * recon + (1 - self._score_weight) * features,
            "recon_l1": window_l1(x, fake),
            "recon_l2": recon,
            "disc_features": features,
        }
