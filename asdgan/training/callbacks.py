"""What Lightning's trainer is told to do beside training: report, read, keep checkpoints.

The trainer counts epochs from 0 wherever training begins; `epochs_done` counts those before a
resumption too. An epoch's losses are closed by the detector after callbacks hear of its end, so
what needs a closed epoch waits for the next one's start, or for the end of training.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from asdgan.data.windows import Block, WindowData
from asdgan.detector import Detector
from asdgan.training import checkpoint


def epochs_done(trainer: pl.Trainer) -> int:
    """Epochs completed, those before a resumption included."""
    return _begun_at(trainer)[0] + trainer.current_epoch


def _begun_at(trainer: pl.Trainer) -> tuple[int, int]:
    """Epochs, and blocks of the next one, that were done before this trainer began."""
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - set when it fits
    return (data.first_epoch, data.first_block) if isinstance(data, WindowData) else (0, 0)


class OwnSignals(pl.Callback):
    """Leaves SIGTERM to whoever owns the process; made before the trainer fits.

    Lightning's own answer ends a training within an epoch, where no checkpoint can stand.
    """

    def __init__(self) -> None:
        """Keeps what SIGTERM does now."""
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signal back."""
        if threading.current_thread() is threading.main_thread() and self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


class Reporting(pl.Callback):
    """Counts steps for a progress bar, hands each epoch's losses to a logger, stops a dead run.

    It stands behind `Checkpointing`: where `on_steps` raises, a checkpoint can be written. An
    epoch's last block is told of when the epoch is closed.

    Args:
        logger: A Lightning logger or None. It gets a single run's losses; a stack's stand in its
            rows.
        prefix: In front of every name the logger gets.
        on_steps: Told how many steps were done, at the start those done before a resumption, then
            after each block; and where training stands.
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
        self._untold = 0  # steps of an epoch's last block

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts what was done before this trainer began."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - set when it fits
        self._untold = data.steps_before if isinstance(data, WindowData) else 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own
        batch: Block,
        batch_idx: int,
    ) -> None:
        """Advances the bar; stops when no lane is left alive."""
        self._untold += len(batch)
        if isinstance(pl_module, Detector) and not pl_module.alive.any():
            trainer.should_stop = True
        if not trainer.is_last_batch:
            self._tell(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the epoch before."""
        self._log(trainer, pl_module)
        self._tell(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the last epoch."""
        self._log(trainer, pl_module)
        self._tell(trainer)

    def _tell(self, trainer: pl.Trainer) -> None:
        done, self._untold = self._untold, 0
        if self._on_steps is not None and done:
            epochs = _begun_at(trainer)[0] + (trainer.max_epochs or 0)
            self._on_steps(done, f"epoch {min(epochs_done(trainer) + 1, epochs)}/{epochs}")

    def _log(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        if self._logger is None or not isinstance(detector, Detector) or detector.lanes:
            return
        if trainer.current_epoch and detector.history:
            latest = {f"{self._prefix}{k}": float(v[-1]) for k, v in detector.history.items()}
            self._logger.log_metrics(latest, step=epochs_done(trainer))


class Readings(pl.Callback):
    """Hands the detector out at the end of given epochs, its losses of the epoch closed.

    A training resumed exactly at a reading has it again, as whoever took it may have died over
    it: `on_reading` must bear that. A training whose lanes have all met NaN has no further ones.

    Args:
        at: Numbers of epochs.
        on_reading: Told the epochs completed, and given the detector. It must leave the weights,
            running statistics and torch's random state as they are; `Detector.score_clips` does.
    """

    def __init__(self, at: Sequence[int], on_reading: Callable[[int, Detector], None]) -> None:
        """Keeps whom to tell, and when."""
        self._at, self._on_reading = set(at), on_reading

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads again where a training is resumed at a reading, even if no epoch is left."""
        epochs, blocks = _begun_at(trainer)
        if epochs and not blocks:
            self._read(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the epoch before."""
        if trainer.current_epoch:
            self._read(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the last epoch."""
        self._read(trainer, pl_module)

    def _read(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        epochs = epochs_done(trainer)
        if epochs in self._at and isinstance(detector, Detector) and detector.alive.any():
            self._on_reading(epochs, detector)


class Checkpointing(pl.Callback):
    """Writes a checkpoint every so often, between two blocks; stands behind `Readings`.

    After an epoch's last block it waits until the epoch is closed: no checkpoint stands between.

    Args:
        path: The file; each checkpoint takes the place of the one before.
        points: As for `checkpoint.write`.
        every_seconds: Least time from one checkpoint to the next; `math.inf` for only on demand.
    """

    def __init__(self, path: Path, *, points: Sequence[str], every_seconds: float) -> None:
        """Keeps where and when to write."""
        self._path, self._points, self._every = path, points, every_seconds
        self._detector: Detector | None = None
        self._stands: tuple[int, int] | None = None  # None within a block, and until it is closed
        self._epoch_whole = self._asked = False
        self._last = time.monotonic()

    def write_now(self) -> None:
        """Writes a checkpoint: at once between two blocks, else when training next stands there.

        May be called from a reading, or from a signal's handler.
        """
        self._asked = True
        self._write_if_due()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._detector = pl_module if isinstance(pl_module, Detector) else None
        self._last = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes between two epochs."""
        begun = _begun_at(trainer)
        self._stands = (epochs_done(trainer), 0) if trainer.current_epoch else begun
        self._write_if_due()

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Block,
        batch_idx: int,
    ) -> None:
        """Holds back what is asked for within a block."""
        self._stands, self._epoch_whole = None, False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own
        batch: Block,
        batch_idx: int,
    ) -> None:
        """Writes between two blocks of an epoch."""
        self._epoch_whole = trainer.is_last_batch
        if not self._epoch_whole:
            before = 0 if trainer.current_epoch else _begun_at(trainer)[1]
            self._stands = (epochs_done(trainer), before + batch_idx + 1)
            self._write_if_due()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes after the last epoch, unless training was stopped within it."""
        self._stands = (epochs_done(trainer), 0) if self._epoch_whole else None
        self._write_if_due()
        self._stands = None

    def _write_if_due(self) -> None:
        if self._stands is None or self._detector is None:
            return
        if self._asked or time.monotonic() - self._last >= self._every:
            self._asked = False
            epoch, block = self._stands
            checkpoint.write(
                self._path, self._detector, epoch=epoch, block=block, points=self._points
            )
            self._last = time.monotonic()
