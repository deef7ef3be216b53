"""torchvision's decoder ends the process at damaged pixel data: what is let through here must be good."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.ops.decode.oddities import chunk, encoded, picture, png, status_of_child, tensor
from torchdali.ops import DecodeImage
from torchdali.ops.decode._inspect import inspect
from torchdali.ops.decode._interface import CannotDecodeError
from torchdali.ops.decode._png import rebuild_png

ROWS = bytes(1 + 3 * 96) * 64


def rebuilt(data):
    return np.asarray(Image.open(io.BytesIO(rebuild_png(memoryview(data)))))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_rebuilt_file_has_the_same_pixels(mode):
    image = picture(37, 23).convert("RGBA").convert(mode)
    data = encoded(image, "PNG")
    assert np.array_equal(rebuilt(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (37, 23)])
def test_an_interlaced_file_is_measured_pass_by_pass(size):
    import cv2

    pixels = np.asarray(picture(*size).convert("L"))
    passes = [pixels[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    raw = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 1)
    ends = chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), 0), pixels), "the test's own file is good"
    (image,) = DecodeImage("GRAY")([tensor(data)])
    assert np.array_equal(image[0].numpy(), pixels)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(96, 64, b"no zlib stream"), "pixel data are damaged: .*incorrect header check"),
        (png(96, 64, zlib.compress(ROWS[:1000])), "1000 bytes where the header promises 18496"),
        (png(96, 64, zlib.compress(ROWS)[:-4]), "cut off"),
        (png(96, 64, zlib.compress(ROWS)[:-4] + b"abcd"), "damaged: .*incorrect data check"),
        (png(96, 64, zlib.compress(b"\x05" + ROWS[1:])), "a filter that does not exist"),
        (png(96, 64, zlib.compress(ROWS[:289] + b"\xff" + ROWS[290:])), "a filter that does not exist"),
        (png(96, 64, b""), "damaged|cut off"),
        (png(96, 64, zlib.compress(bytes(97 * 64)), colour=3), "palette has 0 bytes"),
        (png(96, 64, zlib.compress(bytes(97 * 64)), colour=3, more=chunk(b"PLTE", b"ab")), "palette has 2 bytes"),
    ],
)
def test_damaged_pixel_data_are_found(data, message):
    inspect(data)
    with pytest.raises(CannotDecodeError, match=message):
        rebuild_png(memoryview(data))


def test_a_wrong_checksum_is_found():
    data = bytearray(encoded(picture(), "PNG"))
    data[data.index(b"IDAT") + 30] ^= 1
    with pytest.raises(CannotDecodeError, match="chunk IDAT is damaged"):
        rebuild_png(memoryview(data))


@pytest.mark.parametrize(("depth", "colour"), [(7, 2), (1, 2), (16, 3), (8, 5), (0, 0)])
def test_a_header_that_makes_no_sense_is_found(depth, colour):
    with pytest.raises(CannotDecodeError, match="header is damaged"):
        inspect(png(96, 64, zlib.compress(ROWS), depth=depth, colour=colour))


def test_a_file_cut_anywhere_is_found_out():
    data = encoded(picture(), "PNG")
    for cut in [*range(200), *range(200, len(data), 101), len(data) - 1]:
        with pytest.raises(CannotDecodeError):
            inspect(data[:cut])


def test_pixel_data_that_go_on_after_the_image_do_no_harm():
    data = png(96, 64, zlib.compress(ROWS + b"more"))
    assert rebuilt(data).shape == (64, 96, 3)


def test_a_small_file_that_inflates_to_much_is_inflated_no_further_than_its_header_says():
    import tracemalloc

    bomb = png(8, 8, zlib.compress(bytes(20_000_000), 1))
    tracemalloc.start()
    assert rebuilt(bomb).shape == (8, 8, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_the_bare_decoder_still_ends_the_process():
    """Where this fails, torchvision has been mended, and files need not be rebuilt any more."""
    if not hasattr(torch.ops.image, "decode_png"):
        pytest.skip("this torchvision has no PNG decoder")
    data = tensor(png(96, 64, zlib.compress(ROWS)[:20]))
    assert os.WIFSIGNALED(status_of_child(lambda: torch.ops.image.decode_png(data, 3, False)))
