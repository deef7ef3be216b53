"""What is done to a pixel's channels and to nothing else: one affine map for each image.

8-bit images whose channels are worked on one by one have 256 possible results for each channel. A table of them is made in
double precision and looked up, which is quicker than arithmetic and gives the rounded result of the exact formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._steps import FLOATS, INTEGERS, Sizes, Step, convert

__all__ = ["Colour"]

_LEVELS = 256
_TOGETHER = 16


@dataclass(frozen=True, eq=False)
class Colour(Step):
    """``out = convert(matrix @ in + offset, to)`` for each pixel.

    Raises:
        ValueError: the shapes do not fit each other, or a number is not finite.
    """

    matrix: npt.NDArray[np.float64]
    """(N,): a factor for all channels. (N, C): a factor for each. (N, C_out, C_in): what each channel gives to each."""
    offset: npt.NDArray[np.float64]
    """(N,) where the matrix is, else (N, C_out)."""
    to: torch.dtype | None = None
    """Type of the results; None: that of the images."""

    def __post_init__(self) -> None:
        matrix, offset = self.matrix.shape, self.offset.shape
        if not 1 <= len(matrix) <= 3 or offset != matrix[:2]:
            raise ValueError(
                f"the matrices have shape {matrix} and the offsets {offset}; they are (N,) and (N,), (N, C) and (N, C), or "
                "(N, C_out, C_in) and (N, C_out)"
            )
        count = len(self.matrix)
        numbers = np.concatenate(
            [self.matrix.reshape(count, math.prod(matrix[1:])), self.offset.reshape(count, math.prod(offset[1:]))], 1
        )
        finite = np.isfinite(numbers).all(1)
        if not finite.all():
            raise ValueError(f"image {int(finite.argmin())} has factors or offsets that are not finite numbers")

    def sizes(self, sizes: Sizes) -> Sizes:
        """The same, but for the number of channels that a matrix gives."""
        if self.matrix.ndim == 1:
            return sizes
        channels = self.matrix.shape[-1]
        wrong = np.flatnonzero(sizes[:, 0] != channels)
        if len(wrong):
            raise ValueError(
                f"image {wrong[0]} has {sizes[wrong[0], 0]} channels, but what is to be done is said for {channels}"
            )
        results = sizes.copy()
        results[:, 0] = self.matrix.shape[1]
        return results

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """``to``, or that of the images.

        Raises:
            TypeError: the images are neither integers nor floating point.
        """
        if dtype not in (*INTEGERS, *FLOATS):
            raise TypeError(f"images of type {dtype} have no colour; integers and floating point have")
        return self.to or dtype

    def evaluate(self, values: Any, position: int | slice) -> Any:
        """The map, without conversion.

        Args:
            values: a floating-point tensor: the channels of one image, (C, H, W). Or an array, (1, 1, L).
            position: of the image, or a slice of positions, which only goes where channels do not mix.

        Returns:
            The same kind.
        """
        if self.matrix.ndim == 3:
            if isinstance(position, slice):
                raise ValueError("channels that mix are worked on image by image")
            return _mix(values, self.matrix[position], self.offset[position])
        return self._terms(self.matrix, position, values) * values + self._terms(self.offset, position, values)

    @staticmethod
    def _terms(array: npt.NDArray[np.float64], position: int | slice, values: Any) -> Any:
        """Parameters in a shape that goes with the values of :meth:`evaluate`."""
        if isinstance(position, slice):
            return array[position].reshape(len(array[position]), -1, 1)
        terms = array[position].reshape(-1, 1, 1)
        return torch.tensor(terms, dtype=values.dtype, device=values.device)

    def table(self, dtype: torch.dtype, first: int = 0, last: int | None = None) -> npt.NDArray[Any]:
        """What becomes of each level of 8-bit images as a type; there is no such thing where channels mix.

        Args:
            dtype: of the results; bfloat16 comes as its bits, int16.
            first, last: the images, from ``first`` to before ``last``.

        Returns:
            Of shape (last - first, 1 or C, 256).
        """
        last = len(self.matrix) if last is None else last
        rows = self.matrix.shape[1] if self.matrix.ndim == 2 else 1
        as_numpy = np.dtype(np.int16) if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype
        table = np.empty((last - first, rows, _LEVELS), as_numpy)
        levels = np.arange(float(_LEVELS)).reshape(1, 1, -1)
        # By NumPy, which works on this thread, where torch would wake a team of them for some microseconds' work; and some
        # images at a time, so that what is computed on stays near the processor.
        for start in range(first, last, _TOGETHER):
            end = min(start + _TOGETHER, last)
            table[start - first : end - first] = _as_type(self.evaluate(levels, slice(start, end)), dtype)
        return table

    def plain(self, image: torch.Tensor, position: int, precision: torch.dtype = torch.float32) -> torch.Tensor:
        """Map one image; the order of its memory stays."""
        to = self.dtype(image.dtype)
        if image.dtype == torch.uint8 and self.matrix.ndim < 3:
            table = torch.from_numpy(self.table(to, position, position + 1)[0])
            return _look_up(image, table.view(torch.bfloat16) if to == torch.bfloat16 else table)
        if torch.float64 in (image.dtype, to) or (image.dtype in INTEGERS and image.dtype.itemsize > 1):
            precision = torch.float64
        return convert(self.evaluate(image.to(precision), position), to)


def _as_type(values: npt.NDArray[np.float64], dtype: torch.dtype) -> npt.NDArray[Any]:
    """As :func:`convert`, by NumPy; bfloat16 as its bits. The values may be changed."""
    if dtype in (torch.bfloat16, torch.int64):
        converted = convert(torch.from_numpy(values), dtype)
        return (converted.view(torch.int16) if dtype == torch.bfloat16 else converted).numpy()
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        np.rint(values, out=values)
        np.clip(values, limits.min, limits.max, out=values)
    return values


def _mix(values: torch.Tensor, matrix: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]) -> torch.Tensor:
    """``matrix`` (C_out, C_in) times the channels of (C_in, H, W), plus ``offset`` (C_out,)."""
    # Not matmul: its precision is the user's to lower, by autocast and by set_float32_matmul_precision.
    results = []
    for factors, constant in zip(matrix.tolist(), offset.tolist(), strict=True):
        result: torch.Tensor | None = None
        for channel, factor in zip(values, factors, strict=True):
            if factor:  # what has no part in a result has none when it is infinite either
                result = channel * factor if result is None else result.add_(channel, alpha=factor)
        results.append(torch.full_like(values[0], constant) if result is None else result.add_(constant))
    interleaved = values.stride(0) == 1 and values.shape[0] > 1
    return torch.stack(results, -1).permute(2, 0, 1) if interleaved else torch.stack(results)


def _look_up(image: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Each level of a uint8 image (C, H, W) in a table of shape (1 or C, 256)."""
    # Work through the image in the order of its memory, whatever its dimensions are called.
    order = sorted(range(3), key=lambda dim: (image.stride(dim), image.shape[dim]), reverse=True)
    ordered = image.permute(order)
    if image.device.type == "cpu":
        # NumPy's conversion stays on this thread, where torch's would start a team of threads in each of the caller's.
        index = torch.from_numpy(ordered.numpy().astype(np.int32))
    else:
        index = ordered.to(torch.int32)
        table = table.to(image.device)
    if len(table) > 1:
        starts = torch.arange(0, table.numel(), _LEVELS, dtype=torch.int32, device=image.device)
        index += starts.view(-1, 1, 1).permute(order)
    results = table.view(-1).index_select(0, index.view(-1)).view(index.shape)
    return results.permute([order.index(dim) for dim in range(3)])
