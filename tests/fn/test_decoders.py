import numpy as np
import pytest
import torch

from tests.ops.decode.oddities import encoded, oddities, picture
from torchdali import fn, pipeline_def, types
from torchdali.ops import DecodeImage

FILE = np.frombuffer(encoded(picture(90, 60)), np.uint8)


def run(define, files=(FILE, FILE)):
    @pipeline_def(batch_size=len(files), seed=3)
    def pipeline():
        return define(fn.external_source(lambda info: files[info.idx_in_epoch], batch=False))

    with pipeline() as pipe:
        pipe.build()
        return pipe.run()


def whole():
    (image,) = DecodeImage(layout="HWC")([torch.from_numpy(FILE.copy())])
    return image


def test_bgr_is_rgb_reversed():
    (images,) = as_tuple(run(lambda files: fn.decoders.image(files, output_type=types.BGR)))
    assert torch.equal(images[0], whole().flip(-1))


def test_any_data_keeps_the_channels():
    kinds = ("JPEG, gray", "JPEG, CMYK", "PNG with alpha", "WebP")
    files = [np.frombuffer(oddities()[kind], np.uint8) for kind in kinds]
    (images,) = as_tuple(run(lambda files: fn.decoders.image(files, output_type=types.ANY_DATA), files))
    assert [image.shape[-1] for image in images] == [1, 4, 4, 3]


def test_a_random_crop_is_drawn_for_each_sample_and_is_the_same_in_each_run():
    def define(files):
        return fn.decoders.image_random_crop(files, random_area=[0.2, 0.5], random_aspect_ratio=[0.9, 1.1], seed=-1)

    (one,), (other,) = (as_tuple(run(define)) for _ in range(2))
    assert one.shape() == other.shape()
    assert one.shape()[0] != one.shape()[1]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(0.15 < image[..., 0].numel() / (90 * 60) < 0.55 for image in one)


def test_a_crop_s_place_can_be_drawn():
    def define(files):
        place = fn.random.uniform(range=(0.0, 1.0))
        return fn.decoders.image_crop(files, crop=(20, 30), crop_pos_x=place, crop_pos_y=0.0), place

    images, places = run(define)
    for image, place in zip(images, places, strict=True):
        left = int(np.floor(float(place) * 60 + 0.5))
        assert torch.equal(image, whole()[:20, left : left + 30])


def test_a_slice_is_given_by_pixels_or_shares_in_either_order():
    for options in (
        {"start": (45, 15), "shape": (45, 30)},
        {"rel_start": (0.5, 0.25), "rel_shape": (0.5, 0.5)},
        {"start": (15, 45), "shape": (30, 45), "axis_names": "HW"},
    ):
        (images,) = as_tuple(run(lambda files, options=options: fn.decoders.image_slice(files, **options)))
        assert torch.equal(images[0], whole()[15:45, 45:90]), options


@pytest.mark.parametrize(
    ("define", "error", "message"),
    [
        (lambda files: fn.decoders.image_slice(files), ValueError, "either start and shape"),
        (lambda files: fn.decoders.image_slice(files, start=(0, 0)), ValueError, "either start and shape"),
        (lambda files: fn.decoders.image_slice(files, start=(0, 0), rel_shape=(1, 1)), ValueError, "either start"),
        (lambda files: fn.decoders.image_crop(files, crop=(1, 2, 3)), ValueError, "crop is"),
        (lambda files: fn.decoders.image_random_crop(files, random_area=[0.5]), ValueError, "random_area is"),
        (lambda files: fn.decoders.image_random_crop(files, device="tpu"), ValueError, "no device 'tpu'"),
    ],
)
def test_arguments_that_make_no_sense_are_named(define, error, message):
    with pytest.raises(error, match=message):
        run(define)


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)
