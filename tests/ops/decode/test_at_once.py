"""Batches that an engine decodes into one buffer come out as those that are decoded image by image."""

import numpy as np
import pytest
import torch

from tests.helpers import read_bytes
from tests.ops.decode.nvjpeg import CPU
from tests.ops.decode.oddities import encoded, oddities, picture, tensor, with_orientation
from torchdali import DecodeError, JpegFolder, TensorList
from torchdali.ops import DecodeImage, DecodeRandomCrop
from torchdali.ops._context import BatchContext, batch_context
from torchdali.ops._decoded import Decoded, DecodeSettings, Given
from torchdali.ops.decode import _at_once, _decode_image


@pytest.fixture
def make(decoder, monkeypatch):
    """Makes operators whose engine is a stand-in, and that are not to go image by image."""

    def made(operator=DecodeImage, **options):
        module = operator(**options)
        module._decoders["cpu"] = decoder
        monkeypatch.setattr(module, "_one_by_one", None)
        return module

    return made


def plain(count=8):
    return [encoded(picture(70 + 3 * n, 80 + n), quality=60 + n) for n in range(count)]


def together(files):
    return TensorList([tensor(file) for file in files]).pack()


def assert_same(images, expected):
    assert images.layout == expected.layout
    assert images.shape() == expected.shape()
    assert images.pointers.tolist() == [image.data_ptr() for image in images]
    for n, (image, other) in enumerate(zip(images, expected, strict=True)):
        assert torch.equal(image, other)
        assert torch.equal(images[n], other)


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
def test_ordinary_files_are_one_call(make, library, mode, layout):
    files = together(plain())
    decode = make(mode=mode, layout=layout)
    images = decode(files)
    assert_same(images, DecodeImage(mode, layout)(files))
    assert library.batches == ["prepared", 8]
    assert decode.last_kept == list(range(8))
    assert decode.statistics.images == 8


@pytest.mark.parametrize("upright", [True, False])
def test_others_among_them_have_their_own_places(make, library, upright):
    odd = [
        encoded(picture(90, 80), "PNG"),
        with_orientation(6),
        encoded(picture(96, 80), progressive=True),
        encoded(picture(30, 40)),
        oddities()["JPEG, CMYK"],
    ]
    files = together([*odd[:2], *plain(), *odd[2:]])
    images = make(apply_exif_orientation=upright)(files)
    assert_same(images, DecodeImage(apply_exif_orientation=upright)(files))
    assert library.batches == ["prepared", 9]


def test_photographs_are_as_image_by_image(make, image_folder):
    files = TensorList([read_bytes(path) for path in JpegFolder(image_folder).files[:32]]).pack()
    module = DecodeImage()
    assert_same(make()(files), module(files))


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_random_crops_are_the_same_parts(make, layout):
    files = together(plain())
    whole = DecodeImage()(files)
    torch.manual_seed(3)
    parts = make(DecodeRandomCrop, layout=layout)(files)
    torch.manual_seed(3)
    expected = DecodeRandomCrop(layout=layout)(files)
    assert_same(parts, expected)
    assert any(part.numel() < image.numel() for part, image in zip(parts, whole, strict=True))
    # All that a batch can do works on parts with gaps between their rows.
    assert_same(parts[2:5], expected[2:5])
    assert_same(parts.contiguous(), expected)
    assert_same(parts.clone(), expected)
    assert torch.equal(parts.pad(), expected.pad())
    assert parts.nbytes == expected.nbytes


@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
def test_rows_of_images_of_which_parts_are_wanted_begin_where_kernels_read_fastest(make, mode):
    files = together(plain())
    with batch_context(BatchContext(0, 0, 0, np.arange(8), CPU, 1)):
        parts = make(DecodeRandomCrop, mode=mode)(files)
        assert_same(parts, DecodeRandomCrop(mode=mode)(files))
    assert not any(stride % 16 for part in parts for stride in part.stride()[:2])
    wholes = make(mode=mode)(files)
    assert all(whole.is_contiguous() for whole in wholes)
    assert any(whole.stride(1) % 16 for whole in wholes)


def test_images_are_brought_to_a_device_in_as_few_copies_as_there_are_pieces_of_memory():
    flat = torch.randint(256, (500_000,), dtype=torch.uint8)
    starts, lengths = np.array([400_000, 30, 100, 499_990]), np.array([70, 60, 300, 10])
    elsewhere = torch.device("cpu", 0)  # is not the device of a tensor on the CPU
    buffer, places = _at_once._brought(flat, starts, lengths, elsewhere)
    assert buffer.data_ptr() != flat.data_ptr()
    assert buffer.numel() == 370 + 70 + 10
    for start, length, place in zip(starts, lengths, places, strict=True):
        assert torch.equal(buffer[place : place + length], flat[start : start + length])


def test_what_workers_have_decoded_is_taken(make, library):
    files = together(plain())
    images = {n: torch.full((3, 9, 10 + n), n, dtype=torch.uint8) for n in (1, 5)}
    settings = DecodeSettings("RGB", True, DecodeImage().max_pixels, "torchvision")
    decoded = Decoded([files], 0, Given.of(images), settings)
    module = make()
    with batch_context(BatchContext(0, 0, 0, np.arange(8), CPU, 1, decoded=decoded)):
        found = module(files)
    assert library.batches == ["prepared", 6]
    for n, image in enumerate(found):
        assert torch.equal(image, images[n] if n in images else DecodeImage()([files[n]])[0])
    assert module.statistics.given_images == 2


@pytest.mark.parametrize("bad", [b"", b"no image", plain(1)[0][:200]])
def test_a_bad_file_is_found_and_the_others_are_decoded(decoder, library, bad):
    files = together([*plain()[:4], bad, *plain()[4:]])
    module = DecodeImage(on_error="skip")
    module._decoders["cpu"] = decoder
    images, numbers = module(files, list(range(9)))
    assert numbers == [0, 1, 2, 3, 5, 6, 7, 8]
    assert_same_images(images, DecodeImage(on_error="skip")(files))
    strict = DecodeImage()
    strict._decoders["cpu"] = decoder
    with pytest.raises(DecodeError, match="sample 4"):
        strict(files)


def assert_same_images(images, expected):
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))


def test_what_the_engine_refuses_costs_the_others_nothing(decoder, library):
    files = together(plain())
    module = DecodeImage()
    module._decoders["cpu"] = decoder
    library.statuses = [3, 3]
    assert_same_images(module(files), DecodeImage()(files))
    assert library.batches == ["prepared", "prepared", "prepared", 4, 4]


def test_few_for_the_engine_are_decoded_image_by_image(decoder, library):
    files = together([*plain(2), *(encoded(picture(90, 80), "PNG") for _ in range(5))])
    module = DecodeImage()
    module._decoders["cpu"] = decoder
    assert_same_images(module(files), DecodeImage()(files))
    assert library.batches == ["prepared", 2]


def test_it_is_not_by_accident_that_they_are_decoded_at_once(make, monkeypatch):
    monkeypatch.setattr(_decode_image, "plan_at_once", lambda *arguments, **options: None)
    with pytest.raises(TypeError):
        make()(together(plain()))
