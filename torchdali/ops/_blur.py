"""Gaussian blur: a separable convolution with a window of 2 * radius + 1 weights along each axis.

    w[k] = exp(-k^2 / (2 sigma^2)) / (the sum over all k),   k = -radius ... radius

Beyond its border the image is mirrored without repeating the outermost pixel ("reflect 101": ``dcb|abcd|cba``), again and
again where the window is larger than the image. DALI, torchvision and OpenCV's default do the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._resample import check_not_empty, converted, full_precision, working_precision
from torchdali.ops._steps import Sizes, Step, convert

__all__ = ["Blur", "gaussian_window", "mirrored"]


def gaussian_window(sigma: float, radius: int) -> npt.NDArray[np.float64]:
    """Weights for offsets ``-radius`` to ``radius``, of sum 1; only the pixel itself for ``sigma`` 0."""
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    if sigma == 0:
        return np.asarray(offsets == 0, np.float64)
    weights: npt.NDArray[np.float64] = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def mirrored(length: int, radius: int) -> npt.NDArray[np.int64]:
    """Which pixels of an axis stand at ``-radius`` to ``length + radius - 1``, shape (length + 2 * radius,)."""
    if length == 1:
        return np.zeros(1 + 2 * radius, np.int64)
    period = 2 * (length - 1)
    places = np.arange(-radius, length + radius, dtype=np.int64) % period
    return np.minimum(places, period - places)


@dataclass(frozen=True, eq=False)
class Blur(Step):
    """A Gaussian blur of each image; see the module."""

    sigma: npt.NDArray[np.float64]
    """(N, 2): standard deviation in pixels, vertical and horizontal."""
    radius: npt.NDArray[np.int64]
    """(N, 2): half the window, without its middle, in pixels; 0 leaves the axis as it is."""
    to: torch.dtype | None = None
    """Of the results; None: the input's. Integers are rounded half to even and clamped."""

    def sizes(self, sizes: Sizes) -> Sizes:
        """They stay."""
        check_not_empty(sizes)
        return sizes

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the results."""
        return self.to or dtype

    def plain(self, image: torch.Tensor, position: int, precision: torch.dtype = torch.float32) -> torch.Tensor:
        """One image, blurred; itself where both axes stay as they are."""
        to = self.dtype(image.dtype)
        if not ((self.sigma[position] > 0) & (self.radius[position] > 0)).any():
            return converted(image, to)
        work = working_precision(image.dtype, to, precision)
        values = image.to(work, memory_format=torch.contiguous_format)
        for axis in (0, 1):
            sigma, radius = float(self.sigma[position, axis]), int(self.radius[position, axis])
            if sigma > 0 and radius > 0:
                window = gaussian_window(sigma, radius)
                values = _convolved(values.mT, window).mT if axis else _convolved(values, window)
        return convert(values, to)


_BLOCK = 64


def _convolved(values: torch.Tensor, window: npt.NDArray[np.float64]) -> torch.Tensor:
    """(C, H, W), filtered along the second dimension."""
    channels, length, width = values.shape
    radius = len(window) // 2
    extended = values.index_select(1, torch.from_numpy(mirrored(length, radius)).to(values.device))
    # As products with a band of weights, a block of rows at a time: quicker than one shifted sum for each weight.
    block = min(_BLOCK, length)
    band = np.zeros((block, block + 2 * radius))
    for row in range(block):
        band[row, row : row + len(window)] = window
    matrix = torch.from_numpy(band).to(values.device, values.dtype)
    result = torch.empty((channels, length, width), dtype=values.dtype, device=values.device)
    with full_precision(values.device.type):
        for start in range(0, length, block):
            rows = min(block, length - start)
            result[:, start : start + rows] = (
                matrix[:rows, : rows + 2 * radius] @ extended[:, start : start + rows + 2 * radius]
            )
    return result
