"""Erasing rectangles, after the examples of DALI's documentation."""

import pytest
import torch

from tests.ops.images import assert_same_in_both_layouts, batch, random_image
from torchdali import TensorList
from torchdali.ops import Erase, Uniform


def erased(image, *regions, value=0):
    """Top, bottom, left, right."""
    result = image.clone()
    for top, bottom, left, right in regions:
        result[:, top:bottom, left:right] = value
    return result


def test_a_rectangle_is_set_to_a_value():
    images = batch((20, 30), (20, 25))
    results = assert_same_in_both_layouts(Erase((2, 5), (10, 12), 9), images)
    for image, result in zip(images, results, strict=True):
        assert torch.equal(result, erased(image, (2, 12, 5, 17), value=9))


def test_the_images_themselves_stay_as_they_are():
    image = random_image()
    before = image.clone()
    Erase((0, 0), (3, 3), 1)(image[None])
    assert torch.equal(image, before)


def test_there_can_be_several_rectangles_and_a_value_a_channel():
    image = random_image(20, 30)
    result = Erase((0, 0, 10, 20), (3, 4, 5, 100), (118, 185, 0.5))(image[None])[0]
    value = torch.tensor([118, 185, 0], dtype=torch.uint8)[:, None, None]
    assert torch.equal(result, erased(image, (0, 3, 0, 4), (10, 15, 20, 30), value=value))


def test_bands_reach_over_the_whole_image():
    image = random_image(20, 40)
    assert torch.equal(Erase((3, 30), (4, 5), axes="W")(image[None])[0], erased(image, (0, 20, 3, 7), (0, 20, 30, 35)))
    assert torch.equal(Erase(3, 4, axes="H")(image[None])[0], erased(image, (3, 7, 0, 40)))
    assert torch.equal(Erase((5, 3), (6, 4), axes="WH")(image[None])[0], erased(image, (3, 7, 5, 11)))


def test_coordinates_can_be_shares_of_the_image():
    image = random_image(10, 30)
    assert torch.equal(Erase((0.15, 0.15), (0.3, 0.3), normalized=True)(image[None])[0], erased(image, (1, 4, 4, 13)))
    mixed = Erase((0.15, 0.15), (2, 3), normalized=(True, False))(image[None])[0]
    assert torch.equal(mixed, erased(image, (1, 3, 4, 7)))


def test_the_end_of_a_rectangle_is_cut_off_and_not_its_extent():
    image = random_image(10, 30)
    assert torch.equal(Erase((1.6, 2.9), (1.6, 0.9))(image[None])[0], erased(image, (1, 3, 2, 3)))


def test_an_anchor_can_be_the_middle():
    image = random_image(10, 30)
    assert torch.equal(Erase((5, 10), (4, 7), centered=True)(image[None])[0], erased(image, (3, 7, 6, 13)))


def test_what_lies_outside_does_not_count():
    image = random_image(10, 10)
    assert torch.equal(Erase((-3, 8), (5, 9), 1)(image[None])[0], erased(image, (0, 2, 8, 10), value=1))
    assert torch.equal(Erase((20, -30), (5, 9), 1)(image[None])[0], image)
    assert torch.equal(Erase((2, 2), (0, 4), 1)(image[None])[0], image)


def test_rectangles_can_differ_from_sample_to_sample_also_in_number():
    images = batch((10, 10), (10, 10))
    results = Erase(torch.tensor([[0.0, 1], [2, 3]]), (4, 4))(images)
    assert torch.equal(results[0], erased(images[0], (0, 4, 1, 5)))
    assert torch.equal(results[1], erased(images[1], (2, 6, 3, 7)))
    anchors = TensorList([torch.zeros(0), torch.tensor([0.0, 0, 5, 5])])
    shapes = TensorList([torch.zeros(0), torch.tensor([1.0, 2, 3, 4])])
    ragged = Erase((0, 0), (1, 1))(images, anchor=anchors, shape=shapes)
    assert torch.equal(ragged[0], images[0])
    assert torch.equal(ragged[1], erased(images[1], (0, 1, 0, 2), (5, 8, 5, 9)))


def test_anchors_can_be_random():
    image = torch.ones(1, 30, 30)
    results = Erase(Uniform(0, 0.8, 2), (0.2, 0.2), normalized=(True, True))(TensorList([image] * 6, "CHW"))
    places = {tuple((result == 0).nonzero()[0].tolist()) for result in results}
    assert len(places) > 3
    assert all(25 <= (result == 0).sum() <= 49 for result in results)


def test_arguments_that_make_no_sense_are_refused():
    images = batch((10, 10))
    with pytest.raises(ValueError, match="anchor has 2 values and shape 4 for sample 0"):
        Erase((1, 2), (1, 2, 3, 4))(images)
    with pytest.raises(ValueError, match="both have 2: along H and W"):
        Erase(1, 2)(images)
    with pytest.raises(ValueError, match="it is not negative"):
        Erase((1, 2), (1, -2))(images)
    with pytest.raises(ValueError, match="axes is 'C'"):
        Erase((1, 2), (1, 2), axes="C")
    with pytest.raises(ValueError, match="normalized is"):
        Erase((1, 2), (1, 2), normalized=(True,))
    with pytest.raises(ValueError, match="4 fill values are given for an image of 3 channels"):
        Erase((1, 2), (1, 2), (1, 2, 3, 4))(images)


def test_an_empty_batch_stays_empty():
    assert len(Erase((1, 2), (1, 2))(TensorList([], "HWC", dtype=torch.uint8))) == 0
