"""Where a pipeline's stage runs: in this process, or in several of its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch

from torchdali.ops import available_cpus
from torchdali.pipeline._device import DeviceRequest

__all__ = ["Chosen", "Placement", "check_placement", "choose_placement", "expected_device"]

Placement: TypeAlias = Literal["main", "workers", "auto"]

GPU_WORKERS = 4
"""On a CUDA device: one process cannot keep its JPEG engines busy, four nearly can."""

_FEWEST_CPUS = 4
"""Below this many, stage processes would take the processors from the sources and the training."""


class Chosen(NamedTuple):
    """What became of a request."""

    placement: Literal["main", "workers"]
    gpu_workers: int
    """Processes for the stage; 0 in the main process."""
    why: str


def check_placement(placement: object, gpu_workers: object, *, stage_thread: bool) -> None:
    """See that a request makes sense.

    Raises:
        ValueError: there is no such placement, or it does not go with the other arguments.
    """
    if placement not in ("main", "workers", "auto"):
        raise ValueError(f'placement is {placement!r}; it is "main", "workers" or "auto"')
    if gpu_workers is not None:
        if isinstance(gpu_workers, bool) or not isinstance(gpu_workers, int) or gpu_workers < 1:
            raise ValueError(f"gpu_workers is {gpu_workers!r}; it is a positive integer")
        if placement == "main":
            raise ValueError(
                f'gpu_workers is {gpu_workers}, but placement is "main", where the stage runs in this process; '
                'pass placement="workers"'
            )
    if placement == "workers" and not stage_thread:
        raise ValueError(
            'placement is "workers" and stage_thread is False: the stage cannot run in the consumer\'s thread and in other '
            'processes; pass placement="main"'
        )


def expected_device(request: DeviceRequest) -> torch.device | None:
    """The device that a request will mean, as far as can be told without initialising CUDA; None where it cannot."""
    if request is None:
        return torch.device("cpu")
    if request != "auto":
        device = torch.device("cuda", request) if isinstance(request, int) else torch.device(request)
        if device.type == "cpu" or device.index is not None:
            return device
    count = _count_cuda_devices()
    if count == 0:
        return torch.device("cpu") if request == "auto" else None
    return torch.device("cuda", 0) if count == 1 else None


def _count_cuda_devices() -> int | None:
    """How many there are, by NVML; None where only CUDA itself could tell, which would be initialised by it."""
    if torch.cuda.is_initialized():
        return torch.cuda.device_count()
    if not torch.backends.cuda.is_built():
        return 0
    count: int = torch.cuda._device_count_nvml()
    if count >= 0:
        return count
    return None if Path("/dev/nvidiactl").exists() else 0


def choose_placement(
    placement: Placement, gpu_workers: int | None, request: DeviceRequest, *, stage_thread: bool
) -> Chosen:
    """Decide, before CUDA is initialised.

    ``"auto"`` takes processes where there is a CUDA device, and processors for them beside the sources' workers. On a CPU
    device threads do as well as processes. What else the device will have to do nobody knows here.
    """
    cpus = available_cpus()
    size = gpu_workers or max(1, min(GPU_WORKERS, cpus // 2))
    if placement == "main":
        return Chosen("main", 0, "it was asked for")
    if placement == "workers":
        return Chosen("workers", size, "it was asked for")
    device = expected_device(request)
    on_cuda = _count_cuda_devices() != 0 if device is None else device.type == "cuda"
    if not on_cuda:
        chosen = Chosen("main", 0, "there is no CUDA device for it, and on the CPU threads do as well")
    elif not stage_thread:
        chosen = Chosen("main", 0, "stage_thread is False")
    elif cpus < _FEWEST_CPUS:
        chosen = Chosen("main", 0, f"there are {cpus} processors, too few for processes of its own")
    else:
        why = f'there are a CUDA device and {cpus} processors (beside a training on that device placement="main" is faster)'
        chosen = Chosen("workers", size, why)
    logging.getLogger("torchdali").info(
        'placement="auto": the stage runs in %s, since %s',
        f"{chosen.gpu_workers} processes of its own" if chosen.gpu_workers else "the main process",
        chosen.why,
    )
    return chosen
