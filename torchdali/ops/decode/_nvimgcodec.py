"""nvImageCodec, the decoder under DALI's; it has an answer for each image of a batch, None for one that it refuses."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from torchdali.ops.decode._codecs import is_installed
from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._cuda import CudaDecoder, drain
from torchdali.ops.decode._interface import ImageInfo, Mode

__all__ = ["NvimgcodecDecoder"]


class NvimgcodecDecoder(CudaDecoder):
    """Calls ``nvidia.nvimgcodec.Decoder.decode``, on the caller's stream."""

    name = "nvimgcodec"

    def __init__(self, cpu: CpuDecoder) -> None:
        super().__init__(cpu)
        self._decoders: dict[int, Any] = {}  # by index of the device

    @staticmethod
    def is_there() -> bool:
        """Whether it is installed."""
        return is_installed("nvidia.nvimgcodec")

    def __getstate__(self) -> dict[str, Any]:
        """Without the library's objects, which are made again where they are needed."""
        return {**self.__dict__, "_decoders": {}}

    def decode_jpegs(
        self, files: list[torch.Tensor], infos: list[ImageInfo], mode: Mode, device: torch.device
    ) -> list[torch.Tensor | None]:
        """See :meth:`CudaDecoder.decode_jpegs`."""
        library: Any = importlib.import_module("nvidia.nvimgcodec")
        if device.index not in self._decoders:
            self._decoders[device.index] = library.Decoder(device_id=device.index)
        params = library.DecodeParams(
            apply_exif_orientation=False,
            color_spec=library.ColorSpec.GRAY if mode == "GRAY" else library.ColorSpec.SRGB,
        )
        drain(
            device
        )  # copies of the last batch, whose memory the library may give to an engine, which does not wait for them
        images = self._decoders[device.index].decode(
            [file.numpy().tobytes() for file in files],
            params=params,
            cuda_stream=torch.cuda.current_stream(device).cuda_stream,
        )
        return [None if image is None else _own(image) for image in images]


def _own(image: Any) -> torch.Tensor:
    """(C, H, W) in torch's memory: the library's is given back without regard to the streams that still read it."""
    shared = from_dlpack(image)
    if shared.dim() == 2:
        shared = shared[:, :, None]
    return shared.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
