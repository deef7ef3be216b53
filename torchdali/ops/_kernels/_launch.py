"""Launches: from steps and a batch to the tables of a kernel, and its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton.language as tl

from torchdali.ops._blur import Blur
from torchdali.ops._device import current
from torchdali.ops._execute import in_memory
from torchdali.ops._groups import TYPES, WIDE, Group, Part, copies, narrowed
from torchdali.ops._kernels import _cuda, _lookup, _pixel, _separable, _warp
from torchdali.ops._kernels._tables import (
    Memory,
    Rows,
    blocks_of,
    colour_table,
    memory_of,
    new_memory,
    packed_strides,
    rows_of,
    within_reach,
)
from torchdali.ops._kernels._upload import upload
from torchdali.ops._plainly import plainly
from torchdali.ops._resample import Resample, converted
from torchdali.ops._steps import Sizes, Step
from torchdali.ops._warp import Warp
from torchdali.tensorlist import TensorList

__all__ = ["run"]

_BLOCK = 1024
_LOOKUPS = {1: (16384, 4), 2: (16384, 2)}
"""By the bytes of a result: what a program makes, and its warps."""
_LOOKUP_WIDE = (8192, 4)
"""Of other results, for which there would be too few registers."""
_LOOKUP_PART = 2048
_TILE = (4, 32)
"""Rows and columns of the result that a program of the separable kernel makes."""
_TILE_WARPS = 1

_TL: dict[torch.dtype, Any] = {
    torch.float32: tl.float32,
    torch.uint8: tl.uint8,
    torch.int8: tl.int8,
    torch.int16: tl.int16,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.int32: tl.int32,
    torch.int64: tl.int64,
    torch.float64: tl.float64,
}


@plainly
def run(parts: Sequence[Part], images: TensorList, interleaved: bool | None = None) -> TensorList:
    """What steps make of images on a GPU.

    Args:
        parts: of the steps, for images of these sizes and of this type.
        images: of three dimensions, layout "CHW", "HWC" or unknown, which is "CHW".
        interleaved: whether the results' channels lie side by side in memory; None: as those of the images.
    """
    for part in parts:
        if part.supported:
            images = _Launch(part.group, images, part.stages, interleaved if part is parts[-1] else None).run()
        else:
            images = _plainly(part.group.steps, images)
            if interleaved is not None and part is parts[-1]:
                images = in_memory(images, channels_last=interleaved)
    return images


def _plainly(steps: Sequence[Step], images: TensorList) -> TensorList:
    interleaved = images.layout == "HWC"
    results = []
    dtype = images.dtype
    for position, image in enumerate(images):
        result = image.permute(2, 0, 1) if interleaved else image
        for step in steps:
            result = step.plain(result, position)
        results.append(result.permute(1, 2, 0) if interleaved else result)
    for step in steps:
        dtype = step.dtype(dtype)
    return TensorList(results, images.layout, dtype=dtype, device=images.device)


class _Launch:
    """One group of steps on one batch."""

    def __init__(
        self, group: Group, images: TensorList, stages: list[tuple[Sizes, torch.dtype]], interleaved: bool | None
    ) -> None:
        self.group, self.added = narrowed(group)
        self.images = images = within_reach(images)
        self.sizes = sizes = stages[0][0]
        self.results = stages[-1][0]
        self.dtypes = [dtype for _, dtype in stages]
        self.type = tl.float32
        self.real: Any = np.float32
        if not WIDE.isdisjoint(self.dtypes):
            # What is only moved keeps all of its bits; what is computed, is in double precision.
            self.type = tl.int64 if set(self.dtypes) == {torch.int64} and not group.colours else tl.float64
            self.real = np.float64
        self.source = memory_of(images)
        if interleaved is None:
            interleaved = bool(
                ((self.source.strides[:, 0] == 1) & (sizes[:, 0] > 1) | (sizes[:, 1:] == 1).all(1)).all()
            )
        self.interleaved = interleaved
        self.target = new_memory(self.results, self.dtypes[-1], images.device, interleaved=self.interleaved)
        self.rows = rows_of(sizes)

    def run(self) -> TensorList:
        """Launch, and give the results."""
        with current(self.images.device):
            if self.added is not None:
                assert self.target.flat is not None
                self.target.flat.fill_(converted(torch.tensor(self.added, dtype=torch.float64), self.dtypes[-1]).item())
            if not self._looked_up():
                if copies(self.group.head):
                    self._pixel()
                elif isinstance(self.group.head, Warp):
                    self._warp(self.group.head)
                else:
                    assert self.group.head is not None
                    self._separable(self.group.head)
        return self._as_list()

    def _as_list(self) -> TensorList:
        target = self.target
        assert target.flat is not None
        channels_last = self.images.layout == "HWC"
        shapes = self.results[:, [1, 2, 0]] if channels_last else self.results
        order = (0, 1, 2)
        if channels_last != self.interleaved:
            order = (2, 0, 1) if channels_last else (1, 2, 0)
        if (shapes == shapes[:1]).all():
            shape = [len(shapes), *(int(shapes[0, dim]) for dim in order)]
            block = target.flat.view(shape).permute(0, *(order.index(dim) + 1 for dim in range(3)))
            return TensorList.from_batch(block, self.images.layout)
        return TensorList.from_flat(target.flat, shapes, self.images.layout, offsets=target.offsets, order=order)

    # --- tables -------------------------------------------------------------------------------------------------------

    def _common(self) -> tuple[dict[str, Any], npt.NDArray[Any]]:
        """Arguments of the colours for all kernels that have them, and their table."""
        colours, kinds = colour_table(self.group, self.rows, self.real)
        types = [TYPES[dtype] for dtype in self.dtypes]
        head = 0 if self.group.head is None else 1
        after = [*types[1 + head : 1 + head + len(self.group.colours)], 0, 0, 0]
        arguments: dict[str, Any] = {
            "IN": _TL[self.dtypes[0]],
            "OUT": _TL[self.dtypes[-1]],
            "CHANNELS": self.rows.channels,
            "FIRST": TYPES[torch.float64] if self.type is tl.float64 else 0,
        }
        if head and (types[1] != types[0] or not copies(self.group.head)):
            arguments["FIRST"] = types[1]
        for number, kind in enumerate(kinds):
            arguments |= {f"KIND{number}": kind, f"TO{number}": after[number]}
        return arguments, colours

    def _fill(self, fill: npt.NDArray[np.float64] | None, dtype: torch.dtype) -> npt.NDArray[Any]:
        """(R, 3): what is outside of each row's channels."""
        table = np.zeros((len(self.rows.image), 3), self.real)
        if fill is not None:
            rounded = converted(torch.from_numpy(fill), dtype).to(torch.float64).numpy()
            table[:, : self.rows.channels] = self.rows.values(rounded[None])
        return table

    def _launch(
        self,
        kernel: Any,
        integers: npt.NDArray[np.int64],
        floats: npt.NDArray[Any],
        blocks: npt.NDArray[np.int32],
        **arguments: Any,
    ) -> None:
        tables = self._upload(integers, floats, blocks)
        kernel[(len(blocks),)](*tables, **arguments)

    def _upload(
        self, integers: npt.NDArray[np.int64], parameters: npt.NDArray[Any], blocks: npt.NDArray[np.int32]
    ) -> list[torch.Tensor]:
        """The tables of a kernel, on the device."""
        return upload(self.images.device, integers, parameters, blocks)

    # --- kernels ------------------------------------------------------------------------------------------------------

    def _looked_up(self) -> bool:
        """A single change of grey levels of 8-bit images that lie in one piece, through a table."""
        group, source = self.group, self.source
        if group.head is not None or group.erase is not None or len(group.colours) != 1:
            return False
        (colour,) = group.colours
        if self.added is not None or self.images.dtype != torch.uint8 or colour.matrix.ndim == 3:
            return False
        channels, height, width = self.sizes.T
        one_piece = self._has_strides(packed_strides(self.sizes, interleaved=self.interleaved))
        if not one_piece:
            return False
        if colour.matrix.ndim == 1:
            pointers, targets, counts = source.pointers, self.target.pointers, self.sizes.prod(1)
        elif not self.interleaved:
            rows = Rows(np.repeat(np.arange(len(channels)), channels), _counting(channels), 1)
            pointers, targets = rows.pointers(source), rows.pointers(self.target)
            counts = (height * width)[rows.image]
        else:
            return False
        block, warps = _LOOKUPS.get(self.dtypes[-1].itemsize, _LOOKUP_WIDE)
        blocks, first = blocks_of(-(-counts // block))
        padded = not (self.sizes == self.sizes[:1]).all() and len(counts) == len(self.sizes)
        aligned = not (pointers % 16).any() and not (targets % 16).any() and (padded or not (counts % 16).any())
        _lookup.lookup_kernel[(len(blocks),)](
            *self._upload(np.stack([pointers, targets, counts, first], 1), colour.terms, blocks),
            torch.empty(256 * len(counts), dtype=self.dtypes[-1], device=self.images.device),
            OUT=_TL[self.dtypes[-1]],
            TO=TYPES[self.dtypes[-1]],
            ALIGNED=bool(aligned),
            ASSEMBLY=self.images.device.type == "cuda" and torch.version.cuda is not None,
            BLOCK=block,
            PART=_LOOKUP_PART,
            num_warps=warps,
            enable_fp_fusion=False,
        )
        return True

    def _has_strides(self, strides: npt.NDArray[np.int64]) -> bool:
        """Whether the images have these; those of dimensions of one element say nothing."""
        return bool(((self.source.strides == strides) | (self.sizes == 1)).all())

    def _pixel(self) -> None:
        group, rows = self.group, self.rows
        arguments, colours = self._common()
        count = len(rows.image)
        regions = 0 if group.erase is None else group.erase.regions.shape[1]
        integers = np.zeros((count, _pixel.INTEGERS + 4 * regions), np.int64)
        sizes, results = self.sizes[rows.image], self.results[rows.image]
        self._addresses(integers, 0, self.source, sizes)
        self._addresses(integers, 10, self.target, results)
        fill = np.zeros((count, 3), self.real)
        if isinstance(group.head, Resample):
            integers[:, 6:10] = group.head.window[rows.image]
            integers[:, 16:18] = group.head.flip[rows.image]
            fill = self._fill(group.head.fill, self.dtypes[1])
        else:
            integers[:, 8:10] = sizes[:, 1:]
        erased = np.zeros((count, 3), self.real)
        if group.erase is not None:
            integers[:, 19:] = group.erase.regions[rows.image].reshape(count, -1)
            values = converted(torch.from_numpy(group.erase.fill), self.dtypes[-1]).to(torch.float64).numpy()
            erased[:, : rows.channels] = rows.values(values)
        blocks, integers[:, 18] = blocks_of(-(-results[:, 1:].prod(1) // _BLOCK))
        self._launch(
            _pixel.pixel_kernel,
            integers,
            np.concatenate([fill, colours, erased], 1),
            blocks,
            INTEGER_COLUMNS=integers.shape[1],
            FLOAT_COLUMNS=_pixel.FLOATS + 39,
            TYPE=self.type,
            # In double precision the results are those of the definition, to the last bit.
            enable_fp_fusion=self.type is tl.float32,
            SCALED=bool((integers[:, 8:10] != integers[:, 14:16]).any()),
            REGIONS=regions,
            BLOCK=_BLOCK,
            **arguments,
        )

    def _addresses(self, integers: npt.NDArray[np.int64], column: int, memory: Memory, sizes: Sizes) -> None:
        """Six columns: pointer, strides c h w, height, width."""
        integers[:, column] = self.rows.pointers(memory)
        integers[:, column + 1 : column + 4] = self.rows.strides(memory)
        integers[:, column + 4 : column + 6] = sizes[:, 1:]

    def _warp(self, head: Warp) -> None:
        rows = self.rows
        arguments, colours = self._common()
        integers = np.zeros((len(rows.image), _warp.INTEGERS), np.int64)
        results = self.results[rows.image]
        self._addresses(integers, 0, self.source, self.sizes[rows.image])
        self._addresses(integers, 6, self.target, results)
        blocks, integers[:, 12] = blocks_of(-(-results[:, 1:].prod(1) // _BLOCK))
        matrix = head.matrix[rows.image].reshape(-1, 6).astype(np.float32)
        # Resampling rounds the fill value to the type that it works on: that of the images.
        fill = self._fill(head.fill, self.dtypes[1] if head.filter == "nearest" else torch.float32)
        self._launch(
            _warp.warp_kernel,
            integers,
            np.concatenate([matrix, fill, colours], 1),
            blocks,
            INTEGER_COLUMNS=_warp.INTEGERS,
            FLOAT_COLUMNS=_warp.FLOATS + 36,
            LINEAR=head.filter == "linear",
            CLAMP=head.fill is None,
            BLOCK=_BLOCK,
            **arguments,
        )

    def _separable(self, head: Resample | Blur) -> None:
        rows = self.rows
        arguments, colours = self._common()
        count = len(rows.image)
        integers = np.zeros((count, _separable.INTEGERS), np.int64)
        sizes, results = self.sizes[rows.image], self.results[rows.image]
        self._addresses(integers, 0, self.source, sizes)
        self._addresses(integers, 10, self.target, results)
        floats = np.zeros((count, _separable.FLOATS), np.float32)
        outside = False
        if isinstance(head, Resample):
            window = head.window[rows.image]
            integers[:, 6:10] = window
            integers[:, 16:18] = head.flip[rows.image]
            inverse, limit, reach = _scales(head)
            name = _separable.FILTERS[head.filter]
            if head.filter == "cubic" and not head.antialias:
                name = _separable.CUBIC_OF_TORCH
            if head.fill is not None:
                floats[:, 2:5] = self._fill(head.fill, torch.float32)
                outside = bool((window[:, :2] < 0).any() or (window[:, :2] + window[:, 2:] > sizes[:, 1:]).any())
        else:
            integers[:, 8:10] = sizes[:, 1:]
            used = (head.sigma > 0) & (head.radius > 0)
            reach = np.where(used, head.radius, 0)
            limit = 2 * self.sizes[:, 1:] * reach
            inverse = 1.0 / (2 * self.sizes[:, 1:] * np.where(used, np.sqrt(2.0) * head.sigma, 1.0))
            name = _separable.BLUR
        floats[:, 0:2] = inverse[rows.image]
        integers[:, 20:24:2] = limit[rows.image]
        integers[:, 21:24:2] = reach[rows.image]
        table = np.concatenate([floats, colours], 1)
        tiles = -(-results[:, 1:] // np.array(_TILE))
        counts = tiles.prod(1)
        if name == 0 and not outside and (done := self._by_cuda(integers, table, arguments)) is not None:
            counts = np.where(done, 0, counts)
            if done.all():
                return
        blocks, integers[:, 18] = blocks_of(counts)
        integers[:, 19] = tiles[:, 1]
        self._launch(
            _separable.separable_kernel,
            integers,
            table,
            blocks,
            INTEGER_COLUMNS=_separable.INTEGERS,
            FLOAT_COLUMNS=_separable.FLOATS + 36,
            FILTER=name,
            PLAIN=not outside
            and name != _separable.BLUR
            and bool((self.source.strides[:, 2] == 1).all() and (integers[:, 9] >= 4).all()),
            FILL=outside,
            ROWS=_TILE[0],
            COLUMNS=_TILE[1],
            num_warps=_TILE_WARPS,
            **arguments,
        )

    def _by_cuda(
        self, integers: npt.NDArray[np.int64], table: npt.NDArray[Any], arguments: dict[str, Any]
    ) -> npt.NDArray[np.bool_] | None:
        """Of the rows, those that the kernel in CUDA C++ makes, which it has been launched for; None: nothing."""
        if self.images.device.type != "cuda" or not _cuda.takes(self.dtypes, arguments):
            return None
        dtype = self.dtypes[-1]
        return _cuda.launch(self.images.device, integers, table, dtype.itemsize, arguments, TYPES[dtype])


def _scales(
    head: Resample,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of the filter, vertical and horizontal, (N, 2) each.

    A distance is an integer in units of 1 / (2 * result) pixels: the factor that makes it one in units of the filter's scale;
    the largest that counts; a bound of that in pixels.
    """
    before, after = head.window[:, 2:], head.size
    unit = np.maximum(before, after) if head.antialias else after
    radius = _separable.RADII[head.filter]
    reach = np.ceil(radius * unit / after).astype(np.int64) + 1
    # A window that keeps its size is copied whatever the filter: in this unit a pixel's neighbour is out of reach.
    unit = np.where((before == after).all(1, keepdims=True), 1, unit)
    return 1.0 / (2 * unit), np.floor(2 * radius * unit).astype(np.int64), reach


def _counting(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0 to count - 1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
