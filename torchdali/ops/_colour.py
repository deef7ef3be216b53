"""What is done to a pixel's channels and to nothing else: one affine map for each image.

8-bit images whose channels are worked on one by one have 256 possible results for each channel. A table of them is made in
double precision and looked up, which on a CPU is quicker than arithmetic and gives the rounded result of the exact formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._steps import FLOATS, INTEGERS, WIDE, Sizes, Step, convert

__all__ = ["Colour"]

_LEVELS = 256


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
            bad = int(finite.argmin())
            raise ValueError(
                f"image {bad} has the factors and offsets {numbers[bad].tolist()}; they have to be finite: look for a division "
                "by 0 where they come from"
            )

    def sizes(self, sizes: Sizes) -> Sizes:
        """The same, but for the number of channels that a matrix gives."""
        if self.matrix.ndim == 1:
            return sizes
        channels = self.matrix.shape[-1]
        wrong = np.flatnonzero(sizes[:, 0] != channels)
        if len(wrong):
            raise ValueError(
                f"image {wrong[0]} has {sizes[wrong[0], 0]} channels, but what is to be done is said for {channels}; "
                "decode all images in one mode, or give one number for all channels"
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
            raise TypeError(
                f"images of type {dtype} have no colour; integers and floating point have: ops.Cast converts"
            )
        return self.to or dtype

    def evaluate(self, values: torch.Tensor, position: int) -> torch.Tensor:
        """The map of one image, without conversion.

        Args:
            values: floating point, (C, H, W).
            position: of the image.
        """
        if self.matrix.ndim == 3:
            return _mix(values, self.matrix[position], self.offset[position])
        return self._term(self.matrix, position, values) * values + self._term(self.offset, position, values)

    @staticmethod
    def _term(array: npt.NDArray[np.float64], position: int, values: torch.Tensor) -> torch.Tensor:
        """Parameters of an image in a shape that goes with the values of :meth:`evaluate`."""
        return torch.tensor(array[position].reshape(-1, 1, 1), dtype=values.dtype, device=values.device)

    @property
    def terms(self) -> npt.NDArray[np.float64]:
        """(N, 4) or (N, C, 4), where channels do not mix: shift, factor, centre and slope.

        ``shift + factor * (centre + slope * (in - centre))``, computed in this order, is what :meth:`evaluate` gives.
        """
        return np.stack([self.offset, self.matrix, np.zeros_like(self.matrix), np.ones_like(self.matrix)], -1)

    def plain(self, image: torch.Tensor, position: int, precision: torch.dtype = torch.float32) -> torch.Tensor:
        """Map one image; the order of its memory stays."""
        to = self.dtype(image.dtype)
        if image.dtype == torch.uint8 and self.matrix.ndim < 3:
            levels = torch.arange(_LEVELS, dtype=torch.float64, device="cpu").view(1, 1, -1)
            return _look_up(image, convert(self.evaluate(levels, position), to).view(-1, _LEVELS))
        if not WIDE.isdisjoint((image.dtype, to)) or image.dtype == torch.int16:
            precision = torch.float64
        return convert(self.evaluate(image.to(precision), position), to)


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
