"""torchdali as an engine: a callable source of files in workers, decoding and operators on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchdali import ops
from torchdali.bench._jpeg_feeds import CONTRAST, MEAN, STD, TRAINING, Feed, Files
from torchdali.pipeline import Pipeline
from torchdali.source import ExternalSource, SampleInfo
from torchdali.tensorlist import TensorList

__all__ = ["FEED"]


class _Source:
    """Reads one file a call."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def __call__(self, info: SampleInfo) -> tuple[npt.NDArray[np.uint8], np.int64]:
        return self.files.read(info.idx_in_epoch)


class _Tutorial(Pipeline):
    """Decoded images with a contrast drawn for each."""

    def __init__(self, source: ExternalSource, **options: Any) -> None:
        super().__init__(source, **options)
        self.decode = ops.DecodeImage()
        self.contrast = ops.BrightnessContrast(contrast=ops.Uniform(*CONTRAST))

    def forward(self, jpegs: TensorList, labels: TensorList) -> tuple[Any, torch.Tensor]:
        """Images of any sizes, and labels of shape (N,)."""
        return self.contrast(self.decode(jpegs)), labels.as_tensor()


class _Training(Pipeline):
    """What a network is trained with."""

    def __init__(self, source: ExternalSource, size: int, *, channels_last: bool, **options: Any) -> None:
        super().__init__(source, **options)
        self.decode = ops.DecodeRandomCrop()
        self.prepare = ops.Fused(
            ops.Resize(size),
            ops.BrightnessContrast(contrast=ops.Uniform(*CONTRAST)),
            ops.CropMirrorNormalize(mirror=ops.CoinFlip(), mean=MEAN, std=STD, dtype=torch.float16),
            channels_last=channels_last,
        )

    def forward(self, jpegs: TensorList, labels: TensorList) -> tuple[torch.Tensor, torch.Tensor]:
        """Images of shape (N, 3, H, W), and labels of shape (N,)."""
        return self.prepare(self.decode(jpegs)).as_tensor(), labels.as_tensor()


class TorchdaliFeed(Feed):
    """A :class:`torchdali.Pipeline`."""

    _pipeline: Pipeline | None = None

    def start(self) -> None:
        """Fork the workers."""
        plan = self.plan
        source = ExternalSource(_Source(Files(plan.data)), num_outputs=2)
        options = {
            "batch_size": plan.batch_size,
            "num_workers": plan.workers,
            "device": plan.device,
            **plan.options,
        }
        if plan.job == TRAINING:
            self._pipeline = _Training(source, plan.size, channels_last=plan.channels_last, **options)
        else:
            self._pipeline = _Tutorial(source, **options)
        self._pipeline.start_py_workers()

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """What the pipeline makes."""
        assert self._pipeline is not None
        return iter(self._pipeline)

    def close(self) -> None:
        """End the workers."""
        if self._pipeline is not None:
            self._pipeline.close()

    def stalled(self) -> float:
        """As the pipeline's statistics have it."""
        assert self._pipeline is not None
        return self._pipeline.statistics().stall_seconds


FEED: type[Feed] = TorchdaliFeed
