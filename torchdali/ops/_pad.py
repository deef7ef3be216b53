"""Padding images to a size."""

from __future__ import annotations

import numpy as np
import torch

from torchdali.ops._arguments import check_dtype
from torchdali.ops._geometry_arguments import Numbers, check_pixels, constant_fill, pairs_per_sample, require, shown
from torchdali.ops._operator import ImageOperator
from torchdali.ops._resample import Resample
from torchdali.ops._steps import Sizes

__all__ = ["Pad"]


class Pad(ImageOperator):
    """Pad images below and to the right, as DALI's ``fn.pad`` with the axes H and W.

    Args:
        size: least height and width: one number, (height, width), or a row for each sample; -1 is the largest of the batch.
            By default that of both. A larger image is not cut: ``size=1`` pads for ``align`` alone.
        fill: a number, or one for each channel, in units of the image.
        align: heights and widths become multiples of this: one number or (height, width).
        dtype: of the results; by default the images'. Values are not rescaled.

    Shape: (C, H, W) or (H, W, C) images; results in the same layout, which all are of one size unless it is given.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        size: Numbers | None = None,
        fill: float | tuple[float, ...] = 0.0,
        align: float | tuple[float, float] = 1,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.fill = fill
        self._fill = constant_fill(fill)
        self.align = align
        aligned = pairs_per_sample(align, 1, "align")[0]
        if not ((aligned >= 1) & (aligned == np.floor(aligned)) & (aligned < 2**31)).all():
            raise ValueError(f"align is {align!r}; it is a whole number of pixels, at least 1")
        self._align = aligned.astype(np.int64)
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, size=None, fill=0.0, align=1, dtype=None)

    def step(  # type: ignore[override]
        self, sizes: Sizes, dtype: torch.dtype, *, size: Numbers | None = None
    ) -> Resample:
        """See :meth:`ImageOperator.step`."""
        check_pixels(dtype, "Pad")
        count, images = len(sizes), sizes[:, 1:]
        size = self.size if size is None else size
        least = pairs_per_sample(-1 if size is None else size, count, "size")
        require(
            (least == -1) | ((least >= 0) & (least == np.floor(least)) & (least < 2**31)),
            least,
            "size",
            "a whole number of pixels, or -1 for the largest of the batch",
        )
        largest = images.max(0, initial=1)
        shape = np.maximum(np.where(least == -1, largest, least).astype(np.int64), images)
        shape = -(-shape // self._align) * self._align
        window = np.concatenate([np.zeros_like(images), shape], 1)
        return Resample(window, shape, np.zeros((count, 2), np.bool_), "nearest", False, self._fill, self.dtype)
