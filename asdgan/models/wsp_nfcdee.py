"""WSP-NFCDEE and NFCDEE: how likely some bins of a sound are, given its other bins."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import zuko
from torch import Tensor, nn
from torch.nn import functional

from asdgan._system.seeds import key_of
from asdgan.data.windows import Batch, Windows
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn.lanes import Draw, LaneAdam, keyed

FLOWS = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF}
PIECE = 1024  # windows pooled at once while their moments are summed


class WspNfcdee(Detector):
    """Conditional densities of mel bins; a sound is strange where its bins do not fit together.

    Weighted statistic pooling (WSP) makes one vector of a window of log-mel frames: alpha times
    the mean of each band over the frames, plus beta times its standard deviation, alpha + beta =
    1. Each of several random splits of the bands into targets and context has a normalising flow,
    the density of the targets given the context and the section. Score and loss are the negative
    log-density, averaged over the splits, and over the windows of a clip. Nothing is told of a
    section but its name, and a section that was not trained on has no density: it is refused.

    **Paper**: Liu et al., "AITHU system for unsupervised anomalous detection of machine working
    status via sounding", DCASE 2022 Task 2, technical report: Table 7. `nfcdee` is the same
    without pooling, on single frames: Lopez et al., "Ensemble of complementary anomaly detectors
    under domain shifted conditions", DCASE Workshop 2021.

    **Departures**:

    - The report gives mel bands, n_fft and frames by machine type (`sweeps/wsp_nfcdee.yaml`), and
      pooling; Lopez et al. was not at hand. Ours are splits and their number, the flows (neural
      splines of `zuko`; `maf` for masked affine ones), epochs, batch, rate and stride. Splits cut
      random orders of all bands into pieces, so that each band is a target as often as any other.
    - "For each section" is read as one flow that is told the section. With `per_section` each
      has flows of its own, beside one pooling.
    - Pooled vectors are standardised bin by bin, since splines end at 5. Pooling is no map that
      keeps volume, so the likelihood of what is pooled rewards whatever makes the vectors small.
      With `pooled_scale=fixed`, which is the report to the letter, that draws alpha to the
      statistic that varies less: far in noise whose bins have nothing in common, to no more than
      0.49 in 1,200 steps on real fans. Here mean and spread follow alpha: the moments of both
      statistics over the training windows give them at any alpha, and what is learnt from is how
      well bins tell of one another (0.85 on the same fans). On the demo plant's fan the areas of
      both were alike.

    Args:
        seed: Of this run.
        frames: Frames in a window.
        mels: Mel bands in a frame.
        frame_pooling: `weighted`, or `none` for the flows to see all numbers of the window.
        pooled_scale: What a vector is standardised by: `follows`, the moments at the alpha of the
            moment, or `fixed`, those at alpha = 1/2.
        by_section: `one_hot`, `per_section` or `none`.
        splits: Splits into targets and context.
        target_share: Of the numbers of a vector that are targets, between 0 and 1.
        flow: `nsf` or `maf`.
        transforms: Of each flow.
        bins: Of a spline.
        hidden_layers: Hidden layers of the network behind each transform.
        hidden_width: Units in each.
        primary: As in `Detector`.
        pool: Likewise.
        optimizer: Makes an optimiser from parameters.

    Raises:
        BadInput: One frame is to be pooled, or a split has nothing on one side.
    """

    stackable = False
    targets: Tensor
    context: Tensor
    flows: nn.ModuleList  # one for each split, section by section

    def __init__(
        self,
        *,
        seed: int,
        frames: int,
        mels: int,
        frame_pooling: str,
        pooled_scale: str,
        by_section: str,
        splits: int,
        target_share: float,
        flow: str,
        transforms: int,
        bins: int,
        hidden_layers: int,
        hidden_width: int,
        primary: str,
        pool: str,
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the splits; the flows wait until the sections are known."""
        self.tells_sections = by_section != "none"  # the base asks as it begins
        super().__init__(seed=seed, dropout=0.0, primary=primary, pool=pool, optimizer=optimizer)
        weighted = frame_pooling == "weighted"
        if weighted and frames < 2:
            raise BadInput(
                f"windows.frames={frames}: wsp_nfcdee pools a mean and a deviation over the "
                "frames of a window; take 2 at least, or model=nfcdee"
            )
        numbers = mels if weighted else frames * mels
        wanted = round(numbers * target_share)
        if not 0 < wanted < numbers:
            raise BadInput(
                f"model.target_share={target_share} of {numbers} numbers are {wanted} targets; "
                "a split needs one at least, and one left for the context"
            )
        self.pooling = Pooling(
            frames if weighted else 1, numbers, follows=pooled_scale == "follows"
        )
        targets, context = _splits(numbers, wanted, splits, seed)
        self.register_buffer("targets", targets)
        self.register_buffer("context", context)
        self._seed, self._by_section = seed, by_section
        shape = {"transforms": transforms, "hidden_features": [hidden_width] * hidden_layers}
        if flow == "nsf":
            shape["bins"] = bins
        self._flow = partial(FLOWS[flow], targets.shape[-1], **shape)
        self.flows = self._fresh(1, 0)

    def know(self, sections: Sequence[str]) -> None:
        """Makes flows for so many sections."""
        if self._by_section == "one_hot":
            self.flows = self._fresh(1, len(sections))
        elif self._by_section == "per_section":
            self.flows = self._fresh(len(sections), 0)

    def _fresh(self, sets: int, told: int) -> nn.ModuleList:
        """Sets of flows, one for each split, told so many numbers beside the context."""
        flows = nn.ModuleList()
        # zuko takes torch's own random numbers, and values of masks, which no meta device has.
        for place in range(sets * len(self.targets)):
            with keyed(self._seed, "init", "flow", place), torch.device("cpu"):
                flows.append(self._flow(self.context.shape[-1] + told))
        return flows

    def networks(self) -> dict[str, list[nn.Module]]:
        """One optimiser for all."""
        return {"flows": [self.pooling, self.flows]}

    def noise_columns(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    def fit_scaling(self, windows: Windows, numbers: Tensor) -> None:
        """Beside the scale of the frames, learns the moments of what is pooled."""
        super().fit_scaling(windows, numbers)
        pieces = (self._taken_in(windows.gather(piece)) for piece in numbers.split(PIECE))
        self.pooling.fit(pieces)

    def surprise(self, vectors: Tensor, sections: Tensor | None) -> Tensor:
        """Negative log-density of the targets, averaged over the splits: shape (windows,).

        Args:
            vectors: Pooled and standardised, shape (windows, numbers).
            sections: Numbers of their sections, shape (windows,); None where no flow asks.
        """
        if sections is None:
            return self._of_set(0, vectors, vectors[:, :0])
        if self._by_section == "one_hot":
            told = functional.one_hot(sections, len(self.sections)).to(vectors)
            return self._of_set(0, vectors, told)
        found = vectors.new_zeros(len(vectors))
        for section in sections.unique().tolist():
            rows = (sections == section).nonzero().squeeze(-1)
            own = vectors.index_select(0, rows)
            found = found.index_copy(0, rows, self._of_set(section, own, own[:, :0]))
        return found

    def _of_set(self, number: int, vectors: Tensor, told: Tensor) -> Tensor:
        """The surprise by one set of flows, which are told what stands in `told`."""
        count = len(self.targets)
        flows = list(self.flows)[number * count : (number + 1) * count]
        logs = [
            flow(torch.cat([vectors[:, context], told], -1)).log_prob(vectors[:, targets])
            for flow, targets, context in zip(flows, self.targets, self.context, strict=True)
        ]
        return -torch.stack(logs).mean(0)

    def _of_batch(self, batch: Batch) -> Tensor:
        sections = self.classes(batch) if self.tells_sections else None
        return self.surprise(self.pooling(batch.windows), sections)

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """One step on the mean surprise; the weights of the pooling are told too."""
        told = {"loss": self._of_batch(batch).mean()}
        parameters = self.parameters_of("flows")
        # A section that no window of the minibatch is of has flows without a gradient.
        gradients = torch.autograd.grad(told["loss"], parameters, materialize_grads=True)
        if self.pooling.weighted:
            told["alpha"], told["beta"] = self.pooling.weights()
        told = {name: value.detach() for name, value in told.items()}
        self.adams["flows"].descend(gradients)
        return told

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """The mean surprise of each window."""
        return {"nll": self._of_batch(batch)}


class Pooling(nn.Module):
    """Weighted statistic pooling, standardised: one vector a window.

    Args:
        frames: Frames that are pooled; 1 for vectors that are standardised only.
        numbers: In a vector.
        follows: Whether the scale is that of the present alpha, or that of alpha = 1/2.

    Attributes:
        weighted: Whether there is an alpha.
        raw: Alpha is its sigmoid, and beta the rest.
        mean: Of each statistic over the training windows, shape (statistics, numbers).
        covariance: Likewise, shape (statistics, statistics, numbers).
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, frames: int, numbers: int, *, follows: bool) -> None:
        """Begins with alpha = 1/2 and a scale of 1."""
        super().__init__()
        self.weighted = frames > 1
        self._frames, self._follows = frames, follows
        count = 1 + self.weighted
        if self.weighted:
            self.raw = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(count, numbers))
        self.register_buffer("covariance", torch.ones(count, count, numbers))

    def weights(self) -> Tensor:
        """Alpha and beta, or 1 alone."""
        if not self.weighted:
            return torch.ones_like(self.mean[:, 0])
        alpha = self.raw.sigmoid()
        return torch.stack([alpha, 1 - alpha])

    def statistics(self, windows: Tensor) -> Tensor:
        """Mean and standard deviation over the frames: shape (statistics, windows, numbers)."""
        if not self.weighted:
            return windows[None]
        frames = windows.unflatten(-1, (self._frames, -1))
        return torch.stack([frames.mean(-2), frames.std(-2, correction=0)])

    def forward(self, windows: Tensor) -> Tensor:
        """Shape (windows, features) to (windows, numbers)."""
        weights = self.weights()
        pooled = torch.einsum("s,swn->wn", weights, self.statistics(windows))
        of_scale = weights if self._follows else torch.full_like(weights, 1 / len(weights))
        middle = of_scale @ self.mean
        variance = torch.einsum("s,stn,t->n", of_scale, self.covariance, of_scale)
        return (pooled - middle) / torch.where(variance > 0, variance, 1).sqrt()

    @torch.no_grad()
    def fit(self, pieces: Iterable[Tensor]) -> None:
        """Sums the moments over windows, given in pieces."""
        count, total, products, first = 0, 0.0, 0.0, None
        for windows in pieces:
            found = self.statistics(windows.double())
            first = found[:, :1] if first is None else first
            found = found - first  # a constant bin then has a variance of 0, and no rounding
            count += found.shape[1]
            total = total + found.sum(1)
            products = products + torch.einsum("swn,twn->stn", found, found)
        assert first is not None
        mean = total / count
        self.mean.copy_(mean + first[:, 0])
        self.covariance.copy_(products / count - torch.einsum("sn,tn->stn", mean, mean))


def _splits(numbers: int, wanted: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits of so many numbers: shapes (splits, targets) and (splits, context), in order.

    Random orders of all numbers are cut into pieces of `wanted`, each the targets of a split.
    """
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(key_of(seed, "splits"))
        pieces: list[Tensor] = []
        while len(pieces) < count:
            pieces += torch.randperm(numbers, generator=generator).split(wanted)[
                : numbers // wanted
            ]
        chosen = torch.zeros(count, numbers, dtype=torch.bool)
        chosen.scatter_(1, torch.stack(pieces[:count]), True)
        targets, context = (side.nonzero()[:, 1].view(count, -1) for side in (chosen, ~chosen))
    return targets, context
