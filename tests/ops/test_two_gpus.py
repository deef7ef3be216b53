"""Operators work where their images are, whichever GPU is the current one."""

import numpy as np
import pytest
import torch

from tests.helpers import read_bytes
from torchdali import TensorList, ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


def files(photographs):
    return [read_bytes(path) for path in sorted(photographs.glob("*.jpg"))]


@pytest.mark.parametrize("decoder", ["auto", "nvjpeg", "torchvision"])
def test_files_are_decoded_on_a_device_that_is_not_the_current_one(photographs, decoder):
    first, second = (ops.DecodeImage(device=f"cuda:{n}", decoder=decoder)(files(photographs)) for n in (0, 1))
    assert torch.cuda.current_device() == 0
    assert {image.device for image in second} == {torch.device("cuda:1")}
    assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "operator",
    [
        ops.BrightnessContrast(1.2, 0.7),
        ops.ColorTwist(hue=20.0),
        ops.Normalize(dtype=torch.float32),
        ops.Resize(64),
        ops.Rotate(20.0),
        ops.GaussianBlur(1.5),
        ops.Erase((2, 3), (5, 10)),
        ops.Fused(ops.RandomResizedCrop(64), ops.Normalize(100.0, 50.0, dtype=torch.float16), channels_last=True),
        ops.Fused(ops.RandomResizedCrop(64), ops.Normalize(100.0, 50.0, dtype=torch.float16)),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_images_are_worked_on_there_too(operator):
    images = TensorList([torch.randint(0, 256, (3, 70 + n, 90), dtype=torch.uint8) for n in range(4)], "CHW")
    context = ops.BatchContext(1, 0, 0, np.arange(len(images)), torch.device("cuda:1"), 1)
    with ops.batch_context(context):  # for the same draws
        first, second = (operator(images.to(f"cuda:{n}")) for n in (0, 1))
    assert torch.cuda.current_device() == 0
    assert {image.device for image in second} == {torch.device("cuda:1")}
    assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(first, second, strict=True))
