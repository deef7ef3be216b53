import contextlib
import random

import pytest
import torch

from tests.helpers import read_bytes
from torchdali.ops._jpeg import NotAJpegError, inspect


def jpegs_of(folder):
    files = sorted([*folder.glob("*.jpg"), *folder.glob("*.JPEG")])
    assert files
    return files


def test_every_photograph_is_whole_and_has_the_size_that_is_decoded(image_folder, photographs):
    for path in [*jpegs_of(image_folder), *jpegs_of(photographs)]:
        info = inspect(path.read_bytes())
        image = torch.ops.image.decode_jpeg(read_bytes(path), 0, False)
        assert (info.components, info.height, info.width) == tuple(image.shape), path


def test_the_bundled_photographs_cover_the_common_kinds(photographs):
    infos = [inspect(path.read_bytes()) for path in jpegs_of(photographs)]
    assert len(infos) >= 8
    assert any(info.components == 1 for info in infos)
    assert any(info.orientation == 6 for info in infos)
    assert any(info.frame == 0xC2 for info in infos)
    assert len({(info.height, info.width) for info in infos}) == len(infos)


def test_a_file_cut_anywhere_is_found_out(photographs):
    for name in ("cat.jpg", "bee.jpg", "owl.jpg"):  # baseline, progressive, with Exif
        data = (photographs / name).read_bytes()
        cuts = [*range(700), *range(700, len(data), 997), len(data) - 1]
        for cut in cuts:
            with pytest.raises(NotAJpegError):
                inspect(data[:cut])
        inspect(data)


def test_bytes_after_the_end_and_between_segments_do_no_harm(photographs):
    data = (photographs / "cat.jpg").read_bytes()
    assert inspect(data + b"\0" * 100) == inspect(data)
    assert inspect(data + b"trailing \xff\xd9 things") == inspect(data)
    assert inspect(data[:2] + b"\xff\xff\xff" + data[3:]) == inspect(data)


def test_an_end_marker_in_a_thumbnail_is_not_taken_for_the_image_s(photographs):
    data = (photographs / "cat.jpg").read_bytes()
    thumbnail = b"\xff\xe5" + (2 + len(data[:30000])).to_bytes(2, "big") + data[:29998] + b"\xff\xd9"
    with_thumbnail = data[:2] + thumbnail + data[2:]
    assert inspect(with_thumbnail) == inspect(data)
    with pytest.raises(NotAJpegError, match="cut off"):
        inspect(with_thumbnail[:-5000])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n", "a PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP"),
        (b"hello world", "68 65 6c 6c"),
        (b"\xff\xd8", "cut off in its header"),
        (b"\xff\xd8\xff\xd9\xff\xd9\xff\xd9", "without an image"),
        (b"\xff\xd8\xff\xda\0\x08\0\0\0\0\0\0\xff\xd9", "before any frame"),
    ],
)
def test_what_is_no_jpeg_is_described(data, message):
    with pytest.raises(NotAJpegError, match=message):
        inspect(data)


def test_damaged_bytes_never_crash_it(photographs):
    generator = random.Random(7)
    for name in ("cat.jpg", "owl.jpg"):
        original = (photographs / name).read_bytes()
        for _ in range(300):
            data = bytearray(original[: generator.choice([1000, len(original)])])
            for _ in range(20):
                data[generator.randrange(min(2000, len(data)))] = generator.randrange(256)
            with contextlib.suppress(NotAJpegError):
                inspect(bytes(data))


def test_it_agrees_with_the_decoder_on_odd_files(odd_folder):
    for path in sorted(odd_folder.glob("*.jpg")):
        try:
            torch.ops.image.decode_jpeg(read_bytes(path), 3, False)
            decodes = True
        except (RuntimeError, ValueError):
            decodes = False
        try:
            inspect(path.read_bytes())
            accepted = True
        except NotAJpegError:
            accepted = False
        assert accepted == decodes, path.name
