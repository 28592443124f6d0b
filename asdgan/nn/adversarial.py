"""GAN objectives that two or more detectors share.

Binary cross-entropies are on logits, averaged over windows and features: one number a lane.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from asdgan.nn.lanes import fresh, lanes_of, listed
from asdgan.nn.perceptrons import in_whole_vectors


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), whose bits in one lane do not depend on how many lanes there are."""
    return in_whole_vectors(nn.functional.softplus, x)


def taken_for_real(logits: Tensor) -> Tensor:
    """Cross-entropy of logits (*lanes, windows, 1) against the answer "real"."""
    return softplus(-logits).mean((-2, -1))


def taken_for_fake(logits: Tensor) -> Tensor:
    """Cross-entropy of logits (*lanes, windows, 1) against the answer "fake"."""
    return softplus(logits).mean((-2, -1))


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, *, key: int
) -> Tensor:
    """How far a critic's slope is from 1 between real windows and their imitations.

    The mean over windows of (|gradient| - 1)^2, the gradient of the critic's answer taken at
    alpha * real + (1 - alpha) * fake, with one alpha in [0, 1) for each window. It can be
    differentiated by the critic's parameters, and passes nothing on to `fake`.

    Args:
        critic: Gives windows an answer each, shape (windows,) or (windows, 1); none of them may
            depend on another window.
        real: Shape (windows, ...).
        fake: Likewise.
        key: Of the alphas, as `lanes.key_of` gives it: they follow from it and from how many
            windows there are, on whatever device these lie.

    Source: Gulrajani et al., "Improved training of Wasserstein GANs", NeurIPS 2017.
    """
    generator = torch.Generator().manual_seed(key)
    alpha = torch.rand(len(real), generator=generator).to(real)
    alpha = alpha.reshape(-1, *[1] * (real.dim() - 1))
    between = torch.lerp(fake.detach(), real.detach(), alpha).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()


def detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, which no gradient passes."""
    return {name: value.detach() for name, value in values.items()}


class Averages(nn.Module):
    """Exponential averages of the parameters of some modules, to score with.

    Args:
        modules: What is averaged.
        decay: Share of the old average that a step keeps; 0 for none of all this.
    """

    def __init__(self, modules: Sequence[nn.Module], *, decay: float) -> None:
        """Begins with what the parameters are now."""
        super().__init__()
        self._modules_of = tuple(modules)  # a tuple, so as not to become a second owner
        self._decay = decay
        for i, parameter in enumerate(self._parameters_of() if decay else ()):
            self.register_buffer(f"of_{i}", parameter.detach().clone())

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters after a step."""
        for average, parameter in zip(self.buffers(), self._parameters_of(), strict=False):
            # One rounding after the other: a fused multiply-add has other bits in odd places.
            average.mul_(self._decay).add_(parameter * (1 - self._decay))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it the modules have the averages for parameters."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for average, parameter in zip(self.buffers(), self._parameters_of(), strict=False):
            average.data, parameter.data = parameter.data, average.data

    def _parameters_of(self) -> list[nn.Parameter]:
        return [p for module in self._modules_of for p in module.parameters()]


class Rebirth(nn.Module):
    """Gives a discriminator fresh weights when its loss falls below a bound.

    Akcay's repositories do so when the loss is below 1e-5, and keep the optimiser's state and
    the running statistics; so does this. Whether a lane is reborn is decided on the device,
    without asking the host. Fresh weights lie ready for each lane and are drawn anew, keyed by
    (seed, births so far), in `restock`, which is called between blocks of steps: two births of
    one lane within one block start from equal weights.

    Args:
        discriminator: The modules it is made of; their parameters are overwritten.
        below: The bound; 0 turns the rule off.
        init: As for `lanes.initialise`, one or one a lane.
        std: Likewise.
        seed: Likewise.
    """

    births: Tensor

    def __init__(
        self,
        discriminator: Sequence[nn.Module],
        *,
        below: float,
        init: str | Sequence[str],
        std: float,
        seed: int | Sequence[int],
    ) -> None:
        """Draws the first fresh weights."""
        super().__init__()
        self.below, self._std = below, std
        self._lanes = lanes_of(seed)
        self._inits, self._seeds = listed(init, self._lanes), listed(seed, self._lanes)
        self.register_buffer("births", torch.zeros(self._lanes, dtype=torch.int64))
        self._modules_of_d = tuple(discriminator)  # a tuple, so as not to become a second owner
        self._stock: list[Tensor] = []
        self._stocked_for: list[int] = []
        self.register_load_state_dict_post_hook(_forget_stock)

    @torch.no_grad()
    def apply_where(self, loss: Tensor) -> None:
        """Overwrites the discriminator of each lane whose loss (shape lanes) is too low."""
        if self.below <= 0:
            return
        due = loss < self.below
        if due.device.type == "cpu" and not due.any():  # free on a CPU, a wait on a GPU
            return
        if not self._stock:
            self.restock()
        for parameter, value in zip(self._parameters_of_d(), self._stock, strict=True):
            parameter.copy_(torch.where(due.reshape(*self._lanes, 1, 1), value, parameter))
        self.births += due

    @torch.no_grad()
    def restock(self) -> None:
        """Draws new fresh weights for the lanes that used theirs up."""
        births = self.births.reshape(-1).tolist()
        if births == self._stocked_for or self.below <= 0:
            return
        parameters = self._parameters_of_d()
        if not self._stock:
            self._stock = [torch.empty_like(parameter) for parameter in parameters]
            self._stocked_for = [-1] * len(births)
        drawn: dict[tuple[int, str, int], list[Tensor]] = {}
        for lane, count in enumerate(births):
            if count == self._stocked_for[lane]:
                continue
            init, seed = self._inits[lane], self._seeds[lane]
            if (seed, init, count) not in drawn:
                drawn[seed, init, count] = [
                    value
                    for i, module in enumerate(self._modules_of_d)
                    for value in fresh(
                        module, init=init, std=self._std, seed=seed, place=("rebirth", i, count)
                    )
                ]
            for stock, value in zip(self._stock, drawn[seed, init, count], strict=True):
                (stock[lane] if self._lanes else stock).copy_(value)
        self._stocked_for = births

    def _parameters_of_d(self) -> list[nn.Parameter]:
        return [p for module in self._modules_of_d for p in module.parameters()]


def _forget_stock(rebirth: nn.Module, incompatible: object) -> None:
    """Drops the weights lying ready: they were drawn for other births than those just loaded."""
    assert isinstance(rebirth, Rebirth)
    rebirth._stock, rebirth._stocked_for = [], []
