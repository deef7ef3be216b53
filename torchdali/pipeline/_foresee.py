"""Workers find out what operators will do with a batch that they have read, before its turn in the stage.

A batch's files lie in memory that the workers see, so what is sent is which operators are called, and whose samples these are.
The answer is looked at when the batch is handed on; where it is not there by then nobody waits for it.
See :mod:`torchdali.ops._foresight`.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torchdali.errors import WorkerDiedError
from torchdali.ops import BatchContext, DecodeImage, RandomOperator, batch_context
from torchdali.ops._foresight import Call, Following, Found, OfSource, Result, Script, Steps
from torchdali.ops._groups import parts_of
from torchdali.pool import Job, Memory, WorkerPool, worker_memory
from torchdali.source import SourceBatch
from torchdali.tensorlist import TensorList

__all__ = ["Foreseen", "Foresight", "foresee_in_worker"]

MOST_SURPRISES = 8
"""After so many batches in a row that went otherwise than the one before, nothing is foreseen any more."""

MOST_LATE = 8
"""After so many answers in a row that came too late the workers, who have enough to do, are left alone for a while."""

PAUSE = 64
"""Batches for which they are."""


class _Files(NamedTuple):
    """Where an output of the sources lies in the pool's memory."""

    output: int
    start: int
    nbytes: int
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


class _Request(NamedTuple):
    """What a worker is asked for."""

    script: bytes
    files: tuple[_Files, ...]
    seed: int
    epoch: int
    iteration: int
    indices: npt.NDArray[np.int64]
    records: bool

    def __repr__(self) -> str:
        return f"what operators will do with batch {self.iteration} of epoch {self.epoch}"


class Foreseen(NamedTuple):
    """What was found out of a batch."""

    script: Script
    found: Sequence[Found]

    def of(self, module: Any) -> Any:
        """What is known of the first call of an operator, if it is what it was; None if that is nothing."""
        for number, (call, found) in enumerate(zip(self.script.calls, self.found, strict=False)):
            if call.module is module:
                return found.what if self.script.holds(number) else None
        return None


# --- in a worker ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _loaded(script: bytes) -> tuple[Call, ...]:
    calls: tuple[Call, ...] = pickle.loads(script)
    return calls


def foresee_in_worker(request: _Request) -> list[Found]:
    """The function of the pool: what is known of the first calls; of what raises, the stage shall see for itself why."""
    memory = worker_memory()
    assert memory is not None
    outputs = {
        files.output: TensorList.from_flat(
            torch.from_numpy(memory.view(files.start, files.nbytes)), files.lengths[:, None], offsets=files.offsets
        )
        for files in request.files
    }
    context = BatchContext(
        request.seed, request.epoch, request.iteration, request.indices, torch.device("cpu"), num_threads=1
    )
    found: list[Found] = []
    results: list[Any] = []
    try:
        for call in _loaded(request.script):
            draws: dict[str, torch.Tensor] = {}
            with batch_context(context._replace(draws=draws if request.records else None)):
                what, result = _foresee(call, outputs, results)
            if what is None:
                break
            found.append(Found(what, draws))
            results.append(result)
    except Exception:
        return found
    return found


def _foresee(call: Call, outputs: dict[int, TensorList], results: list[Any]) -> tuple[Any, Any]:
    """What is known of a call, and what it will give: draws, or the sizes and the type of images."""
    module: Any = call.module
    arguments = {name: results[value.call] if isinstance(value, Result) else value for name, value in call.arguments}
    if isinstance(module, RandomOperator):
        drawn = module.forward(**arguments)
        return drawn, drawn
    if isinstance(module, DecodeImage):
        assert isinstance(call.images, OfSource)
        # Without windows nobody knows what comes of it.
        glimpse = module._glimpse(outputs[call.images.output], cut=True) if arguments["cuts_alike"] else None
        if glimpse is None or module.mode == "UNCHANGED":
            return None, None
        parts = glimpse.upright if glimpse.windows is None else glimpse.windows[:, 2:]
        channels = np.full((len(parts), 1), 1 if module.mode == "GRAY" else 3)
        return glimpse, (np.concatenate([channels, parts], 1), torch.uint8)
    assert isinstance(call.images, Result)
    sizes, dtype = results[call.images.call]
    steps = module.steps(sizes, dtype, **arguments)
    together = parts_of(steps, sizes, dtype)
    return Steps(sizes, dtype, steps, together), together[-1].stages[-1] if together else (sizes, dtype)


# --- in the process of the stage --------------------------------------------------------------------------------------


class Foresight:
    """Has workers foresee batches.

    Args:
        pool: of the workers.
        function: number of :func:`foresee_in_worker` among its functions.
        seed: of the pipeline.
        records: whether what is drawn is wanted.
    """

    def __init__(self, pool: WorkerPool, function: int, seed: int, *, records: bool) -> None:
        self._pool, self._function, self._seed, self._records = pool, function, seed, records
        self._script: Script | None = None
        self._surprises = self._late = self._paused = 0

    def ask(self, batch: SourceBatch, priority: int) -> tuple[Script, Job] | None:
        """Ask for a batch; None where it is not known what is called, or where the batch lies."""
        script, memory = self._script, self._pool.memory
        if script is None or memory is None:
            return None
        if self._paused:
            self._paused -= 1
            return None
        numbers = sorted({call.images.output for call in script.calls if isinstance(call.images, OfSource)})
        files = [_place(batch, number, memory) for number in numbers]
        places = tuple(file for file in files if file is not None)
        if len(places) < len(files):
            return None
        request = _Request(
            script.packed, places, self._seed, batch.epoch, batch.iteration, batch.indices, self._records
        )
        try:
            return script, self._pool.submit(self._function, [request], priority=priority)
        except WorkerDiedError:  # the stage can do without
            return None

    def answer(self, asked: tuple[Script, Job]) -> Foreseen | None:
        """What came of it, if it is there; else it is not wanted any more."""
        script, job = asked
        try:
            self._pool.wait([job], timeout=0)
        except TimeoutError:
            self._pool.cancel(job, withdraw=False)
            self._late += 1
            if self._late == MOST_LATE:
                self._late, self._paused = 0, PAUSE
            return None
        self._late = 0
        (found,) = self._pool.collect(job)
        return Foreseen(script, found) if isinstance(found, list) else None

    def follow(self, batch: SourceBatch) -> Following:
        """Who notes what operators are called for a batch, and has what is foreseen of them."""
        script, found = (self._script, ()) if batch.foreseen is None else batch.foreseen
        return Following(batch.outputs, script, found)

    def learn(self, following: Following) -> None:
        """Take in how a batch went."""
        calls = following.calls
        if following.as_expected:
            self._surprises = 0
            return
        self._surprises += self._script is not None
        self._script = None
        decodes = any(isinstance(call.images, OfSource) for call in calls)
        if not decodes or self._surprises > MOST_SURPRISES:
            return
        try:
            self._script = Script(calls)
        except Exception:  # something of the user's in it cannot be pickled
            self._surprises = MOST_SURPRISES + 1


def _place(batch: SourceBatch, number: int, memory: Memory) -> _Files | None:
    output = batch.outputs[number]
    if output.dtype != torch.uint8 or output.device.type != "cpu" or output.flat is None or output.offsets is None:
        return None
    if output.sizes.shape[1] != 1 or not output.flat.numel():
        return None
    start = memory.offset_of(output.flat.data_ptr(), output.flat.numel())
    if start is None:
        return None
    return _Files(number, start, output.flat.numel(), output.offsets, output.sizes[:, 0])
