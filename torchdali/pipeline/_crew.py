"""The processes that run a pipeline's stage, seen from the parent.

Each has a lane of its own: a batch goes to the one with the least in hand, together with the number of a slot, which is memory
on the device that the worker made and this process has opened. The worker writes the batch's tensors there and answers when
they are complete; they are copied at once into memory of this process's allocator, and the slot is free when the copy is done. So
nothing that the user holds belongs to another process.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch

from torchdali._warnings import warn
from torchdali.errors import WorkerDiedError
from torchdali.pipeline._device_memory import OpenedMemory
from torchdali.pipeline._parcel import pack_batch, span_of, unpack_outputs
from torchdali.pipeline._slots import OnDevice, Slot, view_of
from torchdali.pipeline._stage_worker import Question, StageFunction, StageItem, StageReply, Stale, pack_module
from torchdali.pool import Job, Memory, PoolStatistics, Raised, WorkerPool
from torchdali.source import SourceBatch

__all__ = ["Crew", "Made", "Work"]

IN_HAND = 2
"""Batches that a worker is given at a time: one that it works on, and the next."""

_SLOTS = IN_HAND + 1
"""Of each worker: another one may still be copied from."""


_UNTOLD = 8
"""Batches that are held for a worker that may have kept inputs of them, which it does not tell where the stage raised; it is
asked when there are so many."""


class Work(NamedTuple):
    """A batch that a worker has been given."""

    batch: SourceBatch
    """Held, since the worker reads its memory."""
    job: Job
    worker: int
    slot: int
    number: int
    version: int
    """Of the module."""


class Made(NamedTuple):
    """What a worker made of a batch."""

    outputs: Any
    draws: dict[str, torch.Tensor] | None
    reply: StageReply


class _Opened(NamedTuple):
    key: tuple[int, int]
    memory: OpenedMemory


class Crew:
    """Stage workers of a pipeline.

    Args:
        pipeline: whose stage they run; it is not kept alive by them here.
        size: how many.
        memory: that the sources' workers write to; None without such.
        device: where the stage is expected to run, if that is known before CUDA may be asked.
        num_threads: that CPU operators may use in all of them together.
        name, record_draws: as of the pipeline.
        pool_options: further arguments of :class:`~torchdali.pool.WorkerPool`.
    """

    def __init__(
        self,
        pipeline: Any,
        size: int,
        memory: Memory | None,
        *,
        device: torch.device | None,
        num_threads: int,
        name: str,
        record_draws: bool,
        pool_options: dict[str, Any],
    ) -> None:
        self._memory = memory
        function = StageFunction(
            pipeline,
            memory,
            num_threads=max(1, num_threads // size),
            record_draws=record_draws,
            again=pool_options.get("on_worker_death") == "restart",
            device=device,
        )
        self._pool = WorkerPool(
            [function],
            size,
            name=f"{name}-stage",
            dedicated=size,
            initialize=function.prepare,
            bytes_per_item=1 << 20,
            **pool_options,
        )
        self._free = {worker: list(range(_SLOTS)) for worker in range(size)}
        self._copied: dict[tuple[int, int], torch.cuda.Event] = {}
        """An event after the last copy from a slot, by worker and slot."""
        self._opened: dict[tuple[int, int], _Opened] = {}
        self._given_up: list[Work] = []
        """Workers may still be reading what they were given of these."""
        self._numbers = itertools.count()
        self._kept = {worker: dict[int, SourceBatch]() for worker in range(size)}
        """Batches of which a worker has inputs, as it says, by worker and number."""
        self._perhaps = {worker: list[Work]() for worker in range(size)}
        """It may have some of these too; its next reply tells."""
        self._version = 0
        self._module: bytes | None = None
        self._has: dict[int, int] = {}
        """The version that a worker is known to have."""

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Fork the workers; called again, replace those that have died, where that is still allowed."""
        self._pool.start()

    def close(self) -> None:
        """End them."""
        self._pool.close()

    def let_go(self) -> None:
        """Let go of the memory of workers that have ended, once nobody takes in what they made."""
        for event in self._copied.values():
            event.synchronize()
        self._copied.clear()
        for opened in self._opened.values():
            opened.memory.close()
        self._opened.clear()
        self._given_up.clear()
        for worker in self._free:
            self._forget_kept(worker)

    @property
    def size(self) -> int:
        """Those that live, at least 1."""
        return max(1, len(self._pool.living))

    @property
    def pids(self) -> list[int]:
        """Process ids of the living ones."""
        return self._pool.pids

    def statistics(self) -> PoolStatistics:
        """Of their pool."""
        return self._pool.statistics()

    def revive(self) -> None:
        """Replace the workers that have died, where that is still allowed."""
        try:
            self._pool.start()
        except RuntimeError as error:
            if not self._pool.pids:
                raise
            warn(f"going on with {len(self._pool.pids)} stage workers, others have died: {error}", stacklevel=4)

    def renew(self) -> None:
        """The module was changed: batches that are submitted from here on are worked on by what it is then."""
        self._version += 1
        self._module = None

    # --- work ---------------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Batches that may be under way at a time."""
        return IN_HAND * self.size

    def submit(self, pipeline: Any, batch: SourceBatch, worker: int | None = None) -> Work:
        """Give a batch to a worker.

        Raises:
            WorkerDiedError: none is left.
            TypeError: the module was changed and cannot be sent.
        """
        if worker is None:
            worker = max(self._pool.living or self._free, key=lambda index: len(self._free[index]))
        slot = self._free[worker].pop(0)
        given_up, self._given_up = self._given_up, []
        for work in given_up:
            (self._perhaps[work.worker] if work.job.arrived else self._given_up).append(work)
        number = next(self._numbers)
        try:
            copied = self._copied.pop((worker, slot), None)
            if copied is not None:
                copied.synchronize()
            job = self._pool.submit(0, [self._item(pipeline, batch, worker, slot, number)], worker=worker)
        except BaseException:
            self._free[worker].append(slot)
            raise
        return Work(batch, job, worker, slot, number, self._version)

    def _item(self, pipeline: Any, batch: SourceBatch, worker: int, slot: int, number: int) -> StageItem:
        opened = self._opened.get((worker, slot))
        module, given = None, batch.decoded
        images = None if given is None else pack_batch(given.images, self._memory)
        span = None if images is None else span_of(images)
        if self._version and self._has.get(worker) != self._version:
            self._module = self._module or pack_module(pipeline)
            module = self._module
        return StageItem(
            number,
            batch.epoch,
            batch.iteration,
            batch.indices,
            tuple(pack_batch(output, self._memory) for output in batch.outputs),
            None if given is None or images is None else (given.output, given.positions, images, given.settings),
            None if span is None or self._memory is None else self._memory.segment_of(span[0]),
            pipeline.device,
            slot,
            None if opened is None else opened.key,
            self._version,
            module,
        )

    def wait(self, work: Work, seconds: float) -> str:
        """Wait until a batch is made, or for so long; returns what is waited for, empty when it is made."""
        try:
            self._pool.wait([work.job], timeout=seconds)
        except TimeoutError as error:
            return str(error).partition("; ")[2]
        return ""

    def receive(self, pipeline: Any, work: Work) -> Made | Work:
        """Take in what was made of a batch; or the batch given to its worker again, who had an old module.

        Tensors on the device are copied on the current stream.

        Args:
            pipeline: whose module it is.
            work: that :meth:`wait` says is done.

        Raises:
            Exception: what the stage raised, or WorkerDiedError.
        """
        worker, slot = work.worker, work.slot
        try:
            (reply,) = self._collect(work)
            if isinstance(reply, Raised):
                self._perhaps[worker].append(work)
                if len(self._perhaps[worker]) >= _UNTOLD:
                    self._ask(worker)
                raise reply.exception
            if isinstance(reply, Stale):
                self._has.pop(worker, None)
            else:
                self._has[worker] = work.version
                self._note_kept(worker, reply.holds, work)
                try:
                    made = self._take(reply, worker, slot, pipeline.device)
                finally:  # of what was begun before it raised, too
                    if reply.key is not None:
                        self._copied[worker, slot] = event = torch.cuda.Event()
                        event.record()
        finally:
            self._free[worker].append(slot)
        if isinstance(reply, Stale):
            return self.submit(pipeline, work.batch, worker)
        return made

    def _collect(self, work: Work) -> Any:
        try:
            return self._pool.collect(work.job)
        except WorkerDiedError:
            self._forget_kept(work.worker)
            raise

    def _ask(self, worker: int) -> None:
        """Ask a worker what it has kept; it answers when it is done with what it has in hand."""
        try:
            (numbers,) = self._pool.collect(self._pool.submit(0, [Question()], worker=worker))
        except WorkerDiedError:
            self._forget_kept(worker)
            return
        if not isinstance(numbers, Raised):
            self._note_kept(worker, numbers)

    def _note_kept(self, worker: int, numbers: tuple[int, ...], *works: Work) -> None:
        known = {**self._kept[worker], **{other.number: other.batch for other in (*self._perhaps[worker], *works)}}
        self._kept[worker] = {number: known[number] for number in numbers if number in known}
        self._perhaps[worker].clear()

    def _forget_kept(self, worker: int) -> None:
        self._kept[worker].clear()
        self._perhaps[worker].clear()

    def _take(self, reply: StageReply, worker: int, slot: int, device: torch.device) -> Made:
        if reply.slot is not None:
            self._open(reply.slot, worker, slot, device)
        opened = self._opened.get((worker, slot))
        if reply.key is not None and (opened is None or opened.key != reply.key):
            raise RuntimeError(
                f"stage worker {worker} wrote to memory {reply.key}, which was not told of; this is a bug in torchdali"
            )

        def take(placed: OnDevice) -> torch.Tensor:
            assert opened is not None
            made = torch.empty_strided(placed.shape, placed.strides, dtype=placed.dtype, device=device)
            return made.copy_(view_of(opened.memory.bytes, placed), non_blocking=True)

        outputs, draws = unpack_outputs(reply.packed, take)
        return Made(outputs, draws, reply)

    def _open(self, told: Slot, worker: int, slot: int, device: torch.device) -> None:
        before = self._opened.pop((worker, slot), None)
        if before is not None:
            before.memory.close()  # what was copied from it is done: the slot was not given out before that
        self._opened[worker, slot] = _Opened(told.key, OpenedMemory(told.handle, told.nbytes, device))

    def cancel(self, work: Work) -> None:
        """Nobody wants it any more. What the worker writes nevertheless, it writes before it begins with another batch."""
        self._pool.cancel(work.job)
        self._given_up.append(work)
        self._free[work.worker].append(work.slot)
