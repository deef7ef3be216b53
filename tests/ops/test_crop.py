"""Crops: where the window lies, and what happens beyond the image."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from tests.ops.images import assert_same_in_both_layouts, batch, interleaved, random_image
from torchdali import TensorList
from torchdali.ops import Crop, Uniform
from torchdali.ops._crop import crop_windows


def window(size, shape, x=0.5, y=0.5, rounding="round"):
    values = (np.array([size]), np.array([shape], np.float64), np.array([x]), np.array([y]))
    return crop_windows(*values, rounding)[0].tolist()


def test_windows_lie_where_dali_puts_them():
    for arguments, expected in [
        (((10, 20), (4, 6)), [3, 7, 4, 6]),
        (((10, 20), (5, 5)), [3, 8, 5, 5]),  # 2.5 and 7.5: halves away from zero
        (((10, 20), (4, 6), 0.0, 1.0), [6, 0, 4, 6]),
        (((10, 20), (5, 5), 0.5, 0.5, "truncate"), [2, 7, 5, 5]),
        (((4, 4), (7, 9)), [-2, -3, 7, 9]),  # -1.5 and -2.5
        (((4, 4), (7, 9), 0.5, 0.5, "truncate"), [-1, -2, 7, 9]),
        (((10, 20), (0, 6), 1.0, 0.3), [0, 14, 10, 6]),
    ]:
        assert window(*arguments) == expected


def test_a_crop_is_a_part_of_the_image_unchanged():
    images = batch((7, 9), (8, 10))
    results = assert_same_in_both_layouts(Crop((4, 5), 0.0, 1.0), images)
    for image, result in zip(images, results, strict=True):
        assert torch.equal(result, image[:, -4:, :5])
        assert result.data_ptr() == image[:, -4:].data_ptr()  # a view


def test_a_centre_crop_is_torchvision_s_where_it_is_even():
    image = random_image(20, 30)
    assert torch.equal(Crop((10, 12))(image[None])[0], vision.center_crop(image, [10, 12]))


def test_size_and_place_can_differ_from_sample_to_sample():
    images = batch((7, 9), (8, 10))
    results = Crop(torch.tensor([[2, 3], [4, 5]]), x=torch.tensor([0.0, 1.0]), y=[1.0, 0.0])(images)
    assert torch.equal(results[0], images[0][:, -2:, :3])
    assert torch.equal(results[1], images[1][:, :4, -5:])
    in_the_call = Crop(3)(images, height=[1, 2], width=4, x=0)
    assert in_the_call.shape() == [(3, 1, 4), (3, 2, 4)]


def test_random_places_are_the_same_in_both_layouts():
    images = batch(*[(20, 20)] * 8)
    operator = Crop(5, Uniform(0, 1), Uniform(0, 1))
    torch.manual_seed(1)
    planar = operator(images)
    torch.manual_seed(1)
    for one, other in zip(planar, operator(interleaved(images)), strict=True):
        assert torch.equal(one, other.permute(2, 0, 1))
    windows = {tuple(result.flatten().tolist()) for result in planar}
    assert len(windows) == 8


def test_a_window_beyond_the_image_is_an_error_unless_told_otherwise():
    images = batch((7, 9), (3, 9))
    with pytest.raises(ValueError, match=r"sample 1 of the batch: rows -1 to 4 .* of an image of 3 x 9"):
        Crop(5)(images)
    trimmed = Crop(5, out_of_bounds="trim_to_shape")(images)
    assert trimmed.shape() == [(3, 5, 5), (3, 3, 5)]
    assert torch.equal(trimmed[1], images[1][:, :, 2:7])


def test_a_window_beyond_the_image_is_padded_as_by_torchvision():
    image = random_image(4, 6)
    result = assert_same_in_both_layouts(Crop((8, 10), out_of_bounds="pad", fill=7), TensorList([image], "CHW"))[0]
    assert torch.equal(result, vision.pad(image, [2, 2, 2, 2], fill=7))
    by_channel = Crop((4, 8), 0, out_of_bounds="pad", fill=(1, 2, 3))(image[None])[0]
    assert torch.equal(by_channel[:, :, :6], image)  # x is 0: at the left
    assert by_channel[:, 0, -1].tolist() == [1, 2, 3]


def test_the_type_can_be_changed_without_rescaling():
    image = torch.tensor([[[-1.5, 0.5, 300.0]]])
    assert Crop(0, dtype=torch.uint8)(image[None]).tolist() == [[[[0, 0, 255]]]]
    assert Crop(0, dtype=torch.int16)(torch.tensor([[[[200]]]], dtype=torch.uint8)).dtype == torch.int16


def test_arguments_that_make_no_sense_are_refused_at_construction():
    for arguments, message in [
        ({"size": 4, "out_of_bounds": "wrap"}, "out_of_bounds is 'wrap'; it is one of 'error', 'trim_to_shape', 'pad'"),
        ({"size": 4, "rounding": "up"}, "rounding is 'up'"),
        ({"size": 4, "fill": ()}, r"fill is \(\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            Crop(**arguments)


def test_values_that_make_no_sense_are_refused_in_the_call():
    for arguments, message in [
        ({"size": 2.5}, "size is .*2.5.* whole numbers"),
        ({"size": -3}, "size is .*-3"),
        ({"size": 2, "x": 1.5}, "x is 1.5 for sample 0"),
        ({"size": 2, "y": float("nan")}, "y is nan"),
        ({"size": 2, "fill": (1, 2), "out_of_bounds": "pad"}, "2 fill values are given for an image of 3 channels"),
    ]:
        with pytest.raises(ValueError, match=message):
            Crop(**arguments)(batch((7, 9)))
