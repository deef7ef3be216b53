"""What a pipeline tells of itself: counters, and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchdali.ops import DecodeImage
from torchdali.pipeline._share import SharingReader
from torchdali.pipeline._statistics import PipelineStatistics
from torchdali.report import Counts, Facts, Meter, Report

if TYPE_CHECKING:
    from torchdali.pipeline._pipeline import Pipeline

__all__ = ["Reporting", "fill"]


class Reporting:
    """Part of a pipeline."""

    _meter: Meter

    def statistics(self) -> PipelineStatistics:
        """Where the time went so far; waits for the GPU."""
        pipeline: Any = self
        with pipeline._turns.door, pipeline._turns.lock:
            pool = pipeline._reader.statistics()
        counts = PipelineStatistics()
        if pipeline._runner is not None:
            pipeline._runner.count(counts)
        crew = pipeline._staff.crew
        counts.count_pools(pool, None if crew is None else crew.statistics())
        counts.count_decoding(module.statistics for module in pipeline.modules() if isinstance(module, DecodeImage))
        counts.cpu_share_now = pipeline._reader.share if isinstance(pipeline._reader, SharingReader) else 0.0
        if pipeline._stopwatch is not None:
            counts.stage_seconds = pipeline._stopwatch.seconds()
        return counts

    def report(self) -> Report:
        """Who waited for whom so far: print it for a table, and a sentence on what bounds you and what to change.

        It waits for nothing. :func:`torchdali.profile` reports on a part of a program, and records what happened when.
        """
        return self._meter.report()


def fill(pipeline: Pipeline, counts: Counts) -> Facts:
    """Add what the pipeline knows beside its consumer's waits."""
    reader, staff = pipeline._reader, pipeline._staff
    with pipeline._turns.door, pipeline._turns.lock:
        counts.sources = reader.statistics()
        counts.source, counts.read = reader.spent()
    if pipeline._runner is not None:
        pipeline._runner.measure(counts, pipeline._stopwatch)
    if staff.crew is not None:
        counts.stage_pool = staff.crew.statistics()
        counts.hand_over += max(0.0, counts.stage_pool.busy_seconds - counts.stage)
    for module in pipeline.modules():
        if isinstance(module, DecodeImage):
            counts.images += module.statistics.images
            counts.bad_images += module.statistics.bad_images
            counts.given_images += module.statistics.given_images
    sources = reader.pool_functions
    mean = counts.samples / counts.batches if counts.batches else float(pipeline.batch_size)
    return Facts(
        name=pipeline._name,
        kind="Pipeline",
        workers=0 if reader.pool is None else reader.pool.num_workers,
        stage_workers=0 if staff.crew is None else staff.crew.size,
        stage_where="the stage thread" if pipeline._stage_thread else "this thread",
        depth=pipeline._depth,
        samples_a_call=1.0 if any(source.kind == "sample" for source in sources) else mean,
        source_functions=len(sources),
        device=pipeline.device.type,
        threads=pipeline._num_threads,
        own_worker=bool(sources) and all(source.kind == "iterable" for source in sources),
    )
