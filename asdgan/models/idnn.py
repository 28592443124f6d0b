"""IDNN, the interpolation network: the centre frame is told from its neighbours."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asdgan.data.windows import Batch
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn.lanes import Draw, LaneAdam, initialise
from asdgan.nn.perceptrons import Perceptron, l2, window_l1, window_l2


class Idnn(Detector):
    """A dense network that interpolates; a sound is strange where its centre frame surprises.

    Of a window of five log-mel frames the four outer ones go in and the centre one comes out.
    Loss and score are the mean squared error over the centre frame's bands; a clip's score is the
    mean over its windows. Frames at an edge are hard to foretell for any sound, and an autoencoder
    of the whole window pays for them; of sounds that are not stationary, valves above all, this
    one says more.

    **Paper**: Suefusa et al., "Anomalous sound detection based on interpolation deep neural
    network", ICASSP 2020 (arXiv 2005.09234).

    **Departures**: the paper works on MIMII and its layer sizes are not known to us. Here stands
    the body of the DCASE 2020 baseline autoencoder with 512 numbers in and 128 out, as a public
    DCASE port of it has (512-128-128-128-128-8-128-128-128-128-128; Linear, batch normalisation,
    ReLU, the 8-unit code included; linear output), with that baseline's training, so that the
    two differ in nothing but what is asked of them. No bias in front of a batch normalisation.
    Running statistics as in `lanes.Draw`; last epoch's weights.

    Args:
        seed: One, or one per lane.
        frames: Frames in a window; an odd number, so that there is a centre.
        mels: Mel bands in a frame.
        hidden_layers: Hidden layers in front of the code, and as many behind it.
        hidden_width: Units in each.
        latent: Units of the code.
        dropout: As in `Detector`.
        init: As in `lanes.initialise`, one or one per lane.
        init_std: Likewise.
        primary: As in `Detector`.
        pool: Likewise.
        optimizer: Makes an optimiser from parameters.

    Raises:
        BadInput: The number of frames is even, or 1.
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
        primary: str,
        pool: str,
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the networks and fills them, lane by lane."""
        super().__init__(
            seed=seed, dropout=dropout, primary=primary, pool=pool, optimizer=optimizer
        )
        if frames < 3 or frames % 2 == 0:
            raise BadInput(
                f"windows.frames={frames} has no centre frame between others, which idnn tells "
                "from them; take an odd number of at least 3"
            )
        self._before, self._mels = frames // 2 * mels, mels
        hidden = [hidden_width] * hidden_layers
        shared = {"hidden": hidden, "lanes": self.lanes, "dropout": self.dropout_rates}
        self.context = Perceptron((frames - 1) * mels, latent, output="norm", **shared)
        self.interpolation = Perceptron(latent, mels, output="linear", **shared)
        for name in ("context", "interpolation"):
            network = getattr(self, name)
            initialise(network, init=init, std=init_std, seed=seed, place=(name,))

    def networks(self) -> dict[str, list[nn.Module]]:
        """One optimiser for both halves."""
        return {"idnn": [self.context, self.interpolation]}

    def noise_columns(self) -> tuple[int, int]:
        """Dropout of every hidden layer."""
        return self.context.dropped + self.interpolation.dropped, 0

    def centre(self, x: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor]:
        """The centre frame as the others foretell it, and as it is: (..., windows, mels) each."""
        before, centre, after = x.tensor_split((self._before, self._before + self._mels), -1)
        outer = torch.cat([before, after], -1)
        return self.interpolation(self.context(outer, draw), draw), centre

    def loss(self, x: Tensor, draw: Draw) -> Tensor:
        """The squared error, shape lanes."""
        return l2(*self.centre(x, draw))

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Errors of the centre frame: `centre_l2` is the published score."""
        told, centre = self.centre(batch.windows, None)
        return {"centre_l2": window_l2(told, centre), "centre_l1": window_l1(told, centre)}
