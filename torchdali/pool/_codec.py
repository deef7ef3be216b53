"""Objects to bytes and back, with the large pieces written once, straight to their place.

Any object that can be pickled passes. Pickle's protocol 5 keeps the memory of arrays out of the pickle ("out of band"):
what is left is a small description, the pieces are copied once, by the worker, into shared memory, and the parent's
arrays are views of it. Torch's CPU tensors take part like NumPy's arrays, without a file or a descriptor each. A piece that
was made in shared memory in the first place (:func:`empty`) is not copied at all.

Pieces below :data:`SMALL` bytes stay in the description and become private memory of the parent: a label that a user
keeps must not hold a whole batch's shared memory.

What pickle refuses, such as a function without a name or an object of a class that was defined after the worker was
started, passes by cloudpickle.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import reduce_tensor

from torchdali.pool import _by_value
from torchdali.pool._arena import Bytes
from torchdali.pool._by_value import ByValue
from torchdali.pool._structure import is_plain

__all__ = ["ALIGNMENT", "SMALL", "Encoded", "aligned", "decode_all", "dumps", "encode"]

SMALL = 1024
"""Bytes below which an array is copied instead of viewed."""

ALIGNMENT = 64
"""Alignment of each piece: a cache line, and enough for every vector load."""

_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)
"""What pickle raises of a local function or class, and of what cannot be pickled at all."""


class Encoded(NamedTuple):
    """A description of an object or of several, and the pieces of memory that they refer to, in order."""

    description: bytes
    pieces: list[memoryview]


def aligned(nbytes: int) -> int:
    """Rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _rebuild_tensor(
    memory: Any, dtype: torch.dtype, shape: tuple[int, ...], order: tuple[int, ...] | None = None
) -> torch.Tensor:
    flat = torch.frombuffer(memory, dtype=dtype)
    tensor = flat if len(shape) == 1 else flat.view(shape)
    return tensor if order is None else tensor.permute(order)


def _in_memory_order(tensor: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...] | None]:
    """A contiguous tensor, and the permutation that makes the strides of this one of it, if it has other ones.

    So what is channels last stays it. What has gaps or overlaps itself is copied.
    """
    if tensor.is_contiguous():
        return tensor, None
    strides = tensor.stride()
    outwards = sorted(range(tensor.dim()), key=lambda dimension: (-strides[dimension], dimension))
    permuted = tensor.permute(outwards)
    if not permuted.is_contiguous():
        return tensor.contiguous(), None
    return permuted, tuple(sorted(range(tensor.dim()), key=outwards.__getitem__))


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    if tensor.device.type not in ("cpu", "meta"):
        return reduce_tensor(tensor)  # stays on its device, where that can be shared between processes
    if not is_plain(tensor) or tensor.numel() == 0:
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)  # in parts, which come here again where they are tensors
    contiguous, order = _in_memory_order(tensor)
    flat = pickle.PickleBuffer(contiguous.view(-1).view(torch.uint8).numpy().data)
    arguments = flat, tensor.dtype, tuple(contiguous.shape)
    return _rebuild_tensor, (arguments if order is None else (*arguments, order))


class _ByValue(ByValue):
    dispatch_table = ByValue.dispatch_table.new_child({torch.Tensor: _reduce_tensor})


def dumps(value: object) -> bytes:
    """Pickle, by value where pickle cannot do it by name."""
    try:
        return pickle.dumps(value, protocol=5)
    except _UNPICKLABLE:
        return _by_value.dumps(value)


def encode(value: object) -> Encoded:
    """Pickle ``value`` with its large buffers kept out of band.

    Raises:
        whatever pickling it raises.
    """
    pieces: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        piece = buffer.raw()
        if piece.nbytes < SMALL:
            return True
        pieces.append(piece)
        return False

    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5, buffer_callback=keep_in_band)
    pickler.dispatch_table = {torch.Tensor: _reduce_tensor}
    try:
        pickler.dump(value)
    except _UNPICKLABLE as error:
        pieces.clear()
        stream = io.BytesIO()
        try:
            _ByValue(stream, protocol=5, buffer_callback=keep_in_band).dump(value)
        except Exception:
            raise error from None  # the first words are the better ones
    return Encoded(stream.getvalue(), pieces)


def decode_all(
    described: Iterable[tuple[bytes, list[tuple[int, int]]]],
    memory: Bytes,
    substitute: Callable[[int, BaseException], object],
) -> list[Any]:
    """The objects again; their large arrays are views of ``memory``.

    Args:
        described: for each object its description and the (offset, length) of its pieces.
        memory: where the pieces lie.
        substitute: ``substitute(position, error)`` stands in for what cannot be loaded.
    """
    values = []
    for position, (description, spans) in enumerate(described):
        try:
            buffers = [memory[offset : offset + length] for offset, length in spans]
            values.append(pickle.loads(description, buffers=buffers))
        except BaseException as error:  # unpickling runs the user's code
            values.append(substitute(position, error))
    return values
