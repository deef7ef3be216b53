"""What operators will do with a batch, found out before its turn by somebody who has time.

Most of what an operator does in Python is to decide: what is drawn for each image, which part of it is wanted, by which numbers
its colours change. A training in the same process waits for all that. But it depends on nothing but the sizes of images and
on whose samples they are; a worker process can do it as well (:func:`foresee`), and the operator finds it (:class:`Following`).

Which operators are called, and with what, is known from the batch before (:class:`Script`). What is foreseen is taken by an
operator of torchdali's own only, which is called as it was then, has the settings that it had, and gets images of just the
sizes that were foreseen; else it decides for itself, and so do those after it. Nothing depends on it.
"""

from __future__ import annotations

import numbers
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from torchdali.ops._context import current_batch
from torchdali.ops._groups import Part
from torchdali.ops._steps import Sizes, Step
from torchdali.pool._by_value import dumps
from torchdali.tensorlist import TensorList

__all__ = ["Call", "Following", "Found", "Hand", "OfSource", "Result", "Script", "Steps", "hand", "is_ours"]

_MOST_BYTES = 4096
"""Of an array among an operator's settings; to compare larger ones would take too long."""

_VOLATILE = frozenset({"last_kept", "last_errors", "statistics", "training"})
"""Attributes that do not say what an operator will do."""


class OfSource(NamedTuple):
    """An output of the sources, as it is."""

    output: int


class Result(NamedTuple):
    """What a call gave."""

    call: int


class Call(NamedTuple):
    """A call of an operator."""

    module: nn.Module
    images: OfSource | Result | None
    """What it was given; None to one that draws."""
    arguments: tuple[tuple[str, Any], ...]
    """Further ones by name: a :class:`Result`, or a constant."""


class Steps(NamedTuple):
    """What an operator on images does to a batch."""

    sizes: Sizes
    """Of the images, (N, 3)."""
    dtype: torch.dtype
    steps: list[Step]
    parts: list[Part] | None = None
    """Of the steps, for where kernels do them."""


class Found(NamedTuple):
    """What is known of a call; it can be pickled."""

    what: Any
    """Of a decoder a :class:`~torchdali.ops.decode._glimpse.Glimpse`; of an operator on images :class:`Steps`; of one that draws
    the draws."""
    draws: dict[str, torch.Tensor]
    """What random operators drew, by their names, if somebody wants to know."""


class Script:
    """The calls for a batch, as they are expected for the next ones.

    Args:
        calls: at least one.

    Raises:
        Exception: they cannot be pickled.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = tuple(calls)
        self.packed = dumps(self.calls)
        """They, for another process."""
        self._settings = [_Settings(call.module) for call in self.calls]

    def expects(self, number: int, call: Call) -> bool:
        """Whether a call is the one of this number, and the operator what it was."""
        return number < len(self.calls) and self.calls[number] == call and self.holds(number)

    def holds(self, number: int) -> bool:
        """Whether the operator of a call is what it was."""
        return self._settings[number].hold()


class Hand:
    """A call under way.

    Attributes:
        found: what is known of it; None: nothing.
    """

    def __init__(self, following: Following, number: int, found: Found | None) -> None:
        self._following, self._number, self.found = following, number, found

    def drawn(self) -> torch.Tensor | None:
        """What was foreseen to be drawn for the samples at hand."""
        context, what = current_batch(), None if self.found is None else self.found.what
        # Samples may have been left out meanwhile, whose decoding failed.
        if not isinstance(what, torch.Tensor) or context is None or len(what) != len(context.indices):
            return None
        self._take()
        return what

    def steps(self, sizes: Sizes, dtype: torch.dtype) -> Steps | None:
        """What was foreseen for images of these sizes and of this type."""
        what = None if self.found is None else self.found.what
        if not isinstance(what, Steps) or what.dtype != dtype or not np.array_equal(what.sizes, sizes):
            return None
        self._take()
        return what

    def _take(self) -> None:
        """Note that what was foreseen is what is done."""
        context = current_batch()
        if self.found is not None and context is not None and context.draws is not None:
            context.draws.update(self.found.draws)

    def gave(self, result: Any) -> None:
        """Note what came of the call."""
        self._following.ended(result, Result(self._number))


class _Named(NamedTuple):
    """A batch that is known by a name."""

    reference: Any
    name: OfSource | Result
    drawn: torch.Tensor | None = None
    """A copy of what was drawn."""


class Following:
    """The calls for one batch as they come, and what was foreseen of them.

    Args:
        outputs: of the sources.
        script: what was expected.
        found: what was foreseen, for the first of these calls.
    """

    def __init__(
        self, outputs: Sequence[TensorList], script: Script | None = None, found: Sequence[Found] = ()
    ) -> None:
        self.calls: list[Call] = []
        self._surprised = script is None
        """Something was called that was not expected, or otherwise."""
        self._script, self._found = script, found
        self._under_way = False
        self._names: dict[int, _Named] = {}
        for number, output in enumerate(outputs):
            self._names[id(output)] = _Named(weakref.ref(output), OfSource(number))

    @property
    def as_expected(self) -> bool:
        """Whether just the calls of the script came."""
        return not self._surprised and self._script is not None and len(self.calls) == len(self._script.calls)

    def ended(self, result: Any, name: Result) -> None:
        """Note what came of the call that was under way; it is not kept alive."""
        self._under_way = False
        drawn = result.clone() if self.calls[name.call].images is None else None
        self._names[id(result)] = _Named(weakref.ref(result), name, drawn)

    def _name_of(self, value: Any) -> OfSource | Result | None:
        named = self._names.get(id(value))
        return named.name if named is not None and named.reference() is value else None

    def _name_of_argument(self, value: Any) -> Result | None:
        """What was drawn, as it was drawn: who writes to it changes what is done with it."""
        named = self._names.get(id(value))
        if named is None or named.reference() is not value or named.drawn is None or not named.drawn.equal(value):
            return None
        assert isinstance(named.name, Result)
        return named.name

    def call(
        self, module: nn.Module, images: Any, arguments: Mapping[str, Any], of: type[OfSource | Result] | None
    ) -> Hand | None:
        """Note a call; None of what nobody could foresee.

        Args:
            module: the operator.
            images: what it is given.
            arguments: further ones.
            of: what that has to be: a decoder is given an output of the sources, others what came of another call, one that
                draws nothing.
        """
        name = None if images is None else self._name_of(images)
        if self._under_way:  # what an operator calls is its own business
            return None
        if of is not None and not isinstance(name, of):
            return None
        parts = []
        for key, value in sorted(arguments.items()):
            part = value if _is_constant(value) else self._name_of_argument(value)
            if part is None and value is not None:
                return None
            parts.append((key, part))
        call, number = Call(module, name, tuple(parts)), len(self.calls)
        known = self._script is not None and self._script.expects(number, call)
        if not known and not is_ours(module):
            return None
        self.calls.append(call)
        self._under_way = True
        if not known:
            self._surprised = True
            self._found = ()  # what comes after may depend on it
        return Hand(self, number, self._found[number] if number < len(self._found) else None)


def hand(
    module: nn.Module, images: Any, arguments: Mapping[str, Any], of: type[OfSource | Result] | None
) -> Hand | None:
    """The call of an operator in the batch at hand, if its pipeline looks ahead; see :meth:`Following.call`."""
    context = current_batch()
    if context is None or context.following is None:
        return None
    made: Hand | None = context.following.call(module, images, arguments, of)
    return made


def _is_constant(value: Any) -> bool:
    return value is None or isinstance(value, (numbers.Number, str, torch.dtype))


def is_ours(module: nn.Module) -> bool:
    """Whether it, and all in it, is of torchdali: what a user's classes and hooks do when they are called nobody knows."""
    things = (
        thing
        for part in module.modules()
        for thing in (part, *part._forward_hooks.values(), *part._forward_pre_hooks.values())
    )
    return all(type(thing).__module__.startswith("torchdali.") for thing in things)


class _Settings:
    """What says what an operator will do: its attributes, and those of the operators in it.

    Args:
        module: the operator, as it is now.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parts = [_PartSettings(part) for part in module.modules()]

    def hold(self) -> bool:
        """Whether the operator is what it was."""
        parts = tuple(self._module.modules())
        return len(parts) == len(self._parts) and all(
            known.hold(part) for known, part in zip(self._parts, parts, strict=True)
        )


class _PartSettings:
    """What says what one module will do, whatever those in it do."""

    def __init__(self, part: nn.Module) -> None:
        self._part, self._type, self._hooks = part, type(part), _hooks(part)
        self._names, self._telling = tuple(vars(part)), _telling(part)
        values = [(name, getattr(part, name)) for name in self._telling]
        self._fixed = [(name, value) for name, value in values if _is_fixed(value)]
        self._tokens = [(name, _token(value)) for name, value in values if not _is_fixed(value)]
        self._tensors = _tensors(part)

    def hold(self, part: nn.Module) -> bool:
        if part is not self._part or type(part) is not self._type or _hooks(part) != self._hooks:
            return False
        values = vars(part)
        if tuple(values) != self._names and _telling(part) != self._telling:
            return False
        for name, value in self._fixed:  # nearly always the same objects
            if values[name] is not value and _token(values[name]) != _token(value):
                return False
        return all(_token(values[name]) == token for name, token in self._tokens) and _tensors(part) == self._tensors


def _hooks(part: nn.Module) -> int:
    return len(part._forward_hooks) + len(part._forward_pre_hooks)


def _tensors(part: nn.Module) -> list[Any]:
    return [_token(tensor) for tensor in (*part._parameters.values(), *part._buffers.values())]


def _telling(part: nn.Module) -> list[str]:
    return sorted(name for name in vars(part) if not name.startswith("_") and name not in _VOLATILE)


def _is_fixed(value: Any) -> bool:
    """Whether the same object is the same value for ever."""
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    return value is None or isinstance(value, (bool, numbers.Number, str, torch.dtype, torch.device))


def _token(value: Any) -> Any:
    """Something equal only for values that are equal."""
    if isinstance(value, torch.Tensor) and value.device.type == "cpu":
        plain = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
        return value.dtype, _token(plain.numpy())
    if isinstance(value, np.ndarray) and value.nbytes <= _MOST_BYTES:
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return type(value), [_token(entry) for entry in value]
    if _is_fixed(value):
        return type(value), value
    return object()  # nobody knows: equal to nothing
