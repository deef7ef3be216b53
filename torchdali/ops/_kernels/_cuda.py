"""The CUDA C++ kernel for resizing photographs, resample.cu: when it is used, its compilation, its launch.

It takes what training takes: images of 8 bits, channel by channel, a linear filter, results channel by channel. It is compiled
by NVRTC when it is first wanted, for the device and for the types and colours of the launch. Where that cannot be done, or for
other images, the Triton kernel stands in.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._kernels._upload import upload

__all__ = ["SOURCE", "Launch", "compiled", "definitions", "launch", "plan", "takes", "translate"]

SOURCE = Path(__file__).with_name("resample.cu")
_PIECES = SOURCE.with_name("resample_pieces.cuh")

TILES = 14
"""Of 8 rows, at most, for a block."""
STAGES = 4
"""Of 16 rows of the input, of the ring through which they come."""
WARPS = 7
"""That compute, at most, of a block."""
BLOCKS = 3
"""On a multiprocessor."""

WAVES = 2
"""How many blocks each place on the device that works on one gets, one after the other, if there are rows enough."""

_CAPABILITY = (8, 0)
_TYPES = {torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16, torch.float32}
_DIVISIONS = 16
_STRIP = 32
"""Columns of a warp."""
_SHARED = 74 * 1024
"""Bytes for a block, at most."""

_NAMES = ("FIRST", "KIND0", "TO0", "KIND1", "TO1", "KIND2", "TO2")
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
    whole: bool
    """Whether results begin at multiples of two of them, in bytes."""


def takes(dtypes: list[torch.dtype], arguments: dict[str, Any]) -> bool:
    """Whether the kernel knows the types and the colours.

    Args:
        dtypes: of the images, and after each step.
        arguments: those of the Triton kernel.
    """
    # Of other types results would show that weights have 16 bits.
    rounded = dtypes[0] == torch.uint8 and dtypes[1] in (torch.uint8, torch.float16, torch.bfloat16)
    return rounded and _TYPES.issuperset(dtypes) and all(arguments[f"KIND{n}"] in (0, 1) for n in range(3))


def _spans(integers: _Integers, axis: int, count: int | _Integers) -> _Integers:
    """As ``Axis::span`` in the source; ``axis``: 0 vertical, 1 horizontal."""
    before, after, limit = integers[:, 8 + axis], integers[:, 14 + axis], integers[:, 20 + 2 * axis]
    result: _Integers = ((count - 1) * before + limit) // after + 1
    return result


def plan(integers: _Integers, itemsize: int, slots: int) -> Launch | None:
    """How to launch the kernel.

    Args:
        integers: the table of the Triton kernel, (R, 24).
        itemsize: of the results, in bytes.
        slots: how many blocks the device works on at a time.

    Returns:
        None if it can do none of the rows.
    """
    across, down, before = _spans(integers, 1, 16), _spans(integers, 0, 8), integers[:, 8:10]
    strides = (integers[:, 3] == 1) & (integers[:, 13] == 1) & (integers[:, 2] < 2**26)
    reduces = (integers[:, 20:24:2] >= 2 * before).all(1)  # else there may be rows that nothing depends on
    rows = strides & reduces & (across <= 128) & (down <= 66)
    fast = (across <= 32) & (down <= 17)
    products = np.where(fast, 1, np.maximum((across + 31) // 32, 2))
    tables = 16 * STAGES + 8 * TILES + 512 * np.where(fast, TILES, TILES // 2 * ((down + 46) // 32))
    strips = -(-integers[:, 15] // _STRIP)
    strips = -(-strips // -(-strips // WARPS))
    for _ in range(WARPS.bit_length()):
        length = np.minimum(_spans(integers, 1, _STRIP * strips) + 1, before[:, 1])
        tables_and_parts = tables + strips * products * 2048 + 32 * products + 96
        stage = 16 * (length + 46)
        fits = (length <= 1008) & (tables_and_parts + 2 * stage <= _SHARED)
        if fits[rows].all():
            break
        strips = np.where(fits, strips, (strips + 1) // 2)
    rows &= fits
    if not rows.any():
        return None
    whole = not (integers[:, 10] % (2 * itemsize)).any() and not (integers[:, 11:13] % 2).any()
    shared = min(int((tables_and_parts + STAGES * stage)[rows].max()), _SHARED)
    threads = 32 * (int(strips[rows].max()) + 1)
    return Launch(rows, _blocks(integers, rows, _STRIP * strips, products, slots), threads, shared, whole)


def _blocks(
    integers: _Integers, rows: npt.NDArray[np.bool_], columns: _Integers, products: _Integers, slots: int
) -> npt.NDArray[np.int32]:
    order = np.flatnonzero(rows)
    height, width, columns, products = integers[order, 14], integers[order, 15], columns[order], products[order]
    tiles, strips, scale = -(-height // 8), -(-width // columns), integers[order, 8] / height
    # Rows are divided so that the longest block is as short as the number of blocks allows: what a block takes, in
    # instructions, where each row is divided into its least number of blocks, into one more, and so on.
    fewest = -(-tiles // np.where(products == 1, TILES, TILES // 2))
    bands = fewest[:, None] + np.arange(_DIVISIONS)
    depths = -(-tiles[:, None] // bands)
    of_step = np.where(products == 1, 258, np.where(products == 2, 390, 450 + 162 * products))
    steps = np.ceil((scale[:, None] * (8 * depths - 1) + (2 * np.maximum(scale, 1) + 1)[:, None]) / 16)
    takes = 1600 + 340 * depths + of_step[:, None] * steps
    takes[bands >= tiles[:, None]] = 0
    ranks, least = np.sort(takes, axis=None), int((fewest * strips).sum())
    most = max(WAVES, -(-least // slots)) * slots
    more = most - least
    while True:
        longest = ranks[max(len(ranks) - 1 - more, 0)] if more > 0 else np.inf
        chosen = np.minimum((takes > longest).sum(1), _DIVISIONS - 1)
        depth = depths[np.arange(len(chosen)), chosen]
        excess = int((-(-tiles // depth) * strips).sum()) - most
        if excess <= 0 or more <= 0:
            break
        more -= max(excess // 2, 1)
    takes = takes[np.arange(len(chosen)), chosen]
    latest = np.argsort(-takes, kind="stable")
    order, height, width, columns, strips, depth = (
        array[latest] for array in (order, height, width, columns, strips, 8 * depth)
    )
    bands = -(-height // depth)
    counts = bands * strips
    each = np.repeat(np.arange(len(order)), counts)
    number = np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns, depth = columns[each], depth[each]
    left, top = number % strips[each] * columns, number // strips[each] * depth
    right, bottom = np.minimum(left + columns, width[each]), np.minimum(top + depth, height[each])
    return np.stack([order[each], left | right << 16, top, bottom], 1).astype(np.int32)


def definitions(arguments: dict[str, Any], out: int) -> Definitions:
    """What the source is compiled with, see there: from the arguments of the Triton kernel, and the results' type."""
    return (*((name, arguments[name]) for name in _NAMES), ("OUT", out))


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
    function = compiled(device.index or 0, definitions(arguments, out))
    if function is None:
        return None
    job = plan(integers, itemsize, _slots(device.index or 0))
    if job is None:
        return None
    tables = upload(device, integers, floats, job.blocks)
    numbers = job.shared, arguments["CHANNELS"], job.whole
    values = (ctypes.c_uint64 * 6)(*(table.data_ptr() for table in tables), *numbers)
    start, step = ctypes.addressof(values), ctypes.sizeof(ctypes.c_uint64)
    pointers = (ctypes.c_void_p * 6)(*(start + step * n for n in range(6)))
    driver = _bindings().driver
    stream = torch.cuda.current_stream(device).cuda_stream
    (result,) = driver.cuLaunchKernel(
        function, len(job.blocks), 1, 1, job.threads, 1, 1, job.shared, stream, ctypes.addressof(pointers), 0
    )
    if int(result):
        raise RuntimeError(f"the kernel for resizing could not be launched: {result!r}")
    return job.rows


class _Bindings(NamedTuple):
    driver: Any
    nvrtc: Any


@functools.cache
def _bindings() -> _Bindings:
    return _Bindings(importlib.import_module("cuda.bindings.driver"), importlib.import_module("cuda.bindings.nvrtc"))


@functools.cache
def _slots(device: int) -> int:
    return BLOCKS * int(torch.cuda.get_device_properties(device).multi_processor_count)


_lock = threading.Lock()
_functions: dict[tuple[int, Definitions], Any] = {}
_failures: list[str] = []


def compiled(device: int, defined: Definitions) -> Any | None:
    """The kernel for a device, compiled at the first call; None where it cannot be had.

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
        module = _checked(bindings.driver.cuModuleLoadData(image))
        function = _checked(bindings.driver.cuModuleGetFunction(module, b"resize"))
        attribute = bindings.driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        most = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
        _checked(bindings.driver.cuFuncSetAttribute(function, attribute, min(_SHARED, most)))
    except RuntimeError as error:
        if not _failures:
            message = f"a CUDA kernel could not be built, a slower one is used: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        _failures.append(str(error))
        return None
    return function


def translate(architecture: str, defined: Definitions) -> bytes:
    """The kernel as machine code for an architecture such as "sm_90"."""
    nvrtc = _bindings().nvrtc
    tuning = {"TILES": TILES, "STAGES": STAGES, "THREADS": 32 * (WARPS + 1), "BLOCKS": BLOCKS}
    options = [f"--gpu-architecture={architecture}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in (*defined, *tuning.items())]
    pieces = [_PIECES.read_bytes()], [_PIECES.name.encode()]
    program = _checked(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 1, *pieces))
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if int(result):
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.decode(errors="replace").rstrip(" \n\0") or repr(result))
    image: bytes = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    nvrtc.nvrtcGetCUBIN(program, image)
    nvrtc.nvrtcDestroyProgram(program)
    return image


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value that a function of the bindings gives behind its status."""
    if int(answer[0]):
        raise RuntimeError(repr(answer[0]))
    return answer[1] if len(answer) > 1 else None
