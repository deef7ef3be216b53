"""Rotations and affine warps: against the definition written out, torch's grid_sample and torchvision."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from tests.ops.images import assert_same_in_both_layouts, batch, random_image
from torchdali import TensorList
from torchdali.ops import Rotate, Uniform, WarpAffine
from torchdali.ops._rotate import rotated_canvas
from torchdali.ops._warp import Warp

SHEAR = [[0.9, 0.35, -1.7], [-0.2, 1.3, 0.6]]


def warp(matrix, size, name="linear", fill=None, to=None):
    fill = None if fill is None else np.atleast_1d(np.float64(fill))
    return Warp(np.array([matrix], np.float64), np.array([size]), name, fill, to)


def by_hand(image, matrix, size, name, fill):
    channels, height, width = image.shape
    pixels = image.double().numpy()

    def pixel(row, column):
        if fill is None:
            return pixels[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
        inside = 0 <= row < height and 0 <= column < width
        return pixels[:, row, column] if inside else np.broadcast_to(np.float64(fill), channels)

    result = np.empty((channels, *size))
    for y in range(size[0]):
        for x in range(size[1]):
            column, row = np.array(matrix) @ [x + 0.5, y + 0.5, 1]
            if name == "nearest":
                result[:, y, x] = pixel(math.floor(row), math.floor(column))
                continue
            top, left = math.floor(row - 0.5), math.floor(column - 0.5)
            down, right = row - 0.5 - top, column - 0.5 - left
            upper = (1 - right) * pixel(top, left) + right * pixel(top, left + 1)
            lower = (1 - right) * pixel(top + 1, left) + right * pixel(top + 1, left + 1)
            result[:, y, x] = (1 - down) * upper + down * lower
    return result


@pytest.mark.parametrize("name", ["nearest", "linear"])
@pytest.mark.parametrize("fill", [None, 33.3, [1.0, 200.5, -4.0]])
def test_the_definition_is_the_formula(name, fill):
    image = random_image()
    far = [[1, 0, 100.0], [0, 1, -50.3]]
    for matrix, size in ((SHEAR, (11, 12)), ([[1, 0, 0.5], [0, 1, 0.25]], (7, 9)), (far, (2, 2))):
        expected = by_hand(image, matrix, size, name, fill)
        step = warp(matrix, size, name, fill, torch.float64)
        assert np.abs(step.plain(image, 0, torch.float64).numpy() - expected).max() < 1e-9
        assert np.abs(step.plain(image, 0).numpy() - expected).max() < 1e-3


@pytest.mark.parametrize(("fill", "padding"), [(0, "zeros"), (None, "border")])
def test_a_linear_warp_is_torch_s_grid_sample(fill, padding):
    image = random_image(20, 30, dtype=torch.float64)
    height, width = 150, 140  # worked on in several pieces
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).double() @ torch.tensor(SHEAR, dtype=torch.float64).T
    grid = places / torch.tensor([30, 20]) * 2 - 1
    expected = functional.grid_sample(image[None], grid[None], padding_mode=padding, align_corners=False)[0]
    assert (warp(SHEAR, (height, width), fill=fill).plain(image, 0) - expected).abs().max() < 1e-9


def test_the_identity_changes_nothing():
    image = random_image(dtype=torch.int16)
    for name in ("nearest", "linear"):
        for fill in (None, 0):
            assert torch.equal(warp([[1, 0, 0], [0, 1, 0]], (7, 9), name, fill).plain(image, 0), image)


def test_right_angles_move_pixels_and_mix_none():
    images = batch((7, 9), (1, 1), (4, 4), dtype=torch.float64)
    for angle in (-270, 0, 90, 180, 270, 360, 450):
        for name in ("nearest", "linear"):
            results = Rotate(angle, filter=name, fill=5)(images)
            for image, result in zip(images, results, strict=True):
                assert torch.equal(result, image.rot90(angle // 90, (1, 2)))  # counter-clockwise too


def test_a_rotation_is_torchvision_s_inside_the_image():
    image = random_image(40, 40, dtype=torch.float32)
    for angle in (17.0, -33.5, 120.0):
        result = Rotate(angle, keep_size=True, fill=0)(image[None])[0]
        expected = vision.rotate(image, angle, InterpolationMode.BILINEAR)
        y, x = np.mgrid[:40, :40] - 19.5
        inside = torch.from_numpy(np.hypot(y, x) < 18)
        assert (result - expected)[:, inside].abs().max() < 1e-3


def test_the_canvas_is_that_of_dali():
    sizes = np.array([[10, 20], [10, 20], [10, 20], [11, 20], [10, 21], [5, 5], [100, 100]])
    angles = np.array([0.0, 90, 180, 0.001, -90, 45, 30])
    # 5 x 5 by 45 degrees: 7.07 is rounded up to 8, and to 9, as 5 is odd; 100 x 100 by 30: 136.6 -> 137 -> 138.
    assert rotated_canvas(sizes, angles).tolist() == [
        [10, 20],
        [20, 10],
        [10, 20],
        [11, 20],
        [21, 10],
        [9, 9],
        [138, 138],
    ]


def test_the_canvas_holds_the_whole_image():
    images = TensorList([torch.ones(1, 30, 50)], "CHW")
    for angle in (10, 45, 77, 130):
        result = Rotate(angle, fill=0)(images)[0]
        assert abs(result.sum().item() - 1500) < 15, angle  # linear interpolation keeps the sum only nearly
        assert result[:, 0].sum() + result[:, -1].sum() + result[:, :, 0].sum() + result[:, :, -1].sum() < 60


def test_angles_and_sizes_can_differ_from_sample_to_sample():
    images = batch((7, 9), (7, 9))
    results = assert_same_in_both_layouts(Rotate([90, 0], fill=0), images)
    assert results.shape() == [(3, 9, 7), (3, 7, 9)]
    assert Rotate(30, size=torch.tensor([[3, 4], [5, 6]]))(images).shape() == [(3, 3, 4), (3, 5, 6)]
    assert Rotate(30, keep_size=True)(images, angle=torch.tensor([1.0, 2.0])).shape() == [(3, 7, 9)] * 2


def test_random_angles_differ_from_sample_to_sample():
    image = random_image(9, 9, dtype=torch.float32)
    results = Rotate(Uniform(-180, 180), keep_size=True)(TensorList([image] * 6, "CHW"))
    assert len({result.sum().item() for result in results}) == 6


def test_types_are_kept_or_changed():
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.float16, torch.float32):
        images = batch((7, 9), dtype=dtype)
        assert assert_same_in_both_layouts(Rotate(20, fill=300), images)[0].dtype == dtype
    exact = Rotate(20, dtype=torch.float32)(batch((7, 9)))[0]
    assert (Rotate(20)(batch((7, 9)))[0] - exact).abs().max() <= 0.5
    assert (Rotate(45, fill=300)(batch((7, 9)))[0][:, 0, 0] == 255).all()


def test_a_matrix_maps_either_way():
    images = batch((7, 9), (8, 8), dtype=torch.float64)
    square = np.vstack([SHEAR, [0, 0, 1]])
    forward = WarpAffine(SHEAR, fill=0)(images)
    backward = WarpAffine(np.linalg.inv(square)[:2], fill=0, inverse_map=False)(images)
    for one, other, image in zip(forward, backward, images, strict=True):
        assert (one - other).abs().max() < 1e-9
        assert np.abs(one.numpy() - by_hand(image, SHEAR, image.shape[1:], "linear", 0)).max() < 1e-9


def test_a_matrix_can_be_given_in_several_ways():
    images = batch((7, 9), (7, 9), dtype=torch.float32)
    expected = list(WarpAffine(SHEAR)(images))
    moved = [[1.0, 0, 2], [0, 1, 0]]
    ways = [
        WarpAffine(np.array(SHEAR))(images),
        WarpAffine(torch.tensor(SHEAR, dtype=torch.float64))(images),
        WarpAffine([*SHEAR[0], *SHEAR[1]])(images),
        WarpAffine(np.array(SHEAR).reshape(6))(images),
        WarpAffine(moved)(images, matrix=torch.tensor(SHEAR, dtype=torch.float64).view(6)),
        WarpAffine(moved)(images, matrix=SHEAR),
    ]
    for way in ways:
        assert all(torch.equal(one, other) for one, other in zip(way, expected, strict=True))
    each = WarpAffine(np.array([SHEAR, moved]))(images)
    assert torch.equal(each[0], expected[0])
    assert torch.equal(each[1][:, :, :7], images[1][:, :, 2:])
    assert WarpAffine(SHEAR, size=(3, 4))(images).shape() == [(3, 3, 4)] * 2


def test_arguments_that_make_no_sense_are_refused():
    images = batch((7, 9), (7, 9))
    with pytest.raises(TypeError, match="size and keep_size exclude each other"):
        Rotate(10, (3, 4), keep_size=True)
    with pytest.raises(ValueError, match="filter is 'cubic'; it is one of 'nearest', 'linear'"):
        Rotate(10, filter="cubic")
    with pytest.raises(ValueError, match="fill is nan"):
        Rotate(10, fill=float("nan"))
    with pytest.raises(ValueError, match="angle is inf for sample 0"):
        Rotate(float("inf"))(images)
    with pytest.raises(ValueError, match="size is .*0.* at least 1 pixel"):
        Rotate(10, 0)(images)
    with pytest.raises(ValueError, match="it has to be invertible"):
        WarpAffine([[1, 2, 0], [2, 4, 0]], inverse_map=False)
    with pytest.raises(ValueError, match="matrix has 9 numbers; it is 2 x 3"):
        WarpAffine(np.eye(3).tolist())(images)
    with pytest.raises(ValueError, match="2 fill values are given for an image of 3 channels"):
        Rotate(10, fill=(1, 2))(images)
    with pytest.raises(ValueError, match="has no pixels"):
        Rotate(10, keep_size=True)(TensorList([torch.zeros(3, 0, 4)]))


def test_an_empty_batch_stays_empty():
    assert len(Rotate(10)(TensorList([], "HWC", dtype=torch.uint8))) == 0
    assert len(WarpAffine(SHEAR, inverse_map=False)(TensorList([], "HWC", dtype=torch.uint8))) == 0
