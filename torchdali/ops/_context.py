"""What operators know about the batch at hand beside its data: whose it is, for random draws and for messages.

A pipeline sets it around its ``forward``. Operators used outside a pipeline find none and behave as ordinary modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._decoded import Decoded

__all__ = ["BatchContext", "batch_context", "current_batch", "describe_sample", "keep_samples"]


class BatchContext(NamedTuple):
    """The batch that a pipeline's ``forward`` is working on."""

    seed: int
    """Of the pipeline."""
    epoch: int
    iteration: int
    """Number of the batch in its epoch."""
    indices: npt.NDArray[np.int64]
    """Of the samples in the epoch, shape (N,)."""
    device: torch.device
    """Of the pipeline."""
    num_threads: int
    """That CPU operators may use."""
    draws: dict[str, torch.Tensor] | None = None
    """Where random operators write what they drew for the batch, by their qualified name, as CPU tensors (N, ...);
    None: nobody wants to know."""
    decoded: Decoded | None = None
    """Pixels that workers have decoded already, and where decoders note what they were given; None: nothing is shared out."""
    following: Any = None
    """A :class:`~torchdali.ops._foresight.Following`, where operators note their calls and find what was foreseen of them."""
    calls: dict[int, int] | None = None
    """How often each transform was called for the batch so far, by its number in the pipeline; None: that is not counted."""


_current: ContextVar[BatchContext | None] = ContextVar("torchdali_batch", default=None)


def current_batch() -> BatchContext | None:
    """The context of the batch at hand; None outside a pipeline."""
    return _current.get()


@contextlib.contextmanager
def batch_context(context: BatchContext) -> Iterator[None]:
    """Make a context current."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def keep_samples(count: int, kept: Sequence[int]) -> None:
    """Make some samples all of the batch at hand, until the pipeline's ``forward`` ends.

    What comes after draws one value a sample, and names samples by their position. Nothing happens if the batch does not have
    ``count`` samples.
    """
    context = current_batch()
    if context is not None and len(context.indices) == count:
        _current.set(context._replace(indices=context.indices[list(kept)]))


def describe_sample(position: int) -> str:
    """Name a sample of the batch at hand, for messages."""
    context = current_batch()
    if context is None or position >= len(context.indices):
        return f"sample {position} of the batch"
    return f"sample {context.indices[position]} of epoch {context.epoch} (position {position} in iteration {context.iteration})"
