"""One batch of noise that is on the device already: what no engine can beat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from torchdali.bench._jpeg_feeds import Feed

__all__ = ["FEED"]

_CLASSES = 1000


class SyntheticFeed(Feed):
    """The same training batch again and again."""

    def start(self) -> None:
        """There are no workers."""

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Float16 images and labels."""
        count, size = self.plan.batch_size, self.plan.size
        images = torch.randn(count, 3, size, size, device=self.device).half()
        if self.plan.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(_CLASSES, (count,), device=self.device)
        while True:
            yield images, labels

    def close(self) -> None:
        """Nothing is left."""


FEED: type[Feed] = SyntheticFeed
