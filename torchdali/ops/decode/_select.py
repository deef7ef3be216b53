"""Which decoder is used."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch

from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._cuda import CudaDecoder
from torchdali.ops.decode._interface import Decoder
from torchdali.ops.decode._nvimgcodec import NvimgcodecDecoder
from torchdali.ops.decode._nvjpeg import NvjpegDecoder
from torchdali.ops.decode._torchcodec import TorchcodecDecoder
from torchdali.ops.decode._torchvision import TorchvisionDecoder

__all__ = ["DecoderName", "check_decoder", "cpu_library", "select_decoder"]

DecoderName: TypeAlias = Literal["auto", "nvjpeg", "torchvision", "torchcodec", "nvimgcodec", "cpu"]

_ON_CUDA: tuple[
    type[NvjpegDecoder] | type[TorchvisionDecoder] | type[TorchcodecDecoder] | type[NvimgcodecDecoder], ...
] = (
    NvjpegDecoder,
    TorchvisionDecoder,
    TorchcodecDecoder,
    NvimgcodecDecoder,
)
"""In the order in which they are tried."""

_REMEDIES = {
    "nvjpeg": "nvJPEG was not found, which comes with torchvision's CUDA builds; install one, or pip install nvidia-nvjpeg-cu12 "
    "(for CUDA 12) or nvidia-nvjpeg (for CUDA 13)",
    "torchvision": "this torchvision has no JPEG decoder for CUDA; install one that has it, or take another decoder",
    "torchcodec": "torchcodec is not installed; pip install 'torchdali[torchcodec]'",
    "nvimgcodec": "nvImageCodec is not installed; pip install 'torchdali[nvimgcodec]' (for CUDA 13; for CUDA 12: "
    "pip install 'nvidia-nvimgcodec-cu12[nvjpeg]')",
}


def check_decoder(name: str) -> None:
    """See that there is a decoder of that name; nothing is imported.

    Raises:
        ValueError: there is no such name.
        ImportError: it is not installed; the message says how to.
    """
    if name not in get_args(DecoderName):
        raise ValueError(f"decoder is {name!r}; it is one of {', '.join(map(repr, get_args(DecoderName)))}")
    for candidate in _ON_CUDA:
        if candidate.name == name and not candidate.is_there():
            raise ImportError(f"decoder is {name!r}, but {_REMEDIES[name]}")


def cpu_library(name: str) -> str:
    """Whose functions decode on the CPU where the decoder of that name was chosen."""
    return "torchcodec" if name == "torchcodec" else "torchvision"


def select_decoder(name: str, device: torch.device) -> Decoder:
    """The decoder of that name for a device.

    ``"auto"`` is on a CUDA device the first of nvjpeg, torchvision, torchcodec and nvimgcodec that is there. On a CPU device
    images are always decoded by the CPU decoder, with torchcodec's functions if that was named.

    Raises:
        ImportError: it is not installed.
    """
    check_decoder(name)
    cpu = CpuDecoder(cpu_library(name))
    if device.type != "cuda" or name == "cpu":
        return cpu
    found: CudaDecoder | None = next(
        (candidate(cpu) for candidate in _ON_CUDA if name in ("auto", candidate.name) and candidate.is_there()), None
    )
    return cpu if found is None else found
