"""Arguments of operators that may differ from sample to sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from torchdali.ops._steps import FLOATS, INTEGERS
from torchdali.tensorlist import TensorList

__all__ = ["Argument", "check_argument", "check_dtype", "of_call", "per_channel", "per_sample"]

Argument: TypeAlias = "float | Sequence[float] | npt.NDArray[Any] | torch.Tensor | TensorList | nn.Module"
"""A number for all samples, one value a sample, or a module whose call draws one value a sample."""


def _dense(values: TensorList) -> torch.Tensor:
    return values.as_tensor() if len(values) else torch.zeros(0, dtype=values.dtype, device=values.device)


def _values(argument: Argument, name: str) -> npt.NDArray[np.float64]:
    if isinstance(argument, TensorList):
        argument = _dense(argument)
    if isinstance(argument, torch.Tensor):
        argument = argument.detach().cpu().to(torch.float64).numpy()
    try:
        return np.asarray(argument, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is {argument!r}; it is a number, one number for each sample, or a random operator"
        ) from error


def check_argument(argument: Argument, name: str) -> Argument:
    """An operator's argument as it was given, if it can be one; how many values it has is seen when there is a batch.

    Args:
        argument: the value.
        name: of the argument, for messages.

    Raises:
        TypeError: it is no number, array or module.
        ValueError: a number is not finite.
    """
    if isinstance(argument, nn.Module) or (isinstance(argument, torch.Tensor) and argument.device.type != "cpu"):
        return argument  # the values come with the batch: looking at them here would wait for the GPU
    values = _values(argument, name)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is {argument!r}; all its values have to be finite numbers")
    return argument


def per_sample(argument: Argument, count: int, name: str) -> npt.NDArray[np.float64]:
    """The argument's value for each of ``count`` samples, in double precision, shape (count,).

    Raises:
        ValueError: it has another number of values.
        TypeError: it is no number, array or module.
    """
    values = _values(argument(count) if isinstance(argument, nn.Module) else argument, name)
    if values.ndim == 0:
        return np.full(count, values)
    if values.size != count:
        raise ValueError(
            f"{name} has shape {values.shape}; the batch has {count} samples, so it is one number or {count}"
        )
    return values.reshape(count)


def per_channel(argument: Argument, count: int, name: str) -> npt.NDArray[np.float64]:
    """The argument's value for each channel of ``count`` samples, in double precision, shape (count, 1 or channels).

    One value is for all channels, a sequence has one for each, the same for all samples; an array of two dimensions has a
    row for each sample. Of a module's results, one-dimensional ones have one value a sample.

    Raises:
        ValueError: it has another number of rows than there are samples, or more than two dimensions.
        TypeError: it is no number, array or module.
    """
    if isinstance(argument, nn.Module):
        values = _values(argument(count), name)
        values = values[:, None] if values.ndim == 1 else values
    else:
        values = _values(argument, name)
    if values.ndim < 2:
        return np.repeat(values.reshape(1, -1), count, 0)
    if values.ndim > 2 or len(values) != count or values.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {values.shape}; the batch has {count} samples, so it is one number, a number for each channel, "
            f"or ({count}, channels)"
        )
    return values


def of_call(argument: Argument) -> Argument:
    """An argument of a call as :func:`per_channel` takes it: the first dimension of an array or tensor is the batch.

    So one of shape (N,) has a number for each sample, where a module's own would have one for each channel.
    """
    if isinstance(argument, TensorList):
        argument = _dense(argument)
    if isinstance(argument, (np.ndarray, torch.Tensor)) and argument.ndim > 0:
        return argument.reshape(len(argument), math.prod(argument.shape[1:]))  # not -1: there may be no rows
    return argument


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """The type of an operator's results as it was given, if images can have it; None is the input's.

    Raises:
        ValueError: it is neither integer nor floating point.
    """
    if dtype is not None and dtype not in (*INTEGERS, *FLOATS):
        raise ValueError(f"dtype is {dtype!r}; it is one of {', '.join(map(str, (*INTEGERS, *FLOATS)))}")
    return dtype
