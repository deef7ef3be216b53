"""Boxes and masks on pictures, drawn by torchvision's utilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["draw_boxes", "draw_masks"]

_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008080",
    "#f032e6",
    "#9a6324",
    "#808000",
    "#000075",
)
_OPACITY = 0.5


def _colours(count: int) -> list[Any]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]


def draw_masks(picture: Image.Image, masks: Any, which: str) -> Image.Image:
    """Cover parts of a picture, each in its colour.

    Args:
        picture: RGB, before it is scaled.
        masks: bool (K, H, W) or (H, W); of integers (H, W) the number of a part, 0 being none.
        which: says which picture it is.

    Raises:
        ValueError: another shape than the picture's.
    """
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
    from torchvision.utils import draw_segmentation_masks

    planes = torch.as_tensor(masks).detach().cpu()
    if planes.dim() == 2 and planes.dtype != torch.bool:
        planes = torch.stack([planes == value for value in planes.unique() if value != 0] or [torch.zeros_like(planes)])
    planes = planes.bool().reshape(-1, *planes.shape[-2:])
    if planes.shape[-2:] != (picture.height, picture.width):
        raise ValueError(
            f"the masks of {which} have shape {tuple(planes.shape)} and the picture is {picture.height} x {picture.width}; "
            "masks are (K, H, W) or (H, W), as large as their picture"
        )
    drawn = pil_to_tensor(picture)
    for plane, colour in zip(planes, _colours(len(planes)), strict=True):  # one by one: overlaps are blended, not black
        drawn = draw_segmentation_masks(drawn, plane, _OPACITY, [colour])
    result: Image.Image = to_pil_image(drawn)
    return result


def draw_boxes(picture: Image.Image, boxes: Any, size: tuple[int, int], which: str) -> Image.Image:
    """Draw rectangles on a picture that was scaled already: so their lines are thin and seen.

    Args:
        picture: RGB, as large as it is shown.
        boxes: (K, 4) left, top, right and bottom in pixels of the picture as it was; torchvision's ``BoundingBoxes`` in
            whatever format they say.
        size: width and height that the picture had.
        which: says which picture it is.

    Raises:
        ValueError: another shape, or a box whose right or bottom lies before its left or top.
    """
    from torchvision.transforms.v2.functional import convert_bounding_box_format, pil_to_tensor, to_pil_image
    from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat
    from torchvision.utils import draw_bounding_boxes

    if isinstance(boxes, BoundingBoxes):
        boxes = convert_bounding_box_format(boxes, new_format=BoundingBoxFormat.XYXY).as_subclass(torch.Tensor)
    corners = torch.as_tensor(boxes).detach().cpu().double()
    if not corners.numel():
        return picture
    if corners.dim() == 1:
        corners = corners[None]
    if corners.dim() != 2 or corners.shape[1] != 4:
        raise ValueError(
            f"the boxes of {which} have shape {tuple(corners.shape)}; they are (K, 4): left, top, right, bottom in pixels"
        )
    bad = np.flatnonzero(((corners[:, 2] < corners[:, 0]) | (corners[:, 3] < corners[:, 1])).numpy())
    if bad.size:
        raise ValueError(
            f"box {bad[0]} of {which} is {corners[bad[0]].tolist()}, whose right or bottom comes before its left or top; "
            "boxes are left, top, right, bottom: torchvision.ops.box_convert makes them of other formats"
        )
    scale = torch.tensor([picture.width / size[0], picture.height / size[1]] * 2, dtype=torch.float64)
    width = max(2, min(picture.size) // 90)
    scaled = (corners * scale).round()
    drawn = draw_bounding_boxes(pil_to_tensor(picture), scaled, colors=_colours(len(corners)), width=width)
    result: Image.Image = to_pil_image(drawn)
    return result
