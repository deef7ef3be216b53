"""On the GPU the operators that move pixels give what they give on the CPU."""

import numpy as np
import pytest
import torch

from tests.ops.images import batch, interleaved
from torchdali import TensorList, ops

pytestmark = pytest.mark.gpu

SIZES = ((20, 30), (1, 1), (64, 47), (5, 90))
EXACT = [
    ops.Crop((4, 5), 0.3, 0.8, out_of_bounds="pad", fill=(1, 2.5, 3)),
    ops.Crop((0, 8), out_of_bounds="trim_to_shape"),
    ops.Flip(),
    ops.Flip([0, 1, 1, 0], [0, 1, 0, 1]),
    ops.Pad(fill=7, align=(8, 3)),
    ops.Erase((2, 3, 0, 0), (5, 100, 1, 1), (9, 8, 7.5)),
    ops.Resize((9, 11), filter="nearest"),
    ops.Rotate(90, fill=0),
    ops.Rotate(180, filter="nearest"),
]
ROUNDED = [
    ops.Resize((9, 11)),
    ops.Resize((200, 100), filter="cubic"),
    ops.Resize((9, 11), filter="cubic", antialias=False),
    ops.Resize(resize_shorter=13, filter="lanczos3"),
    ops.Resize((9, 11), filter="gaussian"),
    ops.Rotate(np.array([10.0, 20, -100, 77]), fill=(1, 2, 300)),
    ops.Rotate(33, keep_size=True),
    ops.WarpAffine([[0.9, 0.35, -1.7], [-0.2, 1.3, 0.6]], (30, 31), fill=0),
    ops.GaussianBlur(1.3),
    ops.GaussianBlur((0.5, 4.0)),
    ops.RandomResizedCrop(16, seed=3),
]


def on_both(operator, images):
    """The same batch by CPU and by GPU, the latter brought back, with the same draws."""
    context = ops.BatchContext(1, 0, 0, np.arange(len(images)), torch.device("cuda:0"), 1)
    with ops.batch_context(context):
        here, there = operator(images), operator(images.to("cuda"))
    assert there.device.type == "cuda"
    assert there.layout == here.layout
    assert there.shape() == here.shape()
    assert there.dtype == here.dtype
    return zip(here, there.as_cpu(), strict=True)


@pytest.mark.parametrize("operator", EXACT, ids=str)
def test_pixels_that_are_only_moved_are_the_same(operator):
    for dtype in (torch.uint8, torch.int16, torch.float32):
        images = batch(*SIZES, dtype=dtype)
        for given in (images, interleaved(images)):
            for here, there in on_both(operator, given):
                assert torch.equal(here, there)


@pytest.mark.parametrize("operator", ROUNDED, ids=str)
def test_pixels_that_are_computed_differ_by_rounding_at_most(operator):
    for dtype in (torch.uint8, torch.float32):
        images = batch(*SIZES, dtype=dtype)
        for given in (images, interleaved(images)):
            for here, there in on_both(operator, given):
                difference = (here.double() - there.double()).abs()
                assert difference.max() <= (1 if dtype == torch.uint8 else 5e-3)
                if dtype == torch.uint8 and here.numel() > 500:
                    assert (difference > 0).double().mean() < 0.1


def test_an_empty_batch_stays_empty():
    assert len(ops.Resize(4)(TensorList([], "HWC", dtype=torch.uint8, device="cuda"))) == 0
