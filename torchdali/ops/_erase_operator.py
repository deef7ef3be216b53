"""Setting rectangles of images to a value."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops import _erase
from torchdali.ops._context import describe_sample
from torchdali.ops._geometry_arguments import Numbers, check_pixels, constant_fill, numbers_per_sample, shown
from torchdali.ops._operator import ImageOperator
from torchdali.ops._steps import Sizes

__all__ = ["Erase"]


class Erase(ImageOperator):
    """Set rectangles of images to a value, as DALI's ``fn.erase``.

    Args:
        anchor: top and left of each rectangle, one after the other: (top, left, top, left, ...). The same for all samples as
            a tuple; a row for each sample as an array, a tensor or a TensorList, whose rows may differ in length.
        shape: height and width of each rectangle, in the same order.
        fill: a number, or one for each channel, in units of the image; rounded and clamped for integers.
        axes: what the values of ``anchor`` and ``shape`` mean, in order. With ``"H"`` or ``"W"`` there is one for each
            rectangle, which is as long as the image along the other axis.
        normalized: ``anchor`` and ``shape`` are shares of the image's height and width; or two bools, for either.
        centered: ``anchor`` is the middle of a rectangle.

    What a rectangle begins and ends at is cut off to whole pixels. What lies outside the image does not count.

    Shape: (C, H, W) or (H, W, C) images; results of the same shape, layout and type.

    Raises:
        ValueError: anchor and shape have not the same number of values, or not one for each axis, or a shape is negative.
    """

    def __init__(
        self,
        anchor: Numbers,
        shape: Numbers,
        fill: float | tuple[float, ...] = 0.0,
        *,
        axes: Literal["HW", "WH", "H", "W"] = "HW",
        normalized: bool | tuple[bool, bool] = False,
        centered: bool = False,
    ) -> None:
        super().__init__()
        self.anchor = anchor
        self.shape = shape
        self.fill = fill
        self._fill = constant_fill(fill)
        self.normalized = normalized
        self._normalized = (bool(normalized),) * 2 if not isinstance(normalized, (tuple, list)) else tuple(normalized)
        if len(self._normalized) != 2:
            raise ValueError(f"normalized is {normalized!r}; it is a bool, or two: of anchor and of shape")
        if axes not in ("HW", "WH", "H", "W"):
            raise ValueError(f"axes is {axes!r}; it is one of 'HW', 'WH', 'H', 'W'")
        self.axes = axes
        self.centered = bool(centered)

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, anchor=None, shape=None, fill=0.0, axes="HW", normalized=False, centered=False)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        anchor: Numbers | None = None,
        shape: Numbers | None = None,
    ) -> _erase.Erase:
        """See :meth:`ImageOperator.step`."""
        check_pixels(dtype, "Erase")
        count = len(sizes)
        anchors = numbers_per_sample(self.anchor if anchor is None else anchor, count, "anchor")
        shapes = numbers_per_sample(self.shape if shape is None else shape, count, "shape")
        lengths = [(len(start), len(extent)) for start, extent in zip(anchors, shapes, strict=True)]
        for position, pair in enumerate(lengths):
            if pair[0] != pair[1] or pair[0] % len(self.axes):
                raise ValueError(
                    f"anchor has {pair[0]} values and shape {pair[1]} for {describe_sample(position)}; for each rectangle both "
                    f"have {len(self.axes)}: along {' and '.join(self.axes)}"
                )
        most = max(lengths, default=(0, 0))[0]
        regions = np.zeros((count, most // len(self.axes), 4), np.int64)
        for length in {length for length, _ in lengths if length}:  # all images with as many rectangles at once
            chosen = np.flatnonzero([pair[0] == length for pair in lengths])
            start, extent = (np.stack([rows[position] for position in chosen]) for rows in (anchors, shapes))
            regions[chosen, : length // len(self.axes)] = self._regions(start, extent, sizes[chosen, 1:], chosen)
        return _erase.Erase(regions, np.tile(self._fill, (count, 1)))

    def _regions(
        self,
        anchor: npt.NDArray[np.float64],
        shape: npt.NDArray[np.float64],
        images: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        """Top, left, height and width of the R rectangles of each of some images, within it, (M, R, 4)."""
        negative = (shape < 0).any(1)
        if negative.any():
            bad = int(negative.argmax())
            raise ValueError(
                f"shape is {shape[bad].tolist()} for {describe_sample(int(positions[bad]))}; it is not negative"
            )
        count = anchor.shape[1] // len(self.axes)
        begin = np.zeros((len(images), count, 2), np.int64)
        end = np.repeat(images[:, None], count, 1)
        for number, name in enumerate(self.axes):
            axis = "HW".index(name)
            length = images[:, axis, None]
            start, extent = (
                values[:, number :: len(self.axes)] * (length if relative else 1)
                for values, relative in zip((anchor, shape), self._normalized, strict=True)
            )
            start = start - extent / 2 if self.centered else start
            begin[..., axis] = np.clip(np.trunc(start), 0, length)
            end[..., axis] = np.clip(np.trunc(start + extent), 0, length)
        return np.concatenate([begin, end - begin], 2)
