"""nvJPEG, called without a library between: the fastest, where the GPU has a JPEG engine."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._cuda import CudaDecoder, drain
from torchdali.ops.decode._interface import BufferDecoder, ImageInfo, Mode
from torchdali.ops.decode._nvjpeg_library import EngineError, engine_of, library_path
from torchdali.ops.decode._torchvision import TorchvisionDecoder

__all__ = ["NvjpegDecoder"]

Integers: TypeAlias = npt.NDArray[np.int64]

_LEAST, _MOST = 64, 8192
"""Pixels of a side that an engine surely takes."""


class NvjpegDecoder(CudaDecoder, BufferDecoder):
    """Calls nvJPEG's batched decoder, which torchvision's decoder calls too, with the same pixels.

    Headers have been read before, so that nvJPEG need not be asked about each image, and a batch has one piece of memory. What
    engines do not take (progressive JPEGs, unusual scans, very small and very large ones), and all of it where the GPU has no
    engine, is torchvision's, or else the CPU's.
    """

    name = "nvjpeg"
    fewest_rows = _LEAST

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
        height, width = np.array([(info.height, info.width) for info in infos], np.int64).T
        baseline = np.array([info.baseline for info in infos], np.bool_)
        taken = baseline & self.sizes_suit(height, width, device)
        engine = engine_of(device)
        if engine is not None and taken.any():
            whole = [file.contiguous() for file, take in zip(files, taken, strict=True) if take]
            addresses = np.array([file.data_ptr() for file in whole], np.int64)
            lengths = np.array([file.numel() for file in whole], np.int64)
            channels = 1 if mode == "GRAY" else 3
            sizes = height[taken], width[taken]
            buffer, starts = engine.decode(addresses, lengths, *sizes, sizes[1], channels)
            if buffer.device.type == "cuda":
                buffer.record_stream(torch.cuda.current_stream(device))
                drain(device)  # see DecodeImage._at_once
            places = zip(
                np.flatnonzero(taken).tolist(), starts.tolist(), *(size.tolist() for size in sizes), strict=True
            )
            for n, start, h, w in places:
                images[n] = buffer.as_strided((channels, h, w), (h * w, w, 1), start)
        others = np.flatnonzero(~taken).tolist()
        if others and self._others is not None:
            rest = self._others.decode_jpegs([files[n] for n in others], [infos[n] for n in others], mode, device)
            for n, other in zip(others, rest, strict=True):
                images[n] = other
        return images

    def sizes_suit(self, heights: Integers, widths: Integers, device: torch.device) -> npt.NDArray[np.bool_]:
        """See :meth:`BufferDecoder.sizes_suit`."""
        if engine_of(device) is None:
            return np.zeros(len(heights), np.bool_)
        sides = np.stack([heights, widths])
        suit: npt.NDArray[np.bool_] = (sides.min(0) >= _LEAST) & (sides.max(0) <= _MOST)
        return suit

    def decode_into_buffer(
        self,
        addresses: Integers,
        lengths: Integers,
        heights: Integers,
        widths: Integers,
        pitches: Integers,
        channels: int,
        device: torch.device,
    ) -> tuple[torch.Tensor, Integers] | None:
        """See :meth:`BufferDecoder.decode_into_buffer`."""
        engine = engine_of(device)
        assert engine is not None
        try:
            return engine.decode(addresses, lengths, heights, widths, pitches, channels)
        except EngineError:
            return None
