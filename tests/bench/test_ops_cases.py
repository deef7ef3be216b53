import importlib

import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.bench._ops_cases import CASES
from torchdali.bench._ops_measure import KORNIA, TORCHVISION, _engine
from torchdali.ops import BatchContext, batch_context
from torchdali.ops._execute import image_sizes

ANOTHER_FORMULA = {"brightness_contrast", "color_twist"}
"""torchvision and kornia centre contrast at the mean of the image; DALI at half the range."""


@pytest.fixture(autouse=True)
def same_draws():
    with batch_context(BatchContext(1, 0, 0, np.arange(3), torch.device("cpu"), 1)):
        yield


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(4)
    smooth = [torch.rand(3, 9, 12, generator=generator)[None] for _ in range(3)]
    sizes = ((226, 230), (240, 225), (200, 191))
    large = [
        torch.nn.functional.interpolate(image, size, mode="bicubic")[0]
        for image, size in zip(smooth, sizes, strict=True)
    ]
    return TensorList([image.mul(255).clamp(0, 255).to(torch.uint8) for image in large], "CHW")


def results_of(name, engine, images):
    case = CASES[name]()
    ours = case.whole(images)
    return ours, _engine(engine, case, image_sizes(images, name), images.dtype)(images)


def distance(one, another):
    one, another = one.float(), another.float()
    return float((one - another).abs().mean() / (one.max() - one.min()))


def test_torchvision_makes_of_images_what_the_operators_make(images):
    for name in sorted(set(CASES) - {"rotate"}):
        for ours, theirs in zip(*results_of(name, TORCHVISION, images), strict=True):
            assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device), name
            assert distance(ours, theirs) < (0.3 if name in ANOTHER_FORMULA else 0.005), name


def test_torchvision_rotates_by_the_same_angle_onto_a_canvas_like_that_of_the_operator(images):
    for ours, theirs in zip(*results_of("rotate", TORCHVISION, images), strict=True):
        height, width = (min(sizes) for sizes in zip(ours.shape[1:], theirs.shape[1:], strict=True))
        assert all(abs(a - b) <= 2 for a, b in zip(ours.shape, theirs.shape, strict=True))
        assert distance(ours[:, :height, :width], theirs[:, :height, :width]) < 0.02


def test_kornia_makes_of_images_what_the_operators_make(images):
    pytest.importorskip("kornia")
    for name in sorted(name for name, make in CASES.items() if make().in_kornia):
        for ours, theirs in zip(*results_of(name, KORNIA, images), strict=True):
            assert ours.dtype == theirs.dtype, name
            if name != "rotate":  # on a canvas of the image's size
                assert ours.shape == theirs.shape, name
                assert distance(ours, theirs) < (0.3 if name in ANOTHER_FORMULA else 0.01), name


def test_what_kornia_has_no_function_for_is_not_asked_of_it():
    without = [case for case in (make() for make in CASES.values()) if not case.in_kornia]
    assert [case.name for case in without] == ["erase", "cast"]
    for case in without:
        with pytest.raises(NotImplementedError, match=case.name):
            case.kornia(importlib, torch.zeros(1, 3, 4, 4), None)


def test_the_training_chain_gives_half_precision_with_the_channels_last_fused_and_in_turn(images):
    case = CASES["training"]()
    fused, in_turn = case.whole(images), case.in_turn(images)
    assert in_turn.is_contiguous(memory_format=torch.channels_last)
    for one, another in zip(fused, in_turn, strict=True):
        assert one.shape == (3, 224, 224)
        assert one.dtype == torch.float16
        assert one.stride() == another.stride() == (1, 3 * 224, 3)
        torch.testing.assert_close(one, another)
