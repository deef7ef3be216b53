"""The benchmark of operators as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from torchdali.bench._ops_cases import CASES
from torchdali.bench._ops_measure import OperatorResult, has_kornia, measure_case, names_of_others
from torchdali.bench._ops_photographs import photographs
from torchdali.bench._summary import Summary
from torchdali.ops._execute import has_kernels

__all__ = ["OperatorReport", "OperatorSettings", "count_operator_steps", "measure_operators"]


@dataclass(frozen=True)
class OperatorSettings:
    """What is measured, on what, and how thoroughly."""

    cases: tuple[str, ...] = tuple(CASES)
    batch_size: int = 256
    rounds: int = 10
    device: str = "cpu"
    folder: str | None = None
    """Where images come from; None: the photographs that come along."""


@dataclass(frozen=True)
class OperatorReport:
    """All that :func:`measure_operators` finds."""

    settings: OperatorSettings
    results: list[OperatorResult]
    image_bytes: int
    """Of all images of the batch."""
    device_name: str
    kernels: bool
    """Whether batches were worked on by kernels; else image by image, by the operators' definition."""
    missing: tuple[str, ...]
    """What would have been compared with if it were installed."""

    @property
    def copy_rate(self) -> Summary:
        """GB/s that copies read and write, over all cases and rounds."""
        return Summary.of([rate for result in self.results for rate in result.copy_gigabytes_per_second.rounds])


def count_operator_steps(settings: OperatorSettings) -> int:
    """How many steps :func:`measure_operators` has with these settings."""
    return 1 + sum(1 + len(names_of_others(CASES[name]())) for name in settings.cases)


def measure_operators(settings: OperatorSettings, step: Callable[[str], None]) -> OperatorReport:
    """Compare torchdali's operators on a batch of photographs with a copy, and with what works image by image.

    Args:
        settings: what and how.
        step: called before each step with what comes.

    Raises:
        UnequalResultsError: an operator did not give what its definition gives.
        FileNotFoundError: there are no images in the folder.
        DecodeError: an image cannot be decoded.
        RuntimeError: there is no such device, or it has too little memory.
    """
    device = torch.device(settings.device)
    on_cuda = device.type == "cuda"
    with torch.cuda.device(device) if on_cuda else contextlib.nullcontext():
        step("decoding")
        images = photographs(settings.folder, settings.batch_size, device)
        results = [measure_case(CASES[name](), images, rounds=settings.rounds, step=step) for name in settings.cases]
    return OperatorReport(
        settings=settings,
        results=results,
        image_bytes=images.nbytes,
        device_name=torch.cuda.get_device_name(device) if on_cuda else "",
        kernels=has_kernels(device.type),
        missing=() if has_kornia() else ("kornia",),
    )
