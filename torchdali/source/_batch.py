"""A batch of the sources: what the stage gets, and what others have begun with of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torchdali.tensorlist import TensorList

__all__ = ["Predecoded", "SourceBatch"]


class Predecoded(NamedTuple):
    """What workers have made of some samples of one output, ahead of whoever is to make it of the others."""

    output: int
    """Number of the output among all of the sources."""
    positions: npt.NDArray[np.int64]
    """Of the samples in the batch, shape (K,), in ascending order."""
    images: TensorList
    """K results."""
    settings: Any
    """How they were made; whoever takes them compares it."""


class SourceBatch(NamedTuple):
    """The outputs of all sources for one batch."""

    outputs: tuple[TensorList, ...]
    indices: npt.NDArray[np.int64]
    """Of the samples in the epoch."""
    iteration: int
    """Number of the batch in the epoch, among those of all ranks."""
    epoch: int
    decoded: Predecoded | None = None
    begun: Sequence[Any] = ()
    """What whoever looks ahead has begun with of it."""
    foreseen: Any = None
    """What is known of what will be done with it."""
