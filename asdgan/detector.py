"""Detector, the only base class: learns from windows, gives clips their scores.

A detector is a LightningModule that runs its own optimisers. It owes `learn` and
`score_windows`, and says which networks it has; everything else is here: the loop over a block's
minibatches, the noise of each step, the losses of each epoch, compiling, marking a lane that met
NaN, which sections there are, and the pooling of window scores to clip scores. A detector may
also place clips in a space of embeddings (`embed_windows`), where `Outliers` find the strange,
and draw maps of where a clip is strange (`map_windows`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from asdgan.data.scaling import Scaling
from asdgan.data.windows import Batch, Block, Windows
from asdgan.errors import BadInput
from asdgan.nn import health
from asdgan.nn.compiling import compiled, forget
from asdgan.nn.lanes import Draw, LaneAdam, Noise, lanes_of, listed, per_lane
from asdgan.nn.outliers import Outliers
from asdgan.nn.pooling import AT_ONCE, POOLS, clip_groups, overlaid


class Detector(pl.LightningModule):
    """What every detector shares.

    Args:
        seed: Of this run, or one per lane of a stack: a list makes a stack.
        dropout: Rate of the hidden layers, 0 to 1, exclusive; one, or one per lane.
        primary: The component score that judges a clip.
        pool: How a clip's window scores become its score: `mean`, `max`, `min` or `p90`. A list
            gives one score for each, named after it: `recon_l1_mean`, `recon_l1_max`.
        optimizer: Makes an optimiser from parameters; called once per network.

    Attributes:
        recipe: Raised by hand when a mended bug changes this model's results.
        stackable: Whether many points can train as lanes of one instance.
        prefix_stable: Whether a training of 20 epochs has been, at its tenth, a training of 10;
            a schedule with a length or early stopping makes it not so.
        convolutional: Whether its steps are large enough to share out among all CPU threads.
        scored_at_once: Windows that are scored at once, at most.
        draws_maps: Whether it has `map_windows`.
        tells_sections: Whether it must know which sections there are: see `know`. A model that
            only may says so before its own constructor calls this one.
        SCORING: Settings, or groups of them ending in a dot, that training does not depend on:
            where nothing else differs, a finished run is scored anew and not trained again.
        lanes: () for a single run, (n,) for a stack of n.
        alive: Shape lanes; False for a lane whose losses were not finite. What becomes of its
            weights does not matter: no lane touches another.
        history: Losses and measures of `health` per epoch, each of shape lanes.
        vitals: Set by each `learn` of a model whose health is watched, else None; its type says
            which kind of judge the model has, a discriminator or a critic.
        scaling: What windows pass before anything else, or None.
        like: Of the device and dtype of whatever enters the networks.
        transductive: Whether a clip is scored by batch statistics of its own windows.
        at_test: What `score_windows` gives its networks for a `Draw`: None for running
            statistics.
        outliers: What finds the strange among embeddings of clips, or None; its scores stand
            beside those of `score_windows`.
        sections: Those trained on, sorted, where it `tells_sections`; empty before `prepare`.
    """

    recipe: ClassVar[int] = 1
    stackable: ClassVar[bool] = False
    prefix_stable: ClassVar[bool] = True
    convolutional: ClassVar[bool] = False
    scored_at_once: ClassVar[int] = AT_ONCE
    draws_maps: ClassVar[bool] = False
    tells_sections: bool = False
    SCORING: ClassVar[tuple[str, ...]] = ("model.primary", "model.pool", "windows.test_stride")
    alive: Tensor
    spelt: Tensor
    like: Tensor

    def __init__(
        self,
        *,
        seed: int | Sequence[int],
        dropout: float | Sequence[float],
        primary: str,
        pool: str | Sequence[str],
        optimizer: Callable[..., LaneAdam],
    ) -> None:
        """Takes what concerns all detectors; a model's own constructor makes its networks."""
        super().__init__()
        pools = [pool] if isinstance(pool, str) else list(pool)
        if not pools or not set(pools) <= set(POOLS):
            raise BadInput(f"model.pool={pool} is not known; there are {', '.join(POOLS)}")
        self.automatic_optimization = False
        self.lanes = lanes_of(seed)
        self.seeds = listed(seed, self.lanes)
        self.primary, self._optimizer = primary, optimizer
        # From what is added to a component's name to how its clip scores are made.
        self._pools = {"" if isinstance(pool, str) else f"_{one}": POOLS[one] for one in pools}
        self.adams: dict[str, LaneAdam] = {}
        self.history: dict[str, list[Tensor]] = {}
        self.vitals: health.Vitals | health.CriticVitals | None = None
        self.scaling: Scaling | None = None
        self.transductive = False
        self.at_test: Draw | None = None
        self.outliers: Outliers | None = None
        self.sections: tuple[str, ...] = ()
        self._last: Batch | None = None  # minibatch of an epoch
        self._tally: dict[str, tuple[Tensor, int]] = {}
        self._adams_to_load: dict[str, Tensor] = {}
        rates = per_lane(dropout, self.lanes)
        self._drops = any(rate > 0 for rate in listed(dropout, self.lanes))
        self.dropout_rates = rates.reshape(*self.lanes, 1, 1)
        self.register_buffer("alive", torch.ones(self.lanes, dtype=torch.bool), persistent=False)
        self.register_buffer("like", torch.zeros(()), persistent=False)
        if self.tells_sections:
            self.register_buffer("spelt", torch.zeros(0, dtype=torch.int64))
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._compile_for: int | None = None
        self._noise: Noise | None = None

    # What a model owes ------------------------------------------------------------------------

    def loss(self, x: Tensor, draw: Draw) -> Tensor:
        """The loss of windows, shape lanes, where one network learns from one loss."""
        raise NotImplementedError

    def gradients_of_loss(
        self, x: Tensor, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`loss` and its gradients, as one function that can be compiled."""
        loss = self.loss(x, Draw(momentum, uniform, normal))
        return loss.detach(), torch.autograd.grad(loss.sum(), tuple(self.parameters()))

    def learn(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """One optimiser step of each network; as it stands here, of the only one on `loss`.

        Args:
            batch: The minibatch.
            draw: The noise of this step, and the share of this batch in running statistics.

        Returns:
            Losses before the step, each of shape lanes, under `loss_g`, `loss_d`, ...
        """
        step = self.step_function("gradients_of_loss", batch.windows)
        loss, gradients = step(batch.windows, draw.momentum, draw.uniform, draw.normal)
        (adam,) = self.adams.values()
        adam.descend(gradients)
        return {"loss": loss}

    def score_windows(self, batch: Batch) -> dict[str, Tensor]:
        """Component scores by name, each of shape (*lanes, windows), higher is stranger."""
        raise NotImplementedError

    def networks(self) -> dict[str, list[nn.Module]]:
        """The modules that each optimiser steps, by the optimiser's name; no module twice."""
        raise NotImplementedError

    def parameters_of(self, network: str) -> list[nn.Parameter]:
        """Parameters that the optimiser of that name steps, in a fixed order."""
        return [p for module in self.networks()[network] for p in module.parameters()]

    def noise_columns(self) -> tuple[int, int]:
        """Columns of uniform noise (dropout) and of normal noise that one step takes."""
        raise NotImplementedError

    def embed_windows(self, batch: Batch) -> Tensor:
        """Where windows lie among others, shape (windows, numbers): for `outliers`.

        A clip lies at the mean of its windows.
        """
        raise NotImplementedError

    def map_windows(self, batch: Batch) -> Tensor:
        """How strange each frame is in each band, 0 to 1: shape (windows, frames, mels)."""
        raise NotImplementedError

    def know(self, sections: Sequence[str]) -> None:
        """Makes what depends on which sections there are, anew.

        Called before training, and before weights are loaded, in the dtype that tensors then
        have: what is made is brought to it afterwards.
        """

    def take_stage(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Takes over what another model learnt first, as `model.stages` asks for.

        Called after `prepare`, before the first step; not where a stored run is loaded, whose
        own weights have to hold it all.

        Args:
            name: Of that model.
            weights: Its `state_dict`.
        """
        raise NotImplementedError

    def prepare(self, windows: Windows, scored: Sequence[str] = ()) -> None:
        """What must be known of the training clips before the first step, kept in buffers.

        Called with parameters in the dtype of training, before a checkpoint is taken up.

        Args:
            windows: Of the training clips.
            scored: Sections of the clips that will be scored, as far as they are known: what
                cannot be scored is refused now, not after hours.

        Raises:
            BadInput: A section that will be scored is not trained on, and it tells sections.
        """
        if self.tells_sections:
            self._know("\n".join(sorted(set(windows.sections))).encode())
            self._section_numbers(scored)
        if self.outliers is not None:
            self.outliers.check(windows.sections, scored)

    def fit(self, windows: Windows) -> None:
        """What scores need to know of the training clips, after training: fits `outliers`.

        Weights, running statistics and random state are left as they are.
        """
        if self.outliers is not None:
            _, embeddings = self._seen(windows, scored=False)
            assert embeddings is not None
            self.outliers.fit(embeddings, windows.sections)

    def between_blocks(self) -> None:
        """What may wait for the host: called after each block of minibatches."""

    # Sections ---------------------------------------------------------------------------------

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:  # noqa: ANN401 - torch's own
        """As torch, after a look at which sections the state knows."""
        if self.tells_sections:
            self._know(bytes(state_dict["spelt"].tolist()))
        return super().load_state_dict(state_dict, strict, assign)

    def classes(self, batch: Batch) -> Tensor:
        """The section that each window is of, by its number in `sections`, shape (windows,).

        Raises:
            BadInput: A section that was not trained on.
        """
        numbers = torch.tensor(self._section_numbers(batch.source.sections))
        return numbers[batch.clip].to(self.like.device)

    def _know(self, names: bytes) -> None:
        self.sections = tuple(names.decode().split("\n")) if names else ()
        self.spelt = torch.tensor(list(names), dtype=torch.int64, device=self.like.device)
        self.know(self.sections)
        self.to(self.like)

    def _section_numbers(self, sections: Sequence[str]) -> list[int]:
        """Each section by its number among those trained on."""
        numbers = {name: number for number, name in enumerate(self.sections)}
        if unknown := set(sections) - numbers.keys():
            said = ", ".join(repr(name) for name in sorted(unknown))
            raise BadInput(
                f"{self._called} trains on the sections {', '.join(self.sections)} and knows "
                f"nothing of {said}, which a clip's name or --section says; name one of these, "
                "leave such clips out, or train on them too (dataset.train=both)"
            )
        return [numbers[section] for section in sections]

    @property
    def _called(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    # What all share ---------------------------------------------------------------------------

    def scale_windows(self, how: str, features: int) -> None:
        """Has windows scaled as in `Scaling`, by the identity until `fit_scaling` is called."""
        self.scaling = Scaling(how, features=features, lanes=self.lanes)

    def fit_scaling(self, windows: Windows, numbers: Tensor) -> None:
        """Learns the scale, where there is one, from the frames of these training windows."""
        if self.scaling is not None:
            self.scaling.fit(windows, numbers)

    def _taken_in(self, windows: Tensor) -> Tensor:
        """Windows as the networks see them."""
        windows = windows.to(self.like)
        return windows if self.scaling is None else self.scaling(windows)

    def configure_optimizers(self) -> list[LaneAdam]:
        """One optimiser for each of `networks`."""
        self.adams = {name: self._optimizer(self.parameters_of(name)) for name in self.networks()}
        for name, adam in self.adams.items():
            adam.load_lane_state(_under(f"adam/{name}/", self._adams_to_load))
        self._adams_to_load = {}
        return list(self.adams.values())

    def training_state(self) -> dict[str, Tensor]:
        """Everything that training needs to go on bit for bit from between two blocks.

        Noise and the order of minibatches are not among it: they follow from seed, step and
        epoch. Nor are the fresh weights of `adversarial.Rebirth`, which follow from its births.

        Returns:
            Tensors by name. The lane axis of a stack leads; what is 0-dimensional there holds for
            all lanes. They may be the tensors in use, not copies, as a stack's take gigabytes:
            they are to be written or copied before training goes on.
        """
        state = {f"weights/{name}": value for name, value in self.state_dict().items()}
        state["alive"] = self.alive
        state |= self._adams_to_load
        if not self._adams_to_load:
            for network, adam in self.adams.items():
                moments = adam.lane_state().items()
                state |= {f"adam/{network}/{name}": value for name, value in moments}
        for name, values in self.history.items():
            state[f"history/{name}"] = torch.stack(values, -1)  # (*lanes, epochs)
        for name, (total, steps) in self._tally.items():
            state |= {f"total/{name}": total, f"steps/{name}": torch.tensor(steps)}
        return state

    def load_training_state(
        self, state: dict[str, Tensor], lanes: Sequence[int] | None = None
    ) -> None:
        """Takes over what `training_state` gave; the optimisers as soon as they are made anew.

        That is in `configure_optimizers`, which the trainer calls as training begins.

        Args:
            state: Of a detector of the same settings, lane by lane.
            lanes: Which of the saved lanes become lanes 0, 1, ... here; None for all.

        Raises:
            ValueError: The number of lanes is not this detector's.
        """
        saved = state["alive"].shape
        if lanes is None and saved != self.lanes:
            raise ValueError(
                f"a state of lanes {tuple(saved)} does not fit a detector of lanes {self.lanes}; "
                f"say which lanes to take"
            )
        if lanes is not None:
            if not saved or len(lanes) != len(self.seeds):
                raise ValueError(
                    f"lanes {list(lanes)} of {tuple(saved)} saved do not fit a detector of lanes "
                    f"{self.lanes}"
                )
            picks = torch.tensor(lanes).reshape(self.lanes)
            state = {name: value[picks] if value.dim() else value for name, value in state.items()}
        self.load_state_dict(_under("weights/", state))
        self.alive.copy_(state["alive"])
        self._adams_to_load = {k: value for k, value in state.items() if k.startswith("adam/")}
        self.history = {
            name: list(values.unbind(-1)) for name, values in _under("history/", state).items()
        }
        steps = _under("steps/", state)
        totals = _under("total/", state)
        self._tally = {name: (total, int(steps[name])) for name, total in totals.items()}

    def compile_steps(self, batch: int) -> None:
        """From now on, steps of full minibatches (of `batch` windows) run compiled.

        What this process compiled before is forgotten.
        """
        forget()
        self._compile_for = batch

    def step_function(self, name: str, windows: Tensor) -> Callable[..., Any]:
        """The method `name`; compiled where asked for, if these windows are a full batch."""
        plain = getattr(self, name)
        if self._compile_for is None or windows.shape[-2] != self._compile_for:
            return plain
        if name not in self._compiled:
            self._compiled[name] = compiled(plain)
        return self._compiled[name]

    def training_step(self, block: Block, index: int) -> None:
        """Learns from a block of minibatches."""
        if self._noise is None:
            uniforms, normals = self.noise_columns()
            self._noise = Noise(
                self.seeds, uniforms=uniforms if self._drops else 0, normals=normals
            )
        losses: dict[str, list[Tensor]] = {}
        for i, batch in enumerate(block):
            windows = self._taken_in(batch.windows)
            draw = self._noise.draw(batch.step, windows.shape[-2], like=windows)
            batch = self._last = Batch(windows, batch.picks, batch.source, batch.step)
            for name, value in self.learn(batch, draw).items():
                losses.setdefault(f"train/{name}", []).append(value)
            if self.vitals is not None and i % health.EVERY == 0:
                for name, value in health.of_minibatch(self.vitals).items():
                    losses.setdefault(f"{health.PREFIX}{name}", []).append(value)
        for name, values in losses.items():
            stacked = torch.stack(values).double()  # (minibatches, *lanes)
            self.alive &= stacked.isfinite().all(0)
            total, steps = self._tally.get(name, (torch.zeros_like(stacked[0]), 0))
            self._tally[name] = (total.to(stacked.device) + stacked.sum(0), steps + len(values))
        self.between_blocks()

    def on_train_epoch_end(self) -> None:
        """Keeps the epoch's mean losses and measures."""
        for name, (total, steps) in self._tally.items():
            self.history.setdefault(name, []).append((total / steps).cpu())
        self._tally.clear()
        if self.vitals is not None and self._last is not None:
            found = self._scored(self._last)
            named = [name for name in found for pool in self._pools if name + pool == self.primary]
            scores = found[named[0] if named else next(iter(found))].double()
            for name, value in health.of_epoch(self.vitals, scores).items():
                self.history.setdefault(f"{health.PREFIX}{name}", []).append(value.double().cpu())
        self._last = None

    def validation_step(self, batch: Batch, index: int) -> None:
        """Component scores of held-out windows, averaged: reconstruction errors, unweighted."""
        windows = self._taken_in(batch.windows)
        scores = self.score_windows(Batch(windows, batch.picks, batch.source, batch.step))
        for name, values in scores.items():
            self._held.setdefault(f"val/{name}", []).append(values.double())

    def on_validation_epoch_start(self) -> None:
        """Starts the sums anew."""
        self._held: dict[str, list[Tensor]] = {}

    def on_validation_epoch_end(self) -> None:
        """Keeps the mean component scores of the held-out windows."""
        for name, values in self._held.items():
            self.history.setdefault(name, []).append(torch.cat(values, -1).mean(-1).cpu())

    def score_clips(self, windows: Windows) -> dict[str, Tensor]:
        """Component scores of every clip.

        Always in whole clips and in the same grouping, so that the same clips give the same bits;
        the parameters and running statistics are not touched.

        Returns:
            Each of shape (*lanes, clips), float64, on the CPU.

        Raises:
            BadInput: None of them is `primary`.
        """
        scores, embeddings = self._seen(windows)
        if embeddings is not None and self.outliers is not None:
            scores |= self.outliers.scores(embeddings, windows.sections)
        self.refuse_primary(scores)
        return scores

    def score_known(self, windows: Windows) -> Tensor:
        """The primary score of the clips that `fit` was given, as `score_clips` gives it.

        Nothing is embedded again: `outliers` know where these clips lie.
        """
        if self.outliers is not None and self.primary in self.outliers.kinds:
            scores = self.outliers.scores(self.outliers.embeddings, windows.sections)
        else:
            scores, _ = self._seen(windows, embedded=False)
            self.refuse_primary(scores)
        return scores[self.primary]

    def refuse_primary(self, names: Collection[str]) -> None:
        """Refuses to be judged by a score that is not among those it has."""
        if self.primary not in names:
            raise BadInput(
                f"model.primary={self.primary}: {self._called} has no such score; it has "
                f"{', '.join(names)}"
            )

    @torch.no_grad()
    def map_clips(self, windows: Windows) -> Iterator[Tensor]:
        """The map of each clip, shape (frames, mels), up to the last frame that a window sees.

        Where windows overlap it is their mean, and NaN where none reaches.
        """
        with self._evaluated():
            for first, last in pairwise(windows.bounds.tolist()):
                picks = torch.arange(first, last)
                maps = torch.cat(
                    [
                        self.map_windows(Batch(self._taken_in(windows.gather(p)), p, windows, -1))
                        for p in picks.split(self.scored_at_once)
                    ]
                ).cpu()
                yield overlaid(maps, (windows.starts[picks] - windows.starts[first]).tolist())

    def score_names(self, windows: Windows) -> list[str]:
        """What `score_clips` calls its scores; looks at the first windows, before any training."""
        picks = torch.arange(min(2, len(windows)))
        batch = Batch(self._taken_in(windows.gather(picks)), picks, windows, -1)
        names = [f"{name}{pool}" for name in self._scored(batch) for pool in self._pools]
        return [*names, *(() if self.outliers is None else self.outliers.kinds)]

    @torch.no_grad()
    def _scored(self, batch: Batch) -> dict[str, Tensor]:
        """`score_windows` in the midst of training, which is left as it was."""
        with self._evaluated():
            return self.score_windows(batch)

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """Within it, the networks are as at test; after it, as they were."""
        was_training = self.training
        self.eval()
        yield
        self.train(was_training)

    @torch.no_grad()
    def _seen(
        self, windows: Windows, *, scored: bool = True, embedded: bool = True
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Pooled window scores of clips, and where there are outliers to find the embeddings.

        Args:
            windows: Of the clips.
            scored: Whether there are window scores, which may cost more than the embeddings.
            embedded: Whether there are embeddings.

        Returns:
            Scores, each of shape (*lanes, clips), and embeddings of shape (clips, numbers), all
            float64 on the CPU.
        """
        pooled: dict[str, list[Tensor]] = {}
        embeddings: list[Tensor] = []
        most = self.scored_at_once
        if self.transductive:
            if int(windows.bounds.diff().min()) < 2:
                raise BadInput("model.bn_at_test=clip: a clip of one window has no statistics")
            most = 0  # one clip at a time
            self.at_test = Draw(self.like.new_zeros(()), None, None)
        with self._evaluated():
            for first, last in clip_groups(windows.bounds, most):
                bounds = windows.bounds[first : last + 1]
                picks = torch.arange(int(bounds[0]), int(bounds[-1]))
                sizes = bounds.diff().tolist()
                found: dict[str, list[Tensor]] = {}
                places: list[Tensor] = []
                for some in picks.split(most or len(picks)):
                    batch = Batch(self._taken_in(windows.gather(some)), some, windows, -1)
                    of_windows = self.score_windows(batch) if scored else {}
                    for name, values in of_windows.items():
                        found.setdefault(name, []).append(values.double())
                    if self.outliers is not None and embedded:
                        places.append(self.embed_windows(batch).double())
                for name, pieces in found.items():
                    of_clips = torch.cat(pieces, -1).split(sizes, dim=-1)
                    for pool, pooling in self._pools.items():
                        clips = torch.stack([pooling(of_clip) for of_clip in of_clips], -1)
                        pooled.setdefault(f"{name}{pool}", []).append(clips.cpu())
                if places:
                    of_clips = torch.cat(places).split(sizes)
                    embeddings.append(torch.stack([of_clip.mean(0) for of_clip in of_clips]).cpu())
        self.at_test = None
        scores = {name: torch.cat(values, -1) for name, values in pooled.items()}
        return scores, torch.cat(embeddings) if embeddings else None


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What stands under a prefix, by the rest of its name."""
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}
