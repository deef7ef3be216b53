"""Images less their mean, over their deviation, both computed on the device: a launch for these and one for the images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import triton.language as tl

from torchdali.ops._colour import Colour
from torchdali.ops._groups import Group, supports
from torchdali.ops._kernels import _pixel, _statistics
from torchdali.ops._kernels._launch import _TL, _Launch
from torchdali.ops._kernels._tables import Rows, blocks_of
from torchdali.ops._kernels._upload import upload
from torchdali.ops._steps import Sizes
from torchdali.tensorlist import TensorList

__all__ = ["Statistics", "standardized"]

_BLOCK = 512
_TURNS = 16
_MERGE = 128
_KIND = 3
"""Of a change of colour: the distance from a centre times a factor."""


class Statistics(NamedTuple):
    """What is known, and how the rest is to be computed; see :class:`torchdali.ops.Normalize`."""

    mean: npt.NDArray[np.float64] | None
    """(N, 1 or C); None: that of the images."""
    factor: npt.NDArray[np.float64] | None
    """(N, 1 or C): scale / std; None: by the deviation of the images."""
    joint: bool
    """Whether all channels have the same statistics; else each its own."""
    batch: bool
    """Whether all images have."""
    epsilon: float
    ddof: int
    scale: float
    shift: float


def standardized(images: TensorList, sizes: Sizes, statistics: Statistics, to: torch.dtype | None) -> TensorList | None:
    """The images as type ``to``, without what ``statistics`` says; None if the kernels cannot do it.

    Args:
        images: of three dimensions, layout "CHW", "HWC" or unknown, which is "CHW".
        sizes: of the images, (N, 3): channels, height, width.
        statistics: whose arrays go with the images' channels.
        to: of the results; None: the images'.
    """
    count = len(sizes)
    channels = np.unique(sizes[:, 0])
    if statistics.batch and not statistics.joint and len(channels) != 1:
        return None
    given = [array for array in (statistics.mean, statistics.factor) if array is not None]
    alike = statistics.joint and all(array.shape[1] == 1 for array in given)
    # Stands for the change of colour whose numbers come to be on the device.
    shape = (count,) if alike or len(channels) != 1 else (count, int(channels[0]))
    colour = Colour(np.zeros(shape), np.zeros(shape), to)
    group = Group(None, (colour,))
    stages = [(sizes, images.dtype), (colour.sizes(sizes), colour.dtype(images.dtype))]
    if not supports(group, stages):
        return None
    return _Standardize(group, images, stages, statistics, alike or len(channels) == 1).run()


class _Standardize(_Launch):
    """One batch."""

    def __init__(
        self,
        group: Group,
        images: TensorList,
        stages: list[tuple[Sizes, torch.dtype]],
        statistics: Statistics,
        described: bool,
    ) -> None:
        super().__init__(group, images, stages, None)
        self.statistics = statistics
        self.described = described
        """Whether the colour says which channels have numbers of their own, as a lookup has to know."""
        if statistics.batch and not statistics.joint and self.rows.channels == 1:
            order = np.argsort(self.rows.channel, kind="stable")  # rows with the same statistics side by side
            self.rows = Rows(self.rows.image[order], self.rows.channel[order], 1)

    def _looked_up(self) -> bool:
        return self.described and super()._looked_up()

    def _common(self) -> tuple[dict[str, Any], npt.NDArray[Any]]:
        arguments, colours = super()._common()
        return arguments | {"KIND0": _KIND}, colours

    def _upload(
        self, integers: npt.NDArray[np.int64], parameters: npt.NDArray[Any], blocks: npt.NDArray[np.int32]
    ) -> list[torch.Tensor]:
        tables = super()._upload(integers, parameters, blocks)
        rows = self.rows
        if parameters.ndim == 3:  # of the lookup: four terms for each channel
            self._statistics(tables[1], (rows.image * parameters.shape[1] + rows.channel) * 4, 1)
        elif parameters.shape[1] == 4:  # or for each image
            self._statistics(tables[1], rows.image * 4, 0)
        else:  # colours stand behind the fill values
            self._statistics(tables[1], np.arange(len(rows.image)) * parameters.shape[1] + _pixel.FLOATS, None)
        return tables

    def _statistics(self, parameters: torch.Tensor, outputs: npt.NDArray[np.int64], step: int | None) -> None:
        """Write the parameters of each row, from element ``outputs`` of them on; ``step``: of channels in those of lookups."""
        rows, known = self.rows, self.statistics
        count = len(rows.image)
        integers = np.zeros((count, _statistics.COLUMNS), np.int64)
        self._addresses(integers, 0, self.source, self.sizes[rows.image])
        strides, height, width = integers[:, 1:4], integers[:, 4], integers[:, 5]
        flat = bool(((strides[:, 1] == width * strides[:, 2]) | (height == 1)).all())
        if flat:
            integers[:, 5] *= height
            integers[:, 4] = 1
        blocks, first = blocks_of(-(-(integers[:, 4] * integers[:, 5]) // (_BLOCK * _TURNS)))
        integers[:, 6] = first
        integers[:, 7] = groups = self._groups()
        integers[:, 8] = outputs
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        stops = np.append(starts[1:], count)
        table = np.stack([first[starts], np.append(first, len(blocks))[stops], starts, stops], 1)
        doubles = np.zeros((count, _statistics.GIVEN))
        for column, values in ((0, known.mean), (3, known.factor)):
            if values is not None:
                doubles[:, column : column + rows.channels] = rows.values(values)
        settings = np.array([known.epsilon, known.ddof, known.scale, known.shift], np.float64)
        device = self.images.device
        _statistics.statistics_kernel[(len(blocks),)](
            *upload(
                device,
                integers,
                np.concatenate([settings, doubles.reshape(-1)]),
                blocks,
                table,
                np.zeros(len(table), np.int32),
            ),
            torch.empty(_statistics.PARTIAL * len(blocks), dtype=torch.float64, device=device),
            parameters,
            COLUMNS=_statistics.COLUMNS,
            SETTINGS=_statistics.SETTINGS,
            GIVEN=_statistics.GIVEN,
            PARTIAL=_statistics.PARTIAL,
            IN=_TL[self.images.dtype],
            CHANNELS=rows.channels,
            WHOLE=self.images.dtype in (torch.uint8, torch.int8),
            FLAT=flat,
            JOINT=known.joint,
            GIVEN_MEAN=known.mean is not None,
            GIVEN_STD=known.factor is not None,
            LOOKUP=step is not None,
            STEP=step or 0,
            TYPE=tl.float64 if parameters.dtype == torch.float64 else tl.float32,
            BLOCK=_BLOCK,
            TURNS=_TURNS,
            MERGE=_MERGE,
        )

    def _groups(self) -> npt.NDArray[np.int64]:
        """(R,): numbers from 0, ascending, the same for rows that share statistics."""
        rows, known = self.rows, self.statistics
        if known.batch:
            return np.zeros_like(rows.image) if known.joint else rows.channel
        return rows.image if known.joint else np.arange(len(rows.image))
