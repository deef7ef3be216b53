"""Pictures beside each other, with titles and captions: for notebooks and reports.

Drawn with Pillow, which torchvision brings along; it is imported when something is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torchdali.tensorlist import TensorList

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

__all__ = ["Pictures", "grid"]

Pictures = TensorList | torch.Tensor | npt.NDArray[np.uint8] | Sequence[torch.Tensor | npt.NDArray[np.uint8]]
"""What gives one picture after another when it is iterated over."""

_BACKGROUND = (255, 255, 255)
_TITLE = (24, 24, 27)
_CAPTION = (63, 63, 70)
_LONGEST_TEXT = 200
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
            as (H, W, C) where its last dimension is 1 or 3.
        cell: width and height that a picture may take, in pixels.

    Returns:
        An RGB picture on a white background. Text that is too long for its column is cut.

    Raises:
        TypeError: a picture is no uint8 array or tensor.
        ValueError: a shape is not that of a picture, a column has not one caption for each picture, there is no column, or
            a cell is smaller than one pixel.
    """
    from PIL import Image, ImageDraw

    if not columns:
        raise ValueError("columns is empty; there is nothing to draw")
    if min(cell) < 1:
        raise ValueError(f"cell is {cell!r}; it is a width and a height of at least 1 pixel")
    loaded = [_load(title, pictures, captions) for title, pictures, captions in columns]
    place = _Layout.of(len(loaded), max(len(pictures) for _, pictures, _ in loaded), cell)
    sheet = Image.new("RGB", place.size, _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    title_font, caption_font = _font(place.title_size), _font(place.caption_size)
    for number, (title, pictures, captions) in enumerate(loaded):
        left = place.left(number)
        _write(pen, title, title_font, _TITLE, (left, place.margin), cell[0])
        for row, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            top = place.top(row)
            small = _fit(picture, cell)
            sheet.paste(small, (left + (cell[0] - small.width) // 2, top + cell[1] - small.height))
            _write(pen, caption, caption_font, _CAPTION, (left, top + cell[1] + place.caption_gap), cell[0])
    return sheet


class _Layout(NamedTuple):
    """Where things stand on the sheet, in pixels; all distances follow from the size of a cell."""

    columns: int
    rows: int
    cell: tuple[int, int]
    title_size: int
    caption_size: int

    @classmethod
    def of(cls, columns: int, rows: int, cell: tuple[int, int]) -> _Layout:
        caption_size = max(11, min(cell) // 15)
        return cls(columns, rows, cell, round(caption_size * 1.3), caption_size)

    @property
    def margin(self) -> int:
        return self.title_size

    @property
    def caption_gap(self) -> int:
        return self.caption_size // 2

    @property
    def _row_height(self) -> int:
        return self.cell[1] + self.caption_gap + round(2.5 * self.caption_size)

    @property
    def _title_height(self) -> int:
        return 2 * self.title_size

    @property
    def size(self) -> tuple[int, int]:
        width = 2 * self.margin + self.columns * self.cell[0] + (self.columns - 1) * self.margin
        last_gap = self.caption_size  # below the last caption the margin does
        return width, 2 * self.margin + self._title_height + max(0, self.rows * self._row_height - last_gap)

    def left(self, column: int) -> int:
        return self.margin + column * (self.cell[0] + self.margin)

    def top(self, row: int) -> int:
        return self.margin + self._title_height + row * self._row_height


def _load(title: str, pictures: Pictures, captions: Sequence[str]) -> tuple[str, list[Image.Image], list[str]]:
    layout = pictures.layout if isinstance(pictures, TensorList) else ""
    each: Iterable[Any] = pictures.as_cpu() if isinstance(pictures, TensorList) else pictures
    images = [_load_one(picture, layout, f"picture {row} of column {title!r}") for row, picture in enumerate(each)]
    if len(captions) != len(images):
        raise ValueError(f"column {title!r} has {len(images)} pictures and {len(captions)} captions")
    return title, images, list(captions)


def _load_one(picture: Any, layout: str, which: str) -> Image.Image:
    from PIL import Image

    if not isinstance(picture, (torch.Tensor, np.ndarray)):
        raise TypeError(f"{which} is a {type(picture).__name__}; {_PIXELS}")
    if picture.dtype not in (torch.uint8, np.uint8):
        raise TypeError(f"{which} is {picture.dtype}; {_PIXELS}")
    array = picture.detach().cpu().numpy() if isinstance(picture, torch.Tensor) else picture
    shape = array.shape
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and (layout == "CHW" or (layout != "HWC" and shape[2] not in (1, 3))):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in shape:
        raise ValueError(f"{which} has shape {tuple(shape)}; {_PIXELS}")
    rgb = np.broadcast_to(array, (*array.shape[:2], 3))
    return Image.fromarray(np.ascontiguousarray(rgb))


def _fit(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    from PIL import Image

    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: tuple[int, int, int],
    corner: tuple[int, int],
    width: int,
) -> None:
    """Write one line in the middle of ``width`` pixels, cut where it is longer."""
    text = " ".join(text[:_LONGEST_TEXT].split())
    shown = text
    while shown and pen.textlength(shown, font) > width:
        text = text[:-1]
        shown = text.rstrip() + "..." if text else ""
    pen.text((corner[0] + (width - pen.textlength(shown, font)) / 2, corner[1]), shown, colour, font)
