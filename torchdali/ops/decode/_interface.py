"""What a decoder is, and what is known of a file before it is decoded.

A decoder takes whole files, with what :func:`~torchdali.ops.decode._inspect.inspect` found in them, and gives pixels as they
are stored: turning images upright, cropping and the policy for bad images are not its business, so they are the same
whichever decoder is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["BufferDecoder", "CannotDecodeError", "Decoder", "ImageInfo", "Mode", "Result"]

Mode: TypeAlias = Literal["RGB", "GRAY", "UNCHANGED"]

Result: TypeAlias = "torch.Tensor | CannotDecodeError"
"""Of one image: uint8, (C, H, W), as stored; or why there is none."""


class ImageInfo(NamedTuple):
    """What a file says about itself."""

    format: Literal["JPEG", "PNG", "WebP", "GIF", "AVIF"]
    height: int
    """As stored, before the orientation is applied."""
    width: int
    channels: int
    """That mode UNCHANGED gives: 1 gray, 2 gray and alpha, 3 colour, 4 colour and alpha, or CMYK."""
    orientation: int = 1
    """Exif orientation, 1 to 8; 1 is upright."""
    suits_engine: bool = False
    """A JPEG of the kinds that decoders on a GPU take; what else there is, the CPU decodes."""
    exif: tuple[tuple[int, int], ...] = ()
    """Where a JPEG's Exif segments begin and end."""
    baseline: bool = False
    """A JPEG that suits and is of the kind that engines decode by themselves: baseline, all components in one scan, chroma
    as large as luma or halved in width or in both."""

    def size_upright(self, *, apply_orientation: bool) -> tuple[int, int]:
        """Height and width of the result."""
        turned = apply_orientation and self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)

    def channels_in(self, mode: Mode) -> int:
        """Channels of the result."""
        return {"RGB": 3, "GRAY": 1, "UNCHANGED": self.channels}[mode]


class CannotDecodeError(ValueError):
    """A file is no image, not all of one, or of a kind that is not decoded; the message says which.

    Attributes:
        info: what the header says, where at least that could be read.
    """

    def __init__(self, message: str, info: ImageInfo | None = None) -> None:
        super().__init__(message)
        self.info = info


class Decoder(ABC):
    """Turns files into pixels."""

    name: str
    """As it is chosen by."""

    @abstractmethod
    def decode(
        self, files: Sequence[torch.Tensor], infos: Sequence[ImageInfo], mode: Mode, device: torch.device
    ) -> list[Result]:
        """Decode a batch.

        Args:
            files: one-dimensional uint8 CPU tensors, each a whole file that was inspected.
            infos: what was found in them.
            mode: channels of the results: ``"RGB"`` 3, ``"GRAY"`` 1, ``"UNCHANGED"`` as stored.
            device: of the results; a CUDA device has an index.

        Returns:
            For each file its pixels, uint8 of shape (C, H, W) on the device, as they are stored; or why there are none. A
            file that cannot be decoded costs no other file anything.
        """


class BufferDecoder(Decoder):
    """A decoder that can also write a batch of ordinary JPEGs into one buffer, and needs nothing but their places for it.

    Rows of an image do not depend on those below, so that a header may tell of fewer than there are.
    """

    fewest_rows: int
    """Of an image that it takes."""

    @abstractmethod
    def sizes_suit(
        self, heights: npt.NDArray[np.int64], widths: npt.NDArray[np.int64], device: torch.device
    ) -> npt.NDArray[np.bool_]:
        """Which baseline JPEGs of these sizes it takes; all False where it has no engine."""

    @abstractmethod
    def decode_into_buffer(
        self,
        addresses: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        heights: npt.NDArray[np.int64],
        widths: npt.NDArray[np.int64],
        pitches: npt.NDArray[np.int64],
        channels: int,
        device: torch.device,
    ) -> tuple[torch.Tensor, npt.NDArray[np.int64]] | None:
        """Decode baseline JPEGs that suit, at least one.

        Args:
            addresses, lengths: of the files in CPU memory, in bytes.
            heights, widths: as their headers say.
            pitches: bytes from a row of an image to the next, at least its width.
            channels: 3 for RGB, 1 for luma.
            device: a CUDA device with an index.

        Returns:
            A uint8 buffer, complete, and where in it each image begins, (channels, H, pitch) as stored; None where one of
            them was refused. Its memory may be of another stream than the current one: who uses it tells the allocator
            (``record_stream``). The files are not needed any more.
        """
