"""Random operators: numbers for each sample, from a generator keyed by (seed, epoch, sample).

Within a pipeline a draw depends on nothing else: not on the number of workers, the size of a batch, the prefetch depth or
what was drawn before. Outside a pipeline they draw from torch's default generator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from torchdali._philox import words
from torchdali.ops._context import current_batch
from torchdali.ops._foresight import hand
from torchdali.ops._steps import FLOATS, INTEGERS, WIDE, convert
from torchdali.ops._uncompiled import uncompiled

__all__ = ["Choice", "CoinFlip", "Normal", "RandomOperator", "Uniform", "number_streams"]


class RandomOperator(nn.Module, ABC):
    """Draws a number, or an array of them, for each sample.

    A subclass says by :meth:`transform` what becomes of numbers that are uniform in [0, 1). One whose draws are no such
    function of single numbers sets :attr:`streams`, overrides :meth:`forward`, and there calls :meth:`uniforms` and
    :meth:`record`.

    Args:
        seed: instead of the pipeline's.
        shape: of what is drawn for a sample; () is one number.
        dtype: of the draws: integers are rounded half to even and clamped. Integer, floating point or bool.

    Raises:
        ValueError: the shape has a size that is no positive integer, or there are no draws of such a type.
        TypeError: the seed is no integer.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        shape: int | Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
        try:
            self.seed = None if seed is None else index(seed)
        except TypeError:
            raise TypeError(f"seed is {seed!r}; it is an integer, or None for the pipeline's") from None
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"shape is {shape!r}; it is made of positive integers, and () for one number a sample")
        if dtype not in (*INTEGERS, *FLOATS, torch.bool):
            raise ValueError(f"dtype is {dtype}; it is an integer, floating-point or bool type")
        self.shape = sizes
        self.dtype = dtype
        self.streams = math.prod(self.shape)
        """How many independent sequences the operator draws from, one number of each for a sample."""
        self.stream = 0
        """The first of them among the pipeline's; a pipeline numbers those of all its random operators."""
        self.label = ""
        """The operator's name in the pipeline, such as ``"enhance.contrast"``."""

    @abstractmethod
    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Map numbers that are uniform in [0, 1), multiples of 2**-53, to the operator's distribution, one by one."""

    def uniforms(self, count: int | None = None, k: int = 1) -> npt.NDArray[np.float64]:
        """Draw numbers that are uniform in [0, 1), multiples of 2**-53.

        Args:
            count: number of samples; within a pipeline that of the batch.
            k: numbers for each sample, at most ``streams``. The first ones are the same for every ``k``.

        Returns:
            Shape (N, k). Two calls in one batch of a pipeline give the same numbers.

        Raises:
            TypeError: no count was given outside a pipeline.
            ValueError: the batch has another number of samples, or ``k`` is not within ``streams``.
        """
        if not 1 <= k <= self.streams:
            raise ValueError(
                f"{k} numbers a sample are wanted of a {type(self).__name__} that has {self.streams} streams; set "
                "`streams` in its constructor"
            )
        context = current_batch()
        if context is None:
            if count is None:
                raise TypeError(
                    "outside a pipeline a random operator needs to know how many values to draw: pass count"
                )
            return torch.rand(count, k, dtype=torch.float64, device="cpu").numpy()
        if count is not None and count != len(context.indices):
            raise ValueError(f"{count} draws are wanted in a batch of {len(context.indices)}; it is one draw a sample")
        seed = context.seed if self.seed is None else self.seed
        streams = np.arange(self.stream, self.stream + k)
        high, low, _, _ = words(seed, context.epoch, streams, context.indices[:, None])
        bits = (high >> np.uint64(5)) << np.uint64(26) | low >> np.uint64(6)  # 53 bits
        values: npt.NDArray[np.float64] = bits.astype(np.float64) * 2.0**-53
        return values

    def record(self, values: torch.Tensor) -> None:
        """Keep what was drawn for the batch at hand, where its pipeline records draws."""
        context = current_batch()
        if context is not None and context.draws is not None:
            context.draws[self.label or type(self).__name__] = values

    @uncompiled
    def forward(self, count: int | None = None) -> torch.Tensor:
        """Draw.

        Args:
            count: number of samples; within a pipeline that of the batch.

        Returns:
            CPU tensor of shape (count,) followed by ``shape``.
        """
        call = hand(self, None, {"count": count}, None)
        drawn = None if call is None else call.drawn()
        if drawn is None:
            uniform = self.uniforms(count, self.streams)
            drawn = torch.from_numpy(self.transform(uniform)).reshape(len(uniform), *self.shape)
            drawn = drawn != 0 if self.dtype == torch.bool else convert(drawn, self.dtype)
            self.record(drawn)
        if call is not None:
            call.gave(drawn)
        return drawn

    def _repr(self, *arguments: object) -> str:
        """What a constructor was given, for ``print``: positional arguments, and the common ones that were set."""
        shown = [str(argument) for argument in arguments]
        shown += [f"shape={self.shape}"] if self.shape else []
        shown += [] if self.seed is None else [f"seed={self.seed}"]
        return ", ".join(shown)


class Uniform(RandomOperator):
    """Uniform in [``low``, ``high``).

    Args:
        low, high: the range; ``low <= high``.
        seed, shape, dtype: as of :class:`RandomOperator`. ``high`` itself is never drawn as float32 or float64; types with
            fewer digits and integers may round to it.
    """

    def __init__(
        self,
        low: float = -1.0,
        high: float = 1.0,
        shape: int | Sequence[int] = (),
        *,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed, shape=shape, dtype=dtype)
        self.low, self.high = _number(low, "low"), _number(high, "high")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"the range [{low}, {high}) is not one: both ends are finite numbers and low <= high")

    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Scale; what would round up to ``high`` becomes the number below it."""
        kind = np.float64 if self.dtype in WIDE else np.float32
        values: npt.NDArray[Any] = (self.low + (self.high - self.low) * uniform).astype(kind)
        if self.low < self.high:
            values = np.where(values >= kind(self.high), np.nextafter(kind(self.high), kind(self.low)), values)
        return values

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return self._repr(self.low, self.high)


class Normal(RandomOperator):
    """Normally distributed.

    One uniform number u makes one draw, mean + stddev * q(u), where q is the inverse of the standard normal distribution
    function; the largest draws are 8.4 standard deviations from the mean.

    Args:
        mean: of the distribution.
        stddev: its standard deviation, not negative; 0 draws the mean.
        seed, shape, dtype: as of :class:`RandomOperator`.
    """

    def __init__(
        self,
        mean: float = 0.0,
        stddev: float = 1.0,
        shape: int | Sequence[int] = (),
        *,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed, shape=shape, dtype=dtype)
        self.mean, self.stddev = _number(mean, "mean"), _number(stddev, "stddev")
        if not (math.isfinite(self.mean) and math.isfinite(self.stddev) and self.stddev >= 0):
            raise ValueError(f"mean={mean} and stddev={stddev}: both are finite numbers and stddev is not negative")

    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """The quantiles; 0 has none, and stands for the half of the interval above it."""
        quantiles = torch.special.ndtri(torch.from_numpy(np.maximum(uniform, 2.0**-54))).numpy()
        values: npt.NDArray[Any] = self.mean + self.stddev * quantiles
        return values

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return self._repr(self.mean, self.stddev)


class CoinFlip(RandomOperator):
    """1 with a probability, else 0.

    Args:
        probability: of 1, from 0 to 1.
        seed, shape, dtype: as of :class:`RandomOperator`.
    """

    def __init__(
        self,
        probability: float = 0.5,
        shape: int | Sequence[int] = (),
        *,
        dtype: torch.dtype = torch.int32,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed, shape=shape, dtype=dtype)
        self.probability = _number(probability, "probability")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {probability}; it is a number from 0 to 1")

    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Compare."""
        return (uniform < self.probability).astype(np.float32)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return self._repr(self.probability)


class Choice(RandomOperator):
    """One of ``values``, each with the same probability.

    Args:
        values: at least one number.
        seed, shape, dtype: as of :class:`RandomOperator`.
    """

    def __init__(
        self,
        values: Sequence[float],
        shape: int | Sequence[int] = (),
        *,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed, shape=shape, dtype=dtype)
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise TypeError(f"values is {values!r}; it is a sequence of numbers, one of which is drawn")
        self.values = tuple(_number(value, "one of values") for value in values)
        if not self.values:
            raise ValueError("values is empty; there is nothing to choose from")

    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Pick by position."""
        table = np.asarray(self.values, np.float64)
        return table[(uniform * len(table)).astype(np.int64)]

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return self._repr(list(self.values))


def _number(value: Any, name: str) -> float:
    """A setting that is one number, of Python, NumPy or torch."""
    with suppress(TypeError, ValueError, RuntimeError):
        if not isinstance(value, (str, bytes)):  # which Python would read
            return float(value)
    raise TypeError(f"{name} is {value!r}; it is one number, the same for all samples")


def number_streams(module: nn.Module) -> None:
    """Give each random operator within a module sequences of its own, in the order of ``module.modules()``, and its name."""
    stream = 0
    for name, operator in module.named_modules():
        if isinstance(operator, RandomOperator):
            operator.stream, operator.label = stream, name
            stream += operator.streams
