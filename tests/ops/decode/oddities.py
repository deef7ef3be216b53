"""Files that break decoders, made from a photograph."""

import contextlib
import faulthandler
import io
import os
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

import torchdali

PHOTOGRAPHS = Path(torchdali.__file__).parent / "photographs"


def picture(width: int = 96, height: int = 64) -> Image.Image:
    return Image.open(PHOTOGRAPHS / "cat.jpg").convert("RGB").crop((40, 40, 40 + width, 40 + height))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def avif(*size: int) -> bytes:
    if not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    return encoded(picture(*size), "AVIF")


def tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), quality=95, exif=exif)


def frame_at(jpeg: bytes) -> int:
    """Where the marker of a baseline frame stands."""
    return jpeg.index(b"\xff\xc0")


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    at = frame_at(jpeg) + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def with_precision(jpeg: bytes, bits: int) -> bytes:
    at = frame_at(jpeg) + 4
    return jpeg[:at] + bytes([bits]) + jpeg[at + 1 :]


def with_bad_tables(jpeg: bytes) -> bytes:
    """What no marker gives away: the code lengths of the first Huffman table are impossible."""
    at = jpeg.index(b"\xff\xc4") + 5
    return jpeg[:at] + b"\xff" * 16 + jpeg[at + 16 :]


CHILD_SECONDS = 60


def status_of_child(work: Callable[[], object]) -> int:
    """What ``os.waitpid`` says of a forked process that does some work, which may end it."""
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()  # a crash that is expected needs no report
        torch.set_num_threads(1)  # the others did not survive the fork: to wait for them is for ever
        signal.alarm(CHILD_SECONDS)
        with contextlib.suppress(RuntimeError):
            work()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1]


def chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def png(width: int, height: int, pixels: bytes, *, depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    """A PNG of given, already compressed pixel data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def oddities() -> dict[str, bytes]:
    """By what they are; all but the damaged ones show the same picture."""
    image = picture()
    plain = encoded(image, quality=95)
    whole_png = encoded(image, "PNG")
    deep = Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) * 257).astype(np.uint16))
    transparent = image.convert("RGBA")
    transparent.putalpha(100)
    return {
        "JPEG, baseline": plain,
        "JPEG, progressive": encoded(image, quality=95, progressive=True),
        "JPEG, 4:4:4": encoded(image, quality=95, subsampling=0),
        "JPEG, 4:2:2": encoded(image, quality=95, subsampling=1),
        "JPEG, gray": encoded(image.convert("L"), quality=95),
        "JPEG, CMYK": encoded(image.convert("CMYK"), quality=95),
        "JPEG, red, green and blue themselves": encoded(image, quality=95, keep_rgb=True),
        "JPEG, one pixel": encoded(picture(1, 1)),
        "JPEG, Exif orientation 6": with_orientation(6),
        "JPEG with bytes after its end": plain + b"\0" * 100,
        "JPEG with fill bytes between segments": plain[:2] + b"\xff\xff" + plain[2:],
        "JPEG cut in the middle": plain[: len(plain) // 2],
        "JPEG cut in its header": plain[:100],
        "JPEG with impossible Huffman tables": with_bad_tables(plain),
        "JPEG that claims 12 bits": with_precision(plain, 12),
        "JPEG that claims 65500 x 65500 pixels": with_size(plain, 65500, 65500),
        "PNG": whole_png,
        "PNG with alpha": encoded(transparent, "PNG"),
        "PNG with a palette": encoded(image.convert("P"), "PNG"),
        "PNG of 16 bits": encoded(deep, "PNG"),
        "PNG cut in the middle": whole_png[: len(whole_png) // 2],
        "PNG with damaged pixel data": png(96, 64, zlib.compress(bytes(289 * 64))[:20]),
        "WebP": encoded(image, "WEBP"),
        "WebP cut in the middle": encoded(image, "WEBP")[:400],
        "GIF": encoded(image.convert("P"), "GIF"),
        "GIF of two frames": encoded(
            image.convert("P"), "GIF", save_all=True, append_images=[image.rotate(180).convert("P")]
        ),
        "BMP": encoded(image, "BMP"),
        "an empty file": b"",
        "text": b"hello world, I am no image",
    }
