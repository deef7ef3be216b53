"""Random numbers, one a sample."""

from __future__ import annotations

from collections.abc import Sequence

from torchdali.ops import Choice, RandomOperator, Uniform
from torchdali.pipeline import DataNode, current_trace

__all__ = ["uniform"]


def uniform(
    *,
    range: Sequence[float] | None = None,
    values: Sequence[float] | None = None,
    seed: int | None = None,
) -> DataNode:
    """A float32 for each sample: see :class:`torchdali.ops.Uniform` and :class:`torchdali.ops.Choice`.

    Args:
        range: (low, high), by default (-1, 1).
        values: draw one of these instead.
        seed: instead of the pipeline's.

    Raises:
        ValueError: both were given, or the range is not two numbers in order.
    """
    module: RandomOperator
    if values is not None:
        if range is not None:
            raise ValueError(f"range={range!r} and values={values!r} exclude each other")
        module = Choice(values, seed=seed)
    else:
        ends = (-1.0, 1.0) if range is None else tuple(range)
        if len(ends) != 2:
            raise ValueError(f"range is {range!r}; it is two numbers, low and high")
        module = Uniform(*ends, seed=seed)
    return current_trace("random.uniform").call("random.uniform", module)
