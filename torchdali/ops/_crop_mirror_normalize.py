"""Crop, mirror, normalise and change the layout: what usually stands at the end of a pipeline, in one."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from torchdali.ops._arguments import Argument, check_argument, check_dtype, of_call, per_channel, per_sample
from torchdali.ops._colour import Colour
from torchdali.ops._crop import OutOfBounds, crop_windows
from torchdali.ops._geometry_arguments import Numbers, check_pixels, constant_fill, pairs_per_sample, require, shown
from torchdali.ops._normalize import check_number, normalization
from torchdali.ops._operator import ImageOperator
from torchdali.ops._resample import Resample
from torchdali.ops._steps import Sizes, Step
from torchdali.ops._uncompiled import uncompiled
from torchdali.tensorlist import TensorList

__all__ = ["CropMirrorNormalize"]

_POLICIES = ("error", "trim_to_shape", "pad")


class CropMirrorNormalize(ImageOperator):
    """Cut out a window, flip it left to right, normalise it and change its layout, as DALI's ``fn.crop_mirror_normalize``.

        out = (in - mean) * scale / std + shift

    ``mean`` and ``std`` are in the units of the images, which are 0 to 255 for uint8: see :class:`Normalize`.

    Args:
        crop: height and width of the window, one number for both or (height, width); 0 is the image's own. None: no crop.
        crop_pos_x, crop_pos_y: where the window lies, from 0 (left, top) to 1 (right, bottom); see :class:`Crop`.
        mirror: not 0: flip left to right.
        mean, std: one number, one for each channel, or an array (N, channels); ``std`` is positive.
        scale: multiplies the normalised image.
        shift: is added last.
        dtype: of the results; None: the images'. Integers are rounded half to even and clamped.
        output_layout: ``"CHW"`` or ``"HWC"``, of the results and of their memory; None: that of the images.
        pad_output: add channels until their number is a power of 2; they are 0, or ``fill_values`` with
            ``out_of_bounds_policy="pad"``.
        fill_values: one number, or one for each channel of the results: the value of what is outside the image (and of added
            channels, see there). It is not normalised.
        out_of_bounds_policy: what is done about a window larger than the image: ``"error"``; ``"trim_to_shape"``: the result
            is the part of it that is inside; ``"pad"``: what is outside has ``fill_values``.
        rounding: of the window's place: ``"round"`` to the nearest integer, halves away from zero, or ``"truncate"``.

    ``crop``, ``crop_pos_x``, ``crop_pos_y``, ``mirror``, ``mean`` and ``std`` may be random operators, such as
    ``mirror=CoinFlip()``.

    Shape: (C, H, W) or (H, W, C) images; results have ``output_layout``. Within :class:`Fused` the images' layout stays.

    Raises:
        TypeError: an argument is no number, array or module.
        ValueError: an argument is out of its range, or a window reaches beyond its image with ``"error"``.
    """

    def __init__(
        self,
        crop: Numbers | None = None,
        crop_pos_x: Argument = 0.5,
        crop_pos_y: Argument = 0.5,
        mirror: Argument = 0,
        mean: Argument = 0.0,
        std: Argument = 1.0,
        scale: float = 1.0,
        shift: float = 0.0,
        *,
        dtype: torch.dtype | None = torch.float32,
        output_layout: Literal["CHW", "HWC"] | None = "CHW",
        pad_output: bool = False,
        fill_values: float | tuple[float, ...] = 0.0,
        out_of_bounds_policy: OutOfBounds = "error",
        rounding: Literal["round", "truncate"] = "round",
    ) -> None:
        super().__init__()
        if output_layout not in ("CHW", "HWC", None):
            raise ValueError(f'output_layout is {output_layout!r}; it is "CHW", "HWC", or None for the images\' own')
        if out_of_bounds_policy not in _POLICIES:
            raise ValueError(
                f"out_of_bounds_policy is {out_of_bounds_policy!r}; it is one of {', '.join(map(repr, _POLICIES))}"
            )
        if rounding not in ("round", "truncate"):
            raise ValueError(f"rounding is {rounding!r}; it is 'round' or 'truncate'")
        self.crop = crop
        self.crop_pos_x = check_argument(crop_pos_x, "crop_pos_x")
        self.crop_pos_y = check_argument(crop_pos_y, "crop_pos_y")
        self.mirror = check_argument(mirror, "mirror")
        self.mean = check_argument(mean, "mean")
        self.std = check_argument(std, "std")
        self.scale = check_number(scale, "scale")
        self.shift = check_number(shift, "shift")
        self.dtype = check_dtype(dtype)
        self.output_layout = output_layout
        self.pad_output = bool(pad_output)
        self.fill_values = fill_values
        self._fill = constant_fill(fill_values, "fill_values")
        self.out_of_bounds_policy = out_of_bounds_policy
        self.rounding: Literal["round", "truncate"] = rounding

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return shown(
            self,
            crop=None,
            crop_pos_x=0.5,
            crop_pos_y=0.5,
            mirror=0,
            mean=0.0,
            std=1.0,
            scale=1.0,
            shift=0.0,
            dtype=torch.float32,
            output_layout="CHW",
            pad_output=False,
            fill_values=0.0,
            out_of_bounds_policy="error",
            rounding="round",
        )

    def step(self, sizes: Sizes, dtype: torch.dtype, **arguments: Any) -> Step:
        """Not defined: these are several steps, see :meth:`steps`.

        Raises:
            TypeError: always.
        """
        raise TypeError("CropMirrorNormalize is several steps; steps() gives them")

    def steps(  # type: ignore[override]
        self,
        sizes: Sizes,
        dtype: torch.dtype,
        *,
        crop: Numbers | None = None,
        crop_pos_x: Argument | None = None,
        crop_pos_y: Argument | None = None,
        mirror: Argument | None = None,
        mean: Argument | None = None,
        std: Argument | None = None,
    ) -> list[Step]:
        """Cut and flip, then normalise; and then put what is outside the image around it, where that is wanted."""
        check_pixels(dtype, type(self).__name__)
        count = len(sizes)
        crop = self.crop if crop is None else crop
        images = sizes[:, 1:]
        window = crop_windows(
            images,
            pairs_per_sample(0 if crop is None else crop, count, "crop"),
            per_sample(self.crop_pos_x if crop_pos_x is None else crop_pos_x, count, "crop_pos_x"),
            per_sample(self.crop_pos_y if crop_pos_y is None else crop_pos_y, count, "crop_pos_y"),
            self.rounding,
        )
        flip = np.zeros((count, 2), np.bool_)
        mirrors = per_sample(self.mirror if mirror is None else mirror, count, "mirror")
        require(np.isfinite(mirrors), mirrors, "mirror", "a finite number: 0 (as it is) or another (flipped)")
        flip[:, 1] = mirrors != 0
        inside = window
        if self.out_of_bounds_policy != "error":
            start = np.maximum(window[:, :2], 0)
            stop = np.minimum(window[:, :2] + window[:, 2:], images)
            inside = np.concatenate([start, stop - start], 1)
        colour = self._colour(
            sizes, self.mean if mean is None else of_call(mean), self.std if std is None else of_call(std)
        )
        cut: list[Step] = [Resample(inside, inside[:, 2:], flip, "nearest", False), colour]
        if self.out_of_bounds_policy != "pad" or np.array_equal(inside, window):
            return cut
        # The fill value is not normalised, so it comes after that; and flipped is what has all of its sides.
        cut[0] = Resample(inside, inside[:, 2:], np.zeros_like(flip), "nearest", False)
        around = np.concatenate([window[:, :2] - inside[:, :2], window[:, 2:]], 1)
        return [*cut, Resample(around, window[:, 2:], flip, "nearest", False, self._fill)]

    def _colour(self, sizes: Sizes, mean: Argument, std: Argument) -> Colour:
        count = len(sizes)
        matrix, offset = normalization(
            per_channel(mean, count, "mean"), per_channel(std, count, "std"), self.scale, self.shift
        )
        channels = np.unique(sizes[:, 0])
        if not self.pad_output or not len(channels):
            return Colour(matrix, offset, self.dtype)
        if len(channels) > 1:
            raise ValueError(
                f"pad_output needs images of one number of channels; the batch has images with "
                f"{channels.tolist()}: decode all in one mode"
            )
        padded = _padded(matrix, offset, int(channels[0]), self._fill, self.dtype)
        if self.out_of_bounds_policy != "pad":  # as DALI has it: otherwise fill_values are not looked at
            padded.offset[:, int(channels[0]) :] = 0.0
        return padded

    @uncompiled
    def forward(self, images: TensorList | torch.Tensor, **arguments: Any) -> TensorList | torch.Tensor:
        """Apply to a batch.

        Args:
            images: N images of shape (C, H, W), or (H, W, C) where the layout says so, or a tensor of shape (N, C, H, W).
            arguments: ``crop``, ``crop_pos_x``, ``crop_pos_y``, ``mirror``, ``mean`` and ``std``, instead of the module's own.

        Returns:
            A TensorList of layout ``output_layout``; a tensor if a tensor was given.
        """
        layout = self.output_layout
        return self._apply_steps(
            images, arguments, channels_last=None if layout is None else layout == "HWC", layout=layout
        )


def _padded(
    matrix: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    channels: int,
    fill: npt.NDArray[np.float64],
    dtype: torch.dtype | None,
) -> Colour:
    """Factors and offsets (N,) or (N, channels), with further channels up to a power of 2 that are ``fill``."""
    count = len(matrix)
    factors, constants = (values.reshape(count, -1) for values in (matrix, offset))
    if factors.shape[1] not in (1, channels):
        raise ValueError(
            f"the images have {channels} channels, but mean or std is given for {factors.shape[1]}; give one number, or one "
            "for each channel"
        )
    total = 1 << (channels - 1).bit_length()
    if len(fill) not in (1, total):
        raise ValueError(f"fill_values has {len(fill)} numbers; give 1, or one for each of the {total} channels")
    mixed = np.zeros((count, total, channels))
    mixed[:, np.arange(channels), np.arange(channels)] = factors
    result = np.repeat(np.broadcast_to(fill, (1, total)), count, 0)
    result[:, :channels] = constants
    return Colour(mixed, result, dtype)
