"""What a trainer iterates over: a pipeline or a loader, for one rank, with epochs as the trainer counts them.

It is no ``DataLoader`` to Lightning, which would make another one in its place, with a sampler of its own and without the
workers that were started.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from typing import Any

from torch import distributed
from torch.utils.data import SequentialSampler

from torchdali._lightning._rank import Rank
from torchdali.loader import DataLoader
from torchdali.loader._again import loader_for_rank, made_again
from torchdali.loader._own import is_iterable
from torchdali.pipeline import Pipeline
from torchdali.source import Rest

__all__ = ["Feed"]


class Feed:
    """Batches for a trainer.

    Args:
        source: a pipeline or a loader; it is divided among the ranks here, unless that was done.
        rank: of this process.
        rest: as of :meth:`~torchdali.Pipeline.shard`.
        owned: whether to close the pipeline in the end.
        repeat: each epoch is the first, in the order of the data.

    Attributes:
        waited: seconds for which somebody waited for batches.
        batches: that were handed out.
        batch_sampler: where Lightning looks for one.
    """

    batch_sampler = None

    def __init__(self, source: Any, rank: Rank, rest: Rest, *, owned: bool, repeat: bool = False) -> None:
        self.source: Pipeline | DataLoader[Any]
        if isinstance(source, Pipeline):
            if not source.sharded and rank.ranks > 1:
                source.shard(rank.rank, rank.ranks, rest=rest)
            self.source = source
        else:
            if repeat and not is_iterable(source) and source.batch_size is not None:
                source = made_again(source, sampler=SequentialSampler(source.dataset))
            self.source = loader_for_rank(source, rank.rank, rank.ranks, rest)
        self.waited, self.batches = 0.0, 0
        self._rank, self._owned, self._repeat = rank, owned, repeat
        self._epoch: int | None = None
        """That is to be begun next, or was begun last; None: nobody said."""
        self._state: dict[str, Any] | None = None
        """That the next epoch goes on from."""
        self._running: weakref.WeakSet[Any] = weakref.WeakSet()

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers, before CUDA."""
        self.source.start()

    def close(self) -> None:
        """End the workers of what is owned; a loader can be used again."""
        for epoch in list(self._running):
            epoch.close()
        if isinstance(self.source, DataLoader) or self._owned:
            self.source.close()

    # --- epochs -------------------------------------------------------------------------------------------------------

    @property
    def sampler(self) -> Feed:
        """Where Lightning looks for :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Have the next iteration be the epoch of this number."""
        self._epoch = 0 if self._repeat else epoch

    def __len__(self) -> int:
        return len(self.source)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        """An epoch; it is begun with its first batch, when the trainer has said which it is."""
        epoch = self._go()
        self._running.add(epoch)
        return epoch

    def _go(self) -> Iterator[Any]:
        start = time.perf_counter()
        self._place()
        batches: Any = iter(self.source)
        try:
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                finally:
                    self.waited += time.perf_counter() - start
                self.batches += 1
                yield batch
                del batch
                start = time.perf_counter()
        finally:
            del batches  # also where a traceback keeps this frame

    def _place(self) -> None:
        """Take the source to where the epoch begins."""
        state, self._state = self._state, None
        if state is not None and self._epoch is None:
            self._epoch = state["epoch"]
        source = self.source
        if isinstance(source, Pipeline):
            if state is not None:
                source.restore(state["source"])
            if self._epoch is not None:
                source.set_epoch(self._epoch)
            return
        if self._epoch is not None:
            samplers: tuple[Any, ...] = (source.sampler, getattr(source.batch_sampler, "sampler", None))
            for sampler in samplers:
                if callable(getattr(sampler, "set_epoch", None)):
                    sampler.set_epoch(self._epoch)
        if state is not None:
            own = state["source"][self._rank.rank]
            if self._epoch != state["epoch"]:
                own = {**own, "finished": True}
            source.load_state_dict(own)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the trainer is in the epoch. All ranks call it together, as Lightning has them do."""
        if self._state is not None:
            return self._state
        source: Any
        if isinstance(self.source, Pipeline):
            source = self.source.checkpoint()  # the same on all ranks
        else:
            source = [self.source.state_dict()]
            if self._rank.ranks > 1 and distributed.is_initialized():
                source = [None] * self._rank.ranks
                distributed.all_gather_object(source, self.source.state_dict())
        return {"version": 1, "epoch": self._epoch, "source": source}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next epoch go on from a state.

        Raises:
            ValueError: it is none of this kind of source, or of another number of ranks.
        """
        if not isinstance(state, dict) or state.get("version") != 1:
            raise ValueError(
                "this is no state of torchdali's data module; was the checkpoint written with another one?"
            )
        if isinstance(self.source, Pipeline) == isinstance(state["source"], list):
            raise ValueError(
                f"the checkpoint was written with another kind of data than {type(self.source).__name__}: pipelines go on from "
                "those of pipelines, loaders from those of loaders"
            )
        if isinstance(state["source"], list) and len(state["source"]) != self._rank.ranks:
            raise ValueError(
                f"the checkpoint has the loaders of {len(state['source'])} ranks, and there are {self._rank.ranks}: a loader "
                "goes on in the middle of an epoch on as many as before. A Pipeline does on others"
            )
        self._state = state
