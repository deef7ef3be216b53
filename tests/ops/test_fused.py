import numpy as np
import pytest
import torch
from torch import nn

from tests.ops.images import batch
from torchdali import TensorList, ops
from torchdali.ops import BatchContext, batch_context, number_streams

SIZES = [(40, 50), (33, 61), (70, 31)]


def training():
    return (
        ops.RandomResizedCrop(24),
        ops.Flip(horizontal=ops.CoinFlip()),
        ops.BrightnessContrast(contrast=ops.Uniform(0.6, 1.4)),
        ops.Normalize([120.0, 110.0, 100.0], [58.0, 57.0, 56.0], dtype=torch.float16),
    )


def in_a_batch(module, images, seed=3):
    context = BatchContext(seed, 0, 0, np.arange(len(images)), torch.device("cpu"), 2)
    number_streams(module)
    with batch_context(context):
        return module(images)


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_it_is_its_operators_one_after_the_other_draws_included(layout):
    images = batch(*SIZES, layout=layout)
    one = in_a_batch(ops.Fused(*training()), images)
    other = in_a_batch(nn.Sequential(*training()), images)
    assert isinstance(one, TensorList)
    assert one.layout == layout
    assert torch.equal(one.as_tensor(), other.as_tensor())
    assert not torch.equal(one.as_tensor(), in_a_batch(ops.Fused(*training()), images, seed=4).as_tensor())


def test_integers_are_rounded_between_its_operators():
    images = batch((4, 5))
    halves = ops.Fused(ops.BrightnessContrast(brightness=0.5), ops.BrightnessContrast(brightness=2.0))
    expected = ((images[0].double() * 0.5).round() * 2.0).clamp(max=255).to(torch.uint8)
    assert torch.equal(halves(images)[0], expected)


def test_sizes_that_one_makes_are_those_the_next_one_gets():
    images = batch(*SIZES)
    chain = ops.Fused(ops.Resize(resize_shorter=20), ops.Crop((16, 12)))
    assert chain(images).shape() == [(3, 16, 12)] * 3
    with pytest.raises(ValueError, match="columns -3 to 27"):
        ops.Fused(ops.Resize(resize_shorter=20), ops.Crop((30, 30)))(images)


def test_a_tensor_gives_a_tensor():
    images = torch.randint(0, 256, (4, 3, 9, 11), dtype=torch.uint8)
    chain = ops.Fused(ops.Flip(), ops.Cast(torch.float32))
    result = chain(images)
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, images.flip(3).float())


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_channels_last_is_about_memory_and_leaves_the_layout(layout):
    images = batch((8, 8), (8, 8), layout=layout)
    for channels_last in (False, True):
        results = ops.Fused(ops.Cast(torch.float32), channels_last=channels_last)(images)
        assert results.layout == layout
        for result, image in zip(results, images, strict=True):
            assert torch.equal(result, image.float())
            planes = result if layout == "CHW" else result.permute(2, 0, 1)
            assert planes.is_contiguous() is not channels_last
            assert planes.permute(1, 2, 0).is_contiguous() is channels_last


def test_a_tensor_may_come_out_channels_last():
    images = torch.randint(0, 256, (4, 3, 9, 11), dtype=torch.uint8)
    result = ops.Fused(ops.Flip(), channels_last=True)(images)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, images.flip(3))


def test_arguments_may_not_be_what_cannot_be_fused():
    with pytest.raises(TypeError, match="at least one"):
        ops.Fused()
    with pytest.raises(TypeError, match="operator 1 of Fused is a ReLU"):
        ops.Fused(ops.Flip(), nn.ReLU())
    with pytest.raises(TypeError, match="operator 0 of Fused is a DecodeImage"):
        ops.Fused(ops.DecodeImage())


def test_it_prints_its_operators():
    text = repr(ops.Fused(ops.Flip(), channels_last=True))
    assert "channels_last=True" in text
    assert "Flip" in text


def test_under_compile_it_gives_the_same():
    images = torch.randint(0, 256, (2, 3, 9, 11), dtype=torch.uint8)
    chain = ops.Fused(ops.Flip(), ops.Normalize(128.0, 64.0))
    compiled = torch.compile(lambda batch: chain(batch) * 2, backend="aot_eager")
    assert torch.equal(compiled(images), chain(images) * 2)
