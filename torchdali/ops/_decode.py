"""JPEGs to pixels, on the GPU's JPEG engine or on all CPU cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torchvision.io  # noqa: F401  registers torch.ops.image
from torchvision.io import ImageReadMode

from torchdali.errors import DecodeError
from torchdali.ops._context import current_batch, describe_sample
from torchdali.ops._jpeg import JpegInfo, NotAJpegError, inspect
from torchdali.ops._operator import Operator
from torchdali.ops._threads import parallel_map
from torchdali.tensorlist import TensorList

__all__ = ["DecodeImage"]

_GPU_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive Huffman; what else there is goes to the CPU


def _orient(image: torch.Tensor, orientation: int) -> torch.Tensor:
    """Turn a (C, H, W) image upright; the meaning of 1 to 8: Exif 2.3, tag Orientation."""
    if orientation >= 5:
        image = image.transpose(1, 2)
    # After the transposition of 5 to 8, what is left is a flip of the rows, of the columns, or of both.
    rows = orientation in (3, 4, 7, 8)
    columns = orientation in (2, 3, 6, 7)
    dims = [dim for dim, flip in ((1, rows), (2, columns)) if flip]
    return image.flip(dims) if dims else image


class DecodeImage(Operator):
    """Decode a batch of JPEGs.

    Args:
        mode: ``"RGB"``: three channels, grayscale repeated in each, CMYK converted. ``"GRAY"``: one channel.
        layout: ``"CHW"``, or ``"HWC"`` for the same pixels with the channels last.
        device: where to decode and leave the images; None: the pipeline's device, outside a pipeline the CPU.
        apply_exif_orientation: turn images upright as their Exif orientation says.

    On a CUDA device the whole batch goes to torchvision's decoder, which uses the JPEG engine where the GPU has one; what
    that cannot decode (CMYK, arithmetic coding) is decoded on the CPU and copied. On the CPU images are decoded in parallel
    threads. The two differ by a few grey levels where chroma is upsampled and colours are rounded.
    """

    def __init__(
        self,
        mode: Literal["RGB", "GRAY"] = "RGB",
        layout: Literal["CHW", "HWC"] = "CHW",
        *,
        device: torch.device | str | None = None,
        apply_exif_orientation: bool = True,
    ) -> None:
        super().__init__()
        if mode not in ("RGB", "GRAY"):
            raise ValueError(f'mode is {mode!r}; it is "RGB" or "GRAY"')
        if layout not in ("CHW", "HWC"):
            raise ValueError(f'layout is {layout!r}; it is "CHW" or "HWC"')
        self.mode: Literal["RGB", "GRAY"] = mode
        self.layout: Literal["CHW", "HWC"] = layout
        self.device = None if device is None else torch.device(device)
        self.apply_exif_orientation = apply_exif_orientation

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        device = "" if self.device is None else f", device={self.device}"
        return f"mode={self.mode}, layout={self.layout}{device}"

    def forward(self, jpegs: TensorList | Sequence[torch.Tensor]) -> TensorList:
        """Decode.

        Args:
            jpegs: N one-dimensional uint8 CPU tensors, each a whole file.

        Returns:
            N uint8 images of shape (C, H, W) or (H, W, C).

        Raises:
            DecodeError: an image is no JPEG, or not a whole one; the message names the sample.
            TypeError: an input is no one-dimensional uint8 CPU tensor.
        """
        files = list(jpegs)
        infos = [self._inspect(position, file) for position, file in enumerate(files)]
        device = self._target()
        images = self._decode_on_gpu(files, infos, device) if device.type == "cuda" else self._decode_on_cpu(files)
        if self.apply_exif_orientation:
            images = [
                image if info.orientation == 1 else _orient(image, info.orientation)
                for image, info in zip(images, infos, strict=True)
            ]
        if self.layout == "HWC":
            images = [image.permute(1, 2, 0) for image in images]
        return TensorList(images, self.layout, dtype=torch.uint8, device=device)

    def _target(self) -> torch.device:
        context = current_batch()
        device = self.device
        if device is None:
            device = context.device if context else torch.device("cpu")
        if device.type == "cuda" and device.index is None:
            # The decoder is rebuilt whenever the device it is given differs, and "cuda" differs from "cuda:0".
            device = torch.device("cuda", torch.cuda.current_device())
        return device

    def _inspect(self, position: int, file: torch.Tensor) -> JpegInfo:
        if file.dtype != torch.uint8 or file.dim() != 1 or file.device.type != "cpu":
            raise TypeError(
                f"{describe_sample(position)} is a {file.dtype} tensor of shape {tuple(file.shape)} on {file.device}; a file "
                "to decode is its bytes: a one-dimensional uint8 array in CPU memory"
            )
        try:
            return inspect(np.ascontiguousarray(file.numpy()).data)
        except NotAJpegError as error:
            raise self._bad(position, str(error)) from None

    def _bad(self, position: int, why: str) -> DecodeError:
        context = current_batch()
        index = int(context.indices[position]) if context and position < len(context.indices) else None
        return DecodeError(
            f"{describe_sample(position)} cannot be decoded as a JPEG: {why}", position=position, index=index
        )

    def _decode_one(self, numbered: tuple[int, torch.Tensor]) -> torch.Tensor:
        position, file = numbered
        try:
            # The operator that torchvision.io.decode_jpeg calls, which since 0.29 warns at each call that it will go.
            image: torch.Tensor = torch.ops.image.decode_jpeg(file, ImageReadMode[self.mode].value, False)
        except RuntimeError as error:
            raise self._bad(position, str(error).splitlines()[0]) from None
        return image

    def _decode_on_cpu(self, files: list[torch.Tensor]) -> list[torch.Tensor]:
        return parallel_map(self._decode_one, enumerate(files))

    def _decode_on_gpu(
        self, files: list[torch.Tensor], infos: list[JpegInfo], device: torch.device
    ) -> list[torch.Tensor]:
        suited = [n for n, info in enumerate(infos) if info.components in (1, 3) and info.frame in _GPU_FRAMES]
        others = [(n, files[n]) for n in sorted({*range(len(files))} - {*suited})]
        images: dict[int, torch.Tensor] = {}
        if suited:
            # The decoder writes on a stream of its own that does not wait for this one, into memory that kernels queued
            # here may still be using: nothing may be left to do when it starts.
            torch.cuda.current_stream(device).synchronize()
            try:
                decoded = torch.ops.image.decode_jpegs_cuda(
                    [files[n] for n in suited], ImageReadMode[self.mode].value, device
                )
                images.update(zip(suited, decoded, strict=True))
            except RuntimeError:
                # One image fails all of them, and the message does not say which: the CPU finds it, or decodes them.
                others = list(enumerate(files))
        for (n, _), image in zip(others, parallel_map(self._decode_one, others), strict=True):
            images[n] = image.to(device)
        return [images[n] for n in range(len(files))]
