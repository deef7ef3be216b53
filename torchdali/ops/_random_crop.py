"""Where random crops of a random area and aspect ratio lie: the windows of RandomResizedCrop and of decoding with a crop.

The distribution is that of DALI's ``RandomCropGenerator`` (dali/util/random_crop_generator.cc), which is the one that the
Inception networks were trained with: a share of the area and the logarithm of the aspect ratio are drawn from uniform
distributions until the window fits into the image, and then its place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ATTEMPTS", "check_random_crop", "draws_of_random_crop", "random_crop_windows"]

ATTEMPTS = 10
"""Windows that are tried before one is taken that fits in any case; as in DALI and torchvision."""


def draws_of_random_crop(attempts: int = ATTEMPTS) -> int:
    """How many uniform draws a window takes: two for each attempt and two for the place."""
    return 2 * attempts + 2


def check_random_crop(area: tuple[float, float], aspect_ratio: tuple[float, float], attempts: int) -> None:
    """See that the arguments of a random crop make sense.

    Raises:
        ValueError: they do not; the message says why.
        TypeError: a range is no pair of numbers.
    """
    _check_range("area", area, "a share of the image's area", 1.0)
    _check_range("aspect_ratio", aspect_ratio, "a width divided by a height", np.inf)
    if isinstance(attempts, bool) or not isinstance(attempts, (int, np.integer)) or attempts < 1:
        raise ValueError(f"attempts is {attempts!r}; it is how many windows are tried, an integer of at least 1")


def _check_range(name: str, values: tuple[float, float], meaning: str, highest: float) -> None:
    try:
        low, high = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {values!r}; it is a pair of numbers (lowest, highest), each {meaning}") from error
    if not (0 < low <= high <= highest and high < np.inf):
        most = "" if np.isinf(highest) else f", highest at most {highest:g}"
        raise ValueError(f"{name} is {values!r}; it is (lowest, highest), each {meaning}: 0 < lowest <= highest{most}")


def random_crop_windows(
    sizes: npt.NDArray[np.int64],
    uniforms: npt.NDArray[np.float64],
    area: tuple[float, float] = (0.08, 1.0),
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = ATTEMPTS,
) -> npt.NDArray[np.int64]:
    """A window for each of N images.

    Args:
        sizes: (N, 2), height and width of the images in pixels, at least 1.
        uniforms: (N, 2 * attempts + 2), draws from [0, 1): area and aspect ratio of each attempt, then top and left.
        area: lowest and highest share of the image's area.
        aspect_ratio: lowest and highest width divided by height.
        attempts: how often a window is tried before a central choice of size is taken.

    Returns:
        (N, 4): top, left, height, width in pixels; always inside the image and at least one pixel.

    Raises:
        ValueError: an argument is out of its range, or an array has another shape.
    """
    check_random_crop(area, aspect_ratio, attempts)
    sizes = np.asarray(sizes, np.int64)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or (sizes < 1).any():
        raise ValueError(f"sizes are {sizes!r}; they are the height and width of each image, (N, 2), at least 1 pixel")
    expected = (len(sizes), draws_of_random_crop(attempts))
    if np.shape(uniforms) != expected:
        raise ValueError(
            f"uniforms have shape {np.shape(uniforms)}; {attempts} attempts for these images take {expected}"
        )
    heights, widths = sizes[:, 0], sizes[:, 1]
    low, high = float(aspect_ratio[0]), float(aspect_ratio[1])
    pixels = (heights * widths).astype(np.float64)
    least = float(area[0]) * pixels

    widest = np.maximum(1, (heights * high).astype(np.int64))  # of a window as high as the image
    tallest = np.maximum(1, (widths / low).astype(np.int64))  # of a window as wide as the image

    height, width = _tried(heights, widths, uniforms, area, (low, high), attempts)

    # None was good: as much of the image as the aspect ratio and the highest area allow.
    ratios = widths / heights
    rest_height = np.where(ratios < low, np.minimum(tallest, heights), heights)
    rest_width = np.where(ratios > high, np.minimum(widest, widths), widths)
    scale = np.sqrt(np.minimum(1.0, float(area[1]) * pixels / (rest_height * rest_width)))
    rest_height = np.maximum(1, (rest_height * scale).astype(np.int64))
    rest_width = np.maximum(1, (rest_width * scale).astype(np.int64))
    none = height == 0
    height, width = np.where(none, rest_height, height), np.where(none, rest_width, width)

    # An image so long that no window of these aspect ratios reaches the lowest area: the largest one is taken.
    long = heights * widest < least
    tall = ~long & (widths * tallest < least)
    height = np.where(long, heights, np.where(tall, np.minimum(tallest, heights), height))
    width = np.where(long, np.minimum(widest, widths), np.where(tall, widths, width))

    places = np.asarray(uniforms, np.float64)[:, -2:] * np.stack([heights - height + 1, widths - width + 1], 1)
    # A draw just below 1 may round up to the number of places.
    top = np.minimum(places[:, 0].astype(np.int64), heights - height)
    left = np.minimum(places[:, 1].astype(np.int64), widths - width)
    return np.stack([top, left, height, width], 1)


def _tried(
    heights: npt.NDArray[np.int64],
    widths: npt.NDArray[np.int64],
    uniforms: npt.NDArray[np.float64],
    area: tuple[float, float],
    aspect_ratio: tuple[float, float],
    attempts: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Height and width of the first of the windows that fits, 0 where none does."""
    low, high = aspect_ratio
    draws = np.asarray(uniforms, np.float64)[:, : 2 * attempts].reshape(-1, attempts, 2)
    target = (area[0] + draws[..., 0] * (area[1] - area[0])) * (heights * widths)[:, None]
    ratio = np.exp(np.log(low) + draws[..., 1] * (np.log(high) - np.log(low)))
    width = np.maximum(1, np.floor(np.sqrt(target * ratio) + 0.5)).astype(np.int64)
    height = np.maximum(1, np.floor(np.sqrt(target / ratio) + 0.5)).astype(np.int64)
    rounded = width / height
    good = (width <= widths[:, None]) & (height <= heights[:, None]) & (rounded >= low) & (rounded <= high)
    rows, first = np.arange(len(good)), good.argmax(1)
    any_good = good.any(1)
    return np.where(any_good, height[rows, first], 0), np.where(any_good, width[rows, first], 0)
