"""torch's DataLoader as an engine, in the ways in which it can share the work with the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from torchdali.bench._jpeg_feeds import CONTRAST, MEAN, STD, TRAINING, Feed, FeedPlan, Files
from torchdali.bench._jpeg_variants import CROPPED, IN_MAIN

__all__ = ["FEED"]

_ENDLESS = 10**8
_CENTER = 128.0
_LEVELS = 255

Images: TypeAlias = list[torch.Tensor]


class _Dataset(Dataset[tuple[torch.Tensor, int]]):
    """Files, with what is done to each in the worker."""

    def __init__(self, files: Files, finish: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.files, self.finish = files, finish

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        data, label = self.files.read(index)
        return self.finish(torch.from_numpy(data)), int(label)


def _lists(samples: Sequence[tuple[torch.Tensor, int]]) -> tuple[Images, torch.Tensor]:
    """A batch whose images differ in shape."""
    return [image for image, _ in samples], torch.tensor([label for _, label in samples])


def _unchanged(data: torch.Tensor) -> torch.Tensor:
    return data


def _decoded(data: torch.Tensor) -> torch.Tensor:
    image: torch.Tensor = decode_jpeg(data, mode=ImageReadMode.RGB)
    return image


class TorchFeed(Feed):
    """A ``torch.utils.data.DataLoader`` whose workers read, decode, or decode and crop; the device does the rest."""

    def __init__(self, plan: FeedPlan) -> None:
        super().__init__(plan)
        warnings.filterwarnings("ignore")  # of torchvision, on each call of its GPU decoder
        self.turn = plan.workers
        self._on_gpu = self.device.type == "cuda"
        self._crop = v2.RandomResizedCrop(plan.size, antialias=True)
        self._loader: DataLoader[Any] | None = None
        self._iterator: Iterator[Any] | None = None

    def start(self) -> None:
        """Fork the workers."""
        plan = self.plan
        finish = {IN_MAIN: _unchanged, CROPPED: self._cropped}.get(plan.variant, _decoded)
        self._loader = DataLoader(
            _Dataset(Files(plan.data), finish),
            plan.batch_size,
            num_workers=plan.workers,
            collate_fn=None if plan.variant == CROPPED else _lists,
            pin_memory=self._on_gpu,
            multiprocessing_context="fork",
            prefetch_factor=2,
        )
        self._iterator = iter(self._loader)

    def _cropped(self, data: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self._crop(_decoded(data))
        return image

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """What the workers hand over, with the rest of the job done on the device."""
        assert self._iterator is not None
        for images, labels in self._iterator:
            yield self._rest(images), labels.to(self.device, non_blocking=True)

    def _rest(self, images: Any) -> Any:
        plan = self.plan
        if plan.variant == IN_MAIN:
            images = self._decode(images)
        elif plan.variant != CROPPED:
            images = [image.to(self.device, non_blocking=True) for image in images]
        count = len(images)
        factors = torch.empty(count).uniform_(*CONTRAST)
        if plan.job != TRAINING:
            return [
                ((image.float() - _CENTER) * factor + _CENTER).clamp_(0, _LEVELS).to(torch.uint8)
                for image, factor in zip(images, factors.tolist(), strict=True)
            ]
        if plan.variant == CROPPED:
            images = images.to(self.device, non_blocking=True)
        else:
            images = torch.stack([self._crop(image) for image in images])
        factors = factors.view(-1, 1, 1, 1).to(self.device, non_blocking=True)
        images = ((images.float() - _CENTER) * factors + _CENTER).clamp_(0, _LEVELS)
        mirrored = torch.rand(count, 1, 1, 1, device=self.device) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (MEAN, STD))
        images = ((images - mean) / std).half()
        return images.contiguous(memory_format=torch.channels_last) if plan.channels_last else images

    def _decode(self, files: Images) -> Images:
        if self._on_gpu:
            # The decoder does not wait for this stream, and may get memory that its kernels still use.
            torch.cuda.current_stream(self.device).synchronize()
        images: Images = decode_jpeg(files, mode=ImageReadMode.RGB, device=self.device)
        return images

    def close(self) -> None:
        """End the workers."""
        self._iterator = self._loader = None


FEED: type[Feed] = TorchFeed
