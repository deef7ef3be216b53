"""Crop, flip and resize in one: a window of the image, resampled to a size by a separable filter.

    out[y, x] = sum over i, j of  wy[y, i] * wx[x, j] * in[i, j]

where ``in`` is the window, and along each axis, from ``n`` pixels to ``m``

    w[y, i] = f((i + 0.5 - c) / s) / (the sum over all i),   c = (y + 0.5) * n / m,   s = max(1, n / m) or 1

The scale ``s`` grows with the reduction where antialiasing is asked for. Weights are normalised over the pixels of the
window, so that nothing outside it has a part: it is the same as to crop first and then resize, as PIL and torchvision do.
A window that keeps its size is copied, whatever the filter.

The filters are those of PIL (linear: triangle; cubic: Keys 1981 with a = -0.5; Lanczos with three lobes; box), and DALI's
Gaussian, exp(-4 x^2) cut off at 1. Without antialiasing the cubic filter has a = -0.75, as in torch and OpenCV, which differ
in the outermost pixels: they repeat the edge of the image. "nearest" takes the pixel that the centre of the result's pixel
falls into, and knows no antialiasing.

DALI repeats the edge too, and its operators that resize a part of an image read beyond the part: near borders results differ.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._context import describe_sample
from torchdali.ops._steps import Sizes, Step, convert

__all__ = [
    "FILTERS",
    "Filter",
    "Resample",
    "check_fill",
    "check_not_empty",
    "converted",
    "filter_taps",
    "full_precision",
    "nearest_pixels",
    "working_precision",
]

Filter: TypeAlias = Literal["nearest", "linear", "cubic", "lanczos3", "box", "gaussian"]
"""Names of resampling filters."""

FILTERS: tuple[str, ...] = get_args(Filter)

_Values: TypeAlias = npt.NDArray[np.float64]


def _triangle(x: _Values) -> _Values:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _keys(x: _Values, a: float) -> _Values:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos3(x: _Values) -> _Values:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _box(x: _Values) -> _Values:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)  # open on one side: a pixel on the edge counts once


def _gaussian(x: _Values) -> _Values:
    return np.where(np.abs(x) <= 1, np.exp(-4.0 * x * x), 0.0)


_KERNELS: dict[str, tuple[Callable[[_Values], _Values], float]] = {
    "linear": (_triangle, 1.0),
    "cubic": (lambda x: _keys(x, -0.5), 2.0),
    "lanczos3": (_lanczos3, 3.0),
    "box": (_box, 0.5),
    "gaussian": (_gaussian, 1.0),
}


def filter_taps(
    length: int, result: int, name: str, antialias: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The weights of a filter along one axis of ``length`` pixels that becomes ``result`` pixels.

    Returns:
        The first input pixel of each output pixel, (result,), which may be negative, and the weights of it and those that
        follow, (result, taps); weights of pixels outside the axis are 0.
    """
    kernel, radius = _KERNELS[name]
    if name == "cubic" and not antialias:
        kernel = lambda x: _keys(x, -0.75)  # noqa: E731
    # (i + 0.5 - c) / s is a fraction of integers: exact until the one division, so that ties are the same everywhere.
    unit = max(length, result) if antialias else result
    centers = (2 * np.arange(result, dtype=np.int64) + 1) * length  # c * 2 * result
    reach = radius * unit * 2
    first = np.ceil((centers - reach - result) / (2 * result)).astype(np.int64)
    taps = int(np.floor(reach / result)) + 1
    pixels = first[:, None] + np.arange(taps)
    weights = kernel(((2 * pixels + 1) * result - centers[:, None]) / (2.0 * unit))
    weights[(pixels < 0) | (pixels >= length)] = 0.0
    return first, weights / weights.sum(1, keepdims=True)


def nearest_pixels(length: int, result: int) -> npt.NDArray[np.int64]:
    """For each of ``result`` pixels the one of ``length`` that its centre falls into, floor((y + 0.5) * length / result)."""
    return (2 * np.arange(result, dtype=np.int64) + 1) * length // (2 * result)


_BLOCK = 32


def _filtered(values: torch.Tensor, result: int, name: str, antialias: bool, precision: torch.dtype) -> torch.Tensor:
    """Images (C, length, W) of any type as (C, result, W) in ``precision``, filtered along their second dimension."""
    channels, length, width = values.shape
    first, weights = filter_taps(length, result, name, antialias)
    taps = weights.shape[1]
    output = torch.empty((channels, result, width), dtype=precision, device=values.device)
    # A product with the matrix of all weights would be mostly zeros: a block of results depends on a short stretch of pixels.
    for start in range(0, result, _BLOCK):
        stop = min(start + _BLOCK, result)
        begin, end = max(int(first[start]), 0), min(int(first[stop - 1]) + taps, length)
        matrix = np.zeros((stop - start, end - begin))
        columns = first[start:stop, None] - begin + np.arange(taps)
        rows, places = np.nonzero((columns >= 0) & (columns < end - begin))
        matrix[rows, columns[rows, places]] = weights[start:stop][rows, places]
        stretch = values[:, begin:end].to(precision, memory_format=torch.contiguous_format).contiguous()
        output[:, start:stop] = torch.from_numpy(matrix).to(values.device, precision) @ stretch
    return output


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Context in which matrix products are of the type of their factors: autocast is for networks, and would lower it."""
    enabled = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if enabled else nullcontext()


def working_precision(dtype: torch.dtype, to: torch.dtype, precision: torch.dtype) -> torch.dtype:
    """The type to compute in: ``precision``, and float64 for images, or results, whose values float32 does not hold."""
    wide = dtype in (torch.int32, torch.int64, torch.float64) or to == torch.float64
    return torch.float64 if wide else precision


def converted(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values of any type as another, rounded half to even and clamped where they have to be; no copy if it is the same."""
    if dtype == values.dtype or dtype.is_floating_point:
        return values.to(dtype)
    return convert(values if values.is_floating_point() else values.to(torch.float64), dtype)


@dataclass(frozen=True, eq=False)
class Resample(Step):
    """A window of each image, resized and flipped; see the module."""

    window: npt.NDArray[np.int64]
    """(N, 4): top, left, height and width of the part that is used, in pixels; may reach beyond the image, see ``fill``."""
    size: npt.NDArray[np.int64]
    """(N, 2): height and width of the results. Where they are the window's, the pixels are copied as they are."""
    flip: npt.NDArray[np.bool_]
    """(N, 2): whether the result is flipped top to bottom and left to right."""
    filter: Filter = "linear"
    antialias: bool = True
    fill: npt.NDArray[np.float64] | None = None
    """(C,) or (1,): the value outside the image, in units of the image; None: the window has to be inside."""
    to: torch.dtype | None = None
    """Of the results; None: the input's. Integers are rounded half to even and clamped."""

    def sizes(self, sizes: Sizes) -> Sizes:
        """Those of the results; see :meth:`Step.sizes`."""
        check_not_empty(sizes)
        top, left, height, width = self.window.T
        _refuse(
            np.minimum(height, width) < 1,
            lambda at: f"the window to be used has height {height[at]} and width {width[at]}; both are at least 1",
        )
        _refuse(
            self.size.min(1) < 1,
            lambda at: f"it would become {self.size[at, 0]} x {self.size[at, 1]} pixels; both are at least 1",
        )
        if self.fill is None:
            ends = np.stack([top + height > sizes[:, 1], left + width > sizes[:, 2], top < 0, left < 0])
            _refuse(
                ends.max(0),
                lambda at: (
                    f"rows {top[at]} to {top[at] + height[at]} and columns {left[at]} to {left[at] + width[at]} are wanted "
                    f"of an image of {sizes[at, 1]} x {sizes[at, 2]} pixels (height x width); give a fill value for what "
                    "lies outside, or a smaller window"
                ),
            )
        else:
            check_fill(self.fill, sizes)
        return np.concatenate([sizes[:, :1], self.size], 1)

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the results."""
        return self.to or dtype

    def plain(self, image: torch.Tensor, position: int, precision: torch.dtype = torch.float32) -> torch.Tensor:
        """The window of one image, resized and flipped; a view where nothing is to be computed."""
        height, width = self.window[position, 2:].tolist()
        size = (int(self.size[position, 0]), int(self.size[position, 1]))
        to = self.dtype(image.dtype)
        if size == (height, width):
            values = self._part(image, position, to)
        elif self.filter == "nearest":
            values = self._part(image, position, to)
            for dim, (length, result) in enumerate(zip((height, width), size, strict=True), 1):
                values = values.index_select(dim, torch.from_numpy(nearest_pixels(length, result)).to(image.device))
        else:
            work = working_precision(image.dtype, to, precision)
            values = self._part(image, position, work)
            blurs = self.filter == "gaussian"  # the others leave an axis as it is whose length stays
            with full_precision(image.device.type):
                if size[0] != height or blurs:
                    values = _filtered(values, size[0], self.filter, self.antialias, work)
                if size[1] != width or blurs:
                    values = _filtered(values.mT, size[1], self.filter, self.antialias, work).mT
        flipped = [dim + 1 for dim in range(2) if self.flip[position, dim]]
        return converted(values.flip(flipped) if flipped else values, to)

    def _part(self, image: torch.Tensor, position: int, dtype: torch.dtype) -> torch.Tensor:
        """The window: a view where it is inside the image, else a copy of type ``dtype`` with the fill value around."""
        top, left, height, width = self.window[position].tolist()
        _, image_height, image_width = image.shape
        upper, lower = max(top, 0), max(min(top + height, image_height), 0)
        first, last = max(left, 0), max(min(left + width, image_width), 0)
        inside = image[:, upper : max(lower, upper), first : max(last, first)]
        if self.fill is None or inside.shape[1:] == (height, width):
            return inside
        fill = converted(torch.from_numpy(self.fill), dtype).to(image.device)
        part = fill[:, None, None].expand(image.shape[0], height, width).contiguous()
        if inside.numel():
            part[:, upper - top : lower - top, first - left : last - left] = converted(inside, dtype)
        return part


def _refuse(bad: npt.NDArray[np.bool_], message: Callable[[int], str]) -> None:
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(f"{describe_sample(at)}: {message(at)}")


def check_not_empty(sizes: Sizes) -> None:
    """See that images have pixels.

    Raises:
        ValueError: one has none.
    """
    _refuse(
        sizes.min(1, initial=1) < 1,
        lambda at: (
            f"the image has no pixels: {sizes[at, 0]} channels, {sizes[at, 1]} x {sizes[at, 2]} (height x width)"
        ),
    )


def check_fill(fill: npt.NDArray[np.float64], sizes: Sizes) -> None:
    """See that there is one fill value, or one for each channel.

    Raises:
        ValueError: an image has another number of channels.
    """
    if len(fill) != 1:
        _refuse(
            sizes[:, 0] != len(fill),
            lambda at: f"{len(fill)} fill values are given for an image of {sizes[at, 0]} channels; give 1 or one each",
        )
