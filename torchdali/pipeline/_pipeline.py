"""The pipeline: sources in workers, and an ``nn.Module`` that works on their batches on the device."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from torchdali.errors import PipelineStateError
from torchdali.ops import available_cpus, number_streams
from torchdali.pipeline._adapt import adapt_modules
from torchdali.pipeline._device import DeviceRequest, check_request, resolve_device
from torchdali.pipeline._place import Place
from torchdali.pipeline._placement import Placement
from torchdali.pipeline._produce import CLOSE_SECONDS, Turns
from torchdali.pipeline._reporting import Reporting, fill
from torchdali.pipeline._runner import Runner
from torchdali.pipeline._share_control import CpuShare
from torchdali.pipeline._staff import Source, Staff, as_sources, positive
from torchdali.pipeline._statistics import Stopwatch
from torchdali.pool import OnWorkerDeath, StartMethod
from torchdali.report import Meter
from torchdali.source import ExternalSource, LastBatch, SourceBatch
from torchdali.tensorlist import TensorList

__all__ = ["Pipeline"]

Result = TypeVar("Result")


def _pass_on(self: nn.Module, *outputs: TensorList) -> Any:
    """What the sources give: the stage of a pipeline that defines no ``forward``."""
    return outputs if len(outputs) > 1 else outputs[0]


class Pipeline(Place, Reporting, nn.Module):
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

    ``forward`` runs ahead of the consumer, in a thread and on a CUDA stream of the pipeline's own, from the first ``run`` or
    iteration on. It runs without gradients (``torch.no_grad``) and without the consumer's autocast; torch's random functions
    draw there from generators of the pipeline, seeded for each batch, and leave torch's own alone (NumPy's and Python's
    generators are the process's, as ever). An exception arrives at its batch, after those before it. Changes to the module
    hold for batches that are not yet begun; :meth:`reset` drops those that are. To train what is in the stage, or to step
    through it with a debugger, pass ``stage_thread=False``: it then runs in the consumer's thread, on its current stream and
    with its gradient mode, when a batch is asked for. Draws and order are the same.

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
        prefetch: batches that the workers prepare ahead, and beyond these as many that the stage is done with ahead of the
            consumer.
        last_batch: what becomes of samples at the end of an epoch that do not fill a batch: ``"partial"`` or ``"drop"``.
        on_worker_death: ``"raise"``: a batch of which a worker died raises :class:`~torchdali.WorkerDiedError`; ``"restart"``:
            another worker takes its place and reads its samples again, and a warning tells of it.
        start_method: how workers are started, as of :class:`~torchdali.pool.WorkerPool`. Where this process must not be
            forked any more, ``"fork"`` uses the zygote that the first pipeline started.
        pin_memory: let CUDA pin the workers' shared memory, so that batches are copied to the device asynchronously and
            straight from what the workers wrote: for data that is not decoded on the device. No effect on the CPU.
        stage_thread: False: ``forward`` runs in the consumer's thread, when a batch is asked for. After Ctrl-C in ``forward``
            it gets the same batch again, with what it wrote to its inputs.
        record_draws: keep what random operators drew for a batch, for :attr:`last_draws`.
        placement: ``"main"``: the stage runs in this process. ``"workers"``: in ``gpu_workers`` processes, which are forked
            with the sources' workers, each with a CUDA context of its own; one process cannot keep the JPEG engines of a
            large GPU busy. Batches, order, draws and errors are the same, and tensors arrive in this process's memory.
            The workers have the module as it is when they are started, and are told of :meth:`load_state_dict`, :meth:`to`
            and its like, :meth:`train` and :meth:`eval`. ``"auto"``: what suits the machine, see :attr:`placement`;
            beside a training on the same GPU ``"main"`` is faster, of which it knows nothing.
        gpu_workers: how many such processes; by default 4, or half the processors if that is less.
        cpu_share: the part of each batch, from 0 to 1, whose files the sources' workers decode on the CPU, for the
            :class:`~torchdali.ops.DecodeImage` of the stage. On a GPU the stage then copies pixels: measure whether it pays.
            ``"auto"`` finds the part while running, by what is the bottleneck. Files of parallel sources only; pixels
            are those of a CPU device.
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
        stage_thread: bool = True,
        record_draws: bool = False,
        placement: Placement = "main",
        gpu_workers: int | None = None,
        cpu_share: CpuShare = 0,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if last_batch not in ("partial", "drop"):
            raise ValueError(f'last_batch is {last_batch!r}; it is "partial" or "drop"')
        self.batch_size = positive("batch_size", batch_size)
        self.seed = secrets.randbits(62) if seed is None else int(seed)
        self._num_threads = available_cpus() if num_threads is None else positive("num_threads", num_threads)
        self._request, self._sources = check_request(device), as_sources(source)
        self._last_batch: LastBatch = last_batch
        self._name, self._depth = name or type(self).__name__, positive("prefetch", prefetch)
        self._stage_thread, self._record_draws = bool(stage_thread), bool(record_draws)
        self._staff = Staff(
            self._sources,
            self._request,
            name=self._name,
            batch_size=self.batch_size,
            num_workers=positive("num_workers", num_workers),
            prefetch=self._depth,
            seed=self.seed,
            last_batch=last_batch,
            on_worker_death=on_worker_death,
            start_method=start_method,
            pin_memory=pin_memory,
            stage_thread=self._stage_thread,
            placement=placement,
            gpu_workers=gpu_workers,
            cpu_share=cpu_share,
            num_threads=self._num_threads,
            record_draws=self._record_draws,
        )
        self._reader, self._non_blocking = self._staff.reader, self._staff.pinned is not None
        self._turns, self._state = Turns(), "new"
        self._runner: Runner | None = None
        self._stopwatch: Stopwatch | None = None
        self._meter = Meter(self, self._name, fill)
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
            self._staff.start(self)
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
        if self._runner is None:
            self._runner = self._make_runner(_stacklevel + 1)
        self._begin_epoch(self._runner, stacklevel=_stacklevel + 1, first=True)
        self._state = "built"

    def _make_runner(self, stacklevel: int) -> Runner:
        device = resolve_device(self._request, stacklevel=stacklevel + 1)
        if self._anchor.device.type == "cpu":  # else `.to()` was called, which says more than the constructor
            super()._apply(lambda tensor: tensor.to(device))  # type: ignore[no-untyped-call]  # the stage's processes know of it
        crew, pinned = self._staff.crew, self._staff.pinned
        if pinned is not None and self.device.type == "cuda":
            pinned.pin()
        number_streams(self)
        adapt_modules(self)
        if crew is None:  # else it is measured there
            self._stopwatch = Stopwatch(self._measured(), cuda=self.device.type == "cuda", name=self._name)
        return Runner(
            self,
            self._reader,
            self._turns,
            depth=self._depth,
            name=self._name,
            stage_thread=self._stage_thread,
            record_draws=self._record_draws,
            num_threads=self._num_threads,
            pinned=pinned,
            meter=self._meter,
            crew=crew,
        )

    def _measured(self) -> nn.Module:
        return self

    def close(self) -> None:
        """End the workers. Batches that were delivered stay valid; the pipeline cannot be used again.

        A batch that the stage is at work on is waited for, though not for long: what takes longer ends by itself.
        """
        self._state = "closed"
        if self._runner is not None:
            self._runner.stop()
        with self._turns.patiently(CLOSE_SECONDS):
            self._reader.close()
        if self._staff.crew is not None:
            self._staff.crew.close()
        if self._runner is not None and self._runner.join() and self._staff.crew is not None:
            self._staff.crew.let_go()

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
        outputs: tuple[Any, ...] = self._next(stacklevel=3, as_tuple=True)
        return outputs

    def _next(self, *, stacklevel: int, as_tuple: bool = False) -> Any:
        self._require_open()
        self.build(_stacklevel=stacklevel)
        assert self._runner is not None
        return self._runner.next(stacklevel=stacklevel, as_tuple=as_tuple)

    def _call_stage(self, batch: SourceBatch) -> Any:
        with nullcontext() if self._stopwatch is None else self._stopwatch.whole():
            return self._finish(self(*batch.outputs))

    def _finish(self, outputs: Any) -> Any:
        """Bring what ``forward`` returned to the pipeline's device."""
        if isinstance(outputs, (torch.Tensor, TensorList)):
            return outputs.to(self.device, non_blocking=self._non_blocking)
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
        self.reset(_stacklevel=2)
        assert self._runner is not None
        self._runner.begin()
        return self._epoch()

    def _epoch(self) -> Iterator[Any]:
        epoch = self._reader.epoch
        while self._reader.epoch == epoch:
            try:
                outputs = self._next(stacklevel=3)
            except StopIteration:
                return
            yield outputs

    def __bool__(self) -> bool:
        """A pipeline is true, also where its length is not known."""
        return True

    def reset(self, *, _stacklevel: int = 1) -> None:
        """Begin the next epoch at its first sample, also in the middle of one.

        Nothing happens in an epoch of which nothing was taken yet. Workers that died are replaced where CUDA is not yet
        initialised. A batch that the stage is at work on is waited for, and dropped.
        """
        self._require_open()
        if self._runner is not None:
            self._begin_epoch(self._runner, stacklevel=_stacklevel + 1)

    # --- as a module --------------------------------------------------------------------------------------------------

    def _undisturbed(self, action: Callable[[], Result]) -> Result:
        """Change the module while the stage does nothing."""
        if self._runner is not None:
            result = self._runner.undisturbed(action)
        else:
            result = action()
            staff = vars(self).get("_staff")  # a stage worker's copy has none
            if staff is not None and staff.crew is not None:
                staff.crew.renew()
        if self._stopwatch is not None:
            self._stopwatch.cuda = self.device.type == "cuda"
        return result

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        return self._undisturbed(lambda: super(Pipeline, self)._apply(fn, recurse))  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Any:
        """As of any module; what is ahead already was made in the mode before."""
        return self._undisturbed(lambda: super(Pipeline, self).train(mode))

    def load_state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        """As of any module; what is ahead already was made with the state before."""
        return self._undisturbed(lambda: super(Pipeline, self).load_state_dict(*arguments, **keywords))

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the stage runs; known once the pipeline is built."""
        return self._anchor.device

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the living workers, those of the sources first."""
        with self._turns.door, self._turns.lock:
            return self._reader.pids + self.gpu_worker_pids

    @property
    def gpu_worker_pids(self) -> list[int]:
        """Process ids of those that run the stage; none where it runs in this process."""
        return self._staff.gpu_worker_pids

    @property
    def placement(self) -> Literal["main", "workers"]:
        """``"main"`` or ``"workers"``: where the stage runs; what ``"auto"`` has chosen."""
        return self._staff.placement.placement

    @property
    def last_draws(self) -> dict[str, torch.Tensor] | None:
        """What random operators drew for the batch handed out last: CPU tensors (N, ...) by the operator's name.

        None before the first batch, and without ``record_draws=True``.
        """
        return None if self._runner is None else self._runner.last_draws

    @property
    def epoch_idx(self) -> int:
        """Number of the current epoch, from 0."""
        return self._reader.epoch
