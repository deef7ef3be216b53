"""The decoder that decodes everything: one image a thread, on the CPU."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from torchdali.ops._threads import parallel_map
from torchdali.ops.decode._codecs import codecs, decode_avif
from torchdali.ops.decode._interface import CannotDecodeError, Decoder, ImageInfo, Mode, Result
from torchdali.ops.decode._others import first_gif_frame
from torchdali.ops.decode._png import rebuild_png

__all__ = ["CpuDecoder"]

_PLACE = re.compile(r"^\S+, \S+:\d+, ")
"""Function, source file and line, with which torchvision begins its messages."""


def _gray(image: torch.Tensor) -> torch.Tensor:
    """Luma of ITU-R BT.601 in 16 bits, as libjpeg and Pillow compute it."""
    red, green, blue = image[:3].to(torch.int32)
    luma: torch.Tensor = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma.to(torch.uint8)[None]


class CpuDecoder(Decoder):
    """JPEG, PNG, WebP, GIF and AVIF by libraries on the CPU, in parallel threads; copied to the device if that is no CPU.

    Args:
        library: ``"torchvision"`` or ``"torchcodec"``, whichever of the two there is.
    """

    name = "cpu"

    def __init__(self, library: str = "torchvision") -> None:
        self._library = library

    def decode(
        self, files: Sequence[torch.Tensor], infos: Sequence[ImageInfo], mode: Mode, device: torch.device
    ) -> list[Result]:
        """See :meth:`Decoder.decode`."""

        def work(item: tuple[torch.Tensor, ImageInfo]) -> Result:
            try:
                return self.decode_one(*item, mode)
            except CannotDecodeError as error:
                return error

        results = parallel_map(work, zip(files, infos, strict=True))
        return [result.to(device) if isinstance(result, torch.Tensor) else result for result in results]

    def decode_one(self, file: torch.Tensor, info: ImageInfo, mode: Mode) -> torch.Tensor:
        """One image, in this thread.

        Raises:
            CannotDecodeError: the library refuses it.
        """
        library = codecs(self._library)
        view = np.ascontiguousarray(file.numpy()).data
        try:
            if info.format == "JPEG":
                return library.jpeg(file.contiguous(), info, mode)
            if info.format == "PNG":
                good = torch.frombuffer(bytearray(rebuild_png(view)), dtype=torch.uint8)
                palette = mode == "UNCHANGED" and info.channels == 3
                return _eight_bits(library.png(good, "RGB" if palette else mode))
            # These decoders know no gray.
            colours: Mode = "RGB" if mode == "GRAY" else mode
            if info.format == "WebP":
                image = library.webp(file.contiguous(), colours)
            elif info.format == "GIF":
                image = library.gif(torch.frombuffer(bytearray(first_gif_frame(view)), dtype=torch.uint8))
            else:
                image = _eight_bits(decode_avif(file.contiguous(), colours))
        except RuntimeError as error:
            message = _PLACE.sub("", str(error).splitlines()[0])
            if "can't allocate memory" in message:  # which is no fault of the image
                raise
            raise CannotDecodeError(message) from None
        image = image[0] if image.dim() == 4 else image
        return _gray(image) if mode == "GRAY" else image


def _eight_bits(image: torch.Tensor) -> torch.Tensor:
    """16 bits are scaled to 8 and rounded: 65535 becomes 255."""
    if image.dtype == torch.uint8:
        return image
    return ((image.to(torch.int32) + 128) // 257).to(torch.uint8)
