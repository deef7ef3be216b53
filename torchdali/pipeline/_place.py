"""Where a pipeline is in its epochs, and which part of them it reads."""

from __future__ import annotations

import operator
import warnings
from typing import Any

from torchdali.errors import PipelineStateError
from torchdali.pipeline._runner import Runner
from torchdali.pipeline._share import AnyReader
from torchdali.source import BatchInfo, ExternalSource, LastBatch, Part, Rest

__all__ = ["Place"]

VERSION = 1


class Place:
    """What a pipeline knows of its place: in its epochs, and among the pipelines of several processes."""

    batch_size: int
    seed: int
    _sources: list[ExternalSource]
    _reader: AnyReader
    _last_batch: LastBatch
    _state: str
    _runner: Runner | None

    _jump: BatchInfo | None = None
    """Where the next epoch begins, instead of after this one."""
    _part: Part | None = None

    # --- several processes --------------------------------------------------------------------------------------------

    def shard(self, rank: int, ranks: int, *, rest: Rest = "pad") -> None:
        """Read only a part of each epoch: every ``ranks``-th sample, from the ``rank``-th on.

        The parts of all ranks are disjoint and make up the whole. Samples keep their indices, so sources need not know of it,
        and random draws for a sample are the same on however many ranks.

        Args:
            rank: of this process, from 0.
            ranks: how many processes read the same epochs.
            rest: what becomes of samples that do not give each rank the same number: ``"pad"`` has the first ones of the
                epoch read again, ``"drop"`` leaves them out, with ``"uneven"`` some ranks have one more.

        Raises:
            ValueError: there is no such rank or policy; or it needs the number of samples, and a source has no length.
            TypeError: a source makes whole batches.
            PipelineStateError: batches were asked for already.
        """
        if self._state in ("built", "closed"):
            raise PipelineStateError(
                f"shard() comes before the first batch is asked for, and this {type(self).__name__} is {self._state}"
            )
        part = Part.of(rank, ranks, self._samples(), rest)
        for source in self._sources:
            if source.kind != "sample" and ranks > 1:
                raise TypeError(
                    f"the source {source.name} makes whole batches, of which no part can be taken: have it read what is this "
                    "rank's itself, or make it a callable that is asked for samples"
                )
        self._part = part
        if ranks > 1:
            self._reader.read_part(part)

    def _samples(self) -> int | None:
        """In an epoch, of all ranks; None: not known."""
        try:
            return min(len(source) for source in self._sources)
        except TypeError:
            return None

    def __len__(self) -> int:
        """Batches in an epoch of this rank, where all sources have a length.

        Raises:
            TypeError: a source has none.
        """
        samples = min(len(source) for source in self._sources)
        if self._part is not None:
            samples = self._part.length or 0
        return -(-samples // self.batch_size) if self._last_batch == "partial" else samples // self.batch_size

    @property
    def ranks(self) -> int:
        """How many processes read the same epochs; see :meth:`shard`."""
        return 1 if self._part is None else self._part.ranks

    @property
    def sharded(self) -> bool:
        """Whether :meth:`shard` was called."""
        return self._part is not None

    # --- epochs -------------------------------------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Have the next iteration be the epoch of this number: its order and its draws, whatever came before.

        Raises:
            ValueError: it is negative.
        """
        epoch = operator.index(epoch)
        if epoch < 0:
            raise ValueError(f"the epoch is {epoch}; epochs are counted from 0")
        if self._jump is None or self._jump.epoch_idx != epoch:  # else restore() has said more
            self._jump = BatchInfo(0, epoch)

    def _begin_epoch(self, runner: Runner, *, stacklevel: int, first: bool = False) -> None:
        """Have an epoch begun: that of :meth:`set_epoch` or :meth:`restore`, which is forgotten once that is sure."""
        jump = self._jump

        def begun() -> None:
            if self._jump is jump:
                self._jump = None

        runner.reset(jump, begun, stacklevel=stacklevel + 1, first=first)

    def checkpoint(self) -> dict[str, Any]:
        """Where the consumer is: numbers that :meth:`restore` takes, of this pipeline or of one in another process.

        What is in the stage's parameters and buffers ``state_dict()`` has, as of any module.
        """
        epoch, iteration, finished = 0, 0, False
        if self._jump is not None:
            iteration, epoch = self._jump
        elif self._runner is not None:
            epoch, iteration, finished = self._reader.epoch, self._runner.taken, self._runner.at_end
        return {
            "version": VERSION,
            "epoch": epoch,
            "samples": iteration * self.batch_size * self.ranks,
            "finished": finished,
            "seed": self.seed,
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Have the next iteration go on from a :meth:`checkpoint`: the batches that remain of its epoch, with the same draws.

        The batch size and the number of ranks may be others, if the samples that were read make whole batches of them.

        Args:
            checkpoint: of a pipeline over the same data with the same seed.

        Raises:
            ValueError: it is none, or the samples that were read make no whole batches.
            TypeError: a source is a generator or an iterator, which cannot be taken to another place.
        """
        try:
            known = checkpoint["version"] == VERSION
            epoch, samples = operator.index(checkpoint["epoch"]), operator.index(checkpoint["samples"])
            finished, seed = bool(checkpoint["finished"]), checkpoint["seed"]
        except (TypeError, KeyError) as error:
            raise ValueError(f"this is no checkpoint of a pipeline: {error!r} is the matter with it") from error
        if not known or epoch < 0 or samples < 0:
            raise ValueError("this is no checkpoint of a pipeline, or one of another version of torchdali")
        step = self.batch_size * self.ranks
        if samples % step and not finished:
            raise ValueError(
                f"the checkpoint was taken after {samples} samples of the epoch; that is no whole number of steps of {step} "
                f"(batches of {self.batch_size} on {self.ranks} ranks). Go on with the sizes that it was taken with"
            )
        for source in self._sources:
            if source.kind == "iterable" and not source.begins_anew:
                raise TypeError(
                    f"the source {source.name} goes on where it is, and cannot be taken to where the checkpoint was; pass the "
                    "generator function, or an iterable, in its place"
                )
        if seed != self.seed:
            warnings.warn(
                f"the checkpoint is of a pipeline with the seed {seed}, this one has {self.seed}: random draws differ from here "
                "on. Pass the same seed= to both",
                RuntimeWarning,
                stacklevel=2,
            )
        self._jump = BatchInfo(0, epoch + 1) if finished else BatchInfo(samples // step, epoch)
