"""The pipeline: sources in workers, and an ``nn.Module`` that works on their batches on the device."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from torchdali.errors import PipelineStateError
from torchdali.ops import BatchContext, available_cpus, batch_context, number_streams
from torchdali.pipeline._adapt import adapt_modules
from torchdali.pipeline._device import DeviceRequest, check_request, forbid_fork_after_cuda, resolve_device
from torchdali.pipeline._pinned import PinnedMemory
from torchdali.pipeline._statistics import PipelineStatistics, Stopwatch
from torchdali.pool import OnWorkerDeath, StartMethod
from torchdali.source import ExternalSource, LastBatch, Reader, SourceBatch
from torchdali.tensorlist import TensorList

__all__ = ["Pipeline"]

Source = ExternalSource | Callable[..., Any] | Iterable[Any]


def _pass_on(self: nn.Module, *outputs: TensorList) -> Any:
    """What the sources give: the stage of a pipeline that defines no ``forward``."""
    return outputs if len(outputs) > 1 else outputs[0]


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it has to be a positive integer")
    return value


class Pipeline(nn.Module):
    """Sources read by forked workers, and a device stage.

    Subclass it, and write the stage as ``forward``::

        class Training(torchdali.Pipeline):
            def __init__(self, source, **options):
                super().__init__(source, **options)
                self.decode = ops.DecodeImage()
                self.enhance = ops.BrightnessContrast(contrast=ops.Uniform(1.0, 3.0))

            def forward(self, jpegs, labels):
                return self.enhance(self.decode(jpegs)), labels

        pipeline = Training(ExternalSource(read, num_outputs=2), batch_size=64, num_workers=8)
        pipeline.start_py_workers()  # before anything touches CUDA
        for epoch in range(90):
            for images, labels in pipeline:
                ...

    ``forward`` gets one :class:`~torchdali.TensorList` of CPU tensors for each output of the sources, and by default passes
    them on. Operators of
    :mod:`torchdali.ops` take it as it is; any other module and torchvision transform works too, see
    ``torchdali.pipeline._adapt``. What ``forward`` returns arrives on the pipeline's device.

    Args:
        source: an :class:`~torchdali.ExternalSource` or several; a bare callable is one with ``batch=False`` and a single
            output.
        batch_size: samples in a batch.
        num_workers: worker processes for the parallel sources.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, an index or None (the CPU); an index on a machine without
            CUDA means the CPU, with a warning. It is looked up by :meth:`build`.
        seed: of all random draws, and of the generators that sources find in the workers; None: a random one, which
            ``pipeline.seed`` tells.
        num_threads: CPU threads for operators that run on the CPU; by default all that the process may use.
        prefetch: batches that the workers prepare ahead.
        last_batch: what becomes of samples at the end of an epoch that do not fill a batch: ``"partial"`` or ``"drop"``.
        on_worker_death: ``"raise"``: a batch of which a worker died raises :class:`~torchdali.WorkerDiedError`; ``"restart"``:
            another worker takes its place and reads its samples again, and a warning tells of it.
        start_method: how workers are started, as of :class:`~torchdali.pool.WorkerPool`. Where this process must not be
            forked any more, ``"fork"`` uses the zygote that the first pipeline started.
        pin_memory: let CUDA pin the workers' shared memory, so that batches are copied to the device asynchronously and
            straight from what the workers wrote: for data that is not decoded on the device. No effect on the CPU.
        name: for processes and messages; by default that of the class.

    Raises:
        ValueError: a size is no positive integer, or the device cannot exist.
    """

    forward: Callable[..., Any] = _pass_on

    _anchor: torch.Tensor

    def __init__(
        self,
        source: Source | Sequence[ExternalSource],
        *,
        batch_size: int,
        num_workers: int = 1,
        device: DeviceRequest = "auto",
        seed: int | None = None,
        num_threads: int | None = None,
        prefetch: int = 2,
        last_batch: LastBatch = "partial",
        on_worker_death: OnWorkerDeath = "raise",
        start_method: StartMethod = "fork",
        pin_memory: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if last_batch not in ("partial", "drop"):
            raise ValueError(f'last_batch is {last_batch!r}; it is "partial" or "drop"')
        self.batch_size = _positive("batch_size", batch_size)
        self.seed = secrets.randbits(62) if seed is None else int(seed)
        self._num_threads = available_cpus() if num_threads is None else _positive("num_threads", num_threads)
        self._request = check_request(device)
        self._sources = _as_sources(source)
        self._last_batch: LastBatch = last_batch
        self._pinned = PinnedMemory() if pin_memory else None
        self._reader = Reader(
            self._sources,
            batch_size=self.batch_size,
            num_workers=_positive("num_workers", num_workers),
            prefetch=_positive("prefetch", prefetch),
            seed=self.seed,
            last_batch=last_batch,
            name=name or type(self).__name__,
            before_fork=forbid_fork_after_cuda,
            pool_options={
                "on_worker_death": on_worker_death,
                "start_method": start_method,
                "memory_hook": self._pinned,
            },
        )
        self._stopwatch: Stopwatch | None = None
        self._counts = PipelineStatistics()
        self._state = "new"
        # An empty tensor that goes where `.to()` sends the module: it tells the pipeline's device.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start_py_workers(self) -> None:
        """Fork the workers. Call it on all pipelines before anything touches CUDA; called again it does nothing.

        Raises:
            CudaInitializedError: CUDA is initialised already.
            PipelineStateError: the pipeline is closed.
        """
        self._require_open()
        if self._state == "new":
            self._reader.start()
            self._state = "started"

    start = start_py_workers

    def build(self, *, _stacklevel: int = 1) -> None:
        """Start the workers if that was not done, move the module to its device, and let the workers read ahead.

        Called again it does nothing; ``run`` and iteration call it.

        Raises:
            RuntimeError: the CUDA device that was asked for is not there.
        """
        self.start_py_workers()
        if self._state != "started":
            return
        device = resolve_device(self._request, stacklevel=_stacklevel + 1)
        if self._anchor.device.type == "cpu":  # else `.to()` was called, which says more than the constructor
            self.to(device)
        if self._pinned is not None and self.device.type == "cuda":
            self._pinned.pin()
        number_streams(self)
        adapt_modules(self)
        self._stopwatch = Stopwatch(self._measured())
        self._state = "built"
        self._reader.prefetch()

    def _measured(self) -> nn.Module:
        return self

    def close(self) -> None:
        """End the workers. Batches that were delivered stay valid; the pipeline cannot be used again."""
        self._state = "closed"
        self._reader.close()

    def __enter__(self) -> Pipeline:
        self.start_py_workers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._state == "closed":
            raise PipelineStateError(f"this {type(self).__name__} is closed; make a new pipeline")

    # --- batches ------------------------------------------------------------------------------------------------------

    def run(self) -> tuple[Any, ...]:
        """The outputs of the next batch.

        Raises:
            StopIteration: the epoch is over, and until :meth:`reset`.
            PipelineStateError: the pipeline is closed.
            Exception: what a source or the stage raised for this batch; the next call goes on with the next batch.
        """
        outputs = self._next(stacklevel=3)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _next(self, *, stacklevel: int) -> Any:
        self._require_open()
        self.build(_stacklevel=stacklevel)
        start = time.perf_counter()
        batch = self._reader.peek()
        try:
            outputs = self._run_stage(batch)
        except Exception:
            self._reader.advance()
            raise
        self._reader.advance()  # not after Ctrl-C in the stage: it will get this batch again
        self._counts.batches += 1
        self._counts.samples += len(batch.indices)
        self._counts.run_seconds += time.perf_counter() - start
        return outputs

    def _run_stage(self, batch: SourceBatch) -> Any:
        context = BatchContext(self.seed, batch.epoch, batch.iteration, batch.indices, self.device, self._num_threads)
        with batch_context(context):
            return self._finish(self(*batch.outputs))

    def _finish(self, outputs: Any) -> Any:
        """Bring what ``forward`` returned to the pipeline's device."""
        if isinstance(outputs, (torch.Tensor, TensorList)):
            return outputs.to(self.device, non_blocking=self._pinned is not None)
        if isinstance(outputs, tuple) and not hasattr(outputs, "_fields"):
            return tuple(self._finish(output) for output in outputs)
        if isinstance(outputs, list):
            return [self._finish(output) for output in outputs]
        if isinstance(outputs, dict):
            return {name: self._finish(output) for name, output in outputs.items()}
        return outputs

    def __iter__(self) -> Iterator[Any]:
        """One epoch: what ``forward`` returns, batch by batch. Each new iteration begins at the first sample."""
        self._require_open()
        self.build(_stacklevel=2)
        self.reset()
        return self._epoch()

    def _epoch(self) -> Iterator[Any]:
        epoch = self._reader.epoch
        while self._reader.epoch == epoch:
            try:
                outputs = self._next(stacklevel=3)
            except StopIteration:
                return
            yield outputs

    def __len__(self) -> int:
        """Batches in an epoch, where all parallel sources have a length.

        Raises:
            TypeError: a source has none.
        """
        samples = min(len(source) for source in self._sources)
        return -(-samples // self.batch_size) if self._last_batch == "partial" else samples // self.batch_size

    def __bool__(self) -> bool:
        """A pipeline is true, also where its length is not known."""
        return True

    def reset(self) -> None:
        """Begin the next epoch at its first sample, also in the middle of one.

        Nothing happens in an epoch of which nothing was taken yet. Workers that died are replaced where CUDA is not yet
        initialised.
        """
        self._require_open()
        if self._state == "built":
            self._reader.reset()

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the stage runs; known once the pipeline is built."""
        return self._anchor.device

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the living workers."""
        return self._reader.pids

    @property
    def epoch_idx(self) -> int:
        """Number of the current epoch, from 0."""
        return self._reader.epoch

    def statistics(self) -> PipelineStatistics:
        """Where the time went so far; waits for the GPU."""
        pool = self._reader.statistics()
        counts = PipelineStatistics(**vars(self._counts))
        counts.source_seconds = pool.busy_seconds
        counts.wait_seconds = pool.wait_seconds
        counts.worker_deaths = pool.deaths
        counts.copied_bytes = pool.copied_bytes
        counts.stage_seconds = {} if self._stopwatch is None else self._stopwatch.seconds()
        return counts


def _as_sources(source: Source | Sequence[ExternalSource]) -> list[ExternalSource]:
    if isinstance(source, ExternalSource):
        return [source]
    if isinstance(source, (list, tuple)) and source and all(isinstance(entry, ExternalSource) for entry in source):
        return list(source)
    if callable(source):
        return [ExternalSource(source)]
    raise TypeError(
        f"a pipeline's source is an ExternalSource, a list of them, or a callable; this is a {type(source).__name__}. "
        "For an iterable write ExternalSource(iterable, parallel=False)"
    )
