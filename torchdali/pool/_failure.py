"""Exceptions that cross from a worker to the parent with their own type, traceback and cause.

An exception is pickled whole where that works both ways. Where it does not (a constructor with other arguments, a class
made inside a function, an attribute that cannot be pickled) it is taken apart and built again without calling its
constructor. A class that cannot be imported by name is found by its place in a list of all exception classes that was
made before the fork, when both processes were still one.
"""

from __future__ import annotations

import contextlib
import pickle
import traceback
from typing import Any, NamedTuple

from torchdali.errors import WorkerError, WorkerTraceback
from torchdali.pool._by_value import dumps

__all__ = ["Failure", "known_exceptions", "pack", "unpack"]

_set = object.__setattr__
"""Also for what refuses its own, as a frozen dataclass does."""


class Failure(NamedTuple):
    """An exception on its way: one of three forms, where it was raised, and the worker's traceback."""

    whole: bytes | None
    parts: tuple[bytes | int, tuple[bytes, ...], dict[str, bytes]] | None
    summary: str
    where: str
    frames: str


def known_exceptions() -> list[type[BaseException]]:
    """All exception classes of this process, in an order that a forked child shares."""
    found: list[type[BaseException]] = [BaseException]
    seen = {BaseException}
    for cls in found:
        for subclass in type.__subclasses__(cls):
            if subclass not in seen:
                seen.add(subclass)
                found.append(subclass)
    return found


def _dumps(value: object) -> bytes:
    """Pickled so that it is sure to load; what cannot be pickled becomes its ``repr``."""
    try:
        data = pickle.dumps(value)
        pickle.loads(data)
    except BaseException:  # a user's class may raise anything here
        return pickle.dumps(repr(value))
    return data


def _dump_whole(exception: BaseException) -> bytes | None:
    try:
        data = pickle.dumps(exception)
        again = pickle.loads(data)
        same = type(again) is type(exception) and str(again) == str(exception)
    except BaseException:  # a user's class may raise anything here
        return None
    return data if same else None


def _reference(cls: type[BaseException], known: list[type[BaseException]]) -> bytes | int | None:
    try:
        data = pickle.dumps(cls)
        if pickle.loads(data) is cls:
            return data
    except Exception:
        pass
    if cls in known:
        return known.index(cls)
    try:  # by value; a class that came to this process by value is the parent's own when it comes back there
        return dumps(cls)
    except Exception:
        return None


def pack(exception: BaseException, known: list[type[BaseException]], where: str) -> Failure:
    """Make an exception ready to be sent.

    Args:
        exception: as it was caught, with its traceback.
        known: :func:`known_exceptions` from before the fork.
        where: what the worker was doing, for people: the first line of the text.
    """
    frames = "".join(traceback.format_exception(type(exception), exception, exception.__traceback__)).rstrip()
    summary = "".join(traceback.format_exception_only(type(exception), exception)).strip()
    whole = _dump_whole(exception)
    if whole is not None:
        return Failure(whole, None, summary, where, frames)
    reference = _reference(type(exception), known)
    if reference is None:
        return Failure(None, None, summary, where, frames)
    arguments = tuple(_dumps(argument) for argument in exception.args)
    attributes = {name: _dumps(value) for name, value in vars(exception).items()}
    return Failure(None, (reference, arguments, attributes), summary, where, frames)


def _rebuild(failure: Failure, known: list[type[BaseException]]) -> BaseException:
    if failure.whole is not None:
        whole: BaseException = pickle.loads(failure.whole)
        return whole
    if failure.parts is not None:
        reference, arguments, attributes = failure.parts
        cls: Any = known[reference] if isinstance(reference, int) else pickle.loads(reference)
        exception: BaseException = cls.__new__(cls, *(pickle.loads(argument) for argument in arguments))
        for name, value in attributes.items():
            _set(exception, name, pickle.loads(value))
        return exception
    return WorkerError(failure.summary)


def unpack(failure: Failure, known: list[type[BaseException]], note: str) -> BaseException:
    """The exception again, ready to be raised.

    Its ``__cause__`` is a :class:`~torchdali.errors.WorkerTraceback`; ``note`` is shown below the message by Python
    3.11 and later.
    """
    try:
        exception = _rebuild(failure, known)
    except BaseException as error:  # of a user's class; what is not built again would be waited for
        exception = WorkerError(f"{failure.summary} (it could not be built again in this process: {error!r})")
    _set(exception, "__cause__", WorkerTraceback(failure.where, failure.frames))
    if hasattr(exception, "add_note"):
        with contextlib.suppress(Exception):  # of a frozen dataclass, which Python itself does not add to
            exception.add_note(note)
    return exception
