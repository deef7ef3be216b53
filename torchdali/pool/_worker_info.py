"""What the user's function can ask in a worker: which one it is, and memory that need not be copied."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch

from torchdali.pool._memory import Memory

__all__ = ["WorkerInfo", "empty", "seed_generators", "worker_info", "worker_memory"]


class WorkerInfo(NamedTuple):
    """The worker that the calling code runs in."""

    id: int
    """Its index, from 0."""
    num_workers: int
    """Workers of its pool."""
    seed: int
    """What the generators of ``random``, NumPy and torch were seeded with when it was started."""
    name: str
    """Of its pool."""


_info: WorkerInfo | None = None
_allocate: Callable[[int], Any] | None = None
_memory: Memory | None = None


def worker_info() -> WorkerInfo | None:
    """The worker that this code runs in; None in a process that is none."""
    return _info


def worker_memory() -> Memory | None:
    """The shared memory of the pool whose worker this code runs in; None in a process that is none.

    For functions that are told where the parent holds bytes there, instead of getting copies of them:
    :meth:`Memory.offset_of <torchdali.pool.Memory.offset_of>` in the parent, and ``view`` of the same here.
    """
    return _memory


def set_worker_info(info: WorkerInfo, allocate: Callable[[int], Any], memory: Memory) -> None:
    """Worker: note which one this is, what gives memory for results, and all memory of its pool.

    ``allocate`` gives a writable buffer, or None where there is none left.
    """
    global _info, _allocate, _memory
    _info, _allocate, _memory = info, allocate, memory


@overload
def empty(shape: int | tuple[int, ...], dtype: torch.dtype = ...) -> torch.Tensor: ...


@overload
def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]: ...


def empty(shape: int | tuple[int, ...], dtype: Any = torch.float32) -> Any:
    """An uninitialised CPU tensor, or array, for a result: where a worker can, it is made in shared memory.

    What a function writes into it and returns is not copied again: a file can be read, or a batch be collated, straight
    into the memory that the parent sees. It is good until the call returns; what is kept longer changes its contents.
    Outside a worker, and where the memory set aside for the call is used up, it is ordinary memory.

    Args:
        shape: of the result.
        dtype: torch's, for a tensor; NumPy's, for an array.

    Raises:
        ValueError: a length is negative.
        TypeError: a length is no integer.
    """
    lengths = tuple(operator.index(length) for length in (shape if isinstance(shape, Sequence) else (shape,)))
    if any(length < 0 for length in lengths):
        raise ValueError(f"shape is {lengths}; lengths are not negative")
    of_torch = isinstance(dtype, torch.dtype)
    kind = dtype if of_torch else np.dtype(dtype)
    if not of_torch and kind.subdtype is not None:
        kind, inner = kind.subdtype
        lengths += inner
    nbytes = math.prod(lengths) * kind.itemsize
    memory = None if _allocate is None or not nbytes or getattr(kind, "hasobject", False) else _allocate(nbytes)
    if memory is None:
        return torch.empty(lengths, dtype=kind, device="cpu") if of_torch else np.empty(lengths, kind)
    if of_torch:
        return torch.frombuffer(memory, dtype=kind).view(lengths)
    return np.frombuffer(memory, kind).reshape(lengths)


def seed_generators(*key: int) -> int:
    """Seed the generators of ``random``, NumPy and torch from numbers that together are a key; returns torch's seed."""
    words = np.random.SeedSequence(key).generate_state(6, np.uint32)
    seed = int(words[0]) << 31 | int(words[1]) >> 1
    random.seed(int(words[2]) << 32 | int(words[3]))
    np.random.seed(words[4:])
    torch.default_generator.manual_seed(seed)
    return seed
