"""Several operators as one."""

from __future__ import annotations

from typing import Any

import torch

from torchdali.ops._operator import ImageOperator, StepwiseOperator
from torchdali.ops._steps import Sizes, Step
from torchdali.ops._uncompiled import uncompiled
from torchdali.tensorlist import TensorList

__all__ = ["Fused"]


class Fused(StepwiseOperator):
    """Operators on images, one after the other, in as few launches as possible.

    The result is that of ``nn.Sequential`` of the same operators, also where integers are rounded on the way. On the GPU
    what lies between the operators is not written to memory: a crop, resize, rotation or blur and the changes of colour
    that follow it are one launch for the whole batch, up to three of them::

        Fused(
            RandomResizedCrop(224),
            Flip(horizontal=CoinFlip()),
            BrightnessContrast(contrast=Uniform(0.6, 1.4)),
            Normalize(mean, std, dtype=torch.float16),
            channels_last=True,
        )

    Args:
        operators: at least one.
        channels_last: whether the channels of the results lie side by side in memory, as convolutions on tensor cores want
            it; the layout, which is the order of the dimensions, stays. None: as it comes.

    Raises:
        TypeError: something is no operator on images.
    """

    def __init__(self, *operators: ImageOperator, channels_last: bool | None = None) -> None:
        super().__init__()
        if not operators:
            raise TypeError("Fused needs at least one operator on images: Fused(Resize(256), Crop(224)), say")
        for position, operator in enumerate(operators):
            if not isinstance(operator, ImageOperator):
                raise TypeError(
                    f"operator {position} of Fused is a {type(operator).__name__}; what can be fused are the operators on images "
                    "of torchdali.ops (decode before, and use nn.Sequential for anything else)"
                )
            self.add_module(str(position), operator)
        self.channels_last = channels_last

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return "" if self.channels_last is None else f"channels_last={self.channels_last}"

    def steps(self, sizes: Sizes, dtype: torch.dtype, **arguments: Any) -> list[Step]:
        """Those of all operators; there are no further arguments."""
        steps: list[Step] = []
        for operator in self.children():
            assert isinstance(operator, ImageOperator)
            for step in operator.steps(sizes, dtype):
                steps.append(step)
                sizes, dtype = step.sizes(sizes), step.dtype(dtype)
        return steps

    @uncompiled
    def forward(self, images: TensorList | torch.Tensor) -> TensorList | torch.Tensor:
        """Apply all operators to a batch.

        Args:
            images: N images of shape (C, H, W), or (H, W, C) where the layout says so, or a tensor of shape (N, C, H, W).

        Returns:
            A TensorList of the same layout; a tensor if a tensor was given.
        """
        return self._apply_steps(images, {}, channels_last=self.channels_last)
