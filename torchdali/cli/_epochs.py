"""Running pipelines for some epochs, one after the other, with a progress bar and a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tqdm import tqdm

from torchdali.cli._arguments import UserError, one_line
from torchdali.cli._measurement import Measurement
from torchdali.errors import DecodeError
from torchdali.pipeline import PipelineStatistics, TracedPipeline
from torchdali.source import JpegFolder, SampleInfo

__all__ = ["Phase", "run_epochs"]

_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} images{postfix}"


@dataclass
class Phase:
    """One of the pipelines that take turns in each epoch."""

    name: str
    pipeline: TracedPipeline
    """Built; its first output is the images."""
    folder: JpegFolder
    """What its source reads."""
    look: Callable[[int, tuple[Any, ...]], None]
    """Called with each batch of the first epoch: the index in the epoch of its first sample, and the outputs."""


def run_epochs(phases: Sequence[Phase], epochs: int) -> list[Measurement]:
    """Run all phases in each epoch.

    Returns:
        What each phase's epochs took, without the first where there are several: in that one caches and threads are cold
        and batches are looked at.

    Raises:
        UserError: an image cannot be read or decoded.
    """
    before = [PipelineStatistics() for _ in phases]
    after = list(before)
    seconds = [0.0 for _ in phases]
    total = epochs * sum(len(phase.folder) for phase in phases)
    bar: tqdm[NoReturn]
    with tqdm(total=total, bar_format=_BAR, dynamic_ncols=True) as bar:
        for epoch in range(epochs):
            bar.set_description_str(f"epoch {epoch + 1}/{epochs}", refresh=False)
            for number, phase in enumerate(phases):
                start = time.perf_counter()
                _run_epoch(phase, bar, look=epoch == 0)
                after[number] = phase.pipeline.statistics()  # waits for the GPU, so it belongs to the time
                seconds[number] += time.perf_counter() - start
                if epoch == 0 and epochs > 1:
                    before[number], seconds[number] = after[number], 0.0
                if epoch + 1 < epochs:
                    phase.pipeline.reset()  # its workers read ahead for the next epoch while the other phase runs
    return [Measurement.between(*readings) for readings in zip(before, after, seconds, strict=True)]


def _run_epoch(phase: Phase, bar: tqdm[NoReturn], *, look: bool) -> None:
    start = time.perf_counter()
    done = 0
    batches = iter(phase.pipeline)
    while (outputs := _next(phase, batches)) is not None:
        if look:
            phase.look(done, outputs)
        count = len(outputs[0])
        done += count
        rate = done / (time.perf_counter() - start)
        bar.set_postfix_str(f"{phase.name} {rate:.0f} images/s", refresh=False)
        bar.update(count)


def _next(phase: Phase, batches: Any) -> tuple[Any, ...] | None:
    try:
        return next(batches, None)
    except DecodeError as error:
        raise UserError(_which_file(phase, error) + one_line(error)) from error
    except OSError as error:
        raise UserError(one_line(error)) from error


def _which_file(phase: Phase, error: DecodeError) -> str:
    if error.index is None:
        return ""
    sample = SampleInfo(error.index, error.position, 0, phase.pipeline.epoch_idx)
    return f"{str(phase.folder.files[phase.folder.index(sample)])!r}, "
