"""The orientation that cameras note in an image: Exif 2.3 (CIPA DC-008), tag 0x0112."""

from __future__ import annotations

import struct

import torch

__all__ = ["exif_orientation", "turn_upright"]

_ORIENTATION = 0x0112


def exif_orientation(tiff: bytes) -> int:
    """The orientation in an Exif block, 1 to 8; 1, upright, where there is none or the block is damaged.

    Args:
        tiff: the block from its TIFF header on, which begins with II or MM.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # a damaged Exif block does not make the image unreadable
        pass
    return 1


def turn_upright(image: torch.Tensor, orientation: int) -> torch.Tensor:
    """Turn a (C, H, W) image as its orientation says; itself where that is 1."""
    if orientation >= 5:
        image = image.transpose(1, 2)
    # After the transposition of 5 to 8, what is left is a flip of the rows, of the columns, or of both.
    rows = orientation in (3, 4, 7, 8)
    columns = orientation in (2, 3, 6, 7)
    dims = [dim for dim, flip in ((1, rows), (2, columns)) if flip]
    return image.flip(dims) if dims else image
