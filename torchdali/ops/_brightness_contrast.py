"""Brightness and contrast, by DALI's formula.

    out = brightness_shift * range + brightness * (center + contrast * (in - center))

Source: NVIDIA DALI's documentation of ``fn.brightness_contrast``. ``range`` is 1 for floating-point output and the type's
maximum for integers; ``center`` comes from the type of the input: 0.5 for floating point, 128 for uint8, 2**(bits - 2)
for signed integers. Integer output is rounded half to even and clamped to the type.

For 8-bit input there are 256 results a sample: a table of them is made in double precision and looked up, which gives the
rounded result of the exact formula for every pixel on every device.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import Argument, per_sample
from torchdali.ops._operator import Operator
from torchdali.ops._threads import parallel_map
from torchdali.tensorlist import TensorList

__all__ = ["BrightnessContrast", "brightness_contrast_reference", "default_contrast_center"]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PIECE = 4096
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def default_contrast_center(dtype: torch.dtype) -> float:
    """The value that contrast leaves as it is, for an input type."""
    if dtype.is_floating_point:
        return 0.5
    if dtype == torch.uint8:
        return 128.0
    return float(2 ** (torch.iinfo(dtype).bits - 2))


def _full_range(dtype: torch.dtype) -> float:
    return 1.0 if dtype.is_floating_point else float(torch.iinfo(dtype).max)


def _convert(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point:
        return values.to(dtype)
    limits = torch.iinfo(dtype)
    if dtype == torch.int64:  # its maximum has no double: what would round beyond it is cut before
        limits_max = float(np.nextafter(float(limits.max), 0.0))
    else:
        limits_max = float(limits.max)
    return values.round().clamp(float(limits.min), limits_max).to(dtype)


def brightness_contrast_reference(
    image: torch.Tensor,
    brightness: float = 1.0,
    contrast: float = 1.0,
    brightness_shift: float = 0.0,
    contrast_center: float | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The formula in double precision on one tensor of any shape: the definition of :class:`BrightnessContrast`."""
    dtype = dtype or image.dtype
    center = default_contrast_center(image.dtype) if contrast_center is None else contrast_center
    values = center + contrast * (image.to(torch.float64) - center)
    return _convert(brightness_shift * _full_range(dtype) + brightness * values, dtype)


def _memory_order(image: torch.Tensor) -> list[int]:
    """The dimensions from the slowest to the fastest in memory."""
    return sorted(range(image.dim()), key=lambda dim: (image.stride(dim), image.shape[dim]), reverse=True)


class BrightnessContrast(Operator):
    """Change brightness and contrast.

    Args:
        brightness: multiplies all, 1 leaves it as it is.
        contrast: multiplies the distance from the centre, 1 leaves it as it is, 0 makes everything equal to the centre.
        brightness_shift: added last, in units of the output's full range.
        contrast_center: what contrast leaves as it is; by default half of the input's range (see the module).
        dtype: of the output; by default the input's. Values are not rescaled between types.

    Each of the four is a number, one value for each sample, or a random operator such as :class:`Uniform`.
    """

    def __init__(
        self,
        brightness: Argument = 1.0,
        contrast: Argument = 1.0,
        brightness_shift: Argument = 0.0,
        contrast_center: Argument | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dtype is not None and dtype not in (*_INTEGERS, *_FLOATS):
            raise ValueError(f"dtype is {dtype}; it is one of {', '.join(map(str, (*_INTEGERS, *_FLOATS)))}")
        self.brightness = brightness
        self.contrast = contrast
        self.brightness_shift = brightness_shift
        self.contrast_center = contrast_center
        self.dtype = dtype

    def extra_repr(self) -> str:
        """The constant arguments, for ``print``; random ones are printed as submodules."""
        defaults = {"brightness": 1.0, "contrast": 1.0, "brightness_shift": 0.0, "contrast_center": None, "dtype": None}
        shown = {name: vars(self)[name] for name in defaults if name in vars(self)}
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value != defaults[name])

    def forward(
        self,
        images: TensorList | torch.Tensor,
        *,
        brightness: Argument | None = None,
        contrast: Argument | None = None,
        brightness_shift: Argument | None = None,
        contrast_center: Argument | None = None,
    ) -> TensorList | torch.Tensor:
        """Apply to a batch.

        Args:
            images: a TensorList of N tensors of any shape, or a tensor of shape (N, ...); integers or floating point.
            brightness, contrast, brightness_shift, contrast_center: instead of the module's own.

        Returns:
            The same kind of batch, same shapes and device.

        Raises:
            TypeError: the images' type has no brightness (bool, complex).
            ValueError: an argument has another number of values than there are samples.
        """
        batch = images if isinstance(images, TensorList) else TensorList.from_batch(images)
        if batch.dtype not in (*_INTEGERS, *_FLOATS):
            raise TypeError(f"images of type {batch.dtype} have no brightness; integers and floating point have")
        count = len(batch)
        center = self.contrast_center if contrast_center is None else contrast_center
        if center is None:
            center = default_contrast_center(batch.dtype)
        parameters = np.stack(
            [
                per_sample(self.brightness if brightness is None else brightness, count, "brightness"),
                per_sample(self.contrast if contrast is None else contrast, count, "contrast"),
                per_sample(
                    self.brightness_shift if brightness_shift is None else brightness_shift, count, "brightness_shift"
                ),
                per_sample(center, count, "contrast_center"),
            ]
        )
        if not np.isfinite(parameters).all():
            raise ValueError("brightness, contrast, brightness_shift and contrast_center have to be finite numbers")
        dtype = self.dtype or batch.dtype
        if batch.dtype == torch.uint8:
            results = _look_up(list(batch), parameters, dtype)
        else:
            rows: list[list[float]] = parameters.T.tolist()
            results = [
                brightness_contrast_reference(image, row[0], row[1], row[2], row[3], dtype)
                for image, row in zip(batch, rows, strict=True)
            ]
        output = TensorList(results, batch.layout, dtype=dtype, device=batch.device)
        return output if isinstance(images, TensorList) else output.as_tensor()


def _look_up(images: list[torch.Tensor], parameters: npt.NDArray[np.float64], dtype: torch.dtype) -> list[torch.Tensor]:
    """Apply to uint8 images by a table for each."""
    if not images:
        return []
    levels = torch.arange(256, dtype=torch.float64)
    brightness, contrast, shift, center = (torch.from_numpy(row)[:, None] for row in parameters)
    tables = _convert(shift * _full_range(dtype) + brightness * (center + contrast * (levels - center)), dtype)
    # Elementwise: work through each image in the order of its memory, whatever its dimensions are called.
    orders = [_memory_order(image) for image in images]
    flat = [image.permute(order).reshape(-1) for image, order in zip(images, orders, strict=True)]
    device = images[0].device
    if device.type == "cpu":
        looked_up = parallel_map(lambda pair: _look_up_one(*pair), list(zip(flat, tables, strict=True)))
    else:
        looked_up = _look_up_all(flat, tables.to(device))
    return [
        result.view([image.shape[dim] for dim in order]).permute([order.index(dim) for dim in range(image.dim())])
        for result, image, order in zip(looked_up, images, orders, strict=True)
    ]


def _look_up_one(values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    # NumPy's conversion stays on this thread, where torch's would start a team of threads in each of the caller's.
    return table.index_select(0, torch.from_numpy(values.numpy().astype(np.int32)))


def _look_up_all(flat: list[torch.Tensor], tables: torch.Tensor) -> list[torch.Tensor]:
    """All images in one go: a handful of launches for the batch instead of some for each image."""
    lengths = np.array([values.numel() for values in flat])
    # Each pixel's index is its level plus where its image's table begins. repeat_interleave works through a repetition on
    # few threads, so each image is repeated in many short pieces instead of one long one.
    pieces = -(-lengths // _PIECE)
    repeats = np.full(pieces.sum(), _PIECE)
    ends = np.cumsum(pieces)[pieces > 0] - 1
    repeats[ends] = (lengths - (pieces - 1) * _PIECE)[pieces > 0]
    starts = np.repeat(np.arange(len(flat), dtype=np.int32) * 256, pieces)
    device = tables.device
    index = torch.repeat_interleave(
        torch.from_numpy(starts).to(device), torch.from_numpy(repeats).to(device), output_size=int(lengths.sum())
    )
    index += torch.cat(flat)
    return list(tables.view(-1).index_select(0, index).split(lengths.tolist()))
