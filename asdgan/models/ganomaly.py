"""GANomaly on windows of log-mel frames: the 2024 paper's reading, and the repository's."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asdgan.data.windows import Batch
from asdgan.detector import Detector
from asdgan.nn.adversarial import Rebirth, detached, taken_for_fake, taken_for_real
from asdgan.nn.health import Vitals
from asdgan.nn.lanes import Draw, LaneAdam, initialise, per_lane
from asdgan.nn.perceptrons import CODES, REDUCTIONS, Perceptron, l2, window_l1, window_l2


class Passed(NamedTuple):
    """What one forward pass gives: codes, and what the discriminator makes of x and x^."""

    z: Tensor
    z_fake: Tensor
    fake: Tensor
    of_real: Tensor
    of_fake: Tensor
    logit_real: Tensor
    logit_fake: Tensor


Loss = Callable[[Passed], Tensor]

ADV_LOSSES: dict[str, Loss] = {
    "bce": lambda passed: taken_for_real(passed.logit_fake),
    "feature_matching": lambda passed: l2(passed.of_fake, passed.of_real),
    "feature_matching_inert": lambda passed: l2(passed.of_fake, passed.of_real).detach(),
}
D_LOSSES: dict[str, Loss] = {
    "half": lambda passed: (
        (taken_for_real(passed.logit_real) + taken_for_fake(passed.logit_fake)) / 2
    ),
    "sum": lambda passed: taken_for_real(passed.logit_real) + taken_for_fake(passed.logit_fake),
    "features": lambda passed: l2(passed.of_fake, passed.of_real),
}
BOUNDED: dict[str, Loss | None] = {  # what `rebirth_below` is held against
    "loss_d": None,
    "either": lambda passed: torch.minimum(
        taken_for_real(passed.logit_real), taken_for_fake(passed.logit_fake)
    ),
}
ORDERS = {
    "g_first": [("generator", "discriminator")],  # one pass for both
    "d_first": [("discriminator",), ("generator",)],
}


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
    `model=ganomaly_original` is the repository's present code on the same windows.

    **Departures** and readings of what the paper leaves open, the paper's first:

    - `latent_activation`: ReLU and batch normalisation everywhere but on the decoder's output,
      the code included, as the paper's text says; upstream's code is linear.
    - `output_activation`, `windows.feature_norm`: linear on raw dB; upstream tanh on inputs
      scaled to -1 to 1.
    - `activation_slope`: ReLU; upstream LeakyReLU 0.2 in encoders and discriminator.
    - `adv_loss`, `d_loss`, `order`, `rebirth_by`: the paper's Eq. 5 is a cross-entropy; the
      repository changed three times what it trains by, and each generation can be had:

          until          adv_loss                 d_loss    order    rebirth_by
          25 Oct 2018    bce                      sum       d_first  either
          Aug 2019       bce                      features  d_first  loss_d
          9 Oct 2019     feature_matching_inert   half      g_first  loss_d
          today          feature_matching         half      g_first  loss_d

      In the second the discriminator's classifier is never trained; in the third no gradient of
      the adversarial loss reaches the generator. Where D steps first the generator is passed
      once for either step, so its running statistics take each minibatch twice.
    - `latent_loss`: the squared difference of the codes; `disc_features` as in Skip-GANomaly.
    - `reduction`: element means, as upstream; `norm` takes Eqs. 6 and 7 by the letter, where
      lambdas change their meaning with the width.
    - `bn_at_test`: running statistics; upstream never leaves training mode, of which `clip` is
      what dense layers allow: each clip by its own windows' statistics (transductive, and
      flagged so). Not taken into `ganomaly_original`: its scores depend on the other windows.
    - `primary`: the paper's sentence on scoring (Section 3), the distance between input and
      output, taken as its reconstruction loss is (Eq. 6, L1). Upstream's score, the squared
      difference of the codes, is the component `latent`: on the demo plant a guess.
    - `pool`: a clip's score is the mean over its windows; upstream has images only.
    - `rebirth_below`: a discriminator below 1e-5 is given fresh weights (`adversarial.Rebirth`).
    - `init_std`: the paper's "Random Normal" has DCGAN's 0.02, in linear layers too, which
      upstream's initialisation passes over.
    - `dropout` follows the activation of every hidden layer; upstream has none.
    - The minibatch is of windows; upstream's last, incomplete one is dropped, here it is kept.

    Not settings: the paper's decoder-shaped discriminator has no place for 640 inputs; of the
    first upstream layer, which has no batch normalisation, the dense form is as the others; the
    discriminator is passed twice a step, not four times, which gives equal losses and leaves its
    running statistics updated twice; these are as in `lanes.Draw`; weights are the last epoch's,
    never the best on test clips, which `--choose auc` names afterwards.

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
        latent_activation: `bn_relu` or `linear`.
        output_activation: `linear` or `tanh`.
        activation_slope: Of encoders' and discriminator's activations below 0; 0 is ReLU.
        lambda_adv: Weight of the adversarial loss, one or one per lane.
        lambda_con: Weight of the reconstruction loss, likewise.
        lambda_lat: Weight of the code's loss, likewise.
        adv_loss: `bce`, `feature_matching` or `feature_matching_inert`.
        d_loss: `half` or `sum` of the cross-entropies, or `features`, their squared distance.
        latent_loss: `encoder` or `disc_features`.
        reduction: `mean` or `norm`, of reconstruction and latent loss.
        order: `g_first` or `d_first`.
        rebirth_below: Bound of the discriminator's loss; 0 for never.
        rebirth_by: `loss_d`, or `either` of its cross-entropies.
        bn_at_test: `running` or `clip`.
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
        lambda_adv: float | Sequence[float],
        lambda_con: float | Sequence[float],
        lambda_lat: float | Sequence[float],
        adv_loss: str,
        d_loss: str,
        latent_loss: str,
        reduction: str,
        order: str,
        rebirth_below: float,
        rebirth_by: str,
        bn_at_test: str,
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
        leaky, code = {**shared, "slope": activation_slope}, CODES[latent_activation]
        self.encoder = Perceptron(inputs, latent, output=code, **leaky)
        self.decoder = Perceptron(latent, inputs, output=output_activation, **shared)
        self.reencoder = Perceptron(inputs, latent, output=code, **leaky)
        self.discriminator = Perceptron(inputs, 1, output="linear", **leaky)
        for name in ("encoder", "decoder", "reencoder", "discriminator"):
            network = getattr(self, name)
            initialise(network, init=init, std=init_std, seed=seed, place=(name,))
        self.rebirth = Rebirth(
            [self.discriminator], below=rebirth_below, init=init, std=init_std, seed=seed
        )
        for name, value in (("adv", lambda_adv), ("con", lambda_con), ("lat", lambda_lat)):
            weight = per_lane(value, self.lanes)
            self.register_buffer(f"lambda_{name}", weight, persistent=False)
        self._adversarial, self._discriminative = ADV_LOSSES[adv_loss], D_LOSSES[d_loss]
        self._bounded, self._turns = BOUNDED[rebirth_by], ORDERS[order]
        self._l1, self._l2 = REDUCTIONS[reduction]
        self._by_codes = latent_loss == "encoder"
        self._by_entropy = adv_loss == "bce" and d_loss != "features"  # of both networks
        self.transductive = bn_at_test == "clip"

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

    def _passed(self, x: Tensor, draw: Draw) -> Passed:
        """One forward pass through everything."""
        z = self.encoder(x, draw)
        fake = self.decoder(z, draw)
        z_fake = self.reencoder(fake, draw)
        judge = self.discriminator
        of_real, of_fake = judge.features(x, draw), judge.features(fake, draw)
        logits = judge.finish(of_real, draw), judge.finish(of_fake, draw)
        return Passed(z, z_fake, fake, of_real, of_fake, *logits)

    def gradients(
        self,
        x: Tensor,
        momentum: Tensor,
        uniform: Tensor | None,
        normal: Tensor | None,
        networks: tuple[str, ...] = ("generator", "discriminator"),
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], list[tuple[Tensor, ...]]]:
        """Losses, each of shape lanes, what was seen meanwhile, and each network's gradients.

        One pass serves both: where only D's parameters are asked for, the gradient stops at x^,
        as if it had been detached.
        """
        passed = self._passed(x, Draw(momentum, uniform, normal))
        adv, con = self._adversarial(passed), self._l1(passed.fake, x)
        codes = (passed.z_fake, passed.z) if self._by_codes else (passed.of_fake, passed.of_real)
        lat = self._l2(*codes)
        loss_g = self.lambda_adv * adv + self.lambda_con * con + self.lambda_lat * lat
        loss_d = self._discriminative(passed)
        minimised = {"generator": loss_g, "discriminator": loss_d}
        gradients = [
            torch.autograd.grad(
                minimised[name].sum(),
                tuple(self.parameters_of(name)),
                retain_graph=name != networks[-1],
                materialize_grads=True,  # of a classifier that nothing trains they are zero
            )
            for name in networks
        ]
        losses = {"loss_g": loss_g, "loss_d": loss_d, "adv": adv, "con": con, "lat": lat}
        seen = {"real": passed.logit_real, "fake": passed.logit_fake, "code": passed.z}
        seen["bounded"] = loss_d if self._bounded is None else self._bounded(passed)
        return detached(losses), detached(seen), gradients

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The steps of both networks: on one forward pass, or on one for each where D is first."""
        step = self.step_function("gradients", batch.windows)
        taken = (batch.windows, draw.momentum, draw.uniform, draw.normal)
        losses: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}
        for networks in self._turns:
            found, shown, gradients = step(*taken, networks)
            losses, seen = {**found, **losses}, {**shown, **seen}  # the first turn's, all of it
            for name, of in zip(networks, gradients, strict=True):
                self.adams[name].descend(of)
        self.rebirth.apply_where(seen["bounded"])
        adv = losses["adv"] if self._by_entropy else None
        births = self.rebirth.births
        self.vitals = Vitals(
            seen["real"], seen["fake"], seen["code"], losses["loss_d"], adv, births
        )
        return losses

    def between_blocks(self) -> None:
        """Draws fresh discriminator weights where they were used up."""
        self.rebirth.restock()

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Distances in code, in features of the discriminator, and between input and output."""
        x, draw = batch.windows, self.at_test
        z = self.encoder(x, draw)
        fake = self.decoder(z, draw)
        z_fake = self.reencoder(fake, draw)
        of_real, of_fake = (self.discriminator.features(w, draw) for w in (x, fake))
        return {
            "latent": window_l2(z, z_fake),
            "recon_l1": window_l1(x, fake),
            "recon_l2": window_l2(x, fake),
            "disc_features": window_l2(of_real, of_fake),
        }
