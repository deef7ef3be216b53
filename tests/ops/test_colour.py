from itertools import product

import numpy as np
import pytest
import torch

from torchdali.ops._colour import Colour

INTERLEAVED = (1, 2, 0)


def image_of(shape, dtype=torch.uint8, interleaved=False):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, shape, generator=generator).to(dtype)
    return image.permute(INTERLEAVED).contiguous().permute(2, 0, 1) if interleaved else image


def by_hand(image, matrix, offset, to):
    """One pixel after the other, in double precision."""
    pixels = image.double().numpy().reshape(len(image), -1)
    results = np.array([[sum(m * x for m, x in zip(row, pixel, strict=True)) for row in matrix] for pixel in pixels.T])
    results = results + offset
    if not to.is_floating_point:
        limits = torch.iinfo(to)
        results = np.clip(np.rint(results), limits.min, limits.max)
    return torch.from_numpy(results.T.reshape(-1, *image.shape[1:])).to(to)


def test_a_matrix_mixes_channels_and_rounds_half_to_even():
    matrix = np.array([[0.5, 0.25, -1.5], [0.0, 2.0, 0.5]])
    offset = np.array([10.0, -20.5])
    for dtype, to in ((torch.uint8, None), (torch.uint8, torch.int16), (torch.int16, torch.uint8)):
        step = Colour(np.stack([np.zeros_like(matrix), matrix]), np.stack([offset, offset]), to)
        for interleaved, precision in product((False, True), (torch.float32, torch.float64)):
            image = image_of((3, 4, 5), dtype, interleaved)
            assert torch.equal(step.plain(image, 1, precision), by_hand(image, matrix, offset, to or dtype))


def test_factors_by_channel_are_those_of_a_diagonal_matrix():
    factors, offset = np.array([0.5, 1.25, -2.0]), np.array([0.5, -3.0, 300.0])
    types = ((torch.uint8, None), (torch.uint8, torch.float32), (torch.int16, None), (torch.float16, None))
    for (dtype, to), interleaved in product(types, (False, True)):
        image = image_of((3, 4, 5), dtype, interleaved)
        result = Colour(factors[None], offset[None], to).plain(image, 0)
        assert torch.equal(result, by_hand(image, np.diag(factors), offset, to or dtype))
        alone = Colour(np.array([7.0, 1.5]), np.array([0.0, 0.25]), to).plain(image, 1)
        assert torch.equal(alone, by_hand(image, 1.5 * np.eye(3), np.full(3, 0.25), to or dtype))


def test_the_order_of_an_image_s_memory_stays():
    matrices = (np.array([1.5]), np.full((1, 3), 1.5), np.full((1, 3, 3), 1.5))
    for matrix, dtype, interleaved in product(matrices, (torch.uint8, torch.float32), (False, True)):
        image = image_of((3, 4, 5), dtype, interleaved)
        assert Colour(matrix, np.zeros(matrix.shape[:2])).plain(image, 0).stride() == image.stride()


def test_large_integers_are_exact_and_clamped():
    step = Colour(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    for dtype in (torch.int32, torch.int16, torch.int8):
        highest = torch.iinfo(dtype).max
        image = torch.tensor([[[highest, highest - 1, 5, -highest - 1]]], dtype=dtype)
        assert torch.equal(step.plain(image, 0), image)
        assert step.plain(image, 1).flatten().tolist() == [highest, highest, 10, -highest - 1]


def test_a_channel_without_a_part_in_a_result_may_be_infinite():
    image = torch.tensor([float("inf"), 2.0]).view(2, 1, 1)
    step = Colour(np.array([[[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]]]), np.array([[0.0, 1.0, 9.0]]))
    assert step.plain(image, 0).flatten().tolist() == [float("inf"), 7.0, 9.0]


def test_mixing_does_not_follow_the_precision_that_the_user_chose_for_products():
    image = image_of((3, 8, 8), torch.float32)
    step = Colour(np.random.default_rng(0).random((1, 3, 3)), np.zeros((1, 3)))
    expected = step.plain(image, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(step.plain(image, 0), expected)


def test_sizes_and_types_are_those_of_the_results():
    mixing = Colour(np.zeros((2, 4, 3)), np.zeros((2, 4)), torch.float16)
    assert mixing.sizes(np.array([[3, 5, 6], [3, 7, 8]])).tolist() == [[4, 5, 6], [4, 7, 8]]
    assert mixing.dtype(torch.uint8) == torch.float16
    plain = Colour(np.zeros(2), np.zeros(2))
    assert plain.sizes(np.array([[1, 5, 6], [3, 7, 8]])).tolist() == [[1, 5, 6], [3, 7, 8]]
    assert plain.dtype(torch.int16) == torch.int16


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"image 1 has 1 channels, but what is to be done is said for 3"):
        Colour(np.zeros((2, 3)), np.zeros((2, 3))).sizes(np.array([[3, 5, 6], [1, 7, 8]]))
    with pytest.raises(ValueError, match=r"matrices have shape \(2, 3\) and the offsets \(2,\)"):
        Colour(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match=r"image 1 has the factors and offsets \[nan, 0.0\]; they have to be finite"):
        Colour(np.array([0.0, np.nan]), np.zeros(2))
    with pytest.raises(TypeError, match=r"torch.bool have no colour"):
        Colour(np.zeros(1), np.zeros(1)).plain(torch.ones(1, 1, 1, dtype=torch.bool), 0)
