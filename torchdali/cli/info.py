"""Print what matters for a bug report: versions, machine, CUDA.

Every fact is asked for by itself, so that one that cannot be had leaves the others: broken installations are what such
reports are about.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import sys
from collections.abc import Callable

import numpy as np
import torch

from torchdali.cli import _environment as environment
from torchdali.ops import available_cpus
from torchdali.pool import default_memory_limit

__all__ = ["add_arguments", "run"]

Fact = tuple[str, Callable[[], str | None]]
"""A name, and a function for the value; None: not worth a line."""

_OPTIONAL = (
    "pillow",
    "torchcodec",
    "nvidia-nvimgcodec-cu13",
    "nvidia-nvimgcodec-cu12",
    "lightning",
    "triton",
    "accelerate",
)
_DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110")
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)
_CGROUP_MEMORY = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the facts on stdout."""
    groups = [_software(), _machine(), _cuda()]
    width = max(len(name) for group in groups for name, _ in group)
    lines: list[str] = []
    for group in groups:
        values = [(name, _ask(question)) for name, question in group]
        lines += [f"{name:<{width}}  {value}".rstrip() for name, value in values if value is not None] + [""]
    sys.stdout.write("\n".join(lines[:-1]) + "\n")
    return 0


def _ask(question: Callable[[], str | None]) -> str | None:
    try:
        return question()
    except Exception as error:
        return f"unknown: {type(error).__name__}: {error}".splitlines()[0]


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


# --- software -------------------------------------------------------------------------------------------------------


def _software() -> list[Fact]:
    def version(name: str) -> Callable[[], str | None]:
        return lambda: environment.versions()[name]

    def optional(name: str) -> Callable[[], str | None]:
        return lambda: environment.installed_version(name)

    return [
        ("torchdali", version("torchdali")),
        ("python", lambda: f"{platform.python_version()} ({platform.python_implementation()})"),
        ("torch", version("torch")),
        ("torchvision", version("torchvision")),
        ("numpy", lambda: np.__version__),
        *((name, optional(name)) for name in _OPTIONAL),
        *((name, optional(name)) for name in _DALI),
    ]


# --- machine --------------------------------------------------------------------------------------------------------


def _machine() -> list[Fact]:
    return [
        ("platform", _platform),
        ("processor", environment.cpu_name),
        ("CPUs", lambda: f"{available_cpus()} available of {os.cpu_count()}"),
        ("memory", _memory),
        ("shared memory", lambda: f"at most {_bytes(default_memory_limit())} for each pipeline's workers"),
        ("open files", _open_files),
        ("start method", _start_method),
        *((name, _variable(name)) for name in _VARIABLES),
    ]


def _platform() -> str:
    libc = " ".join(platform.libc_ver()).strip()
    return f"{platform.system()} {platform.release()} {platform.machine()}" + (f", {libc}" if libc else "")


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    text = f"{_bytes(page * os.sysconf('SC_PHYS_PAGES'))}, {_bytes(page * os.sysconf('SC_AVPHYS_PAGES'))} free"
    for path in _CGROUP_MEMORY:
        limit = environment.first_line(path)
        # Control groups write "max", or before version 2 a number beyond any memory, where there is no limit.
        if limit is not None and limit.isdigit() and int(limit) < page * os.sysconf("SC_PHYS_PAGES"):
            return f"{text}; {_bytes(int(limit))} for this control group"
    return text


def _open_files() -> str:
    soft, hard = (
        "no limit" if limit == resource.RLIM_INFINITY else str(limit)
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return f"{soft} (can be raised to {hard})"


def _start_method() -> str:
    default = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return f"fork; multiprocessing's default: {default}"


def _variable(name: str) -> Callable[[], str | None]:
    return lambda: os.environ.get(name)


# --- CUDA -----------------------------------------------------------------------------------------------------------


def _cuda() -> list[Fact]:
    return [
        ("NVIDIA driver", lambda: environment.kernel_module_version() or "not seen"),
        ("CUDA of the driver", lambda: environment.cuda_driver_version() or "no libcuda"),
        ("CUDA of torch", lambda: torch.version.cuda or "none: torch is built without it"),
        ("CUDA works", lambda: "yes" if torch.cuda.is_available() else "no"),
        *((f"device cuda:{index}", _device(index)) for index in range(_device_count())),
        ("GPU JPEG decoder", _decoder),
    ]


def _device_count() -> int:
    try:
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    except Exception:  # the question above says what is wrong
        return 0


def _device(index: int) -> Callable[[], str]:
    def describe() -> str:
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        return f"{properties.name}, {_bytes(properties.total_memory)}, {capability}"

    return describe


def _decoder() -> str:
    if not environment.gpu_jpeg_decoder():
        return "not in this torchvision; JPEGs are decoded on the CPU"
    return "in torchvision" if torch.cuda.is_available() else "in torchvision, without a device to use it"
