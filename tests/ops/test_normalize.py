import warnings
from itertools import product

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from torchdali import TensorList
from torchdali.ops import Normalize, Uniform

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def noise(*shape, dtype=torch.uint8):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def of_255(values):
    return [255 * value for value in values]


def test_it_is_torchvisions_with_means_in_units_of_the_images():
    images = noise(2, 3, 6, 7)
    ours = Normalize(of_255(MEAN), of_255(STD))(images)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, tv.normalize(images.float() / 255, MEAN, STD), atol=1e-5)
    floats = images.float() / 255
    assert torch.allclose(Normalize(MEAN, STD)(floats), tv.normalize(floats, MEAN, STD), atol=1e-5)


def test_8_bit_images_give_the_formula_of_double_precision_rounded_once():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    factor = 3.0 / 58.395
    expected = (levels.double() * factor + (0.25 - 123.675 * factor)).float()
    assert torch.equal(Normalize(123.675, 58.395, scale=3.0, shift=0.25)(levels), expected)


def test_scale_and_shift_fit_the_results_to_their_type():
    image = noise(3, 5, 6)
    mean, std = np.array([100.0, 120.0, 140.0]), np.array([50.0, 40.0, 80.0])
    exact = (image.double().numpy() - mean[:, None, None]) * 64 / std[:, None, None] + 16
    batches = (TensorList([image], "CHW"), TensorList([image.permute(1, 2, 0)], "HWC"))
    for dtype, batch in product((torch.float32, torch.float16, torch.uint8, torch.int8, None), batches):
        (result,) = Normalize(mean, std, scale=64.0, shift=16.0, dtype=dtype)(batch)
        ours = result if batch.layout == "CHW" else result.permute(2, 0, 1)
        to = dtype or torch.uint8
        assert ours.dtype == to
        expected = exact
        if not to.is_floating_point:
            expected = np.clip(np.rint(exact), torch.iinfo(to).min, torch.iinfo(to).max)
        assert np.allclose(ours.double().numpy(), expected, rtol=1e-3 if to == torch.float16 else 1e-6)


def test_means_may_differ_from_sample_to_sample():
    images = noise(2, 3, 4, 4)
    means = np.array([[0.0, 1.0, 2.0], [100.0, 110.0, 120.0]])
    expected = (images.double() - torch.from_numpy(means)[:, :, None, None]) / 2
    assert torch.allclose(Normalize(means, 2.0)(images).double(), expected)
    assert torch.allclose(Normalize(7.0, 2.0)(images, mean=torch.from_numpy(means)).double(), expected)
    torch.manual_seed(1)
    drawn = Uniform(0.0, 9.0)(2).double()
    torch.manual_seed(1)
    ours = Normalize(Uniform(0.0, 9.0), 1.0)(images)
    assert torch.allclose(ours.double(), images - drawn.view(2, 1, 1, 1))
    assert torch.allclose(Normalize(5.0, 1.0)(images, mean=drawn).double(), images - drawn.view(2, 1, 1, 1))


def test_statistics_that_are_not_given_are_those_of_each_image():
    images = [noise(3, 5, 6), noise(3, 4, 8) // 2]
    for axes, ddof in product(("CHW", "HW", "W", (0, 1, 2), (1, 2)), (0, 1)):
        results = Normalize(axes=axes, ddof=ddof, epsilon=0.5, scale=2.0, shift=1.0)(TensorList(images, "CHW"))
        dims = tuple("CHW".index(axis) if isinstance(axis, str) else axis for axis in axes)
        for result, image in zip(results, images, strict=True):
            values = image.double().numpy()
            variance = values.var(dims, ddof=ddof, keepdims=True)
            expected = 2 * (values - values.mean(dims, keepdims=True)) / np.sqrt(variance + 0.5) + 1
            assert np.allclose(result.numpy(), expected, atol=1e-6), (axes, ddof)


def test_numbers_of_axes_are_those_of_the_layout():
    image = noise(5, 6, 3)
    (ours,) = Normalize(axes=(0, 1))(TensorList([image], "HWC"))
    (named,) = Normalize(axes="HW")(TensorList([image.permute(2, 0, 1)], "CHW"))
    assert torch.equal(ours.permute(2, 0, 1), named)


def test_statistics_of_the_batch_are_over_all_images():
    images = [noise(3, 5, 6), noise(3, 4, 8) // 2]
    results = Normalize(axes="HW", batch=True)(TensorList(images, "CHW"))
    pixels = torch.cat([image.reshape(3, -1) for image in images], 1).double()
    mean, std = pixels.mean(1)[:, None, None], pixels.std(1, correction=0)[:, None, None]
    for result, image in zip(results, images, strict=True):
        assert torch.allclose(result.double(), (image - mean) / std, atol=1e-6)
    with pytest.raises(ValueError, match=r"over the axes W .*image 1 has \(3, 4, 8\)"):
        Normalize(axes="W", batch=True)(TensorList(images, "CHW"))


def test_one_of_the_statistics_may_be_given():
    image = noise(1, 3, 5, 6)
    around = Normalize(mean=[10.0, 20.0, 30.0])(image)
    values = image[0].double() - torch.tensor([10.0, 20.0, 30.0]).double()[:, None, None]
    assert torch.allclose(around[0].double(), values / values.square().mean().sqrt(), atol=1e-6)
    scaled = Normalize(std=4.0, epsilon=9.0)(image)
    assert torch.allclose(scaled.double(), (image - image.double().mean()) / 5.0, atol=1e-5)


def test_a_uniform_image_becomes_the_shift():
    image = torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)
    assert Normalize(shift=3.0)(image).unique().tolist() == [3.0]
    assert Normalize(shift=3.0, ddof=48)(noise(1, 3, 4, 4)).unique().tolist() == [3.0]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"std is \[0.0\] for .*positive"):
        Normalize(0.0, 0.0)(noise(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"std is \[-1.0\] for .*positive"):
        Normalize(None, -1.0)(noise(1, 3, 4, 4))
    for name, values in (
        ("mean", {"mean": torch.tensor([torch.nan])}),
        ("mean", {"mean": torch.tensor([torch.nan]), "std": 1.0}),
        ("std", {"mean": 0.0, "std": torch.tensor([torch.inf])}),
    ):
        with pytest.raises(ValueError, match=f"{name} is .*finite"):
            Normalize()(noise(1, 3, 4, 4), **values)
    with pytest.raises(ValueError, match="mean is given for 3 channels and std for 2"):
        Normalize([1.0, 2.0, 3.0], [1.0, 2.0])(noise(1, 3, 4, 4))
    with pytest.raises(ValueError, match="image 0 has 1 channels"):
        Normalize([1.0, 2.0, 3.0], 1.0)(noise(1, 1, 4, 4))
    with pytest.raises(ValueError, match="image 0 has 1 channels"):
        Normalize([1.0, 2.0, 3.0])(noise(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"mean has shape \(3, 3\); the batch has 2"):
        Normalize(np.zeros((3, 3)), 1.0)(noise(2, 3, 4, 4))
    with pytest.raises(ValueError, match="axes is 'XY'"):
        Normalize(axes="XY")
    with pytest.raises(ValueError, match="ddof is -1"):
        Normalize(ddof=-1)
    with pytest.raises(ValueError, match="epsilon is -1"):
        Normalize(epsilon=-1)
    with pytest.raises(TypeError, match="scale is '2'"):
        Normalize(scale="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mean is .*nan.*finite"):
        Normalize([1.0, float("nan")], 1.0)
    with pytest.raises(TypeError, match="cannot be fused"):
        Normalize().steps(np.array([[3, 4, 4]]), torch.uint8)


def test_a_compiled_operator_gives_the_same_without_a_word():
    images = noise(2, 3, 6, 7)
    for operator in (Normalize([1.0, 2.0, 3.0], 4.0), Normalize()):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert torch.equal(torch.compile(operator, backend="aot_eager")(images), operator(images))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "given", [{}, {"mean": 100.0}, {"std": 3.0}, {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}]
)
def test_the_gpu_gives_the_same_within_rounding(given):
    images = [noise(3, h, w) for h, w in ((33, 17), (8, 100))]
    operator = Normalize(**given, axes="HW")
    on_gpu = operator(TensorList([image.cuda() for image in images])).as_cpu()
    for ours, theirs in zip(on_gpu, operator(TensorList(images)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
