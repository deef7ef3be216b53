"""Where a pipeline's time went."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from torchdali import _spans
from torchdali.ops.decode import DecodeImage, DecodeStatistics
from torchdali.pool import PoolStatistics
from torchdali.pool._forking import has_locks

__all__ = ["PipelineStatistics", "StageTotals", "Stopwatch"]


@dataclass
class PipelineStatistics:
    """Counters of a pipeline since it was built; times in seconds."""

    batches: int = 0
    samples: int = 0
    source_seconds: float = 0.0
    """In the sources' code, summed over the workers."""
    wait_seconds: float = 0.0
    """The pipeline waited for workers."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """In each operator of the device stage, by name; on a GPU its time on the stream, which runs beside the others."""
    run_seconds: float = 0.0
    """Making batches: waiting for workers and in the stage, in whichever thread."""
    stall_seconds: float = 0.0
    """The consumer waited in ``run`` or in iteration; next to nothing where the stage keeps ahead of it."""
    bad_images: int = 0
    """That decoding operators could not decode, in batches that are still ahead too."""
    decoded_images: int = 0
    """Handed to decoding operators."""
    cpu_share: float = 0.0
    """The part of them that the workers of the sources had decoded."""
    cpu_share_now: float = 0.0
    """The part of a batch that they are given now, which ``cpu_share="auto"`` changes."""
    worker_deaths: int = 0
    copied_bytes: int = 0
    """Arrived by a copy because shared memory was short; see :class:`torchdali.pool.PoolStatistics`."""

    def count_pools(self, sources: PoolStatistics, stage: PoolStatistics | None) -> None:
        """Fill in what the pools of the sources and, if it has one, of the stage tell."""
        self.source_seconds, self.wait_seconds = sources.busy_seconds, sources.wait_seconds
        self.worker_deaths = sources.deaths + (0 if stage is None else stage.deaths)
        self.copied_bytes = sources.copied_bytes + (0 if stage is None else stage.copied_bytes)

    def count_decoding(self, operators: Iterable[DecodeStatistics]) -> None:
        """Fill in what decoding operators tell."""
        given = 0
        for numbers in operators:
            self.bad_images += numbers.bad_images
            self.decoded_images += numbers.images
            given += numbers.given_images
        self.cpu_share = given / max(1, self.decoded_images)


_WHOLE = "(stage)"
"""In the place of a module's path."""


class StageTotals(NamedTuple):
    """Time of a stage, in seconds."""

    decode: float = 0.0
    """In decoding operators."""
    whole: float = 0.0
    """In all of it."""

    def plus(self, other: StageTotals, sign: int = 1) -> StageTotals:
        """Both together, or with ``sign=-1`` what came since the other."""
        return StageTotals(self.decode + sign * other.decode, self.whole + sign * other.whole)


class _Spent:
    """Seconds of one thing that is measured."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0


class _Hook:
    """Of a module: tells a stopwatch. A copy of the module in a pickle has one that does nothing."""

    def __init__(self, stopwatch: Stopwatch, path: str, label: str, spent: list[_Spent], *, begins: bool) -> None:
        self._tell = partial(stopwatch.begins, path, label) if begins else partial(stopwatch.ends, path, label, spent)

    def __call__(self, *arguments: Any) -> None:
        self._tell()

    def __reduce__(self) -> Any:
        return _no_hook, ()


def _do_nothing(*arguments: Any) -> None:
    """In the place of a hook."""


def _no_hook() -> Callable[..., None]:
    return _do_nothing


class Stopwatch:
    """Measures the direct children of a module, and all its decoders: by events on a CUDA stream, by the clock on the CPU.

    The stage may run in one thread and be asked in another; and a child that somebody else calls meanwhile is measured too.
    While ``torch.profiler`` is at work there, what is measured is a range named after the child.

    Args:
        module: its children are measured.
        cuda: whether by events, on the current stream of whoever calls the child.
        name: of whom it belongs to, for spans.
        within: measure only calls within :meth:`whole`: several may have the same module.
    """

    def __init__(self, module: nn.Module, *, cuda: bool, name: str = "", within: bool = False) -> None:
        self.cuda = cuda
        self._name, self._within = name, within
        self._handles: list[Any] = []
        self._lock: Any
        has_locks(self, _lock=threading.Lock)
        self._children: dict[str, _Spent] = {}
        self._decoding = _Spent()
        self._whole = _Spent()
        self._events: deque[tuple[list[_Spent], torch.cuda.Event, torch.cuda.Event]] = deque()
        self._started: dict[tuple[int, str], tuple[Any, float, Any]] = {}
        self.decoders: list[DecodeImage] = []
        children = {child: name for name, child in module.named_children()}
        for path, part in module.named_modules():
            decodes = isinstance(part, DecodeImage)
            if isinstance(part, DecodeImage):
                self.decoders.append(part)
            if isinstance(part, torch.jit.ScriptModule):  # which takes no hooks
                continue
            if part in children or decodes:
                spent = [self._decoding] if decodes else []
                if part in children:
                    spent.append(self._children.setdefault(children[part], _Spent()))
                label = "decode" if decodes else children[part]
                before, after = (
                    _Hook(self, path, label, spent, begins=True),
                    _Hook(self, path, label, spent, begins=False),
                )
                self._handles.append(part.register_forward_pre_hook(before))
                # Always: else what raises would be measured as going on.
                self._handles.append(part.register_forward_hook(after, always_call=True))

    def remove(self) -> None:
        """Measure no more."""
        for handle in self._handles:
            handle.remove()

    def begins(self, path: str, label: str) -> None:
        """A module is called."""
        thread = threading.get_ident()
        if not self._within or (thread, _WHOLE) in self._started:
            self._start((thread, path), label)

    def ends(self, path: str, label: str, spent: list[_Spent]) -> None:
        """It is done."""
        self._stop((threading.get_ident(), path), label, spent)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Context in which all of the stage is called."""
        key = threading.get_ident(), _WHOLE
        self._start(key, "stage")
        try:
            yield
        finally:
            self._stop(key, "stage", [self._whole])

    def _start(self, key: tuple[int, str], label: str) -> None:
        labelled = _spans.labelled(label)
        labelled.__enter__()
        event = None
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        self._started[key] = event, time.perf_counter(), labelled

    def _stop(self, key: tuple[int, str], label: str, spent: list[_Spent]) -> None:
        begun = self._started.pop(key, None)
        if begun is None:
            return
        start, begin, labelled = begun
        end = time.perf_counter()
        if start is None:
            self._add(spent, end - begin)
        else:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((spent, start, event))
            self._settle()
        labelled.__exit__(None, None, None)
        if _spans.recorder is not None:
            _spans.recorder.add(self._name, "stage", label, begin, end)

    def _add(self, spent: list[_Spent], seconds: float) -> None:
        with self._lock:
            for one in spent:
                one.seconds += seconds

    def _settle(self) -> None:
        """Read the events that have happened, in order; the rest later."""
        while True:
            try:
                spent, start, end = self._events.popleft()
            except IndexError:
                return
            if not end.query():
                self._events.appendleft((spent, start, end))
                return
            self._add(spent, start.elapsed_time(end) / 1000)

    def seconds(self, *, wait: bool = True) -> dict[str, float]:
        """Time by child so far; waits for the GPU, or leaves out what it has not done yet."""
        if wait:
            for _, _, end in list(self._events):
                end.synchronize()
        self._settle()
        with self._lock:
            return {name: spent.seconds for name, spent in self._children.items() if spent.seconds}

    def totals(self) -> StageTotals:
        """What came together so far, without waiting for the GPU."""
        self._settle()
        with self._lock:
            return StageTotals(self._decoding.seconds, self._whole.seconds)
