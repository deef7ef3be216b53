"""What an operator does to a batch of images, as data: the common language of operators and of what runs them.

An operator turns its arguments into a :class:`Step`, which holds one set of parameters for each image. A step says what
becomes of shapes and dtypes, and what becomes of an image: :meth:`Step.plain` is its definition, in ordinary tensor
operations, in the precision that is asked for. ``torchdali.ops._execute`` runs lists of steps: image by image with those
definitions on the CPU, and on the GPU several steps of the whole batch in one launch.

Images are views of shape (C, H, W) here, whatever their layout outside and in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["FLOATS", "INTEGERS", "WIDE", "Sizes", "Step", "convert", "full_range"]

Sizes: TypeAlias = npt.NDArray[np.int64]
"""(N, 3): channels, height and width of each image."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

WIDE = frozenset((torch.int32, torch.int64, torch.float64))
"""Types whose values float32 does not hold: what has to do with them is computed in double precision."""


class Step(ABC):
    """One thing that is done to each of N images."""

    @abstractmethod
    def sizes(self, sizes: Sizes) -> Sizes:
        """The sizes of the results for images of these sizes.

        Raises:
            ValueError: an image of such a size cannot be worked on; the message names it.
        """

    @abstractmethod
    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The type of the results for images of this type."""

    @abstractmethod
    def plain(self, image: torch.Tensor, position: int, precision: torch.dtype = torch.float32) -> torch.Tensor:
        """What becomes of one image.

        Args:
            image: of shape (C, H, W), any strides, any device.
            position: of the image in its batch, which says which parameters are its.
            precision: float32 or float64, of all that is computed; with float64 this is the definition of the operator.

        Returns:
            Of shape (C, H, W) and type ``dtype(image.dtype)``.
        """


def full_range(dtype: torch.dtype) -> float:
    """The largest value of an image of a type: 1 for floating point, the type's maximum for integers."""
    return 1.0 if dtype.is_floating_point else float(torch.iinfo(dtype).max)


def convert(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Floating-point values as a type: integers are rounded half to even and clamped, nothing is rescaled."""
    if dtype.is_floating_point:
        return values.to(dtype)
    limits = torch.iinfo(dtype)
    highest: Any = float(limits.max)
    if highest > 2.0**24 and values.dtype != torch.float64:
        values = values.to(torch.float64)
    elif values.dtype.itemsize < 4:  # the maximum of int16 is no number of theirs: it would be one more
        values = values.to(torch.float32)
    if dtype == torch.int64:  # its maximum has no double: what would round beyond it is cut before
        highest = float(np.nextafter(highest, 0.0))
    return values.round().clamp(float(limits.min), highest).to(dtype)
