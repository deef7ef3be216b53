"""A sheet of pictures: columns with a title above each, captions below the pictures, a heading above and a note below all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image, ImageDraw, ImageFont

__all__ = ["Column", "draw_sheet", "fit"]

_BACKGROUND = (255, 255, 255)
_TITLE = (24, 24, 27)
_CAPTION = (63, 63, 70)
_LONGEST_TEXT = 200
_ENLARGED = 2
"""From this factor on the pixels of a small picture are shown as squares: smoothing would show what is not there."""


class Column(NamedTuple):
    """A title, and pictures with a caption each."""

    title: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str]


def draw_sheet(
    columns: Sequence[Column], cell: tuple[int, int], *, heading: str | None = None, note: str = "", lean: bool = False
) -> Image.Image:
    """Draw columns beside each other, RGB on white.

    Args:
        columns: at least one; they may differ in length.
        cell: width and height that a picture may take, in pixels.
        heading: a line above the titles.
        note: a line below all pictures.
        lean: without room for titles and captions where there are none.
    """
    from PIL import Image, ImageDraw

    titled = not lean or any(column.title for column in columns)
    captioned = not lean or any(any(column.captions) for column in columns)
    rows = max(len(column.pictures) for column in columns)
    place = _Layout.of(len(columns), rows, cell, heading is not None, titled, captioned, bool(note))
    sheet = Image.new("RGB", place.size, _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    title_font, caption_font = _font(place.title_size), _font(place.caption_size)
    if heading is not None:
        _write(pen, heading, _font(place.heading_size), _TITLE, (place.margin, place.margin), place.inner_width)
    for number, (title, pictures, captions) in enumerate(columns):
        left = place.left(number)
        _write(pen, title, title_font, _TITLE, (left, place.title_top), cell[0])
        for row, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            top = place.top(row)
            sheet.paste(picture, (left + (cell[0] - picture.width) // 2, top + cell[1] - picture.height))
            _write(pen, caption, caption_font, _CAPTION, (left, top + cell[1] + place.caption_gap), cell[0])
    if note:
        _write(pen, note, caption_font, _CAPTION, (place.margin, place.note_top), place.inner_width)
    return sheet


def fit(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """Scale a picture so that it touches its cell; neither stretched nor cropped."""
    from PIL import Image

    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= _ENLARGED else Image.Resampling.LANCZOS)


class _Layout(NamedTuple):
    """Where things stand on the sheet, in pixels; all distances follow from the size of a cell."""

    columns: int
    rows: int
    cell: tuple[int, int]
    title_size: int
    caption_size: int
    headed: bool
    titled: bool
    captioned: bool
    noted: bool

    @classmethod
    def of(
        cls,
        columns: int,
        rows: int,
        cell: tuple[int, int],
        headed: bool,
        titled: bool,
        captioned: bool,
        noted: bool,
    ) -> _Layout:
        caption_size = max(11, min(cell) // 15)
        return cls(columns, rows, cell, round(caption_size * 1.3), caption_size, headed, titled, captioned, noted)

    @property
    def heading_size(self) -> int:
        return round(self.caption_size * 1.5)

    @property
    def margin(self) -> int:
        return self.title_size

    @property
    def caption_gap(self) -> int:
        return self.caption_size // 2

    @property
    def _row_height(self) -> int:
        below = self.caption_gap + round(2.5 * self.caption_size) if self.captioned else self.margin
        return self.cell[1] + below

    @property
    def title_top(self) -> int:
        return self.margin + (2 * self.heading_size if self.headed else 0)

    @property
    def _first_top(self) -> int:
        return self.title_top + (2 * self.title_size if self.titled else 0)

    @property
    def inner_width(self) -> int:
        return self.columns * self.cell[0] + (self.columns - 1) * self.margin

    @property
    def _bottom(self) -> int:
        """Below the last row; the margin stands there instead of the last row's distance."""
        last_gap = self.caption_size if self.captioned else self.margin
        return self._first_top + max(0, self.rows * self._row_height - last_gap)

    @property
    def note_top(self) -> int:
        return self._bottom + self.caption_size

    @property
    def size(self) -> tuple[int, int]:
        height = self._bottom + self.margin + (2 * self.caption_size if self.noted else 0)
        return 2 * self.margin + self.inner_width, height

    def left(self, column: int) -> int:
        return self.margin + column * (self.cell[0] + self.margin)

    def top(self, row: int) -> int:
        return self._first_top + row * self._row_height


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
