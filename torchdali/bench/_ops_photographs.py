"""The batch that operators work on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from torchdali.ops.decode import DecodeImage
from torchdali.tensorlist import TensorList

__all__ = ["photographs"]


def photographs(folder: str | None, count: int, device: torch.device) -> TensorList:
    """Decoded photographs that differ in size, each in memory of its own, as a decoder hands them on.

    Args:
        folder: looked through to its depth; None: the photographs that come along.
        count: how many; where there are fewer files they take turns.
        device: where they are decoded.

    Returns:
        uint8 images of shape (3, H, W).

    Raises:
        FileNotFoundError: there are no images in the folder.
        DecodeError: one cannot be decoded.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    place = Path(__file__).parent.parent / "photographs" if folder is None else Path(folder)
    paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
    if not paths:
        raise FileNotFoundError(f"there are no images in {folder!r}")
    files = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in paths[:count]]
    chosen = [number % len(files) for number in range(count)]
    images = DecodeImage(device=device)([files[number] for number in chosen], names=[str(paths[n]) for n in chosen])
    assert isinstance(images, TensorList)
    return images
