"""The bases of operators on batches."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from torchdali.ops._empty import Extents, like_none, size_after, size_of_none
from torchdali.ops._execute import execute, image_sizes, laid_out
from torchdali.ops._foresight import Result, Steps, hand, is_ours
from torchdali.ops._steps import Sizes, Step
from torchdali.ops._uncompiled import uncompiled
from torchdali.tensorlist import TensorList

__all__ = ["ImageOperator", "Operator", "StepwiseOperator"]


class Operator(nn.Module):
    """A module whose ``forward`` takes and returns batches: a :class:`~torchdali.TensorList`, or a tensor (N, ...).

    A pipeline hands batches to operators as they are; to any other module it hands tensors.
    """


class StepwiseOperator(Operator):
    """An operator on images that says what it does as :class:`Step` s."""

    @abstractmethod
    def steps(self, sizes: Sizes, dtype: torch.dtype, **arguments: Any) -> list[Step]:
        """What is to be done to a batch, one after the other.

        Args:
            sizes: of the images, (N, 3): channels, height, width.
            dtype: of the images.
            arguments: of this call, instead of the module's own.
        """

    def _apply_steps(
        self,
        images: TensorList | torch.Tensor,
        arguments: dict[str, Any],
        *,
        channels_last: bool | None = None,
        layout: str | None = None,
    ) -> TensorList | torch.Tensor:
        """Decide what is to be done to a batch, or find it decided, and do it.

        Args:
            images, arguments: of the call.
            channels_last: as of :func:`~torchdali.ops._execute.execute`.
            layout: of the results; None: that of the images.

        Returns:
            A TensorList; a tensor if a tensor was given.
        """
        name = type(self).__name__
        batch = TensorList.from_batch(images)
        sizes = image_sizes(batch, name)
        call = hand(self, images, arguments, Result)
        known = None if call is None else call.steps(sizes, batch.dtype)
        if known is None:
            known = Steps(sizes, batch.dtype, self.steps(sizes, batch.dtype, **arguments))
        results = execute(known.steps, batch, name, channels_last=channels_last, parts=known.parts)
        if layout is not None:
            results = laid_out(results, batch.layout or "CHW", layout)
        if not len(batch):
            results = self._none(batch, arguments, results)
        output = results if isinstance(images, TensorList) else results.as_tensor()
        if call is not None:
            call.gave(output)
        return output

    def _none(self, images: TensorList, arguments: dict[str, Any], results: TensorList) -> TensorList:
        """The results for an empty batch, which know the size that they would have."""
        known: Extents = (None, None, None)
        if is_ours(self):  # others may mind being asked
            known = size_after(self.steps, size_of_none(images), images.dtype, arguments)
        return like_none(known, results.layout, results.dtype, results.device)


class ImageOperator(StepwiseOperator):
    """An operator on images that can be fused with its neighbours."""

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
            A TensorList of the same layout; a tensor if a tensor was given. Where an image stays as it is, what is returned
            may share its memory on the CPU.
        """
        return self._apply_steps(images, arguments)
