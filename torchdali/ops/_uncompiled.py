"""Operators under ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

__all__ = ["uncompiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """``function``, which ``torch.compile`` calls as it is.

    What works on a batch by threads and kernels of its own is no graph: traced, it gives the same, slowly and with warnings.
    """
    return cast(Function, torch.compiler.disable(function))
