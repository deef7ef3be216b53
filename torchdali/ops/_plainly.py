"""Operators' own work, past torch's function modes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

__all__ = ["plainly"]

Function = TypeVar("Function", bound=Callable[..., Any])


def plainly(function: Function) -> Function:
    """``function``, in which torch asks nobody what its own functions are to do.

    A function mode, such as the one that gives a stage its generators, or a default device, is asked for each attribute of
    each tensor, which is most of what handling some hundred small ones costs. Only for what draws nothing, says of all that
    it makes where it is to be, and calls no code of the user's.
    """

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return function(*arguments, **keywords)

    return cast(Function, wrapped)
