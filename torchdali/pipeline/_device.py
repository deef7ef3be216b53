"""Which device a pipeline works on, and the order of forking and CUDA."""

from __future__ import annotations

import warnings

import torch

from torchdali.errors import CudaInitializedError

__all__ = ["DeviceRequest", "forbid_fork_after_cuda", "resolve_device"]

DeviceRequest = torch.device | str | int | None
"""``"auto"``: the current CUDA device where there is one, else the CPU. None or ``"cpu"``: the CPU. An integer: the CUDA
device of that number, or with a warning the CPU where there is no CUDA. ``"cuda"``, ``"cuda:1"``: that, or an error."""


def forbid_fork_after_cuda() -> None:
    """Raise if workers must not be forked any more.

    Raises:
        CudaInitializedError: CUDA is initialised.
    """
    if torch.cuda.is_initialized():
        raise CudaInitializedError(
            "workers cannot be forked: CUDA is already initialised in this process.\n"
            "Why it matters: a forked process inherits the driver's state without its threads; CUDA does not work in it, "
            "and locks that the driver held at that moment stay locked for ever.\n"
            "What to do: call `start_py_workers()` on all pipelines before anything touches the GPU: before `.cuda()`, "
            '`.to("cuda")`, `torch.cuda.current_device()`, `build()` or `run()`. One is enough: with it a small process without '
            "CUDA is started, from which later pipelines get their workers. In a notebook: restart the kernel and start the "
            'workers of any pipeline in one of the first cells. Or pass start_method="spawn", which starts new interpreters; or '
            "parallel=False to the sources, which then run in the main process."
        )


def check_request(device: DeviceRequest) -> DeviceRequest:
    """See that a request can mean something, without touching CUDA.

    Raises:
        ValueError: it names no CPU or CUDA device.
    """
    if device is None or device == "auto":
        return device
    if isinstance(device, bool) or (isinstance(device, int) and device < 0):
        raise ValueError(
            f"the device is {device!r}; a number means the CUDA device of that index, from 0, and None the CPU"
        )
    try:
        parsed = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'the device is {device!r}; it is "auto", "cpu", "cuda", "cuda:N", N or None') from error
    if parsed.type not in ("cpu", "cuda"):
        raise ValueError(f"the device is {device!r}; pipelines work on CPU and CUDA devices")
    return device


def resolve_device(request: DeviceRequest, *, stacklevel: int) -> torch.device:
    """The device that a request means on this machine; may initialise CUDA, so workers are forked before.

    Raises:
        RuntimeError: a CUDA device was named and there is none, or not so many.
    """
    if request is None:
        return torch.device("cpu")
    available = torch.cuda.is_available()
    if request == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if available else torch.device("cpu")
    device = torch.device("cuda", request) if isinstance(request, int) else torch.device(request)
    if device.type == "cpu":
        return device
    if not available:
        if isinstance(request, int):
            warnings.warn(
                f"device_id={request} asks for a CUDA device and this machine has none that works: the pipeline runs on the "
                "CPU. device_id=None asks for the CPU without a warning",
                stacklevel=stacklevel + 1,
            )
            return torch.device("cpu")
        raise RuntimeError(
            f'the device is {request!r}, but CUDA is not available here; "auto" uses it only where it is'
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise RuntimeError(
            f"the device is {request!r}, but CUDA devices here go from 0 to {torch.cuda.device_count() - 1}"
        )
    return torch.device("cuda", index)
