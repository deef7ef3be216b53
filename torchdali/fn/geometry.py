"""Operators that move pixels, with DALI's names and arguments.

``images`` are outputs of other functions. An argument that is said to be *for each sample* is a number, or a node with a
value for each sample. ``device`` is where it is done, ``"cpu"`` or ``"gpu"``; by default where the images are. ``dtype`` is
that of the results, by default the images'. A fill value is a number, or one for each channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from torchdali.fn._call import Device, add_call, filter_name, without_nodes
from torchdali.ops._crop import Crop, OutOfBounds
from torchdali.ops._erase_operator import Erase
from torchdali.ops._flip import Flip
from torchdali.ops._gaussian_blur import GaussianBlur
from torchdali.ops._geometry_arguments import Numbers
from torchdali.ops._pad import Pad
from torchdali.ops._random_resized_crop import RandomResizedCrop
from torchdali.ops._resize import Resize, ResizeMode
from torchdali.ops._rotate import Rotate, WarpAffine
from torchdali.pipeline import DataNode
from torchdali.types import INTERP_LINEAR, DALIInterpType

__all__ = [
    "crop",
    "erase",
    "flip",
    "gaussian_blur",
    "pad",
    "random_resized_crop",
    "resize",
    "rotate",
    "warp_affine",
]

Fill = float | Sequence[float]


def resize(
    images: DataNode,
    *,
    size: DataNode | Numbers | None = None,
    resize_x: DataNode | Numbers | None = None,
    resize_y: DataNode | Numbers | None = None,
    resize_shorter: DataNode | Numbers | None = None,
    resize_longer: DataNode | Numbers | None = None,
    mode: ResizeMode = "default",
    max_size: float | tuple[float, float] | None = None,
    interp_type: DALIInterpType | str = INTERP_LINEAR,
    antialias: bool = True,
    subpixel_scale: Literal[False] | None = None,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Resize: see :class:`torchdali.ops.Resize`.

    Args:
        images: see the module.
        size, resize_x, resize_y, resize_shorter, resize_longer: exactly one way of giving the size, for each sample.
        mode, max_size, antialias: as there.
        interp_type: one of ``types.INTERP_*``, or a filter's name.
        subpixel_scale: False: the whole image becomes the whole result. DALI by default cuts off or adds the parts of a pixel
            that rounding the size costs, which is not done here.
        dtype, device: see the module.
    """
    if subpixel_scale:
        raise ValueError("subpixel_scale=True cuts the image by parts of a pixel, which is not done here; leave it out")
    given, nodes = without_nodes(
        {
            "size": size,
            "resize_x": resize_x,
            "resize_y": resize_y,
            "resize_shorter": resize_shorter,
            "resize_longer": resize_longer,
        }
    )
    name, antialias = filter_name(interp_type, antialias)
    module = Resize(**given, mode=mode, max_size=max_size, filter=name, antialias=antialias, dtype=dtype)
    return add_call("resize", module, images, device, nodes)


def crop(
    images: DataNode,
    *,
    crop: Sequence[float] | DataNode | None = None,
    crop_h: DataNode | float = 0.0,
    crop_w: DataNode | float = 0.0,
    crop_pos_x: DataNode | Numbers = 0.5,
    crop_pos_y: DataNode | Numbers = 0.5,
    out_of_bounds_policy: OutOfBounds = "error",
    fill_values: Fill = 0.0,
    rounding: Literal["round", "truncate"] = "round",
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Cut out a window: see :class:`torchdali.ops.Crop`.

    Args:
        images: see the module.
        crop: (height, width) of the window.
        crop_h, crop_w: its height and width instead, for each sample; 0 is the image's.
        crop_pos_x, crop_pos_y: where it lies, 0 to 1, for each sample.
        out_of_bounds_policy, fill_values, rounding: as there.
        dtype, device: see the module.

    Raises:
        TypeError: ``crop`` is given beside ``crop_h`` or ``crop_w``.
    """
    sides = {"height": crop_h, "width": crop_w}
    nodes = {name: value for name, value in sides.items() if isinstance(value, DataNode)}
    size: Any = tuple(0 if name in nodes else value for name, value in sides.items())
    if crop is not None:
        if nodes or any(size):
            raise TypeError("crop excludes crop_h and crop_w: all say how large the window is; give one or the other")
        size = crop
    given, more = without_nodes({"size": size, "x": crop_pos_x, "y": crop_pos_y})
    module = Crop(**given, out_of_bounds=out_of_bounds_policy, fill=_fill(fill_values), rounding=rounding, dtype=dtype)
    return add_call("crop", module, images, device, nodes | more)


def random_resized_crop(
    images: DataNode,
    *,
    size: DataNode | Numbers,
    random_area: Sequence[float] = (0.08, 1.0),
    random_aspect_ratio: Sequence[float] = (3 / 4, 4 / 3),
    num_attempts: int = 10,
    interp_type: DALIInterpType | str = INTERP_LINEAR,
    antialias: bool = True,
    seed: int | None = None,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Cut out a random window and resize it: see :class:`torchdali.ops.RandomResizedCrop`.

    Args:
        images: see the module.
        size: of the results, for each sample.
        random_area: lowest and highest share of the image's area.
        random_aspect_ratio: lowest and highest width divided by height.
        num_attempts: windows that are tried.
        interp_type: one of ``types.INTERP_*``, or a filter's name.
        antialias: as of :func:`resize`.
        seed: of the windows, instead of the pipeline's.
        dtype, device: see the module.
    """
    given, nodes = without_nodes({"size": size})
    name, antialias = filter_name(interp_type, antialias)
    area: Any = tuple(random_area)
    aspect_ratio: Any = tuple(random_aspect_ratio)
    module = RandomResizedCrop(
        **given,
        area=area,
        aspect_ratio=aspect_ratio,
        attempts=num_attempts,
        filter=name,
        antialias=antialias,
        dtype=dtype,
        seed=seed,
    )
    return add_call("random_resized_crop", module, images, device, nodes)


def flip(
    images: DataNode,
    *,
    horizontal: DataNode | Numbers = 1,
    vertical: DataNode | Numbers = 0,
    device: Device | None = None,
) -> DataNode:
    """Flip left to right and top to bottom, each 0 or 1 for each sample: see :class:`torchdali.ops.Flip`."""
    given, nodes = without_nodes({"horizontal": horizontal, "vertical": vertical})
    return add_call("flip", Flip(**given), images, device, nodes)


def rotate(
    images: DataNode,
    *,
    angle: DataNode | Numbers,
    size: DataNode | Numbers | None = None,
    keep_size: bool = False,
    fill_value: Fill | None = None,
    interp_type: DALIInterpType | str = INTERP_LINEAR,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Rotate by ``angle`` degrees counter-clockwise, for each sample: see :class:`torchdali.ops.Rotate`."""
    given, nodes = without_nodes({"angle": angle, "size": size})
    fill, name = None if fill_value is None else _fill(fill_value), filter_name(interp_type)[0]
    module = Rotate(**given, keep_size=keep_size, fill=fill, filter=name, dtype=dtype)
    return add_call("rotate", module, images, device, nodes)


def warp_affine(
    images: DataNode,
    matrix: DataNode | Numbers,
    *,
    size: DataNode | Numbers | None = None,
    inverse_map: bool = True,
    fill_value: Fill | None = None,
    interp_type: DALIInterpType | str = INTERP_LINEAR,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Map by affine transformations: see :class:`torchdali.ops.WarpAffine`.

    ``matrix`` is 2 x 3, or a node with one for each sample; in DALI too it is given as the second input or by name.
    """
    given, nodes = without_nodes({"matrix": matrix, "size": size})
    fill, name = None if fill_value is None else _fill(fill_value), filter_name(interp_type)[0]
    module = WarpAffine(**given, inverse_map=inverse_map, fill=fill, filter=name, dtype=dtype)
    return add_call("warp_affine", module, images, device, nodes)


def gaussian_blur(
    images: DataNode,
    *,
    sigma: DataNode | Numbers | None = None,
    window_size: DataNode | Numbers | None = None,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Blur, with ``sigma`` or ``window_size`` in pixels for each sample: see :class:`torchdali.ops.GaussianBlur`."""
    given, nodes = without_nodes({"sigma": sigma, "window_size": window_size})
    return add_call("gaussian_blur", GaussianBlur(**given, dtype=dtype), images, device, nodes)


def pad(
    images: DataNode,
    *,
    fill_value: Fill = 0.0,
    axis_names: str = "HW",
    shape: DataNode | Numbers | None = None,
    align: float | Sequence[float] = 1,
    device: Device | None = None,
) -> DataNode:
    """Pad below and to the right: see :class:`torchdali.ops.Pad`.

    Args:
        images: see the module.
        fill_value: see the module.
        axis_names: the axes to pad: ``"HW"``, ``"H"`` or ``"W"``; ``"WH"`` changes the order of ``shape`` and ``align``.
        shape: least extent of each of these axes; -1: the largest of the batch, as by default.
        align: the extents of these axes become multiples of it; one number, or one for each axis.
        device: see the module.

    Raises:
        ValueError: there are no such axes, or ``shape`` or ``align`` has another number of values.
        TypeError: ``shape`` is a node and the axes are not ``"HW"``.
    """
    if axis_names not in ("HW", "WH", "H", "W"):
        raise ValueError(f"axis_names is {axis_names!r}; images are padded along 'HW', 'WH', 'H' or 'W'")
    if isinstance(shape, DataNode) and axis_names != "HW":
        raise TypeError(
            f"shape is a node, which gives height and width; axis_names is {axis_names!r}; leave it out, or give shape as numbers"
        )
    size = -1 if shape is None else shape
    if not isinstance(size, DataNode):
        size = _by_axis(size, axis_names, "shape", 0)
    given, nodes = without_nodes({"size": size})
    module = Pad(**given, fill=_fill(fill_value), align=_by_axis(align, axis_names, "align", 1))
    return add_call("pad", module, images, device, nodes)


def erase(
    images: DataNode,
    *,
    anchor: DataNode | Numbers,
    shape: DataNode | Numbers,
    axis_names: Literal["HW", "WH", "H", "W"] = "HW",
    fill_value: Fill = 0.0,
    normalized: bool = False,
    normalized_anchor: bool | None = None,
    normalized_shape: bool | None = None,
    centered_anchor: bool = False,
    device: Device | None = None,
) -> DataNode:
    """Set rectangles to a value: see :class:`torchdali.ops.Erase`.

    Args:
        images: see the module.
        anchor, shape: of the rectangles, one after the other, for each sample.
        axis_names: what their values mean, in order; along an axis that is not named a rectangle is as long as the image.
        fill_value: see the module.
        normalized: both are shares of the image's extents.
        normalized_anchor, normalized_shape: either of them is.
        centered_anchor: anchors are the middles of rectangles.
        device: see the module.
    """
    given, nodes = without_nodes({"anchor": anchor, "shape": shape})
    if normalized and (normalized_anchor is not None or normalized_shape is not None):
        raise TypeError(
            "normalized excludes normalized_anchor and normalized_shape: it stands for both; give it alone, or these two"
        )
    shares = (normalized or bool(normalized_anchor), normalized or bool(normalized_shape))
    module = Erase(**given, fill=_fill(fill_value), axes=axis_names, normalized=shares, centered=centered_anchor)
    return add_call("erase", module, images, device, nodes)


def _fill(values: Fill) -> Any:
    return tuple(values) if isinstance(values, Sequence) else values


def _by_axis(values: Any, axis_names: str, name: str, rest: float) -> tuple[float, float]:
    """Height and width from values in the order of the axes; ``rest`` for an axis that is not named."""
    row = tuple(values) if isinstance(values, Sequence) else (values,) * len(axis_names)
    if len(row) != len(axis_names):
        raise ValueError(f"{name} is {values!r}; it is one number, or one for each of the axes {axis_names!r}")
    by_axis = dict(zip(axis_names, row, strict=True))
    return by_axis.get("H", rest), by_axis.get("W", rest)
