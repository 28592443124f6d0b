"""AudDSR: anomalies simulated among the codes of a sound, and a network that maps them."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from asdgan._system.seeds import key_of
from asdgan.data.windows import Batch, Windows
from asdgan.detector import Detector
from asdgan.errors import BadInput
from asdgan.nn.lanes import Draw, LaneAdam, keyed
from asdgan.nn.simulation import Maps
from asdgan.nn.vq import Codes, check_frames, joined, nearest, residuals, to_image

SMOOTH = 1e-5  # of labels and probabilities in the focal loss
WEAKEST = 0.2  # strength of an anomaly, of 1: share of the codebook that its codes are drawn from
TOO_NEAR = 0.05  # share of the codebook, nearest first, that is too like the sound to be one
STAGE = "auddsr_codes"


class AudDsr(Detector):
    """A sound is strange where a map says so that was learned on simulated anomalies.

    Stage one (`auddsr_codes`) spells spectrograms in codes of two levels. Here codes within a
    random map are exchanged for others of the codebook. Two decoders rebuild the spectrogram: the
    general one of stage one, which is frozen and renders whatever the codes say, and one of this
    machine type, which is trained to restore the sound as it was. A U-Net sees both and draws the
    map of what was exchanged. A clip's score is the mean of that map over time and bands.

    With `others` above 0 (`auddsr_annot`) there is one such detector for each section, and
    clips of other sections join its simulated anomalies, with a map that is 1 all over.

    **Paper**: Zavrtanik et al., "Anomalous sound detection by feature-level anomaly simulation",
    ICASSP 2024, table 1; 10,000 iterations of batch 16, Adam 2e-4, half of each batch with
    simulated anomalies. What it leaves open is as in DSR (Zavrtanik et al., ECCV 2022), which it
    follows: layers and widths, weight 10 on the restored image and 1 on its features, focal loss
    with gamma 2 on the map as coarse as the level that was changed.

    **Departures**:

    - Half of the maps are of Perlin noise and half bands; their sizes are ours (`model.maps`), as
      the paper gives none. Perlin noise that passes the threshold nowhere is drawn anew.
    - An anomaly's codes are those of DSR: at each place one of the nearest to what was there, the
      nearest twentieth left out, a fifth to all of the codebook by its strength; both levels are
      changed half of the time, else either. `model.sampling=uniform`: any code, which is all that
      the paper says.
    - The learning rate stays as it is; DSR divides it by 10 for the last fifth.
    - One detector for a machine type, as no ids are used; with `others` one for each id, which
      is the only reading of them. Then a batch holds windows of all ids, each goes to its own
      detector, and `others` windows of the rest join for each of these. They teach the map only.
    - No bias in front of an instance normalisation, which would take it out again.
    - DSR's third stage, which sharpens maps, is not part of AudDSR.

    Args:
        seed: Of this run.
        frames: Frames in a window.
        code_size: As of stage one: channels of the features, and numbers in a code.
        residual: As of stage one.
        codes: Likewise.
        unet: Channels of the U-Net's first level.
        maps: As in `simulate.Maps`.
        sampling: `ranked` or `uniform`.
        gamma: Of the focal loss.
        lambda_con: Weight of the restored spectrogram's error.
        lambda_lat: Weight of the restored features' errors, of both levels.
        others: Windows of other sections for each of its own; 0 for one detector in all.
        init_std: Of the first weights of the specific decoder and the U-Net.
        stages: What is trained before; asdgan/training/pretraining.py reads it.
        primary: As in `Detector`.
        pool: Likewise.
        optimizer: Makes an optimiser from parameters.

    Attributes:
        codes: Of stage one, frozen.
        specific: The detectors, one in all or one for each of `sections`.
    """

    stackable = False
    scored_at_once: ClassVar[int] = 16
    convolutional: ClassVar[bool] = True
    draws_maps: ClassVar[bool] = True

    def __init__(
        self,
        *,
        seed: int,
        frames: int,
        code_size: int,
        residual: int,
        codes: int,
        unet: int,
        maps: Mapping[str, float],
        sampling: str,
        gamma: float,
        lambda_con: float,
        lambda_lat: float,
        others: float,
        init_std: float,
        stages: Mapping[str, Sequence[str]],
        primary: str,
        pool: str | Sequence[str],
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Makes the networks, those of stage one empty."""
        self.tells_sections = others > 0  # the base asks as it begins
        super().__init__(seed=seed, dropout=0.0, primary=primary, pool=pool, optimizer=optimizer)
        self._seed, self._frames, self._maps = seed, frames, Maps(**maps)  # pyright: ignore
        self._sampling, self._gamma, self._others = sampling, gamma, others
        self._lambda_con, self._lambda_lat = lambda_con, lambda_lat
        self._shape = {"width": code_size, "residual": residual, "base": unet, "std": init_std}
        with keyed(seed, "codes"):
            self.codes = Codes(
                width=code_size, residual=residual, codes=codes, decay=0, commitment=0, revived=0
            ).requires_grad_(False)
        self.specific = nn.ModuleList()
        self._make(1)

    # Sections and stages ----------------------------------------------------------------------

    def prepare(self, windows: Windows, scored: Sequence[str] = ()) -> None:
        """Refuses windows that are scaled already."""
        super().prepare(windows, scored)
        check_frames(self.scaling)

    def know(self, sections: Sequence[str]) -> None:
        """A detector for each section."""
        self._make(len(sections))

    def _make(self, count: int) -> None:
        self.specific = nn.ModuleList()
        for number in range(count):
            with keyed(self._seed, "specific", number):
                self.specific.append(Specific(**self._shape))

    def take_stage(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Takes the codes over.

        Raises:
            BadInput: They are of another size than was said here.
        """
        assert name == STAGE
        mine = {f"codes.{key}": value for key, value in self.codes.state_dict().items()}
        if any(weights[key].shape != value.shape for key, value in mine.items()):
            raise BadInput(
                f"model.stages.{STAGE}: its codes are of another size than model.code_size, "
                "model.residual and model.codes say; type the same ones for both"
            )
        self.codes.load_state_dict({key[len("codes.") :]: weights[key] for key in mine})

    def networks(self) -> dict[str, list[nn.Module]]:
        """One optimiser for each detector."""
        return {f"specific_{i}": [module] for i, module in enumerate(self.specific)}

    def noise_columns(self) -> tuple[int, int]:
        """None: maps and codes are drawn by a generator of their own."""
        return 0, 0

    # Learning ---------------------------------------------------------------------------------

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """One step of each detector that has windows in the batch."""
        generator = torch.Generator().manual_seed(key_of(self._seed, "simulate", batch.step))
        x = self.codes.image(batch.windows, self._frames)
        losses: list[dict[str, Tensor]] = []
        own = self._owners(batch)
        for number, (network, adam) in enumerate(self.adams.items()):
            mine = (own == number).nonzero().squeeze(-1)
            if not len(mine):
                continue
            others = (own != number).nonzero().squeeze(-1)
            wanted = min(len(others), round(self._others * len(mine)))
            taken = others[torch.randperm(len(others), generator=generator)[:wanted]]
            found = self._losses(self._of(number), x[mine], x[taken], batch.step, generator)
            adam.descend(torch.autograd.grad(found["loss"], self.parameters_of(network)))
            losses.append({name: value.detach() for name, value in found.items()})
        return {name: torch.stack([of[name] for of in losses]).mean() for name in losses[0]}

    def _of(self, number: int) -> "Specific":
        found = self.specific[number]
        assert isinstance(found, Specific)
        return found

    def _owners(self, batch: Batch) -> Tensor:
        """Which detector each window belongs to."""
        if self._others:
            return self.classes(batch)
        return torch.zeros(len(batch.windows), dtype=torch.int64, device=batch.windows.device)

    def _losses(
        self,
        specific: "Specific",
        x: Tensor,
        others: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Of a detector's own windows, every other one made strange, and of some of others."""
        heard = self._changed(x, step, generator)
        count = len(x)
        found_coarse, found_fine, restored = specific.restored(
            self.codes, heard.coarse, heard.fine
        )
        features = functional.mse_loss(found_coarse, heard.was_coarse)
        features = features + functional.mse_loss(found_fine, heard.was_fine)
        error = functional.mse_loss(restored, x)
        general = self.codes.rebuilt(heard.coarse, heard.fine)
        pair, target = torch.cat([restored.detach(), general], 1), heard.map_
        if len(others):
            coarse, fine, *_ = self.codes.spelt(others)
            with torch.no_grad():
                *_, of_others = specific.restored(self.codes, coarse, fine)
                also = torch.cat([of_others, self.codes.rebuilt(coarse, fine)], 1)
            pair = torch.cat([pair, also])
            target = torch.cat([target, torch.ones_like(others)])
        assert len(pair) == count + len(others)
        focal = focal_loss(specific.detection(pair), target, self._gamma)
        loss = focal + self._lambda_con * error + self._lambda_lat * features
        return {"loss": loss, "focal": focal, "con": error, "lat": features}

    @torch.no_grad()
    def _changed(self, x: Tensor, step: int, generator: torch.Generator) -> "Heard":
        """Codes of images, every other one of which has an anomaly put into it."""
        coarse, fine, found, halved = self.codes.spelt(x)
        count, device = len(x), x.device
        strange = torch.arange(count) % 2 == step % 2
        frames, mels = x.shape[-2:]
        maps = [
            self._maps.draw(frames, mels, generator) if is_strange else torch.zeros(frames, mels)
            for is_strange in strange.tolist()
        ]
        masks = torch.stack(maps)[:, None].to(x)
        both, either = (torch.rand(2, count, 1, 1, 1, generator=generator) < 0.5).to(device)
        in_coarse, in_fine = both | either, both | ~either
        mask = pooled(masks, coarse) * in_coarse
        changed = self._exchanged(found, coarse, self.codes.coarse.codebook, mask, generator)
        # Where the coarse code changed, the fine one is found anew beneath it.
        made = self.codes.fine_features(halved, changed)
        below = torch.where(both, nearest(made, self.codes.fine.codebook), fine)
        mask_fine = pooled(masks, fine) * in_fine
        changed_fine = self._exchanged(made, below, self.codes.fine.codebook, mask_fine, generator)
        seen = torch.where(in_coarse, spread(pooled(masks, coarse), x), spread(mask_fine, x))
        return Heard(changed, changed_fine, coarse, fine, seen)

    def _exchanged(
        self,
        features: Tensor,
        codes: Tensor,
        book: Tensor,
        mask: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Codes (windows, width, rows, columns), others in their place where the mask is 1."""
        at = mask[:, 0].nonzero(as_tuple=True)
        strength = WEAKEST + (1 - WEAKEST) * torch.rand(len(codes), generator=generator)
        uniform = torch.rand(len(at[0]), generator=generator).to(features)
        most = (strength.to(features) * len(book)).long() + 1
        new = exchanged(
            features.movedim(1, -1)[at],
            book,
            uniform,
            most.clamp(max=len(book) - 1)[at[0]] if self._sampling == "ranked" else None,
        )
        result = codes.movedim(1, -1).clone()
        result[at] = new
        return result.movedim(-1, 1).contiguous()

    # Scoring ----------------------------------------------------------------------------------

    def map_windows(self, batch: Batch) -> Tensor:
        """As `Detector`: how sure it is that codes were exchanged there."""
        x = self.codes.image(batch.windows, self._frames)
        coarse, fine, *_ = self.codes.spelt(x)
        own = self._owners(batch)
        maps = torch.empty_like(x[:, 0])
        for number in own.unique().tolist():
            mine = own == number
            specific = self._of(number)
            *_, restored = specific.restored(self.codes, coarse[mine], fine[mine])
            general = self.codes.rebuilt(coarse[mine], fine[mine])
            logits = specific.detection(torch.cat([restored, general], 1))
            maps[mine] = logits.softmax(1)[:, 1]
        mels = batch.windows.shape[-1] // self._frames
        return maps[:, : self._frames, :mels]

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of a window's map, and its largest value."""
        maps = self.map_windows(batch).flatten(1)
        return {"map_mean": maps.mean(-1), "map_max": maps.amax(-1)}


class Heard(NamedTuple):
    """What a detector hears in a step, and what was done to it."""

    coarse: Tensor  # codes, some exchanged
    fine: Tensor
    was_coarse: Tensor  # as they were
    was_fine: Tensor
    map_: Tensor  # (windows, 1, rows, columns), 1 where they were exchanged


def exchanged(features: Tensor, book: Tensor, uniform: Tensor, most: Tensor | None) -> Tensor:
    """A code for each of some features, at random.

    Args:
        features: Shape (places, width).
        book: Shape (codes, width).
        uniform: Shape (places,), from 0 to 1, exclusive: the draw.
        most: How many of the codes, nearest first, it may be one of, at each place; of these the
            nearest twentieth of the book is left out, the very nearest always. None for any code.
    """
    if most is None:
        return book[(uniform * len(book)).long()]
    least = max(1, int(TOO_NEAR * len(book)))
    ranks = least + (uniform * (most - least).clamp(min=1)).long()
    picks = []
    for piece, rank in zip(features.split(1 << 12), ranks.split(1 << 12), strict=True):
        distances = book.square().sum(-1) - 2 * piece @ book.mT
        picks.append(distances.argsort(-1).gather(-1, rank[:, None])[:, 0])
    return book[torch.cat(picks)] if picks else book[:0]


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Cross-entropy of maps, less the more surely a place is told already.

    Args:
        logits: Shape (windows, 2, rows, columns): not strange, strange.
        target: Shape (windows, 1, rows, columns), 0 or 1.
        gamma: 0 for the cross-entropy.

    Source: Lin et al., "Focal loss for dense object detection", 2017; smoothed as in DSR.
    """
    strange = logits.softmax(1)[:, 1:]
    p = torch.where(target > 0, strange, 1 - strange)
    p = (1 - SMOOTH) * p + SMOOTH * (1 - p) + SMOOTH
    return -((1 - p).clamp(min=0) ** gamma * p.log()).mean()


def pooled(masks: Tensor, like: Tensor) -> Tensor:
    """Masks at the resolution of codes: 1 where any of what a code spells is."""
    return functional.max_pool2d(masks, masks.shape[-1] // like.shape[-1])


def spread(masks: Tensor, like: Tensor) -> Tensor:
    """Masks of codes at the resolution of images again."""
    return functional.interpolate(masks, like.shape[-2:])


# Networks ---------------------------------------------------------------------------------------


class Specific(nn.Module):
    """What is trained for one kind of sound: two restrictions, a decoder and a detection module.

    Args:
        width: Channels of the features of either level.
        residual: Channels within a residual block.
        base: Channels of the U-Net's first level.
        std: Of the first weights of decoder and U-Net.
    """

    def __init__(self, *, width: int, residual: int, base: int, std: float) -> None:
        """Makes the networks, drawing from torch's global generator."""
        super().__init__()
        self.coarse, self.fine = _restriction(width), _restriction(width)
        self.decoder = _specific_decoder(width, residual)
        self.detection = UNet(2, base)
        for network in (self.decoder, self.detection):
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.normal_(layer.weight, std=std)

    def restored(
        self, codes: Codes, coarse: Tensor, fine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features of both levels as they should be, and the image of the codes nearest them."""
        found = self.coarse(coarse), self.fine(fine)
        books = codes.coarse.codebook, codes.fine.codebook
        steps = [
            features + (nearest(features.detach(), book) - features.detach())
            for features, book in zip(found, books, strict=True)
        ]  # gradients pass the nearest code as if it were the features themselves
        return *found, self.decoder(joined(*steps))


class UNet(nn.Module):
    """Four levels, each joined to what comes up from below; images to two logits a place."""

    def __init__(self, inputs: int, base: int) -> None:
        """Makes the layers."""
        super().__init__()
        widths = [base, 2 * base, 4 * base, 4 * base]
        self.down = nn.ModuleList(
            _twice(i, o) for i, o in zip([inputs, *widths], widths, strict=False)
        )
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # from below, to above
        self.up = nn.ModuleList(_raised(i, o) for i, o in ups)
        self.joined = nn.ModuleList(_twice(2 * o, o) for _, o in ups)
        self.output = nn.Conv2d(base, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (windows, channels, rows, columns), of which both are multiples of 8."""
        beside: list[Tensor] = []
        for level in self.down:
            x = level(functional.max_pool2d(x, 2) if beside else x)
            beside.append(x)
        beside.pop()
        for up, both in zip(self.up, self.joined, strict=True):
            x = both(torch.cat([up(x), beside.pop()], 1))
        return self.output(x)


def _normed(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
        nn.InstanceNorm2d(outputs),
        nn.ReLU(),
    ]


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_normed(inputs, outputs), *_normed(outputs, outputs))


def _raised(inputs: int, outputs: int) -> nn.Sequential:
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(up, *_normed(inputs, outputs))


def _restriction(width: int) -> nn.Sequential:
    """Features to features of one level, through a quarter of the resolution; no skips."""
    return nn.Sequential(
        _twice(width, width),
        nn.MaxPool2d(2),
        _twice(width, 2 * width),
        nn.MaxPool2d(2),
        _twice(2 * width, 4 * width),
        _raised(4 * width, 2 * width),
        _twice(2 * width, 2 * width),
        _raised(2 * width, width),
        _twice(width, width),
        nn.Conv2d(width, width, 3, 1, 1),
    )


def _specific_decoder(width: int, residual: int) -> nn.Sequential:
    """Both levels' codes to an image, through a quarter of their resolution and few channels."""
    narrow = width // 2
    return nn.Sequential(
        *_normed(2 * width, 2 * width),
        *_normed(2 * width, 4 * width),
        nn.MaxPool2d(2),
        *_normed(4 * width, 4 * width),
        *_normed(4 * width, 8 * width),
        nn.MaxPool2d(2),
        nn.Conv2d(8 * width, narrow, 1),
        nn.ConvTranspose2d(narrow, narrow, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(narrow, narrow, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(narrow, width, 3, 1, 1),
        residuals(width=width, residual=residual),
        *to_image(width),
    )
