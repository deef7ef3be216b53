"""Random operators: one draw a sample, from a generator keyed by (seed, epoch, sample).

Within a pipeline a draw depends on nothing else: not on the number of workers, the size of a batch, the prefetch depth or
what was drawn before. Outside a pipeline they draw from torch's default generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from torchdali._philox import words
from torchdali.ops._context import current_batch

__all__ = ["Choice", "RandomOperator", "Uniform", "number_streams"]


class RandomOperator(nn.Module, ABC):
    """Draws a float32 for each sample.

    Args:
        seed: instead of the pipeline's.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = seed
        self.stream = 0
        """Which of the pipeline's independent sequences is drawn from; a pipeline numbers its random operators."""

    @abstractmethod
    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Map numbers that are uniform in [0, 1), multiples of 2**-53, to the operator's distribution."""

    def forward(self, count: int | None = None) -> torch.Tensor:
        """Draw.

        Args:
            count: number of samples; within a pipeline that of the batch.

        Returns:
            float32 CPU tensor of shape (count,).
        """
        context = current_batch()
        if context is None:
            if count is None:
                raise TypeError(
                    "outside a pipeline a random operator needs to know how many values to draw: pass count"
                )
            return torch.from_numpy(self.transform(torch.rand(count, dtype=torch.float64).numpy()))
        if count is not None and count != len(context.indices):
            raise ValueError(f"{count} draws are wanted in a batch of {len(context.indices)}; it is one draw a sample")
        seed = context.seed if self.seed is None else self.seed
        high, low, _, _ = words(seed, context.epoch, self.stream, context.indices)
        bits = (high >> np.uint64(5)) << np.uint64(26) | low >> np.uint64(6)  # 53 bits
        return torch.from_numpy(self.transform(bits.astype(np.float64) * 2.0**-53))


class Uniform(RandomOperator):
    """Uniform in [``low``, ``high``).

    Args:
        low, high: the range; ``low <= high``.
        seed: instead of the pipeline's.
    """

    def __init__(self, low: float = -1.0, high: float = 1.0, *, seed: int | None = None) -> None:
        super().__init__(seed)
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise ValueError(f"the range [{low}, {high}) is not one: both ends are finite numbers and low <= high")
        self.low, self.high = float(low), float(high)

    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Scale; what would round up to ``high`` becomes the number below it."""
        values = (self.low + (self.high - self.low) * uniform).astype(np.float32)
        if self.low < self.high:
            below = np.nextafter(np.float32(self.high), np.float32(self.low))
            values = np.where(values >= np.float32(self.high), below, values)
        return values

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"{self.low}, {self.high}" + ("" if self.seed is None else f", seed={self.seed}")


class Choice(RandomOperator):
    """One of ``values``, each with the same probability.

    Args:
        values: at least one number.
        seed: instead of the pipeline's.
    """

    def __init__(self, values: Sequence[float], *, seed: int | None = None) -> None:
        super().__init__(seed)
        if len(values) == 0:
            raise ValueError("values is empty; there is nothing to choose from")
        self.values = tuple(float(value) for value in values)

    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Pick by position."""
        table = np.asarray(self.values, np.float32)
        return table[(uniform * len(table)).astype(np.int64)]

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"{list(self.values)}" + ("" if self.seed is None else f", seed={self.seed}")


def number_streams(module: nn.Module) -> None:
    """Give each random operator within a module a sequence of its own, in the order of ``module.modules()``."""
    operators = [child for child in module.modules() if isinstance(child, RandomOperator)]
    for stream, operator in enumerate(operators):
        operator.stream = stream
