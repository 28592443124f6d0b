"""EGBAD (a BiGAN) on windows of log-mel frames: the 2024 paper's reading, and the repository's."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asdgan.data.windows import Batch
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn.adversarial import Averages, softplus, taken_for_fake, taken_for_real
from asdgan.nn.health import Vitals
from asdgan.nn.lanes import Draw, LaneAdam, initialise
from asdgan.nn.perceptrons import CODES, Perceptron, hidden_layer, window_l1, window_l2


class Branched(nn.Module):
    """A discriminator of pairs that gives x and z a layer each before it joins them.

    Args:
        inputs: Features of x.
        latent: Features of z.
        hidden: Widths of the hidden layers, all equal, the branches' first.
        norm: Batch normalisation in the hidden layers.
        lanes: Leading shape of the parameters.
        dropout: Rates of the hidden layers, shape (*lanes, 1, 1).
        slope: Of the activations below 0.

    Raises:
        BadInput: One hidden layer, which leaves none behind the branches.
    """

    def __init__(
        self,
        inputs: int,
        latent: int,
        *,
        hidden: list[int],
        norm: bool,
        lanes: tuple[int, ...],
        dropout: Tensor,
        slope: float,
    ) -> None:
        """Makes zero weights; `lanes.initialise` fills them."""
        super().__init__()
        if len(hidden) < 2:
            raise BadInput("model.disc_join=late takes hidden_layers of at least 2, found 1")
        self._parts, width = [inputs, latent], hidden[0]
        shared = {"lanes": lanes, "dropout": dropout, "norm": norm, "slope": slope}
        self.branches = nn.ModuleList(hidden_layer(part, width, **shared) for part in self._parts)
        self.joint = Perceptron(2 * width, 1, hidden=hidden[1:], output="linear", **shared)
        self.dropped = 2 * width + self.joint.dropped

    def features(self, pair: Tensor, draw: Draw | None) -> Tensor:
        """The last hidden layer, shape (*lanes, windows, width)."""
        parts = zip(self.branches, pair.split(self._parts, -1), strict=True)
        return self.joint.features(torch.cat([layer(x, draw) for layer, x in parts], -1), draw)

    def finish(self, features: Tensor, draw: Draw | None) -> Tensor:
        """The logit on top of `features`."""
        return self.joint.finish(features, draw)

    def forward(self, pair: Tensor, draw: Draw | None) -> Tensor:
        """Logits (*lanes, windows, 1) of pairs joined along features."""
        return self.finish(self.features(pair, draw), draw)


class Egbad(Detector):
    """Learn to invert a generator; a sound is strange where its inverse does not lead back.

    An encoder E (x to z), a generator G (z to x^), and a discriminator that tells pairs
    (x, E(x)) from pairs (G(z), z), z drawn from N(0, I). A window's score is
    (1 - score_weight) |x - G(E(x))| + score_weight |f(x, E(x)) - f(G(E(x)), E(x))|, sums over
    dimensions, f being the discriminator's last hidden layer.

    **Paper**: de Oliveira Neto, Guedes, Figueiredo, JISA 2024 (Section 3; not in its grid, so
    run at its common optimum), after Zenati et al., "Efficient GAN-based anomaly detection",
    2018, and its repository. `model=egbad_original` is that repository's dense (KDD) variant on
    the same windows.

    **Departures** and readings of what the paper leaves open, the paper's first:

    - `latent_activation`: E's code is linear in both readings: one that cannot be negative
      (`bn_relu`, the paper's words for all layers) can never match N(0, I), and the
      discriminator would win by its sign alone.
    - `bn_in_d`: likewise no batch normalisation in D: real and fake pairs pass in batches of
      their own, whose statistics give the answer away. `bn_in_eg`: E and G have it; upstream's
      dense ones do not.
    - `disc_join`: D joins x and z at its input (`early`); upstream gives each a layer of its own
      first (`late`).
    - `activation_slope`: ReLU; upstream LeakyReLU 0.1 in E and D. `output_activation`: linear.
    - `dropout_in`: the rate holds in all networks; upstream drops 0.2 in D alone.
    - `ema`: scored are the last step's weights; upstream averages them with a decay of 0.9999.
      Running statistics are not averaged.
    - `reduction`: sums over dimensions in `combined`, as upstream, which weight 640 inputs
      against `hidden_width` features; `mean` takes means.
    - `disc_score`: the discriminator's part of `combined` is the distance of features, or the
      rebuilt pair's `cross_entropy`, as upstream offers.
    - lr 2e-4, batch 16, latent 8: the paper's common optimum, as it searched no others here;
      upstream 1e-5, 50, 32, two hidden layers. Its features are unscaled, like these.
    - `bn_at_test`, `init_std`, `pool` and the minibatch are read as in `ganomaly.Ganomaly`.

    Not settings: E and G step on the same minibatch as D with fresh z, upstream's on one of a
    second permutation; upstream's G widens from 64 to 128 units, here all widths are equal. The
    paper's own EGBAD figures lie below 0.5 for three types: scores are reported as they are, no
    sign is turned. Running statistics are as in `lanes.Draw`; weights are the last epoch's.

    Args:
        seed: One, or one per lane.
        frames: Frames in a window.
        mels: Mel bands in a frame.
        hidden_layers: Hidden layers of each perceptron.
        hidden_width: Units in each.
        latent: Units of the code.
        dropout: As in `Detector`.
        dropout_in: `all` networks, or the `discriminator`.
        init: As in `lanes.initialise`, one or one per lane.
        init_std: Likewise.
        latent_activation: `linear` or `bn_relu`.
        output_activation: `linear` or `tanh`.
        activation_slope: Of encoder's and discriminator's activations below 0; 0 is ReLU.
        bn_in_eg: Batch normalisation in encoder and generator.
        bn_in_d: Batch normalisation in the discriminator.
        disc_join: `early` or `late`.
        ema: Share of the old average that a step keeps; 0 for scoring by the last weights.
        reduction: `norm` (sums) or `mean`, in `combined`.
        disc_score: `features` or `cross_entropy`, in `combined`.
        score_weight: Share of the discriminator's part in `combined`, 0 to 1.
        bn_at_test: `running` or `clip`.
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
        dropout_in: str,
        init: str | Sequence[str],
        init_std: float,
        latent_activation: str,
        output_activation: str,
        activation_slope: float,
        bn_in_eg: bool,
        bn_in_d: bool,
        disc_join: str,
        ema: float,
        reduction: str,
        disc_score: str,
        score_weight: float,
        bn_at_test: str,
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
        of_d = {"hidden": hidden, "lanes": self.lanes, "dropout": self.dropout_rates}
        of_d |= {"norm": bn_in_d, "slope": activation_slope}
        rates = self.dropout_rates if dropout_in == "all" else torch.zeros_like(self.dropout_rates)
        others = {"hidden": hidden, "lanes": self.lanes, "dropout": rates, "norm": bn_in_eg}
        self.encoder = Perceptron(
            inputs, latent, output=CODES[latent_activation], slope=activation_slope, **others
        )
        self.generator = Perceptron(latent, inputs, output=output_activation, **others)
        if disc_join == "late":
            self.discriminator = Branched(inputs, latent, **of_d)
        else:
            self.discriminator = Perceptron(inputs + latent, 1, output="linear", **of_d)
        for name in ("encoder", "generator", "discriminator"):
            network = getattr(self, name)
            initialise(network, init=init, std=init_std, seed=seed, place=(name,))
        self._latent, self._score_weight = latent, score_weight
        self._by_means, self._by_entropy = reduction == "mean", disc_score == "cross_entropy"
        self.averages = Averages([m for of in self.networks().values() for m in of], decay=ema)
        self.transductive = bn_at_test == "clip"

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

    def _logits(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """The discriminator's logits of pairs (x, E(x)) and (G(z), z), and the code E(x)."""
        z = draw.normals(self._latent).expand(*self.lanes, x.shape[-2], self._latent)
        code = self.encoder(x, draw)
        pairs = (_pair(x, code), _pair(self.generator(z, draw), z))
        return self.discriminator(pairs[0], draw), self.discriminator(pairs[1], draw), code

    def discriminator_gradients(
        self, x: Tensor, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The discriminator's loss, shape lanes, and gradients."""
        real, fake, _ = self._logits(x, Draw(momentum, *_half(uniform, normal, 0)))
        loss = taken_for_real(real) + taken_for_fake(fake)
        parameters = tuple(self.parameters_of("discriminator"))
        gradients = torch.autograd.grad(loss.sum(), parameters)
        return loss.detach(), gradients

    def other_gradients(
        self, x: Tensor, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Losses of generator and encoder, logits and code; then their gradients."""
        real, fake, code = self._logits(x, Draw(momentum, *_half(uniform, normal, 1)))
        loss_g, loss_e = taken_for_real(fake), taken_for_fake(real)
        of_g = torch.autograd.grad(
            loss_g.sum(), tuple(self.parameters_of("generator")), retain_graph=True
        )
        of_e = torch.autograd.grad(loss_e.sum(), tuple(self.parameters_of("encoder")))
        return tuple(of.detach() for of in (loss_g, loss_e, real, fake, code)), of_g, of_e

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The discriminator's step, then generator's and encoder's with fresh z."""
        taken = (batch.windows, draw.momentum, draw.uniform, draw.normal)
        step = self.step_function("discriminator_gradients", batch.windows)
        loss_d, of_d = step(*taken)
        self.adams["discriminator"].descend(of_d)
        step = self.step_function("other_gradients", batch.windows)
        (loss_g, loss_e, real, fake, code), of_g, of_e = step(*taken)
        self.adams["generator"].descend(of_g)
        self.adams["encoder"].descend(of_e)
        self.averages.update()
        self.vitals = Vitals(real, fake, code, loss_d, loss_g, None)
        return {"loss_d": loss_d, "loss_g": loss_g, "loss_e": loss_e}

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction errors, feature distance, the rebuilt pair's cross-entropy, the mix."""
        x, draw = batch.windows, self.at_test
        with self.averages.in_use():
            z = self.encoder(x, draw)
            fake = self.generator(z, draw)
            x = x.expand_as(fake)
            of_real = self.discriminator.features(_pair(x, z), draw)
            of_fake = self.discriminator.features(_pair(fake, z), draw)
            entropy = softplus(-self.discriminator.finish(of_fake, draw)).squeeze(-1)
        apart, features = (x - fake).abs(), (of_real - of_fake).abs()
        recon, judged = (of.mean(-1) if self._by_means else of.sum(-1) for of in (apart, features))
        if self._by_entropy:
            judged = entropy
        return {
            "combined": (1 - self._score_weight) * recon + self._score_weight * judged,
            "recon_l1": window_l1(x, fake),
            "recon_l2": window_l2(x, fake),
            "disc_features": window_l1(of_real, of_fake),
            "cross_entropy": entropy,
        }


def _pair(x: Tensor, z: Tensor) -> Tensor:
    """A window and a code, joined along features."""
    return torch.cat([x.expand(*z.shape[:-1], x.shape[-1]), z], -1)


def _half(uniform: Tensor | None, normal: Tensor | None, turn: int) -> tuple[Tensor | None, ...]:
    """The first or second half of a step's noise columns."""
    return tuple(
        None if noise is None else noise.chunk(2, -1)[turn] for noise in (uniform, normal)
    )
