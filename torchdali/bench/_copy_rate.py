"""How fast the machine copies memory: the bound for whoever moves samples."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from torchdali.bench._summary import Summary

__all__ = ["copy_rate"]

_NBYTES = 64 << 20
"""More than caches hold."""


def copy_rate(threads: int, repeats: int = 5) -> Summary:
    """GB/s that ``threads`` threads copy together; NumPy copies without holding the interpreter."""
    # Written to beforehand, source and target: pages that were never touched would be read without memory, or be made.
    pairs = [(np.full(_NBYTES, 1, np.uint8), np.full(_NBYTES, 2, np.uint8)) for _ in range(threads)]
    barrier = Barrier(threads)

    def copy(number: int) -> tuple[list[float], list[float]]:
        source, target = pairs[number]
        begun, ended = [], []
        for _ in range(repeats):
            barrier.wait()
            begun.append(time.perf_counter())
            np.copyto(target, source)
            ended.append(time.perf_counter())
        return begun, ended

    with ThreadPoolExecutor(threads) as executor:
        times = list(executor.map(copy, range(threads)))
    begun = [min(of_one) for of_one in zip(*(begun for begun, _ in times), strict=True)]
    ended = [max(of_one) for of_one in zip(*(ended for _, ended in times), strict=True)]
    return Summary.of([threads * _NBYTES / 1e9 / (end - start) for start, end in zip(begun, ended, strict=True)])
