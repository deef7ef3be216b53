"""What is known of a batch of files before anything of it is decoded: sizes, and which parts of the images are wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from torchdali.ops.decode._glance import Seen, look
from torchdali.ops.decode._interface import CannotDecodeError, ImageInfo

__all__ = ["Glimpse", "Windows", "glimpse_of"]

Integers: TypeAlias = npt.NDArray[np.int64]

Windows: TypeAlias = Callable[[Integers, npt.NDArray[np.bool_]], "Integers | None"]
"""As :meth:`~torchdali.ops.DecodeImage.windows`."""


class Glimpse(NamedTuple):
    """Of N files in one buffer, in which nothing is wrong as far as their headers say. It can be pickled."""

    seen: Seen
    infos: dict[int, ImageInfo]
    """Of the files that are not known in ``seen``, or are no baseline JPEGs, by position."""
    height: Integers
    """As stored, (N,)."""
    width: Integers
    upright: Integers
    """(N, 2): heights and widths of the images as they are wanted."""
    knows_windows: bool
    """Whether it is known which parts of them are wanted."""
    windows: Integers | None
    """These parts, (N, 4): top, left, height, width; None: all of each image, or it is not known."""


def glimpse_of(
    files: Any,
    inspect: Callable[[int], ImageInfo | CannotDecodeError],
    *,
    upright: bool,
    max_pixels: int,
    windows: Windows | None,
) -> Glimpse | None:
    """Look at a batch; None where something is wrong with a file, or they do not lie in one buffer.

    Args:
        files: a batch.
        inspect: tells of the file at a position what a look at all of them does not.
        upright: images are wanted as their Exif orientation says.
        max_pixels: an image that claims more is wrong.
        windows: tells which parts of the images are wanted, given the sizes of all; None: that is not known yet.
    """
    seen = look(files, max_pixels)
    if seen is None:
        return None
    infos: dict[int, ImageInfo] = {}
    height, width = seen.height.copy(), seen.width.copy()
    sizes = np.stack([height, width], 1)
    for position in np.flatnonzero(~(seen.known & seen.baseline)).tolist():
        info = inspect(position)
        if isinstance(info, CannotDecodeError):
            return None
        infos[position] = info
        height[position], width[position] = info.height, info.width
        sizes[position] = info.size_upright(apply_orientation=upright)
    parts = None if windows is None else windows(sizes, np.ones(len(sizes), np.bool_))
    return Glimpse(seen, infos, height, width, sizes, windows is not None, parts)
