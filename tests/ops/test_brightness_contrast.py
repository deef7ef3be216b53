import math

import numpy as np
import pytest
import torch

from tests.helpers import brightness_contrast_by_hand, decode_serially
from torchdali import TensorList
from torchdali.ops import BrightnessContrast, Uniform, brightness_contrast_reference

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("contrast", [0.0, 0.5, 1.0, 1.5, 2.9999, -1.0, 1 / 3])
def test_every_level_is_the_formula_rounded_half_to_even_and_clamped(contrast):
    (result,) = BrightnessContrast(contrast=contrast)(TensorList([LEVELS]))
    assert np.array_equal(result.numpy(), brightness_contrast_by_hand(LEVELS.numpy(), contrast))


def test_halves_are_rounded_to_even():
    (result,) = BrightnessContrast(contrast=0.5)(TensorList([LEVELS]))
    # 128 + 0.5 * (129 - 128) = 128.5 and 128 + 0.5 * (131 - 128) = 129.5
    assert result[129] == 128
    assert result[131] == 130


def test_brightness_shift_and_center_follow_dalis_formula():
    module = BrightnessContrast(brightness=0.75, contrast=1.25, brightness_shift=0.1, contrast_center=100.0)
    (result,) = module(TensorList([LEVELS]))
    expected = 0.1 * 255 + 0.75 * (100 + 1.25 * (LEVELS.double().numpy() - 100))
    assert np.array_equal(result.numpy(), np.clip(np.rint(expected), 0, 255))


@pytest.mark.parametrize(
    ("dtype", "center", "maximum"),
    [
        (torch.uint8, 128.0, 255),
        (torch.int16, 16384.0, 32767),
        (torch.int32, 2.0**30, 2**31 - 1),
        (torch.float32, 0.5, 1),
        (torch.float16, 0.5, 1),
    ],
)
def test_center_and_range_come_from_the_type(dtype, center, maximum):
    values = torch.tensor([0, 1, 3, 100], dtype=dtype)
    (result,) = BrightnessContrast(contrast=2.0, brightness_shift=0.5)(TensorList([values]))
    expected = 0.5 * maximum + center + 2.0 * (values.double() - center)
    if not dtype.is_floating_point:
        expected = expected.round().clamp(torch.iinfo(dtype).min, maximum)
    assert result.dtype == dtype
    assert torch.equal(result, expected.to(dtype))


def test_another_output_type_is_not_rescaled():
    (result,) = BrightnessContrast(contrast=1.5, dtype=torch.float32)(TensorList([LEVELS]))
    assert torch.equal(result, (128 + 1.5 * (LEVELS.double() - 128)).float())
    (wide,) = BrightnessContrast(contrast=3.0, dtype=torch.int16)(TensorList([LEVELS]))
    assert wide.max() == 128 + 3 * 127
    assert wide.min() == 128 - 3 * 128


def test_the_shift_is_in_units_of_the_output_s_range():
    (floats,) = BrightnessContrast(brightness_shift=0.5, dtype=torch.float32)(TensorList([LEVELS]))
    assert torch.equal(floats, LEVELS + 0.5)
    (wide,) = BrightnessContrast(brightness_shift=0.5, dtype=torch.int16)(TensorList([LEVELS]))
    assert torch.equal(wide, (LEVELS + 16383.5).round().to(torch.int16))


def test_each_sample_has_its_own_values(photographs):
    images = TensorList([decode_serially(photographs / name) for name in ("cat.jpg", "coffee.jpg", "bee.jpg")], "CHW")
    contrasts = torch.tensor([1.1, 2.2, 0.3])
    results = BrightnessContrast(contrast=contrasts)(images)
    assert isinstance(results, TensorList)
    assert results.layout == "CHW"
    for result, image, contrast in zip(results, images, contrasts, strict=True):
        expected = brightness_contrast_by_hand(image.numpy(), np.float64(contrast.item()))
        assert np.array_equal(result.numpy(), expected)


@pytest.mark.parametrize("dims", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_the_order_of_an_image_s_memory_does_not_matter(photographs, dims):
    image = decode_serially(photographs / "cat.jpg").contiguous().permute(dims)
    sliced = image[:, ::2, 1:]
    for view in (image, sliced):
        (result,) = BrightnessContrast(contrast=1.7)(TensorList([view]))
        assert torch.equal(result, brightness_contrast_reference(view, contrast=1.7))


def test_a_dense_tensor_gives_a_dense_tensor():
    images = torch.randint(0, 256, (4, 3, 8, 9), dtype=torch.uint8)
    result = BrightnessContrast(contrast=[1.0, 2.0, 0.5, 0.0])(images)
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result[0], images[0])
    assert torch.equal(result[3], torch.full_like(images[3], 128))
    assert torch.equal(result[1], brightness_contrast_reference(images[1], contrast=2.0))


def test_arguments_of_the_call_override_those_of_the_module():
    result = BrightnessContrast(contrast=3.0)(TensorList([LEVELS]), contrast=1.0)
    assert torch.equal(result[0], LEVELS)


def test_the_input_is_left_as_it_was():
    image = LEVELS.clone()
    BrightnessContrast(contrast=0.0)(TensorList([image]))
    assert torch.equal(image, LEVELS)


def test_wrong_arguments_are_named():
    images = TensorList([LEVELS, LEVELS])
    with pytest.raises(ValueError, match=r"contrast has shape \(3,\); the batch has 2 samples"):
        BrightnessContrast(contrast=[1.0, 2.0, 3.0])(images)
    with pytest.raises(TypeError, match="brightness is 'bright'"):
        BrightnessContrast(brightness="bright")(images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        BrightnessContrast(contrast=float("nan"))(images)
    with pytest.raises(TypeError, match=r"torch.bool have no brightness"):
        BrightnessContrast()(TensorList([LEVELS > 3]))
    with pytest.raises(ValueError, match=r"dtype is torch.bool"):
        BrightnessContrast(dtype=torch.bool)


def test_printing_shows_what_was_set():
    assert repr(BrightnessContrast(contrast=1.5)) == "BrightnessContrast(contrast=1.5)"
    assert "Uniform(1.0, 3.0)" in repr(BrightnessContrast(contrast=Uniform(1.0, 3.0)))


def test_interleaved_images_and_tensors_of_any_shape_give_the_same():
    image = torch.randint(0, 256, (3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = brightness_contrast_reference(image, contrast=1.7)
    interleaved = BrightnessContrast(contrast=1.7)(TensorList([image.permute(1, 2, 0)], "HWC"))
    assert interleaved.layout == "HWC"
    assert torch.equal(interleaved[0].permute(2, 0, 1), expected)
    for shape in ((60,), (), (3, 2, 2, 5), (12, 5)):
        (result,) = BrightnessContrast(contrast=1.7)(
            TensorList([image.view(-1)[: max(1, math.prod(shape))].view(shape)])
        )
        assert torch.equal(result, expected.view(-1)[: math.prod(shape)].view(shape))
    volumes = BrightnessContrast(contrast=1.7)(TensorList([image], "DHW"))
    assert volumes.layout == "DHW"
    assert torch.equal(volumes[0], expected)
    assert BrightnessContrast(contrast=1.7)(image[None, None]).shape == (1, 1, 3, 4, 5)


def test_floating_point_images_are_within_float32_of_the_formula():
    image = torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(0))
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-15), (torch.float16, 2e-3)):
        (result,) = BrightnessContrast(0.9, 1.3, 0.1, dtype=dtype)(TensorList([image.to(dtype)]))
        expected = brightness_contrast_reference(image.to(dtype).double(), 0.9, 1.3, 0.1)
        assert (result.double() - expected).abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32])
def test_what_becomes_wide_integers_is_computed_in_double_precision(dtype):
    image = torch.arange(-128, 128).view(1, 16, 16).to(dtype)
    for to in (torch.int32, torch.int64):
        (result,) = BrightnessContrast(contrast=1.3, brightness_shift=0.4, dtype=to)(TensorList([image]))
        expected = brightness_contrast_reference(image, contrast=1.3, brightness_shift=0.4, dtype=to)
        assert torch.equal(result, expected)


def test_a_batch_without_samples_stays_empty():
    empty = BrightnessContrast(contrast=2.0, dtype=torch.int16)(TensorList([], "CHW", dtype=torch.uint8))
    assert (len(empty), empty.dtype, empty.layout) == (0, torch.int16, "CHW")


def test_arrays_and_tensors_of_values_are_printed():
    assert "contrast=tensor([1., 2.])" in repr(BrightnessContrast(contrast=torch.tensor([1.0, 2.0])))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.float16])
def test_the_gpu_gives_the_same_but_for_the_last_bit_of_float32(dtype):
    generator = torch.Generator().manual_seed(3)
    images = [torch.randint(0, 256, (3, h, w), generator=generator).to(dtype) for h, w in ((33, 17), (8, 100), (1, 1))]
    contrasts = [1.2345, 0.3, 2.9]
    on_cpu = BrightnessContrast(contrast=contrasts)(TensorList(images))
    on_gpu = BrightnessContrast(contrast=contrasts)(TensorList([image.cuda() for image in images]))
    assert isinstance(on_gpu, TensorList)
    assert on_gpu.device.type == "cuda"
    for ours, theirs in zip(on_gpu.as_cpu(), on_cpu, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2**-22 if dtype == torch.float32 else 0, atol=0)
