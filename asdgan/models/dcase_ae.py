"""The DCASE 2020 Task 2 baseline autoencoder."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asdgan.data.windows import Batch
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn.lanes import Draw, LaneAdam, Linear, Norm, initialise
from asdgan.nn.perceptrons import Perceptron, l2, window_l1, window_l2


class DcaseAE(Detector):
    """A dense autoencoder of five log-mel frames; a sound is strange where it is badly rebuilt.

    640-128-128-128-128-8 and back. Every layer but the last is Linear, batch normalisation,
    ReLU, the 8-unit code included; the output is linear. Loss and score are the mean squared
    error over the 640 numbers; a clip's score is the mean over its windows.

    **Paper**: Koizumi et al., "Description and discussion on DCASE2020 Challenge Task 2", 2020;
    code of the organisers' Keras baseline. Adam 1e-3, 100 epochs, batch 512, last epoch's
    weights; Keras' `validation_split=0.1` holds out the tail of the last section
    (`windows.val_split=keras_tail`).

    **Departures**: running statistics are plain averages over the first 100 steps (see
    `lanes.Draw`), so that a data set of a few dozen clips can be scored at all. Dropout, latent
    size, depth and initialisation are settings, as in the 2024 paper's grid.

    Args:
        seed: One, or one per lane.
        frames: Frames in a window.
        mels: Mel bands in a frame.
        hidden_layers: Hidden layers of the encoder, and as many of the decoder.
        hidden_width: Units in each.
        latent: Units of the code.
        dropout: As in `Detector`.
        init: As in `lanes.initialise`, one or one per lane.
        init_std: Likewise.
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
        primary: str,
        pool: str,
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the networks and fills them, lane by lane."""
        super().__init__(
            seed=seed, dropout=dropout, primary=primary, pool=pool, optimizer=optimizer
        )
        hidden = [hidden_width] * hidden_layers
        shared = {
            "hidden": hidden,
            "lanes": self.lanes,
            "dropout": self.dropout_rates,
            "bias": True,
        }
        self.encoder = Perceptron(frames * mels, latent, output="norm", **shared)
        self.decoder = Perceptron(latent, frames * mels, output="linear", **shared)
        for name in ("encoder", "decoder"):
            network = getattr(self, name)
            initialise(network, init=init, std=init_std, seed=seed, place=(name,))

    def networks(self) -> dict[str, list[nn.Module]]:
        """One optimiser for both halves."""
        return {"autoencoder": [self.encoder, self.decoder]}

    def noise_columns(self) -> tuple[int, int]:
        """Dropout of every hidden layer."""
        return self.encoder.dropped + self.decoder.dropped, 0

    def loss(self, x: Tensor, draw: Draw) -> Tensor:
        """The squared error, shape lanes."""
        return l2(self.decoder(self.encoder(x, draw), draw), x)

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction errors: `recon_l2` is the published score."""
        rebuilt = self.decoder(self.encoder(batch.windows, None), None)
        return {
            "recon_l2": window_l2(rebuilt, batch.windows),
            "recon_l1": window_l1(rebuilt, batch.windows),
        }

    @torch.no_grad()
    def load_published(self, path: Path) -> None:
        """Takes over weights of a trained Keras baseline.

        Args:
            path: An .npz whose `layers` is a JSON list of layers in order, each with its `kind`
                (Dense, BatchNormalization, Activation) and `eps`; layer 3's arrays are
                `03_kernel`, `03_bias`, or `03_gamma`, `03_beta`, `03_moving_mean`,
                `03_moving_variance`.

        Raises:
            BadInput: The layers are not this network's, or an array's shape differs.
        """
        if self.lanes:
            raise BadInput("published weights load into a single run, not into a stack")
        with np.load(path, allow_pickle=False) as arrays:
            listed = json.loads(str(arrays["layers"]))
            theirs = [
                (f"{i:02d}", layer)
                for i, layer in enumerate(listed)
                if layer["kind"] != "Activation"
            ]
            ours = [layer for layer in self.modules() if isinstance(layer, Linear | Norm)]
            kinds = [
                "Dense" if isinstance(layer, Linear) else "BatchNormalization" for layer in ours
            ]
            if [layer["kind"] for _, layer in theirs] != kinds:
                raise BadInput(
                    f"{path}: {len(theirs)} layers with weights, this network has {len(ours)}; "
                    f"set hidden_layers to the published depth"
                )
            for (number, _), layer in zip(theirs, ours, strict=True):
                for name, target in _keras_names(layer).items():
                    value = torch.from_numpy(arrays[f"{number}_{name}"])
                    if value.numel() != target.numel():
                        raise BadInput(
                            f"{path}: {number}_{name} has shape {tuple(value.shape)}, this one "
                            f"needs {tuple(target.shape)}; set latent, windows and mels to match"
                        )
                    target.copy_(value.reshape(target.shape))


def _keras_names(layer: Linear | Norm) -> dict[str, Tensor]:
    """The tensors of a layer under the names Keras gives them."""
    if isinstance(layer, Linear):
        assert layer.bias is not None
        return {"kernel": layer.weight, "bias": layer.bias}
    return {
        "gamma": layer.weight,
        "beta": layer.bias,
        "moving_mean": layer.running_mean,
        "moving_variance": layer.running_var,
    }
