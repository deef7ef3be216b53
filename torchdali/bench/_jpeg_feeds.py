"""What makes batches of JPEG files: the engines that are compared, behind one interface."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchdali.source import JpegFolder

__all__ = [
    "CONTRAST",
    "ENGINES",
    "ENGINE_TITLES",
    "JOBS",
    "MEAN",
    "STD",
    "TRAINING",
    "TUTORIAL",
    "Feed",
    "FeedPlan",
    "Files",
    "MissingEngineError",
    "open_feed",
    "whole_turns",
]

TUTORIAL, TRAINING = "tutorial", "training"
JOBS = {
    TUTORIAL: "JPEGs are decoded and changed in contrast; uint8, as large as they are",
    TRAINING: "JPEGs are decoded, cropped at random, resized, changed in contrast, mirrored and normalised; float16",
}
"""What has to be done to a batch, and a description. Both have labels too."""

CONTRAST = (1.0, 3.0)
MEAN, STD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)

_MODULES = {
    "torchdali": "torchdali.bench._jpeg_feed_torchdali",
    "dali": "torchdali.bench._jpeg_feed_dali",
    "torch": "torchdali.bench._jpeg_feed_torch",
    "synthetic": "torchdali.bench._jpeg_feed_synthetic",
}
ENGINE_TITLES = {"torchdali": "torchdali", "dali": "DALI", "torch": "torch DataLoader", "synthetic": "synthetic"}
ENGINES = ("torchdali", "dali", "torch")
"""Those that read files."""


class MissingEngineError(Exception):
    """An engine is not installed; the text says what is missing and how to get it."""


@dataclass(frozen=True)
class FeedPlan:
    """One engine, and what it is to do. Goes to the engine's process as JSON."""

    engine: str
    job: str
    batch_size: int
    data: str
    """A folder of JPEGs; its files are repeated without end."""
    device: str
    workers: int
    """Processes that read files."""
    variant: str = ""
    """Where the engine can be used in several ways, which one it is."""
    size: int = 224
    """Height and width of training images, in pixels."""
    channels_last: bool = False
    """Whether the channels of training images lie side by side in memory, as convolutions on tensor cores want it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of :class:`torchdali.Pipeline`, beyond these."""


class Files:
    """Files of a folder and their labels, over and over.

    Raises:
        OSError: there is no such folder, or no JPEG in it.
        ValueError: its list of files is wrong.
    """

    def __init__(self, data: str) -> None:
        folder = JpegFolder(data)
        self.paths = [str(path) for path in folder.files]
        self.labels = folder.labels

    def read(self, index: int) -> tuple[npt.NDArray[np.uint8], np.int64]:
        """The bytes of a file, and its label."""
        place = index % len(self.paths)
        return np.fromfile(self.paths[place], np.uint8), np.int64(self.labels[place])


class Feed(ABC):
    """An engine at work. What it needs is imported when its module is; building it is what takes the time till the first batch.

    Life: ``start``, ``batches``, ``close``. ``start`` forks workers and leaves CUDA alone.
    """

    turn: int = 1
    """Batches that come in one go where workers make whole ones in step: only multiples of it are a fair measure."""

    def __init__(self, plan: FeedPlan) -> None:
        self.plan = plan
        self.versions: dict[str, str] = {}  # of what is measured, beyond torchdali and torch
        self.device = torch.device(plan.device)

    @abstractmethod
    def start(self) -> None:
        """Start the workers."""

    @abstractmethod
    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Images and labels, without end; images on the device."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    def stalled(self) -> float | None:
        """Seconds for which the consumer has waited so far, where the engine counts them."""
        return None

    def describe(self, images: Any) -> str:
        """What a batch of images is: number, shape and type."""
        if isinstance(images, torch.Tensor):
            return f"{'x'.join(map(str, images.shape))} {str(images.dtype).removeprefix('torch.')}"
        return f"{len(images)} images, {str(images[0].dtype).removeprefix('torch.')}"

    def synchronize(self) -> None:
        """Wait for all that the device has to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def open_feed(plan: FeedPlan) -> Feed:
    """The engine, imported and not yet started.

    Raises:
        MissingEngineError: it is not installed.
    """
    kind: type[Feed] = importlib.import_module(_MODULES[plan.engine]).FEED
    return kind(plan)


def whole_turns(batches: float, turn: int) -> int:
    """The least multiple of ``turn`` that is at least so many batches."""
    return turn * math.ceil(batches / turn)
