"""Padding to one size, after the examples of DALI's documentation."""

import pytest
import torch

from tests.ops.images import assert_same_in_both_layouts, batch
from torchdali import TensorList
from torchdali.ops import Pad


def test_images_are_padded_to_the_largest_of_the_batch():
    images = batch((3, 4), (5, 2))
    results = assert_same_in_both_layouts(Pad(fill=42), images)
    assert results.shape() == [(3, 5, 4)] * 2
    for image, result in zip(images, results, strict=True):
        height, width = image.shape[1:]
        assert torch.equal(result[:, :height, :width], image)
        assert (result[:, height:] == 42).all()
        assert (result[:, :, width:] == 42).all()
    assert results.as_tensor().shape == (2, 3, 5, 4)


def test_sizes_become_multiples():
    images = batch((3, 4), (5, 2))
    assert Pad(align=(4, 5))(images).shape() == [(3, 8, 5)] * 2
    assert Pad(1, align=2)(images).shape() == [(3, 4, 4), (3, 6, 2)]


def test_a_size_is_the_least_and_cuts_nothing():
    images = batch((3, 4), (5, 2))
    assert Pad((4, 3))(images).shape() == [(3, 4, 4), (3, 5, 3)]
    assert Pad((4, -1))(images).shape() == [(3, 4, 4), (3, 5, 4)]
    assert Pad(torch.tensor([[7, 8], [9, 9]]))(images).shape() == [(3, 7, 8), (3, 9, 9)]
    assert Pad()(images, size=10).shape() == [(3, 10, 10)] * 2


def test_each_channel_can_have_its_value():
    result = Pad((1, 3), (1, 2.5, 300))(batch((1, 1)))[0]
    assert result[:, 0, 2].tolist() == [1, 2, 255]  # rounded half to even, clamped
    assert Pad((1, 3), -0.25)(batch((1, 1), dtype=torch.float16))[0][0, 0, 2] == -0.25


def test_what_is_large_enough_is_not_copied():
    images = batch((4, 4), (2, 2))
    assert Pad()(images)[0].data_ptr() == images[0].data_ptr()


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="align is 0"):
        Pad(align=0)
    with pytest.raises(ValueError, match="align is 1.5"):
        Pad(align=1.5)
    with pytest.raises(TypeError, match="fill is 'black'"):
        Pad(fill="black")
    with pytest.raises(ValueError, match="size is .*2.5"):
        Pad(2.5)(batch((3, 4)))
    with pytest.raises(ValueError, match="2 fill values are given for an image of 3 channels"):
        Pad(9, (1, 2))(batch((3, 4)))


def test_an_empty_batch_stays_empty():
    assert len(Pad()(TensorList([], "HWC", dtype=torch.uint8))) == 0
