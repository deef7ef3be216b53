"""Rotation and other affine warps of images."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from torchdali.ops._arguments import Argument, check_dtype, per_sample
from torchdali.ops._geometry_arguments import (
    Numbers,
    check_filter,
    check_pixels,
    constant_fill,
    numbers_per_sample,
    pairs_per_sample,
    require,
    rounded,
    shown,
)
from torchdali.ops._operator import ImageOperator
from torchdali.ops._steps import Sizes
from torchdali.ops._warp import Warp

__all__ = ["Rotate", "WarpAffine", "rotated_canvas"]

_FILTERS = ("nearest", "linear")
_SLACK = 1e-2  # DALI's: a canvas is not made a pixel larger for less


def _cosine_and_sine(degrees: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Exact for multiples of a right angle, so that such a rotation moves pixels and mixes none."""
    turned = np.mod(degrees, 360.0)
    cosine, sine = np.cos(np.deg2rad(turned)), np.sin(np.deg2rad(turned))
    right = np.mod(turned, 90.0) == 0
    return np.where(right, np.rint(cosine), cosine), np.where(right, np.rint(sine), sine)


def rotated_canvas(sizes: npt.NDArray[np.int64], degrees: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The size of the canvas that holds rotated images: the rule of DALI's ``fn.rotate`` (rotate_params.h).

    It is the bounding box of the rotated image, rounded up; and one pixel more where that makes it odd or even like the
    side of the image that is nearer to that direction, so that the centres of pixels match for small angles.

    Args:
        sizes: (N, 2), height and width of the images.
        degrees: (N,).

    Returns:
        (N, 2): height and width.
    """
    cosine, sine = (np.abs(values)[:, None] for values in _cosine_and_sine(degrees))
    crossed = sizes[:, ::-1]
    canvas = np.ceil(cosine * sizes + sine * crossed - _SLACK).astype(np.int64)
    # Half-way between two directions DALI's float32 decides which is the nearer: 45 degrees are 0.785398185.
    radians = (degrees.astype(np.float32) * np.float32(np.pi / 180)).astype(np.float64)[:, None]
    like = np.where(np.abs(np.sin(radians)) <= np.abs(np.cos(radians)), sizes, crossed)
    return np.asarray(canvas + (canvas + like) % 2, np.int64)


def _result_size(size: Numbers, count: int) -> npt.NDArray[np.int64]:
    values = pairs_per_sample(size, count, "size")
    require((rounded(values) >= 1) & (values < 2**31), values, "size", "at least 1 pixel")
    return rounded(values)


class Rotate(ImageOperator):
    """Rotate images around their middle, as DALI's ``fn.rotate``.

    Args:
        angle: in degrees, positive is counter-clockwise; a number, one for each sample, or a random operator.
        size: height and width of the results; by default the canvas holds the whole rotated image, see
            :func:`rotated_canvas`.
        keep_size: results have the size of the images; what is rotated out of it is lost.
        fill: the value outside the image, a number or one for each channel, in units of the image; None: the nearest pixel
            of its edge is repeated.
        filter: ``"linear"`` or ``"nearest"``.
        dtype: of the results; by default the images'. Integers are rounded half to even and clamped.

    Multiples of 90 degrees move pixels without a change wherever the canvas allows it.

    Shape: (C, H, W) or (H, W, C) images on the CPU or the GPU; results in the same layout.

    Raises:
        TypeError: both ``size`` and ``keep_size`` are given.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        angle: Argument,
        size: Numbers | None = None,
        *,
        keep_size: bool = False,
        fill: float | tuple[float, ...] | None = None,
        filter: Literal["nearest", "linear"] = "linear",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if size is not None and keep_size:
            raise TypeError("size and keep_size exclude each other: with keep_size results are as large as the images")
        self.angle = angle
        self.size = size
        self.keep_size = bool(keep_size)
        self.fill = fill
        self._fill = None if fill is None else constant_fill(fill)
        check_filter(filter, _FILTERS)
        self.filter: Literal["nearest", "linear"] = filter
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, angle=None, size=None, keep_size=False, fill=None, filter="linear", dtype=None)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        angle: Argument | None = None,
        size: Numbers | None = None,
    ) -> Warp:
        """See :meth:`ImageOperator.step`."""
        check_pixels(dtype, "Rotate")
        count, images = len(sizes), sizes[:, 1:]
        degrees = per_sample(self.angle if angle is None else angle, count, "angle")
        require(np.isfinite(degrees), degrees, "angle", "a finite number of degrees")
        size = self.size if size is None else size
        if size is not None:
            canvas = _result_size(size, count)
        else:
            canvas = images if self.keep_size else rotated_canvas(images, degrees)
        # From the middle of the result to the middle of the image; y points down, so that this turns clockwise, as what
        # is read from there turns the other way.
        cosine, sine = _cosine_and_sine(degrees)
        matrix = np.stack([cosine, -sine, sine, cosine], 1).reshape(count, 2, 2)
        offset = images[:, ::-1] / 2 - (matrix @ (canvas[:, ::-1, None] / 2))[..., 0]
        return Warp(np.concatenate([matrix, offset[..., None]], 2), canvas, self.filter, self._fill, self.dtype)


class WarpAffine(ImageOperator):
    """Map images by affine transformations, as DALI's ``fn.warp_affine``.

    Coordinates are (x, y) in pixels from the upper left corner of the upper left pixel, whose centre is (0.5, 0.5).

    Args:
        matrix: (2, 3), the same for all samples; (N, 2, 3), one for each; or a module whose call with the number of
            samples gives such a tensor. A flat sequence of six numbers is taken row by row.
        size: height and width of the results; by default the image's.
        inverse_map: True: the matrix maps from the result to the image; False: from the image to the result.
        fill: the value outside the image, a number or one for each channel, in units of the image; None: the nearest pixel
            of its edge is repeated.
        filter: ``"linear"`` or ``"nearest"``.
        dtype: of the results; by default the images'. Integers are rounded half to even and clamped.

    Shape: (C, H, W) or (H, W, C) images on the CPU or the GPU; results in the same layout.

    Raises:
        ValueError: the matrix has another shape, or no inverse where one is needed; or an argument is out of its range.
    """

    def __init__(
        self,
        matrix: Numbers,
        size: Numbers | None = None,
        *,
        inverse_map: bool = True,
        fill: float | tuple[float, ...] | None = None,
        filter: Literal["nearest", "linear"] = "linear",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.matrix = matrix
        self.size = size
        self.inverse_map = bool(inverse_map)
        self.fill = fill
        self._fill = None if fill is None else constant_fill(fill)
        check_filter(filter, _FILTERS)
        self.filter: Literal["nearest", "linear"] = filter
        self.dtype = check_dtype(dtype)
        if not isinstance(matrix, nn.Module) and np.shape(matrix) in ((2, 3), (6,)):
            self._matrices(matrix, 1)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, matrix=None, size=None, inverse_map=True, fill=None, filter="linear", dtype=None)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        matrix: Numbers | None = None,
        size: Numbers | None = None,
    ) -> Warp:
        """See :meth:`ImageOperator.step`."""
        check_pixels(dtype, "WarpAffine")
        count = len(sizes)
        matrices = self._matrices(self.matrix if matrix is None else matrix, count)
        size = self.size if size is None else size
        canvas = sizes[:, 1:] if size is None else _result_size(size, count)
        return Warp(matrices, canvas, self.filter, self._fill, self.dtype)

    def _matrices(self, matrix: Numbers, count: int) -> npt.NDArray[np.float64]:
        """From the result to the image, (N, 2, 3)."""
        if isinstance(matrix, (np.ndarray, torch.Tensor)) and tuple(matrix.shape) in ((2, 3), (6,)):
            matrix = matrix.tolist()
        given = numbers_per_sample(matrix, count, "matrix")
        wrong = next((row for row in given if len(row) != 6), None)
        if wrong is not None:
            raise ValueError(f"matrix has {len(wrong)} numbers; it is 2 x 3: [x, y] = matrix @ [x, y, 1]")
        matrices = np.array(given, np.float64).reshape(count, 2, 3)
        if self.inverse_map:
            return matrices
        linear = matrices[:, :, :2]
        invertible = np.abs(np.linalg.det(linear)) > np.finfo(np.float64).tiny
        require(
            np.asarray(invertible),
            matrices,
            "matrix",
            "invertible: with inverse_map=False it maps from the image to the result, and the way back is needed",
        )
        inverse = np.linalg.inv(linear)
        return np.concatenate([inverse, -inverse @ matrices[:, :, 2:]], 2)
