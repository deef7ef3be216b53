"""Image decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch

from torchdali.ops import Argument, DecodeCrop, DecodeImage, DecodeRandomCrop, DecodeSlice, Operator
from torchdali.pipeline import DataNode, current_trace
from torchdali.tensorlist import TensorList
from torchdali.types import BGR, RGB, DALIImageType

__all__ = ["image", "image_crop", "image_random_crop", "image_slice"]

Device: TypeAlias = Literal["cpu", "mixed", "gpu"]


class ReverseChannels(Operator):
    """RGB images of shape (H, W, 3) become BGR."""

    def forward(self, images: TensorList) -> TensorList:
        """The images with their last dimension reversed."""
        return images.map(lambda image: image.flip(-1))


def _options(name: str, device: str, output_type: object, adjust_orientation: bool) -> dict[str, Any]:
    if device not in ("cpu", "mixed", "gpu"):
        raise ValueError(f'fn.decoders.{name} has no device {device!r}; it is "cpu" or "mixed"')
    if not isinstance(output_type, DALIImageType):
        raise TypeError(
            f"output_type is {output_type!r}; it is types.RGB or types.GRAY, also types.BGR or types.ANY_DATA"
        )
    return {
        "mode": "RGB" if output_type is BGR else output_type.value,
        "layout": "HWC",
        "device": "cpu" if device == "cpu" else None,
        "apply_exif_orientation": adjust_orientation,
    }


def _call(name: str, module: DecodeImage, files: DataNode, output_type: DALIImageType, **nodes: DataNode) -> DataNode:
    trace = current_trace(f"decoders.{name}")
    decoded = trace.call(f"decoders.{name}", module, files, **nodes)
    return trace.call(f"decoders.{name}.bgr", ReverseChannels(), decoded) if output_type is BGR else decoded


def image(
    files: DataNode,
    *,
    device: Device = "cpu",
    output_type: DALIImageType = RGB,
    adjust_orientation: bool = True,
    use_fast_idct: bool | None = None,
    hw_decoder_load: float | None = None,
    affine: bool | None = None,
    preallocate_width_hint: int | None = None,
    preallocate_height_hint: int | None = None,
) -> DataNode:
    """Decode files to uint8 images of shape (H, W, C): see :class:`torchdali.ops.DecodeImage`.

    Args:
        files: whole files (JPEG, PNG, WebP, GIF, AVIF), one-dimensional uint8, in CPU memory.
        device: ``"mixed"``: on the pipeline's device. ``"cpu"``: on the CPU, where the images stay.
        output_type: ``types.RGB``, ``types.BGR``, ``types.GRAY``, or ``types.ANY_DATA`` for the channels that are stored.
        adjust_orientation: turn images upright as their Exif orientation says.
        use_fast_idct, hw_decoder_load, affine, preallocate_width_hint, preallocate_height_hint: DALI's tuning; no effect.
    """
    module = DecodeImage(**_options("image", device, output_type, adjust_orientation))
    return _call("image", module, files, output_type)


def image_random_crop(
    files: DataNode,
    *,
    device: Device = "cpu",
    output_type: DALIImageType = RGB,
    random_area: Sequence[float] = (0.08, 1.0),
    random_aspect_ratio: Sequence[float] = (0.75, 1.333333),
    num_attempts: int = 10,
    seed: int | None = None,
    adjust_orientation: bool = True,
    use_fast_idct: bool | None = None,
    hw_decoder_load: float | None = None,
    affine: bool | None = None,
    preallocate_width_hint: int | None = None,
    preallocate_height_hint: int | None = None,
) -> DataNode:
    """Decode files and crop a random part of each: see :class:`torchdali.ops.DecodeRandomCrop`.

    Args:
        files, device, output_type, adjust_orientation: as of :func:`image`.
        random_area: lowest and highest share of the image's area.
        random_aspect_ratio: lowest and highest width divided by height.
        num_attempts: windows that are tried before one is taken that fits in any case.
        seed: instead of the pipeline's; None or DALI's -1: the pipeline's.
        use_fast_idct, hw_decoder_load, affine, preallocate_width_hint, preallocate_height_hint: DALI's tuning; no effect.
    """
    module = DecodeRandomCrop(
        _pair("random_area", random_area),
        _pair("random_aspect_ratio", random_aspect_ratio),
        attempts=num_attempts,
        seed=None if seed == -1 else seed,
        **_options("image_random_crop", device, output_type, adjust_orientation),
    )
    return _call("image_random_crop", module, files, output_type)


def image_crop(
    files: DataNode,
    *,
    crop: int | Sequence[int],
    crop_pos_x: DataNode | Argument = 0.5,
    crop_pos_y: DataNode | Argument = 0.5,
    device: Device = "cpu",
    output_type: DALIImageType = RGB,
    adjust_orientation: bool = True,
    use_fast_idct: bool | None = None,
    hw_decoder_load: float | None = None,
) -> DataNode:
    """Decode files and crop a part of one size from each: see :class:`torchdali.ops.DecodeCrop`.

    Args:
        files, device, output_type, adjust_orientation: as of :func:`image`.
        crop: height and width in pixels; one number for both.
        crop_pos_x, crop_pos_y: place of the part, 0 at the left and top, 1 at the right and bottom; numbers or nodes.
        use_fast_idct, hw_decoder_load: DALI's tuning; no effect.
    """
    nodes = {
        key: value
        for key, value in (("position_y", crop_pos_y), ("position_x", crop_pos_x))
        if isinstance(value, DataNode)
    }
    own_y, own_x = (0.5 if isinstance(value, DataNode) else value for value in (crop_pos_y, crop_pos_x))
    size = crop if isinstance(crop, int) else _pair("crop", crop)
    module = DecodeCrop(size, (own_y, own_x), **_options("image_crop", device, output_type, adjust_orientation))
    return _call("image_crop", module, files, output_type, **nodes)


def image_slice(
    files: DataNode,
    *,
    start: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    rel_start: Sequence[float] | None = None,
    rel_shape: Sequence[float] | None = None,
    axis_names: Literal["WH", "HW"] = "WH",
    device: Device = "cpu",
    output_type: DALIImageType = RGB,
    adjust_orientation: bool = True,
    use_fast_idct: bool | None = None,
    hw_decoder_load: float | None = None,
) -> DataNode:
    """Decode files and cut the same part out of each: see :class:`torchdali.ops.DecodeSlice`.

    Args:
        files, device, output_type, adjust_orientation: as of :func:`image`.
        start, shape: of the part, in pixels.
        rel_start, rel_shape: instead of both, as shares of width and height.
        axis_names: which of the two numbers is which.
        use_fast_idct, hw_decoder_load: DALI's tuning; no effect.
    """
    if axis_names not in ("WH", "HW"):
        raise ValueError(f'axis_names is {axis_names!r}; it is "WH" or "HW"')
    pixels, shares = (start, shape), (rel_start, rel_shape)
    given = [pair for pair in (pixels, shares) if pair != (None, None)]
    if len(given) != 1 or None in given[0]:
        raise ValueError(
            "fn.decoders.image_slice takes either start and shape, in pixels, or rel_start and rel_shape, as shares of the "
            f"image; it was given start={start!r}, shape={shape!r}, rel_start={rel_start!r}, rel_shape={rel_shape!r}"
        )
    first, second = (_pair("start and shape", values) for values in given[0] if values is not None)
    if axis_names == "WH":
        first, second = first[::-1], second[::-1]
    module = DecodeSlice(
        first,
        second,
        normalized=given[0] is shares,
        **_options("image_slice", device, output_type, adjust_orientation),
    )
    return _call("image_slice", module, files, output_type)


def _pair(name: str, values: Sequence[Any]) -> tuple[Any, Any]:
    if isinstance(values, (DataNode, torch.Tensor)) or len(values) != 2:
        raise ValueError(f"{name} is {values!r}; it is two numbers")
    return values[0], values[1]
