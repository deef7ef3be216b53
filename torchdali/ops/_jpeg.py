"""A look at a JPEG's markers, without decoding: is it one, is it whole, what is in it.

Decoders on the GPU decode what is cut off in silence, with a wrong lower part, and none of them says which image of a
batch it cannot decode. Both are found here, for some microseconds an image. The format: ITU-T T.81, annex B; orientation:
Exif 2.3 (CIPA DC-008), tag 0x0112.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

__all__ = ["JpegInfo", "NotAJpegError", "inspect"]

_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_ORIENTATION = 0x0112

# Within a scan, 0xFF is followed by 0x00 (a data byte), by a restart marker or by another 0xFF (fill).
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_OTHER_FORMATS = (
    (b"\x89PNG", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
)


class NotAJpegError(ValueError):
    """The data is no JPEG, or not all of one; the message says what it is instead."""


class JpegInfo(NamedTuple):
    """What the markers say."""

    height: int
    """As stored, before the orientation is applied."""
    width: int
    components: int
    """1: grayscale, 3: colour, 4: CMYK."""
    frame: int
    """Marker of the frame header: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, others exotic."""
    orientation: int
    """Exif orientation, 1 to 8; 1 is upright."""


def _describe(data: bytes) -> str:
    if not data:
        return "it is empty"
    for start, name in _OTHER_FORMATS:
        if data.startswith(start):
            return f"it looks like {name} (it starts with {data[:4].hex(' ')})"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "it looks like a WebP"
    return f"it starts with {data[:4].hex(' ')}, not with ff d8"


def _exif_orientation(segment: bytes) -> int:
    if not segment.startswith(b"Exif\0\0"):
        return 1
    tiff = segment[6:]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # a damaged Exif segment does not make the image unreadable
        pass
    return 1


def _check_end(data: memoryview, start: int) -> None:
    """See that the end marker follows the first scan's data, which begins at ``start``."""
    if bytes(data[-2:]) == b"\xff\xd9":
        return
    position = start
    while (found := _NEXT_MARKER.search(data, position)) is not None:
        marker = data[found.start() + 1]
        if marker == _EOI:
            return
        if found.end() + 2 > len(data):
            break
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    raise NotAJpegError(f"it is cut off: {len(data)} bytes end without the end marker ff d9")


def inspect(data: bytes | memoryview) -> JpegInfo:
    """Read the markers of a file, which is not copied.

    Raises:
        NotAJpegError: no JPEG, or one that is not complete.
    """
    data = memoryview(data)
    if bytes(data[:2]) != b"\xff\xd8":
        raise NotAJpegError(_describe(bytes(data[:16])))
    size = len(data)
    position, orientation = 2, 1
    frame: tuple[int, int, int, int] | None = None
    while True:
        while position < size and data[position] != 0xFF:  # some writers leave bytes between segments
            position += 1
        while position < size and data[position] == 0xFF:
            position += 1
        if position + 3 > size:
            raise NotAJpegError(f"it is cut off in its header, after {size} bytes")
        marker = data[position]
        position += 1
        if marker in _ALONE:
            continue
        if marker == _EOI:
            raise NotAJpegError("it ends without an image")
        length = int.from_bytes(data[position : position + 2], "big")
        end = position + length
        if length < 2 or end > size:
            raise NotAJpegError(f"it is cut off in its header, after {size} bytes")
        if marker in _FRAMES and frame is None:
            if length < 8:
                raise NotAJpegError(f"its frame header has {length} bytes")
            height, width, components = struct.unpack_from(">HHB", data, position + 3)
            frame = (height, width, components, marker)
        elif marker == _APP1 and orientation == 1:
            orientation = _exif_orientation(bytes(data[position + 2 : end]))
        elif marker == _SOS:
            if frame is None:
                raise NotAJpegError("its first scan comes before any frame header")
            _check_end(data, end)
            return JpegInfo(*frame, orientation)
        position = end
