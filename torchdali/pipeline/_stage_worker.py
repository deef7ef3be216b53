"""The stage in a process of its own: a batch comes as places in shared memory, and goes back complete.

The process was forked before CUDA, or made by the zygote, and has a context of its own. It has the pipeline as it was when
the workers were started; a later state is sent along with the batches when something has changed it.
"""

from __future__ import annotations

import pickle
import uuid
import weakref
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torchdali._warnings import collected_warnings
from torchdali.ops import DecodeImage, number_streams
from torchdali.ops._decoded import Observation
from torchdali.ops.decode._warm import warm_up_decoders
from torchdali.pipeline._adapt import adapt_modules
from torchdali.pipeline._in_turn import in_turn
from torchdali.pipeline._lent import LentMemory
from torchdali.pipeline._parcel import Packed, Parcel, pack_outputs, unpack_batch
from torchdali.pipeline._pinned import PinnedSegments
from torchdali.pipeline._queues import allow_queues
from torchdali.pipeline._share_out import decoded_by_address
from torchdali.pipeline._slots import Slot, Slots
from torchdali.pipeline._stage_call import StageCall
from torchdali.pipeline._statistics import StageTotals, Stopwatch
from torchdali.pool import Memory
from torchdali.pool._by_value import dumps
from torchdali.source import Predecoded, SourceBatch
from torchdali.tensorlist import TensorList

__all__ = ["Question", "StageFunction", "StageItem", "StageReply", "Stale", "pack_module"]

_NOT_OF_THE_STAGE = frozenset({"_staff", "_reader", "_runner", "_turns", "_stopwatch", "_sources", "_meter"})
"""Attributes of a pipeline that stay where its workers and the consumer are."""


class StageItem(NamedTuple):
    """A batch for the stage."""

    number: int
    """That no other batch has."""
    epoch: int
    iteration: int
    indices: npt.NDArray[np.int64]
    inputs: tuple[Parcel, ...]
    decoded: tuple[int, npt.NDArray[np.int64], Parcel, Any] | None
    """As :class:`~torchdali.source.Predecoded`: of what the sources' workers have decoded already."""
    decoded_segment: tuple[int, int] | None
    """The segment of the sources' memory in which those images lie: where it begins, and its bytes."""
    device: torch.device
    slot: int
    """Where tensors on the device go to: one of the worker's slots, which nobody reads now."""
    known: tuple[int, int] | None
    """What the parent has opened of that slot."""
    version: int
    """Of the module."""
    module: bytes | None
    """It, unless the worker is known to have it."""

    def __repr__(self) -> str:
        return f"batch {self.iteration} of epoch {self.epoch}"


class StageReply(NamedTuple):
    """What became of a batch."""

    packed: Packed
    key: tuple[int, int] | None
    """Of the slot that holds the tensors on the device, if there are any."""
    slot: Slot | None
    """That one, where the parent does not know it yet."""
    warnings: list[tuple[str, type[Warning]]]
    counts: dict[str, dict[str, int]]
    """By the name of a decoding operator: what its statistics have gone up by since the last reply."""
    seconds: dict[str, float]
    """In the stage's children since the last reply."""
    totals: StageTotals
    """Likewise."""
    observation: Observation
    """What decoding operators were given."""
    holds: tuple[int, ...]
    """Numbers of batches whose inputs somebody still has."""


class Question(NamedTuple):
    """In the place of a batch: asks of which ones inputs are kept."""


class Stale(NamedTuple):
    """The worker has another state of the module than is wanted; nothing was done."""


class StageFunction:
    """What a stage worker calls for each batch.

    Args:
        pipeline: whose stage it is.
        inputs: the memory that the sources' workers write to.
        num_threads, record_draws: as of :class:`~torchdali.pipeline._stage_call.StageCall`.
        again: whether a batch of which a worker has died is given to another one.
        device: where the stage is expected to run, if that is known: what takes time there is done before the first batch.
    """

    def __init__(
        self,
        pipeline: Any,
        inputs: Memory | None,
        *,
        num_threads: int,
        record_draws: bool,
        again: bool,
        device: torch.device | None,
    ) -> None:
        # The parent's pipeline owns the workers, and is freed when it is dropped; a worker has its own.
        self._of_parent = weakref.ref(pipeline)
        self._own: Any = None
        self._inputs = None if inputs is None else LentMemory(inputs, private=again)
        self._expected = device
        self._call = StageCall(num_threads=num_threads, record_draws=record_draws)
        self._version = 0
        self._slots = Slots()
        self._pinned: PinnedSegments | None = None
        self._device: torch.device | None = None
        self._stopwatch: Stopwatch | None = None
        self._seconds: dict[str, float] = {}
        self._totals = StageTotals()
        self._counted: dict[str, dict[str, int]] = {}
        self._turn = f"torchdali-{uuid.uuid4().hex}"
        self.__name__ = f"the stage of {type(pipeline).__name__}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_of_parent": None, "_own": _StageOnly(self._pipeline)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._own = state["_own"].pipeline

    @property
    def _pipeline(self) -> Any:
        return self._of_parent() if self._own is None else self._own

    # --- before the first batch ---------------------------------------------------------------------------------------

    def prepare(self, index: int) -> None:
        """Begin what takes time: CUDA's context, the decoder, the module's way to the device."""
        self._own = self._pipeline
        if self._inputs is not None:
            self._inputs.prepare()
        torch.set_grad_enabled(False)
        for kind in ("cpu", "cuda"):  # as in a thread of its own, whatever the thread that forked this was doing
            torch.set_autocast_enabled(kind, False)
        if self._expected is not None and self._expected.type != "cuda":
            return
        allow_queues()
        if self._expected is None:
            return
        with in_turn(self._turn):  # so that the first batch need not wait for all of them
            if torch.cuda.is_available() and (self._expected.index or 0) < torch.cuda.device_count():
                torch.cuda.set_device(self._expected)
                self._move(self._expected)
                warm_up_decoders(self._pipeline, self._expected)

    def _move(self, device: torch.device) -> None:
        if self._device == device:
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self._pipeline.to(device)
        self._equip()
        self._device = device

    def _equip(self) -> None:
        number_streams(self._pipeline)
        adapt_modules(self._pipeline)

    # --- a batch ------------------------------------------------------------------------------------------------------

    def __call__(self, item: StageItem | Question) -> StageReply | Stale | tuple[int, ...]:
        """Run the stage, or tell which batches' inputs are kept, by their numbers."""
        if isinstance(item, Question):
            return () if self._inputs is None else self._inputs.held()
        torch.set_grad_enabled(False)
        if item.version != self._version:
            if item.module is None:
                return Stale()
            self._own = pickle.loads(item.module).pipeline
            self._version, self._device, self._stopwatch = item.version, None, None
            self._counted, self._seconds, self._totals = {}, {}, StageTotals()
        self._move(item.device)
        if self._stopwatch is None:
            self._stopwatch = Stopwatch(self._pipeline._measured(), cuda=item.device.type == "cuda")
        if self._inputs is not None:
            self._inputs.begin(item.number)
        batch = SourceBatch(
            tuple(unpack_batch(packed, self._view) for packed in item.inputs),
            item.indices,
            item.iteration,
            item.epoch,
        )
        if item.decoded is not None:
            output, positions, images, settings = item.decoded
            self._pin(item)
            view = self._view
            if self._inputs is not None and item.device.type == "cuda":
                view = self._inputs.shared  # pinned; it is copied to the device, and not written to
            batch = batch._replace(decoded=Predecoded(output, positions, unpack_batch(images, view), settings))
        decoded = decoded_by_address(batch)
        self._slots.begin(item.slot, item.known)
        with collected_warnings() as warnings:
            with self._stopwatch.whole():
                outputs, draws = self._call(self._pipeline, batch, decoded)
            packed = pack_outputs((_in_one_piece(outputs), draws), self._slots.place)
        observation = decoded.observe()
        del outputs, batch, decoded
        holds: tuple[int, ...] = ()
        if self._inputs is not None:
            packed = packed._replace(on_cpu=list(map(self._inputs.own, packed.on_cpu)))
            holds = self._inputs.held()
        if item.device.type == "cuda":
            torch.cuda.synchronize()  # the parent's streams know nothing of this process's
        key, slot = self._slots.written()
        return StageReply(packed, key, slot, warnings, self._counts(), self._times(), self._news(), observation, holds)

    def _view(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        assert self._inputs is not None
        return self._inputs.view(offset, nbytes)

    def _pin(self, item: StageItem) -> None:
        """What goes to the device as it is, is copied several times as fast, and beside the decoder's work, if it is pinned."""
        if item.device.type == "cuda" and item.decoded_segment is not None and self._inputs is not None:
            self._pinned = self._pinned or PinnedSegments(self._inputs.memory)
            self._pinned.pin(*item.decoded_segment)

    def _counts(self) -> dict[str, dict[str, int]]:
        news = {}
        for name, module in self._pipeline.named_modules():
            if isinstance(module, DecodeImage):
                now, before = dict(vars(module.statistics)), self._counted.get(name, {})
                if now != before:
                    news[name] = {counter: value - before.get(counter, 0) for counter, value in now.items()}
                    self._counted[name] = now
        return news

    def _times(self) -> dict[str, float]:
        assert self._stopwatch is not None
        seconds = self._stopwatch.seconds()
        news = {name: value - self._seconds.get(name, 0.0) for name, value in seconds.items()}
        self._seconds = seconds
        return news

    def _news(self) -> StageTotals:
        assert self._stopwatch is not None
        totals = self._stopwatch.totals()
        news = totals.plus(self._totals, -1)
        self._totals = totals
        return news


def _in_one_piece(outputs: Any) -> Any:
    """The outputs with ragged batches on a device brought together: one copy a batch, not one an image."""
    if isinstance(outputs, TensorList):
        return outputs.pack() if outputs.device.type != "cpu" and outputs.flat is None and len(outputs) else outputs
    if isinstance(outputs, tuple) and not hasattr(outputs, "_fields"):
        return tuple(map(_in_one_piece, outputs))
    if isinstance(outputs, list):
        return list(map(_in_one_piece, outputs))
    if isinstance(outputs, dict):
        return {name: _in_one_piece(value) for name, value in outputs.items()}
    return outputs


class _StageOnly:
    """A pipeline on its way to another process: the module, without its workers and what belongs to the consumer."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def __reduce__(self) -> Any:
        attributes = {name: value for name, value in vars(self.pipeline).items() if name not in _NOT_OF_THE_STAGE}
        return _rebuild, (type(self.pipeline), attributes)


def _rebuild(kind: type, attributes: dict[str, Any]) -> _StageOnly:
    pipeline: Any = object.__new__(kind)
    pipeline.__dict__.update(attributes)
    for name in _NOT_OF_THE_STAGE:
        pipeline.__dict__.setdefault(name, None)
    return _StageOnly(pipeline)


def pack_module(pipeline: Any) -> bytes:
    """A pipeline's module, for a :class:`StageItem`.

    Raises:
        TypeError: it cannot be pickled.
    """
    try:
        return dumps(_StageOnly(pipeline))
    except Exception as error:
        raise TypeError(
            "the pipeline's module was changed after its workers were started, and cannot be sent to them: "
            f"{type(error).__name__}: {error}. Change it before start_py_workers()"
        ) from error
