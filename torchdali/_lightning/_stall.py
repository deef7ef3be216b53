"""How long a trainer waited for data: the callback, without Lightning."""

from __future__ import annotations

import time
from typing import Any

from torchdali._lightning._data import DataModule

__all__ = ["Stalls"]


class Stalls:
    """Logs for how long the trainer waited for batches: at the end of each training epoch, and by the way.

    ``data/stall_seconds`` is the time of the epoch that the trainer waited, ``data/stall_share`` its part of the epoch, and
    ``data/batches`` how many came. With torchdali's data module the time is measured where batches are taken; with others it is
    that from the end of one batch to the begin of the next, in which other callbacks run too.

    Args:
        prog_bar: show the share in the progress bar.
    """

    def __init__(self, *, prog_bar: bool = False) -> None:
        super().__init__()
        self.prog_bar = prog_bar
        self.epochs: list[dict[str, float]] = []
        """What was logged, by epoch."""
        self._begin = self._idle_since = time.perf_counter()
        self._between = 0.0
        self._batches = 0
        self._waited_before = 0.0

    @staticmethod
    def _waited(trainer: Any) -> float | None:
        module = trainer.datamodule
        if not isinstance(module, DataModule) or "train" not in module.feeds:
            return None
        return sum(feed.waited for feed in module.feeds["train"])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count."""
        self._begin = self._idle_since = time.perf_counter()
        self._between, self._batches = 0.0, 0
        self._waited_before = self._waited(trainer) or 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A batch has come."""
        self._between += time.perf_counter() - self._idle_since
        self._batches += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Another one is wanted."""
        self._idle_since = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log."""
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        waited = self._waited(trainer)
        stall = self._between if waited is None else waited - self._waited_before
        report = {
            "data/stall_seconds": stall,
            "data/stall_share": min(1.0, stall / seconds),
            "data/batches": float(self._batches),
        }
        self.epochs.append(report)
        for name, value in report.items():
            pl_module.log(
                name, value, prog_bar=self.prog_bar and name == "data/stall_share", on_epoch=True, on_step=False
            )
