"""DALI as an engine: its parallel external source, decoding and operators on the device."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from torchdali.bench._jpeg_feeds import CONTRAST, MEAN, STD, TRAINING, Feed, FeedPlan, Files, MissingEngineError

__all__ = ["FEED"]

_THREADS = 8
_DEPTH = 2


class _Source:
    """Reads one file a call."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def __call__(self, info: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        data, label = self.files.read(info.idx_in_epoch)
        return data, np.array([label])


class DaliFeed(Feed):
    """A ``nvidia.dali.Pipeline``; on the CPU where there is no CUDA device.

    Raises:
        MissingEngineError: DALI is not installed.
    """

    def __init__(self, plan: FeedPlan) -> None:
        super().__init__(plan)
        try:
            self._dali = importlib.import_module("nvidia.dali")
            self._fn = importlib.import_module("nvidia.dali.fn")
            self._plugin = importlib.import_module("nvidia.dali.plugin.pytorch") if plan.channels_last else None
        except ImportError as error:
            raise MissingEngineError(
                f"nvidia.dali cannot be imported ({error}): pip install nvidia-dali-cuda130, or name a folder into "
                "which it was installed (pip install --target) with --dali-path"
            ) from None
        self.versions = {"DALI": str(self._dali.__version__)}
        self._pipeline: Any = None

    def start(self) -> None:
        """Define the pipeline and fork its workers."""
        on_gpu = self.device.type == "cuda"
        self._pipeline = self._dali.Pipeline(
            self.plan.batch_size,
            num_threads=_THREADS if on_gpu else len(os.sched_getaffinity(0)),
            device_id=(self.device.index or 0) if on_gpu else None,
            py_num_workers=self.plan.workers,
            py_start_method="fork",
            prefetch_queue_depth=_DEPTH,
        )
        with self._pipeline:
            images, labels = self._graph("mixed" if on_gpu else "cpu")
            self._pipeline.set_outputs(images, labels.gpu() if on_gpu else labels)
        self._pipeline.start_py_workers()

    def _graph(self, decoder: str) -> tuple[Any, Any]:
        fn, types, plan = self._fn, self._dali.types, self.plan
        jpegs, labels = fn.external_source(
            source=_Source(Files(plan.data)), num_outputs=2, batch=False, parallel=True, prefetch_queue_depth=_DEPTH
        )
        contrast = fn.random.uniform(range=CONTRAST)
        if plan.job != TRAINING:
            return fn.brightness_contrast(fn.decoders.image(jpegs, device=decoder), contrast=contrast), labels
        images = fn.decoders.image_random_crop(jpegs, device=decoder)
        images = fn.brightness_contrast(fn.resize(images, size=(plan.size, plan.size)), contrast=contrast)
        images = fn.crop_mirror_normalize(
            images,
            mirror=fn.random.coin_flip(),
            mean=list(MEAN),
            std=list(STD),
            dtype=types.FLOAT16,
            output_layout="HWC" if plan.channels_last else "CHW",
        )
        return images, labels

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """DALI's own lists of tensors; torch's tensors where they are trained with."""
        self._pipeline.build()
        if self._plugin is None:
            while True:
                images, labels = self._pipeline.run()
                yield images, labels
        for (batch,) in self._plugin.DALIGenericIterator([self._pipeline], ["images", "labels"]):
            # (N, H, W, C) in memory is what torch calls channels last.
            yield batch["images"].permute(0, 3, 1, 2), batch["labels"].view(-1)

    def describe(self, images: Any) -> str:
        """As of a feed of torch's tensors."""
        if self._plugin is not None:
            return super().describe(images)
        kind = str(images.dtype).rsplit(".", 1)[-1].lower()  # as DALIDataType.FLOAT16
        if self.plan.job != TRAINING:
            return f"{len(images)} images, {kind}"
        return f"{'x'.join(map(str, (len(images), *images.shape()[0])))} {kind}"

    def close(self) -> None:
        """Leave the workers to the end of the process, as DALI does."""
        self._pipeline = None


FEED: type[Feed] = DaliFeed
