"""Good batches, most of which an engine decodes into one buffer: some NumPy calls for all images, not Python for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops.decode._exif import turn_upright
from torchdali.ops.decode._glance import Seen
from torchdali.ops.decode._interface import BufferDecoder, CannotDecodeError, Decoder, ImageInfo, Mode
from torchdali.tensorlist import TensorList
from torchdali.tensorlist._views import Views

__all__ = ["Pieces", "decode_at_once"]

Integers: TypeAlias = npt.NDArray[np.int64]


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


def decode_at_once(
    files: TensorList,
    seen: Seen,
    given: Mapping[int, torch.Tensor],
    inspect: Callable[[int], ImageInfo | CannotDecodeError],
    decoder: Decoder,
    mode: Mode,
    device: torch.device,
    *,
    upright: bool,
) -> Pieces | None:
    """Decode a batch in which nothing is wrong.

    Args:
        files: in one buffer.
        seen: of them.
        given: images by position that need not be decoded, (C, H, W) on the CPU.
        inspect: tells of the file at a position what is not in ``seen``.
        decoder, mode, device: as of :meth:`Decoder.decode`.
        upright: turn images as their Exif orientation says.

    Returns:
        None where something is wrong, or an engine has little to do: then image by image is the way.
    """
    if not isinstance(decoder, BufferDecoder) or mode == "UNCHANGED":
        return None
    engine = seen.known & seen.baseline
    engine[list(given)] = False
    height, width = seen.height.copy(), seen.width.copy()
    infos: dict[int, ImageInfo] = {}
    single = ~engine
    single[list(given)] = False
    for position in np.flatnonzero(single).tolist():
        info = inspect(position)
        if isinstance(info, CannotDecodeError):
            return None
        infos[position] = info
        engine[position] = info.baseline
        height[position], width[position] = info.height, info.width
    engine &= decoder.sizes_suit(height, width, device)
    if 2 * engine.sum() < len(files):
        return None

    pieces = Pieces(len(files))
    which = np.flatnonzero(engine)
    channels = 1 if mode == "GRAY" else 3
    decoded = decoder.decode_into_buffer(
        files.pointers[which], files.sizes[which, 0], height[which], width[which], channels, device
    )
    if decoded is None:
        return None
    sizes = np.stack([np.full(len(which), channels), height[which], width[which]], 1)
    strides = np.stack([sizes[:, 1] * sizes[:, 2], sizes[:, 2], np.ones(len(which), np.int64)], 1)
    pieces.add(which, *decoded, sizes, strides)
    for position, info in infos.items():
        if upright and info.orientation != 1 and engine[position]:
            pieces.add_image(position, turn_upright(pieces.image(position), info.orientation))

    engine[list(given)] = True
    rest = np.flatnonzero(~engine).tolist()
    found = [infos.get(n) or seen.info(n) for n in rest]
    for position, info, image in zip(
        rest, found, decoder.decode([files[n] for n in rest], found, mode, device) if rest else [], strict=True
    ):
        if isinstance(image, CannotDecodeError):
            return None
        pieces.add_image(position, turn_upright(image, info.orientation) if upright else image)
    if given:
        # Last, since some decoders drain the stream first: these copies may go on while the next operator starts.
        images = TensorList(list(given.values()), dtype=torch.uint8, device=torch.device("cpu"))
        for position, image in zip(given, images.to(device, non_blocking=True), strict=True):
            pieces.add_image(position, image)
    return pieces
