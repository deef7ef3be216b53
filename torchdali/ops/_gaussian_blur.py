"""Gaussian blur."""

from __future__ import annotations

import numpy as np
import torch

from torchdali.ops._arguments import check_dtype
from torchdali.ops._blur import Blur
from torchdali.ops._geometry_arguments import Numbers, check_pixels, pairs_per_sample, require, shown
from torchdali.ops._operator import ImageOperator
from torchdali.ops._steps import Sizes

__all__ = ["GaussianBlur"]


class GaussianBlur(ImageOperator):
    """Blur images with a Gaussian, as DALI's ``fn.gaussian_blur``.

    Args:
        sigma: standard deviation in pixels: one number, (vertical, horizontal), one value or pair for each sample, or a
            random operator. None or 0: it follows from the window, ``((window_size - 1) / 2 - 1) * 0.3 + 0.8``.
        window_size: how many pixels the filter spans, odd; given as ``sigma`` is. None or 0: it follows from sigma,
            ``2 * ceil(3 * sigma) + 1``. (torchvision's ``kernel_size`` is this, with (horizontal, vertical) for a pair.)
        dtype: of the results; by default the images'. Integers are rounded half to even and clamped.

    Beyond its border an image is mirrored without repeating the outermost pixel.

    Shape: (C, H, W) or (H, W, C) images on the CPU or the GPU; results of the same shape and layout.

    Raises:
        ValueError: neither sigma nor window_size is given, or one is out of its range.
    """

    def __init__(
        self,
        sigma: Numbers | None = None,
        window_size: Numbers | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if sigma is None and window_size is None:
            raise ValueError(
                "neither sigma nor window_size is given; give at least one of them, the other follows from it"
            )
        self.sigma = sigma
        self.window_size = window_size
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, sigma=None, window_size=None, dtype=None)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        sigma: Numbers | None = None,
        window_size: Numbers | None = None,
    ) -> Blur:
        """See :meth:`ImageOperator.step`."""
        check_pixels(dtype, "GaussianBlur")
        count = len(sizes)
        sigma = self.sigma if sigma is None else sigma
        window_size = self.window_size if window_size is None else window_size
        deviation = pairs_per_sample(0 if sigma is None else sigma, count, "sigma")
        window = pairs_per_sample(0 if window_size is None else window_size, count, "window_size")
        require(
            (deviation >= 0) & (deviation < 2**20),
            deviation,
            "sigma",
            "a positive number, or 0 where window_size is given",
        )
        require(
            (window == 0) | ((window > 0) & (window % 2 == 1) & (window < 2**24)),
            window,
            "window_size",
            "an odd number of pixels, so that it has a middle, or 0 where sigma is given",
        )
        require(
            (deviation > 0) | (window > 0),
            deviation,
            "sigma",
            "positive where window_size is 0: the one follows from the other",
        )
        radius = np.where(window > 0, (window - 1) / 2, np.ceil(3 * deviation)).astype(np.int64)
        return Blur(np.where(deviation > 0, deviation, (radius - 1) * 0.3 + 0.8), radius, self.dtype)
