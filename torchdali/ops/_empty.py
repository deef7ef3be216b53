"""What an operator would give to images, where a batch has none: the images of a whole batch may have been skipped.

Results of a size that does not depend on the images, as those of ``RandomResizedCrop(224)``, go on as one tensor, and what
takes that shall get one of the right shape, (0, 3, 224, 224), from an empty batch too. An operator is asked what it would do
to some images, large and small; what agrees in all results is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from torchdali.ops._context import BatchContext, batch_context
from torchdali.ops._steps import Sizes, Step
from torchdali.tensorlist import TensorList

__all__ = ["Extents", "like_none", "size_after", "size_of_none"]

Extents: TypeAlias = "tuple[int | None, ...]"
"""Channels, height and width; None for what is not known."""

_COUNT = 4
"""Images that are asked about at once; what is drawn differs among them."""

_CHANNELS = (3, 1, 4)
_SHAPES = ((1, 1), (300, 200), (40000, 60000), (60000, 40000))
"""Heights and widths of images that are asked about, where nothing is known of those that there could have been."""

_VALUES = (0.0, 1.0)
"""In place of the arguments that a call has for each of no images."""


def size_of_none(images: TensorList) -> Extents:
    """Of the images of an empty batch, as far as it is known."""
    sample = images._sample
    if sample is None or len(sample) != 3:
        return (None, None, None)
    return (sample[2], *sample[:2]) if images.layout == "HWC" else sample


def like_none(size: Extents, layout: str, dtype: torch.dtype, device: torch.device) -> TensorList:
    """An empty batch of images of a size."""
    return TensorList._empty((*size[1:], size[0]) if layout == "HWC" else size, layout, dtype, device)


def size_after(
    steps_of: Callable[..., Sequence[Step]], size: Extents, dtype: torch.dtype, arguments: Mapping[str, Any]
) -> Extents:
    """Of what steps would make of images of a size, as far as it does not depend on anything else.

    Args:
        steps_of: as :meth:`~torchdali.ops.StepwiseOperator.steps`.
        size: of the images.
        dtype: of the images.
        arguments: of the call.
    """
    channels = _CHANNELS if size[0] is None else (size[0],)
    shapes = {
        (height if size[1] is None else size[1], width if size[2] is None else size[2]) for height, width in _SHAPES
    }
    results = []
    for channel, shape, value in itertools.product(channels, sorted(shapes), _VALUES):
        sizes: Sizes = np.tile(np.array([channel, *shape], np.int64), (_COUNT, 1))
        # Nobody is to notice: draws are those of a batch of its own, which leaves torch's generator as it is.
        context = BatchContext(0, 0, 0, np.arange(_COUNT), torch.device("cpu"), num_threads=1)
        try:
            with batch_context(context):
                for step in steps_of(
                    sizes, dtype, **{name: _filled(given, value) for name, given in arguments.items()}
                ):
                    sizes = step.sizes(sizes)
        except Exception:  # an image that it would refuse
            continue
        results.append(sizes)
    if not results:
        return (None, None, None)
    rows = np.concatenate(results)
    return tuple(int(column[0]) if (column == column[0]).all() else None for column in rows.T)


def _filled(argument: Any, value: float) -> Any:
    """An argument for each of some images in place of one for each of none."""
    if isinstance(argument, (torch.Tensor, TensorList, np.ndarray)) and len(argument) == 0:
        shape = (0,) if isinstance(argument, TensorList) else argument.shape
        return np.full((_COUNT, *shape[1:]), value)
    return argument
