"""What is done to photographs, by torchdali's operators and by the image functions of torchvision and kornia.

The functions get what the operators drew, so that all do the same work: the same windows, angles and factors. What they
compute is the nearest that they have; it is not always the same formula, such as that of contrast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import nn

from torchdali.ops._brightness_contrast import BrightnessContrast
from torchdali.ops._cast import Cast
from torchdali.ops._color_twist import ColorTwist
from torchdali.ops._crop_mirror_normalize import CropMirrorNormalize
from torchdali.ops._erase import Erase as EraseStep
from torchdali.ops._erase_operator import Erase
from torchdali.ops._flip import Flip
from torchdali.ops._fused import Fused
from torchdali.ops._gaussian_blur import GaussianBlur
from torchdali.ops._normalize import Normalize
from torchdali.ops._operator import ImageOperator, Operator
from torchdali.ops._random import CoinFlip, RandomOperator, Uniform, number_streams
from torchdali.ops._random_resized_crop import RandomResizedCrop
from torchdali.ops._resample import Resample
from torchdali.ops._resize import Resize
from torchdali.ops._rotate import Rotate
from torchdali.ops._steps import Sizes, Step
from torchdali.tensorlist import TensorList

__all__ = ["CASES", "Case"]

_SIZE = 224
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_LEVELS = 255.0
_MEAN_LEVELS = tuple(_LEVELS * mean for mean in _MEAN)
_STD_LEVELS = tuple(_LEVELS * std for std in _STD)

Functions: TypeAlias = Any
"""A module of functions: ``torchvision.transforms.v2.functional``, or ``kornia``."""


class Case(ABC):
    """Operators, and what torchvision and kornia have in their place.

    Args:
        operators: one, or several that are fused.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    """What the tables call it; empty: its name."""
    share_bar: ClassVar[float | None] = None
    """The least share of the rate of a copy that the GPU is to reach."""
    python_bar: ClassVar[float | None] = None
    """The most milliseconds that the Python of a call on a GPU is to take."""
    in_kornia: ClassVar[bool] = True

    def __init__(self, *operators: ImageOperator) -> None:
        self.operators = operators
        self.whole: Operator = operators[0] if len(operators) == 1 else Fused(*operators, channels_last=True)
        number_streams(self.whole)

    @property
    def is_chain(self) -> bool:
        """Whether there are several operators."""
        return len(self.operators) > 1

    def steps(self, sizes: Sizes, dtype: torch.dtype) -> list[Step]:
        """What all operators do to a batch."""
        steps: list[Step] = []
        for operator in self.operators:
            for step in operator.steps(sizes, dtype):
                steps.append(step)
                sizes, dtype = step.sizes(sizes), step.dtype(dtype)
        return steps

    def in_turn(self, batch: TensorList) -> torch.Tensor:
        """What a chain gives, operator by operator: (N, C, H, W) with the channels last in memory."""
        results = nn.Sequential(*self.operators)(batch)
        assert isinstance(results, TensorList)
        return results.as_tensor().contiguous(memory_format=torch.channels_last)

    def collect(self, results: list[torch.Tensor]) -> list[torch.Tensor] | torch.Tensor:
        """What becomes of results that were made one by one, so that they are like those of the operators."""
        if not self.is_chain:
            return results
        return torch.stack(results).contiguous(memory_format=torch.channels_last)

    @abstractmethod
    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        """What the functions need for each image, as it was drawn for the batch at hand."""

    @abstractmethod
    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> torch.Tensor:
        """One image of shape (C, H, W)."""

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> torch.Tensor:
        """One image of shape (1, C, H, W), float32 from 0 to 1."""
        raise NotImplementedError(f"kornia has no function for {self.name}")


def _drawn(argument: object, count: int) -> list[Any]:
    assert isinstance(argument, RandomOperator)
    values: list[Any] = argument(count).tolist()
    return values


def _resample(steps: Sequence[Step]) -> Resample:
    """The first step that moves pixels."""
    return next(step for step in steps if isinstance(step, Resample))


def _cut(image: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    top, left, height, width = window
    return image[..., top : top + height, left : left + width]


def _surrounded(image: torch.Tensor, window: Sequence[int], mirror: bool) -> torch.Tensor:
    """The image with zeros around it: a window that contains it, both of them flipped or not."""
    top, left, height, width = window
    rows, columns = image.shape[-2:]
    sides = (left + width - columns, -left) if mirror else (-left, left + width - columns)
    return nn.functional.pad(image, [*sides, -top, top + height - rows])


def _constants(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(_MEAN, device=image.device), torch.tensor(_STD, device=image.device)


class _BrightnessContrast(Case):
    name = "brightness_contrast"
    share_bar = 0.7
    python_bar = 0.5

    def __init__(self) -> None:
        self.operator = BrightnessContrast(Uniform(0.6, 1.4), Uniform(0.6, 1.4))
        super().__init__(self.operator)

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        return list(zip(_drawn(self.operator.brightness, count), _drawn(self.operator.contrast, count), strict=True))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        brightness, contrast = drawn
        return f.adjust_contrast(f.adjust_brightness(image, brightness), contrast)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        brightness, contrast = drawn
        brighter = k.enhance.adjust_brightness_accumulative(image, brightness)
        return k.enhance.adjust_contrast_with_mean_subtraction(brighter, contrast)


class _ColorTwist(Case):
    name = "color_twist"

    def __init__(self) -> None:
        brightness, contrast, saturation = (Uniform(0.6, 1.4) for _ in range(3))
        self.operator = ColorTwist(brightness, contrast, saturation, hue=Uniform(-30.0, 30.0))
        super().__init__(self.operator)

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        one = self.operator
        arguments = (one.brightness, one.contrast, one.saturation, one.hue)
        return list(zip(*(_drawn(argument, count) for argument in arguments), strict=True))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        brightness, contrast, saturation, degrees = drawn
        image = f.adjust_contrast(f.adjust_brightness(image, brightness), contrast)
        return f.adjust_hue(f.adjust_saturation(image, saturation), degrees / 360)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        brightness, contrast, saturation, degrees = drawn
        image = k.enhance.adjust_brightness_accumulative(image, brightness)
        image = k.enhance.adjust_contrast_with_mean_subtraction(image, contrast)
        return k.enhance.adjust_hue(k.enhance.adjust_saturation(image, saturation), float(np.radians(degrees)))


class _Constant(Case):
    """With the same for all images."""

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        return [None] * count


class _Normalize(_Constant):
    name = "normalize"
    title = "normalize to float16"

    def __init__(self) -> None:
        super().__init__(Normalize(_MEAN_LEVELS, _STD_LEVELS, dtype=torch.float16))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return f.normalize(f.to_dtype(image, torch.float16, scale=True), _MEAN, _STD)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return k.enhance.normalize(image, *_constants(image)).half()


class _Resize(_Constant):
    name = "resize"
    title = f"resize to {_SIZE}"

    def __init__(self) -> None:
        super().__init__(Resize(_SIZE))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return f.resize(image, [_SIZE, _SIZE], antialias=True)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return k.geometry.transform.resize(image, (_SIZE, _SIZE), antialias=True)


class _RandomResizedCrop(Case):
    name = "random_resized_crop"
    title = f"random_resized_crop to {_SIZE}"

    def __init__(self) -> None:
        super().__init__(RandomResizedCrop(_SIZE))

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        return list(_resample(steps).window.tolist())

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return f.resized_crop(image, *drawn, [_SIZE, _SIZE], antialias=True)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return k.geometry.transform.resize(_cut(image, drawn), (_SIZE, _SIZE), antialias=True)


class _Flip(_Constant):
    name = "flip"

    def __init__(self) -> None:
        super().__init__(Flip(horizontal=1))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return f.horizontal_flip(image)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return k.geometry.transform.hflip(image)


class _Rotate(Case):
    name = "rotate"

    def __init__(self) -> None:
        # On the canvas that holds the whole image all of it is read; what else is read of it would depend on the angle.
        self.operator = Rotate(Uniform(-30.0, 30.0), fill=0.0)
        super().__init__(self.operator)

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        return _drawn(self.operator.angle, count)

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return f.rotate(image, drawn, f.InterpolationMode.BILINEAR, expand=True, fill=0.0)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return k.geometry.transform.rotate(image, torch.tensor([drawn], device=image.device))


class _GaussianBlur(Case):
    name = "gaussian_blur"

    def __init__(self) -> None:
        super().__init__(GaussianBlur(Uniform(0.5, 1.5)))

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        step: Any = steps[0]
        return list(zip(step.sigma.tolist(), (2 * step.radius + 1).tolist(), strict=True))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        (sigma_y, sigma_x), (height, width) = drawn
        return f.gaussian_blur(image, [width, height], [sigma_x, sigma_y])

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        sigma, window = drawn
        return k.filters.gaussian_blur2d(image, tuple(window), tuple(sigma))


class _CropMirrorNormalize(Case):
    name = "crop_mirror_normalize"

    def __init__(self) -> None:
        super().__init__(
            CropMirrorNormalize(
                _SIZE, mirror=CoinFlip(), mean=_MEAN_LEVELS, std=_STD_LEVELS, out_of_bounds_policy="pad"
            )
        )

    def collect(self, results: list[torch.Tensor]) -> list[torch.Tensor] | torch.Tensor:
        return torch.stack(results)

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        cut, *around = (step for step in steps if isinstance(step, Resample))
        if not around:
            return list(zip(cut.window.tolist(), cut.flip[:, 1].tolist(), [None] * count, strict=True))
        # Where an image is too small, zeros are put around what is normalised, and all of it is flipped.
        last = around[0]
        mirrors = (cut.flip | last.flip)[:, 1].tolist()
        return list(zip(cut.window.tolist(), mirrors, last.window.tolist(), strict=True))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        window, mirror, around = drawn
        image = f.crop(image, *window)
        image = f.horizontal_flip(image) if mirror else image
        image = f.normalize(f.to_dtype(image, torch.float32, scale=True), _MEAN, _STD)
        return image if around is None else _surrounded(image, around, mirror)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        window, mirror, around = drawn
        image = _cut(image, window)
        image = k.geometry.transform.hflip(image) if mirror else image
        image = k.enhance.normalize(image, *_constants(image))
        return image if around is None else _surrounded(image, around, mirror)


class _Erase(Case):
    name = "erase"
    in_kornia = False

    def __init__(self) -> None:
        super().__init__(Erase(anchor=(0.25, 0.25), shape=(0.5, 0.5), normalized=True))

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        (step,) = steps
        assert isinstance(step, EraseStep)
        return list(step.regions[:, 0].tolist())

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return f.erase(image, *drawn, torch.zeros(1, 1, 1, dtype=image.dtype, device=image.device))


class _Cast(_Constant):
    name = "cast"
    title = "cast to float32"
    in_kornia = False

    def __init__(self) -> None:
        super().__init__(Cast(torch.float32))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        return f.to_dtype(image, torch.float32, scale=False)


class _Training(Case):
    name = "training"
    title = "training chain, fused"
    share_bar = 0.7

    def __init__(self) -> None:
        self.brightness = Uniform(0.6, 1.4)
        super().__init__(
            RandomResizedCrop(_SIZE),
            Flip(horizontal=CoinFlip()),
            BrightnessContrast(self.brightness),
            Normalize(_MEAN_LEVELS, _STD_LEVELS, dtype=torch.float16),
        )

    def parameters(self, steps: Sequence[Step], count: int) -> list[Any]:
        crop, flip = (step for step in steps if isinstance(step, Resample))
        return list(zip(crop.window.tolist(), flip.flip[:, 1].tolist(), _drawn(self.brightness, count), strict=True))

    def torchvision(self, f: Functions, image: torch.Tensor, drawn: Any) -> Any:
        window, mirror, brightness = drawn
        image = f.resized_crop(image, *window, [_SIZE, _SIZE], antialias=True)
        image = f.horizontal_flip(image) if mirror else image
        image = f.adjust_brightness(image, brightness)
        return f.normalize(f.to_dtype(image, torch.float16, scale=True), _MEAN, _STD)

    def kornia(self, k: Functions, image: torch.Tensor, drawn: Any) -> Any:
        window, mirror, brightness = drawn
        image = k.geometry.transform.resize(_cut(image, window), (_SIZE, _SIZE), antialias=True)
        image = k.geometry.transform.hflip(image) if mirror else image
        image = k.enhance.adjust_brightness_accumulative(image, brightness)
        return k.enhance.normalize(image, *_constants(image)).half()


_ALL: tuple[type[Case], ...] = (
    _BrightnessContrast,
    _ColorTwist,
    _Normalize,
    _Resize,
    _RandomResizedCrop,
    _Flip,
    _Rotate,
    _GaussianBlur,
    _CropMirrorNormalize,
    _Erase,
    _Cast,
    _Training,
)

CASES: dict[str, Callable[[], Case]] = {case.name: case for case in _ALL}
"""Makers of the cases, by name."""
