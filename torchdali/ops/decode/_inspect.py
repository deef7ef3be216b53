"""What a file is, from its first bytes, and what its header says."""

from __future__ import annotations

from torchdali.ops.decode._interface import CannotDecodeError, ImageInfo
from torchdali.ops.decode._jpeg import inspect_jpeg
from torchdali.ops.decode._others import inspect_avif, inspect_gif, inspect_webp, is_avif
from torchdali.ops.decode._png import SIGNATURE, inspect_png

__all__ = ["MAX_PIXELS", "inspect"]

MAX_PIXELS = 1 << 28
"""A square of 16384 pixels: 805 MB as RGB. Some bytes can claim 65500 x 65500, and decoders allocate what is claimed."""

_OTHER_FORMATS = (
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\0\0\0\x0cjP", "a JPEG 2000"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "compressed by gzip"),
)
_TAKEN = "JPEG, PNG, WebP, GIF and AVIF are decoded"


def _describe(start: bytes) -> str:
    if not start:
        return "it is empty"
    for signature, name in _OTHER_FORMATS:
        if start.startswith(signature):
            return f"it looks like {name} (it starts with {start[:4].hex(' ')}); {_TAKEN}"
    for signature, name in ((SIGNATURE, "PNG"), (b"GIF89a", "GIF"), (b"\xff\xd8", "JPEG"), (b"RIFF", "WebP")):
        if signature.startswith(start):
            return f"it is cut off in its header, after {len(start)} bytes of what may be a {name}"
    return f"it starts with {start[:4].hex(' ')}, as no image does; {_TAKEN}"


def inspect(data: bytes | memoryview, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read the header of a file, which is not copied.

    Args:
        data: the whole file.
        max_pixels: how many pixels an image may claim to have.

    Raises:
        CannotDecodeError: it is no image of a kind that is decoded, it is not complete, or it has too many pixels.
    """
    try:
        info = _inspect_format(memoryview(data))
    except CannotDecodeError as error:
        if error.info is not None and error.info.height * error.info.width > max_pixels:
            raise CannotDecodeError(str(error)) from None
        raise
    if info.height * info.width > max_pixels:
        raise CannotDecodeError(
            f"its header claims {info.width} x {info.height} pixels, more than max_pixels={max_pixels}; if it is right, "
            "pass a larger max_pixels"
        )
    if info.width == 0 or (
        info.height == 0 and info.format != "JPEG"
    ):  # a JPEG may tell its height after the first scan
        raise CannotDecodeError(f"its header claims {info.width} x {info.height} pixels")
    return info


def _inspect_format(data: memoryview) -> ImageInfo:
    start = bytes(data[:64])
    if start[:2] == b"\xff\xd8":
        return inspect_jpeg(data)
    if start.startswith(SIGNATURE):
        return inspect_png(data)
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return inspect_gif(data)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return inspect_webp(data)
    if is_avif(start):
        return inspect_avif(data)
    raise CannotDecodeError(_describe(start))
