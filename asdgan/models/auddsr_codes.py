"""AudDSR's first stage: a discrete autoencoder of machine sound, a detector of its own."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from asdgan._system.seeds import key_of
from asdgan.data.windows import Batch, Windows
from asdgan.detector import Detector
from asdgan.nn.lanes import Draw, LaneAdam, keyed
from asdgan.nn.perceptrons import window_l1, window_l2
from asdgan.nn.vq import Codes, check_frames


class AuddsrCodes(Detector):
    """VQ-VAE-2 on log-mel spectrograms; a sound is strange where codes cannot spell it.

    A clip's spectrogram is encoded twice, at a quarter and at an eighth of its resolution; each
    feature is replaced by the nearest of 4096 codes, and a decoder rebuilds the spectrogram from
    the codes of both levels. It learns from all machine types together and no section is told:
    a general language of machine sound, in which `auddsr` then simulates anomalies. By itself it
    scores by its reconstruction errors, and rebuilds faults nearly as well as anything else.

    **Paper**: Zavrtanik et al., "Anomalous sound detection by feature-level anomaly simulation",
    ICASSP 2024, section 3.1; 20,000 iterations of batch 256, Adam 2e-4, commitment 0.25. Layers
    of DSR (Zavrtanik et al., ECCV 2022), which the paper follows: 128 channels, 64 in residual
    blocks, 4096 codes a level whose averages keep 0.99 of the old.

    **Departures**:

    - The paper gives no normalisation: one mean and one standard deviation, of all frames that it
      learns from, are kept with the codes.
    - The paper gives no handling of clips: windows are 10-s clips (313 frames), filled up to
      multiples of 32 by repeating what stands at their edges; a clip of 11 s has two.
    - Codebooks by vector-quantize-pytorch, moved by averages, which stands for the paper's two
      codebook losses. Its rotation trick, its k-means start and its replacement of dead codes are
      off: the last two draw from torch's global generator. Instead the codes begin as features
      of training windows, drawn by the seed. Of 512 codes a level some 20 were in use after 120
      steps of a quarter of the channels; with `revived=1`, which gives up idle codes, some 280,
      and the error was a tenth smaller. `trainer=quick` has that on, the published setting not.
    - The features that become coarse codes are those of the second encoder, as the figure and
      equation (1) have it; the text names the first.

    Args:
        seed: Of this run.
        frames: Frames in a window.
        code_size: Channels of the features, and numbers in a code.
        residual: As in `codes.Codes`.
        codes: Likewise.
        decay: Likewise.
        commitment: Likewise.
        revived: Likewise.
        lambda_con: Weight of the reconstruction error in the loss.
        primary: As in `Detector`.
        pool: Likewise.
        optimizer: Makes an optimiser from parameters.
    """

    stackable = False
    scored_at_once: ClassVar[int] = 32
    convolutional: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seed: int,
        frames: int,
        code_size: int,
        residual: int,
        codes: int,
        decay: float,
        commitment: float,
        revived: float,
        lambda_con: float,
        primary: str,
        pool: str | Sequence[str],
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the autoencoder."""
        super().__init__(seed=seed, dropout=0.0, primary=primary, pool=pool, optimizer=optimizer)
        self._seed, self._frames, self._lambda_con = seed, frames, lambda_con
        with keyed(seed, "codes"):
            self.codes = Codes(
                width=code_size,
                residual=residual,
                codes=codes,
                decay=decay,
                commitment=commitment,
                revived=revived,
            )

    def prepare(self, windows: Windows, scored: Sequence[str] = ()) -> None:
        """As `Detector`.

        Raises:
            BadInput: Windows are scaled already.
        """
        super().prepare(windows, scored)
        check_frames(self.scaling)

    def fit_scaling(self, windows: Windows, numbers: Tensor) -> None:
        """Learns the level of the training frames, and takes features of theirs for codes."""
        generator = torch.Generator().manual_seed(key_of(self._seed, "first_codes"))
        self.codes.begin(windows, numbers, self._frames, generator)

    def networks(self) -> dict[str, list[torch.nn.Module]]:
        """One optimiser for encoders and decoder; the codes move by averages."""
        return {"codes": [self.codes]}

    def noise_columns(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """One step on reconstruction error and commitment."""
        x = self.codes.image(batch.windows, self._frames)
        with keyed(self._seed, "revived", batch.step):
            rebuilt, commitment = self.codes(x)
        error = functional.mse_loss(rebuilt, x)
        loss = self._lambda_con * error + commitment
        self.adams["codes"].descend(torch.autograd.grad(loss, self.parameters_of("codes")))
        return {
            "loss": loss.detach(),
            "con": error.detach(),
            "commitment": commitment.detach(),
        }

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Errors of the rebuilt spectrogram, standardised as the networks see it."""
        x = self.codes.image(batch.windows, self._frames)
        coarse, fine, *_ = self.codes.spelt(x)
        mels = batch.windows.shape[-1] // self._frames
        pair = (
            y[:, 0, : self._frames, :mels].flatten(1)
            for y in (self.codes.rebuilt(coarse, fine), x)
        )
        rebuilt, heard = pair
        return {"recon_l2": window_l2(rebuilt, heard), "recon_l1": window_l1(rebuilt, heard)}
