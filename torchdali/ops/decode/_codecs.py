"""The libraries' functions for one image on the CPU: torchvision's, or torchcodec's where torchvision has none any more."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torchvision.io  # noqa: F401  registers torch.ops.image

from torchdali.ops.decode._interface import CannotDecodeError, ImageInfo, Mode

__all__ = ["Codecs", "as_stored", "codecs", "decode_avif", "has_torchvision", "is_installed"]

_MODES = {"UNCHANGED": 0, "GRAY": 1, "RGB": 3}
"""torchvision's ImageReadMode."""


class Codecs(NamedTuple):
    """Functions of a whole file and a mode; each gives uint8 or uint16 (C, H, W), or frames of them."""

    jpeg: Callable[[torch.Tensor, ImageInfo, Mode], torch.Tensor]
    png: Callable[[torch.Tensor, Mode], torch.Tensor]
    webp: Callable[[torch.Tensor, Mode], torch.Tensor]
    gif: Callable[[torch.Tensor], torch.Tensor]


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def has_torchvision(operator: str = "decode_jpeg") -> bool:
    """Whether torchvision still has an operator; its decoders have been deprecated since 0.29."""
    return hasattr(torch.ops.image, operator)


def as_stored(file: torch.Tensor, info: ImageInfo) -> torch.Tensor:
    """A JPEG without its Exif segments, for decoders that would turn it upright by themselves."""
    if not info.exif:
        return file
    starts, ends = zip(*info.exif, strict=True)
    return torch.cat([file[a:b] for a, b in zip((0, *ends), (*starts, len(file)), strict=True)])


def _torchvision() -> Codecs:
    # The operators that torchvision.io calls, whose own functions have warned at each call since 0.29 that they will go.
    image = torch.ops.image
    return Codecs(
        jpeg=lambda file, info, mode: image.decode_jpeg(file, _MODES[mode], False),
        png=lambda file, mode: image.decode_png(file, _MODES[mode], False),
        webp=lambda file, mode: image.decode_webp(file, _MODES[mode]),
        gif=image.decode_gif,
    )


def _torchcodec() -> Codecs:
    decoders: Any = importlib.import_module("torchcodec.decoders")

    def jpeg(file: torch.Tensor, info: ImageInfo, mode: Mode) -> torch.Tensor:
        image: torch.Tensor = decoders.decode_jpeg(as_stored(file, info), mode=mode)
        return 255 - image if image.shape[0] == 4 else image  # it inverts CMYK, which Adobe's programs store inverted

    return Codecs(
        jpeg=jpeg,
        png=lambda file, mode: decoders.decode_png(file, mode=mode, output_dtype="auto"),
        webp=lambda file, mode: decoders.decode_webp(file, mode=mode),
        gif=decoders.decode_gif,
    )


@functools.lru_cache
def codecs(preferred: str = "torchvision") -> Codecs:
    """The functions of ``"torchvision"`` or ``"torchcodec"``, of the other one where that is not there.

    Raises:
        ImportError: neither is.
    """
    if is_installed("torchcodec") and (preferred == "torchcodec" or not has_torchvision()):
        return _torchcodec()
    if has_torchvision():
        return _torchvision()
    raise ImportError(
        "images cannot be decoded: this torchvision has no image decoders, and torchcodec, which has them, is not installed; "
        "pip install 'torchdali[torchcodec]'"
    )


def decode_avif(file: torch.Tensor, mode: Mode) -> torch.Tensor:
    """Decode an AVIF with one of the two packages that can.

    Raises:
        CannotDecodeError: neither is installed.
    """
    if is_installed("torchvision_extra_decoders"):
        importlib.import_module("torchvision_extra_decoders").expose_extra_decoders()
        image: torch.Tensor = torch.ops.extra_decoders_ns.decode_avif(file, _MODES[mode])
        return image
    if is_installed("torchcodec"):
        decoded: torch.Tensor = importlib.import_module("torchcodec.decoders").decode_avif(file, mode=mode)
        return decoded
    raise CannotDecodeError(
        "it is an AVIF, which needs another package: pip install torchvision-extra-decoders, or 'torchdali[torchcodec]'"
    )
