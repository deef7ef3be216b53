"""From the stage's thread to the consumer: a CUDA stream, and whose turn it is on the device.

The stage works on a stream of its own. After a batch it records an event there; the consumer's current stream waits for it,
on the device, while neither thread does. The outputs' memory came from the stage's stream, so the allocator is told that the
consumer's stream uses it (``record_stream``): it is given to a later batch only when what the consumer had queued until it
let go of it is done.

In the other direction little has to be waited for: the stage reads nothing that the training writes, but its own parameters.
It waits for what the consumer's stream was to do by then when the pipeline is built, moved by ``.to()``, loaded by
``load_state_dict``, and reset; to wait before every batch would put each one behind a step of the training.

Source: PyTorch, "CUDA semantics" (streams) and ``torch.Tensor.record_stream``.
"""

from __future__ import annotations

import contextlib
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from torchdali.tensorlist import TensorList

__all__ = ["Handover", "batches_in", "record", "wait_for"]

Stalled: TypeAlias = Callable[[Any, Any], None]


def wait_for(event: Any, stream: Any, stalled: Stalled | None) -> None:
    """Have a stream wait for an event, and measure on the device for how long, if it may have to.

    Args:
        event: recorded on another stream.
        stream: of the consumer.
        stalled: gets two events, before and after the wait.
    """
    if stalled is None or event.query():
        stream.wait_event(event)
        return
    with torch.cuda.device(stream.device):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record(stream)
        stream.wait_event(event)
        after.record(stream)
    stalled(before, after)


class Handover:
    """Of one pipeline.

    Args:
        device: of the stage. Where it is the CPU nothing here touches CUDA.
        default_device: torch's, where the pipeline is built: the stage has the same.
    """

    def __init__(self, device: torch.device, default_device: torch.device) -> None:
        self._default_device = default_device
        self._befores: deque[Any] = deque()
        self.stream: torch.cuda.Stream | None = None
        self.move(device)

    def move(self, device: torch.device) -> None:
        """To another device; while the stage does nothing."""
        self.device = device
        if device.type != "cuda":
            self.stream = None
        elif self.stream is None or self.stream.device != device:
            self.stream = torch.cuda.Stream(device)
        self.synchronize()

    # --- in the consumer's thread -------------------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Have the next batch wait for what the current stream is to do by now."""
        if self.stream is not None:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            self._befores.append(event)

    def receive(self, outputs: Any, event: Any, stalled: Stalled | None = None) -> None:
        """Make a batch ready for use on the current stream.

        Args:
            outputs: that are used there.
            event: of :meth:`finished`.
            stalled: as of :func:`wait_for`.
        """
        if event is None:
            return
        device, recorded = event
        stream = torch.cuda.current_stream(device)
        wait_for(recorded, stream, stalled)
        record(outputs, stream)

    # --- in the stage's thread ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def stage(self) -> Iterator[None]:
        """Context in which the stage works: no gradients, its device and stream."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self._default_device.type != "cpu":
                stack.enter_context(self._default_device)
            if self.stream is not None:
                stack.enter_context(torch.cuda.device(self.device))
                stack.enter_context(torch.cuda.stream(self.stream))
                while self._befores:
                    self.stream.wait_event(self._befores.popleft())
            yield

    def finished(self) -> Any:
        """The device, and an event there after all that the stage has begun; None on the CPU."""
        if self.stream is None:
            return None
        event = torch.cuda.Event()
        event.record(self.stream)
        return self.device, event


def record(outputs: Any, stream: Any) -> None:
    """Have the allocator know that tensors are used on a CUDA stream that they may not have been made on."""
    for batch in batches_in(outputs):
        if batch.device.type == "cuda":
            batch.record_stream(stream)


_NOT_LOOKED_INTO = (
    *(str, bytes, int, float, complex, nn.Module),
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
)


def batches_in(value: Any, _seen: set[int] | None = None) -> Iterator[torch.Tensor | TensorList]:
    """Each tensor and TensorList in containers and in the attributes of other objects, slots included."""
    if isinstance(value, (torch.Tensor, TensorList)):
        yield value
        return
    if value is None or isinstance(value, _NOT_LOOKED_INTO):
        return
    seen = set() if _seen is None else _seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts: Any = value.values()
    elif isinstance(value, (tuple, list, set, frozenset, deque)):
        parts = value
    else:
        parts = [*getattr(value, "__dict__", {}).values(), *_slots_of(value)]
    for part in parts:
        yield from batches_in(part, seen)


def _slots_of(value: Any) -> Iterator[Any]:
    for kind in type(value).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            private = name.startswith("__") and not name.endswith("__")
            yield getattr(value, f"_{kind.__name__.lstrip('_')}{name}" if private else name, None)
