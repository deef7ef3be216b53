"""Affine warps: each pixel of the result is read from a place in the image that a matrix gives.

    [x_in, y_in] = M @ [x_out + 0.5, y_out + 0.5, 1]

in continuous coordinates, where pixel (row i, column j) covers [j, j + 1) x [i, i + 1) and its centre is (j + 0.5, i + 0.5).
"nearest" takes the pixel that covers (x_in, y_in); "linear" interpolates between the four centres around it, each of which
counts as the fill value where there is no such pixel. That is DALI's convention for ``inverse_map=True``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._resample import check_fill, check_not_empty, converted, working_precision
from torchdali.ops._steps import Sizes, Step

__all__ = ["Warp"]

_PIECE = 1 << 14
"""Pixels that are worked on at once on the CPU."""


@dataclass(frozen=True, eq=False)
class Warp(Step):
    """An affine warp of each image; see the module."""

    matrix: npt.NDArray[np.float64]
    """(N, 2, 3): from coordinates in the result to coordinates in the image."""
    size: npt.NDArray[np.int64]
    """(N, 2): height and width of the results."""
    filter: Literal["nearest", "linear"] = "linear"
    fill: npt.NDArray[np.float64] | None = None
    """(C,) or (1,): the value outside the image, in units of the image; None: that of the nearest pixel of its edge."""
    to: torch.dtype | None = None
    """Of the results; None: the input's. Integers are rounded half to even and clamped."""

    def sizes(self, sizes: Sizes) -> Sizes:
        """Those of the results; see :meth:`Step.sizes`."""
        check_not_empty(sizes)
        if self.fill is not None:
            check_fill(self.fill, sizes)
        return np.concatenate([sizes[:, :1], self.size], 1)

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the results."""
        return self.to or dtype

    def plain(self, image: torch.Tensor, position: int, precision: torch.dtype = torch.float32) -> torch.Tensor:
        """One image, warped."""
        channels, height, width = image.shape
        to = self.dtype(image.dtype)
        work = to if self.filter == "nearest" else working_precision(image.dtype, to, precision)
        values = converted(image, work)
        values = values.contiguous() if self.fill is None else self._framed(values)
        rows, columns = self.size[position].tolist()
        result = torch.empty((channels, rows, columns), dtype=to, device=image.device)
        # In pieces that stay in a processor's cache with all that is between them and the result.
        step = rows if image.is_cuda else max(1, _PIECE // columns)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            piece = self._read(values, (height, width), *self._coordinates(position, start, stop, image.device), work)
            result[:, start:stop] = converted(piece, to).view(channels, stop - start, columns)
        return result

    def _read(
        self,
        values: torch.Tensor,
        size: tuple[int, int],
        columns: torch.Tensor,
        rows: torch.Tensor,
        work: torch.dtype,
    ) -> torch.Tensor:
        """The image of a size at some places, (C, places); in ``values`` there may be a frame around it."""
        height, width = size
        pixels, stride = values.view(len(values), -1), values.shape[2]

        def taps(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
            return pixels.index_select(1, (row * stride + column).view(-1))

        if self.filter == "nearest":
            row, column = self._inside(rows.floor_(), height), self._inside(columns.floor_(), width)
            return taps(row.long(), column.long())
        row, column = self._inside(rows.sub_(0.5), height), self._inside(columns.sub_(0.5), width)
        top, left = row.long(), column.long()  # not negative: this is the floor
        down, right = ((at - whole).to(work).view(-1) for at, whole in ((row, top), (column, left)))
        below, beside = top + 1, left + 1
        if self.fill is None:  # the pixel after the last one is the last one
            below.clamp_(max=height - 1)
            beside.clamp_(max=width - 1)
        upper = torch.lerp(taps(top, left), taps(top, beside), right)
        lower = torch.lerp(taps(below, left), taps(below, beside), right)
        return torch.lerp(upper, lower, down)

    def _coordinates(
        self, position: int, start: int, stop: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x_in and y_in of each pixel in some rows of the result, (rows, width), in double precision."""
        matrix = self.matrix[position].tolist()
        x = torch.arange(int(self.size[position, 1]), dtype=torch.float64, device=device) + 0.5
        y = torch.arange(start, stop, dtype=torch.float64, device=device)[:, None] + 0.5
        columns, rows = (by_x * x + (by_y * y + offset) for by_x, by_y, offset in matrix)
        return columns, rows

    def _inside(self, at: torch.Tensor, length: int) -> torch.Tensor:
        """Positions along an axis of the pixels in ``plain``: cut to the axis, or to the frame of fill around it."""
        if self.fill is None:
            return at.clamp_(0, length - 1)
        return at.clamp_(-1, length) + 1

    def _framed(self, values: torch.Tensor) -> torch.Tensor:
        """With the fill value around: one pixel before, two behind, as the last position has a neighbour."""
        assert self.fill is not None
        channels, height, width = values.shape
        fill = converted(torch.from_numpy(self.fill), values.dtype).to(values.device)
        framed = fill[:, None, None].expand(channels, height + 3, width + 3).contiguous()
        framed[:, 1 : height + 1, 1 : width + 1] = values
        return framed
