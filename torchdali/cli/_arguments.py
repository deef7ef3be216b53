"""What the commands' arguments have in common: their types, and errors in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Parser", "UserError", "check_writable", "device", "one_line", "whole_number"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class UserError(Exception):
    """Something that the person at the keyboard can put right; its text is one line.

    Attributes:
        program: the command whose arguments are wrong, None where that is the one that runs.
    """

    def __init__(self, message: str, *, program: str | None = None) -> None:
        super().__init__(message)
        self.program = program


class Parser(argparse.ArgumentParser):
    """Raises :class:`UserError` for wrong arguments instead of printing the usage and ending the process."""

    def __init__(self, **options: Any) -> None:
        # An abbreviation that works today would break a script when an option with that beginning is added.
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raise."""
        raise UserError(f"{message} (see {self.prog} --help)", program=self.prog)


def check_writable(name: str | Path, option: str) -> None:
    """See, before anything takes long, that a file can be written in the end.

    Raises:
        UserError: it cannot.
    """
    path = Path(name)
    if not str(name) or path.is_dir():
        raise UserError(f"{option} takes a file; {str(name)!r} is {'a folder' if str(name) else 'no name'}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {str(name)!r}: there is no folder {str(path.parent)!r}; make it, or name another")
    there = path.exists()
    try:
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} {str(name)!r} cannot be written: {error.strerror}; name another file") from error


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an argument that is an integer from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, such as 4") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is too small; it is at least {least}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{text} is too large; it is at most {most}")
        return value

    return parse


def device(text: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    if not _DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no device; it is auto, cpu, cuda or cuda:N")
    return text
