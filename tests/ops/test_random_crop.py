import numpy as np
import pytest

from torchdali.ops._random_crop import draws_of_random_crop, random_crop_windows


def windows(sizes, *arguments, seed=0, **keywords):
    sizes = np.asarray(sizes, np.int64)
    attempts = keywords.get("attempts", 10)
    uniforms = np.random.default_rng(seed).random((len(sizes), draws_of_random_crop(attempts)))
    return random_crop_windows(sizes, uniforms, *arguments, **keywords)


def serially(height, width, draws, area, ratio, attempts):
    """The algorithm as DALI has it, for one image."""
    low, high = ratio
    widest, tallest = max(1, int(height * high)), max(1, int(width / low))
    if height * widest < area[0] * width * height:
        found = height, widest
    elif width * tallest < area[0] * width * height:
        found = tallest, width
    else:
        found = None
        for n in range(attempts):
            target = (area[0] + draws[2 * n] * (area[1] - area[0])) * height * width
            share = np.exp(np.log(low) + draws[2 * n + 1] * (np.log(high) - np.log(low)))
            w, h = (max(1, int(np.sqrt(value) + 0.5)) for value in (target * share, target / share))
            if w <= width and h <= height and low <= w / h <= high:
                found = h, w
                break
        if found is None:
            h, w = height, width
            if width / height > high:
                w = widest
            elif width / height < low:
                h = tallest
            scale = np.sqrt(min(1.0, area[1] * width * height / (h * w)))
            found = max(1, int(h * scale)), max(1, int(w * scale))
    h, w = found
    return int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 0.6), (1.0, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.0, 1.0), (2.0, 3.0)])
@pytest.mark.parametrize("attempts", [1, 10])
def test_windows_are_those_of_the_algorithm_written_out_for_one_image(area, ratio, attempts):
    rng = np.random.default_rng(1)
    sizes = np.concatenate([rng.integers(1, 700, (150, 2)), rng.integers(1, 6, (50, 2)), [[2, 900], [900, 2]]])
    uniforms = rng.random((len(sizes), draws_of_random_crop(attempts)))
    found = random_crop_windows(sizes, uniforms, area, ratio, attempts)
    expected = [serially(h, w, draws, area, ratio, attempts) for (h, w), draws in zip(sizes, uniforms, strict=True)]
    assert found.tolist() == [list(window) for window in expected]


def test_windows_lie_inside_their_images():
    sizes = np.random.default_rng(2).integers(1, 300, (20_000, 2))
    found = windows(sizes)
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] >= 1).all()
    assert (found[:, :2] + found[:, 2:] <= sizes).all()


def test_the_share_of_the_area_is_uniform_where_every_window_fits():
    found = windows(np.full((20_000, 2), 1000), (0.1, 0.5), (0.9, 1.1))
    shares = np.sort(found[:, 2] * found[:, 3] / 1e6)
    even = np.linspace(0.1, 0.5, len(shares))
    assert np.abs(shares - even).max() < 0.01  # 0.0115 of the range is the 1 % point of Kolmogorov and Smirnov
    ratios = np.log(found[:, 3] / found[:, 2])
    assert np.abs(np.sort(ratios) - np.linspace(np.log(0.9), np.log(1.1), len(ratios))).max() < 0.005


def test_places_reach_all_edges():
    found = windows(np.full((5000, 2), 8), (0.2, 0.3))
    assert found[:, 0].min() == 0
    assert (found[:, 0] + found[:, 2]).max() == 8
    assert (found[:, 1] + found[:, 3]).max() == 8


def test_a_draw_just_below_one_stays_inside():
    draws = np.full((1, draws_of_random_crop()), np.nextafter(1.0, 0.0))
    ((top, left, height, width),) = random_crop_windows(np.array([[10**6, 10**6]]), draws)
    assert top + height <= 10**6
    assert left + width <= 10**6


def test_an_image_that_is_far_too_long_gives_its_widest_part():
    found = windows([[10, 1000], [1000, 10]] * 20)
    assert {(10, 13), (13, 10)} == {(h, w) for _, _, h, w in found.tolist()}


def test_no_images_give_no_windows():
    assert windows(np.zeros((0, 2))).shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((0.0, 1.0),), ValueError, "area is .*share of the image's area"),
        (((0.5, 1.5),), ValueError, "area is .*at most 1"),
        (((0.5, 0.1),), ValueError, "area is"),
        (((float("nan"), 1.0),), ValueError, "area is"),
        ((0.5,), TypeError, "area is 0.5; it is a pair"),
        (((0.1, 1.0), (0.0, 1.0)), ValueError, "aspect_ratio is"),
        (((0.1, 1.0), (1.0, float("inf"))), ValueError, "aspect_ratio is"),
        (((0.1, 1.0), (1.0, 1.0), 0), ValueError, "attempts is 0"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        random_crop_windows(np.ones((1, 2), np.int64), np.zeros((1, 22)), *arguments)


def test_arrays_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"uniforms have shape \(1, 4\)"):
        random_crop_windows(np.ones((1, 2), np.int64), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="sizes are"):
        random_crop_windows(np.zeros((1, 2), np.int64), np.zeros((1, 22)))
