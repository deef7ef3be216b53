"""Programs for NVRTC, and a place on disk for the machine code that it makes of them.

NVRTC takes a second for a kernel of some hundred lines, and each process that has a GPU of its own to work on would wait for it,
at its first batch. So the first one leaves what it got in a folder: that which TORCHDALI_CACHE_DIR names, else ``torchdali`` in
XDG_CACHE_HOME or ~/.cache. A file there is called by a hash of all that it was made from, appears whole or not at all, and
begins with a hash of its contents: whatever else is found, also in files of other users, is not used.

Of processes that want the same at once, one makes it. Each that makes something holds a lock of the system on a file beside it,
which ends with the process; the others wait for that, but not longer than a compiler can be expected to take. Nothing here has
to work: who has no folder, may not write or gets no lock uses the compiler and goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Program", "built", "checked", "folder", "kept", "translated"]

_PATIENCE = 20.0
"""Seconds for which another process is let do the work: a compiler's second or two, on a machine that is busy."""
_PAUSE = 0.02
"""Seconds between two looks at the lock."""

_MAGIC = b"torchdali cubin\n"
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size
_ROOT = 0


class Program(NamedTuple):
    """What machine code is made from."""

    name: str
    """In the compiler's messages."""
    source: bytes
    headers: tuple[tuple[str, bytes], ...]
    """Names, as they are included, and contents."""
    options: tuple[str, ...]
    """The architecture among them, such as "--gpu-architecture=sm_90"."""


def built(program: Program, nvrtc: Any) -> bytes:
    """The machine code of a program: that on disk, or else made, and left there.

    Args:
        program: for an architecture whose name begins with "sm".
        nvrtc: the module ``cuda.bindings.nvrtc``.

    Raises:
        RuntimeError: with what the compiler says, if it refuses the program.
    """
    version = checked(nvrtc.nvrtcVersion(), whole=True)
    headers = (part for name, contents in program.headers for part in (name.encode(), contents))
    options = (option.encode() for option in program.options)
    parts = [repr(version).encode(), program.name.encode(), program.source, *headers, b"", *options]
    return kept(parts, lambda: translated(program, nvrtc))


def translated(program: Program, nvrtc: Any) -> bytes:
    """As :func:`built`, always by the compiler."""
    names, contents = [name.encode() for name, _ in program.headers], [text for _, text in program.headers]
    handle = checked(nvrtc.nvrtcCreateProgram(program.source, program.name.encode(), len(names), contents, names))
    try:
        options = [option.encode() for option in program.options]
        (result,) = nvrtc.nvrtcCompileProgram(handle, len(options), options)
        if int(result):
            log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(handle))
            nvrtc.nvrtcGetProgramLog(handle, log)
            raise RuntimeError(log.decode(errors="replace").rstrip(" \n\0") or repr(result))
        image: bytes = b" " * checked(nvrtc.nvrtcGetCUBINSize(handle))
        checked(nvrtc.nvrtcGetCUBIN(handle, image))
    finally:
        nvrtc.nvrtcDestroyProgram(handle)
    return image


def checked(answer: tuple[Any, ...], whole: bool = False) -> Any:
    """The value that a function of the bindings gives behind its status; ``whole``: all of them, a tuple.

    Raises:
        RuntimeError: with the status, if it is not success.
    """
    if int(answer[0]):
        raise RuntimeError(repr(answer[0]))
    if whole:
        return answer[1:]
    return answer[1] if len(answer) > 1 else None


def folder() -> Path | None:
    """Where files are kept; None if there is no such place, as where a user has no home."""
    if chosen := os.environ.get("TORCHDALI_CACHE_DIR"):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # others are to be ignored, says its specification
        return base / "torchdali"
    try:
        return Path.home() / ".cache" / "torchdali"
    except RuntimeError:
        return None


def kept(parts: Iterable[bytes], make: Callable[[], bytes]) -> bytes:
    """What was made from ``parts`` before, in this process or another one, or else what ``make`` returns, which is kept.

    What ``make`` raises is raised, and nothing is kept.
    """
    place = folder()
    if place is None:
        return make()
    path = place / f"{_name(parts)}.cubin"
    image = _read(path)
    if image is None:
        with _turn(path):
            image = _read(path)
            if image is None:
                image = make()
                _write(path, image)
    return image


def _name(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))  # so that the border between two of them counts
        digest.update(part)
    return digest.hexdigest()


def _head(path: Path, image: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(path.name.encode() + image).digest()


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            owner = os.fstat(file.fileno()).st_uid
            contents = file.read()
    except OSError:
        return None
    image = contents[_HEAD:]
    intact = owner in (_ROOT, os.geteuid()) and contents[:_HEAD] == _head(path, image)
    return image if intact else None


def _write(path: Path, image: bytes) -> None:
    with contextlib.suppress(OSError):
        number, name = tempfile.mkstemp(".tmp", f"{path.stem}.", path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(_head(path, image) + image)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # it has its name


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """While no other process makes the same, as far as that can be had."""
    beside = path.with_suffix(".lock")
    lock = None
    with contextlib.suppress(OSError):
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if lock is None:
        yield
        return
    try:
        held = _locked(lock)
        try:
            yield
        finally:
            if held:
                # Who waits for this file finds the result; so does who makes another one of its name.
                with contextlib.suppress(OSError):
                    beside.unlink()
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough where a child was forked meanwhile
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_PAUSE)
        except OSError:  # a file system without locks
            return False
        else:
            return True
