"""A batch in the place of a tensor: where its shapes agree it stands for the tensor (N, ...)."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["StandIn"]


def _binary(function: Callable[[Any, Any], Any], symbol: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(self: StandIn, other: Any) -> torch.Tensor:
        left, right = self._operand(symbol), _other(other, symbol)
        return NotImplemented if right is NotImplemented else function(left, right)

    def reflected(self: StandIn, other: Any) -> torch.Tensor:
        right, left = self._operand(symbol), _other(other, symbol)
        return NotImplemented if left is NotImplemented else function(left, right)

    return forward, reflected


_JOINING = (torch.stack, torch.cat, torch.concat, torch.concatenate)


def _other(value: Any, symbol: str) -> Any:
    if isinstance(value, StandIn):
        return value._operand(symbol)
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    return value if isinstance(value, (torch.Tensor, int, float, complex)) else NotImplemented


class StandIn:
    """What torch functions, NumPy and operators such as ``batch / 255`` make of a batch.

    Operators give a tensor (N, ...), by torch's rules of broadcasting.

    Raises:
        ValueError: the batch is empty or its shapes differ.
        TypeError: the other operand is neither a number, a tensor, an array nor a batch.
    """

    __slots__ = ()

    __array_priority__ = 1000
    """What NumPy has on the left of an operator leaves the operation to the batch."""

    @abstractmethod
    def as_tensor(self) -> torch.Tensor:
        """One tensor of shape (N, ...)."""

    @abstractmethod
    def as_array(self) -> npt.NDArray[Any]:
        """One array of shape (N, ...)."""

    @abstractmethod
    def is_dense_tensor(self) -> bool:
        """True when all shapes agree."""

    @abstractmethod
    def __iter__(self) -> Iterator[torch.Tensor]: ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a TensorList cannot become an array without a copy; leave copy=False out")
        array = np.asarray(self.as_array(), dtype)
        # NumPy, which asks for a copy, takes it that this is none of the batch's memory.
        return array.copy() if copy else array

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        keywords: dict[str, Any] | None = None,
    ) -> Any:
        def dense(value: Any) -> Any:
            if isinstance(value, StandIn):
                return value.as_tensor()
            if isinstance(value, (list, tuple)) and any(isinstance(entry, StandIn) for entry in value):
                return type(value)(dense(entry) for entry in value)
            return value

        if function in _JOINING:
            named = dict(keywords or {})
            joined = arguments[0] if arguments else named.pop("tensors", None)
            if isinstance(joined, StandIn):
                return function(list(joined), *arguments[1:], **named)
        return function(*map(dense, arguments), **{key: dense(value) for key, value in (keywords or {}).items()})

    def _operand(self, symbol: str) -> torch.Tensor:
        if not self.is_dense_tensor():
            try:
                self.as_tensor()
            except ValueError as error:
                raise ValueError(
                    f"`{symbol}` needs samples of one shape, which make one tensor; for each sample by itself write "
                    f"batch.map(lambda sample: ...). {error}"
                ) from None
        return self.as_tensor()

    __add__, __radd__ = _binary(operator.add, "+")
    __sub__, __rsub__ = _binary(operator.sub, "-")
    __mul__, __rmul__ = _binary(operator.mul, "*")
    __truediv__, __rtruediv__ = _binary(operator.truediv, "/")
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv, "//")
    __mod__, __rmod__ = _binary(operator.mod, "%")
    __pow__, __rpow__ = _binary(operator.pow, "**")
    __lt__, __gt__ = _binary(operator.lt, "<")[0], _binary(operator.gt, ">")[0]
    __le__, __ge__ = _binary(operator.le, "<=")[0], _binary(operator.ge, ">=")[0]

    def __neg__(self) -> torch.Tensor:
        return -self._operand("-")
