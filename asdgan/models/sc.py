"""Section classification: the first system of AITHU, 2022; embeddings and a fitted scorer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asdgan.data.windows import Batch, Windows
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn import embeddings
from asdgan.nn.lanes import Draw, LaneAdam, keyed
from asdgan.nn.outliers import Outliers


class SectionClassifier(Detector):
    """Embeddings that tell sections apart; strange is what lies far from its section's.

    A network learns on crops of spectra which section a clip is of, by ArcFace: each section has
    a direction, and a clip's embedding has to point there by a margin more than it does to any
    other. What tells machines apart is often what changes when one of them breaks. A clip's
    embedding is the mean over its windows, and detectors of outliers that are fitted on those of
    the training clips score it: distance to the nearest, local outlier factor, cosine and
    Mahalanobis distance to the mean. All are stored by name in one pass, `primary` names the one
    that judges, and another choice of them, of their settings or of `windows.test_stride` scores
    a finished run anew, without training.

    **Paper**: Liu et al., "AITHU system for unsupervised anomalous detection of machine working
    status via sounding", DCASE Challenge 2022, section 3.1. Spectra of 2048 samples without
    logarithm (64 log-mel bands on ToyCar), windows of 192 frames, AdamW with learning rate 1e-3
    and weight decay 1e-4, 25 epochs, training clips of both sets (`dataset.train=both`). The
    network was chosen for each machine type on the labels of the test clips:
    `sweeps/aithu_sc.yaml`.

    **Departures**, all where the paper says nothing:

    - Hop 512; one crop of each clip an epoch, drawn anew; test windows 60 frames apart, so that
      three of them cover a clip of 10 s; batch 32; no schedule, no augmentation.
    - ArcFace with scale 30 and a margin of 0.7 rad, which the library takes in degrees. Where an
      angle is 0 its gradient is kept finite.
    - The excitation of `mobilefacenet_se` follows the depthwise convolution of every bottleneck.
    - Outliers are sought among the training clips of a clip's own section, both domains, by
      embeddings of length 1; the two nearest by cosine distance, their mean; local outlier factor
      of two, so that three clips of a section are enough (`sweeps/aithu_sc.yaml` takes four, as
      AEGAN-AD of the same authors does); covariances shrunk by Ledoit and Wolf's rule. The scorer
      was chosen for each machine type on test labels and is not printed; here `knn` is named
      beforehand.
    - A machine type with one section is refused: there is nothing to tell apart.
    - One point at a time, and its step is never compiled.

    Args:
        seed: Of this run.
        frames: Frames in a window.
        mels: Bands in a frame.
        network: One of `embeddings.NETWORKS`.
        networks: Settings of each of them, by name; mobilefacenet_se shares those of
            mobilefacenet.
        margin: Of ArcFace, in degrees.
        scale: Of ArcFace: what cosines are multiplied by.
        outliers: Settings of `Outliers`.
        primary: As in `Detector`: one of the kinds of outliers.
        optimizer: Makes an optimiser from parameters.
    """

    stackable = False
    convolutional = True
    tells_sections = True
    scored_at_once = 16  # activations of a window take up to 150 MB
    SCORING: ClassVar[tuple[str, ...]] = (*Detector.SCORING, "model.outliers.")

    def __init__(
        self,
        *,
        seed: int,
        frames: int,
        mels: int,
        network: str,
        networks: Mapping[str, Mapping[str, Any]],
        margin: float,
        scale: float,
        outliers: Mapping[str, Any],
        primary: str,
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes all but the sections' directions, which `know` makes."""
        super().__init__(seed=seed, dropout=0.0, primary=primary, pool="mean", optimizer=optimizer)
        self._shape = (frames, mels)
        self._margin, self._scale = margin, scale
        with keyed(seed, "network"):
            self.network = embeddings.make(network, networks, mels=mels, frames=frames)
        self.arcface: embeddings.ArcFace | None = None
        self.outliers = Outliers(**outliers, seed=seed)

    # Sections ---------------------------------------------------------------------------------

    def prepare(self, windows: Windows, scored: Sequence[str] = ()) -> None:
        """Learns which sections there are.

        Raises:
            BadInput: All clips are of one section, or others than theirs will be scored.
        """
        if len(set(windows.sections)) < 2:
            raise BadInput(
                f"sc tells sections of a machine type apart, and all its training clips are of "
                f"section {windows.sections[0]}; take a release with several, or another model"
            )
        super().prepare(windows, scored)

    def know(self, sections: Sequence[str]) -> None:
        """Makes a direction for each section, where there are others than before."""
        if self.arcface is not None and self.arcface.num_classes == len(sections):
            return
        with keyed(self.seeds[0], "directions"):
            self.arcface = embeddings.ArcFace(
                num_classes=len(sections),
                embedding_size=self.network.width,
                margin=self._margin,
                scale=self._scale,  # pyright: ignore[reportArgumentType] - says int
            )

    # Learning and scoring ---------------------------------------------------------------------

    def networks(self) -> dict[str, list[nn.Module]]:
        """One optimiser for the network and the sections' directions."""
        return {"network": [self.network, *([] if self.arcface is None else [self.arcface])]}

    def noise_columns(self) -> tuple[int, int]:
        """None: what the network drops is keyed by the step."""
        return 0, 0

    def embed_windows(self, batch: Batch) -> Tensor:
        """Embeddings of windows, shape (windows, width)."""
        return self.network(batch.windows.view(-1, 1, *self._shape).transpose(-1, -2))

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """One step on ArcFace."""
        assert self.arcface is not None  # prepared, or loaded
        with keyed(self.seeds[0], "network", batch.step, device=batch.windows.device):
            embedded = self.embed_windows(batch)
        loss = self.arcface(embedded, self.classes(batch))
        parameters = self.parameters_of("network")
        self.adams["network"].descend(torch.autograd.grad(loss, parameters))
        return {"loss": loss.detach()}

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """None: a clip is scored as a whole, by `outliers`."""
        return {}
