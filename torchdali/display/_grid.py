"""Columns of pictures beside each other, with titles and captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchdali.display._pictures import Pictures, as_image, each_picture
from torchdali.display._sheet import Column, draw_sheet, fit

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["grid"]

_PIXELS = "a picture is uint8 of shape (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels"


def grid(
    columns: Sequence[tuple[str, Pictures, Sequence[str]]],
    cell: tuple[int, int] = (320, 240),
) -> Image.Image:
    """Draw columns of pictures, each with a title above and a caption below each picture.

    Pictures are scaled to fit into cells of equal size, neither stretched nor cropped; they stand on the bottom of their
    cells, close to their captions. In a notebook, the result as the last line of a cell shows itself::

        images, labels = pipeline.run()
        grid([("training", images, [names[int(label)] for label in labels])])

    Args:
        columns: title, pictures and as many captions for each column. Columns may differ in length. Pictures are uint8
            arrays or tensors, on any device, of shape (H, W, C), (C, H, W) or (H, W), where C is 1 (gray) or 3 (RGB).
            Which of them a :class:`~torchdali.TensorList` holds is known by its layout; what has no layout is taken
            as (H, W, C) where its last dimension is 1 or 3. What is not uint8 yet is drawn by :func:`show`.
        cell: width and height that a picture may take, in pixels.

    Returns:
        An RGB picture on a white background. Text that is too long for its column is cut.

    Raises:
        TypeError: a picture is no uint8 array or tensor.
        ValueError: a shape is not that of a picture, a column has not one caption for each picture, there is no column, or
            a cell is smaller than one pixel.
    """
    if not columns:
        raise ValueError("columns is empty; there is nothing to draw: give (title, pictures, captions) for each column")
    if min(cell) < 1:
        raise ValueError(f"cell is {cell!r}; it is a width and a height of at least 1 pixel")
    return draw_sheet([_load(title, pictures, captions, cell) for title, pictures, captions in columns], cell)


def _load(title: str, pictures: Pictures, captions: Sequence[str], cell: tuple[int, int]) -> Column:
    layout, each = each_picture(pictures)
    images = [fit(_load_one(one, layout, f"picture {row} of column {title!r}"), cell) for row, one in enumerate(each)]
    if len(captions) != len(images):
        raise ValueError(
            f"column {title!r} has {len(images)} pictures and {len(captions)} captions; each picture has one, an empty one too"
        )
    return Column(title, images, list(captions))


def _load_one(picture: Any, layout: str, which: str) -> Image.Image:
    if not isinstance(picture, (torch.Tensor, np.ndarray)):
        raise TypeError(f"{which} is a {type(picture).__name__}; {_PIXELS}")
    if picture.dtype not in (torch.uint8, np.uint8):
        raise TypeError(f"{which} is {picture.dtype}; {_PIXELS}; torchdali.show draws other types too")
    return as_image(np.asarray(picture.detach().cpu() if isinstance(picture, torch.Tensor) else picture), layout, which)
