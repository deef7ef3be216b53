"""Good batches, most of which an engine decodes into one buffer: some NumPy calls for all images, not Python for each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._decoded import Given
from torchdali.ops.decode._exif import turn_upright
from torchdali.ops.decode._glimpse import Glimpse
from torchdali.ops.decode._interface import BufferDecoder, CannotDecodeError, Decoder, Mode
from torchdali.ops.decode._staging import Staged, needed_rows, pieces_of
from torchdali.tensorlist import TensorList
from torchdali.tensorlist._views import Views

__all__ = ["AtOnce", "plan_at_once"]

Integers: TypeAlias = npt.NDArray[np.int64]

_ALIGNMENT = 16
"""Bytes that the kernel for resizing reads at a time: fastest where rows begin at multiples of them."""


class Pieces:
    """Where the images of a batch lie, (C, H, W) each, as they are added one after another.

    Attributes:
        shapes, strides: (N, 3), of the images as they are turned upright.
    """

    def __init__(self, count: int) -> None:
        self.shapes = np.zeros((count, 3), np.int64)
        self.strides = np.zeros((count, 3), np.int64)
        self._base, self._starts = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._bases: list[torch.Tensor] = []

    def add(self, positions: Any, base: torch.Tensor, starts: Any, shapes: Any, strides: Any) -> None:
        """Note images that lie in a tensor, from so many elements after its first on."""
        self._base[positions] = len(self._bases)
        self._starts[positions], self.shapes[positions], self.strides[positions] = starts, shapes, strides
        self._bases.append(base)

    def add_image(self, position: int, image: torch.Tensor) -> None:
        """Note an image that is a tensor of its own."""
        self.add(position, image, 0, image.shape, image.stride())

    def image(self, position: int) -> torch.Tensor:
        """One that was added."""
        views = Views(self._bases, self._base, self._starts)
        return views.one(position, self.shapes[position].tolist(), self.strides[position].tolist())

    def batch(self, windows: Integers | None, layout: str) -> TensorList:
        """The images, or parts of them.

        Args:
            windows: (N, 4): top, left, height, width.
            layout: ``"CHW"`` or ``"HWC"``.
        """
        shapes, starts = self.shapes, self._starts
        if windows is not None:
            starts = starts + (windows[:, :2] * self.strides[:, 1:]).sum(1)
            shapes = np.concatenate([shapes[:, :1], windows[:, 2:]], 1)
        order = [1, 2, 0] if layout == "HWC" else [0, 1, 2]
        views = Views(self._bases, self._base, starts)
        return TensorList._of_views(views, shapes[:, order], self.strides[:, order], layout)


class AtOnce:
    """A batch in which nothing is wrong as far as its headers say, most of which an engine decodes at once.

    The engine's part can be done in another thread than the rest, before the rest is wanted. It goes
    no further down in an image than is wanted, where that is known.

    Args:
        files: in one buffer.
        glimpse: of them.
        without: positions of files that are left out, as somebody else decodes them.
        decoder, mode, device: as of :meth:`Decoder.decode`.
        upright: turn images as their Exif orientation says.
    """

    def __init__(
        self,
        files: TensorList,
        glimpse: Glimpse,
        without: Collection[int],
        decoder: BufferDecoder,
        mode: Mode,
        device: torch.device,
        *,
        upright: bool,
    ) -> None:
        self.files, self.glimpse = files, glimpse
        self._seen, self._infos = glimpse.seen, glimpse.infos
        self._decoder, self._mode, self.device, self._upright = decoder, mode, device, upright
        engine = self._seen.known & self._seen.baseline
        for position, info in self._infos.items():
            engine[position] = info.baseline
        self._height, self._width = glimpse.height, glimpse.width
        engine &= decoder.sizes_suit(self._height, self._width, device)
        engine[list(without)] = False
        self._engine = engine
        self._rows, self._pitch = self._height, self._width
        if glimpse.windows is not None:
            # Parts of images are not contiguous anyway.
            self._pitch = -(-self._width // _ALIGNMENT) * _ALIGNMENT
            ends = glimpse.windows[:, 0] + glimpse.windows[:, 2]
            steps = np.where(engine & self._seen.known, self._seen.step, 0)
            self._rows = needed_rows(self._height, ends, steps, decoder.fewest_rows)
        self._staged: Staged | None = None
        self._decoded: tuple[torch.Tensor, Integers] | None = None

    @property
    def pays(self) -> bool:
        """Whether the engine has at least half of the files."""
        return 2 * int(self._engine.sum()) >= len(self.files)

    def stage(self) -> None:
        """Copy what the engine is to decode to where it is best read, and where its headers may be changed."""
        which = np.flatnonzero(self._engine)
        assert self.files.flat is not None
        assert self.files.offsets is not None
        staged = Staged(self.files.flat, self.files.offsets[which], self.files.sizes[which, 0], self.device)
        less = np.flatnonzero((self._rows < self._height)[which])
        staged.set_heights(less, self._seen.height_at[which[less]], self._rows[which[less]])
        self._staged = staged

    def decode(self) -> None:
        """Have the engine do its part, now."""
        which = np.flatnonzero(self._engine)
        if self._staged is None and (self._rows < self._height).any():
            self.stage()
        self._decoded = self._decoder.decode_into_buffer(
            self.files.pointers[which] if self._staged is None else self._staged.addresses,
            self.files.sizes[which, 0],
            self._rows[which],
            self._width[which],
            self._pitch[which],
            1 if self._mode == "GRAY" else 3,
            self.device,
        )
        self._staged = None

    def finish(self, given: Given) -> Pieces | None:
        """Do the rest, on the current stream.

        Args:
            given: images that were decoded elsewhere; others that were left out are decoded.

        Returns:
            None where something is wrong: then image by image is the way.
        """
        if self._decoded is None:
            return None
        buffer, starts = self._decoded
        if buffer.device.type == "cuda":
            buffer.record_stream(torch.cuda.current_stream(buffer.device))
        pieces = Pieces(len(self.files))
        which = np.flatnonzero(self._engine)
        height, width, pitch = self._rows[which], self._width[which], self._pitch[which]
        sizes = np.stack([np.full(len(which), 1 if self._mode == "GRAY" else 3), height, width], 1)
        strides = np.stack([height * pitch, pitch, np.ones_like(pitch)], 1)
        pieces.add(which, buffer, starts, sizes, strides)
        for position, info in self._infos.items():
            if self._upright and info.orientation != 1 and self._engine[position]:
                pieces.add_image(position, turn_upright(pieces.image(position), info.orientation))
        return pieces if self._add_others(pieces, given) else None

    def _add_others(self, pieces: Pieces, given: Given) -> bool:
        """Whether nothing was wrong."""
        missing = ~self._engine
        missing[given.positions] = False
        rest = np.flatnonzero(missing).tolist()
        if rest:
            infos = [self._infos.get(n) or self._seen.info(n) for n in rest]
            decoded = self._decoder.decode([self.files[n] for n in rest], infos, self._mode, self.device)
            for position, info, image in zip(rest, infos, decoded, strict=True):
                if isinstance(image, CannotDecodeError):
                    return False
                pieces.add_image(position, turn_upright(image, info.orientation) if self._upright else image)
        # Last, since some decoders drain the stream first: these copies may go on while the next operator starts.
        flat, offsets = given.images.flat, given.images.offsets
        if flat is not None and offsets is not None:
            buffer, starts = _brought(flat, offsets, given.images.sizes.prod(1), self.device)
            pieces.add(given.positions, buffer, starts, given.images.sizes, given.images.strides)
        else:
            images = given.images.to(self.device, non_blocking=True)
            for position, image in zip(given.positions.tolist(), images, strict=True):
                pieces.add_image(position, image)
        return True


def _brought(
    flat: torch.Tensor, starts: Integers, lengths: Integers, device: torch.device
) -> tuple[torch.Tensor, Integers]:
    """Images on a device, in one buffer, and where in it each begins: as few copies as there are pieces of memory."""
    if flat.device == device:
        return flat, starts
    pieces, places = pieces_of(starts, lengths)
    buffer = torch.empty(sum(end - begin for begin, end in pieces), dtype=flat.dtype, device=device)
    place = 0
    for begin, end in pieces:
        buffer[place : place + end - begin].copy_(flat[begin:end], non_blocking=True)
        place += end - begin
    return buffer, places


def plan_at_once(
    files: Any,
    glimpse: Glimpse | None,
    without: Collection[int],
    decoder: Decoder,
    mode: Mode,
    device: torch.device,
    *,
    upright: bool,
) -> AtOnce | None:
    """A batch that can be decoded so; None where it cannot, or an engine has little to do; see :class:`AtOnce`."""
    if not isinstance(decoder, BufferDecoder) or mode == "UNCHANGED" or glimpse is None:
        return None
    planned = AtOnce(files, glimpse, without, decoder, mode, device, upright=upright)
    return planned if planned.pays else None
