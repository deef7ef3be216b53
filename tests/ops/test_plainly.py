"""What operators do by themselves goes past torch's function modes."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.ops.decode.oddities import encoded, picture, tensor
from torchdali import TensorList, ops
from torchdali.ops._execute import image_sizes


class Asked(TorchFunctionMode):
    """Counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.times += 1
        return func(*args, **(kwargs or {}))


def test_no_mode_is_asked_for_each_image_that_is_decoded_and_measured():
    files = TensorList([tensor(encoded(picture(20 + n, 30))) for n in range(40)])
    decode = ops.DecodeImage()
    with Asked() as mode:
        images = decode(files)
        sizes = image_sizes(TensorList(list(images)), "Crop")
        asked = mode.times
    assert sizes[:, 2].tolist() == list(range(20, 60))
    listing = Asked()
    with listing:
        TensorList(list(images))
    assert asked <= listing.times < 40 * 10


def test_a_default_device_changes_nothing_of_what_is_decoded():
    file = tensor(encoded(picture(20, 30)))
    expected = ops.DecodeImage()([file])[0]
    with torch.device("meta"):
        found = ops.DecodeImage()([file])[0]
    assert found.device.type == "cpu"
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "operator",
    [
        ops.BrightnessContrast(2.0),
        ops.ColorTwist(saturation=1.5),
        ops.CropMirrorNormalize(3, mean=[1, 2, 3]),
        ops.Erase((1, 1), (2, 2), 7),
        ops.GaussianBlur(1.5),
        ops.Normalize(),
        ops.Normalize(1, 2),
        ops.Pad(16),
        ops.Resize(5),
        ops.Resize(5, filter="nearest"),
        ops.Rotate(20),
        ops.Fused(ops.Flip(), ops.Normalize(1, 2)),
    ],
    ids=repr,
)
def test_a_default_device_changes_nothing_of_what_becomes_of_an_image(operator):
    image = torch.arange(3 * 8 * 9, dtype=torch.uint8).view(1, 3, 8, 9)
    expected = operator(image)
    with torch.device("meta"):
        found = operator(image)
    assert found.device.type == "cpu"
    assert torch.equal(found, expected)


def test_a_default_device_changes_nothing_of_what_is_drawn():
    for draw in (ops.Uniform(), ops.Normal(), ops.CoinFlip(), ops.Choice([1, 2])):
        torch.manual_seed(3)
        expected = draw(5)
        torch.manual_seed(3)
        with torch.device("meta"):
            assert torch.equal(draw(5), expected)
