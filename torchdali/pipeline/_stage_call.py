"""One call of a pipeline's ``forward``, in whichever thread or process."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from torchdali.ops import BatchContext, batch_context
from torchdali.ops._decoded import Decoded
from torchdali.ops._foresight import Following
from torchdali.ops._generators import DrawKey, OwnGenerators
from torchdali.source import SourceBatch

__all__ = ["Stage", "StageCall"]

_FORWARD_STREAM = 0xFFFF0000
"""Of random draws. Operators count theirs from 0, adapted modules from the other end downwards."""


class Stage(Protocol):
    """What is needed of a pipeline to call its ``forward``."""

    seed: int

    @property
    def device(self) -> torch.device: ...

    def _call_stage(self, batch: SourceBatch) -> Any: ...


class StageCall:
    """Calls the stage for batches: each with its context, and with generators that depend on nothing else.

    Args:
        num_threads: as of :class:`~torchdali.ops.BatchContext`.
        record_draws: whether to tell what random operators drew.
    """

    def __init__(self, *, num_threads: int, record_draws: bool) -> None:
        self._num_threads = num_threads
        self._record_draws = record_draws
        self._generators = OwnGenerators()

    def __call__(
        self,
        pipeline: Stage,
        batch: SourceBatch,
        decoded: Decoded | None = None,
        following: Following | None = None,
    ) -> tuple[Any, dict[str, torch.Tensor] | None]:
        """What the stage makes of a batch, and what was drawn for it.

        Args:
            pipeline: whose stage it is.
            batch: for it.
            decoded, following: as of :class:`~torchdali.ops.BatchContext`.

        Raises:
            RuntimeError: ``forward`` raised StopIteration.
            Exception: what else it raised.
        """
        draws: dict[str, torch.Tensor] | None = {} if self._record_draws else None
        context = BatchContext(
            pipeline.seed,
            batch.epoch,
            batch.iteration,
            batch.indices,
            pipeline.device,
            self._num_threads,
            draws,
            decoded,
            following,
            {},
        )
        self._generators.seed(DrawKey(pipeline.seed, batch.epoch, _FORWARD_STREAM, batch.iteration))
        try:
            with batch_context(context), self._generators:
                return pipeline._call_stage(batch), draws
        except StopIteration as stop:
            raise RuntimeError(
                "the pipeline's forward raised StopIteration, which would end the epoch in silence; only a source ends an "
                "epoch. If it came from next(), give that a default"
            ) from stop
