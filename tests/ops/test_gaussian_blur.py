"""Gaussian blur, against OpenCV, torchvision and the sum written out."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from tests.ops.images import assert_same_in_both_layouts, batch, interleaved, random_image
from torchdali import TensorList
from torchdali.ops import GaussianBlur, Uniform
from torchdali.ops._blur import mirrored


def blur(image, *arguments, **options):
    return GaussianBlur(*arguments, **options)(TensorList([image], "CHW"))[0]


def test_it_is_opencv_s_blur():
    image = random_image(30, 40, dtype=torch.float32)
    for sigma, window in (((1.5, 1.5), (11, 11)), ((0.4, 3.0), (5, 9)), ((2.0, 0.7), (13, 1))):
        expected = cv2.GaussianBlur(
            image.permute(1, 2, 0).double().numpy(),
            window[::-1],
            sigma[1],
            sigmaY=sigma[0],
            borderType=cv2.BORDER_REFLECT_101,
        )
        result = blur(image, sigma, window)
        assert np.abs(result.permute(1, 2, 0).numpy() - expected).max() < 1e-4


def test_it_is_torchvision_s_blur():
    image = random_image(30, 40)
    result = blur(image, (0.8, 1.7), (7, 5), dtype=torch.float32)
    expected = vision.gaussian_blur(image.double(), [5, 7], [1.7, 0.8])  # horizontal first
    assert (result - expected).abs().max() < 1e-3


def test_small_images_are_mirrored_again_and_again():
    assert mirrored(4, 3).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert mirrored(2, 4).tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert mirrored(1, 2).tolist() == [0] * 5
    image = random_image(3, 2, dtype=torch.float64)
    offsets = np.arange(-12, 13)
    weights = np.exp(-(offsets**2) / 32)
    weights /= weights.sum()
    rows, columns = mirrored(3, 12), mirrored(2, 12)
    expected = np.zeros((3, 3, 2))
    for y in range(3):
        for x in range(2):
            part = image.numpy()[:, rows[y : y + 25]][:, :, columns[x : x + 25]]
            expected[:, y, x] = np.einsum("i,j,cij->c", weights, weights, part)
    assert np.abs(blur(image, 4.0).numpy() - expected).max() < 1e-9  # the window is 2 * ceil(3 * 4) + 1 = 25
    assert torch.allclose(blur(image[:, :1, :1], 4.0), image[:, :1, :1])


def test_sigma_and_window_follow_from_each_other_as_in_dali():
    sizes = np.array([[3, 20, 20]])
    for sigma, radius in ((0.1, 1), (1.0, 3), (1.5, 5), (2.01, 7)):
        assert GaussianBlur(sigma).step(sizes, torch.uint8).radius.tolist() == [[radius, radius]]
    for window, sigma in ((1, 0.5), (3, 0.8), (5, 1.1), (11, 2.0)):
        step = GaussianBlur(window_size=window).step(sizes, torch.uint8)
        assert step.radius.tolist() == [[window // 2] * 2]
        assert np.allclose(step.sigma, sigma)
    mixed = GaussianBlur((0, 1.0), (5, 0)).step(sizes, torch.uint8)
    assert mixed.radius.tolist() == [[2, 3]]
    assert np.allclose(mixed.sigma, [[1.1, 1.0]])


def test_a_constant_image_stays_constant():
    for dtype in (torch.uint8, torch.int16, torch.float16):
        assert (blur(torch.full((3, 6, 5), 77, dtype=dtype), 2.0) == 77).all()


def test_a_window_of_one_pixel_changes_nothing():
    image = random_image()
    assert torch.equal(blur(image, 3.0, 1), image)


def test_sigma_can_differ_from_sample_to_sample_and_by_direction():
    images = batch((7, 9), (8, 4), dtype=torch.float32)
    results = assert_same_in_both_layouts(GaussianBlur(torch.tensor([[0.5, 1.0], [2.0, 0.3]])), images)
    assert torch.equal(results[0], blur(images[0], (0.5, 1.0)))
    assert torch.equal(results[1], blur(images[1], (2.0, torch.tensor(0.3).item())))
    in_the_call = GaussianBlur(5.0)(images, sigma=[1.0, 1.0][0])
    assert torch.equal(in_the_call[0], blur(images[0], 1.0))


def test_sigma_can_be_random():
    image = random_image(20, 20, dtype=torch.float32)
    results = GaussianBlur(Uniform(0.1, 2.0))(interleaved([image] * 5))
    assert len({result.std().item() for result in results}) == 5


def test_types_are_kept_and_integers_rounded():
    for dtype in (torch.uint8, torch.int16, torch.float16, torch.float32):
        image = random_image(dtype=dtype)
        exact = blur(image.double(), 1.2)
        result = blur(image, 1.2)
        assert result.dtype == dtype
        assert (result - exact).abs().max() <= (2e-3 if dtype == torch.float16 else 0.5 + 1e-3)
    assert blur(random_image(), 1.2, dtype=torch.float32).dtype == torch.float32


def test_arguments_that_make_no_sense_are_refused():
    images = batch((7, 9), (7, 9))
    with pytest.raises(ValueError, match="neither sigma nor window_size is given"):
        GaussianBlur()
    with pytest.raises(ValueError, match="sigma is .*-1.* positive number"):
        GaussianBlur(-1.0)(images)
    with pytest.raises(ValueError, match="window_size is .*4.* an odd number"):
        GaussianBlur(1.0, 4)(images)
    with pytest.raises(ValueError, match=r"sigma is \[1.0, 0.0\] for sample 0.*positive where window_size is 0"):
        GaussianBlur((1.0, 0.0))(images)
    with pytest.raises(ValueError, match="it has to be finite"):
        GaussianBlur(float("nan"))(images)
    with pytest.raises(ValueError, match="sigma has 3 numbers"):
        GaussianBlur((1, 2, 3))(images)


def test_autocast_does_not_lower_the_precision():
    image = random_image(70, 90, dtype=torch.float32)
    expected = blur(image, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(blur(image, 2.0), expected)
