"""Ragged batches brought into one buffer, or into one tensor with padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from torchdali.tensorlist._metadata import Integers, Order, common_order, counts_of
from torchdali.tensorlist._storage import Storage

__all__ = ["gather_flat", "is_packed", "padded", "padded_shape"]


def is_packed(batch: Storage, order: Order | None, step: int) -> bool:
    """Whether the samples lie in a buffer already, one after another, with dimensions in this order (None: any)."""
    if batch.flat is None or batch.offsets is None or (order is not None and batch.order != order):
        return False
    starts, total = _starts(counts_of(batch.sizes), step)
    return batch.flat.numel() == total and bool((batch.offsets == starts).all())


def _starts(counts: Integers, step: int) -> tuple[Integers, int]:
    """Where samples begin that are put one after another at multiples of ``step``, and where the last ends."""
    room = -(-counts // step) * step
    starts = np.cumsum(room) - room
    return starts, int(starts[-1] + counts[-1]) if len(counts) else 0


def gather_flat(
    batch: Storage, order: Order | None, step: int = 1, *, pin: bool = False
) -> tuple[torch.Tensor, Integers, Order]:
    """The samples copied into one buffer: the buffer, where each begins, and the order of dimensions.

    One operation for all of them (``torch.cat``), as far as each lies without gaps and in this order.

    Args:
        batch: of any storage.
        order: of dimensions from the slowest to the fastest; None: the samples' own where they have one in common.
        step: each begins at a multiple of so many elements.
        pin: into page-locked memory.
    """
    sizes = batch.sizes
    if order is None:
        order = common_order(sizes, batch.strides)
    identity = tuple(range(sizes.shape[1]))
    order = identity if order is None else order
    starts, total = _starts(counts_of(sizes), step)
    if order == identity:
        pieces = [tensor.reshape(-1) for tensor in batch]
    else:
        pieces = [tensor.permute(order).reshape(-1) for tensor in batch]
    gaps = (starts[1:] - starts[:-1] - counts_of(sizes)[:-1]).tolist()
    if any(gaps):
        nothing = torch.zeros(step, dtype=batch.dtype, device=batch.device)
        pieces = [part for piece, gap in zip(pieces, [*gaps, 0], strict=True) for part in (piece, nothing[:gap])]
    if pin:
        flat = torch.empty(total, dtype=batch.dtype, device="cpu", pin_memory=True)
        torch.cat([piece.detach() for piece in pieces], out=flat)
    elif pieces:
        flat = torch.cat(pieces)
    else:
        flat = torch.empty(0, dtype=batch.dtype, device=batch.device)
    return flat, starts, order


def _each(argument: int | Sequence[int] | None, layout: str, dim: int, name: str) -> list[int | None]:
    """An argument for each dimension; one number is for all but channels."""
    if argument is None or isinstance(argument, (int, np.integer)):
        channels = layout.find("C")
        values: list[Any] = [None if axis == channels else argument for axis in range(dim)]
    else:
        values = list(argument) if isinstance(argument, Sequence) else [argument] * dim
        if len(values) != dim:
            raise ValueError(f"{name} has {len(values)} numbers; samples have {dim} dimensions")
    if any(value is not None and (not isinstance(value, (int, np.integer)) or value < 1) for value in values):
        raise ValueError(f"{name} is {argument!r}; it is a whole number of at least 1, or one for each dimension")
    return values


def padded_shape(
    sizes: Integers, layout: str, size: int | Sequence[int] | None, multiple_of: int | Sequence[int]
) -> list[int]:
    """The shape that all samples are padded to.

    Raises:
        ValueError: a sample is larger, or the arguments are no sizes.
    """
    dim = sizes.shape[1]
    wanted = _each(size, layout, dim, "size")
    steps = _each(multiple_of, layout, dim, "multiple_of")
    largest: list[int] = sizes.max(axis=0).tolist()
    shape = []
    for axis, (most, want, step) in enumerate(zip(largest, wanted, steps, strict=True)):
        if want is not None and most > want:
            bad = int(sizes[:, axis].argmax())
            raise ValueError(
                f"sample {bad} has shape {tuple(sizes[bad].tolist())}, which is larger than size={size!r} in dimension "
                f"{axis}; padding only adds: crop or resize it first"
            )
        shape.append(math.ceil((most if want is None else want) / (step or 1)) * (step or 1))
    return shape


def padded(
    batch: Storage, flat: torch.Tensor | None, shape: Sequence[int], value: float, *, want_mask: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The samples in the first corner of a tensor (N, *shape) filled with ``value``; and a mask of where they are.

    Args:
        batch: of any storage.
        flat: the samples one after another, dimensions in their own order. With it the number of launches does not depend
            on the number of samples; without it each is copied by itself.
        shape: at least the shape of each.
        value: of what is added.
        want_mask: a bool tensor of the result's shape is made too.
    """
    result = torch.full((len(batch), *shape), value, dtype=batch.dtype, device=batch.device)
    mask = None
    if want_mask or flat is not None:
        mask = torch.ones(result.shape, dtype=torch.bool, device=batch.device)
        sizes = torch.from_numpy(batch.sizes.T.copy()).to(batch.device)
        for axis, room in enumerate(shape):
            within = torch.arange(room, device=batch.device) < sizes[axis, :, None]
            mask &= within.view(len(batch), *(room if axis == other else 1 for other in range(len(shape))))
    if flat is not None and mask is not None:
        # Row by row the places of the mask are those of the samples, one after another.
        result = result.masked_scatter(mask, flat) if flat.requires_grad else result.masked_scatter_(mask, flat)
    else:
        for position, tensor in enumerate(batch):
            corner: tuple[Any, ...] = (position, *(slice(size) for size in tensor.shape))
            result[corner] = tensor
    return result, mask
