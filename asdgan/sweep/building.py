"""Which models can be built, found out without loading them into the planning process."""

from collections.abc import Sequence

from omegaconf import DictConfig

from asdgan.sweep import probe


def unbuildable(configs: Sequence[DictConfig]) -> list[str | None]:
    """Why each config's model cannot be built; None for one that can.

    They are built on the meta device: shapes without memory.

    Raises:
        BadInput: They could not be tried.
    """
    return probe.answers(
        "asdgan.sweep.building:why_not", configs, failing="models could not be tried"
    )


def why_not(config: DictConfig) -> str | None:
    """Why a config's model cannot be built; None for one that can. Loads torch."""
    import torch

    from asdgan.config import compose

    try:
        with torch.device("meta"):
            compose.build(config)
    except Exception as error:
        cause = error.__cause__ or error
        return " ".join(str(cause).split()) or type(cause).__name__
    return None
