"""Threads for CPU operators that work image by image; what they call must release the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import torch

from torchdali.ops._context import current_batch

__all__ = ["available_cpus", "parallel_map"]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_executors: dict[tuple[int, int], ThreadPoolExecutor] = {}


def available_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def _executor(num_threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), num_threads)  # a forked child has none of its parent's threads
    if key not in _executors:
        # Several threads may come here at once; no lock, which a forked child could find held. It begins no thread yet.
        _executors.setdefault(key, ThreadPoolExecutor(num_threads, thread_name_prefix="torchdali-op"))
    return _executors[key]


def parallel_map(function: Callable[[Item], Outcome], items: Iterable[Item]) -> list[Outcome]:
    """``[function(item) for item in items]`` on as many threads as the pipeline at hand allows, else on all CPUs."""
    items = list(items)
    context = current_batch()
    num_threads = min(context.num_threads if context else available_cpus(), len(items))
    if num_threads <= 1:
        return [function(item) for item in items]
    executor = _executor(context.num_threads if context else available_cpus())
    return list(executor.map(_as_here(function), items))


def _as_here(function: Callable[[Item], Outcome]) -> Callable[[Item], Outcome]:
    """``function``, which on another thread finds the modes of torch that a thread has for itself as they are on this one."""
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    autocast = torch.is_autocast_enabled("cpu")
    if gradients and not inference and not autocast:  # as threads begin
        return function
    dtype, caches = torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()

    def work(item: Item) -> Outcome:
        with ExitStack() as modes:
            if inference:
                modes.enter_context(torch.inference_mode())
            modes.enter_context(torch.set_grad_enabled(gradients))
            if autocast:
                modes.enter_context(torch.autocast("cpu", dtype, cache_enabled=caches))
            return function(item)

    return work
