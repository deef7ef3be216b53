"""The arguments of ``to``: torch.Tensor.to's forms."""

from __future__ import annotations

from typing import Any

import torch

from torchdali.tensorlist._storage import Storage

__all__ = ["parse_target"]


def parse_target(
    batch: Storage, positional: tuple[Any, ...], named: dict[str, Any], non_blocking: bool, copy: bool
) -> tuple[torch.device, torch.dtype, bool, bool]:
    """Device, dtype, non_blocking and copy, the former two the batch's own where they are not given.

    Raises:
        TypeError: an argument is none of them, or comes twice.
    """
    positional = (*positional, *([named["other"]] if "other" in named else []))
    unknown = sorted(set(named) - {"device", "dtype", "other"})
    if unknown:
        raise TypeError(
            f"TensorList.to has no argument {unknown[0]!r}; it has device, dtype, other, non_blocking and copy"
        )
    device, dtype = named.get("device"), named.get("dtype")
    flags: list[bool] = []
    for value in positional:
        if isinstance(value, bool):
            flags.append(value)
        elif isinstance(value, torch.dtype):
            dtype = _once(dtype, value, "dtype")
        elif isinstance(value, (torch.Tensor, Storage)):
            device, dtype = _once(device, value.device, "device"), _once(dtype, value.dtype, "dtype")
        elif isinstance(value, (torch.device, str, int)):
            device = _once(device, value, "device")
        elif value is not None:
            raise TypeError(f"TensorList.to was given a {type(value).__name__}; it takes a device, a dtype or a tensor")
    if len(flags) > 2:
        raise TypeError("TensorList.to was given three flags; it has two, non_blocking and copy")
    non_blocking, copy = (*flags, *(non_blocking, copy)[len(flags) :])
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype is {dtype!r}; it is a torch.dtype, such as torch.float32")
    target = batch.device if device is None else _indexed(torch.device(device))
    return target, dtype or batch.dtype, non_blocking, copy


def _once(old: Any, new: Any, name: str) -> Any:
    if old is not None:
        raise TypeError(f"TensorList.to was given two values for {name}; give one")
    return new


def _indexed(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())  # "cuda" is the current one, and differs from "cuda:0"
    return device
