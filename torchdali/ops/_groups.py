"""Which steps of a list go into one launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from torchdali.ops._blur import Blur
from torchdali.ops._colour import Colour
from torchdali.ops._erase import Erase
from torchdali.ops._resample import Resample
from torchdali.ops._steps import WIDE, Sizes, Step
from torchdali.ops._warp import Warp

__all__ = ["EXTENT", "TYPES", "WIDE", "Group", "Part", "copies", "grouped", "narrowed", "parts_of", "supports"]

_COLOURS = 3
EXTENT = 2**31
"""Elements that 32-bit arithmetic of addresses within an image can reach."""

TYPES = {
    torch.float32: 0,
    torch.uint8: 1,
    torch.int8: 2,
    torch.int16: 3,
    torch.float16: 4,
    torch.bfloat16: 5,
    torch.int32: 6,
    torch.int64: 7,
    torch.float64: 8,
}
"""Numbers of types in the kernels."""


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


class Part(NamedTuple):
    """What is done to a batch at once: by a launch, or image by image by the definitions."""

    group: Group
    stages: list[tuple[Sizes, torch.dtype]]
    """Sizes and type of the images, and after each of its steps."""
    supported: bool
    """Whether the kernels can do it."""


def parts_of(steps: Sequence[Step], sizes: Sizes, dtype: torch.dtype) -> list[Part]:
    """The steps in as few parts as possible, for images of these sizes and of this type."""
    parts = []
    for group in grouped(steps, sizes):
        stages = [(sizes, dtype)]
        for step in group.steps:
            stages.append((step.sizes(stages[-1][0]), step.dtype(stages[-1][1])))
        parts.append(Part(group, stages, supports(group, stages)))
        sizes, dtype = stages[-1]
    return parts


def copies(step: Resample | Warp | Blur | None) -> bool:
    """Whether each pixel of the result is one of the input."""
    if step is None:
        return True
    if not isinstance(step, Resample):
        return False
    return step.filter == "nearest" or bool((step.window[:, 2:] == step.size).all())


def grouped(steps: Sequence[Step], sizes: Sizes) -> list[Group]:
    """The steps in as few groups as possible.

    Args:
        steps: what is to be done.
        sizes: of the images before, (N, 3).
    """
    groups: list[Group] = []
    for step in steps:
        last = groups[-1] if groups else None
        after = None if last is None or _ended(last) else last  # a group that may be continued
        if isinstance(step, Colour):
            if after is not None and len(after.colours) < _COLOURS:
                groups[-1] = after._replace(colours=(*after.colours, step))
            else:
                groups.append(Group(None, (step,)))
        elif isinstance(step, Erase):
            if after is not None and copies(after.head):
                groups[-1] = after._replace(erase=step)
            else:
                groups.append(Group(None, (), step))
        elif isinstance(step, Resample):
            head = None if after is None else _joined(after, step, sizes)
            if after is not None and head is not None:
                groups[-1] = after._replace(head=head)
            else:
                groups.append(Group(step))
        elif isinstance(step, (Warp, Blur)):
            groups.append(Group(step))
        else:
            raise TypeError(f"no kernel knows a step of type {type(step).__name__}; this is a bug in torchdali")
        sizes = step.sizes(sizes)
    return groups


def _ended(group: Group) -> bool:
    """Whether nothing can follow in the same launch: what is erased is erased last, and added channels are not computed."""
    last = group.colours[-1] if group.colours else None
    return group.erase is not None or (
        last is not None and last.matrix.ndim == 3 and last.matrix.shape[1] != last.matrix.shape[2]
    )


def narrowed(group: Group) -> tuple[Group, float | None]:
    """A group that adds channels of one number at its end as one that does not, and that number; any other as it is."""
    colour = group.colours[-1] if group.colours else None
    if colour is None or colour.matrix.ndim != 3 or colour.matrix.shape[1] <= colour.matrix.shape[2]:
        return group, None
    channels = colour.matrix.shape[2]
    factors = np.diagonal(colour.matrix, axis1=1, axis2=2)
    others = colour.matrix.copy()
    others[:, np.arange(channels), np.arange(channels)] = 0.0
    added = colour.offset[:, channels:]
    if others.any() or (added != added[:1, :1]).any():
        return group, None
    alone = Colour(factors.copy(), colour.offset[:, :channels].copy(), colour.to)
    return group._replace(colours=(*group.colours[:-1], alone)), float(added[0, 0])


def _joined(group: Group, step: Resample, sizes: Sizes) -> Resample | None:
    """What does for a group's head if ``step`` is to follow the group, if one step does for both.

    A change of colour does not mind which way an image is turned, so that a flip can be done before it. A resize of a crop is
    a resize of a window.
    """
    if step.to is not None:
        return None
    flips = (
        (step.window[:, :2] == 0).all()
        and (step.window[:, 2:] == step.size).all()
        and (step.size == sizes[:, 1:]).all()
    )
    first = group.head
    if flips:
        if first is None:
            return step
        return replace(first, flip=first.flip ^ step.flip) if isinstance(first, Resample) else None
    if not isinstance(first, Resample) or group.colours or first.fill is not None or first.to is not None:
        return None
    if step.fill is not None or first.flip.any() or (first.window[:, 2:] != first.size).any():
        return None
    window = step.window.copy()
    window[:, :2] += first.window[:, :2]
    return replace(step, window=window)


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
        if dtype not in TYPES or int(stage.prod(1).max()) >= EXTENT:
            return False
    wide = not WIDE.isdisjoint(dtype for _, dtype in stages)
    # Weights and places are float32. And what becomes another type by a copy would be rounded twice, through a double.
    if wide and (not copies(group.head) or (stages[0][1] == torch.int64 != stages[1][1] and group.head is not None)):
        return False
    group, _ = narrowed(group)
    if any(colour.matrix.ndim == 3 and colour.matrix.shape[1:] != (3, 3) for colour in group.colours):
        return False
    if isinstance(group.head, (Resample, Warp)):
        # Places are computed as (2 * y + 1) * length in 32 bits.
        results = stages[1][0]
        longest = max(
            int(sizes[:, 1:].max()), int(results[:, 1:].max()), int(np.max(getattr(group.head, "window", sizes)))
        )
        return 2 * (longest + 64) * longest < EXTENT
    return True
