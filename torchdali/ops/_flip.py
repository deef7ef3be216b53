"""Mirror images."""

from __future__ import annotations

import numpy as np
import torch

from torchdali.ops._arguments import Argument, per_sample
from torchdali.ops._geometry_arguments import check_pixels, require, shown
from torchdali.ops._operator import ImageOperator
from torchdali.ops._resample import Resample
from torchdali.ops._steps import Sizes

__all__ = ["Flip"]


class Flip(ImageOperator):
    """Flip images left to right, top to bottom, or both.

    Args:
        horizontal: 1 swaps left and right, 0 does not; a number, one for each sample, or a random operator such as
            ``CoinFlip()``.
        vertical: 1 swaps top and bottom.

    Shape: (C, H, W) or (H, W, C) images; results of the same shape, layout and type.

    Raises:
        ValueError: a value is neither 0 nor 1.
    """

    def __init__(self, horizontal: Argument = 1, vertical: Argument = 0) -> None:
        super().__init__()
        self.horizontal = horizontal
        self.vertical = vertical

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(self, horizontal=None, vertical=None)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        horizontal: Argument | None = None,
        vertical: Argument | None = None,
    ) -> Resample:
        """See :meth:`ImageOperator.step`."""
        check_pixels(dtype, "Flip")
        count = len(sizes)
        values = []
        for name, argument in (
            ("vertical", self.vertical if vertical is None else vertical),
            ("horizontal", self.horizontal if horizontal is None else horizontal),
        ):
            value = per_sample(argument, count, name)
            require((value == 0) | (value == 1), value, name, "0 (as it is) or 1 (flipped)")
            values.append(value == 1)
        window = np.concatenate([np.zeros_like(sizes[:, 1:]), sizes[:, 1:]], 1)
        return Resample(window, sizes[:, 1:], np.stack(values, 1), "nearest", False)
