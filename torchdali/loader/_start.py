"""Starting the workers of several things at once, before CUDA."""

from __future__ import annotations

from typing import Any

__all__ = ["start"]


def start(*things: Any) -> None:
    """Start the workers of loaders and pipelines: in one line, before anything touches CUDA.

    Args:
        things: :class:`~torchdali.DataLoader` s, :class:`~torchdali.Pipeline` s, or whatever has a method ``start``.

    Raises:
        TypeError: something else; nothing was started then.
    """
    for thing in things:
        if not callable(getattr(thing, "start", None)):
            raise TypeError(
                f"start got a {type(thing).__name__}, which has no workers to start; it takes torchdali's DataLoaders and "
                "Pipelines"
            )
    for thing in things:
        thing.start()
