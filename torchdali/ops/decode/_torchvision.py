"""torchvision's JPEG decoder for CUDA, which uses the JPEG engine where the GPU has one."""

from __future__ import annotations

import torch

from torchdali.ops.decode._codecs import has_torchvision
from torchdali.ops.decode._cuda import CudaDecoder, drained
from torchdali.ops.decode._interface import ImageInfo, Mode

__all__ = ["TorchvisionDecoder"]


class TorchvisionDecoder(CudaDecoder):
    """Calls ``torch.ops.image.decode_jpegs_cuda``."""

    name = "torchvision"

    @staticmethod
    def is_there() -> bool:
        """Whether this torchvision still has it."""
        return has_torchvision("decode_jpegs_cuda")

    def decode_jpegs(
        self, files: list[torch.Tensor], infos: list[ImageInfo], mode: Mode, device: torch.device
    ) -> list[torch.Tensor | None]:
        """See :meth:`CudaDecoder.decode_jpegs`."""
        files = [file.contiguous() for file in files]
        with drained(device):  # the decoder writes on a stream of its own
            images: list[torch.Tensor | None] = torch.ops.image.decode_jpegs_cuda(
                files, 1 if mode == "GRAY" else 3, device
            )
        return images
