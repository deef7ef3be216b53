"""Operators that change colours, with DALI's names and arguments.

``images`` are outputs of other functions. An argument that is said to be *for each sample* is a number, or a node with a
value for each sample. ``device`` is where it is done, ``"cpu"`` or ``"gpu"``; by default where the images are. ``dtype`` is
that of the results, by default the images' unless it says otherwise; values are not rescaled between types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from torchdali.fn._call import Device, add_call
from torchdali.ops._arguments import Argument
from torchdali.ops._brightness_contrast import BrightnessContrast
from torchdali.ops._color_twist import ColorTwist, Hsv, Hue, Saturation
from torchdali.ops._crop import OutOfBounds
from torchdali.ops._crop_mirror_normalize import CropMirrorNormalize
from torchdali.ops._geometry_arguments import Numbers
from torchdali.ops._normalize import Normalize
from torchdali.pipeline import DataNode

__all__ = [
    "brightness",
    "brightness_contrast",
    "color_twist",
    "contrast",
    "crop_mirror_normalize",
    "hsv",
    "hue",
    "normalize",
    "saturation",
]


def _split(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, DataNode]]:
    """Arguments for a module's constructor, and those for its calls, which are nodes."""
    nodes = {name: value for name, value in arguments.items() if isinstance(value, DataNode)}
    return {name: value for name, value in arguments.items() if name not in nodes}, nodes


def brightness_contrast(
    images: DataNode,
    *,
    brightness: DataNode | Argument = 1.0,
    brightness_shift: DataNode | Argument = 0.0,
    contrast: DataNode | Argument = 1.0,
    contrast_center: DataNode | Argument | None = None,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Change brightness and contrast: see :class:`torchdali.ops.BrightnessContrast`.

    Args:
        images: see the module.
        brightness, brightness_shift, contrast, contrast_center: as there, for each sample.
        dtype, device: see the module.
    """
    given, nodes = _split(
        {
            "brightness": brightness,
            "brightness_shift": brightness_shift,
            "contrast": contrast,
            "contrast_center": contrast_center,
        }
    )
    return add_call("brightness_contrast", BrightnessContrast(**given, dtype=dtype), images, device, nodes)


def brightness(
    images: DataNode,
    *,
    brightness: DataNode | Argument = 1.0,
    brightness_shift: DataNode | Argument = 0.0,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Change brightness: :func:`brightness_contrast` without contrast.

    Args:
        images: see the module.
        brightness, brightness_shift: as there, for each sample.
        dtype, device: see the module.
    """
    given, nodes = _split({"brightness": brightness, "brightness_shift": brightness_shift})
    return add_call("brightness", BrightnessContrast(**given, dtype=dtype), images, device, nodes)


def contrast(
    images: DataNode,
    *,
    contrast: DataNode | Argument = 1.0,
    contrast_center: DataNode | Argument | None = None,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Change contrast: :func:`brightness_contrast` without brightness.

    Args:
        images: see the module.
        contrast, contrast_center: as there, for each sample.
        dtype, device: see the module.
    """
    given, nodes = _split({"contrast": contrast, "contrast_center": contrast_center})
    return add_call("contrast", BrightnessContrast(**given, dtype=dtype), images, device, nodes)


def color_twist(
    images: DataNode,
    *,
    brightness: DataNode | Argument = 1.0,
    contrast: DataNode | Argument = 1.0,
    hue: DataNode | Argument = 0.0,
    saturation: DataNode | Argument = 1.0,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Change brightness, contrast, hue and saturation: see :class:`torchdali.ops.ColorTwist`.

    Args:
        images: see the module.
        brightness, contrast, saturation: factors, for each sample.
        hue: in degrees, for each sample.
        dtype, device: see the module.
    """
    given, nodes = _split({"brightness": brightness, "contrast": contrast, "hue": hue, "saturation": saturation})
    return add_call("color_twist", ColorTwist(**given, dtype=dtype), images, device, nodes)


def hsv(
    images: DataNode,
    *,
    hue: DataNode | Argument = 0.0,
    saturation: DataNode | Argument = 1.0,
    value: DataNode | Argument = 1.0,
    dtype: torch.dtype | None = torch.uint8,
    device: Device | None = None,
) -> DataNode:
    """Change hue, saturation and value: see :class:`torchdali.ops.Hsv`.

    Args:
        images: see the module.
        hue: in degrees, for each sample.
        saturation, value: factors, for each sample.
        dtype: of the results, uint8 by default as in DALI; None: the images'.
        device: see the module.
    """
    given, nodes = _split({"hue": hue, "saturation": saturation, "value": value})
    return add_call("hsv", Hsv(**given, dtype=dtype), images, device, nodes)


def hue(
    images: DataNode,
    *,
    hue: DataNode | Argument = 0.0,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Turn colours: see :class:`torchdali.ops.Hue`.

    Args:
        images: see the module.
        hue: in degrees, for each sample.
        dtype, device: see the module.
    """
    given, nodes = _split({"hue": hue})
    return add_call("hue", Hue(**given, dtype=dtype), images, device, nodes)


def saturation(
    images: DataNode,
    *,
    saturation: DataNode | Argument = 1.0,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
) -> DataNode:
    """Change saturation: see :class:`torchdali.ops.Saturation`.

    Args:
        images: see the module.
        saturation: a factor, for each sample.
        dtype, device: see the module.
    """
    given, nodes = _split({"saturation": saturation})
    return add_call("saturation", Saturation(**given, dtype=dtype), images, device, nodes)


def normalize(
    images: DataNode,
    *,
    batch: bool = False,
    mean: DataNode | Argument | None = None,
    stddev: DataNode | Argument | None = None,
    axes: Sequence[int] | None = None,
    axis_names: str | None = None,
    shift: float = 0.0,
    scale: float = 1.0,
    epsilon: float = 0.0,
    ddof: int = 0,
    dtype: torch.dtype | None = torch.float32,
    device: Device | None = None,
) -> DataNode:
    """Subtract a mean and divide by a standard deviation: see :class:`torchdali.ops.Normalize`.

    Args:
        images: see the module.
        batch, shift, scale, epsilon, ddof: as there.
        mean, stddev: a number, one for each channel, or a node; what is not given is computed from the images.
        axes: numbers of the dimensions that statistics are computed over; by default all.
        axis_names: their letters instead, such as ``"HW"``.
        dtype: of the results, float32 by default; None: the images'.
        device: see the module.

    Raises:
        ValueError: ``axes`` and ``axis_names`` were both given.
    """
    if axes is not None and axis_names is not None:
        raise ValueError(f"axes={axes!r} and axis_names={axis_names!r} exclude each other; give one of them")
    given, nodes = _split({"mean": mean, "std": stddev})
    module = Normalize(
        **given,
        scale=scale,
        shift=shift,
        dtype=dtype,
        axes="CHW" if axes is None and axis_names is None else axis_names or axes or "",
        batch=batch,
        epsilon=epsilon,
        ddof=ddof,
    )
    return add_call("normalize", module, images, device, nodes)


def crop_mirror_normalize(
    images: DataNode,
    *,
    crop: DataNode | Numbers | None = None,
    crop_h: float = 0.0,
    crop_w: float = 0.0,
    crop_pos_x: DataNode | Argument = 0.5,
    crop_pos_y: DataNode | Argument = 0.5,
    mirror: DataNode | Argument = 0,
    mean: DataNode | Argument = 0.0,
    std: DataNode | Argument = 1.0,
    scale: float = 1.0,
    shift: float = 0.0,
    dtype: torch.dtype | None = torch.float32,
    output_layout: Literal["CHW", "HWC"] | None = "CHW",
    pad_output: bool = False,
    fill_values: float | tuple[float, ...] = 0.0,
    out_of_bounds_policy: OutOfBounds = "error",
    rounding: Literal["round", "truncate"] = "round",
    device: Device | None = None,
) -> DataNode:
    """Crop, mirror, normalise and change the layout: see :class:`torchdali.ops.CropMirrorNormalize`.

    Args:
        images: see the module.
        crop: (height, width) of the window; by default there is no crop.
        crop_h, crop_w: its height and width instead; 0 is the image's.
        crop_pos_x, crop_pos_y: where it lies, 0 to 1, for each sample.
        mirror: not 0: flip left to right, for each sample.
        mean, std: a number, one for each channel, or a node.
        scale, shift, output_layout, pad_output, fill_values, out_of_bounds_policy, rounding: as there.
        dtype: of the results, float32 by default; None: the images'.
        device: see the module.

    Raises:
        ValueError: ``crop`` was given and ``crop_h`` or ``crop_w`` too.
    """
    if crop_h or crop_w:
        if crop is not None:
            raise ValueError(f"crop={crop!r} and crop_h={crop_h!r}, crop_w={crop_w!r} exclude each other; give one")
        crop = (crop_h, crop_w)
    given, nodes = _split(
        {
            "crop": crop,
            "crop_pos_x": crop_pos_x,
            "crop_pos_y": crop_pos_y,
            "mirror": mirror,
            "mean": mean,
            "std": std,
        }
    )
    module = CropMirrorNormalize(
        **given,
        scale=scale,
        shift=shift,
        dtype=dtype,
        output_layout=output_layout,
        pad_output=pad_output,
        fill_values=fill_values,
        out_of_bounds_policy=out_of_bounds_policy,
        rounding=rounding,
    )
    return add_call("crop_mirror_normalize", module, images, device, nodes)
