"""The command line: ``torchdali demo``, ``torchdali info``, ``torchdali bench``.

Each sub-command is a module with ``add_arguments(parser)`` and ``run(arguments)``, which returns the exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from torchdali._version import __version__
from torchdali.cli import bench, demo, info
from torchdali.cli._arguments import Parser, UserError

__all__ = ["main"]

_COMMANDS: dict[str, ModuleType] = {"demo": demo, "info": info, "bench": bench}

OK, USER_ERROR, INTERRUPTED, BROKEN_PIPE = 0, 2, 130, 141
"""Exit statuses; the last two are what shells report of a command that a signal ended: 128 + SIGINT, 128 + SIGPIPE."""


def _parser() -> Parser:
    parser = Parser(
        prog="torchdali", description="A data loader for PyTorch: forked workers, shared memory, GPU decoding."
    )
    parser.add_argument("--version", action="version", version=f"torchdali {__version__}")
    parser.set_defaults(command=None, program=parser.prog)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary[0].lower() + summary[1:].rstrip("."),
            description=summary,
        )
        module.add_arguments(command)
        command.set_defaults(command=module, program=command.prog)
    return parser


def _parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:  # parse_args would blame the whole program, not the command
        program = arguments.program
        raise UserError(f"unrecognized arguments: {' '.join(unknown)} (see {program} --help)", program=program)
    return arguments


def _mend_streams() -> None:
    """Have streams that are closed swallow what is written, and those that know few characters escape the others."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _write_nowhere() -> None:
    """What is still to be written would be complained of at the interpreter's end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its arguments; by default those of the process.

    Returns:
        The exit status: 0; 2 for what the user has to put right, which is said in one line on stderr; 130 after Ctrl-C.
    """
    _mend_streams()
    try:
        status = _run(argv)
        sys.stdout.flush()  # here, where what goes wrong can be said
    except BrokenPipeError:  # who reads has seen enough, as `head` has
        _write_nowhere()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _write_nowhere()
        sys.stderr.write(f"torchdali: error: the output cannot be written: {error.strerror}\n")
        return USER_ERROR
    return status


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    program = parser.prog
    try:
        arguments = _parse(parser, argv)
        program = arguments.program
        if arguments.command is None:
            parser.print_help()
            return OK
        return int(arguments.command.run(arguments))
    except UserError as error:
        sys.stderr.write(f"{error.program or program}: error: {error}\n")
        return USER_ERROR
    except KeyboardInterrupt:
        if argv is None:  # this process is about to end: another Ctrl-C shall not make it complain on its way
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return INTERRUPTED
    except SystemExit as end:  # argparse's way of ending --help and --version
        return end.code if isinstance(end.code, int) else OK
