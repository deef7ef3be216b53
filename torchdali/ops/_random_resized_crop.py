"""A random window of each image, resized: the usual augmentation of training on ImageNet."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import check_dtype
from torchdali.ops._geometry_arguments import Numbers, check_filter, check_pixels, pairs_per_sample, require, shown
from torchdali.ops._operator import ImageOperator
from torchdali.ops._random import RandomOperator
from torchdali.ops._random_crop import ATTEMPTS, check_random_crop, draws_of_random_crop, random_crop_windows
from torchdali.ops._resample import Filter, Resample
from torchdali.ops._steps import Sizes

__all__ = ["RandomResizedCrop", "RandomWindow"]


class RandomWindow(RandomOperator):
    """Draws the window of a random crop for each image; see :class:`RandomResizedCrop`, whose arguments these are."""

    def __init__(
        self,
        area: tuple[float, float] = (0.08, 1.0),
        aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        attempts: int = ATTEMPTS,
        *,
        seed: int | None = None,
    ) -> None:
        check_random_crop(area, aspect_ratio, attempts)
        super().__init__(seed)
        self.area = (float(area[0]), float(area[1]))
        self.aspect_ratio = (float(aspect_ratio[0]), float(aspect_ratio[1]))
        self.attempts = int(attempts)
        self.streams = draws_of_random_crop(attempts)

    def transform(self, uniform: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """As they are: a window comes of all of a sample's numbers, see :meth:`windows`."""
        return uniform

    def windows(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Draw.

        Args:
            sizes: (N, 2), height and width of the images.

        Returns:
            (N, 4): top, left, height, width in pixels.
        """
        uniforms = self.uniforms(len(sizes), self.streams)
        windows = random_crop_windows(sizes, uniforms, self.area, self.aspect_ratio, self.attempts)
        self.record(torch.from_numpy(windows))
        return windows

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"area={self.area}, aspect_ratio={self.aspect_ratio}, attempts={self.attempts}" + (
            "" if self.seed is None else f", seed={self.seed}"
        )


class RandomResizedCrop(ImageOperator):
    """Cut a window of random area, aspect ratio and place out of each image, and resize it.

    The distribution is that of DALI's ``fn.random_resized_crop``. Where ``attempts`` windows do not fit into the image, the
    largest one of an allowed aspect ratio is taken.

    Args:
        size: height and width of the results, in pixels: one number for both, (height, width), or a row a sample.
        area: lowest and highest share of the image's area.
        aspect_ratio: lowest and highest width divided by height; its logarithm is uniform.
        attempts: how many windows are tried.
        filter, antialias, dtype: as of :class:`Resize`.
        seed: of the windows, instead of the pipeline's.

    Shape: (C, H, W) or (H, W, C) images; results in the same layout.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        size: Numbers,
        area: tuple[float, float] = (0.08, 1.0),
        aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        attempts: int = ATTEMPTS,
        *,
        filter: Filter = "linear",
        antialias: bool = True,
        dtype: torch.dtype | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.window = RandomWindow(area, aspect_ratio, attempts, seed=seed)
        self.filter: Filter = check_filter(filter)
        self.antialias = bool(antialias)
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``; those of the window are the submodule's."""
        return shown(self, size=None, filter="linear", antialias=True, dtype=None)

    def step(  # type: ignore[override]
        self, sizes: Sizes, dtype: torch.dtype, *, size: Numbers | None = None
    ) -> Resample:
        """See :meth:`ImageOperator.step`."""
        check_pixels(dtype, "RandomResizedCrop")
        count = len(sizes)
        result = pairs_per_sample(self.size if size is None else size, count, "size")
        require(
            (result >= 1) & (result == np.floor(result)) & (result < 2**31), result, "size", "whole numbers of pixels"
        )
        windows = self.window.windows(sizes[:, 1:])
        flip = np.zeros((count, 2), np.bool_)
        return Resample(windows, result.astype(np.int64), flip, self.filter, self.antialias, None, self.dtype)
