"""Sources and serial references that several tests compare with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.io import ImageReadMode

from torchdali import JpegFolder


def read_bytes(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.fromfile(path, np.uint8))


def decode_serially(path: Path, mode: str = "RGB", *, exif: bool = True) -> torch.Tensor:
    """(C, H, W) by torchvision on the CPU, one image alone."""
    image: torch.Tensor = torch.ops.image.decode_jpeg(read_bytes(path), ImageReadMode[mode].value, exif)
    return image


def enhance_serially(path: Path, contrast: float) -> np.ndarray:
    """(H, W, C): what the tutorial's pipelines make of a file, in double precision."""
    return brightness_contrast_by_hand(decode_serially(path).permute(1, 2, 0).numpy(), contrast)


def brightness_contrast_by_hand(image: np.ndarray, contrast: float) -> np.ndarray:
    """The formula for uint8, written out with NumPy."""
    values = 128.0 + np.float64(contrast) * (image.astype(np.float64) - 128.0)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class Files:
    """A picklable stand-in for the tutorial's source, over any folder; raises at the end of its files."""

    def __init__(self, folder: Path):
        self.folder = JpegFolder(folder)

    def __call__(self, info):
        data, label = self.folder(info)
        return data, np.int32([label])


def through_interrupts(ask: Callable[[], Any]) -> tuple[list[Any], int]:
    """What is given until StopIteration, asked for again after each Ctrl-C, and how many of those there were."""
    given: list[Any] = []
    interrupts = 0
    while True:
        try:
            given.append(ask())
        except KeyboardInterrupt:
            interrupts += 1
        except StopIteration:
            return given, interrupts


__all__ = [
    "Files",
    "brightness_contrast_by_hand",
    "decode_serially",
    "enhance_serially",
    "read_bytes",
    "through_interrupts",
]
