"""Pinned batches without a copy: where CUDA is there the workers write into memory that is pinned."""

from __future__ import annotations

import threading
from typing import Any

import torch

from torchdali.pipeline import PinnedMemory

__all__ = ["finished_thread", "memory_hook"]


def memory_hook(loader: Any) -> PinnedMemory | None:
    """What pins the memory of a loader's workers; None where batches are not to be pinned, or by other means.

    Does not initialise CUDA, as workers may have to be forked yet.
    """
    if not loader.pin_memory or not torch.cuda.is_available():
        return None
    return PinnedMemory(required=False)


def finished_thread() -> threading.Thread:
    """Stands for the thread that copies batches in torch's DataLoader, for those who wait for its end: it has none here."""
    thread = threading.Thread(target=int, name="torchdali-no-pin-memory-thread", daemon=True)
    thread.start()
    thread.join()
    return thread
