import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.ops import ColorTwist, Hsv, Hue, Saturation, Uniform

YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])


def noise(*shape, dtype=torch.uint8):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def by_hand(image, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, center=128.0):
    """DALI's formula on (3, H, W), as it is documented, in double precision and not rounded."""
    cosine, sine = np.cos(np.pi * hue / 180), np.sin(np.pi * hue / 180)
    turn = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    matrix = brightness * contrast * np.linalg.inv(YIQ) @ turn @ np.diag([1, saturation, saturation]) @ YIQ
    mixed = np.einsum("oi,ihw->ohw", matrix, image.double().numpy())
    return mixed + center * (1 - contrast) * brightness


def rounded(values):
    return torch.from_numpy(np.clip(np.rint(values), 0, 255).astype(np.uint8))


SETTINGS = [
    {"hue": 30.0},
    {"saturation": 0.3},
    {"brightness": 1.2, "contrast": 0.7},
    {"brightness": 0.9, "contrast": 1.6, "saturation": 1.4, "hue": -75.0},
]


def test_pixels_are_dalis_formula_rounded():
    images = noise(2, 3, 6, 7)
    for settings in SETTINGS:
        results = ColorTwist(**settings)(images)
        assert results.dtype == torch.uint8
        for result, image in zip(results, images, strict=True):
            assert torch.equal(result, rounded(by_hand(image, **settings))), settings


def test_the_centre_of_contrast_comes_from_the_images_type():
    for dtype, center in ((torch.float32, 0.5), (torch.int16, 128.0)):
        image = noise(3, 6, 7).to(dtype)
        (result,) = ColorTwist(contrast=0.5, dtype=torch.float32)(TensorList([image]))
        assert np.allclose(result.numpy(), by_hand(image, contrast=0.5, center=center), atol=1e-4)


def test_without_a_change_images_stay_exactly_as_they_are():
    for operator in (ColorTwist(), Hsv(), Hue(), Saturation()):
        for dtype in (torch.uint8, torch.float32, torch.int16):
            images = noise(2, 3, 6, 7).to(dtype)
            assert torch.equal(operator(images), images), (operator, dtype)


def test_a_full_turn_of_hue_changes_nothing_and_turns_add_up():
    image = noise(1, 3, 6, 7, dtype=torch.float64)
    assert torch.allclose(Hue(360.0)(image), image)
    assert torch.allclose(Hue(50.0)(Hue(70.0)(image)), Hue(120.0)(image))


def test_without_saturation_all_channels_are_the_luma():
    image = noise(3, 6, 7)
    (result,) = Saturation(0.0, dtype=torch.float32)(TensorList([image]))
    luma = torch.einsum("c,chw->hw", torch.tensor(YIQ[0]), image.double())
    # DALI's coefficients are rounded, so that the way back to gray is off by up to three thousandths.
    assert ((result - luma).abs() <= 0.003 * luma + 1e-4).all()


def test_without_contrast_an_image_is_uniformly_gray():
    assert ColorTwist(contrast=0.0)(noise(1, 3, 4, 4)).unique().tolist() == [128]
    assert ColorTwist(contrast=0.0, brightness=0.5)(noise(1, 3, 4, 4)).unique().tolist() == [64]


def test_hsv_is_a_twist_whose_value_multiplies_all():
    images = noise(2, 3, 6, 7)
    ours = Hsv(hue=40.0, saturation=0.5, value=1.3)(images)
    assert torch.equal(ours, ColorTwist(hue=40.0, saturation=0.5, brightness=1.3)(images))
    assert torch.equal(Hsv(dtype=torch.int16)(images), images.short())


def test_each_sample_has_its_own_values_in_either_layout():
    images = [noise(3, 6, 7), noise(3, 4, 9)]
    hues, contrasts = [20.0, -100.0], np.array([0.5, 1.5])
    planar = ColorTwist(hue=hues, contrast=contrasts)(TensorList(images, "CHW"))
    interleaved = ColorTwist(hue=hues, contrast=contrasts)(
        TensorList([image.permute(1, 2, 0).contiguous() for image in images], "HWC")
    )
    assert interleaved.layout == "HWC"
    for position, image in enumerate(images):
        expected = rounded(by_hand(image, hue=hues[position], contrast=contrasts[position]))
        assert torch.equal(planar[position], expected)
        assert torch.equal(interleaved[position].permute(2, 0, 1), expected)
        assert interleaved[position].is_contiguous()


def test_arguments_of_the_call_override_those_of_the_module():
    images = noise(2, 3, 6, 7)
    assert torch.equal(ColorTwist(hue=90.0)(images, hue=0.0), images)
    assert torch.equal(Hsv(value=0.0)(images, value=[1.0, 1.0]), images)
    assert torch.equal(Saturation(0.0)(images, saturation=torch.ones(2)), images)
    assert torch.equal(Hue(10.0)(images, hue=torch.zeros(2)), images)


def test_random_arguments_are_drawn_once_for_each_sample():
    torch.manual_seed(3)
    angles = Uniform(-90.0, 90.0)(4)
    torch.manual_seed(3)
    image = noise(3, 6, 7)
    results = Hue(Uniform(-90.0, 90.0))(image.expand(4, 3, 6, 7))
    for result, angle in zip(results, angles.tolist(), strict=True):
        assert torch.equal(result, rounded(by_hand(image, hue=angle)))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"Hue got an image with 1 channels, sample 1 .*RGB"):
        Hue(10.0)(TensorList([noise(3, 4, 4), noise(1, 4, 4)], "CHW"))
    with pytest.raises(ValueError, match=r"hue is nan; .*finite"):
        ColorTwist(hue=float("nan"))
    with pytest.raises(TypeError, match="saturation is 'much'"):
        Saturation("much")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dtype is torch.bool"):
        Hsv(dtype=torch.bool)
    with pytest.raises(TypeError, match=r"ColorTwist got images of type torch.bool"):
        ColorTwist()(noise(1, 3, 4, 4) > 3)
    with pytest.raises(ValueError, match=r"contrast has shape \(3,\); the batch has 2 samples"):
        ColorTwist(contrast=[1.0, 2.0, 3.0])(noise(2, 3, 4, 4))


def test_printing_shows_what_was_set():
    assert repr(ColorTwist(hue=30.0)) == "ColorTwist(hue=30.0)"
    assert repr(Hsv(value=2.0)) == "Hsv(value=2.0)"
    assert "Uniform(0.0, 2.0)" in repr(Saturation(Uniform(0.0, 2.0)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_the_gpu_is_within_rounding_of_the_definition(dtype):
    images = [noise(3, h, w).to(dtype) for h, w in ((33, 17), (8, 100), (1, 1))]
    hues = [20.0, -100.0, 5.0]
    on_gpu = ColorTwist(hue=hues, contrast=1.3)(TensorList([image.cuda() for image in images])).as_cpu()
    center = 128.0 if dtype == torch.uint8 else 0.5
    for ours, image, hue in zip(on_gpu, images, hues, strict=True):
        exact = torch.from_numpy(by_hand(image, hue=hue, contrast=1.3, center=center))
        if dtype == torch.uint8:
            exact = exact.clamp(0, 255)
        tolerance = {torch.uint8: 0.5001, torch.float32: 1e-3, torch.float16: 0.26}[dtype]
        assert (ours.double() - exact).abs().max() <= tolerance
