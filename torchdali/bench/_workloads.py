"""The data sets that the engines load: map-style, and the same object for all engines.

Those of tensors lie in memory before anything is measured, so that what is measured is the way from a worker to the parent
and not the making of a sample; that of images is what a training does. No sample is of zeros: untouched pages are free to
read, and would flatter whoever moves most.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["IMAGES", "WORKLOADS", "Batch", "Blobs", "Images", "Order", "Samples", "Vectors", "Workload", "images"]

Batch: TypeAlias = torch.Tensor | list[torch.Tensor]
"""A tensor (samples, ...), or a list of tensors that differ in length."""

Order: TypeAlias = Sequence[list[int]]
"""The batches of an epoch, each by the indices of its samples."""

_SEED = 20
_BUFFER = 32 << 20


class Samples(Dataset[torch.Tensor]):
    """A map-style data set whose samples' sizes are known without loading them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def nbytes(self, index: int) -> int:
        """Bytes of a sample."""


class Blobs(Samples):
    """Tensors of uint8 that differ in length, as compressed images do.

    Args:
        samples: number of samples.
        shortest: bytes of a sample at least.
        longest: bytes of a sample at most.
    """

    def __init__(self, samples: int, shortest: int = 60_000, longest: int = 160_000) -> None:
        random = np.random.default_rng(_SEED)
        self._lengths: list[int] = random.integers(shortest, longest, samples, endpoint=True).tolist()
        self._starts: list[int] = random.integers(0, _BUFFER - longest, samples).tolist()
        self._buffer = torch.from_numpy(random.integers(1, 255, _BUFFER, dtype=np.uint8, endpoint=True))

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> torch.Tensor:
        start = self._starts[index]
        # A tensor of its own, as reading a file gives. Of a view the stock loader would share the whole buffer, once.
        return self._buffer[start : start + self._lengths[index]].clone()

    def nbytes(self, index: int) -> int:
        """Bytes of a sample."""
        return self._lengths[index]


class Vectors(Samples):
    """Tensors of float32, all of one length.

    Args:
        samples: number of samples.
        elements: of each sample.
        distinct: how many there are in memory; they take turns.
    """

    def __init__(self, samples: int, elements: int, distinct: int) -> None:
        random = np.random.default_rng(_SEED)
        vectors = torch.from_numpy(random.random((distinct, elements), dtype=np.float32))
        self._vectors: list[torch.Tensor] = list(vectors)
        self._samples = samples
        self._nbytes = 4 * elements

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._vectors[index % len(self._vectors)]

    def nbytes(self, index: int) -> int:
        """Bytes of a sample."""
        return self._nbytes


class Images(Samples):
    """Files decoded and brought to 224 x 224 as is usual in validation, as ``torchvision.datasets.ImageFolder`` would.

    Args:
        samples: number of samples.
        folder: of the files, looked through to its depth; they take turns.

    Raises:
        FileNotFoundError: there are no images in it.
    """

    def __init__(self, samples: int, folder: str) -> None:
        from torchvision.datasets.folder import IMG_EXTENSIONS, default_loader
        from torchvision.transforms import v2

        self._paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
        if not self._paths:
            raise FileNotFoundError(f"there are no images in {folder!r}")
        self._samples = samples
        self._load = default_loader
        steps = [v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        self._transform = v2.Compose([*steps, v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> torch.Tensor:
        path = self._paths[index % len(self._paths)]
        try:
            image: torch.Tensor = self._transform(self._load(str(path)))
        except OSError as error:  # PIL's own do not always say which file it is
            raise OSError(f"{path} cannot be decoded: {error}") from error
        return image

    def nbytes(self, index: int) -> int:
        """Bytes of a sample."""
        return 4 * 3 * 224 * 224


@dataclass(frozen=True)
class Workload:
    """Samples, and what becomes of them."""

    name: str
    samples: Samples
    stacked: bool
    """A batch is one tensor; else a list of tensors."""
    bar: float
    """How many times as fast as the stock loader torchdali is to be."""

    def order(self, batch_size: int, epoch: int) -> Order:
        """All samples once, shuffled by the epoch's number, in batches; the last one may be smaller."""
        indices: list[int] = np.random.default_rng((_SEED, epoch)).permutation(len(self.samples)).tolist()
        return [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]


def _scaled(samples: int, scale: float) -> int:
    return max(1, round(samples * scale))


def _blobs(scale: float) -> Workload:
    return Workload("blobs", Blobs(_scaled(2048, scale)), stacked=False, bar=8.0)


def _fixed(scale: float) -> Workload:
    return Workload("fixed", Vectors(_scaled(1024, scale), 150_000, distinct=64), stacked=True, bar=2.0)


def _small(scale: float) -> Workload:
    return Workload("small", Vectors(_scaled(32_768, scale), 512, distinct=4096), stacked=True, bar=1.5)


WORKLOADS: dict[str, Callable[[float], Workload]] = {"blobs": _blobs, "fixed": _fixed, "small": _small}
"""By name, functions that make a workload; their argument scales the number of samples in an epoch."""

IMAGES = "images"
"""Name of the workload that reads files."""


def images(scale: float, folder: str | None) -> Workload:
    """The workload that reads files, of a folder or the photographs that come along.

    Raises:
        FileNotFoundError: there are no images in the folder.
    """
    if folder is None:
        folder = str(Path(__file__).parent.parent / "photographs")
    return Workload(IMAGES, Images(_scaled(512, scale), folder), stacked=True, bar=1.0)
