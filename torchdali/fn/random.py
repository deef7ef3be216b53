"""Random numbers for each sample, with DALI's names and arguments.

``shape`` is that of what is drawn for a sample, by default one number. ``dtype`` is its type: integers are rounded half to
even and clamped. ``seed`` is used instead of the pipeline's. ``device="gpu"`` moves what was drawn to the pipeline's device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchdali.fn._call import Device
from torchdali.ops import Choice, CoinFlip, Normal, RandomOperator, Uniform
from torchdali.pipeline import DataNode, current_trace

__all__ = ["coin_flip", "normal", "uniform"]


def uniform(
    *,
    range: Sequence[float] | None = None,
    values: Sequence[float] | None = None,
    shape: int | Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
    device: Device | None = None,
) -> DataNode:
    """Uniform numbers: see :class:`torchdali.ops.Uniform` and :class:`torchdali.ops.Choice`.

    Args:
        range: (low, high), by default (-1, 1).
        values: draw one of these instead.
        shape, dtype, seed, device: see the module.

    Raises:
        ValueError: both were given, or the range is not two numbers in order.
    """
    module: RandomOperator
    if values is not None:
        if range is not None:
            raise ValueError(f"range={range!r} and values={values!r} exclude each other; give the one to draw from")
        module = Choice(values, shape, dtype=dtype, seed=seed)
    else:
        ends = (-1.0, 1.0) if range is None else tuple(range)
        if len(ends) != 2:
            raise ValueError(f"range is {range!r}; it is two numbers, low and high")
        module = Uniform(*ends, shape, dtype=dtype, seed=seed)
    return _draw("random.uniform", module, device)


def normal(
    *,
    mean: float = 0.0,
    stddev: float = 1.0,
    shape: int | Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
    device: Device | None = None,
) -> DataNode:
    """Normally distributed numbers: see :class:`torchdali.ops.Normal`.

    Args:
        mean, stddev: of the distribution.
        shape, dtype, seed, device: see the module.
    """
    module = Normal(mean, stddev, shape, dtype=dtype, seed=seed)
    return _draw("random.normal", module, device)


def coin_flip(
    *,
    probability: float = 0.5,
    shape: int | Sequence[int] = (),
    dtype: torch.dtype = torch.int32,
    seed: int | None = None,
    device: Device | None = None,
) -> DataNode:
    """1 with a probability, else 0: see :class:`torchdali.ops.CoinFlip`.

    Args:
        probability: of 1.
        shape, dtype, seed, device: see the module.
    """
    module = CoinFlip(probability, shape, dtype=dtype, seed=seed)
    return _draw("random.coin_flip", module, device)


def _draw(name: str, module: RandomOperator, device: Device | None) -> DataNode:
    if device not in ("cpu", "gpu", None):
        raise ValueError(f"fn.{name} has no device {device!r}; it is one of cpu, gpu")
    draws = current_trace(name).call(name, module)
    return draws.gpu() if device == "gpu" else draws
