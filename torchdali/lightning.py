"""torchdali in PyTorch Lightning: a data module and a callback, for programs that import ``lightning``.

For those that import ``pytorch_lightning``, whose classes are others, :mod:`torchdali.pytorch_lightning` has the same.
"""

from __future__ import annotations

from torchdali._lightning._data import DataModule
from torchdali._lightning._feed import Feed
from torchdali._lightning._rank import Rank
from torchdali._lightning._stall import Stalls
from torchdali._optional import missing

try:
    from lightning.pytorch import Callback, LightningDataModule
except ModuleNotFoundError as error:
    raise missing("torchdali.lightning", "lightning", "lightning") from error

__all__ = ["Feed", "Rank", "StallReport", "TorchdaliDataModule"]


class TorchdaliDataModule(DataModule, LightningDataModule):
    """Gives a trainer the batches of pipelines and loaders; arguments as of :class:`DataModule`."""


class StallReport(Stalls, Callback):
    """Logs for how long the trainer waited for data; see :class:`Stalls`."""
