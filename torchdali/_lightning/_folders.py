"""The usual pipelines of a folder of photographs."""

from __future__ import annotations

import os
from typing import Any

import torch

from torchdali import ops
from torchdali.pipeline import Pipeline
from torchdali.source import ExternalSource, JpegFolder
from torchdali.tensorlist import TensorList

__all__ = ["FolderPipeline"]

_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
"""Of ImageNet's training images, for values from 0 to 255."""


class FolderPipeline(Pipeline):
    """Photographs of a folder, as networks for ImageNet are trained and tested with them.

    Args:
        folder: see :class:`~torchdali.JpegFolder`.
        training: shuffled, cropped and mirrored at random; else in order, resized to 8/7 of the size and cropped in the middle.
        size: of the images, height and width in pixels.
        seed: of order and draws.
        **options: of :class:`~torchdali.Pipeline`.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, training: bool, size: int = 224, seed: int = 0, **options: Any
    ) -> None:
        source = ExternalSource(JpegFolder(folder, shuffle=training, seed=seed), num_outputs=2)
        super().__init__(source, seed=seed, **options)
        self.decode = ops.DecodeImage()
        normalize = ops.Normalize(_MEAN, _STD)
        if training:
            self.prepare = ops.Fused(ops.RandomResizedCrop(size), ops.Flip(horizontal=ops.CoinFlip()), normalize)
        else:
            self.prepare = ops.Fused(ops.Resize(resize_shorter=round(size * 8 / 7)), ops.Crop((size, size)), normalize)

    def forward(self, jpegs: TensorList, labels: TensorList) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, float32 (N, 3, size, size), and labels, int64 (N,)."""
        return self.prepare(self.decode(jpegs)).as_tensor(), labels.as_tensor()
