"""Steps of a training, compiled by torch; plainly where that cannot be done here."""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger("asdgan")


def forget() -> None:
    """Forgets what this process compiled before.

    Torch compiles a function for so many models and no more, and a worker trains one after the
    other.
    """
    torch.compiler.reset()


def compiled(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A step that is compiled when it is first called, and takes its own gradients inside.

    Where that fails (no C++ compiler, say), it says so once and runs plainly from then on.

    Args:
        plain: The step; called with tensors of the same shapes each time.
    """
    torch._dynamo.config.trace_autograd_ops = True  # pyright: ignore
    fast = torch.compile(plain, fullgraph=True, dynamic=False)
    works: bool | None = None

    def step(*arguments: Any) -> Any:  # noqa: ANN401 - the step's own
        nonlocal works
        if works is False:
            return plain(*arguments)
        try:
            result = fast(*arguments)
        except Exception as error:
            if works:
                raise
            works = False
            reason = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("compiling the step failed, running it plainly: %s", reason[0])
            return plain(*arguments)
        works = True
        return result

    return step
