import contextlib
import random

import pytest
import torch
from PIL import Image

from tests.helpers import read_bytes
from tests.ops.decode.oddities import encoded, frame_at, picture, with_orientation, with_precision, with_size
from torchdali.ops.decode._inspect import inspect
from torchdali.ops.decode._interface import CannotDecodeError


def jpegs_of(folder):
    files = sorted([*folder.glob("*.jpg"), *folder.glob("*.JPEG")])
    assert files
    return files


def test_every_photograph_is_whole_and_has_the_size_that_is_decoded(image_folder, photographs):
    for path in [*jpegs_of(image_folder), *jpegs_of(photographs)]:
        info = inspect(path.read_bytes())
        image = torch.ops.image.decode_jpeg(read_bytes(path), 0, False)
        assert (info.channels, info.height, info.width) == tuple(image.shape), path


def test_the_bundled_photographs_cover_the_common_kinds(photographs):
    infos = [inspect(path.read_bytes()) for path in jpegs_of(photographs)]
    assert len(infos) >= 8
    assert any(info.channels == 1 for info in infos)
    assert any(info.orientation == 6 for info in infos)
    assert any("progressive" in Image.open(path).info for path in jpegs_of(photographs))
    assert len({(info.height, info.width) for info in infos}) == len(infos)


def test_a_file_cut_anywhere_is_found_out(photographs):
    for name in ("cat.jpg", "bee.jpg", "owl.jpg"):  # baseline, progressive, with Exif
        data = (photographs / name).read_bytes()
        cuts = [*range(700), *range(700, len(data), 997), len(data) - 1]
        for cut in cuts:
            with pytest.raises(CannotDecodeError):
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
    with pytest.raises(CannotDecodeError, match="cut off"):
        inspect(with_thumbnail[:-5000])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\x89PN", "what may be a PNG"),
        (b"BM\0\0", "a BMP"),
        (b"II*\0", "a TIFF"),
        (b"hello world", "68 65 6c 6c"),
        (b"\xff\xd8", "cut off in its header"),
        (b"\xff\xd8\xff\xd9\xff\xd9\xff\xd9", "without an image"),
        (b"\xff\xd8\xff\xda\0\x08\0\0\0\0\0\0\xff\xd9", "before any frame"),
    ],
)
def test_what_is_no_jpeg_is_described(data, message):
    with pytest.raises(CannotDecodeError, match=message):
        inspect(data)


def test_damaged_bytes_never_crash_it(photographs):
    generator = random.Random(7)
    for name in ("cat.jpg", "owl.jpg"):
        original = (photographs / name).read_bytes()
        for _ in range(300):
            data = bytearray(original[: generator.choice([1000, len(original)])])
            for _ in range(20):
                data[generator.randrange(min(2000, len(data)))] = generator.randrange(256)
            with contextlib.suppress(CannotDecodeError):
                inspect(bytes(data))


def test_a_frame_without_components_is_no_image():
    plain = encoded(picture())
    at = frame_at(plain)
    empty = plain[: at + 9] + b"\0" + plain[at + 10 :]
    shortened = plain[: at + 2] + b"\0\x08" + empty[at + 4 : at + 10] + plain[at + 19 :]
    for data in (empty, shortened):
        with pytest.raises(CannotDecodeError, match="has no components"):
            inspect(data)


def suits(data):
    return inspect(data).suits_engine


def test_ordinary_jpegs_go_to_the_engine_and_others_do_not():
    image = picture()
    for subsampling in (0, 1, 2):
        assert suits(encoded(image, subsampling=subsampling))
        assert suits(encoded(image, subsampling=subsampling, progressive=True))
    assert suits(encoded(image.convert("L")))
    assert not suits(encoded(image.convert("CMYK")))
    assert not suits(encoded(image, keep_rgb=True))
    plain = encoded(image)
    assert not suits(with_precision(plain, 12))
    assert not suits(with_size(plain, 96, 0))
    at = frame_at(plain)
    assert not suits(plain[: at + 1] + b"\xc9" + plain[at + 2 :]), "arithmetic coding"
    assert not suits(plain[: at + 14] + b"\x21" + plain[at + 15 :]), "chroma with factors of its own"


def test_exif_segments_are_found_where_they_stand():
    data = with_orientation(6)
    ((start, end),) = inspect(data).exif
    assert data[start : start + 2] == b"\xff\xe1"
    assert b"Exif" not in data[:start] + data[end:]
    assert inspect(data[:start] + data[end:]).orientation == 1


def test_the_orientation_of_a_cut_file_is_still_known():
    with pytest.raises(CannotDecodeError) as caught:
        inspect(with_orientation(8)[:-10])
    assert (caught.value.info.orientation, caught.value.info.width) == (8, 96)


def test_more_pixels_than_allowed_are_refused_whole_or_cut():
    data = with_size(encoded(picture()), 65500, 65500)
    with pytest.raises(CannotDecodeError, match="claims 65500 x 65500 pixels, more than max_pixels=268435456"):
        inspect(data)
    with pytest.raises(CannotDecodeError, match="cut off") as caught:
        inspect(data[:-10])
    assert caught.value.info is None
    assert inspect(data, 1 << 33).width == 65500


def test_it_agrees_with_the_decoder_on_odd_files(odd_folder):
    for path in sorted(odd_folder.glob("*.jpg")):
        try:
            torch.ops.image.decode_image(read_bytes(path), 3, False)
            decodes = True
        except (RuntimeError, ValueError):
            decodes = False
        try:
            inspect(path.read_bytes())
            accepted = True
        except CannotDecodeError:
            accepted = False
        assert accepted == decodes, path.name
