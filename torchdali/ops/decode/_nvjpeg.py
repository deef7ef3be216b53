"""nvJPEG, called without a library between: the fastest, where the GPU has a JPEG engine."""

from __future__ import annotations

import torch

from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._cuda import CudaDecoder
from torchdali.ops.decode._interface import ImageInfo, Mode
from torchdali.ops.decode._nvjpeg_library import engine_of, library_path
from torchdali.ops.decode._torchvision import TorchvisionDecoder

__all__ = ["NvjpegDecoder"]

_LEAST, _MOST = 64, 8192
"""Pixels of a side that an engine surely takes."""


class NvjpegDecoder(CudaDecoder):
    """Calls nvJPEG's batched decoder, which torchvision's decoder calls too, with the same pixels.

    Headers have been read before, so that nvJPEG need not be asked about each image, and a batch has one piece of memory. What
    engines do not take (progressive JPEGs, unusual scans, very small and very large ones), and all of it where the GPU has no
    engine, is torchvision's, or else the CPU's.
    """

    name = "nvjpeg"

    def __init__(self, cpu: CpuDecoder) -> None:
        super().__init__(cpu)
        self._others = TorchvisionDecoder(cpu) if TorchvisionDecoder.is_there() else None

    @staticmethod
    def is_there() -> bool:
        """Whether the library is; it is not loaded."""
        return library_path() is not None

    def decode_jpegs(
        self, files: list[torch.Tensor], infos: list[ImageInfo], mode: Mode, device: torch.device
    ) -> list[torch.Tensor | None]:
        """See :meth:`CudaDecoder.decode_jpegs`."""
        images: list[torch.Tensor | None] = [None] * len(files)
        engine = engine_of(device)
        taken = [n for n, info in enumerate(infos) if engine is not None and _suits(info)]
        if engine is not None and taken:
            decoded = engine.decode(
                [files[n].contiguous() for n in taken],
                [(infos[n].height, infos[n].width) for n in taken],
                1 if mode == "GRAY" else 3,
                torch.cuda.current_stream(device),
            )
            for n, image in zip(taken, decoded, strict=True):
                images[n] = image
        others = sorted(set(range(len(files))) - set(taken))
        if others and self._others is not None:
            rest = self._others.decode_jpegs([files[n] for n in others], [infos[n] for n in others], mode, device)
            for n, other in zip(others, rest, strict=True):
                images[n] = other
        return images


def _suits(info: ImageInfo) -> bool:
    return info.baseline and min(info.height, info.width) >= _LEAST and max(info.height, info.width) <= _MOST
