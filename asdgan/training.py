"""What Lightning's trainer is told to do beside training: report."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from asdgan.detector import Detector
from asdgan.windows import Block


class Reporting(pl.Callback):
    """Counts steps for a progress bar, hands each epoch's losses to a logger, stops a dead run.

    Args:
        logger: A Lightning logger or None. It gets a single run's losses; a stack's stand in its
            rows.
        prefix: In front of every name the logger gets.
        on_steps: Told after each block how many steps it had, and where training stands.
    """

    def __init__(
        self,
        logger: Any,  # noqa: ANN401 - a Lightning logger
        *,
        prefix: str,
        on_steps: Callable[[int, str], None] | None,
    ) -> None:
        """Keeps what to tell."""
        self._logger, self._prefix, self._on_steps = logger, prefix, on_steps

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own
        batch: Block,
        batch_idx: int,
    ) -> None:
        """Advances the bar; stops when no lane is left alive."""
        if self._on_steps is not None:
            self._on_steps(len(batch), f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")
        if isinstance(pl_module, Detector) and not pl_module.alive.any():
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the epoch before: the detector closes an epoch after callbacks hear of its end."""
        self._log(trainer.current_epoch, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the last epoch."""
        self._log(trainer.current_epoch, pl_module)

    def _log(self, epochs: int, detector: pl.LightningModule) -> None:
        if self._logger is None or not isinstance(detector, Detector) or detector.lanes:
            return
        if epochs and detector.history:
            latest = {f"{self._prefix}{k}": float(v[-1]) for k, v in detector.history.items()}
            self._logger.log_metrics(latest, step=epochs)
