import io
import warnings

import numpy as np
import pytest
import torch

from tests.helpers import decode_serially, read_bytes
from torchdali import DecodeError, TensorList
from torchdali.ops import BatchContext, DecodeImage, batch_context


def paths_of(folder):
    return sorted([*folder.glob("*.jpg"), *folder.glob("*.JPEG")])


@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
def test_a_batch_is_decoded_as_each_image_alone(image_folder, mode):
    paths = paths_of(image_folder)
    images = DecodeImage(mode)(TensorList([read_bytes(path) for path in paths]))
    assert images.layout == "CHW"
    assert images.dtype == torch.uint8
    for image, path in zip(images, paths, strict=True):
        assert torch.equal(image, decode_serially(path, mode)), path


def test_channels_last_are_the_same_pixels(photographs):
    files = TensorList([read_bytes(path) for path in paths_of(photographs)])
    for planar, interleaved in zip(DecodeImage()(files), DecodeImage(layout="HWC")(files), strict=True):
        assert torch.equal(planar.permute(1, 2, 0), interleaved)


def test_grayscale_becomes_three_equal_channels(photographs):
    (image,) = DecodeImage()([read_bytes(photographs / "photographer.jpg")])
    assert image.shape[0] == 3
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied_as_pillow_applies_it(photographs, orientation):
    from PIL import Image, ImageOps

    original = Image.open(photographs / "cat.jpg").crop((0, 0, 96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    original.save(stream, "JPEG", quality=95, exif=exif)
    data = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
    (stored,) = DecodeImage(apply_exif_orientation=False)([data])
    (upright,) = DecodeImage()([data])
    tagged = Image.fromarray(stored.permute(1, 2, 0).contiguous().numpy())
    tagged.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    assert np.array_equal(upright.permute(1, 2, 0).numpy(), expected)


def test_a_cut_file_is_named_by_its_sample(photographs):
    good = read_bytes(photographs / "cat.jpg")
    context = BatchContext(1, 4, 5, np.arange(40, 43), torch.device("cpu"), 2)
    with batch_context(context), pytest.raises(DecodeError, match="sample 41 of epoch 4 .*cut off") as caught:
        DecodeImage()([good, good[:9000], good])
    assert (caught.value.position, caught.value.index) == (1, 41)


def test_outside_a_pipeline_the_position_is_named(photographs):
    good = read_bytes(photographs / "cat.jpg")
    with pytest.raises(
        DecodeError, match=r"sample 1 of the batch cannot be decoded as a JPEG: it starts with 74 65 78"
    ) as caught:
        DecodeImage()([good, torch.frombuffer(bytearray(b"text, no image"), dtype=torch.uint8)])
    assert caught.value.index is None


def test_what_only_the_decoder_finds_is_named_too(photographs):
    data = bytearray((photographs / "cat.jpg").read_bytes())
    start = data.index(b"\xff\xc4") + 5  # the code lengths of the first Huffman table
    data[start : start + 16] = b"\xff" * 16
    with pytest.raises(DecodeError, match="sample 0 of the batch"):
        DecodeImage()([torch.frombuffer(data, dtype=torch.uint8)])


@pytest.mark.parametrize(
    "data", [torch.zeros(4, dtype=torch.int32), torch.zeros((2, 2), dtype=torch.uint8), torch.zeros(3, device="meta")]
)
def test_what_are_no_bytes_is_a_type_error(data):
    with pytest.raises(TypeError, match="one-dimensional uint8"):
        DecodeImage()([data])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="mode is 'CMYK'"):
        DecodeImage("CMYK")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layout is 'WHC'"):
        DecodeImage(layout="WHC")  # type: ignore[arg-type]


def test_decoding_warns_of_nothing(photographs):
    files = [read_bytes(path) for path in paths_of(photographs)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DecodeImage()(files)


def test_an_empty_batch_stays_empty():
    images = DecodeImage()([])
    assert len(images) == 0
    assert images.dtype == torch.uint8


def test_cmyk_is_converted(odd_folder):
    (image,) = DecodeImage()([read_bytes(odd_folder / "cmyk.jpg")])
    assert torch.equal(image, decode_serially(odd_folder / "cmyk.jpg"))
