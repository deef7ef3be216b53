"""Resizing: DALI's rules for sizes, arguments for each sample, layouts."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from tests.ops.images import assert_same_in_both_layouts, batch, random_image
from torchdali import TensorList
from torchdali.ops import Choice, Resize


def sizes_of(operator, *sizes):
    """What becomes of images of these heights and widths."""
    step = operator.step(np.array([(3, *size) for size in sizes]), torch.uint8)
    return [tuple(size) for size in step.size.tolist()]


SIZES = [
    ({"size": 224}, (375, 500), (224, 224)),
    ({"size": (224, 100)}, (375, 500), (224, 100)),
    ({"size": (0, 100)}, (375, 500), (75, 100)),
    ({"size": 0}, (375, 500), (375, 500)),
    ({"resize_x": 100}, (375, 500), (75, 100)),
    ({"resize_y": 75}, (375, 500), (75, 100)),
    ({"resize_x": 10, "resize_y": 20}, (375, 500), (20, 10)),
    ({"resize_x": 10, "mode": "stretch"}, (375, 500), (375, 10)),
    ({"resize_shorter": 256}, (375, 500), (256, 341)),
    ({"resize_shorter": 256}, (500, 375), (341, 256)),
    ({"resize_longer": 256}, (375, 500), (192, 256)),
    ({"size": (480, 640), "mode": "not_larger"}, (720, 1280), (360, 640)),
    ({"size": (1080, 1920), "mode": "not_smaller"}, (480, 640), (1440, 1920)),
    ({"size": (960, 960), "mode": "not_larger"}, (1100, 750), (960, 655)),
    ({"size": 800, "mode": "not_smaller", "max_size": 1400}, (600, 1200), (700, 1400)),
    ({"resize_shorter": 800, "max_size": 1400}, (600, 1200), (700, 1400)),
    ({"resize_x": 100, "max_size": (50, 0)}, (375, 500), (50, 100)),
    ({"size": (0, 100), "mode": "not_smaller"}, (50, 50), (100, 100)),
    ({"size": (0, 100), "mode": "not_larger"}, (50, 50), (100, 100)),
    ({"resize_shorter": 3}, (2, 3), (3, 5)),  # 4.5 is rounded up
    ({"resize_longer": 1}, (3, 1000), (1, 1)),  # never nothing
    ({"size": 100.5}, (4, 4), (101, 101)),
]


def test_sizes_are_those_of_dali():
    for arguments, image, expected in SIZES:
        assert sizes_of(Resize(**arguments), image) == [expected], arguments


def test_the_size_can_differ_from_sample_to_sample():
    images = batch((7, 9), (5, 4), (1, 1))
    pairs = Resize(size=torch.tensor([[2, 3], [4, 5], [6, 7]]))(images)
    assert pairs.shape() == [(3, 2, 3), (3, 4, 5), (3, 6, 7)]
    assert Resize(resize_shorter=[4, 4, 4][0])(images).shape() == [(3, 4, 5), (3, 5, 4), (3, 4, 4)]
    assert Resize(resize_x=np.array([3.0, 8, 2]))(images).shape() == [(3, 2, 3), (3, 10, 8), (3, 2, 2)]
    in_the_call = Resize(5)(images, size=TensorList([torch.tensor([1.0, 2.0])] * 3))
    assert in_the_call.shape() == [(3, 1, 2)] * 3
    assert Resize(resize_shorter=5)(images, resize_shorter=[1, 2, 3]).shape() == [(3, 1, 1), (3, 3, 2), (3, 3, 3)]
    assert Resize(resize_longer=5)(images, resize_longer=9).shape() == [(3, 7, 9), (3, 9, 7), (3, 9, 9)]
    assert Resize(resize_x=5)(images, resize_x=3, resize_y=4).shape() == [(3, 4, 3)] * 3


def test_the_size_can_be_random():
    operator = Resize(resize_shorter=Choice([3, 6]))
    torch.manual_seed(0)
    shapes = operator(batch(*[(10, 10)] * 50)).shape()
    assert set(shapes) == {(3, 3, 3), (3, 6, 6)}
    assert "Choice" in str(operator)


def test_both_layouts_give_the_same():
    for dtype, channels in itertools.product((torch.uint8, torch.int16, torch.float16, torch.float32), (1, 3, 4)):
        images = batch((7, 9), (1, 1), (20, 31), dtype=dtype, channels=channels)
        results = assert_same_in_both_layouts(Resize((6, 8)), images)
        assert results.dtype == dtype
        assert results.shape() == [(channels, 6, 8)] * 3


def test_a_photograph_is_resized_as_by_torchvision():
    image = random_image(120, 160)
    result = Resize((50, 70))(TensorList([image], "CHW"))[0]
    expected = vision.resize(image.double(), [50, 70], antialias=True)
    assert (result.double() - expected).abs().max() <= 0.5 + 1e-3


def test_a_tensor_gives_a_tensor():
    images = torch.stack([random_image(seed=seed) for seed in range(3)])
    result = Resize(4, filter="nearest")(images)
    assert isinstance(result, torch.Tensor)
    assert result.shape == (3, 3, 4, 4)


def test_an_empty_batch_stays_empty():
    assert len(Resize(4)(TensorList([], "HWC", dtype=torch.uint8))) == 0


def test_a_negative_size_flips():
    images = batch((7, 9))
    flipped = Resize((-4, 5))(images)[0]
    assert torch.equal(flipped, Resize((4, 5))(images)[0].flip(1))


def test_the_type_can_be_changed():
    result = Resize(4, dtype=torch.float32)(batch((7, 9)))[0]
    assert result.dtype == torch.float32
    assert (result != result.round()).any()
    assert torch.equal(result.round().byte(), Resize(4)(batch((7, 9)))[0])


def test_the_module_prints_its_arguments():
    assert repr(Resize((4, 5), filter="cubic", antialias=False)) == "Resize(size=(4, 5), filter=cubic, antialias=False)"


def test_arguments_that_make_no_sense_are_refused_at_construction():
    for arguments, error, message in [
        ({}, TypeError, "given by nothing"),
        ({"size": 1, "resize_shorter": 2}, TypeError, "given by size and by resize_shorter"),
        ({"resize_shorter": 2, "mode": "stretch"}, TypeError, "is a mode of its own"),
        ({"size": 1, "mode": "larger"}, ValueError, "mode is 'larger'"),
        ({"size": 1, "filter": "bilinear"}, ValueError, "filter is 'bilinear'; it is one of 'nearest', 'linear'"),
        ({"size": 1, "max_size": -1}, ValueError, "max_size is -1"),
        ({"size": 1, "max_size": float("nan")}, ValueError, "max_size is .*nan"),
    ]:
        with pytest.raises(error, match=message):
            Resize(**arguments)


def test_sizes_that_make_no_sense_are_refused_in_the_call():
    for size, error, message in [
        (float("nan"), ValueError, "it has to be finite"),
        ((1, 2, 3), ValueError, "size has 3 numbers"),
        (torch.ones(3, 2), ValueError, "values for 3 samples; the batch has 2"),
        ("big", TypeError, "size is 'big'"),
        (1e12, ValueError, "a number of pixels"),
    ]:
        with pytest.raises(error, match=message):
            Resize(size)(batch((7, 9), (3, 4)))


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="Resize got a tensor of shape"):
        Resize(4)(TensorList([torch.zeros(3, 4)]))
    with pytest.raises(TypeError, match=r"Resize got images of type torch\.bool"):
        Resize(4)(TensorList([torch.zeros(3, 4, 4, dtype=torch.bool)]))
    with pytest.raises(TypeError, match="colour"):
        Resize(4)(batch((7, 9)), colour=3)
