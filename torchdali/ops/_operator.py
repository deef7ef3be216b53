"""The bases of operators on batches."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from torchdali.ops._execute import execute, image_sizes
from torchdali.ops._steps import Sizes, Step
from torchdali.ops._uncompiled import uncompiled
from torchdali.tensorlist import TensorList

__all__ = ["ImageOperator", "Operator"]


class Operator(nn.Module):
    """A module whose ``forward`` takes and returns batches: a :class:`~torchdali.TensorList`, or a tensor (N, ...).

    A pipeline hands batches to operators as they are; to any other module it hands tensors.
    """


class ImageOperator(Operator):
    """An operator on images that can be fused with its neighbours: it says what it does as a :class:`Step`."""

    @abstractmethod
    def step(self, sizes: Sizes, dtype: torch.dtype, **arguments: Any) -> Step:
        """What is to be done to a batch.

        Args:
            sizes: of the images, (N, 3): channels, height, width.
            dtype: of the images.
            arguments: of this call, instead of the module's own.
        """

    def steps(self, sizes: Sizes, dtype: torch.dtype, **arguments: Any) -> list[Step]:
        """:meth:`step`, or several of them, one after the other."""
        return [self.step(sizes, dtype, **arguments)]

    @uncompiled
    def forward(self, images: TensorList | torch.Tensor, **arguments: Any) -> TensorList | torch.Tensor:
        """Apply to a batch.

        Args:
            images: N images of shape (C, H, W), or (H, W, C) where the layout says so, or a tensor of shape (N, C, H, W).
            arguments: instead of the module's own, each one value for all images or one for each.

        Returns:
            A TensorList of the same layout; a tensor if a tensor was given.
        """
        name = type(self).__name__
        batch = TensorList.from_batch(images)
        steps = self.steps(image_sizes(batch, name), batch.dtype, **arguments)
        results = execute(steps, batch, name)
        return results if isinstance(images, TensorList) else results.as_tensor()
