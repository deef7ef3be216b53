"""The device stage: batches go through a module on a device, some ahead of who uses them.

It runs in the consumer's thread. On a GPU that is no loss, since the work is only begun there: on a stream of its own, for
``prefetch`` batches beyond the one that is handed out; and the module may draw random numbers, change its buffers and
raise without another thread in the middle of the same.

Random draws of the module come from torch's generators, which are seeded for each batch by the loader's seed and the
batch's number and left as they were: they depend neither on how far ahead the stage is nor on what the training draws.
"""

from __future__ import annotations

import contextlib
import inspect
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from torchdali._philox import words
from torchdali.loader._length import length_of
from torchdali.loader._state import Delivery, End
from torchdali.ops import BatchContext, Operator, RandomOperator, available_cpus, batch_context, number_streams
from torchdali.pipeline import Pipeline, adapt_modules
from torchdali.pipeline._handover import record, wait_for
from torchdali.pipeline._placement import expected_device
from torchdali.pipeline._queues import allow_queues
from torchdali.pipeline._statistics import Stopwatch
from torchdali.pool import deferred_interrupt
from torchdali.report import Causes
from torchdali.tensorlist import TensorList

__all__ = ["Stage", "StagedIterator", "check_stage"]

_STREAM = 0xFFFFFFFD
"""Of random draws; operators count theirs from 0, and the last two are taken."""


def check_stage(pipeline: Any, prefetch: Any, device: torch.device | str | int | None) -> None:
    """See that a stage can be made of it, and have CUDA, if it comes to that, be ready for it.

    Raises:
        TypeError: ``pipeline`` cannot be called, or has sources of its own.
        ValueError: ``prefetch`` is no positive integer.
    """
    if isinstance(prefetch, bool) or not isinstance(prefetch, int) or prefetch < 1:
        raise ValueError(f"prefetch is {prefetch!r}; it is the number of batches ahead of the consumer, at least 1")
    if pipeline is None and device is None:
        return
    if isinstance(pipeline, Pipeline):
        raise TypeError(
            f"pipeline is a {type(pipeline).__name__}, which has sources and workers of its own: iterate over it instead of a "
            "DataLoader, or give the DataLoader a module that is only the stage"
        )
    if pipeline is not None and not callable(pipeline):
        raise TypeError(
            f"pipeline is a {type(pipeline).__name__}; it has to be an nn.Module, or a function of the batch"
        )
    expected = expected_device("auto" if device is None else device)
    if expected is None or expected.type == "cuda":
        allow_queues()


def map_tensors(value: Any, function: Callable[[Any], Any]) -> Any:
    """A batch with ``function`` of each tensor and TensorList in it; containers keep their type, the rest stays."""
    if isinstance(value, (torch.Tensor, TensorList)):
        return function(value)
    if isinstance(value, Mapping):
        entries = {key: map_tensors(entry, function) for key, entry in value.items()}
        return entries if type(value) is dict else _like(value, entries)
    if isinstance(value, tuple):
        parts = [map_tensors(entry, function) for entry in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, list):
        return [map_tensors(entry, function) for entry in value]
    if callable(getattr(value, "to", None)) and not isinstance(value, type):
        return function(value)
    return value


def _like(value: Any, entries: dict[Any, Any]) -> Any:
    try:
        return type(value)(entries)
    except TypeError:
        return entries


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function is meant for so many arguments rather than for one that holds them all."""
    forward = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return False
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(parameter.default is inspect.Parameter.empty for parameter in positional)
    return needed <= count <= len(positional) and (len(positional) > 1 or count == 1)


def _is_encoded(value: Any) -> bool:
    """Whether this is files' bytes, which decoders take from the CPU's memory."""
    return (
        isinstance(value, TensorList) and value.dtype == torch.uint8 and all(len(shape) == 1 for shape in value.shape())
    )


class BatchKey(NamedTuple):
    """What random draws for a batch are keyed by."""

    seed: int
    epoch: int
    number: int
    """Of the batch in its epoch."""
    batch_size: int


class Stage:
    """Brings batches to a device and calls a module with them.

    Args:
        pipeline: the module; None: nothing is done but bringing.
        device: None: where the module's parameters are, else the CPU.
    """

    def __init__(self, pipeline: Any, device: torch.device | str | int | None) -> None:
        module = pipeline if isinstance(pipeline, nn.Module) else None
        self.device = _device_of(module) if device is None else torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._pipeline = pipeline
        self._threads = available_cpus()
        if module is not None:
            module.to(self.device)
            # The module may be called with its own signature: looked at before it is adapted to ragged batches.
            self._signature = {count: _takes(module, count) for count in range(9)}
            knows_batches = any(isinstance(part, (Operator, RandomOperator)) for part in module.modules())
            holder = module if knows_batches else nn.ModuleList([module])
            number_streams(holder)
            adapt_modules(holder)
        else:
            self._signature = {}
        measured = nn.Module()  # of a function only the whole is known
        if module is not None:
            measured = module if list(module.children()) else nn.ModuleDict({type(module).__name__: module})
        cuda = self.device.type == "cuda"
        self.stopwatch: Stopwatch | None = None
        if pipeline is not None:
            self.stopwatch = Stopwatch(measured, cuda=cuda, name="DataLoader", within=True)
            weakref.finalize(self, self.stopwatch.remove)  # the module may outlive many loaders
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def run(self, batch: Any, key: BatchKey) -> Any:
        """What becomes of a batch; on a GPU it is only begun, on :attr:`stream`."""
        if self.stream is None:
            return self._call(batch if self.device.type == "cpu" else self._bring(batch), key)
        with torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())  # what was done to the module there, and its buffers
            with torch.cuda.stream(self.stream):
                return self._call(self._bring(batch), key)

    def _bring(self, batch: Any) -> Any:
        return map_tensors(batch, lambda tensor: tensor if _is_encoded(tensor) else self._to_device(tensor))

    def _to_device(self, tensor: Any) -> Any:
        return tensor.to(self.device, non_blocking=True)

    def _call(self, batch: Any, key: BatchKey) -> Any:
        if self._pipeline is None:
            return batch
        first = key.number * key.batch_size
        indices = np.arange(first, first + length_of(batch, key.batch_size))
        context = BatchContext(key.seed, key.epoch, key.number, indices, self.device, self._threads, calls={})
        measured = contextlib.nullcontext() if self.stopwatch is None else self.stopwatch.whole()
        with self._seeded(key), batch_context(context), measured:
            if isinstance(batch, (tuple, list)) and self._unpacks(len(batch)):
                outputs = self._pipeline(*batch)
            else:
                outputs = self._pipeline(batch)
        return map_tensors(outputs, self._to_device)

    @contextlib.contextmanager
    def _seeded(self, key: BatchKey) -> Iterator[None]:
        """Torch's generators, of this device and the CPU, are the batch's meanwhile."""
        generators = [torch.default_generator]
        if self.device.type == "cuda":
            generators.append(torch.cuda.default_generators[self.device.index])
        states = [generator.get_state() for generator in generators]
        a, b, _, _ = words(key.seed, key.epoch, _STREAM, key.number)
        try:
            for generator in generators:
                generator.manual_seed(a << 31 | b >> 1)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)

    def _unpacks(self, count: int) -> bool:
        found = self._signature.get(count)
        if found is None:
            found = self._signature[count] = _takes(self._pipeline, count)
        return found


def _device_of(module: nn.Module | None) -> torch.device:
    if module is not None:
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")


class _Ahead(NamedTuple):
    """A batch that is on its way through the stage, or was taken from the host for it."""

    outputs: Any
    error: BaseException | None
    event: Any
    number: int
    events: list[Delivery | End]
    samples: int = 0


class StagedIterator:
    """Batches of a loader, through its stage.

    Args:
        host: iterator over what workers, or this process, make.
        stage: where they go.
        prefetch: how many are ahead of the consumer.
        batch_size: of the loader.
    """

    def __init__(self, host: Any, stage: Stage, prefetch: int, batch_size: int) -> None:
        self._host = host
        self._stage = stage
        self._prefetch = prefetch
        self._ahead: deque[_Ahead] = deque()
        self._progress = host.progress
        self._seed = host.progress.base_seed & (1 << 62) - 1
        self._epoch = host.progress.epoch
        self._batch_size = batch_size
        self._events: list[Delivery | End] = []
        host.on_event = self._events.append
        self._meter = host._meter
        if stage.stream is not None:
            host.read_on(stage.stream)
        self._exhausted = False
        self._in_hand: _Ahead | None = None
        self._handed: _Ahead | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(self._host)

    def __getattr__(self, name: str) -> Any:
        """What torch's iterators have beside, such as their workers."""
        if name == "_host":
            raise AttributeError(name)
        return getattr(self._host, name)

    def __next__(self) -> Any:
        if self._handed is not None:  # Ctrl-C came before it was out of the door
            return self._hand_out()
        asked, waited = time.perf_counter(), self._host.waited
        self._fill()
        if not self._ahead:
            self._meter.begin()
            for event in self._events:
                self._progress.note(event)
            self._events.clear()
            self._progress.finished = True
            raise StopIteration
        ahead = self._ahead[0]
        if ahead.event is not None:
            stream = torch.cuda.current_stream(self._stage.device)
            wait_for(ahead.event, stream, self._meter.stalled)
            record(ahead.outputs, stream)
        spent, starved = time.perf_counter() - asked, self._host.waited - waited
        causes = Causes.of(spent, starved, spent - starved)
        samples = 0 if ahead.error is not None else ahead.samples
        self._meter.delivered(asked, samples, causes, len(self._ahead) - 1)
        with deferred_interrupt():  # Ctrl-C before this loses nothing, nor does it after
            self._ahead.popleft()
            for event in ahead.events:
                self._progress.note(event)
            self._handed = ahead
        return self._hand_out()

    def _hand_out(self) -> Any:
        ahead, self._handed = self._handed, None
        assert ahead is not None
        if ahead.error is not None:
            raise ahead.error
        return ahead.outputs

    def _fill(self) -> None:
        """Begin what can be begun: at least one batch, then those that wait to be taken."""
        while not self._exhausted and len(self._ahead) <= self._prefetch:
            if self._ahead and self._in_hand is None and not self._host.ready:
                return
            if self._in_hand is None:
                self._take_from_host()
            if self._in_hand is not None:
                ahead = self._begin(self._in_hand)
                with deferred_interrupt():
                    self._ahead.append(ahead)
                    self._in_hand = None

    def _take_from_host(self) -> None:
        """Have a batch in hand, which is kept should Ctrl-C come while it is worked on."""
        batch, error = None, None
        try:
            batch = self._host.take()
        except StopIteration:
            self._exhausted = True
            self._progress.finished = not self._ahead  # the workers are at the end, the consumer may not be
            return
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            error = raised
        samples = length_of(batch, 1) if self._host._auto_collation else 1
        numbers = [event.number for event in self._events if isinstance(event, Delivery)]
        with deferred_interrupt():
            self._in_hand = _Ahead(batch, error, None, numbers[-1] if numbers else 0, self._events.copy(), samples)
            self._events.clear()
            self._host.taken(stacklevel=6)

    def _begin(self, taken: _Ahead) -> _Ahead:
        """Have a batch go through the stage."""
        if taken.error is not None:
            return taken
        try:
            outputs = self._stage.run(taken.outputs, BatchKey(self._seed, self._epoch, taken.number, self._batch_size))
        except StopIteration as stop:
            error = RuntimeError("the pipeline raised StopIteration, which would end the epoch in silence")
            error.__cause__ = stop
            return taken._replace(outputs=None, error=error)
        except KeyboardInterrupt:  # the batch is in hand, and goes through the stage again
            raise
        except BaseException as raised:
            return taken._replace(outputs=None, error=raised)
        event = None
        if self._stage.stream is not None:
            event = torch.cuda.Event()
            event.record(self._stage.stream)
        return taken._replace(outputs=outputs, event=event)
