"""The engine of a GPU begins with the next batches while the stage is at work on this one.

A call of the engine takes long and needs no Python, what the stage does beside it is Python: one after the other, each
waits for the other. Here the engine's part of a batch is done in a thread of its own, as soon as the sources' workers are
done with it; the decoder finds it there when the batch's turn has come. Nothing depends on it: what was not begun, or turns
out to be another file, is decoded in the stage. Before that another thread brings the files to pinned memory.

Which files are decoded, and how, is known from the batch before.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from torchdali import _spans
from torchdali.ops import BatchContext, batch_context
from torchdali.ops._decoded import Asked, DecodeSettings, version_of
from torchdali.ops._device import current
from torchdali.ops.decode._at_once import AtOnce
from torchdali.pipeline._foresee import Foreseen
from torchdali.source import SourceBatch

__all__ = ["Begun", "EarlyDecoding"]

MOST_WASTED = 3
"""After so many batches in a row of which nothing that was begun was wanted, nothing is begun any more."""


class Begun:
    """What an engine does for a decoder that was not called yet.

    Args:
        asked: the decoder.
        plan: of what is done.
        future: done when that is.
        wanted: called when the decoder wants it.
    """

    def __init__(self, asked: _Route, plan: AtOnce, future: Future[None], wanted: Callable[[], None]) -> None:
        self._asked, self._plan, self._future, self._wanted = asked, plan, future, wanted
        assert plan.files.flat is not None  # only such files are planned for
        self._memory = plan.files.flat
        self._version = version_of(self._memory)

    def fits(self, files: Any, asked: Asked) -> bool:
        """Whether it is what this decoder would do with these files."""
        planned = self._plan.files
        return (
            self._asked.module() is asked.module
            and (self._asked.settings, self._asked.device) == (asked.settings, asked.device)
            and (asked.cuts_alike or not self._plan.glimpse.knows_windows)
            and np.array_equal(files.pointers, planned.pointers)
            and np.array_equal(files.sizes, planned.sizes)
            and version_of(self._memory) == self._version
        )

    def wait(self) -> AtOnce:
        """Its plan, when the engine is done.

        Raises:
            Exception: what the engine raised.
        """
        self._wanted()
        self._future.result()
        return self._plan


class _Route(NamedTuple):
    """A decoder that was given an output of the sources as it is."""

    output: int
    module: weakref.ref[Any]
    settings: DecodeSettings
    device: torch.device
    cuts_alike: bool


class EarlyDecoding:
    """Has engines begin with batches.

    Args:
        name: of the pipeline.
        seed: likewise.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._routes: list[_Route] = []
        self._wasted = 0
        """Batches that were begun since something of one was wanted."""
        self._executors: tuple[ThreadPoolExecutor, ...] = ()

    def learn(self, asked: list[tuple[int, Asked]]) -> None:
        """Take in which outputs of the sources which decoders were given."""
        if asked:
            self._routes = [
                _Route(number, weakref.ref(a.module), a.settings, a.device, a.cuts_alike) for number, a in asked
            ]

    def begin(
        self, batch: SourceBatch, output: int, without: Collection[int], foreseen: Foreseen | None
    ) -> list[Begun] | None:
        """Begin with a batch; None where it is not known what is decoded, or what was begun before was in vain.

        Args:
            batch: of the sources.
            output: number of the one of which others decode a part.
            without: the positions of that part.
            foreseen: what is known of the batch.
        """
        if not self._routes or self._wasted > MOST_WASTED:
            return None
        begun = []
        for route in self._routes:
            module = route.module()
            if module is None or route.output >= len(batch.outputs):
                continue
            with contextlib.suppress(Exception):  # the stage will see for itself
                files = batch.outputs[route.output]
                left_out = without if route.output == output else ()
                glimpse = None if foreseen is None else foreseen.of(module)
                with batch_context(self._context(batch, route.device)):
                    plan = module._plan(files, left_out, route.device, cut=route.cuts_alike, glimpse=glimpse)
                if plan is not None:
                    begun.append(Begun(route, plan, self._submit(plan, route.device), self._was_wanted))
        if begun:
            self._wasted += 1
        return begun

    def close(self) -> None:
        """End the threads; what is under way is waited for, as it reads what the sources' workers wrote."""
        executors, self._executors = self._executors, ()
        self._routes = []
        for executor in executors:
            executor.shutdown(wait=True, cancel_futures=True)

    def _was_wanted(self) -> None:
        self._wasted = 0

    def _context(self, batch: SourceBatch, device: torch.device) -> BatchContext:
        return BatchContext(self._seed, batch.epoch, batch.iteration, batch.indices, device, 1)

    def _submit(self, plan: AtOnce, device: torch.device) -> Future[None]:
        if not self._executors:
            self._executors = tuple(
                ThreadPoolExecutor(1, thread_name_prefix=f"{self._name} {what}") for what in ("files", "engine")
            )
        files, engine = self._executors
        staged = files.submit(self._stage, plan, device)
        return engine.submit(self._decode, plan, staged)

    def _stage(self, plan: AtOnce, device: torch.device) -> None:
        begin = time.perf_counter()
        with current(device), _spans.labelled("stage files"):
            plan.stage()
        self._note("files", "stage files", begin)

    def _decode(self, plan: AtOnce, staged: Future[None]) -> None:
        staged.result()
        begin = time.perf_counter()
        with torch.no_grad(), _spans.labelled("decode ahead"):
            plan.decode()
        self._note("engine", "decode ahead", begin)

    def _note(self, track: str, name: str, begin: float) -> None:
        if _spans.recorder is not None:
            _spans.recorder.add(self._name, track, name, begin, time.perf_counter())
