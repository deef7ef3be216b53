"""Image decoders."""

from __future__ import annotations

from typing import Literal

from torchdali.ops import DecodeImage
from torchdali.pipeline import DataNode, current_trace
from torchdali.types import RGB, DALIImageType

__all__ = ["image"]


def image(
    jpegs: DataNode,
    *,
    device: Literal["cpu", "mixed", "gpu"] = "cpu",
    output_type: DALIImageType = RGB,
    adjust_orientation: bool = True,
    use_fast_idct: bool | None = None,
    hw_decoder_load: float | None = None,
) -> DataNode:
    """Decode JPEGs to uint8 images of shape (H, W, C): see :class:`torchdali.ops.DecodeImage`.

    Args:
        jpegs: whole files, one-dimensional uint8, in CPU memory.
        device: ``"mixed"``: on the pipeline's device. ``"cpu"``: on the CPU, where the images stay.
        output_type: ``types.RGB`` or ``types.GRAY``.
        adjust_orientation: turn images upright as their Exif orientation says.
        use_fast_idct, hw_decoder_load: DALI's tuning; no effect.
    """
    if device not in ("cpu", "mixed", "gpu"):
        raise ValueError(f'fn.decoders.image has no device {device!r}; it is "cpu" or "mixed"')
    if not isinstance(output_type, DALIImageType):
        raise TypeError(f"output_type is {output_type!r}; it is types.RGB or types.GRAY")
    module = DecodeImage(
        output_type.value,
        "HWC",
        device="cpu" if device == "cpu" else None,
        apply_exif_orientation=adjust_orientation,
    )
    return current_trace("decoders.image").call("decoders.image", module, jpegs)
