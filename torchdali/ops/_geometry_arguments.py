"""Arguments of geometric operators: some numbers for each sample, such as a height and a width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from torchdali.ops._context import describe_sample
from torchdali.ops._resample import FILTERS, Filter
from torchdali.ops._steps import FLOATS, INTEGERS
from torchdali.tensorlist import TensorList

__all__ = [
    "GIVEN_IN_THE_CALL",
    "Numbers",
    "check_filter",
    "check_pixels",
    "constant_fill",
    "numbers_per_sample",
    "pairs_per_sample",
    "require",
    "rounded",
    "shown",
]

Numbers: TypeAlias = "float | Sequence[Any] | npt.NDArray[Any] | torch.Tensor | TensorList | nn.Module"
"""Numbers for each sample: one number; a tuple or list of them, the same for all samples; an array, tensor or TensorList
whose first dimension is the batch; or a module whose call with the number of samples gives such a tensor."""


class _GivenInTheCall:
    def __repr__(self) -> str:
        return "given in the call"


GIVEN_IN_THE_CALL: Final[Any] = _GivenInTheCall()
"""Stands for an argument of a module that each call brings along, as a pipeline's graph does with a node."""


def numbers_per_sample(argument: Numbers, count: int, name: str) -> list[npt.NDArray[np.float64]]:
    """What is given for each of ``count`` samples, flattened to one dimension.

    Raises:
        ValueError: it has values for another number of samples, or some are not finite.
        TypeError: it is no number, sequence of numbers, array or module, or is missing in the call.
    """
    if isinstance(argument, nn.Module):
        argument = argument(count)
    rows: list[npt.NDArray[np.float64]]
    try:
        if isinstance(argument, TensorList):
            rows = [_array(row).reshape(-1) for row in argument]
        elif isinstance(argument, (np.ndarray, torch.Tensor)) and argument.ndim > 0:
            array = _array(argument)
            rows = list(array.reshape(len(array), math.prod(array.shape[1:])))  # not -1: there may be no rows
        else:
            rows = [_array(argument).reshape(-1)] * count
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(argument, _GivenInTheCall):
            raise TypeError(
                f"{name} is missing; it has to be given in the call, as it was not when this was made"
            ) from None
        raise TypeError(
            f"{name} is {argument!r}; it is a number, a tuple of numbers, an array or tensor with a row for each sample, "
            "or a random operator"
        ) from error
    if len(rows) != count:
        raise ValueError(
            f"{name} has values for {len(rows)} samples; the batch has {count}. A tuple of numbers stands for all samples"
        )
    if count and not np.isfinite(rows[0] if rows[0] is rows[-1] else np.concatenate(rows)).all():
        position, row = next((n, row) for n, row in enumerate(rows) if not np.isfinite(row).all())
        raise ValueError(f"{name} is {row.tolist()} for {describe_sample(position)}; it has to be finite")
    return rows


def _array(values: Any) -> npt.NDArray[np.float64]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().to(torch.float64).numpy()
    return np.asarray(values, np.float64)


def pairs_per_sample(argument: Numbers, count: int, name: str) -> npt.NDArray[np.float64]:
    """(N, 2): vertical and horizontal for each sample; one number stands for both.

    Raises:
        ValueError, TypeError: as :func:`numbers_per_sample`, or there are neither one nor two numbers.
    """
    rows = numbers_per_sample(argument, count, name)
    lengths = [len(row) for row in rows]
    for position, length in enumerate(lengths):
        if length not in (1, 2):
            raise ValueError(
                f"{name} has {length} numbers for {describe_sample(position)}; it is one number, or two: the vertical "
                "(height) and the horizontal (width)"
            )
    if len(set(lengths)) > 1:
        rows = [np.broadcast_to(row, (2,)) for row in rows]
    result = np.empty((count, 2))
    if count:
        result[:] = rows[0] if rows[0] is rows[-1] else np.stack(rows)
    return result


def require(good: npt.NDArray[np.bool_], values: npt.NDArray[Any], name: str, rule: str) -> None:
    """See that all values for each sample are good.

    Args:
        good: of any shape whose first dimension is the batch.
        values: (N, ...), for the message.
        name: the argument's.
        rule: what it has to be.

    Raises:
        ValueError: some are not; the message names the first sample.
    """
    bad = ~good.reshape(len(good), -1).all(1) if len(good) else np.zeros(0, np.bool_)
    if bad.any():
        position = int(bad.argmax())
        raise ValueError(f"{name} is {values[position].tolist()} for {describe_sample(position)}; it has to be {rule}")


def rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """To the nearest integer, halves away from zero: C's ``round``, which DALI uses for sizes and positions."""
    return np.asarray(np.copysign(np.floor(np.abs(values) + 0.5), values)).astype(np.int64)


def check_pixels(dtype: torch.dtype, name: str) -> None:
    """See that images of a type can be computed with.

    Raises:
        TypeError: they cannot (bool, complex).
    """
    if dtype not in (*INTEGERS, *FLOATS):
        raise TypeError(f"{name} got images of type {dtype}; it takes integers and floating point: ops.Cast converts")


def check_filter(name: str, allowed: Sequence[str] = FILTERS) -> Filter:
    """The name of a filter.

    Raises:
        ValueError: it is not among ``allowed``.
    """
    if name not in allowed:
        raise ValueError(f"filter is {name!r}; it is one of {', '.join(map(repr, allowed))}")
    return cast("Filter", name)


def constant_fill(fill: float | Sequence[float], name: str = "fill") -> npt.NDArray[np.float64]:
    """A fill value for all channels, or one for each, as an array of shape (1,) or (C,).

    Raises:
        TypeError: it is no number and no sequence of numbers.
        ValueError: it is empty or not finite.
    """
    try:
        values = _array(fill)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {fill!r}; it is a number, or one for each channel") from error
    if values.ndim > 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"{name} is {fill!r}; it is a finite number, or one for each channel")
    return values.reshape(-1)


def shown(module: nn.Module, **defaults: Any) -> str:
    """The arguments that a module has as attributes and that are not the default, for ``extra_repr``."""

    def is_default(value: Any, default: Any) -> bool:
        if isinstance(value, float) and isinstance(default, (int, float)):
            return math.isclose(value, default, rel_tol=0, abs_tol=0)
        return type(value) is type(default) and not isinstance(value, (np.ndarray, torch.Tensor)) and value == default

    values = {name: vars(module)[name] for name in defaults if name in vars(module)}  # not the random ones: submodules
    return ", ".join(f"{name}={value}" for name, value in values.items() if not is_default(value, defaults[name]))
