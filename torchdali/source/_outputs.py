"""What a source may return, and how it becomes tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from torchdali.pool import Column
from torchdali.tensorlist import TensorList

__all__ = ["Named", "as_batches", "as_tensor", "of_leaf", "split_outputs"]

_TORCH_KINDS = "biufc"  # NumPy's letters for bool, signed, unsigned, float, complex
_AS_THEY_ARE = frozenset(map(np.dtype, ("u1", "i4", "i8", "f4")))
"""Of most arrays that are returned; they need no further look where they are contiguous and writable."""


class Named:
    """A name for messages that is put together when somebody reads it: most samples give no reason to.

    Args:
        pattern: as of :meth:`str.format`.
        parts: for it.
    """

    __slots__ = ("_parts", "_pattern")

    def __init__(self, pattern: str, *parts: object) -> None:
        self._pattern = pattern
        self._parts = parts

    def __str__(self) -> str:
        return self._pattern.format(*self._parts)


def split_outputs(value: object, num_outputs: int | None, what: str | Named) -> tuple[Any, ...]:
    """The outputs of one call.

    Args:
        value: what the source returned.
        num_outputs: how many it promised; None: it returned the one output itself.
        what: names the source in messages.

    Raises:
        TypeError: several outputs were promised and no tuple or list came.
        ValueError: a tuple or list of another length came.
    """
    if num_outputs is None:
        return (value,)
    if not isinstance(value, (tuple, list)):
        raise TypeError(
            f"{what} returned a {_kind(value)}, but with num_outputs={num_outputs} it has to return a tuple or list "
            f"of {num_outputs}"
        )
    if len(value) != num_outputs:
        raise ValueError(
            f"{what} returned {len(value)} outputs, but num_outputs={num_outputs} were promised; return as many, or say how "
            "many there are"
        )
    return tuple(value)


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def as_tensor(value: object, what: str | Named) -> torch.Tensor:
    """One output of one sample as a CPU tensor; arrays and tensors keep their memory.

    Raises:
        TypeError: it is on another device, an object array, or nothing that an array can be made of.
    """
    if type(value) is np.ndarray and value.dtype in _AS_THEY_ARE and value.flags.carray:
        return torch.from_numpy(value)
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise TypeError(
                f"{what} is a tensor on {value.device}. A source returns CPU data: workers run before CUDA is "
                "initialised, and moving data to the device is the pipeline's part. Return `tensor.cpu()`"
            )
        return value.detach()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return torch.from_numpy(np.frombuffer(bytes(value), np.uint8).copy())
    if value is None or isinstance(value, (str, dict, set)):
        raise TypeError(f"{what} is {_kind(value)}; a source returns NumPy arrays, CPU tensors, numbers or bytes")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(
            f"{what} is a {_kind(value)} of which no array can be made: {error}. If these are several outputs, say how many: "
            "ExternalSource(source, num_outputs=2)"
        ) from error
    if array.dtype.kind not in _TORCH_KINDS:
        raise TypeError(
            f"{what} is a {_kind(value)} with NumPy dtype {array.dtype!r}; only boolean, integer, float and complex "
            "elements are numbers that a tensor can hold"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # What torch cannot view: memory that is not its to write, steps backwards, steps of a part of an element.
    if not array.flags.writeable or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise TypeError(f"{what} has NumPy dtype {array.dtype}, for which torch has none: {error}") from error


def as_batches(value: object, num_outputs: int | None, what: str) -> tuple[TensorList, ...]:
    """The outputs of a call for a whole batch: for each an array with the batch first, or a sequence of samples.

    Raises:
        TypeError, ValueError: as :func:`split_outputs` and :func:`as_tensor`; lengths that differ between outputs.
    """
    batches = []
    for number, output in enumerate(split_outputs(value, num_outputs, what)):
        name = f"output {number} of {what}"
        if isinstance(output, TensorList):
            batches.append(output)
        elif isinstance(output, (list, tuple)):
            batches.append(_from_samples(output, name))
        else:
            tensor = as_tensor(output, name)
            if tensor.dim() == 0:
                raise ValueError(f"{name} is a single number; for a batch it has to have one entry for each sample")
            batches.append(TensorList.from_batch(tensor))
    lengths = [len(batch) for batch in batches]
    if len(set(lengths)) > 1:
        raise ValueError(f"the outputs of {what} have {lengths} samples; they have to agree")
    return tuple(batches)


def of_leaf(leaf: torch.Tensor | Column, layout: str = "") -> TensorList:
    """All samples of an output of a pool's workers: views of one memory, made when they are asked for."""
    if isinstance(leaf, torch.Tensor):
        return TensorList.from_batch(leaf, layout)
    if not leaf.memory.nbytes:
        return TensorList.from_flat(torch.empty(0, dtype=leaf.dtype, device="cpu"), leaf.shapes, layout)
    flat = torch.frombuffer(leaf.memory, dtype=leaf.dtype)  # holds the memory for as long as there is a view of it
    return TensorList._of_buffer(flat, leaf.offsets // leaf.dtype.itemsize, leaf.shapes, layout=layout)


def _from_samples(samples: Sequence[object], name: str) -> TensorList:
    return TensorList([as_tensor(sample, f"sample {index} of {name}") for index, sample in enumerate(samples)])
