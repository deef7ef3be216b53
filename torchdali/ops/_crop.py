"""Cutting a window out of images."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import Argument, check_dtype, per_sample
from torchdali.ops._geometry_arguments import (
    Numbers,
    check_pixels,
    constant_fill,
    pairs_per_sample,
    require,
    rounded,
    shown,
)
from torchdali.ops._operator import ImageOperator
from torchdali.ops._resample import Resample
from torchdali.ops._steps import Sizes

__all__ = ["Crop", "OutOfBounds", "crop_windows"]

OutOfBounds: TypeAlias = Literal["error", "trim_to_shape", "pad"]
"""What is done about a window that reaches beyond the image."""


def crop_windows(
    sizes: npt.NDArray[np.int64],
    size: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    rounding: Literal["round", "truncate"] = "round",
) -> npt.NDArray[np.int64]:
    """Where windows of a size lie in images: the rule of DALI's ``fn.crop``.

    The top is ``y * (height - window height)``, the left ``x * (width - window width)``, rounded to the nearest integer,
    halves away from zero, or cut off.

    Args:
        sizes: (N, 2), height and width of the images.
        size: (N, 2), height and width of the windows, whole numbers; 0: the image's.
        x, y: (N,), within [0, 1].
        rounding: ``"round"`` or ``"truncate"``.

    Returns:
        (N, 4): top, left, height, width in pixels. A window larger than its image has a negative top or left.

    Raises:
        ValueError: a value is out of its range.
    """
    require(
        (size >= 0) & (size == np.floor(size)) & (size < 2**31), size, "size", "whole numbers of pixels, or 0 for all"
    )
    for name, place in (("x", x), ("y", y)):
        require((place >= 0) & (place <= 1), place, name, "within 0 (the left or top) and 1 (the right or bottom)")
    shape = np.where(size == 0, sizes, size).astype(np.int64)
    places = np.stack([y, x], 1) * (sizes - shape)
    return np.concatenate([rounded(places) if rounding == "round" else places.astype(np.int64), shape], 1)


class Crop(ImageOperator):
    """Cut out a window of a given size, as DALI's ``fn.crop``.

    The window's top is ``y * (height - window height)`` and its left ``x * (width - window width)``. Pixels are not changed;
    on the CPU results are views where nothing else is asked for.

    Args:
        size: height and width of the window: one number for both or (height, width); 0 is the image's own.
        x, y: where the window lies, from 0 (left, top) to 1 (right, bottom); 0.5 is the middle.
        out_of_bounds: what is done about a window larger than the image: ``"error"``; ``"trim_to_shape"``: the result is
            the part of it that is inside; ``"pad"``: what is outside has the value ``fill``.
        fill: a number, or one for each channel, in units of the image.
        rounding: of the window's place: ``"round"`` to the nearest integer, halves away from zero, or ``"truncate"``.
        dtype: of the results; by default the images'. Values are not rescaled.

    ``size``, ``x`` and ``y`` are numbers, one value for each sample, or random operators: ``Crop(224, Uniform(0, 1),
    Uniform(0, 1))`` is a random crop.

    Shape: (C, H, W) or (H, W, C) images; results in the same layout.

    Raises:
        ValueError: an argument is out of its range, or a window reaches beyond its image with ``"error"``.
    """

    def __init__(
        self,
        size: Numbers,
        x: Argument = 0.5,
        y: Argument = 0.5,
        *,
        out_of_bounds: OutOfBounds = "error",
        fill: float | tuple[float, ...] = 0.0,
        rounding: Literal["round", "truncate"] = "round",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if out_of_bounds not in get_args(OutOfBounds):
            raise ValueError(
                f"out_of_bounds is {out_of_bounds!r}; it is one of {', '.join(map(repr, get_args(OutOfBounds)))}"
            )
        if rounding not in ("round", "truncate"):
            raise ValueError(f"rounding is {rounding!r}; it is 'round' or 'truncate'")
        self.size, self.x, self.y = size, x, y
        self.out_of_bounds = out_of_bounds
        self.fill = fill
        self._fill = constant_fill(fill)
        self.rounding: Literal["round", "truncate"] = rounding
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, size=None, x=0.5, y=0.5, out_of_bounds="error", fill=0.0, rounding="round", dtype=None)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        size: Numbers | None = None,
        x: Argument | None = None,
        y: Argument | None = None,
        height: Argument | None = None,
        width: Argument | None = None,
    ) -> Resample:
        """See :meth:`ImageOperator.step`. ``height`` and ``width`` are taken instead of those of the size."""
        check_pixels(dtype, "Crop")
        count = len(sizes)
        images = sizes[:, 1:]
        shape = pairs_per_sample(self.size if size is None else size, count, "size")
        for axis, side in enumerate((height, width)):
            if side is not None:
                shape[:, axis] = per_sample(side, count, ("height", "width")[axis])
        window = crop_windows(
            images,
            shape,
            per_sample(self.x if x is None else x, count, "x"),
            per_sample(self.y if y is None else y, count, "y"),
            self.rounding,
        )
        if self.out_of_bounds == "trim_to_shape":
            start = np.maximum(window[:, :2], 0)
            stop = np.minimum(window[:, :2] + window[:, 2:], images)
            window = np.concatenate([start, stop - start], 1)
        fill = self._fill if self.out_of_bounds == "pad" else None
        return Resample(window, window[:, 2:], np.zeros((count, 2), np.bool_), "nearest", False, fill, self.dtype)
