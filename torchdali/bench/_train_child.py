"""The process of a training fed by an engine; it converses as :mod:`torchdali.bench._jpeg_child` does."""

from __future__ import annotations

import time
from typing import Any

import torch
import torchvision
from torch import nn

from torchdali.bench._jpeg_child import Clock, Found, converse, first_batch
from torchdali.bench._jpeg_feeds import Feed, whole_turns

__all__ = ["main"]

_CLASSES = 1000
_LEARNING_RATE = 0.1
_MOMENTUM = 0.9


class _Trainer:
    """A model that learns from batches: channels last, SGD with momentum, on a GPU with bfloat16 autocast."""

    def __init__(self, model: str, device: torch.device, *, compile_mode: str | None) -> None:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        self.device = device
        network: nn.Module = getattr(torchvision.models, model)(num_classes=_CLASSES).to(device)
        network = network.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(network.parameters(), _LEARNING_RATE, momentum=_MOMENTUM)
        self.model: Any = torch.compile(network, mode=compile_mode) if compile_mode else network
        self.loss = nn.CrossEntropyLoss()

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Learn from one batch."""
        on_gpu = self.device.type == "cuda"  # few CPUs calculate with bfloat16
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            outputs = self.model(images if on_gpu else images.float())
            logits = getattr(outputs, "logits", outputs)  # GoogLeNet and Inception have others beside them
            loss = self.loss(logits, labels % _CLASSES)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _measure(feed: Feed, model: str, steps: int, warmup: int, compile_mode: str | None) -> Found:
    batches, (images, labels), first = first_batch(feed)
    output = feed.describe(images)
    if feed.device.type == "cuda":
        torch.cuda.set_device(feed.device)
    trainer = _Trainer(model, feed.device, compile_mode=compile_mode)
    trainer.step(images, labels)
    steps = whole_turns(steps, feed.turn)
    for _ in range(whole_turns(warmup, feed.turn)):
        trainer.step(*next(batches))
    clock = Clock(feed)
    waited = 0.0
    for _ in range(steps):
        asked = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - asked
        trainer.step(images, labels)
    times = clock.stop()
    return Found(
        steps * feed.plan.batch_size,
        first_batch_seconds=first,
        output=output,
        versions=feed.versions,
        waited_seconds=waited,
        **times,
    )


def main() -> None:
    """What this process is for."""
    converse(_measure)


if __name__ == "__main__":
    main()
