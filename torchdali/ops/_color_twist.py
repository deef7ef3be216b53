"""Hue, saturation, brightness and contrast in one, by DALI's formulas.

    out = brightness * contrast * inv(Y) @ H(hue) @ diag(1, s, s) @ Y @ in  +  center * (1 - contrast) * brightness

``Y`` takes red, green and blue to the YIQ space of NTSC, of which the first axis is luma; saturation ``s`` scales the
other two, hue turns them by degrees: H = [[1, 0, 0], [0, cos, sin], [0, -sin, cos]]. It is a linear approximation of what
HSV means by these words. ``center`` is 0.5 for floating-point images and 128 for integers.

Source: NVIDIA DALI's documentation of ``fn.color_twist`` and ``fn.hsv``. Its numbers for ``Y`` are those below, and the way
back is its exact inverse. They are rounded, so that gray becomes gray only up to three thousandths.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import Argument, check_argument, check_dtype, per_sample
from torchdali.ops._colour import Colour
from torchdali.ops._context import describe_sample
from torchdali.ops._geometry_arguments import check_pixels, shown
from torchdali.ops._operator import ImageOperator
from torchdali.ops._steps import Sizes

__all__ = ["ColorTwist", "Hsv", "Hue", "Saturation", "twist_matrices"]

_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_RGB = np.linalg.inv(_YIQ)


def twist_matrices(hue: npt.NDArray[np.float64], saturation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``inv(Y) @ H(hue) @ diag(1, s, s) @ Y`` for each sample, shape (N, 3, 3).

    Args:
        hue: (N,), in degrees.
        saturation: (N,), factors.
    """
    angle = np.deg2rad(hue)
    cosine, sine = saturation * np.cos(angle), saturation * np.sin(angle)
    change = np.stack([np.stack([cosine - 1, sine], -1), np.stack([-sine, cosine - 1], -1)], -2)
    # The sum with the identity makes "no change" exact, which the product with the inverse is not.
    matrices: npt.NDArray[np.float64] = np.eye(3) + _RGB[:, 1:] @ change @ _YIQ[1:]
    return matrices


def _center(dtype: torch.dtype) -> float:
    return 0.5 if dtype.is_floating_point else 128.0


def _twist(
    sizes: Sizes,
    dtype: torch.dtype,
    name: str,
    to: torch.dtype | None,
    *,
    brightness: Argument = 1.0,
    contrast: Argument = 1.0,
    saturation: Argument = 1.0,
    hue: Argument = 0.0,
) -> Colour:
    """The step of all operators of this module."""
    check_pixels(dtype, name)
    wrong = np.flatnonzero(sizes[:, 0] != 3)
    if len(wrong):
        raise ValueError(
            f"{name} got an image with {sizes[wrong[0], 0]} channels, {describe_sample(int(wrong[0]))}; it takes RGB images, "
            "which have 3: decode grayscale images as RGB too"
        )
    given = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    bright, slope, factor, angle = (per_sample(value, len(sizes), key) for key, value in given.items())
    matrix = (bright * slope)[:, None, None] * twist_matrices(angle, factor)
    offset = _center(dtype) * (1 - slope) * bright
    return Colour(matrix, np.repeat(offset[:, None], 3, 1), to)


class ColorTwist(ImageOperator):
    """Change brightness, contrast, saturation and hue, as DALI's ``fn.color_twist``.

    Args:
        brightness: multiplies all, 1 leaves it as it is.
        contrast: multiplies the distance from the middle of the range (0.5 for floating-point images, 128 for integers);
            1 leaves it as it is, 0 gives a uniform gray.
        saturation: multiplies the distance from gray; 1 leaves it as it is, 0 gives the luma in all channels.
        hue: turns colours, in degrees; 0 and 360 leave them as they are.
        dtype: of the results; by default the images'. Values are not rescaled; integers are rounded half to even and clamped.

    Each of the four is a number, one value for each sample, or a random operator such as :class:`Uniform`.

    Shape: (3, H, W) or (H, W, 3) images, RGB; results of the same shape and layout.

    Raises:
        TypeError: an argument is no number, array or module.
        ValueError: a number is not finite, images cannot have this dtype, or an image has not 3 channels.
    """

    def __init__(
        self,
        brightness: Argument = 1.0,
        contrast: Argument = 1.0,
        saturation: Argument = 1.0,
        hue: Argument = 0.0,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.brightness = check_argument(brightness, "brightness")
        self.contrast = check_argument(contrast, "contrast")
        self.saturation = check_argument(saturation, "saturation")
        self.hue = check_argument(hue, "hue")
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, dtype=None)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        brightness: Argument | None = None,
        contrast: Argument | None = None,
        saturation: Argument | None = None,
        hue: Argument | None = None,
    ) -> Colour:
        """See :meth:`ImageOperator.step`."""
        return _twist(
            sizes,
            dtype,
            type(self).__name__,
            self.dtype,
            brightness=self.brightness if brightness is None else brightness,
            contrast=self.contrast if contrast is None else contrast,
            saturation=self.saturation if saturation is None else saturation,
            hue=self.hue if hue is None else hue,
        )


class Hsv(ImageOperator):
    """Change hue, saturation and value, as DALI's ``fn.hsv``: a :class:`ColorTwist` without contrast.

    Args:
        hue: turns colours, in degrees.
        saturation: multiplies the distance from gray.
        value: multiplies all, 1 leaves it as it is.
        dtype: of the results; by default the images'.

    Arguments, shapes and errors are as of :class:`ColorTwist`.
    """

    def __init__(
        self,
        hue: Argument = 0.0,
        saturation: Argument = 1.0,
        value: Argument = 1.0,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hue = check_argument(hue, "hue")
        self.saturation = check_argument(saturation, "saturation")
        self.value = check_argument(value, "value")
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, hue=0.0, saturation=1.0, value=1.0, dtype=None)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        hue: Argument | None = None,
        saturation: Argument | None = None,
        value: Argument | None = None,
    ) -> Colour:
        """See :meth:`ImageOperator.step`."""
        count = len(sizes)
        return _twist(
            sizes,
            dtype,
            type(self).__name__,
            self.dtype,
            brightness=per_sample(self.value if value is None else value, count, "value"),
            saturation=self.saturation if saturation is None else saturation,
            hue=self.hue if hue is None else hue,
        )


class Hue(ImageOperator):
    """Turn colours, as DALI's ``fn.hue``; see :class:`ColorTwist`.

    Args:
        hue: in degrees: a number, one for each sample, or a random operator.
        dtype: of the results; by default the images'.
    """

    def __init__(self, hue: Argument = 0.0, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.hue = check_argument(hue, "hue")
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, hue=0.0, dtype=None)

    def step(  # type: ignore[override]
        self, sizes: Sizes, dtype: torch.dtype, *, hue: Argument | None = None
    ) -> Colour:
        """See :meth:`ImageOperator.step`."""
        return _twist(sizes, dtype, type(self).__name__, self.dtype, hue=self.hue if hue is None else hue)


class Saturation(ImageOperator):
    """Multiply the distance of colours from gray, as DALI's ``fn.saturation``; see :class:`ColorTwist`.

    Args:
        saturation: a factor: a number, one for each sample, or a random operator.
        dtype: of the results; by default the images'.
    """

    def __init__(self, saturation: Argument = 1.0, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.saturation = check_argument(saturation, "saturation")
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, saturation=1.0, dtype=None)

    def step(  # type: ignore[override]
        self, sizes: Sizes, dtype: torch.dtype, *, saturation: Argument | None = None
    ) -> Colour:
        """See :meth:`ImageOperator.step`."""
        factor = self.saturation if saturation is None else saturation
        return _twist(sizes, dtype, type(self).__name__, self.dtype, saturation=factor)
