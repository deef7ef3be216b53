"""A process with all that it has started: processor time, and the end of all."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

__all__ = ["end_session", "tree_cpu_seconds", "tree_pids"]

_TICKS = os.sysconf("SC_CLK_TCK")
# Of /proc/PID/stat, counted from the field behind the name: state, ppid, pgrp, session, ...
_PARENT, _SESSION, _TIMES = 1, 3, slice(11, 15)


class _Stat(NamedTuple):
    parent: int
    session: int
    ticks: int
    """Of itself, and of the children that it has waited for."""


def _stats() -> dict[int, _Stat]:
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                # The name is in brackets, and may hold anything.
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
                ticks = sum(map(int, fields[_TIMES]))
                found[int(name)] = _Stat(int(fields[_PARENT]), int(fields[_SESSION]), ticks)
    return found


def _tree(root: int) -> dict[int, _Stat]:
    """The process, its descendants, and what else is in its session if it leads one."""
    stats = _stats()
    chosen = {pid for pid, stat in stats.items() if root in (pid, stat.session)}
    while more := {pid for pid, stat in stats.items() if stat.parent in chosen} - chosen:
        chosen |= more
    return {pid: stats[pid] for pid in chosen}


def tree_pids(root: int) -> list[int]:
    """The process, its descendants, and those of its session whose parent has ended."""
    return sorted(_tree(root))


def tree_cpu_seconds(root: int) -> float:
    """User and system time so far of all of them, and of their children that have ended and were waited for."""
    return sum(stat.ticks for stat in _tree(root).values()) / _TICKS


def end_session(leader: int) -> None:
    """Kill what is left of a session that this process started, its leader or not."""
    for pid in tree_pids(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
