"""Arguments that operators have in common."""

import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.ops import (
    BrightnessContrast,
    CoinFlip,
    ColorTwist,
    Crop,
    CropMirrorNormalize,
    Erase,
    GaussianBlur,
    Normalize,
    Pad,
    RandomResizedCrop,
    Resize,
    Rotate,
    Uniform,
    WarpAffine,
)


@pytest.mark.parametrize(
    "operator",
    [
        BrightnessContrast(Uniform(0.5, 1.5)),
        Crop(Uniform(3, 5, dtype=torch.int32)),
        CropMirrorNormalize(Uniform(3, 5, dtype=torch.int32), mirror=CoinFlip(), mean=Uniform()),
        Erase(Uniform(0, 1, shape=2), Uniform(0, 1), normalized=True),
        GaussianBlur(Uniform(1, 2)),
        GaussianBlur(Uniform(1, 2, shape=2)),
        Normalize(Uniform(shape=3), 1),
        Pad(Uniform(9, 12, dtype=torch.int32)),
        Resize(Uniform(5, 9)),
        Resize(Uniform(5, 9, shape=2)),
        Resize(resize_x=Uniform(5, 9)),
        Rotate(Uniform(-10, 10)),
        WarpAffine(Uniform(shape=(2, 3))),
    ],
    ids=repr,
)
def test_what_is_random_does_not_mind_a_batch_without_samples(operator):
    assert len(operator(TensorList([], "CHW", dtype=torch.uint8))) == 0


@pytest.mark.parametrize("none", [np.zeros(0), torch.zeros(0), TensorList([]), torch.zeros((0, 2))], ids=repr)
def test_arguments_of_a_call_may_have_no_values_where_there_are_no_samples(none):
    empty = TensorList([], "CHW", dtype=torch.uint8)
    assert len(Resize(5)(empty, size=none)) == 0
    assert len(Normalize(0, 1)(empty, mean=none)) == 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.uint16, "float", np.float32])
@pytest.mark.parametrize(
    "make",
    [
        BrightnessContrast,
        ColorTwist,
        CropMirrorNormalize,
        Normalize,
        lambda dtype: Crop(3, dtype=dtype),
        lambda dtype: GaussianBlur(1, dtype=dtype),
        lambda dtype: Pad(9, dtype=dtype),
        lambda dtype: RandomResizedCrop(3, dtype=dtype),
        lambda dtype: Resize(3, dtype=dtype),
        lambda dtype: Rotate(5, dtype=dtype),
        lambda dtype: WarpAffine(((1, 0, 0), (0, 1, 0)), dtype=dtype),
    ],
)
def test_a_type_that_images_cannot_have_is_refused_when_an_operator_is_made(make, dtype):
    with pytest.raises(ValueError, match="dtype is .*; it is one of torch.uint8"):
        make(dtype=dtype)
