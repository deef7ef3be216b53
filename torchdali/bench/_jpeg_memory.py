"""Memory that an engine takes on the GPU, as seen from outside: by the driver's list of processes, or by what is free.

``python -m torchdali.bench._jpeg_memory DEVICE`` is the observer: a process that does nothing on the GPU but look. It
answers each line on stdin with a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

import torchdali

__all__ = ["GpuMemory", "bytes_of_processes", "child_environment"]

BY_PROCESS = "NVML, the engine's processes"
BY_DEVICE = "the device's, less what was used before"
_SECONDS = 20.0
"""For nvidia-smi; it takes longer where the driver is loaded anew."""
_MIB = 2**20


def child_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that imports this very torchdali; ``PYTHONPATH`` in ``changes`` comes before all else."""
    paths = [
        (changes or {}).get("PYTHONPATH", ""),
        str(Path(torchdali.__file__).parent.parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    return {**os.environ, **(changes or {}), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def bytes_of_processes() -> dict[int, int]:
    """Bytes on all GPUs by process, as far as the driver tells; empty where it does not, as in some containers."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[int, int] = {}
    for line in listed.splitlines():
        pid, _, mebibytes = line.partition(",")
        if pid.strip().isdigit() and mebibytes.strip().isdigit():  # else "[N/A]"
            found[int(pid)] = found.get(int(pid), 0) + int(mebibytes) * _MIB
    return found


class GpuMemory:
    """Looks at a device. The observer is ended at once where the driver lists processes, its own included.

    Args:
        device: a CUDA device.

    Raises:
        OSError: the observer cannot be started, or cannot use the device.
    """

    def __init__(self, device: str) -> None:
        self._observer: subprocess.Popen[str] | None = subprocess.Popen(
            [sys.executable, "-m", __name__, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=child_environment(),
        )
        try:
            seen = self._ask()
            self.device_name = str(seen["name"])
            listed = self._observer.pid in bytes_of_processes()
        except BaseException:
            self.close()
            raise
        self.method = BY_PROCESS if listed else BY_DEVICE
        self._before = 0
        if listed:
            self.close()

    def _ask(self) -> dict[str, Any]:
        observer = self._observer
        assert observer is not None
        assert observer.stdin is not None
        assert observer.stdout is not None
        observer.stdin.write("\n")
        observer.stdin.flush()
        answer = observer.stdout.readline()
        if not answer:
            raise OSError("a process that looks at the memory of the GPU has ended; can CUDA be used?")
        seen: dict[str, Any] = json.loads(answer)
        return seen

    def before(self) -> None:
        """An engine is about to start."""
        if self._observer is not None:
            self._before = self._ask()["used"]

    def used(self, pids: Iterable[int]) -> int:
        """Bytes that the engine with these processes takes."""
        if self._observer is not None:
            return max(0, int(self._ask()["used"]) - self._before)
        listed = bytes_of_processes()
        return sum(listed.get(pid, 0) for pid in pids)

    def close(self) -> None:
        """End the observer."""
        if self._observer is not None:
            self._observer.communicate()
            self._observer = None

    def __enter__(self) -> GpuMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _observe(device: str) -> None:
    for _ in sys.stdin:
        free, total = torch.cuda.mem_get_info(device)
        answer = {"name": torch.cuda.get_device_name(device), "used": total - free}
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    _observe(sys.argv[1])
