"""PNGs: what the header says, and a copy that no decoder can stumble over.

torchvision's PNG decoder ends the whole process with a segmentation fault when it comes upon damaged pixel data
(torchvision 0.29: libpng's error handler returns to a function that has already been left). So no data reach it that were
not found good before: the pixel data are inflated here and handed on uncompressed, in a file of the necessary chunks
alone. The format: W3C Portable Network Graphics, second edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from torchdali.ops.decode._exif import exif_orientation
from torchdali.ops.decode._interface import CannotDecodeError, ImageInfo

__all__ = ["SIGNATURE", "inspect_png", "rebuild_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; 3 is a palette of colours
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced image, and the steps between its columns and rows."""


class _Header(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filter: int
    interlace: int


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview, int]]:
    """Type, contents and checksum of each chunk, up to the last one."""
    position = len(SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise CannotDecodeError(f"it is cut off: {len(data)} bytes end without the last chunk of a PNG, IEND")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise CannotDecodeError(
                f"it is cut off: its chunk {kind!r} of {length} bytes reaches beyond the {len(data)} bytes of the file"
            )
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        yield kind, data[position + 8 : end - 4], checksum
        if kind == b"IEND":
            return
        position = end


def _header(kind: bytes, contents: memoryview) -> _Header:
    if kind != b"IHDR" or len(contents) != 13:
        raise CannotDecodeError("it is no PNG: its first chunk is no header of 13 bytes")
    header = _Header(*struct.unpack(">IIBBBBB", contents))
    if (
        not (0 < header.width < 2**31 and 0 < header.height < 2**31)
        or header.depth not in _DEPTHS.get(header.colour, ())
        or (header.compression, header.filter) != (0, 0)
        or header.interlace > 1
    ):
        raise CannotDecodeError(f"its header is damaged: {header}")
    return header


def inspect_png(data: memoryview) -> ImageInfo:
    """Read the chunks of a file that begins as a PNG.

    Raises:
        CannotDecodeError: it is not complete, or its header makes no sense.
    """
    chunks = _chunks(data)
    kind, contents, _ = next(chunks)
    header = _header(kind, contents)
    info = ImageInfo("PNG", header.height, header.width, _CHANNELS[header.colour])
    try:
        for kind, contents, _ in chunks:
            if kind == b"eXIf":
                info = info._replace(orientation=exif_orientation(bytes(contents)))
    except CannotDecodeError as error:
        raise CannotDecodeError(str(error), info) from None
    return info


def _passes(header: _Header) -> list[tuple[int, int]]:
    """Rows, and bytes of a row with its filter, of the image or of each pass of an interlaced one."""
    samples = 1 if header.colour == 3 else _CHANNELS[header.colour]
    found = []
    for left, top, step_x, step_y in _ADAM7 if header.interlace else ((0, 0, 1, 1),):
        columns = -((left - header.width) // step_x)
        rows = -((top - header.height) // step_y)
        if columns > 0 and rows > 0:
            found.append((rows, 1 + (columns * samples * header.depth + 7) // 8))
    return found


def _inflate(compressed: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(compressed, size)  # a part at a time: a header that lies allocates nothing
    except zlib.error as error:
        raise CannotDecodeError(f"its pixel data are damaged: {error}") from None
    if len(data) < size or not (stream.eof or stream.unconsumed_tail):
        raise CannotDecodeError(f"its pixel data are cut off: {len(data)} bytes where the header promises {size}")
    return data


def _chunk(kind: bytes, contents: bytes) -> bytes:
    return (
        struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(contents, zlib.crc32(kind)))
    )


def rebuild_png(data: memoryview) -> bytes:
    """The same pixels as a PNG of which every byte is known to be good: not compressed, without alpha in the palette.

    Raises:
        CannotDecodeError: chunks or pixel data are damaged.
    """
    header: _Header | None = None
    palette, ended = b"", False
    parts: list[memoryview] = []
    for kind, contents, checksum in _chunks(data):
        if kind in (b"IHDR", b"PLTE", b"IDAT") and zlib.crc32(contents, zlib.crc32(kind)) != checksum:
            raise CannotDecodeError(f"its chunk {kind.decode()} is damaged: the checksum is another one")
        if header is None:
            header = _header(kind, contents)
        elif kind == b"PLTE" and not parts:
            palette = bytes(contents)
        elif kind == b"IDAT" and not ended:
            parts.append(contents)
        elif parts:
            ended = True  # pixel data are in chunks that follow each other
    if header is None or not parts:
        raise CannotDecodeError("it has no pixel data")
    if header.colour == 3 and (len(palette) % 3 or not 3 <= len(palette) <= 3 * 2**header.depth):
        raise CannotDecodeError(f"its palette has {len(palette)} bytes, which are not 1 to {2**header.depth} colours")

    passes = _passes(header)
    pixels = _inflate(b"".join(parts), sum(rows * stride for rows, stride in passes))
    values, start = np.frombuffer(pixels, np.uint8), 0
    for rows, stride in passes:
        if values[start : start + rows * stride : stride].max() > 4:
            raise CannotDecodeError("its pixel data are damaged: a row has a filter that does not exist")
        start += rows * stride
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", *header)),
            _chunk(b"PLTE", palette) if header.colour == 3 else b"",
            _chunk(b"IDAT", zlib.compress(pixels, 0)),
            _chunk(b"IEND", b""),
        )
    )
