"""Layers, noise and an optimiser whose parameters may carry a leading lane axis.

A *lane* is one point inside a model that trains many at once. With `lanes = ()` every layer here
is the plain layer; with `lanes = (n,)` its parameters have shape (n, ...) and activations are
(n, windows, features). Losses reduce over the last two axes, give one number a lane, and their
sum is differentiated: lanes never touch.

One step is pure in (parameters, windows, noise): `Draw` brings the noise from outside, drawn from
a generator keyed by (seed, step), so that a lane sees the same noise alone and among others, and
a resumed run the same as an uninterrupted one.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from asdgan._system.seeds import key_of
from asdgan.errors import BadInput

NORM_MOMENTUM = 0.01  # share of a new batch in the running statistics (Keras says 0.99 of the old)
NORM_EPS = 1e-3  # Keras' default, which the DCASE baseline and its PyTorch port use
INITS = ("glorot_uniform", "normal")
REGISTER = 16  # float32 numbers in the widest vector register of a CPU
MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch's Adam names them

T = TypeVar("T")


@contextmanager
def keyed(*place: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Torch's own generators seeded for one place in a run, and afterwards as they were.

    For initial weights and dropout of torch's own layers. A device other than the CPU is named.
    """
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(key_of(*place))
        yield


def lanes_of(seed: int | Sequence[int]) -> tuple[int, ...]:
    """The lane axis that a seed stands for: () for a single seed, (n,) for a list of n."""
    return () if isinstance(seed, int) else (len(seed),)


def listed(value: T | Sequence[T], lanes: tuple[int, ...]) -> list[T]:
    """One value per lane (one in all where `lanes` is empty), from a shared value or a list.

    Raises:
        BadInput: The list has another length than there are lanes.
    """
    count = lanes[0] if lanes else 1
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count  # pyright: ignore[reportReturnType]
    if len(value) != count:
        raise BadInput(
            f"{len(value)} values {list(value)!r} for {count} lanes; give one or {count}"
        )
    return list(value)


def per_lane(value: float | Sequence[float], lanes: tuple[int, ...]) -> Tensor:
    """Values as a tensor of shape `lanes` (0-dimensional for a single run), float32."""
    return torch.tensor(listed(value, lanes), dtype=torch.float32).reshape(lanes)


class Draw:
    """What one optimiser step takes from outside; a layer that is given none is in eval mode.

    Attributes:
        momentum: Share of this batch in the running statistics, 0-dimensional. It is
            max(0.01, 1 / step): the plain average over the first hundred steps, then the usual
            exponential one, so that a run of few steps does not score with statistics that are
            still half their starting values.
        uniform: Shape (windows, columns), or (lanes, windows, columns) where lanes differ in
            seed; in [0, 1). None where no lane drops anything.
        normal: Likewise, standard normal; None where the model asks for none.
    """

    def __init__(self, momentum: Tensor, uniform: Tensor | None, normal: Tensor | None) -> None:
        """Starts handing out columns from the first."""
        self.momentum, self.uniform, self.normal = momentum, uniform, normal
        self._uniform_used = self._normal_used = 0

    def uniforms(self, columns: int) -> Tensor | None:
        """The next `columns` columns of uniform noise, or None where nothing is dropped."""
        if self.uniform is None:
            return None
        start, self._uniform_used = self._uniform_used, self._uniform_used + columns
        return self.uniform[..., start : self._uniform_used]

    def normals(self, columns: int) -> Tensor:
        """The next `columns` columns of standard normal noise."""
        assert self.normal is not None
        start, self._normal_used = self._normal_used, self._normal_used + columns
        return self.normal[..., start : self._normal_used]


class Noise:
    """The source of every `Draw` of a run: keyed by (seed, step), holding no state.

    Args:
        seeds: One per lane (one in all for a single run).
        uniforms: Columns of uniform noise that one step takes; 0 where nothing is dropped.
        normals: Columns of normal noise that one step takes.
    """

    def __init__(self, seeds: Sequence[int], *, uniforms: int, normals: int) -> None:
        """Groups the lanes by seed: lanes of one seed share their noise."""
        self.seeds = sorted(set(seeds))
        self.seed_of_lane = torch.tensor([self.seeds.index(seed) for seed in seeds])
        self.uniforms, self.normals = uniforms, normals

    def draw(self, step: int, windows: int, *, like: Tensor) -> Draw:
        """The noise of one step.

        Args:
            step: Counted from 0 over the whole training.
            windows: Size of the minibatch.
            like: Its device and dtype are taken over.
        """
        momentum = torch.tensor(max(NORM_MOMENTUM, 1 / (step + 1)), dtype=like.dtype)
        if like.device.type != "cpu":
            momentum = momentum.to(like.device)
        uniform = normal = None
        if self.uniforms:
            uniform = self._columns("uniform", step, (windows, self.uniforms), like)
        if self.normals:
            normal = self._columns("normal", step, (windows, self.normals), like)
        return Draw(momentum, uniform, normal)

    def _columns(self, kind: str, step: int, shape: tuple[int, int], like: Tensor) -> Tensor:
        sample = torch.rand if kind == "uniform" else torch.randn
        drawn = []
        for seed in self.seeds:
            generator = torch.Generator(like.device).manual_seed(key_of(seed, kind, step))
            drawn.append(sample(shape, generator=generator, device=like.device).to(like.dtype))
        if len(drawn) == 1:
            return drawn[0]
        return torch.stack(drawn).index_select(0, self.seed_of_lane.to(like.device))


class Linear(nn.Module):
    """An affine map of the last axis; weights are stored (*lanes, inputs, outputs).

    That layout, the transpose of torch's, gives weight gradients that are contiguous as they
    come out of the matrix product: torch's fused Adam on a CPU silently takes wrong steps for
    others.
    """

    def __init__(self, inputs: int, outputs: int, *, lanes: tuple[int, ...], bias: bool) -> None:
        """Makes zero parameters; `initialise` fills them."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*lanes, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(*lanes, 1, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*lanes, windows, inputs), or (windows, inputs) shared by all lanes, mapped."""
        return affine(x, self.weight, self.bias)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The affine map of `Linear`, by parameters of its shapes."""
    if weight.dim() == 2:
        return x @ weight if bias is None else torch.addmm(bias, x, weight)
    x = x.expand(weight.shape[0], *x.shape[-2:])
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)


def rectified(x: Tensor, slope: float) -> Tensor:
    """ReLU in place, or LeakyReLU where `slope`, that of its negative side, is not 0."""
    return nn.functional.leaky_relu_(x, slope) if slope else x.relu_()


class _NormReLU(torch.autograd.Function):
    """Batch normalisation, ReLU and a keep-mask as one node: fewer passes over memory."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        keep: Tensor | None,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(-2, keepdim=True)
        normed = x - mean
        variance = (normed * normed).mean(-2, keepdim=True)  # var_mean is 20 times slower here
        scale = (variance + NORM_EPS).rsqrt()
        normed *= scale
        y = rectified(torch.addcmul(bias, normed, weight), slope)
        if keep is not None:
            y *= keep
        ctx.slope = slope
        ctx.save_for_backward(normed, scale, weight, y, keep)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        normed, scale, weight, y, keep = ctx.saved_tensors
        grad = grad_outputs[0] * (y > 0)
        if ctx.slope:
            grad = torch.where(y > 0, grad, grad_outputs[0] * ctx.slope)
        if keep is not None:
            grad = grad * keep
        grad_bias = grad.sum(-2, keepdim=True)
        grad_weight = (grad * normed).sum(-2, keepdim=True)
        windows = normed.shape[-2]
        inner = grad - torch.addcmul(grad_bias, normed, grad_weight) / windows
        return inner * (weight * scale), grad_weight, grad_bias, None, None


class Norm(nn.Module):
    """Batch normalisation over the windows, then ReLU, then dropout.

    Momentum and epsilon are Keras' (0.99 and 1e-3), which the DCASE baseline uses; the running
    variance is the unbiased one, as in Keras and torch.

    Args:
        features: Width.
        lanes: Leading shape of the parameters.
        dropout: Rates, shape (*lanes, 1, 1), or None for a layer that never drops.
        slope: As in `rectified`.
    """

    running_mean: Tensor
    running_var: Tensor
    dropout: Tensor | None

    def __init__(
        self,
        features: int,
        *,
        lanes: tuple[int, ...],
        dropout: Tensor | None,
        slope: float = 0.0,
    ) -> None:
        """Starts as the identity before ReLU."""
        super().__init__()
        self._slope = slope
        self.weight = nn.Parameter(torch.ones(*lanes, 1, features))
        self.bias = nn.Parameter(torch.zeros(*lanes, 1, features))
        self.register_buffer("running_mean", torch.zeros(*lanes, 1, features))
        self.register_buffer("running_var", torch.ones(*lanes, 1, features))
        self.register_buffer("dropout", dropout, persistent=False)

    def forward(self, x: Tensor, draw: Draw | None) -> Tensor:
        """Shape (*lanes, windows, features) in and out; with no `draw`, running statistics."""
        if draw is None:
            scale = self.weight * (self.running_var + NORM_EPS).rsqrt()
            y = torch.addcmul(self.bias - self.running_mean * scale, x, scale)
            return rectified(y, self._slope)
        keep = kept(self.dropout, draw, x.shape[-1])
        if x.dim() == 2 and self.weight.dim() == 2:
            y, mean, variance = self._alone(x, keep)
        else:
            y, mean, variance = _NormReLU.apply(  # pyright: ignore
                x, self.weight, self.bias, keep, self._slope
            )
        with torch.no_grad():
            windows = x.shape[-2]
            self.running_mean.lerp_(mean, draw.momentum)
            self.running_var.lerp_(variance * (windows / (windows - 1)), draw.momentum)
        return y

    def _alone(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Torch's own kernel, which takes no lane axis and a third of the calls."""
        y, mean, scale = torch.native_batch_norm(
            x, self.weight[0], self.bias[0], None, None, True, 0.0, NORM_EPS
        )
        y = rectified(y, self._slope)
        y = y if keep is None else y * keep
        return y, mean, scale.detach().pow(-2) - NORM_EPS


def kept(dropout: Tensor | None, draw: Draw, features: int) -> Tensor | None:
    """What to multiply activations with: 0 where dropped, 1 / (1 - rate) elsewhere.

    Lanes of one seed share the uniform noise and differ by their rate alone. A rate of 0 keeps
    everything unscaled, so that a lane without dropout is untouched by neighbours that have it.
    """
    if dropout is None:
        return None
    uniform = draw.uniforms(features)
    return None if uniform is None else (uniform >= dropout) / (1 - dropout)


def fresh(
    module: nn.Module, *, init: str, std: float, seed: int, place: tuple[int | str, ...]
) -> list[Tensor]:
    """New values for every parameter of a module, as one lane, in the order of `parameters()`.

    Args:
        module: Made of `Linear` and `Norm`, or of torch's `Conv2d`, `ConvTranspose2d`,
            `BatchNorm2d` and `LayerNorm` (whose scales start at 1 in any case).
        init: `glorot_uniform` (Keras' default) or `normal` (DCGAN's: weights N(0, std), scales
            of a norm N(1, std)); biases start at 0 in both.
        std: For `normal`.
        seed: The lane's.
        place: What is drawn (a network's name, and a count where it is drawn again).

    Returns:
        Float64 tensors without a lane axis, so that float32 and float64 runs start alike.
    """
    generator = torch.Generator().manual_seed(key_of(seed, "init", init, *place))
    values = []
    for layer in module.modules():
        if isinstance(layer, Linear | nn.Conv2d | nn.ConvTranspose2d):
            shape = layer.weight.shape[-2:] if isinstance(layer, Linear) else layer.weight.shape
            if init == "glorot_uniform":
                limit = math.sqrt(6 / (sum(shape[:2]) * math.prod(shape[2:])))
                drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
                values.append((2 * drawn - 1) * limit)
            else:
                values.append(torch.randn(shape, generator=generator, dtype=torch.float64) * std)
            if layer.bias is not None:
                values.append(torch.zeros(layer.bias.shape[-2:], dtype=torch.float64))
        elif isinstance(layer, Norm | nn.BatchNorm2d):
            shape = layer.weight.shape[-2:]
            scale = torch.ones(shape, dtype=torch.float64)
            if init == "normal":
                scale += torch.randn(shape, generator=generator, dtype=torch.float64) * std
            values += [scale, torch.zeros(shape, dtype=torch.float64)]
        elif isinstance(layer, nn.LayerNorm):
            values += [torch.ones(layer.normalized_shape, dtype=torch.float64)]
            values += [torch.zeros(layer.normalized_shape, dtype=torch.float64)]
    return values


@torch.no_grad()
def initialise(
    module: nn.Module,
    *,
    init: str | Sequence[str],
    std: float,
    seed: int | Sequence[int],
    place: tuple[int | str, ...],
) -> None:
    """Fills a module's parameters lane by lane, each lane as it would be filled alone.

    Raises:
        BadInput: An initialisation that is not known.
    """
    lanes = lanes_of(seed)
    drawn: dict[tuple[int, str], list[Tensor]] = {}  # 2 inits serve 288 lanes
    for lane, (one_init, one_seed) in enumerate(
        zip(listed(init, lanes), listed(seed, lanes), strict=True)
    ):
        if one_init not in INITS:
            raise BadInput(f"init={one_init!r} is not known; there are {' and '.join(INITS)}")
        if any(parameter.is_meta for parameter in module.parameters()):
            continue  # only its shape was asked for
        if (one_seed, one_init) not in drawn:
            values = fresh(module, init=one_init, std=std, seed=one_seed, place=place)
            drawn[one_seed, one_init] = values
        for parameter, value in zip(module.parameters(), drawn[one_seed, one_init], strict=True):
            (parameter[lane] if lanes else parameter).copy_(value)


class LaneAdam(torch.optim.Adam):
    """torch's fused Adam over parameters whose lanes may differ in learning rate and beta1.

    Each distinct (lr, beta1) is one parameter group, whose members are slices of the parameters
    along the lane axis: views, so that a step moves the model itself. `descend` is the only way
    to step.

    On a CPU the fused step rounds what fills no vector register otherwise than the rest, so that
    a bias' bits would depend on how many lanes there are. Slices of odd sizes take their steps
    together, as one that fills its registers.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float | Sequence[float],
        beta1: float | Sequence[float],
        beta2: float,
        eps: float,
        weight_decay: float | None = None,
    ) -> None:
        """Cuts the parameters into slices where lanes differ."""
        self._parameters = list(parameters)
        lr, beta1 = _plain_list(lr), _plain_list(beta1)
        count = max(len(lr), len(beta1))
        rates = list(zip(lr * (count // len(lr)), beta1 * (count // len(beta1)), strict=True))
        self._cuts: list[slice | None] = [None] if len(set(rates)) == 1 else _runs(rates)
        groups: dict[tuple[float, float], list[Tensor]] = {}
        self._slices: list[list[Tensor]] = []
        for parameter in self._parameters:
            slices = [_leaf(parameter, cut) for cut in self._cuts]
            self._slices.append(slices)
            for cut, leaf in zip(self._cuts, slices, strict=True):
                groups.setdefault(rates[cut.start if cut else 0], []).append(leaf)
        self._packs: list[_Pack] = []
        for key, leaves in groups.items():
            odd = [leaf for leaf in leaves if leaf.numel() % REGISTER]
            if odd:
                self._packs.append(_Pack(odd))
                even = [leaf for leaf in leaves if not leaf.numel() % REGISTER]
                groups[key] = [*even, self._packs[-1].values]
        # Where a slice's moments are: in its own state, or in a part of its pack's.
        self._parts = {id(leaf): part for pack in self._packs for leaf, part in pack.parts()}
        super().__init__(
            [
                {"params": leaves, "lr": lr, "betas": (beta1, beta2)}
                for (lr, beta1), leaves in groups.items()
            ],
            eps=eps,
            weight_decay=weight_decay or 0.0,
            decoupled_weight_decay=bool(weight_decay),
            fused=True,
        )

    def descend(self, gradients: Sequence[Tensor]) -> None:
        """One step against `gradients`, one per parameter, in the order they were given."""
        for slices, gradient in zip(self._slices, gradients, strict=True):
            # Fused Adam is silently wrong for others on a CPU (torch 2.13, 2.15).
            gradient = gradient.contiguous()
            for cut, leaf in zip(self._cuts, slices, strict=True):
                leaf.grad = gradient if cut is None else gradient[cut]
        for pack in self._packs:
            pack.take()
        self.step()
        for pack in self._packs:
            pack.give()

    def lane_state(self) -> dict[str, Tensor]:
        """Both moments of every parameter, and the steps taken; empty before the first step.

        A moment has its parameter's shape, however lanes are grouped: what one grouping gives,
        another loads.

        Returns:
            `step`, 0-dimensional, then `exp_avg/0`, `exp_avg_sq/0`, ... in the order of the
            parameters. They may be the tensors in use, not copies.
        """
        if not self.state:
            return {}
        state = {"step": next(iter(self.state.values()))["step"]}
        for i, slices in enumerate(self._slices):
            for moment in MOMENTS:
                parts = [self._moment(leaf, moment) for leaf in slices]
                state[f"{moment}/{i}"] = parts[0] if len(parts) == 1 else torch.cat(parts)
        return state

    @torch.no_grad()
    def load_lane_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `lane_state` gave, on the parameters' device.

        Raises:
            ValueError: A moment has another shape than its parameter.
        """
        self.state.clear()
        if not state:
            return
        for group in self.param_groups:
            for leaf in group["params"]:
                own = {moment: torch.zeros_like(leaf) for moment in MOMENTS}
                self.state[leaf] = {"step": state["step"].to(leaf.device, copy=True), **own}
        for i, (parameter, slices) in enumerate(zip(self._parameters, self._slices, strict=True)):
            for moment in MOMENTS:
                if (whole := state[f"{moment}/{i}"]).shape != parameter.shape:
                    raise ValueError(
                        f"{moment}/{i} has shape {tuple(whole.shape)}, its parameter "
                        f"{tuple(parameter.shape)}"
                    )
                for cut, leaf in zip(self._cuts, slices, strict=True):
                    self._moment(leaf, moment).copy_(whole if cut is None else whole[cut])

    def _moment(self, leaf: Tensor, moment: str) -> Tensor:
        """A moment of a slice, in its shape: a view of what is in use."""
        if id(leaf) not in self._parts:
            return self.state[leaf][moment]
        pack, part = self._parts[id(leaf)]
        return self.state[pack][moment][part].view(leaf.shape)


class _Pack:
    """Slices of odd sizes, one behind the other, padded to whole registers."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._leaves = leaves
        self._sizes = [leaf.numel() for leaf in leaves]
        total = sum(self._sizes)
        self.values = leaves[0].new_zeros(total + -total % REGISTER)
        self.values.grad = torch.zeros_like(self.values)
        self._used, self._used_grad = self.values[:total], self.values.grad[:total]

    def parts(self) -> Iterator[tuple[Tensor, tuple[Tensor, slice]]]:
        """Each slice, and where in the pack it is."""
        start = 0
        for leaf, size in zip(self._leaves, self._sizes, strict=True):
            yield leaf, (self.values, slice(start, start + size))
            start += size

    @torch.no_grad()
    def take(self) -> None:
        """Copies values, which others may have changed, and gradients from the slices."""
        torch.cat([leaf.reshape(-1) for leaf in self._leaves], out=self._used)
        gradients = [leaf.grad.reshape(-1) for leaf in self._leaves if leaf.grad is not None]
        torch.cat(gradients, out=self._used_grad)

    @torch.no_grad()
    def give(self) -> None:
        """Copies the values into the slices."""
        for leaf, part in zip(self._leaves, self._used.split(self._sizes), strict=True):
            leaf.copy_(part.view(leaf.shape))


def adam(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float | Sequence[float],
    beta1: float | Sequence[float],
    beta2: float,
    eps: float,
    weight_decay: float | None = None,
) -> LaneAdam:
    """Adam (Kingma and Ba, 2015) with one learning rate and beta1 for all lanes, or one a lane.

    With a weight decay it is AdamW (Loshchilov and Hutter, 2019): the decay passes no moment.
    """
    return LaneAdam(
        parameters, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
    )


def _plain_list(value: float | Sequence[float]) -> list[float]:
    return [float(one) for one in value] if isinstance(value, Sequence) else [float(value)]


def _runs(rates: Sequence[tuple[float, float]]) -> list[slice | None]:
    """Slices over which neighbouring lanes have equal rates."""
    edges = [0, *(i for i in range(1, len(rates)) if rates[i] != rates[i - 1]), len(rates)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _leaf(parameter: nn.Parameter, cut: slice | None) -> Tensor:
    return parameter if cut is None else parameter.detach()[cut]
