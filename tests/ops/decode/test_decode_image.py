import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import decode_serially, read_bytes
from tests.ops.decode.oddities import avif, encoded, oddities, picture, tensor
from torchdali import DecodeError, TensorList
from torchdali.ops import BatchContext, DecodeImage, batch_context
from torchdali.ops.decode._inspect import inspect
from torchdali.ops.decode._interface import CannotDecodeError


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
    from PIL import ImageOps

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
        DecodeError, match=r"sample 1 of the batch cannot be decoded: it starts with 74 65 78"
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
    with pytest.raises(ValueError, match="decoder is 'pillow'; it is one of 'auto'"):
        DecodeImage(decoder="pillow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_pixels is 0"):
        DecodeImage(max_pixels=0)
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


def test_pixels_that_are_left_unchanged_have_the_channels_that_are_stored():
    expected = {
        "JPEG, baseline": 3,
        "JPEG, gray": 1,
        "JPEG, CMYK": 4,
        "PNG": 3,
        "PNG with alpha": 4,
        "PNG with a palette": 3,
        "PNG of 16 bits": 1,
        "WebP": 3,
        "GIF": 3,
    }
    files = oddities()
    images = DecodeImage("UNCHANGED")([tensor(files[name]) for name in expected])
    assert {name: image.shape[0] for name, image in zip(expected, images, strict=True)} == expected


@pytest.mark.parametrize("mode", ["RGB", "GRAY"])
def test_a_folder_of_mixed_pictures_gives_one_picture(mode):
    files = oddities()
    names = [name for name in files if inspectable(files[name]) == (64, 96)]
    assert len(names) > 15
    decode = DecodeImage(mode, on_error="skip")
    decoded = decode([tensor(files[name]) for name in names])
    images = dict(zip((names[n] for n in decode.last_kept), decoded, strict=True))
    assert len(images) > 12
    reference = DecodeImage(mode)([tensor(files["PNG"])])[0].float()
    for name, image in images.items():
        colourless = mode == "RGB" and name in ("JPEG, gray", "PNG of 16 bits")
        few_colours = "GIF" in name or "palette" in name
        target = reference.mean(0, keepdim=True) if colourless else reference
        difference = (image.float() - target).abs().mean().item()
        assert difference < (25 if colourless or few_colours else 5), (name, difference)


def inspectable(data):
    try:
        info = inspect(data)
    except CannotDecodeError:
        return None
    return (info.height, info.width) if info.orientation == 1 else None


def test_16_bits_are_scaled_and_rounded():
    values = np.arange(0, 65536, 7, dtype=np.uint16)[None]
    (image,) = DecodeImage("GRAY")([tensor(encoded(Image.fromarray(values), "PNG"))])
    assert np.array_equal(image[0].numpy(), np.round(values / 257).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_orientation_of_other_formats_is_applied_too(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = tensor(encoded(picture(), kind, exif=exif, lossless=True))
    (stored,) = DecodeImage(apply_exif_orientation=False)([data])
    (upright,) = DecodeImage()([data])
    assert torch.equal(upright, stored.transpose(1, 2).flip(2))


def test_gray_of_a_webp_is_the_luma_that_pillow_computes():
    image = picture()
    (gray,) = DecodeImage("GRAY")([tensor(encoded(image, "WEBP", lossless=True))])
    assert np.array_equal(gray[0].numpy(), np.asarray(image.convert("L")))


def test_of_an_animation_the_first_frame_is_decoded():
    files = oddities()
    one, two = DecodeImage()([tensor(files["GIF"]), tensor(files["GIF of two frames"])])
    assert torch.equal(one, two)


def test_a_file_that_is_every_second_byte_of_memory_is_decoded():
    data = np.frombuffer(encoded(picture()), np.uint8)
    strided = torch.from_numpy(np.repeat(data, 2))[::2]
    assert torch.equal(DecodeImage()([strided])[0], DecodeImage()([torch.from_numpy(data.copy())])[0])


def test_max_pixels_is_the_most_that_is_decoded():
    data = tensor(encoded(picture(96, 64)))
    DecodeImage(max_pixels=96 * 64)([data])
    with pytest.raises(DecodeError, match="claims 96 x 64 pixels, more than max_pixels=6143"):
        DecodeImage(max_pixels=96 * 64 - 1)([data])


def test_an_avif_needs_another_package_that_is_named(monkeypatch):
    data = tensor(avif())
    monkeypatch.setattr("torchdali.ops.decode._codecs.is_installed", lambda module: False)
    with pytest.raises(DecodeError, match="AVIF, which needs another package: pip install torchvision-extra-decoders"):
        DecodeImage()([data])


def test_cmyk_is_converted(odd_folder):
    (image,) = DecodeImage()([read_bytes(odd_folder / "cmyk.jpg")])
    assert torch.equal(image, decode_serially(odd_folder / "cmyk.jpg"))


@pytest.mark.parametrize("file", [b"\xff\xd8", "cat.jpg"])
def test_what_is_no_tensor_is_refused_with_what_to_pass(file):
    with pytest.raises(TypeError, match=r"sample 0 of the batch is a (bytes|str); .*read_file\(path\) gives one"):
        DecodeImage()([file])
