"""Brightness and contrast, by DALI's formula.

    out = brightness_shift * range + brightness * (center + contrast * (in - center))

Source: NVIDIA DALI's documentation of ``fn.brightness_contrast``. ``range`` is 1 for floating-point output and the type's
maximum for integers; ``center`` comes from the type of the input: 0.5 for floating point, 128 for uint8, 2**(bits - 2)
for signed integers. Integer output is rounded half to even and clamped to the type.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import Argument, check_argument, check_dtype, per_sample
from torchdali.ops._colour import Colour
from torchdali.ops._execute import execute
from torchdali.ops._geometry_arguments import shown
from torchdali.ops._operator import ImageOperator
from torchdali.ops._steps import FLOATS, INTEGERS, Sizes, convert, full_range
from torchdali.ops._uncompiled import uncompiled
from torchdali.tensorlist import TensorList

__all__ = ["BrightnessContrast", "brightness_contrast_reference", "default_contrast_center"]


def default_contrast_center(dtype: torch.dtype) -> float:
    """The value that contrast leaves as it is, for an input type."""
    if dtype.is_floating_point:
        return 0.5
    if dtype == torch.uint8:
        return 128.0
    return float(2 ** (torch.iinfo(dtype).bits - 2))


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
    return convert(brightness_shift * full_range(dtype) + brightness * values, dtype)


@dataclass(frozen=True, eq=False)
class _Contrast(Colour):
    """The same affine map, computed in the order in which the formula is written.

    In another order the last bit may differ, and with it what a result half-way between two integers is rounded to.
    """

    written: npt.NDArray[np.float64] = field(kw_only=True)
    """(N, 4): shift, brightness, contrast centre, contrast."""

    @property
    def terms(self) -> npt.NDArray[np.float64]:
        """As they are written."""
        return self.written

    def evaluate(self, values: torch.Tensor, position: int) -> torch.Tensor:
        """The formula, without conversion."""
        shift, brightness, center, contrast = self.written[position].tolist()
        result: torch.Tensor = shift + brightness * (center + contrast * (values - center))
        return result


class BrightnessContrast(ImageOperator):
    """Change brightness and contrast.

    Results from uint8 images are those of the formula in double precision. Others are computed in double precision where images
    or results are int32, int64 or float64, or images are int16, and in float32 otherwise.

    Args:
        brightness: multiplies all, 1 leaves it as it is.
        contrast: multiplies the distance from the centre, 1 leaves it as it is, 0 makes everything equal to the centre.
        brightness_shift: added last, in units of the output's full range.
        contrast_center: what contrast leaves as it is; by default half of the input's range (see the module).
        dtype: of the output; by default the input's. Values are not rescaled between types.

    Each of the four is a number, one value for each sample, or a random operator such as :class:`Uniform`.

    Raises:
        TypeError: an argument is no number, array or module.
        ValueError: a number is not finite, or images cannot have this dtype.
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
        self.brightness = check_argument(brightness, "brightness")
        self.contrast = check_argument(contrast, "contrast")
        self.brightness_shift = check_argument(brightness_shift, "brightness_shift")
        self.contrast_center = None if contrast_center is None else check_argument(contrast_center, "contrast_center")
        self.dtype = check_dtype(dtype)

    def extra_repr(self) -> str:
        """The constant arguments, for ``print``; random ones are printed as submodules."""
        return shown(self, brightness=1.0, contrast=1.0, brightness_shift=0.0, contrast_center=None, dtype=None)

    def step(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        brightness: Argument | None = None,
        contrast: Argument | None = None,
        brightness_shift: Argument | None = None,
        contrast_center: Argument | None = None,
    ) -> Colour:
        """The affine map of each image.

        Raises:
            TypeError: the images' type has no brightness (bool, complex).
            ValueError: an argument has another number of values than there are samples, or one is not finite.
        """
        if dtype not in (*INTEGERS, *FLOATS):
            raise TypeError(
                f"images of type {dtype} have no brightness; integers and floating point have: ops.Cast converts"
            )
        given = {
            "brightness": self.brightness if brightness is None else brightness,
            "contrast": self.contrast if contrast is None else contrast,
            "brightness_shift": self.brightness_shift if brightness_shift is None else brightness_shift,
            "contrast_center": self.contrast_center if contrast_center is None else contrast_center,
        }
        if given["contrast_center"] is None:
            given["contrast_center"] = default_contrast_center(dtype)
        factor, slope, shift, center = (per_sample(value, len(sizes), name) for name, value in given.items())  # type: ignore[arg-type]
        shift = shift * full_range(self.dtype or dtype)
        return _Contrast(
            factor * slope,
            shift + factor * (center - slope * center),
            self.dtype,
            written=np.stack([shift, factor, center, slope], 1),
        )

    @uncompiled
    def forward(
        self,
        images: TensorList | torch.Tensor,
        **arguments: Argument | None,
    ) -> TensorList | torch.Tensor:
        """Apply to a batch.

        Args:
            images: a TensorList of N tensors of any shape, or a tensor of shape (N, ...); integers or floating point.
            arguments: ``brightness``, ``contrast``, ``brightness_shift`` and ``contrast_center``, instead of the module's own.

        Returns:
            The same kind of batch, same shapes and device.

        Raises:
            TypeError: the images' type has no brightness (bool, complex).
            ValueError: an argument has another number of values than there are samples.
        """
        batch = TensorList.from_batch(images)
        if not len(batch) and batch.is_dense_tensor() and batch.sizes.shape[1] != 3:
            none = batch.to(self.dtype or batch.dtype)
            return none if isinstance(images, TensorList) else none.as_tensor()
        if batch.layout in ("CHW", "HWC") or (batch.layout == "" and all(len(shape) == 3 for shape in batch.shape())):
            return super().forward(images, **arguments)
        # The same is done to each value, so that anything will do as an image of one row.
        rows = TensorList([image.reshape(1, 1, -1) for image in batch], dtype=batch.dtype, device=batch.device)
        sizes = np.array(rows.shape(), np.int64).reshape(-1, 3)
        changed = execute([self.step(sizes, batch.dtype, **arguments)], rows, type(self).__name__)
        results = [row.view(image.shape) for row, image in zip(changed, batch, strict=True)]
        output = TensorList(results, batch.layout, dtype=changed.dtype, device=batch.device)
        return output if isinstance(images, TensorList) else output.as_tensor()
