"""What this process runs on: versions, processors, memory limits, driver. For reports; starts nothing."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import re
from pathlib import Path

import torch
import torchvision

from torchdali._version import __version__

__all__ = [
    "cpu_name",
    "cuda_driver_version",
    "describe_cuda",
    "first_line",
    "gpu_jpeg_decoder",
    "installed_version",
    "kernel_module_version",
    "versions",
]

_MODEL_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


def first_line(path: str) -> str | None:
    """The first line of a file of the system; None where it cannot be read or is empty."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return lines[0].strip() if lines else None


def installed_version(distribution: str) -> str | None:
    """The version of an installed package, which is not imported; None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of torchdali and of what it always needs."""
    return {
        "torchdali": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


def cpu_name() -> str:
    """The processor."""
    try:
        found = _MODEL_NAME.search(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        found = None
    name = found.group(1) if found else platform.processor() or platform.machine()
    return " ".join(name.split())


def kernel_module_version() -> str | None:
    """The version of NVIDIA's kernel driver, such as ``"580.65.06"``; None where none is loaded, or none is seen."""
    found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", first_line("/proc/driver/nvidia/version") or "")
    return found.group(1) if found else None


def cuda_driver_version() -> str | None:
    """The newest CUDA that the driver can run, such as ``"13.0"``; None without a driver. CUDA is not initialised."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        number = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def describe_cuda() -> str:
    """The versions of CUDA and of the driver, as far as they are known."""
    parts = [f"{torch.version.cuda or 'none'} in torch"]
    if newest := cuda_driver_version():
        parts.append(f"up to {newest} by the driver")
    if module := kernel_module_version():
        parts.append(f"driver {module}")
    return ", ".join(parts)


def gpu_jpeg_decoder() -> bool:
    """Whether torchvision was built with its JPEG decoder for CUDA devices; CUDA is not initialised.

    The operator is there in every build, and says that it is empty when it is called. So it is called, with what every
    build refuses.
    """
    try:
        torch.ops.image.decode_jpegs_cuda([], 0, torch.device("cpu"))
    except AttributeError:
        return False
    except RuntimeError as error:
        return "not compiled" not in str(error)
    return True
