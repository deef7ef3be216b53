"""``default_collate`` in a worker: the batch is put together in shared memory, so collation is the only copy.

Only the batch that is returned at once lies there. What the user's own code collates may be kept by it from one call to
the next, and is ordinary memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import collate

from torchdali.pool import empty
from torchdali.tensorlist import TensorList

__all__ = ["collate_for_worker", "collate_in_ordinary_memory", "ragged_collate"]

_stock: Callable[..., Any] = collate.collate_tensor_fn


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_quantized)
    )


def _may_be_collated_here(batch: Any) -> bool:
    # Of those that require a gradient torch's own function says in a worker that it cannot collate them.
    return _is_plain(batch[0]) and not any(entry.requires_grad for entry in batch)


def _into_shared_memory(batch: Any, *, collate_fn_map: Any = None) -> Any:
    if not _may_be_collated_here(batch):
        return _stock(batch, collate_fn_map=collate_fn_map)
    return torch.stack(batch, 0, out=empty((len(batch), *batch[0].shape), batch[0].dtype))


def _into_ordinary_memory(batch: Any, *, collate_fn_map: Any = None) -> Any:
    if not _may_be_collated_here(batch):
        return _stock(batch, collate_fn_map=collate_fn_map)
    out = torch.empty((len(batch), *batch[0].shape), dtype=batch[0].dtype, device="cpu")
    return torch.stack(batch, 0, out=out)  # with `out`, so that numbers of different types become what they do there


def _default_collate(batch: Any) -> Any:
    kinds = collate.default_collate_fn_map
    if kinds.get(torch.Tensor) is _into_ordinary_memory:
        kinds = {**kinds, torch.Tensor: _into_shared_memory}
    return collate.collate(batch, collate_fn_map=kinds)


def collate_in_ordinary_memory() -> None:
    """Worker: keep ``default_collate`` from making a shared file for each tensor, unless the user has put his own there."""
    if collate.default_collate_fn_map.get(torch.Tensor) is _stock:
        collate.default_collate_fn_map[torch.Tensor] = _into_ordinary_memory


def collate_for_worker(collate_fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What a worker calls in place of a loader's ``collate_fn``."""
    return _default_collate if collate_fn is collate.default_collate else collate_fn


def _ragged(batch: Any, *, collate_fn_map: Any = None) -> Any:
    encoded = all(entry.dim() == 1 and entry.dtype == torch.uint8 for entry in batch)
    if encoded or any(entry.shape != batch[0].shape for entry in batch):
        return TensorList(list(batch))
    return collate.default_collate_fn_map[torch.Tensor](batch, collate_fn_map=collate_fn_map)


def _ragged_arrays(batch: Any, *, collate_fn_map: Any = None) -> Any:
    return collate.collate([torch.as_tensor(entry) for entry in batch], collate_fn_map=collate_fn_map)


def _one_file(batch: Any, *, collate_fn_map: Any = None) -> Any:
    # An array first: torch takes no buffer that is empty.
    return TensorList([torch.from_numpy(np.frombuffer(bytearray(entry), np.uint8)) for entry in batch])


def ragged_collate(batch: list[Any]) -> Any:
    """Collate as ``default_collate`` does; what differs in shape becomes a :class:`~torchdali.TensorList`.

    So does what is encoded: bytes, and tensors and arrays of uint8 with one dimension, whatever their lengths. A device stage
    gets it in the CPU's memory, where decoders take it from.

    Args:
        batch: samples; tensors, arrays, numbers, strings and bytes in any nesting of mappings, sequences and named tuples.

    Raises:
        TypeError: something in it cannot be collated.
    """
    kinds = {
        **collate.default_collate_fn_map,
        torch.Tensor: _ragged,
        np.ndarray: _ragged_arrays,
        bytes: _one_file,
    }
    return collate.collate(batch, collate_fn_map=kinds)
