"""The processes of a pipeline: those of its sources, and those of its stage where it has its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torchdali.pipeline._crew import Crew
from torchdali.pipeline._device import DeviceRequest, forbid_fork_after_cuda
from torchdali.pipeline._early import EarlyDecoding
from torchdali.pipeline._foresee import Foresight, foresee_in_worker
from torchdali.pipeline._pinned import PinnedMemory
from torchdali.pipeline._placement import Chosen, Placement, check_placement, choose_placement, expected_device
from torchdali.pipeline._produce import serial_draws
from torchdali.pipeline._queues import allow_queues
from torchdali.pipeline._share import AnyReader, SharingReader, decode_in_worker
from torchdali.pipeline._share_control import CpuShare, check_share
from torchdali.pool import OnWorkerDeath, StartMethod
from torchdali.source import ExternalSource, LastBatch, Reader

__all__ = ["Source", "Staff", "as_sources", "positive"]

Source = ExternalSource | Callable[..., Any] | Iterable[Any]


def positive(name: str, value: object) -> int:
    """See that an argument is a positive integer.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it has to be a positive integer")
    return value


def as_sources(source: Source | Sequence[ExternalSource]) -> list[ExternalSource]:
    """What a pipeline was given, as a list.

    Raises:
        TypeError: it is no source.
    """
    if isinstance(source, ExternalSource):
        return [source]
    if isinstance(source, (list, tuple)) and source and all(isinstance(entry, ExternalSource) for entry in source):
        return list(source)
    if callable(source):
        return [ExternalSource(source)]
    raise TypeError(
        f"a pipeline's source is an ExternalSource, a list of them, or a callable; this is a {type(source).__name__}. "
        "For an iterable write ExternalSource(iterable, parallel=False), for a folder "
        "ExternalSource(JpegFolder(path), num_outputs=2)"
    )


class Staff:
    """The processes of one pipeline, and the memory between them and it.

    Args:
        sources: read by them.
        request: the device that was asked for.
        name: of the pipeline.
        num_threads, record_draws: as of :class:`~torchdali.pipeline._stage_call.StageCall`.
        batch_size, num_workers, prefetch, seed, last_batch, on_worker_death, start_method, pin_memory, stage_thread,
            placement, gpu_workers, cpu_share: as of the pipeline.

    Attributes:
        reader: of the sources' batches.
        pinned: pins their memory for this process; None if that is not wanted.
        placement: of the stage.
        crew: runs it; None where it runs in this process, and before :meth:`start`.
    """

    def __init__(
        self,
        sources: list[ExternalSource],
        request: DeviceRequest,
        *,
        name: str,
        batch_size: int,
        num_workers: int,
        prefetch: int,
        seed: int,
        last_batch: LastBatch,
        on_worker_death: OnWorkerDeath,
        start_method: StartMethod,
        pin_memory: bool,
        stage_thread: bool,
        placement: Placement,
        gpu_workers: int | None,
        cpu_share: CpuShare,
        num_threads: int,
        record_draws: bool,
    ) -> None:
        check_placement(placement, gpu_workers, stage_thread=stage_thread)
        cpu_share = check_share(cpu_share)
        self.placement: Chosen = choose_placement(placement, gpu_workers, request, stage_thread=stage_thread)
        self.crew: Crew | None = None
        self.pinned: PinnedMemory | None = None
        if pin_memory or (cpu_share and not self.placement.gpu_workers):  # pixels are copied many times as fast
            self.pinned = PinnedMemory(required=pin_memory)
        self._request, self._name, self._seed = request, name, seed
        self._num_threads, self._record_draws = num_threads, record_draws
        self._pool_options: dict[str, Any] = {"on_worker_death": on_worker_death, "start_method": start_method}
        # Who looks ahead of the stage is where there is a thread for it, in the process that has the device.
        device = expected_device(request)
        ahead = stage_thread and not self.placement.gpu_workers and (device is None or device.type == "cuda")
        functions: list[Callable[[Any], Any]] = [decode_in_worker] if cpu_share else []
        if ahead and any(source.parallel and source.kind != "iterable" for source in sources):
            functions.append(foresee_in_worker)
        reader = Reader(
            sources,
            batch_size=batch_size,
            num_workers=num_workers,
            prefetch=prefetch,
            seed=seed,
            last_batch=last_batch,
            name=name,
            around_serial=serial_draws(seed),
            before_fork=forbid_fork_after_cuda,
            pool_options={
                **self._pool_options,
                "memory_hook": self.pinned,
                "keep_memory": bool(cpu_share and self.placement.gpu_workers),
            },
            functions=functions,
        )
        self.reader: AnyReader = reader
        if reader.pool is not None and (cpu_share or ahead):
            early = EarlyDecoding(name, seed) if ahead else None
            foresight = None
            if foresee_in_worker in functions:
                number = reader.first_function + functions.index(foresee_in_worker)
                foresight = Foresight(reader.pool, number, seed, records=record_draws)
            self.reader = SharingReader(reader, cpu_share, early, foresight)

    def start(self, pipeline: Any) -> None:
        """Start all of them.

        Args:
            pipeline: whose stage it is; it is not kept alive.
        """
        device = expected_device(self._request)
        # Where the stage has processes of its own they ask: queues take time to make, and here there is little for them to do.
        if not self.placement.gpu_workers and (device is None or device.type == "cuda"):
            allow_queues()
        self.reader.start()
        if self.placement.gpu_workers and self.crew is None:
            self.crew = Crew(
                pipeline,
                self.placement.gpu_workers,
                self.reader.memory,  # which forked processes inherit
                device=device,
                num_threads=self._num_threads,
                name=self._name,
                record_draws=self._record_draws,
                pool_options={**self._pool_options, "before_fork": forbid_fork_after_cuda, "seed": self._seed},
            )
        if self.crew is not None:
            self.crew.start()

    @property
    def gpu_worker_pids(self) -> list[int]:
        """Process ids of those that run the stage."""
        return [] if self.crew is None else self.crew.pids
