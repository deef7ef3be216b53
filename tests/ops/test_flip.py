"""Flips."""

import pytest
import torch

from tests.ops.images import assert_same_in_both_layouts, batch, interleaved
from torchdali import TensorList
from torchdali.ops import Choice, Flip


def test_left_and_right_are_swapped_by_default():
    images = batch((7, 9), (1, 1), (4, 5))
    results = assert_same_in_both_layouts(Flip(), images)
    assert all(torch.equal(one, other.flip(2)) for one, other in zip(results, images, strict=True))


def test_each_direction_can_be_flipped_or_both():
    image = batch((7, 9))
    assert torch.equal(Flip(0, 1)(image)[0], image[0].flip(1))
    assert torch.equal(Flip(1, 1)(image)[0], image[0].flip(1, 2))
    assert torch.equal(Flip(0, 0)(image)[0], image[0])


def test_samples_can_be_flipped_one_by_one():
    images = batch((7, 9), (7, 9))
    results = Flip(torch.tensor([1, 0]))(images, vertical=[0, 1])
    assert torch.equal(results[0], images[0].flip(2))
    assert torch.equal(results[1], images[1].flip(1))


def test_random_flips_are_the_same_in_both_layouts_and_about_half():
    images = batch(*[(2, 3)] * 200)
    flip = Flip(Choice([0, 1]))
    torch.manual_seed(5)
    planar = flip(images)
    torch.manual_seed(5)
    other = flip(interleaved(images))
    assert all(torch.equal(one, two.permute(2, 0, 1)) for one, two in zip(planar, other, strict=True))
    flipped = sum(torch.equal(one, two.flip(2)) for one, two in zip(planar, images, strict=True))
    assert 60 < flipped < 140


def test_all_types_are_kept_exactly():
    for dtype in (torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float64):
        image = (torch.arange(24).view(2, 3, 4) * 3).to(dtype)
        assert torch.equal(Flip()(TensorList([image], "CHW"))[0], image.flip(2))


def test_what_is_neither_0_nor_1_is_refused():
    with pytest.raises(ValueError, match="horizontal is 0.5 for sample 1 of the batch; it has to be 0 .* or 1"):
        Flip([1, 0.5])(batch((7, 9), (7, 9)))
    with pytest.raises(ValueError, match="the batch has 2 samples"):
        Flip(torch.ones(3))(batch((7, 9), (7, 9)))


def test_an_empty_batch_stays_empty():
    assert len(Flip()(TensorList([], "HWC", dtype=torch.uint8))) == 0
