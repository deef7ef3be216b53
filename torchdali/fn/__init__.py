"""Operators as functions, with DALI's names and arguments, for use in a function with ``@pipeline_def``.

Each call adds a module of :mod:`torchdali.ops` to the pipeline's graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

from torchdali.fn import decoders, random
from torchdali.ops import Argument, BrightnessContrast
from torchdali.pipeline import DataNode, current_trace
from torchdali.source import ExternalSource

__all__ = ["brightness_contrast", "decoders", "external_source", "random"]


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
    device: Literal["cpu", "gpu"] = "cpu",
    name: str | None = None,
) -> Any:
    """Data from Python: see :class:`torchdali.ExternalSource`, whose arguments these are, with DALI's defaults.

    Args:
        source, num_outputs, batch, batch_info, parallel, cycle, prefetch_queue_depth, bytes_per_sample_hint, name: as there.
        no_copy: True or None; data is never copied on its way from the workers.
        device: ``"gpu"`` moves the outputs to the pipeline's device.

    Returns:
        A node; a list of ``num_outputs`` nodes if that is given.
    """
    trace = current_trace("external_source")
    if source is None:
        raise ValueError("fn.external_source needs a source: a callable, an iterable or a generator function")
    if no_copy is False and parallel:
        raise ValueError("no_copy=False does not go with parallel=True: what workers write is not copied")
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
        )
    )
    if device == "cpu":
        return outputs
    return outputs.gpu() if isinstance(outputs, DataNode) else [output.gpu() for output in outputs]


def brightness_contrast(
    images: DataNode,
    *,
    brightness: DataNode | Argument = 1.0,
    brightness_shift: DataNode | Argument = 0.0,
    contrast: DataNode | Argument = 1.0,
    contrast_center: DataNode | Argument | None = None,
    dtype: torch.dtype | None = None,
    device: Literal["cpu", "gpu"] | None = None,
) -> DataNode:
    """Change brightness and contrast: see :class:`torchdali.ops.BrightnessContrast`.

    Each argument is a number or a node with one value a sample. ``device`` is where it is done; by default where the images
    are.
    """
    given = {
        "brightness": brightness,
        "brightness_shift": brightness_shift,
        "contrast": contrast,
        "contrast_center": contrast_center,
    }
    nodes = {key: value for key, value in given.items() if isinstance(value, DataNode)}
    module = BrightnessContrast(**{key: value for key, value in given.items() if key not in nodes}, dtype=dtype)  # type: ignore[arg-type]
    trace = current_trace("brightness_contrast")
    if device is not None and isinstance(images, DataNode):
        _check_device("brightness_contrast", device, ("cpu", "gpu"))
        images = images.gpu() if device == "gpu" else images.cpu()
    return trace.call("brightness_contrast", module, images, **nodes)


def _check_device(name: str, device: str, allowed: tuple[str, ...]) -> None:
    if device not in allowed:
        raise ValueError(f"fn.{name} has no device {device!r}; it is one of {', '.join(allowed)}")
