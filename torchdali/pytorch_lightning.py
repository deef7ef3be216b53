"""As :mod:`torchdali.lightning`, for programs that import ``pytorch_lightning``."""

from __future__ import annotations

from torchdali._lightning._data import DataModule
from torchdali._lightning._feed import Feed
from torchdali._lightning._rank import Rank
from torchdali._lightning._stall import Stalls
from torchdali._optional import missing

try:
    from pytorch_lightning import Callback, LightningDataModule
except ModuleNotFoundError as error:
    raise missing("torchdali.pytorch_lightning", "pytorch_lightning", "lightning") from error

__all__ = ["Feed", "Rank", "StallReport", "TorchdaliDataModule"]


class TorchdaliDataModule(DataModule, LightningDataModule):
    """Gives a trainer the batches of pipelines and loaders; arguments as of :class:`DataModule`."""


class StallReport(Stalls, Callback):
    """Logs for how long the trainer waited for data; see :class:`Stalls`."""
