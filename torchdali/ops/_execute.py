"""Runs steps on batches: image by image on the CPU, in few launches on the GPU."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from torchdali.ops._groups import Part, parts_of
from torchdali.ops._plainly import plainly
from torchdali.ops._steps import Sizes, Step
from torchdali.ops._threads import parallel_map
from torchdali.tensorlist import TensorList

__all__ = ["execute", "has_kernels", "image_sizes", "in_memory", "laid_out"]

_LAYOUTS = ("", "CHW", "HWC")


def _is_interleaved(layout: str) -> bool:
    if layout not in _LAYOUTS:
        raise ValueError(f'images have layout {layout!r}; an operator on images takes "CHW" or "HWC"')
    return layout == "HWC"


@plainly
def image_sizes(images: TensorList, name: str) -> Sizes:
    """Channels, height and width of each image, shape (N, 3).

    Raises:
        ValueError: something is no image of three dimensions; the message begins with ``name``, the operator's.
    """
    interleaved = _is_interleaved(images.layout)
    try:
        sizes = images.sizes
    except ValueError:  # dimensions differ
        sizes = np.empty((0, 0), np.int64)
    if len(images) and sizes.shape[1] != 3:
        position, shape = next((n, shape) for n, shape in enumerate(images.shape()) if len(shape) != 3)
        raise ValueError(
            f"{name} got a tensor of shape {tuple(shape)} as sample {position}; an image has three dimensions, "
            f"{images.layout or 'CHW'}"
        )
    sizes = sizes.reshape(-1, 3)
    return sizes[:, [2, 0, 1]] if interleaved else sizes


@functools.cache
def has_kernels(device_type: str) -> bool:
    """Whether there are kernels for devices of a type: with CUDA, where Triton is installed."""
    return device_type == "cuda" and importlib.util.find_spec("triton") is not None


def execute(
    steps: Sequence[Step],
    images: TensorList,
    name: str,
    *,
    channels_last: bool | None = None,
    parts: Sequence[Part] | None = None,
) -> TensorList:
    """What the steps make of the images, one after the other; the layout stays.

    Args:
        steps: at least one, with parameters for each image.
        images: three-dimensional; layout "CHW" (also taken for an unknown one) or "HWC".
        name: the operator's, for messages.
        channels_last: whether the results' channels lie side by side in memory, whatever their layout is called; None: as
            it comes.
        parts: of the steps for these images, if they are known.
    """
    sizes = image_sizes(images, name)
    if len(images) and has_kernels(images.device.type):
        from torchdali.ops._kernels import run

        return run(parts_of(steps, sizes, images.dtype) if parts is None else parts, images, channels_last)
    dtype = images.dtype
    for step in steps:
        sizes, dtype = step.sizes(sizes), step.dtype(dtype)
    interleaved = _is_interleaved(images.layout)

    def work(numbered: tuple[int, torch.Tensor]) -> torch.Tensor:
        position, image = numbered
        if interleaved:
            image = image.permute(2, 0, 1)
        for step in steps:
            image = step.plain(image, position)
        return image.permute(1, 2, 0) if interleaved else image

    items: list[Any] = list(enumerate(images))
    results = parallel_map(work, items) if images.device.type == "cpu" else [work(item) for item in items]
    batch = TensorList(results, images.layout, dtype=dtype, device=images.device)
    return batch if channels_last is None else in_memory(batch, channels_last=channels_last)


def in_memory(images: TensorList, *, channels_last: bool) -> TensorList:
    """The same images, their channels side by side in memory or in planes; one tensor where their sizes agree."""
    order = (1, 2, 0) if channels_last else (0, 1, 2)
    if images.layout == "HWC":
        order = (0, 1, 2) if channels_last else (2, 0, 1)
    back = [order.index(dim) for dim in range(3)]
    if len(images) and images.is_dense_tensor():
        block = torch.stack([image.permute(order) for image in images])
        return TensorList.from_batch(block.permute(0, *(dim + 1 for dim in back)), images.layout)
    return images.map(lambda image: image.permute(order).contiguous().permute(back), images.layout)


def laid_out(images: TensorList, layout: str, wanted: str) -> TensorList:
    """Views of images with their dimensions in another order."""
    if layout == wanted:
        order = (0, 1, 2)
    else:
        order = (2, 0, 1) if wanted == "CHW" else (1, 2, 0)
    if images.block is not None:
        return TensorList.from_batch(images.block.permute(0, *(dim + 1 for dim in order)), wanted)
    return TensorList([image.permute(order) for image in images], wanted, dtype=images.dtype, device=images.device)
