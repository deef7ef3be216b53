"""Operators as functions, with DALI's names and arguments, for use in a function with ``@pipeline_def``.

Each call adds a module of :mod:`torchdali.ops` to the pipeline's graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from torchdali.fn import decoders, random
from torchdali.fn.colour import (
    brightness,
    brightness_contrast,
    color_twist,
    contrast,
    crop_mirror_normalize,
    hsv,
    hue,
    normalize,
    saturation,
)
from torchdali.fn.general import cast, one_hot
from torchdali.fn.geometry import (
    crop,
    erase,
    flip,
    gaussian_blur,
    pad,
    random_resized_crop,
    resize,
    rotate,
    warp_affine,
)
from torchdali.pipeline import DataNode, current_trace
from torchdali.source import ExternalSource

__all__ = [
    "brightness",
    "brightness_contrast",
    "cast",
    "color_twist",
    "contrast",
    "crop",
    "crop_mirror_normalize",
    "decoders",
    "erase",
    "external_source",
    "flip",
    "gaussian_blur",
    "hsv",
    "hue",
    "normalize",
    "one_hot",
    "pad",
    "random",
    "random_resized_crop",
    "resize",
    "rotate",
    "saturation",
    "warp_affine",
]


def external_source(
    source: Callable[..., Any] | Iterable[Any] | None = None,
    num_outputs: int | None = None,
    *,
    batch: bool = True,
    batch_info: bool = False,
    parallel: bool = False,
    cycle: bool | Literal["no", "quiet", "raise"] | None = None,
    prefetch_queue_depth: int | None = None,
    bytes_per_sample_hint: int | None = None,
    no_copy: bool | None = None,
    layout: str | Sequence[str] | None = None,
    device: Literal["cpu", "gpu"] = "cpu",
    name: str | None = None,
) -> Any:
    """Data from Python: see :class:`torchdali.ExternalSource`, whose arguments these are, with DALI's defaults.

    Args:
        source, num_outputs, batch, batch_info, parallel, cycle, prefetch_queue_depth, bytes_per_sample_hint, name: as there.
        no_copy: True or None; data is never copied on its way from the workers.
        layout: what the dimensions of samples are, one letter each, such as ``"HWC"`` for images whose channels come last. With
            ``num_outputs`` one for all outputs, or a list with one for each of the first outputs, "" for none. Images without
            one are (channels, height, width).
        device: ``"gpu"`` moves the outputs to the pipeline's device.

    Returns:
        A node; a list of ``num_outputs`` nodes if that is given.
    """
    trace = current_trace("external_source")
    if source is None:
        raise ValueError("fn.external_source needs a source: a callable, an iterable or a generator function")
    if no_copy is False and parallel:
        raise ValueError(
            "no_copy=False does not go with parallel=True: what workers write is not copied; leave no_copy out"
        )
    _check_device("external_source", device, ("cpu", "gpu"))
    outputs = trace.add_source(
        ExternalSource(
            source,
            num_outputs,
            batch=batch,
            batch_info=batch_info,
            parallel=parallel,
            cycle=cycle,
            prefetch_queue_depth=prefetch_queue_depth,
            bytes_per_sample_hint=bytes_per_sample_hint,
            name=name,
        ),
        _layouts(layout, num_outputs),
    )
    if device == "cpu":
        return outputs
    return outputs.gpu() if isinstance(outputs, DataNode) else [output.gpu() for output in outputs]


def _check_device(name: str, device: str, allowed: tuple[str, ...]) -> None:
    if device not in allowed:
        raise ValueError(f"fn.{name} has no device {device!r}; it is one of {', '.join(allowed)}")


def _layouts(layout: str | Sequence[str] | None, num_outputs: int | None) -> Sequence[str]:
    """Layouts of the first outputs of a source."""
    if layout is None or isinstance(layout, str):
        return [layout or ""] * (num_outputs or 1)
    if not isinstance(layout, (list, tuple)) or not all(isinstance(one, str) for one in layout):
        raise TypeError(f'layout is {layout!r}; it is letters such as "HWC", or a list of such, one for each output')
    if num_outputs is None or len(layout) > num_outputs:
        have = "one output, which is no list" if num_outputs is None else f"{num_outputs} outputs"
        raise ValueError(
            f"layout has {len(layout)} entries, but the source has {have}; give one for each, or one for all"
        )
    return layout
