"""Resizing, by DALI's rules for sizes."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import Argument, check_dtype, per_sample
from torchdali.ops._geometry_arguments import (
    Numbers,
    check_filter,
    check_pixels,
    pairs_per_sample,
    require,
    rounded,
    shown,
)
from torchdali.ops._operator import ImageOperator
from torchdali.ops._resample import Filter, Resample
from torchdali.ops._steps import Sizes

__all__ = ["Resize", "ResizeMode", "resized"]

ResizeMode: TypeAlias = Literal["default", "stretch", "not_larger", "not_smaller"]
"""What becomes of a size that does not have the image's aspect ratio."""

_WAYS = ("size", "resize_x and resize_y", "resize_shorter", "resize_longer")
_NO_LIMIT = np.zeros(2)


def resized(
    sizes: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.float64],
    mode: ResizeMode = "default",
    limit: npt.NDArray[np.float64] = _NO_LIMIT,
) -> npt.NDArray[np.int64]:
    """Heights and widths that images are resized to: the rules of DALI's ``fn.resize`` (resize_attr_base.cc).

    Args:
        sizes: (N, 2) of the images.
        wanted: (N, 2), not negative; 0 for what is to be found.
        mode: see :class:`Resize`.
        limit: (2,), the largest height and width; 0: none.

    Returns:
        (N, 2), at least 1; halves are rounded up.
    """
    sizes = np.maximum(sizes, 1)
    given = wanted > 0
    some = np.maximum.reduce(given, 1)
    # The axis that decides about the scale. Sizes are multiplied before they are divided, so that the result is exact.
    unknown = np.inf if mode == "not_larger" else -np.inf
    scale = np.where(given, wanted / sizes, unknown)
    deciding = scale.argmin(1) if mode == "not_larger" else scale.argmax(1)
    rows = np.arange(len(sizes))
    denominator = sizes[rows, deciding]
    numerator = np.where(some, wanted[rows, deciding], denominator)
    if mode in ("not_larger", "not_smaller"):
        for axis in np.flatnonzero(limit):
            smaller = some & (limit[axis] * denominator < numerator * sizes[:, axis])
            numerator = np.where(smaller, limit[axis], numerator)
            denominator = np.where(smaller, sizes[:, axis], denominator)
        result = sizes * numerator[:, None] / denominator[:, None]
    else:
        missing = sizes if mode == "stretch" else sizes * numerator[:, None] / denominator[:, None]
        result = np.where(given, wanted, missing)
        result = np.where((limit > 0) & some[:, None], np.minimum(result, limit), result)
    return np.maximum(rounded(np.asarray(result, np.float64)), 1)


class Resize(ImageOperator):
    """Resize images, as DALI's ``fn.resize`` does with ``subpixel_scale=False``.

    The size is given in exactly one of these ways, each a number, one value a sample, or a random operator; 0 stands for an
    extent that is found from the other, and all 0 for the image's own size:

    Args:
        size: one number, which is both height and width, or (height, width). (In torchvision an int is the shorter side:
            that is ``resize_shorter``.)
        resize_x, resize_y: width and height.
        resize_shorter: the length of the shorter side; the aspect ratio is kept.
        resize_longer: the length of the longer side; the aspect ratio is kept.
        mode: of ``size`` or ``resize_x`` and ``resize_y``: ``"default"``: that size, what is missing is found so that the
            aspect ratio stays; ``"stretch"``: that size, what is missing stays as it is; ``"not_larger"``,
            ``"not_smaller"``: the aspect ratio is kept, and the image just fits into that size, or just covers it.
        max_size: one number or (height, width): no result is larger; the aspect ratio is kept where the mode keeps it. 0 is
            no limit.
        filter: ``"nearest"``, ``"linear"``, ``"cubic"``, ``"lanczos3"``, ``"box"`` or ``"gaussian"``.
        antialias: the filter's support grows as the image shrinks, as in PIL; not for ``"nearest"``.
        dtype: of the results; by default the images'. Integers are rounded half to even and clamped.

    Sizes that are not whole are rounded, halves up (torchvision cuts them off). A negative size flips that axis.

    Shape: (C, H, W) or (H, W, C) images on the CPU or the GPU; results in the same layout.

    Raises:
        TypeError: no way of giving the size was used, or several.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        size: Numbers | None = None,
        *,
        resize_x: Argument | None = None,
        resize_y: Argument | None = None,
        resize_shorter: Argument | None = None,
        resize_longer: Argument | None = None,
        mode: ResizeMode = "default",
        max_size: float | tuple[float, float] | None = None,
        filter: Filter = "linear",
        antialias: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if mode not in get_args(ResizeMode):
            raise ValueError(f"mode is {mode!r}; it is one of {', '.join(map(repr, get_args(ResizeMode)))}")
        way = _way(size, resize_x, resize_y, resize_shorter, resize_longer)
        if mode != "default" and way in ("resize_shorter", "resize_longer"):
            raise TypeError(f"mode={mode!r} goes with size or resize_x and resize_y; {way} is a mode of its own")
        self.size, self.resize_x, self.resize_y = size, resize_x, resize_y
        self.resize_shorter, self.resize_longer = resize_shorter, resize_longer
        self.mode = mode
        self.max_size = max_size
        self._limit = pairs_per_sample(0 if max_size is None else max_size, 1, "max_size")[0]
        if (self._limit < 0).any():
            raise ValueError(f"max_size is {max_size!r}; it is a number of pixels, and 0 for no limit")
        self.filter: Filter = check_filter(filter)
        self.antialias = bool(antialias)
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(
            self,
            size=None,
            resize_x=None,
            resize_y=None,
            resize_shorter=None,
            resize_longer=None,
            mode="default",
            max_size=None,
            filter="linear",
            antialias=True,
            dtype=None,
        )

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        size: Numbers | None = None,
        resize_x: Argument | None = None,
        resize_y: Argument | None = None,
        resize_shorter: Argument | None = None,
        resize_longer: Argument | None = None,
    ) -> Resample:
        """See :meth:`ImageOperator.step`."""
        check_pixels(dtype, "Resize")
        count = len(sizes)
        size = self.size if size is None else size
        resize_x = self.resize_x if resize_x is None else resize_x
        resize_y = self.resize_y if resize_y is None else resize_y
        resize_shorter = self.resize_shorter if resize_shorter is None else resize_shorter
        resize_longer = self.resize_longer if resize_longer is None else resize_longer
        way = _way(size, resize_x, resize_y, resize_shorter, resize_longer)
        mode = self.mode
        if size is not None:
            wanted = pairs_per_sample(size, count, way)
        elif resize_shorter is not None:
            mode, wanted = "not_smaller", np.stack([per_sample(resize_shorter, count, way)] * 2, 1)
        elif resize_longer is not None:
            mode, wanted = "not_larger", np.stack([per_sample(resize_longer, count, way)] * 2, 1)
        else:
            axes = (("resize_y", resize_y), ("resize_x", resize_x))
            wanted = np.stack([per_sample(0 if value is None else value, count, name) for name, value in axes], 1)
        require(np.abs(wanted) < 2**31, wanted, way, "a number of pixels")
        images = sizes[:, 1:]
        window = np.concatenate([np.zeros_like(images), images], 1)
        result = resized(images, np.abs(wanted), mode, self._limit)
        return Resample(window, result, wanted < 0, self.filter, self.antialias, None, self.dtype)


def _way(
    size: Numbers | None, x: Argument | None, y: Argument | None, shorter: Argument | None, longer: Argument | None
) -> str:
    given = (size is not None, x is not None or y is not None, shorter is not None, longer is not None)
    used = [way for way, is_given in zip(_WAYS, given, strict=True) if is_given]
    if len(used) != 1:
        raise TypeError(
            f"the size is given by {' and by '.join(used) or 'nothing'}; it is given by exactly one of: {', '.join(_WAYS)}"
        )
    return used[0]
