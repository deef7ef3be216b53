"""Damaged files of every kind give pixels or a DecodeError; the process never ends, and nothing takes long."""

import os
import struct
import time
import traceback
import zlib

import numpy as np
import pytest

from tests.ops.decode.oddities import encoded, picture, status_of_child, tensor
from torchdali.ops import DecodeImage

TRIES = 150
EACH_SECONDS = 5.0


def damaged(data, rng):
    """One of: cut off; some bytes changed; the header changed; bytes put in; a marker put in."""
    data, kind = bytearray(data), rng.integers(5)
    at = int(rng.integers(len(data) - 4))
    if kind == 0:
        return data[:at]
    if kind == 1:
        for place in rng.integers(len(data), size=rng.integers(1, 6)):
            data[place] ^= rng.integers(1, 256)
    elif kind == 2:
        for place in rng.integers(60, size=2):
            data[place] = rng.integers(256)
    elif kind == 3:
        data[at:at] = rng.bytes(5)
    else:
        data[at : at + 2] = bytes([0xFF, rng.integers(0xC0, 0xFF)])
    return data


def with_right_checksums(data):
    """Of a PNG, so that damage is not found by them."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        struct.pack_into(">I", data, end - 4, zlib.crc32(data[position + 4 : end - 4]))
        position = end
    return data


KINDS = {
    "baseline": lambda image: encoded(image),
    "progressive": lambda image: encoded(image, progressive=True),
    "PNG": lambda image: encoded(image, "PNG"),
    "PNG with a palette": lambda image: encoded(image.convert("P"), "PNG"),
    "WebP": lambda image: encoded(image, "WEBP"),
    "lossless WebP": lambda image: encoded(image.convert("RGBA"), "WEBP", lossless=True, exif=b"II*\0"),
    "GIF": lambda image: encoded(image.convert("P"), "GIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_pixels_or_a_decode_error(kind, capfd):
    data, rng = KINDS[kind](picture()), np.random.default_rng(5)

    def work():
        decode = {mode: DecodeImage(mode, on_error="replace") for mode in ("RGB", "GRAY", "UNCHANGED")}
        try:
            for number in range(TRIES):
                file = damaged(data, rng)
                if kind.startswith("PNG") and number % 2:
                    file = with_right_checksums(file)
                start = time.monotonic()
                for module in decode.values():
                    module([tensor(file)])
                assert time.monotonic() - start < EACH_SECONDS
            assert all(module.statistics.bad_images > 10 for module in decode.values())
        except BaseException:
            traceback.print_exc()
            os._exit(2)

    status = status_of_child(work)
    assert status == 0, capfd.readouterr().err[-2000:]
