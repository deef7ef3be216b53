import struct

import pytest

from tests.ops.decode.oddities import avif, encoded, picture
from torchdali.ops.decode._inspect import inspect
from torchdali.ops.decode._interface import CannotDecodeError
from torchdali.ops.decode._others import first_gif_frame


@pytest.mark.parametrize(
    ("options", "mode", "channels"),
    [({}, "RGB", 3), ({"lossless": True}, "RGB", 3), ({"lossless": True}, "RGBA", 4), ({"exif": b"II*\0"}, "RGB", 3)],
)
def test_size_and_channels_of_each_kind_of_webp_are_read(options, mode, channels):
    image = picture(37, 23).convert(mode)
    if mode == "RGBA":
        image.putalpha(100)
    info = inspect(encoded(image, "WEBP", **options))
    assert (info.format, info.width, info.height, info.channels) == ("WebP", 37, 23, channels)


def test_an_animated_webp_is_refused():
    data = encoded(picture(), "WEBP", save_all=True, append_images=[picture().rotate(90)])
    with pytest.raises(CannotDecodeError, match="animated WebP"):
        inspect(data)


def test_an_avif_s_size_is_read():
    info = inspect(avif(38, 24))
    assert (info.format, info.width, info.height) == ("AVIF", 38, 24)


@pytest.mark.parametrize("kind", ["WEBP", "GIF"])
def test_a_file_cut_anywhere_is_found_out(kind):
    data = encoded(picture().convert("P" if kind == "GIF" else "RGB"), kind)
    cuts = [cut for cut in (*range(100), *range(100, len(data), 53), len(data) - 2) if cut < len(data) - 1]
    for cut in cuts:
        with pytest.raises(CannotDecodeError):
            inspect(data[:cut])


def test_frames_after_the_first_are_cut_away():
    one = picture().convert("P")
    both = encoded(one, "GIF", save_all=True, append_images=[one.rotate(180)])
    first = first_gif_frame(memoryview(both))
    assert len(first) < 0.7 * len(both)
    assert first.endswith(b"\x3b")
    assert inspect(first) == inspect(both)


def test_a_frame_larger_than_its_screen_is_refused():
    data = bytearray(encoded(picture().convert("P"), "GIF"))
    data[6:8] = struct.pack("<H", 10)
    with pytest.raises(CannotDecodeError, match="reaches beyond the 10 x 64"):
        inspect(bytes(data))


@pytest.mark.parametrize(
    "data", [b"GIF89a", b"GIF89a\1\0\1\0\0\0\0;", b"RIFF\xff\xff\xff\xffWEBP", b"RIFF\x04\0\0\0WEBP"]
)
def test_a_header_alone_is_no_image(data):
    with pytest.raises(CannotDecodeError):
        inspect(data)
