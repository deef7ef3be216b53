"""Which process of a training this is."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

__all__ = ["Rank"]


class Rank(NamedTuple):
    """What a factory of pipelines or loaders is told about the process that it is called in."""

    rank: int = 0
    """Of this process among all, from 0."""
    ranks: int = 1
    """Processes that train together."""
    local_rank: int = 0
    """Of this process among those of its machine."""
    device: torch.device = torch.device("cpu")
    """That it trains on."""
    batch_size: int | None = None
    """The data module's ``batch_size``: samples in a batch of each rank; None: it has none."""

    @classmethod
    def of(cls, trainer: Any, batch_size: int | None) -> Rank:
        """As a trainer knows it before it has touched a device or begun to talk with others."""
        strategy = trainer.strategy
        if hasattr(strategy, "set_world_ranks"):  # processes launched just now have another rank than their parent
            strategy.set_world_ranks()
        device = torch.device(strategy.root_device)
        if device.type not in ("cpu", "cuda"):
            device = torch.device("cpu")
        return cls(int(trainer.global_rank), int(trainer.world_size), int(trainer.local_rank), device, batch_size)
