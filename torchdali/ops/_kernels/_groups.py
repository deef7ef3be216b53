"""Which steps of a list go into one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from torchdali.ops._blur import Blur
from torchdali.ops._colour import Colour
from torchdali.ops._erase import Erase
from torchdali.ops._resample import Resample
from torchdali.ops._steps import Sizes, Step
from torchdali.ops._warp import Warp

__all__ = ["TYPES", "Group", "copies", "grouped", "supports"]

_COLOURS = 3
_EXTENT = 2**31
"""Elements that 32-bit arithmetic of addresses within an image can reach."""

TYPES = {
    torch.float32: 0,
    torch.uint8: 1,
    torch.int8: 2,
    torch.int16: 3,
    torch.float16: 4,
    torch.bfloat16: 5,
}
"""Numbers, in the kernels, of the types whose values float32 holds."""


class Group(NamedTuple):
    """Steps for one launch: where pixels come from, what becomes of their colours, what is erased."""

    head: Resample | Warp | Blur | None
    colours: tuple[Colour, ...] = ()
    erase: Erase | None = None

    @property
    def steps(self) -> list[Step]:
        """All of them, in order."""
        parts: list[Step | None] = [self.head, *self.colours, self.erase]
        return [step for step in parts if step is not None]


def copies(step: Resample | Warp | Blur | None) -> bool:
    """Whether each pixel of the result is one of the input."""
    if step is None:
        return True
    if not isinstance(step, Resample):
        return False
    return step.filter == "nearest" or bool((step.window[:, 2:] == step.size).all())


def grouped(steps: Sequence[Step]) -> list[Group]:
    """The steps in as few groups as possible."""
    groups: list[Group] = []
    for step in steps:
        last = groups[-1] if groups else None
        open_ = last is not None and last.erase is None
        if isinstance(step, Colour):
            if last is not None and open_ and len(last.colours) < _COLOURS:
                groups[-1] = last._replace(colours=(*last.colours, step))
            else:
                groups.append(Group(None, (step,)))
        elif isinstance(step, Erase):
            if last is not None and open_ and copies(last.head):
                groups[-1] = last._replace(erase=step)
            else:
                groups.append(Group(None, (), step))
        elif isinstance(step, (Resample, Warp, Blur)):
            groups.append(Group(step))
        else:
            raise TypeError(f"no kernel knows a step of type {type(step).__name__}")
    return groups


def supports(group: Group, stages: Sequence[tuple[Sizes, torch.dtype]]) -> bool:
    """Whether the kernels can do a group of steps; what they cannot, the plain definitions do.

    Args:
        group: the steps.
        stages: sizes and type of the images, and after each of the steps.
    """
    sizes = stages[0][0]
    if not len(sizes) or (sizes < 1).any():
        return False
    for stage, dtype in stages:
        if dtype not in TYPES or int(stage.prod(1).max()) >= _EXTENT:
            return False
    if any(colour.matrix.ndim == 3 and colour.matrix.shape[1:] != (3, 3) for colour in group.colours):
        return False
    if isinstance(group.head, (Resample, Warp)):
        # Places are computed as (2 * y + 1) * length in 32 bits.
        results = stages[1][0]
        longest = max(
            int(sizes[:, 1:].max()), int(results[:, 1:].max()), int(np.max(getattr(group.head, "window", sizes)))
        )
        return 2 * (longest + 64) * longest < _EXTENT
    return True
