"""Small random images, and operators applied to them in both layouts."""

import numpy as np
import torch

from torchdali import TensorList


def random_image(height=7, width=9, channels=3, dtype=torch.uint8, seed=0):
    """(C, H, W)."""
    rng = np.random.default_rng(seed)
    if dtype.is_floating_point:
        return torch.from_numpy(rng.uniform(-1, 2, (channels, height, width))).to(dtype)
    limits = torch.iinfo(dtype)
    values = rng.integers(max(limits.min, -30000), min(limits.max, 30000) + 1, (channels, height, width))
    return torch.from_numpy(values).to(dtype)


def batch(*sizes, dtype=torch.uint8, layout="CHW", channels=3):
    """A TensorList of random images of these heights and widths."""
    images = [random_image(*size, channels, dtype, seed) for seed, size in enumerate(sizes)]
    if layout == "HWC":
        images = [image.permute(1, 2, 0).contiguous() for image in images]
    return TensorList(images, layout)


def interleaved(images):
    """The same images, channels last in memory and in layout."""
    return TensorList([image.permute(1, 2, 0).contiguous() for image in images], "HWC")


def assert_same_in_both_layouts(operator, images, **arguments):
    """What an operator makes of images, seen to be the same for (H, W, C)."""
    planar = operator(images, **arguments)
    other = operator(interleaved(images), **arguments)
    assert planar.layout == "CHW"
    assert other.layout == "HWC"
    for first, second in zip(planar, other, strict=True):
        assert torch.equal(first, second.permute(2, 0, 1))
    return planar


def rounded(values, dtype):
    """Double precision to a type, by NumPy."""
    if dtype.is_floating_point:
        return torch.from_numpy(np.asarray(values)).to(dtype)
    limits = torch.iinfo(dtype)
    return torch.from_numpy(np.clip(np.rint(values), limits.min, limits.max)).to(dtype)


__all__ = ["assert_same_in_both_layouts", "batch", "interleaved", "random_image", "rounded"]
