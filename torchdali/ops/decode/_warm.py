"""What a decoder does once, done before the first batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torchvision.io import encode_jpeg

from torchdali.ops.decode._decode_image import DecodeImage
from torchdali.ops.decode._inspect import MAX_PIXELS, inspect

__all__ = ["warm_up_decoders"]

_SIDE = 64


def warm_up_decoders(module: nn.Module, device: torch.device) -> None:
    """Have the decoders within a module decode a small picture on a device, so that they and the device's context are made."""
    noise = np.random.default_rng(0).integers(0, 256, (3, _SIDE, _SIDE), np.uint8)  # not from the process's generators
    file = encode_jpeg(torch.from_numpy(noise))
    info = inspect(file.numpy().data, MAX_PIXELS)
    for operator in module.modules():
        if isinstance(operator, DecodeImage):
            target = operator.device or device
            if target.type == "cuda" and target.index is None:
                target = torch.device("cuda", torch.cuda.current_device())
            operator._decoder(target).decode([file], [info], operator.mode, target)
