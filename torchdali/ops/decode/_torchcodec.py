"""torchcodec's JPEG decoder for CUDA: the successor of torchvision's; needs torchcodec 0.16 or later."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from torchdali.ops.decode._codecs import as_stored, is_installed
from torchdali.ops.decode._cuda import CudaDecoder, drained
from torchdali.ops.decode._interface import ImageInfo, Mode

__all__ = ["TorchcodecDecoder"]


class TorchcodecDecoder(CudaDecoder):
    """Calls ``torchcodec.decoders.decode_jpeg``.

    It turns images upright as their Exif orientation says and cannot be told not to, so it never sees the Exif segments.
    """

    name = "torchcodec"

    @staticmethod
    def is_there() -> bool:
        """Whether it is installed."""
        return is_installed("torchcodec")

    def decode_jpegs(
        self, files: list[torch.Tensor], infos: list[ImageInfo], mode: Mode, device: torch.device
    ) -> list[torch.Tensor | None]:
        """See :meth:`CudaDecoder.decode_jpegs`."""
        decoders: Any = importlib.import_module("torchcodec.decoders")
        plain = [as_stored(file, info).contiguous() for file, info in zip(files, infos, strict=True)]
        with drained(device):  # 0.16 writes as torchvision's does; 0.17 waits by itself
            images: list[torch.Tensor | None] = decoders.decode_jpeg(plain, mode=mode, device=device)
        return images
