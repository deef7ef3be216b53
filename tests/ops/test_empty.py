"""Batches without images: what has one size is a tensor of that size, (0, ...)."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import torchdali
from torchdali import ExternalSource, TensorList
from torchdali.ops import (
    BatchContext,
    BrightnessContrast,
    Cast,
    CoinFlip,
    ColorTwist,
    Crop,
    CropMirrorNormalize,
    DecodeCrop,
    DecodeImage,
    Erase,
    Flip,
    Fused,
    GaussianBlur,
    Normalize,
    OneHot,
    Pad,
    RandomResizedCrop,
    Resize,
    Rotate,
    Uniform,
    batch_context,
)

PREPARE = Fused(RandomResizedCrop(24), Flip(horizontal=CoinFlip()), Normalize([1, 2, 3], 4, dtype=torch.float16))
NO_FILE = [torch.zeros(0, dtype=torch.uint8)] * 2


def skipped(mode="RGB", layout="CHW"):
    """What comes of files of which none is an image."""
    return DecodeImage(mode, layout, on_error="skip")(NO_FILE)


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (BrightnessContrast(Uniform(1, 2)), (3, 5, 7)),
        (Cast(torch.uint8), (3, 5, 7)),
        (ColorTwist(Uniform(0, 1)), (3, 5, 7)),
        (Crop((2, 0)), (3, 2, 7)),
        (Crop(20, out_of_bounds="trim_to_shape"), (3, 5, 7)),
        (CropMirrorNormalize(4, mirror=CoinFlip(), pad_output=True), (4, 4, 4)),
        (CropMirrorNormalize(4, output_layout="HWC"), (4, 4, 3)),
        (Erase((0, 0), (1, 1)), (3, 5, 7)),
        (Flip(CoinFlip()), (3, 5, 7)),
        (GaussianBlur(Uniform(1, 2)), (3, 5, 7)),
        (Normalize(), (3, 5, 7)),
        (Normalize(1, 2), (3, 5, 7)),
        (Pad(16), (3, 16, 16)),
        (Pad(1, align=4), (3, 8, 8)),
        (PREPARE, (3, 24, 24)),
        (Resize(8), (3, 8, 8)),
        (Resize(resize_x=14), (3, 10, 14)),
        (Rotate(90), (3, 7, 5)),
    ],
    ids=repr,
)
def test_a_tensor_without_images_becomes_one_of_the_size_that_results_have(operator, shape):
    result = operator(torch.zeros((0, 3, 5, 7)))
    expected = operator(torch.zeros((1, 3, 5, 7)))
    assert result.shape == (0, *shape)
    assert expected.shape == (1, *shape)
    assert result.dtype == expected.dtype


def test_images_with_their_channels_last_keep_their_layout():
    none = TensorList.from_batch(torch.zeros((0, 5, 7, 3)), "HWC")
    assert Resize(8)(none).as_tensor().shape == (0, 8, 8, 3)
    assert CropMirrorNormalize(4)(none).as_tensor().shape == (0, 3, 4, 4)


def test_values_that_are_no_images_keep_their_shape():
    assert BrightnessContrast(2.0)(torch.zeros((0, 5))).shape == (0, 5)
    assert Cast(torch.int8)(torch.zeros((0, 5))).dtype == torch.int8
    for shape in ((), (1,), (2,)):
        classes = torch.zeros((3, *shape), dtype=torch.int64)
        assert OneHot(4)(classes[:0]).shape == OneHot(4)(classes)[:0].shape


@pytest.mark.parametrize(
    "operator", [Resize(Uniform(5, 9)), Rotate(Uniform(-30, 30)), Crop(Uniform(1, 5, dtype=torch.int32))]
)
def test_a_size_that_is_drawn_is_not_known(operator):
    with pytest.raises(ValueError, match="empty TensorList"):
        operator(torch.zeros((0, 3, 50, 70)))


def test_of_skipped_images_the_size_is_known_where_it_does_not_depend_on_them():
    assert PREPARE(skipped()).as_tensor().shape == (0, 3, 24, 24)
    assert Resize(8)(skipped(layout="HWC")).as_tensor().shape == (0, 8, 8, 3)
    assert Resize(8)(skipped("GRAY")).as_tensor().shape == (0, 1, 8, 8)
    assert Crop(600)(skipped()).as_tensor().shape == (0, 3, 600, 600)
    assert DecodeCrop((5, 6), on_error="skip")(NO_FILE).as_tensor().shape == (0, 3, 5, 6)
    for images in (
        skipped(),
        Resize(8)(skipped("UNCHANGED")),
        Resize(resize_shorter=8)(skipped()),
        Crop(8, out_of_bounds="trim_to_shape")(skipped()),
        Resize(8)(TensorList([])),
    ):
        assert not images.is_dense_tensor()
        with pytest.raises(ValueError, match="empty TensorList"):
            images.as_tensor()


def test_arguments_for_each_of_no_images_do_not_hide_the_size():
    flipped = Fused(Resize(8), CropMirrorNormalize())(skipped())
    assert CropMirrorNormalize(4)(flipped, mirror=torch.zeros(0)).as_tensor().shape == (0, 3, 4, 4)
    assert not Resize(8)(skipped(), size=torch.zeros((0, 2))).is_dense_tensor()


def test_nobody_notices_that_operators_were_asked():
    draws = {}
    state = torch.get_rng_state()
    with batch_context(BatchContext(1, 0, 0, np.arange(2), torch.device("cpu"), 1, draws)):
        PREPARE(skipped())
    assert all(len(drawn) == 0 for drawn in draws.values())
    PREPARE(skipped())
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_of_others_are_not_asked():
    class Counting(nn.Module):
        calls = 0

        def forward(self, count):
            self.calls += 1
            return torch.ones(count)

    contrast = Counting()
    assert len(BrightnessContrast(contrast)(skipped())) == 0
    assert contrast.calls == 1


def test_the_shape_is_kept_by_what_keeps_samples():
    none = PREPARE(skipped())
    for kept in (none.to(torch.float32), none.clone(), pickle.loads(pickle.dumps(none)), copy.deepcopy(none), none[:1]):
        assert kept.as_tensor().shape == (0, 3, 24, 24)


def test_a_pipeline_whose_images_are_all_skipped_gives_an_empty_tensor():
    class Training(torchdali.Pipeline):
        def __init__(self):
            super().__init__(ExternalSource(self.read, num_outputs=2, parallel=False), batch_size=3)
            self.decode = DecodeImage(on_error="skip")
            self.prepare = PREPARE

        @staticmethod
        def read(info):
            return np.zeros(9, np.uint8), np.int64(info.idx_in_epoch)

        def forward(self, jpegs, numbers):
            images, numbers = self.decode(jpegs, numbers)
            return self.prepare(images).as_tensor(), numbers.as_tensor()

    with Training() as pipeline:
        images, numbers = pipeline.run()
        assert (images.shape, numbers.shape) == ((0, 3, 24, 24), (0,))
