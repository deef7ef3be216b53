"""Objects to bytes and back, with the large pieces written once, straight to their place.

Any object that can be pickled passes. Pickle's protocol 5 keeps the memory of arrays out of the pickle ("out of band"):
what is left is a small description, the pieces are copied once, by the worker, into shared memory, and the parent's
arrays are views of it. Torch's CPU tensors take part like NumPy's arrays, without a file or a descriptor each.

Pieces below :data:`SMALL` bytes stay in the description and become private memory of the parent: a label that a user
keeps must not hold a whole batch's shared memory.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from torchdali.pool._arena import Bytes

__all__ = ["ALIGNMENT", "Encoded", "decode", "decode_all", "encode", "encode_all", "layout"]

SMALL = 1024
"""Bytes below which an array is copied instead of viewed."""

ALIGNMENT = 64
"""Alignment of each piece: a cache line, and enough for every vector load."""


class Encoded(NamedTuple):
    """A description of an object or of several, and the pieces of memory that they refer to, in order."""

    description: bytes
    pieces: list[memoryview]


def _rebuild_tensor(memory: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    flat = torch.frombuffer(memory, dtype=dtype)
    return flat if len(shape) == 1 else flat.view(shape)


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        raise TypeError(
            f"a worker returned a {tensor.layout} tensor on device {tensor.device}; "
            "only strided CPU tensors can be passed on: return `tensor.cpu()`, or NumPy arrays"
        )
    if tensor.requires_grad or tensor.is_conj() or tensor.is_neg() or tensor.numel() == 0:
        return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    flat = tensor.contiguous().view(-1).view(torch.uint8)
    return _rebuild_tensor, (pickle.PickleBuffer(flat.numpy().data), tensor.dtype, tuple(tensor.shape))


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
    pickler.dump(value)
    return Encoded(pickle.dumps(([piece.nbytes for piece in pieces], stream.getvalue()), protocol=5), pieces)


def decode(description: bytes, memory: Bytes) -> Any:
    """The object again; its large arrays are views of ``memory``, where pieces lie as :func:`layout` places them."""
    lengths, pickled = pickle.loads(description)
    spans, _ = layout(lengths)
    return pickle.loads(pickled, buffers=[memory[offset : offset + length] for offset, length in spans])


def encode_all(values: Iterable[object], substitute: Callable[[int, BaseException], object]) -> Encoded:
    """Encode several objects, each by itself, so that one cannot spoil the others.

    What cannot be pickled is replaced by ``substitute(position, error)``.
    """
    pieces: list[memoryview] = []
    described: list[tuple[bytes, int]] = []
    start = 0
    for position, value in enumerate(values):
        try:
            encoded = encode(value)
        except BaseException as error:  # pickling runs the user's code, which may do anything, also exit
            encoded = encode(substitute(position, error))
        described.append((encoded.description, start))
        pieces += encoded.pieces
        start += layout(piece.nbytes for piece in encoded.pieces)[1]
    return Encoded(pickle.dumps(described, protocol=5), pieces)


def decode_all(description: bytes, memory: Bytes, substitute: Callable[[int, BaseException], object]) -> list[Any]:
    """The objects again; what cannot be loaded is replaced by ``substitute(position, error)``."""
    values = []
    for position, (own, start) in enumerate(pickle.loads(description)):
        try:
            values.append(decode(own, memory[start:]))
        except BaseException as error:  # unpickling runs the user's code
            values.append(substitute(position, error))
    return values


def layout(lengths: Iterable[int]) -> tuple[list[tuple[int, int]], int]:
    """Aligned (offset, length) for pieces of these lengths one after another, and the bytes they need in all."""
    spans = []
    end = 0
    for length in lengths:
        spans.append((end, length))
        end += -(-length // ALIGNMENT) * ALIGNMENT
    return spans, end
