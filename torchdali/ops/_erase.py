"""Rectangles of an image are set to a value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._resample import check_fill, converted
from torchdali.ops._steps import Sizes, Step

__all__ = ["Erase"]


@dataclass(frozen=True, eq=False)
class Erase(Step):
    """Rectangles of each image are set to a value."""

    regions: npt.NDArray[np.int64]
    """(N, R, 4): top, left, height and width in pixels, inside the image; height 0: none."""
    fill: npt.NDArray[np.float64]
    """(N, C) or (N, 1): the value, in units of the image; rounded half to even and clamped for integers."""

    def sizes(self, sizes: Sizes) -> Sizes:
        """They stay."""
        check_fill(self.fill.T, sizes)
        return sizes

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """It stays."""
        return dtype

    def plain(self, image: torch.Tensor, position: int, precision: torch.dtype = torch.float32) -> torch.Tensor:
        """A copy of one image with its regions set; the image itself if it has none."""
        regions = [region for region in self.regions[position].tolist() if region[2] > 0 and region[3] > 0]
        if not regions:
            return image
        fill = converted(torch.from_numpy(self.fill[position]), image.dtype).to(image.device)
        result = image.clone()
        for top, left, height, width in regions:
            result[:, top : top + height, left : left + width] = fill[:, None, None]
        return result
