"""Pixels of many kinds, as pictures: where the channels are, and what the values mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from torchdali.tensorlist import TensorList

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Pictures", "as_image", "each_picture", "to_bytes", "with_channels_last"]

Pictures = TensorList | torch.Tensor | npt.NDArray[Any] | Sequence[torch.Tensor | npt.NDArray[Any]]
"""What gives one picture after another when it is iterated over."""

_SHAPES = "a picture has shape (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels"
_OVERSHOOT = 0.12
"""Part of its range by which resizing with a sharp filter may leave the range of an image."""
_DARKEST_WHITE = 16
"""Images of 0 to 255 have a brighter value than this; those of 0 to 1 do not come near."""


def each_picture(pictures: Pictures) -> tuple[str, Iterable[Any]]:
    """The layout, empty where it is not known, and the pictures, those of a ``TensorList`` in CPU memory."""
    if isinstance(pictures, TensorList):
        return pictures.layout, pictures.as_cpu()
    return "", pictures


def with_channels_last(array: npt.NDArray[Any], layout: str, which: str) -> npt.NDArray[Any]:
    """(H, W, C) of what has a layout, or whose last dimension tells by its size that it is the channels.

    Raises:
        ValueError: it is no picture of 1 or 3 channels, or has no pixels.
    """
    shape = array.shape
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and (layout == "CHW" or (layout != "HWC" and shape[2] not in (1, 3))):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in shape:
        known = f" in layout {layout}" if layout else ""
        raise ValueError(f"{which} has shape {tuple(shape)}{known}; {_SHAPES}")
    return array


def as_image(array: npt.NDArray[np.uint8], layout: str, which: str) -> Image.Image:
    """An RGB picture of uint8 values."""
    from PIL import Image

    array = with_channels_last(array, layout, which)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))))


def to_bytes(arrays: Sequence[npt.NDArray[Any]], mean: npt.NDArray[np.float64] | None, std: Any) -> list[Any]:
    """Values of 0 to 255, of pictures (H, W, C) that are normalised, or of 0 to 1, or of 0 to 255 already.

    What they are is judged by all of them together: a dark picture among others is shown dark.

    Args:
        arrays: (H, W, C) each, all of one type.
        mean, std: one number, or one for each channel: each value is multiplied by ``std``, then ``mean`` is added.

    Raises:
        TypeError: the type is complex, or otherwise none of pixels.
        ValueError: values are not finite or in no known range.
    """
    kind = arrays[0].dtype
    if mean is None and kind == np.uint8:
        return list(arrays)
    if kind == np.bool_:
        return [np.where(array, np.uint8(255), np.uint8(0)) for array in arrays]
    if kind.kind not in "uif":
        raise TypeError(f"the pictures are {kind}; pixels are bool, integers or floating point")
    values = [array.astype(np.float32) for array in arrays]
    for position, array in enumerate(values):
        if not np.isfinite(array).all():
            raise ValueError(
                f"picture {position} has values that are not finite: {int((~np.isfinite(array)).sum())} of {array.size}; "
                "look for the division or the logarithm that made them"
            )
    if mean is not None:
        values = [array * std + mean for array in values]
    scale = _scale(values, kind, mean is not None)
    return [np.clip(np.rint(array * scale), 0, 255).astype(np.uint8) for array in values]


def _scale(values: Sequence[npt.NDArray[Any]], kind: np.dtype[Any], undone: bool) -> float:
    """The factor to 0..255: 255 for pictures of 0 to 1."""
    low, high = min(float(array.min()) for array in values), max(float(array.max()) for array in values)
    if kind.kind in "ui" and not undone and low >= 0 and high <= 255:
        return 1.0
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return 255.0
    if low >= -_OVERSHOOT * 255 and _DARKEST_WHITE < high <= (1 + _OVERSHOOT) * 255 and low >= -_OVERSHOOT * high:
        return 1.0
    means = "with mean= and std= taken back they" if undone else "the pictures"
    remedy = (
        "give those that the images were normalised with"
        if undone
        else "were they normalised? Then give mean= and std=, as the normalisation had them"
    )
    raise ValueError(
        f"{means} have values from {low:.4g} to {high:.4g}, which is neither 0 to 1 nor 0 to 255; {remedy}"
    )
