"""What the headers of WebP, GIF and AVIF files say.

The formats: RFC 9649 (WebP) with RFC 6386 (VP8), CompuServe's GIF89a, ISO/IEC 23008-12 (the boxes of AVIF).
"""

from __future__ import annotations

import struct

from torchdali.ops.decode._exif import exif_orientation
from torchdali.ops.decode._interface import CannotDecodeError, ImageInfo

__all__ = ["first_gif_frame", "inspect_avif", "inspect_gif", "inspect_webp", "is_avif"]


def inspect_webp(data: memoryview) -> ImageInfo:
    """Read the chunks of a file that begins as a WebP.

    Raises:
        CannotDecodeError: it is not complete, it is an animation, or its header makes no sense.
    """
    size = 8 + int.from_bytes(data[4:8], "little")
    orientation, position = 1, 12
    found: tuple[int, int, int] | None = None  # height, width, channels
    while position + 8 <= min(size, len(data)):
        kind, length = struct.unpack_from("<4sI", data, position)
        contents = bytes(data[position + 8 : position + 8 + (length if kind == b"EXIF" else min(length, 10))])
        if kind == b"EXIF":
            orientation = exif_orientation(contents.removeprefix(b"Exif\0\0"))
        elif found is None and kind in (b"VP8X", b"VP8 ", b"VP8L"):
            found = _webp_size(kind, contents)
        position += 8 + length + length % 2
    info = None if found is None else ImageInfo("WebP", *found, orientation)
    if len(data) < size:
        raise CannotDecodeError(f"it is cut off: {len(data)} bytes of the {size} that its header promises", info)
    if info is None:
        raise CannotDecodeError("it is a WebP without an image")
    return info


def _webp_size(kind: bytes, contents: bytes) -> tuple[int, int, int]:
    if kind == b"VP8X" and len(contents) == 10:
        if contents[0] & 2:
            raise CannotDecodeError("it is an animated WebP, which torchvision does not decode; save one frame of it")
        width, height = (int.from_bytes(contents[at : at + 3], "little") + 1 for at in (4, 7))
        return height, width, 4 if contents[0] & 16 else 3
    if kind == b"VP8 " and len(contents) == 10 and contents[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", contents, 6)
        return height & 0x3FFF, width & 0x3FFF, 3
    if kind == b"VP8L" and len(contents) >= 5 and contents[0] == 0x2F:
        bits = int.from_bytes(contents[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 4 if bits >> 28 & 1 else 3
    raise CannotDecodeError("its header is damaged")


def inspect_gif(data: memoryview) -> ImageInfo:
    """Read the blocks of a file that begins as a GIF, up to the end of its first frame.

    Raises:
        CannotDecodeError: its first frame is not complete, or larger than the header says.
    """
    try:
        _end_of_first_frame(data)
    except CannotDecodeError as error:
        raise CannotDecodeError(str(error), _gif_screen(data)) from None
    info = _gif_screen(data)
    if info is None:
        raise CannotDecodeError("its header claims an image without pixels")
    return info


def _gif_screen(data: memoryview) -> ImageInfo | None:
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (6, 8))
    return ImageInfo("GIF", height, width, 3) if width and height else None


def first_gif_frame(data: memoryview) -> bytes:
    """The file without the frames after the first, which would be decoded only to be thrown away."""
    return bytes(data[: _end_of_first_frame(data)]) + b"\x3b"


def _end_of_first_frame(data: memoryview) -> int:
    try:
        screen_width, screen_height, flags = struct.unpack_from("<HHB", data, 6)
        position = 13 + _colour_table(flags)
        while True:
            block = data[position]
            if block == 0x3B:
                raise CannotDecodeError("it is a GIF without an image")
            if block == 0x21:  # an extension
                position = _after_blocks(data, position + 2)
            elif block == 0x2C:
                left, top, width, height, flags = struct.unpack_from("<HHHHB", data, position + 1)
                if left + width > screen_width or top + height > screen_height:
                    raise CannotDecodeError(
                        f"its first frame, {width} x {height} at ({left}, {top}), reaches beyond the {screen_width} x "
                        f"{screen_height} of its header"
                    )
                return _after_blocks(data, position + 10 + _colour_table(flags) + 1)
            else:
                raise CannotDecodeError(f"it is damaged: a block of it is of the unknown kind {block:#04x}")
    except (IndexError, struct.error):
        raise CannotDecodeError(f"it is cut off: {len(data)} bytes end within its first frame") from None


def _colour_table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: memoryview, position: int) -> int:
    while data[position]:
        position += 1 + data[position]
    return position + 1


def is_avif(start: bytes) -> bool:
    """Whether a file that begins so, with 32 bytes or more, is an AVIF."""
    if start[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(start[:4], "big"), len(start))
    return any(start[at : at + 4] in (b"avif", b"avis") for at in range(8, end, 4) if at != 12)


def inspect_avif(data: memoryview) -> ImageInfo:
    """Find the size in the properties of a file that begins as an AVIF; whether it is whole only decoding shows.

    Raises:
        CannotDecodeError: it has no size.
    """
    start = bytes(data[: 1 << 16])
    largest, position = (0, 0), start.find(b"ispe")
    while 0 <= position <= len(start) - 16:  # of a grid each tile has one too
        width, height = struct.unpack_from(">II", start, position + 8)
        largest = max(largest, (height, width), key=lambda size: size[0] * size[1])
        position = start.find(b"ispe", position + 4)
    if 0 in largest:
        raise CannotDecodeError("it is cut off or damaged: an AVIF without a size")
    return ImageInfo("AVIF", *largest, 3)
