"""Torch's data pipes, in the versions of torch that have them: shards and seeds, as its own iterators give them out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["seed_pipes", "shard_pipes", "sharding_init_fn"]


def _is_pipe(dataset: Any) -> bool:
    try:
        from torch.utils.data import IterDataPipe, MapDataPipe
    except ImportError:  # a torch that has none any more
        return False
    return isinstance(dataset, (IterDataPipe, MapDataPipe))


def seed_pipes(dataset: Any, seed: int) -> Any:
    """A graph of pipes with its random ones seeded."""
    from torch.utils.data.graph_settings import apply_random_seed

    return apply_random_seed(dataset, torch.Generator().manual_seed(seed))


def shard_pipes(dataset: Any, world_size: int, rank: int) -> None:
    """In a process without workers: give the pipes this rank's part."""
    if _is_pipe(dataset):
        from torch.utils.data.graph_settings import apply_sharding

        apply_sharding(dataset, world_size, rank)


def sharding_init_fn(
    worker_init_fn: Callable[[int], Any] | None, dataset: Any, world_size: int, rank: int
) -> Callable[[int], Any] | None:
    """What is called in each worker: the user's function, and before it what gives pipes the worker's part."""
    if not _is_pipe(dataset):
        return worker_init_fn
    from torch.utils.data.dataloader import _sharding_worker_init_fn

    return functools.partial(_sharding_worker_init_fn, worker_init_fn, world_size, rank)
