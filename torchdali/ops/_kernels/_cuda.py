"""The CUDA C++ kernel for resizing photographs, resample.cu: when it is used, its compilation, its launch.

It takes what training takes: images of 8 bits, channel by channel, a linear filter, results channel by channel or, of three
channels, side by side. It is compiled by NVRTC when it is first wanted, for the device and for the types and colours of the
launch, and kept on disk, see :mod:`torchdali.ops._kernels._cubins`. Where that cannot be done, or for other images, the Triton
kernel stands in.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._groups import TYPES
from torchdali.ops._kernels._cubins import Program, built, checked
from torchdali.ops._kernels._upload import upload

__all__ = ["SOURCE", "Launch", "compiled", "definitions", "launch", "plan", "takes", "translate"]

SOURCE = Path(__file__).with_name("resample.cu")
_HEADERS = tuple(SOURCE.with_name(f"resample_{name}.cuh") for name in ("strip", "pieces"))

TILES = 28
"""Of 8 rows, at most, for a block."""
STAGES = 3
"""Of 16 rows of the input, of the ring through which they come, at most."""
WARPS = 7
"""That compute, at most, of a block."""
BLOCKS = 2
"""On a multiprocessor: more of them would have too few registers for three channels."""

WORK = 3600
"""Instructions of a warp: a place on the device that has N * N times as many to carry out gets N blocks, one after the other.
More of them spend more on their beginnings; with fewer, places that are done early wait for the others."""

_CAPABILITY = (8, 0)
_TYPES = {torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16, torch.float32}
_HALVINGS = 7
"""Of the interval in which the time of the longest block is looked for."""
_STRIPS = {1: 32, 3: 16}
"""Columns of a warp, by the number of channels."""
_SHARED = 112 * 1024
"""Bytes of shared memory for a block, at most."""
_RESERVED = 1024
"""Bytes of it that a block has for the system."""

_NAMES = ("CHANNELS", "FIRST", "KIND0", "TO0", "KIND1", "TO1", "KIND2", "TO2")
_Integers = npt.NDArray[np.int64]
Definitions: TypeAlias = tuple[tuple[str, int], ...]


class Launch(NamedTuple):
    """A launch of the kernel for some rows of the tables."""

    rows: npt.NDArray[np.bool_]
    """(R,): those that it does."""
    blocks: npt.NDArray[np.int32]
    """(B, 4): row of the tables; first column and that behind the last, 16 bits each; first row; row behind the last."""
    threads: int
    shared: int
    """Bytes."""
    whole: int
    """0: results are written one by one; 1: pairs of them lie at multiples of their size in bytes; 2: rows of results side by
    side begin at multiples of 16 bytes."""


def takes(dtypes: list[torch.dtype], arguments: dict[str, Any]) -> bool:
    """Whether the kernel knows the types and the colours.

    Args:
        dtypes: of the images, and after each step.
        arguments: those of the Triton kernel.
    """
    # Of other types results would show that weights have 16 bits.
    rounded = dtypes[0] == torch.uint8 and dtypes[1] in (torch.uint8, torch.float16, torch.bfloat16)
    return rounded and _TYPES.issuperset(dtypes) and all(arguments[f"KIND{n}"] in (0, 1) for n in range(3))


def _spans(columns: _Integers, axis: int, count: int | _Integers) -> _Integers:
    """As ``Axis::span`` in the source; ``columns``: of the table; ``axis``: 0 vertical, 1 horizontal."""
    before, after, limit = columns[8 + axis], columns[14 + axis], columns[20 + 2 * axis]
    result: _Integers = ((count - 1) * before + limit) // after + 1
    return result


class _Machine(NamedTuple):
    """What a device offers."""

    slots: int
    """How many blocks it works on at a time."""
    shared: int
    """Bytes of shared memory for each of them."""


def plan(
    integers: _Integers,
    itemsize: int,
    slots: int,
    channels: int = 3,
    *,
    looked_up: bool = True,
    most_shared: int = _SHARED,
) -> Launch | None:
    """How to launch the kernel.

    Args:
        integers: the table of the Triton kernel, (R, 24).
        itemsize: of the results, in bytes.
        slots: how many blocks the device works on at a time.
        channels: of each row, 1 or 3.
        looked_up: whether there is a table of the results for each grey level.
        most_shared: bytes of shared memory for a block.

    Returns:
        None if it can do none of the rows.
    """
    table = np.ascontiguousarray(integers.T)
    height, width = table[14:16]
    across, down = _spans(table, 1, 16), _spans(table, 0, 8)
    spread, strip = int(table[13, 0]), _STRIPS[channels]
    rows: npt.NDArray[np.bool_] = (table[3] == 1) & (table[13] == spread) & (table[2] < 2**26)
    rows &= (across <= 128) & (down <= 66)
    rows &= (table[20:24:2] >= 2 * table[8:10]).all(0)  # else there may be rows of pixels that nothing depends on
    if spread > 1:
        rows &= (table[11] == 1) & (spread == channels)
    fast = (across <= 32) & (down <= 17)
    products = np.where(fast, 1, np.maximum((across + 31) // 32, 2))
    tables = 512 * np.where(fast, TILES, TILES // 2 * ((down + 46) // 32))
    tables += 16 * STAGES + 8 * TILES + (256 * itemsize * channels if looked_up else 0)
    of_strip = 64 * strip * products + (_collected(itemsize) if spread > 1 else 0)
    strips = -(-width // strip)
    strips = -(-strips // -(-strips // WARPS))
    for _ in range(WARPS.bit_length()):
        length = np.minimum(_spans(table, 1, strip * strips) + 1, table[9])
        before_ring = tables + strips * of_strip + 32 * products + 96
        stage = 16 * channels * (length + 46)
        fits = (length <= 1008) & (before_ring + 2 * stage <= most_shared)
        if fits[rows].all():
            break
        strips = np.where(fits, strips, (strips + 1) // 2)
    rows &= fits
    order = np.flatnonzero(rows)
    if not len(order):
        return None
    shared = min(int((before_ring + STAGES * stage)[order].max()), most_shared)
    chosen = [array[order] for array in (height, width, strip * strips, products)]
    blocks = _blocks(order, chosen, table[8, order] / chosen[0], slots)
    return Launch(rows, blocks, 32 * (int(strips[order].max()) + 1), shared, _whole(table, itemsize, spread))


def _collected(itemsize: int) -> int:
    """Bytes of the results of a tile that a warp collects, see ``APART`` in the source."""
    return 8 * itemsize * (48 if itemsize == 1 else 56)


def _whole(table: _Integers, itemsize: int, spread: int) -> int:
    """See :class:`Launch`; ``table``: transposed."""
    starts, steps = table[10], table[12:13] if spread > 1 else table[11:13]
    if (starts % (2 * itemsize)).any() or (steps % 2).any():
        return 0
    return 1 if spread == 1 or (starts % 16).any() or (steps * itemsize % 16).any() else 2


def _blocks(
    order: _Integers, chosen: list[_Integers], scale: npt.NDArray[np.float64], slots: int
) -> npt.NDArray[np.int32]:
    height, width, columns, products = chosen
    tiles, strips = -(-height // 8), -(-width // columns)
    start, each = _costs(scale, products)
    most = np.where(products == 1, TILES, TILES // 2)
    # Rows are divided so that the longest block is as short as the number of blocks allows.
    in_a_row = max(1, round(math.sqrt(float((each * tiles * strips).sum()) / slots / WORK)))
    bands, allowed = -(-tiles // most), in_a_row * slots
    if int((bands * strips).sum()) <= allowed:
        low, high, faster = float((start + each).max()), float((start + each * most).max()), 1 / each
        for _ in range(_HALVINGS):
            longest = (low + high) / 2
            depth = np.minimum(np.maximum((longest - start) * faster, 1), most).astype(np.int64)
            now = -(-tiles // depth)
            if int((now * strips).sum()) > allowed:
                low = longest
            else:
                high, bands = longest, now
    depth = -(-tiles // bands)
    latest = np.argsort(-(start + each * depth))  # begins first
    counts = (bands * strips)[latest]
    row = np.repeat(latest, counts)
    number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    across = strips[row]
    band = number // across
    left, top = (number - band * across) * columns[row], 8 * band * depth[row]
    blocks = np.empty((len(row), 4), np.int32)
    blocks[:, 0] = order[row]
    blocks[:, 1] = left | np.minimum(left + columns[row], width[row]) << 16
    blocks[:, 2] = top
    blocks[:, 3] = np.minimum(top + 8 * depth[row], height[row])
    return blocks


def _costs(
    scale: npt.NDArray[np.float64], products: _Integers
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """About what a block of each row of the tables takes, in instructions of a warp: at least, and for each of its tiles."""
    of_step = np.where(products == 1, 350, np.where(products == 2, 560, 450 + 200 * products))
    return 3000 + of_step * ((2 * np.maximum(scale, 1) + 1 - scale) / 16 + 0.5), 270 + of_step * scale / 2


def definitions(arguments: dict[str, Any], out: int, spread: int) -> Definitions:
    """What the source is compiled with, see there.

    Args:
        arguments: of the Triton kernel.
        out: the results' type.
        spread: results from a pixel to the next: 1, or all channels.
    """
    return (*((name, arguments[name]) for name in _NAMES), ("OUT", out), ("SPREAD", spread))


def launch(
    device: torch.device,
    integers: _Integers,
    floats: npt.NDArray[Any],
    itemsize: int,
    arguments: dict[str, Any],
    out: int,
) -> npt.NDArray[np.bool_] | None:
    """Launch the kernel on the device's current stream, which is current.

    Args:
        device: with CUDA.
        integers: the table of the Triton kernel, (R, 24).
        floats: likewise, (R, 41).
        itemsize: of the results, in bytes.
        arguments: of the Triton kernel.
        out: the results' type, as one of TYPES.

    Returns:
        (R,) which rows it did; None if it did nothing.
    """
    channels, spread = arguments["CHANNELS"], int(integers[0, 13])
    if spread not in (1, channels):
        return None
    function = compiled(device.index or 0, definitions(arguments, out, spread))
    if function is None:
        return None
    looked_up = arguments["FIRST"] == TYPES[torch.uint8]
    machine = _machine(device.index or 0)
    job = plan(integers, itemsize, machine.slots, channels, looked_up=looked_up, most_shared=machine.shared)
    if job is None:
        return None
    tables = upload(device, integers, floats, job.blocks)
    values = (ctypes.c_uint64 * 5)(*(table.data_ptr() for table in tables), job.shared, job.whole)
    start, step = ctypes.addressof(values), ctypes.sizeof(ctypes.c_uint64)
    pointers = (ctypes.c_void_p * 5)(*(start + step * n for n in range(5)))
    driver = _bindings().driver
    stream = torch.cuda.current_stream(device).cuda_stream
    (result,) = driver.cuLaunchKernel(
        function, len(job.blocks), 1, 1, job.threads, 1, 1, job.shared, stream, ctypes.addressof(pointers), 0
    )
    if int(result):
        raise RuntimeError(
            f"the kernel for resizing could not be launched: {result!r}; an error of a kernel before it shows here too: with "
            "CUDA_LAUNCH_BLOCKING=1 in the environment it is told where it happens"
        )
    return job.rows


class _Bindings(NamedTuple):
    driver: Any
    nvrtc: Any


@functools.cache
def _bindings() -> _Bindings:
    return _Bindings(importlib.import_module("cuda.bindings.driver"), importlib.import_module("cuda.bindings.nvrtc"))


@functools.cache
def _machine(device: int) -> _Machine:
    properties: Any = torch.cuda.get_device_properties(device)  # not all is in the stubs of each release
    most = properties.shared_memory_per_block_optin
    share = getattr(properties, "shared_memory_per_multiprocessor", most) // BLOCKS - _RESERVED
    shared = min(_SHARED, share, most)
    return _Machine(BLOCKS * properties.multi_processor_count, shared)


_lock = threading.Lock()
_functions: dict[tuple[int, Definitions], Any] = {}
_failures: list[str] = []


def compiled(device: int, defined: Definitions) -> Any | None:
    """The kernel for a device, compiled or read from disk at the first call; None where it cannot be had.

    Args:
        device: its number; it is current.
        defined: see :func:`definitions`.
    """
    key = device, defined
    try:
        return _functions[key]
    except KeyError:
        pass
    with _lock:
        if key not in _functions:
            _functions[key] = _loaded(device, defined)
        return _functions[key]


def _loaded(device: int, defined: Definitions) -> Any | None:
    if torch.version.cuda is None or (capability := torch.cuda.get_device_capability(device)) < _CAPABILITY:
        return None
    try:
        bindings = _bindings()
        bindings.nvrtc.nvrtcVersion()  # looks for the library
    except (ImportError, RuntimeError, OSError):
        return None
    torch.zeros(1, device=f"cuda:{device}")  # so that this thread has a context
    try:
        image = translate(f"sm_{capability[0]}{capability[1]}", defined)
        module = checked(bindings.driver.cuModuleLoadData(image))
        function = checked(bindings.driver.cuModuleGetFunction(module, b"resize"))
        attribute = bindings.driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked(bindings.driver.cuFuncSetAttribute(function, attribute, _machine(device).shared))
    except RuntimeError as error:
        if not _failures:
            message = f"a CUDA kernel could not be built, a slower one is used: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        _failures.append(str(error))
        return None
    return function


def translate(architecture: str, defined: Definitions) -> bytes:
    """The kernel as machine code for an architecture such as "sm_90": made, or as another process has left it on disk."""
    tuning = {"TILES": TILES, "STAGES": STAGES, "THREADS": 32 * (WARPS + 1), "BLOCKS": BLOCKS}
    options = [f"--gpu-architecture={architecture}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in (*defined, *tuning.items())]
    headers = tuple((path.name, path.read_bytes()) for path in _HEADERS)
    return built(Program(SOURCE.name, SOURCE.read_bytes(), headers, tuple(options)), _bindings().nvrtc)
