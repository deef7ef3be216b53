"""A look at a JPEG's markers, without decoding: is it one, is it whole, what is in it.

Decoders on the GPU decode what is cut off in silence, with a wrong lower part, and none of them says which image of a
batch it cannot decode. Both are found here, for some microseconds an image. The format: ITU-T T.81, annex B; which colours
three components are: ITU-T T.872, 6.5, as libjpeg has it.
"""

from __future__ import annotations

import re
import struct

from torchdali.ops.decode._exif import exif_orientation
from torchdali.ops.decode._interface import CannotDecodeError, ImageInfo

__all__ = [
    "ALONE",
    "APP0",
    "APP1",
    "APP14",
    "BASELINE",
    "BASELINE_SAMPLING",
    "ENGINE_FRAMES",
    "ENGINE_SAMPLING",
    "EOI",
    "FRAMES",
    "SOS",
    "inspect_jpeg",
]

EOI, SOS, APP0, APP1, APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length

ENGINE_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive Huffman
ENGINE_SAMPLING = frozenset({0x11, 0x21, 0x12, 0x22, 0x41, 0x42})
"""Horizontal and vertical factor of the first of three components, where the others have 1 and 1."""
BASELINE = 0xC0
BASELINE_SAMPLING = frozenset({0x11, 0x21, 0x22})

# Within a scan, 0xFF is followed by 0x00 (a data byte), by a restart marker or by another 0xFF (fill).
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _has_end(data: memoryview, start: int) -> bool:
    """Whether the end marker follows the first scan's data, which begins at ``start``."""
    if bytes(data[-2:]) == b"\xff\xd9":
        return True
    position = start
    while (found := _NEXT_MARKER.search(data, position)) is not None:
        if data[found.start() + 1] == EOI:
            return True
        if found.end() + 2 > len(data):
            break
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return False


class _Found:
    """What the segments before the first scan have said."""

    def __init__(self) -> None:
        self.frame: tuple[int, int, int, int, int] | None = None  # marker, precision, height, width, components
        self.identifiers = self.sampling = b""
        self.jfif = False
        self.transform: int | None = None
        self.orientation = 1
        self.exif: list[tuple[int, int]] = []

    def take(self, marker: int, start: int, segment: bytes) -> None:
        if marker in FRAMES and self.frame is None:
            if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
                raise CannotDecodeError(f"its frame header has {len(segment) + 2} bytes, which is too short")
            precision, height, width, components = struct.unpack_from(">BHHB", segment)
            if components == 0:
                raise CannotDecodeError("its frame header says that it has no components")
            self.frame = (marker, precision, height, width, components)
            self.identifiers, self.sampling = segment[6 : 6 + 3 * components : 3], segment[7 : 6 + 3 * components : 3]
        elif marker == APP0 and segment.startswith(b"JFIF\0"):
            self.jfif = True
        elif marker == APP14 and segment.startswith(b"Adobe") and len(segment) >= 12:
            self.transform = segment[11]
        elif marker == APP1 and segment.startswith(b"Exif\0\0"):
            self.exif.append((start, start + 4 + len(segment)))
            if self.orientation == 1:
                self.orientation = exif_orientation(segment[6:])

    def _suits_engine(self, marker: int, precision: int, height: int, components: int) -> bool:
        if marker not in ENGINE_FRAMES or precision != 8 or height == 0:
            return False
        if components == 1:
            return True
        if components != 3 or self.sampling[1:] != b"\x11\x11" or self.sampling[0] not in ENGINE_SAMPLING:
            return False
        # Three components that are red, green and blue themselves: not every engine asks.
        coded_rgb = self.identifiers == b"RGB" if self.transform is None else self.transform == 0
        return self.jfif or not coded_rgb

    def info(self, scanned: int) -> ImageInfo:
        """Of a file with so many components in its first scan."""
        if self.frame is None:
            raise CannotDecodeError("its first scan comes before any frame header")
        marker, precision, height, width, components = self.frame
        suits = self._suits_engine(marker, precision, height, components)
        baseline = suits and marker == BASELINE and scanned == components
        baseline &= self.sampling[0] == 0x11 if components == 1 else self.sampling[0] in BASELINE_SAMPLING
        return ImageInfo("JPEG", height, width, components, self.orientation, suits, tuple(self.exif), baseline)


def inspect_jpeg(data: memoryview) -> ImageInfo:
    """Read the markers of a file that begins as a JPEG, which is not copied.

    Raises:
        CannotDecodeError: it is not complete.
    """
    size, position, found = len(data), 2, _Found()
    while True:
        while position < size and data[position] != 0xFF:  # some writers leave bytes between segments
            position += 1
        while position < size and data[position] == 0xFF:
            position += 1
        if position + 3 > size:
            raise CannotDecodeError(f"it is cut off in its header, after {size} bytes")
        marker = data[position]
        position += 1
        if marker in ALONE:
            continue
        if marker == EOI:
            raise CannotDecodeError("it ends without an image")
        length = int.from_bytes(data[position : position + 2], "big")
        end = position + length
        if length < 2 or end > size:
            raise CannotDecodeError(f"it is cut off in its header, after {size} bytes")
        if marker == SOS:
            info = found.info(data[position + 2] if length > 2 else 0)
            if not _has_end(data, end):
                raise CannotDecodeError(f"it is cut off: {size} bytes end without the end marker ff d9", info)
            return info
        found.take(marker, position - 2, bytes(data[position + 2 : end]))
        position = end
