"""The step that crops, resizes and flips, against its formula written out pixel by pixel, and against other libraries."""

import itertools
import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from tests.ops.images import random_image
from torchdali.ops._resample import FILTERS, Resample, filter_taps, nearest_pixels


def resample(window, size, name="linear", antialias=True, fill=None, to=None, flip=(False, False)):
    fill = None if fill is None else np.atleast_1d(np.float64(fill))
    return Resample(np.array([window]), np.array([size]), np.array([flip]), name, antialias, fill, to)


def kernel_by_hand(name, x, antialias):
    distance = abs(x)
    if name == "linear":
        return max(0.0, 1 - distance)
    if name == "cubic":
        a = -0.5 if antialias else -0.75
        if distance < 1:
            return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a if distance < 2 else 0.0
    if name == "lanczos3":
        if distance < 1e-12:
            return 1.0
        u = math.pi * x
        return 3 * math.sin(u) * math.sin(u / 3) / u**2 if distance < 3 else 0.0
    if name == "box":
        return 1.0 if -0.5 < x <= 0.5 else 0.0  # a fraction: exact
    return math.exp(-4 * x**2) if distance <= 1 else 0.0


def axis_by_hand(length, result, name, antialias):
    """(result, length)."""
    weights = np.zeros((result, length))
    scale = max(Fraction(1), Fraction(length, result)) if antialias else 1
    for y in range(result):
        if name == "nearest":
            weights[y, math.floor((y + Fraction(1, 2)) * length / result)] = 1
            continue
        center = (y + Fraction(1, 2)) * length / result
        for i in range(length):
            weights[y, i] = kernel_by_hand(name, (i + Fraction(1, 2) - center) / scale, antialias)
        weights[y] /= weights[y].sum()
    return weights


def by_hand(image, window, size, name, antialias, fill):
    top, left, height, width = window
    part = np.empty((image.shape[0], height, width))
    for y in range(height):
        for x in range(width):
            row, column = top + y, left + x
            inside = 0 <= row < image.shape[1] and 0 <= column < image.shape[2]
            part[:, y, x] = image[:, row, column].double().numpy() if inside else fill
    if (height, width) == tuple(size):
        return part
    rows, columns = (axis_by_hand(*pair, name, antialias) for pair in zip((height, width), size, strict=True))
    return np.einsum("yi,xj,cij->cyx", rows, columns, part)


WINDOWS = [
    ((0, 0, 7, 9), (4, 5)),
    ((0, 0, 7, 9), (11, 20)),
    ((2, 1, 4, 7), (9, 3)),
    ((-2, 3, 8, 9), (3, 4)),
    ((0, 0, 7, 9), (7, 5)),
    ((6, 8, 1, 1), (3, 2)),
    ((0, 0, 7, 9), (1, 1)),
]


@pytest.mark.parametrize("name", FILTERS)
def test_the_definition_is_the_formula(name):
    image = random_image()
    fill = [10.0, 99.5, -7.0]
    for (window, size), antialias in itertools.product(WINDOWS, (True, False)):
        expected = by_hand(image, window, size, name, antialias, fill)
        step = resample(window, size, name, antialias, fill, torch.float64)
        exact = step.plain(image, 0, torch.float64)
        assert np.abs(exact.numpy() - expected).max() < 1e-9, (window, size, antialias)
        quick = step.plain(image, 0, torch.float32)
        assert np.abs(quick.numpy() - expected).max() < 1e-3, (window, size, antialias)


def test_a_large_image_agrees_with_the_formula_too():
    image = random_image(150, 101, 1)
    for name in FILTERS:
        expected = by_hand(image, (0, 0, 150, 101), (67, 40), name, True, None)
        result = resample((0, 0, 150, 101), (67, 40), name, to=torch.float32).plain(image, 0)
        assert np.abs(result.numpy() - expected).max() < 1e-3, name


def test_a_constant_image_stays_constant():
    image = torch.full((3, 7, 9), 201, dtype=torch.uint8)
    for name, size in itertools.product(FILTERS, [(3, 2), (13, 31)]):
        assert (resample((0, 0, 7, 9), size, name).plain(image, 0) == 201).all(), (name, size)


@pytest.mark.parametrize(("name", "mode"), [("linear", "bilinear"), ("cubic", "bicubic")])
def test_it_is_torch_s_antialiased_resize(name, mode):
    image = random_image(50, 60, dtype=torch.float64)
    for size in [(20, 17), (90, 41), (50, 30), (120, 200)]:
        expected = functional.interpolate(image[None], size, mode=mode, antialias=True)[0]
        result = resample((0, 0, 50, 60), size, name).plain(image, 0)
        assert (result - expected).abs().max() < 1e-9, size


def test_linear_without_antialiasing_is_torch_s_and_opencv_s():
    image = random_image(50, 60, dtype=torch.float32)
    result = resample((0, 0, 50, 60), (31, 90), "linear", antialias=False).plain(image, 0)
    assert (result - functional.interpolate(image[None], (31, 90), mode="bilinear")[0]).abs().max() < 1e-4
    opencv = cv2.resize(image.permute(1, 2, 0).numpy(), (90, 31), interpolation=cv2.INTER_LINEAR)
    assert np.abs(result.permute(1, 2, 0).numpy() - opencv).max() < 1e-4


def test_it_is_pil_s_resize():
    pil = {"linear": "BILINEAR", "cubic": "BICUBIC", "lanczos3": "LANCZOS", "box": "BOX"}
    image = random_image(50, 60, 1, torch.float32)[0]
    for name, size in itertools.product(pil, [(20, 17), (90, 141)]):
        expected = np.asarray(Image.fromarray(image.numpy()).resize(size[::-1], Image.Resampling[pil[name]]))
        result = resample((0, 0, 50, 60), size, name).plain(image[None], 0)[0]
        assert np.abs(result.numpy() - expected).max() < 1e-5, (name, size)


def test_a_window_is_cropped_before_it_is_resized():
    image = random_image(50, 60, dtype=torch.float32)
    result = resample((5, 8, 31, 40), (16, 16)).plain(image, 0)
    expected = vision.resized_crop(image, 5, 8, 31, 40, [16, 16], antialias=True)
    assert (result - expected).abs().max() < 1e-5
    changed = image.clone()
    changed[:, :5] = changed[:, 36:] = changed[:, :, :8] = changed[:, :, 48:] = 1e6
    assert torch.equal(resample((5, 8, 31, 40), (16, 16)).plain(changed, 0), result)


def test_a_window_that_keeps_its_size_is_copied():
    image = random_image(dtype=torch.int64) * 2**40 + 1  # what floating point would not keep
    for name in FILTERS:
        result = resample((1, 2, 5, 6), (5, 6), name).plain(image, 0)
        assert torch.equal(result, image[:, 1:6, 2:8])
        assert result.data_ptr() == image[:, 1:, 2:].data_ptr()
        padded = resample((-1, 2, 5, 9), (5, 9), name, fill=3).plain(image, 0)
        assert torch.equal(padded[:, 1:, :7], image[:, :4, 2:])
        assert (padded[:, 0] == 3).all()
        assert (padded[:, :, 7:] == 3).all()


def test_what_lies_outside_keeps_its_fraction_until_the_end():
    image = torch.zeros(1, 2, 2, dtype=torch.uint8)
    window = (5, 5, 4, 4)  # nothing of the image
    assert (resample(window, (4, 4), fill=127.25, to=torch.float32).plain(image, 0) == 127.25).all()
    assert (resample(window, (3, 5), fill=127.25, to=torch.float32).plain(image, 0) == 127.25).all()
    assert (resample(window, (3, 5), fill=127.75).plain(image, 0) == 128).all()
    assert (resample(window, (4, 4), "nearest", fill=300).plain(image, 0) == 255).all()


def test_results_are_flipped_after_they_are_resized():
    image = random_image()
    plain = resample((0, 0, 7, 9), (4, 20)).plain(image, 0)
    for flip in ((True, False), (False, True), (True, True)):
        dims = [dim + 1 for dim in range(2) if flip[dim]]
        assert torch.equal(resample((0, 0, 7, 9), (4, 20), flip=flip).plain(image, 0), plain.flip(dims))


def test_types_are_kept_and_integers_rounded():
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.float16, torch.float32, torch.float64):
        image = random_image(dtype=dtype)
        expected = by_hand(image, (0, 0, 7, 9), (5, 5), "cubic", True, None)
        result = resample((0, 0, 7, 9), (5, 5), "cubic").plain(image, 0)
        assert result.dtype == dtype
        if dtype.is_floating_point:
            assert np.abs(result.double().numpy() - expected).max() < (2e-3 if dtype == torch.float16 else 1e-5)
        else:
            limits = torch.iinfo(dtype)
            assert np.abs(result.numpy() - np.clip(expected, limits.min, limits.max)).max() < 0.5 + 1e-3


def test_halves_are_rounded_to_even_and_overshoot_is_clamped():
    image = torch.tensor([[[0, 1, 2, 3]]], dtype=torch.uint8)
    assert resample((0, 0, 1, 4), (1, 2), "box").plain(image, 0).tolist() == [[[0, 2]]]
    edge = torch.tensor([[[0, 0, 255, 255]]], dtype=torch.uint8)
    values = resample((0, 0, 1, 4), (1, 16), "cubic", to=torch.float32).plain(edge, 0)
    assert values.min() < -5
    assert values.max() > 260
    clamped = resample((0, 0, 1, 4), (1, 16), "cubic").plain(edge, 0)
    assert torch.equal(clamped, values.round().clamp(0, 255).byte())


def test_large_integers_are_resized_in_double_precision():
    for value in (2**24 + 1, 2**31 - 1):  # what float32 does not hold
        image = torch.full((1, 4, 4), value, dtype=torch.int32)
        assert (resample((0, 0, 4, 4), (3, 5)).plain(image, 0) == value).all()


def test_each_pixel_counts_in_one_result_when_a_box_shrinks_an_image():
    for length, result in ((6, 4), (201, 90), (1000, 3), (30000, 7)):
        first, weights = filter_taps(length, result, "box", antialias=True)
        counted = np.zeros(length, np.int64)
        for start, row in zip(first, weights, strict=True):
            counted[start + np.flatnonzero(row)] += 1
        assert (counted == 1).all(), (length, result)


def test_the_nearest_pixel_is_the_one_that_the_centre_falls_into():
    assert nearest_pixels(3, 2).tolist() == [0, 2]
    assert nearest_pixels(2, 4).tolist() == [0, 0, 1, 1]
    assert nearest_pixels(2, 1).tolist() == [1]  # on the edge between two


def test_sizes_are_checked_before_any_work():
    sizes = np.array([[3, 7, 9]])
    assert resample((0, 0, 7, 9), (4, 5)).sizes(sizes).tolist() == [[3, 4, 5]]
    with pytest.raises(ValueError, match=r"rows 1 to 8 and columns 0 to 9 are wanted of an image of 7 x 9 pixels"):
        resample((1, 0, 7, 9), (4, 5)).sizes(sizes)
    with pytest.raises(ValueError, match="would become 0 x 5"):
        resample((0, 0, 7, 9), (0, 5)).sizes(sizes)
    with pytest.raises(ValueError, match="height 0 and width 9"):
        resample((0, 0, 0, 9), (4, 5)).sizes(sizes)
    with pytest.raises(ValueError, match="2 fill values are given for an image of 3 channels"):
        resample((0, 0, 7, 9), (4, 5), fill=[1, 2]).sizes(sizes)
    with pytest.raises(ValueError, match="has no pixels"):
        resample((0, 0, 7, 9), (4, 5), fill=1).sizes(np.array([[3, 0, 9]]))


def test_autocast_does_not_lower_the_precision():
    image = random_image(70, 90, dtype=torch.float32)
    step = resample((0, 0, 70, 90), (40, 50))
    expected = step.plain(image, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(step.plain(image, 0), expected)
        assert (expected @ expected.mT).dtype == torch.bfloat16
