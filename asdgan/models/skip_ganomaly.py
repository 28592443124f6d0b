"""Skip-GANomaly on windows of log-mel frames: the 2024 paper's reading, and the repository's."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asdgan.data.windows import Batch
from asdgan.detector import Detector
from asdgan.nn.adversarial import Rebirth, detached, taken_for_fake, taken_for_real
from asdgan.nn.health import Vitals
from asdgan.nn.lanes import Draw, LaneAdam, Linear, initialise, per_lane
from asdgan.nn.perceptrons import (
    CODES,
    REDUCTIONS,
    Dense,
    Perceptron,
    last_layer,
    through,
    window_l1,
    window_l2,
)


class SkipGenerator(nn.Module):
    """An autoencoder whose decoder also sees every hidden layer of its encoder.

    Encoder h1 .. hL and code z; decoder d1 = f(z), d(k+1) = f(d(k), h(L-k+1)); the output is
    made of (d(L), h1). The input itself is not passed on, so the path that carries most is
    h1, of `hidden_width` units: the code is not the bottleneck here.

    Args:
        inputs: Features in a window.
        latent: Units of the code.
        hidden: Widths of the encoder's hidden layers, all equal.
        lanes: Leading shape of the parameters.
        dropout: Rates of the hidden layers, shape (*lanes, 1, 1).
        code: Kind of the code's layer, as in `last_layer`.
        output: Of the output's, likewise.
        slope: Of the encoder's activations below 0; 0 for ReLU.
        add: Whether what is passed on is added, not joined.
    """

    def __init__(
        self,
        inputs: int,
        latent: int,
        *,
        hidden: list[int],
        lanes: tuple[int, ...],
        dropout: Tensor,
        code: str,
        output: str,
        slope: float,
        add: bool,
    ) -> None:
        """Makes zero weights; `lanes.initialise` fills them."""
        super().__init__()
        width = hidden[0]
        self._add, met = add, width if add else 2 * width
        self.down = nn.ModuleList(
            Dense(i, width, lanes=lanes, dropout=dropout, slope=slope)
            for i in [inputs, *hidden[:-1]]
        )
        self.code = last_layer(code, width, latent, lanes=lanes)
        into = [latent] + [met] * (len(hidden) - 1)
        self.up = nn.ModuleList(Dense(i, width, lanes=lanes, dropout=dropout) for i in into)
        self.output = last_layer(output, met, inputs, lanes=lanes)
        self.dropped = 2 * sum(hidden)  # columns of uniform noise that one pass takes

    def forward(self, x: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor]:
        """Output and code of windows (*lanes, windows, inputs)."""
        passed = []
        for layer in self.down:
            x = layer(x, draw)
            passed.append(x)
        code = x = through(self.code, x, draw)
        for i, layer in enumerate(self.up):
            x = layer(x if i == 0 else self._met(x, passed.pop()), draw)
        return through(self.output, self._met(x, passed.pop()), draw), code

    def _met(self, x: Tensor, passed: Tensor) -> Tensor:
        return x + passed if self._add else torch.cat([x, passed], -1)


class SkipGanomaly(Detector):
    """Rebuild a window past skip connections; strange where input and features come back changed.

    The discriminator is an encoder to `latent` linear features f and one logit on top. The
    generator minimises lambda_adv BCE(D(x^), real) + lambda_con |x - x^| + lambda_lat
    (f(x) - f(x^))^2, all element means; the discriminator the sum of its two cross-entropies.
    A window's score is score_weight (x - x^)^2 + (1 - score_weight) (f(x) - f(x^))^2, as means.

    **Paper**: de Oliveira Neto, Guedes, Figueiredo, JISA 2024 (Section 3; Tables 3 and 5), after
    Akcay, Atapour-Abarghouei, Breckon, "Skip-GANomaly", IJCNN 2019, and its repository.
    Defaults: Table 5's row for fan (10 epochs, batch 16, 3 hidden layers, lambdas 1, 50, 1) with
    the paper's common optimum for the rest. `model=skip_ganomaly_original` is the repository's
    code on the same windows.

    **Departures** and readings of what the paper leaves open, the paper's first:

    - `latent_activation`, `output_activation` with `windows.feature_norm`, `activation_slope`,
      `reduction`, `bn_at_test`, `init_std`, `pool`, `dropout` and the minibatch are read as in
      `ganomaly.Ganomaly`.
    - `skip_mode`: "residual connections" and "concatenations" both stand in the paper; these
      concatenate, as upstream's do. `add` adds.
    - The latent loss compares the discriminator's features, as there is no second encoder;
      `disc_feature` says which: its linear code (upstream's), or its `last_hidden` layer.
    - `lat_in_d_loss`: not added to the discriminator's own loss, as the paper describes D as a
      classifier only; upstream adds it, with lambda_lat and the same sign.
    - `input_noise_std`: none. Upstream adds a buffer to the generator's input that it never
      draws; a value above 0 is what its name promises, in training only.
    - `rebirth_below`: a discriminator below 1e-5 is given fresh weights (`adversarial.Rebirth`);
      upstream's are drawn by GANomaly's initialisation, which skips linear layers: here by
      `init`.
    - `primary`, `score_weight`: both readings score by the published mix of two squares. Upstream
      scales scores by the test set's range, which changes no AUC.

    Not settings: both readings have the cross-entropy for the generator's adversarial loss, the
    sum of two for D's, and step the generator first, both on one pass, where D's running
    statistics are updated twice; upstream's first and innermost layers have no batch
    normalisation, in the dense form they are as the others; its learning rate's decay is never
    stepped, so there is none; running statistics are as in `lanes.Draw`; weights are the last
    epoch's, never the best on test clips.

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
        latent_activation: `bn_relu` or `linear`, of the generator's code.
        output_activation: `linear` or `tanh`.
        activation_slope: Of encoder's and discriminator's activations below 0; 0 is ReLU.
        skip_mode: `concat` or `add`.
        disc_feature: `code` or `last_hidden`.
        lambda_adv: Weight of the adversarial loss, one or one per lane.
        lambda_con: Weight of the reconstruction loss, likewise.
        lambda_lat: Weight of the feature loss, likewise.
        lat_in_d_loss: Whether the discriminator minimises the feature loss too.
        reduction: `mean` or `norm`, of reconstruction and feature loss.
        input_noise_std: Of normal noise on the generator's input, in the input's unit.
        rebirth_below: Bound of the discriminator's loss; 0 for never.
        bn_at_test: `running` or `clip`.
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
        latent_activation: str,
        output_activation: str,
        activation_slope: float,
        skip_mode: str,
        disc_feature: str,
        lambda_adv: float | Sequence[float],
        lambda_con: float | Sequence[float],
        lambda_lat: float | Sequence[float],
        lat_in_d_loss: bool,
        reduction: str,
        input_noise_std: float,
        rebirth_below: float,
        bn_at_test: str,
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
        shared["slope"] = activation_slope
        self.generator = SkipGenerator(
            inputs,
            latent,
            code=CODES[latent_activation],
            output=output_activation,
            add=skip_mode == "add",
            **shared,
        )
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
        self._score_weight, self._hidden_features = score_weight, disc_feature == "last_hidden"
        self._lat_in_d, self._noise_std, self._inputs = lat_in_d_loss, input_noise_std, inputs
        self._l1, self._l2 = REDUCTIONS[reduction]
        self.transductive = bn_at_test == "clip"

    def networks(self) -> dict[str, list[nn.Module]]:
        """Generator and discriminator."""
        return {"generator": [self.generator], "discriminator": [self.trunk, self.logit]}

    def noise_columns(self) -> tuple[int, int]:
        """Dropout of one pass through the generator and two through the discriminator."""
        noise = self._inputs if self._noise_std else 0
        return self.generator.dropped + 2 * self.trunk.dropped, noise

    def _judged(self, x: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor]:
        """The discriminator's features of windows that are compared, and its logits."""
        hidden = self.trunk.features(x, draw)
        code = self.trunk.finish(hidden, draw)
        return hidden if self._hidden_features else code, self.logit(code)

    def gradients(
        self, x: Tensor, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Losses, each of shape lanes, what was seen meanwhile, and both networks' gradients.

        Where only D's parameters are asked for, the gradient stops at x^, as if it had been
        detached.
        """
        draw = Draw(momentum, uniform, normal)
        noisy = x + self._noise_std * draw.normals(self._inputs) if self._noise_std else x
        fake, code = self.generator(noisy, draw)
        of_real, logit_real = self._judged(x, draw)
        of_fake, logit_fake = self._judged(fake, draw)
        adv = taken_for_real(logit_fake)
        con, lat = self._l1(fake, x), self._l2(of_fake, of_real)
        loss_g = self.lambda_adv * adv + self.lambda_con * con + self.lambda_lat * lat
        judged = taken_for_real(logit_real) + taken_for_fake(logit_fake)
        loss_d = judged + self.lambda_lat * lat if self._lat_in_d else judged
        of_g = torch.autograd.grad(
            loss_g.sum(), tuple(self.parameters_of("generator")), retain_graph=True
        )
        of_d = torch.autograd.grad(loss_d.sum(), tuple(self.parameters_of("discriminator")))
        losses = {"loss_g": loss_g, "loss_d": loss_d, "adv": adv, "con": con, "lat": lat}
        seen = {"real": logit_real, "fake": logit_fake, "code": code, "loss_d": judged}
        return detached(losses), detached(seen), of_g, of_d

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The generator's step, then the discriminator's, on one forward pass."""
        step = self.step_function("gradients", batch.windows)
        losses, seen, of_g, of_d = step(batch.windows, draw.momentum, draw.uniform, draw.normal)
        self.adams["generator"].descend(of_g)
        self.adams["discriminator"].descend(of_d)
        self.rebirth.apply_where(losses["loss_d"])
        births = self.rebirth.births
        self.vitals = Vitals(
            seen["real"], seen["fake"], seen["code"], seen["loss_d"], losses["adv"], births
        )
        return losses

    def between_blocks(self) -> None:
        """Draws fresh discriminator weights where they were used up."""
        self.rebirth.restock()

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction errors, feature distance, and the published mix of the two squares."""
        x, draw = batch.windows, self.at_test
        fake, _ = self.generator(x, draw)
        recon = window_l2(x, fake)
        features = window_l2(self._judged(x, draw)[0], self._judged(fake, draw)[0])
        return {
            "combined": self._score_weight * recon + (1 - self._score_weight) * features,
            "recon_l1": window_l1(x, fake),
            "recon_l2": recon,
            "disc_features": features,
        }
