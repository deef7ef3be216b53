"""Arguments of operators that may differ from sample to sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from torchdali.tensorlist import TensorList

__all__ = ["Argument", "per_sample"]

Argument: TypeAlias = "float | Sequence[float] | npt.NDArray[Any] | torch.Tensor | TensorList | nn.Module"
"""A number for all samples, one value a sample, or a module whose call draws one value a sample."""


def per_sample(argument: Argument, count: int, name: str) -> npt.NDArray[np.float64]:
    """The argument's value for each of ``count`` samples, in double precision, shape (count,).

    Raises:
        ValueError: it has another number of values.
        TypeError: it is no number, array or module.
    """
    if isinstance(argument, nn.Module):
        argument = argument(count)
    if isinstance(argument, TensorList):
        argument = argument.as_tensor()
    if isinstance(argument, torch.Tensor):
        argument = argument.detach().cpu().to(torch.float64).numpy()
    try:
        values = np.asarray(argument, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is {argument!r}; it is a number, one number for each sample, or a random operator"
        ) from error
    if values.ndim == 0:
        return np.full(count, values)
    if values.size != count:
        raise ValueError(
            f"{name} has shape {values.shape}; the batch has {count} samples, so it is one number or {count}"
        )
    return values.reshape(count)
