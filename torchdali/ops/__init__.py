"""Operators: ``nn.Module`` s that work on batches, on the CPU and on the GPU."""

from torchdali.ops._arguments import Argument
from torchdali.ops._brightness_contrast import (
    BrightnessContrast,
    brightness_contrast_reference,
    default_contrast_center,
)
from torchdali.ops._cast import Cast
from torchdali.ops._color_twist import ColorTwist, Hsv, Hue, Saturation
from torchdali.ops._context import BatchContext, batch_context, current_batch
from torchdali.ops._crop import Crop
from torchdali.ops._crop_mirror_normalize import CropMirrorNormalize
from torchdali.ops._erase_operator import Erase
from torchdali.ops._flip import Flip
from torchdali.ops._fused import Fused
from torchdali.ops._gaussian_blur import GaussianBlur
from torchdali.ops._normalize import Normalize
from torchdali.ops._one_hot import OneHot
from torchdali.ops._operator import ImageOperator, Operator
from torchdali.ops._pad import Pad
from torchdali.ops._random import Choice, CoinFlip, Normal, RandomOperator, Uniform, number_streams
from torchdali.ops._random_resized_crop import RandomResizedCrop, RandomWindow
from torchdali.ops._resize import Resize
from torchdali.ops._rotate import Rotate, WarpAffine
from torchdali.ops._threads import available_cpus
from torchdali.ops.decode import DecodeCrop, DecodeImage, DecodeRandomCrop, DecodeSlice, DecodeStatistics

__all__ = [
    "Argument",
    "BatchContext",
    "BrightnessContrast",
    "Cast",
    "Choice",
    "CoinFlip",
    "ColorTwist",
    "Crop",
    "CropMirrorNormalize",
    "DecodeCrop",
    "DecodeImage",
    "DecodeRandomCrop",
    "DecodeSlice",
    "DecodeStatistics",
    "Erase",
    "Flip",
    "Fused",
    "GaussianBlur",
    "Hsv",
    "Hue",
    "ImageOperator",
    "Normal",
    "Normalize",
    "OneHot",
    "Operator",
    "Pad",
    "RandomOperator",
    "RandomResizedCrop",
    "RandomWindow",
    "Resize",
    "Rotate",
    "Saturation",
    "Uniform",
    "WarpAffine",
    "available_cpus",
    "batch_context",
    "brightness_contrast_reference",
    "current_batch",
    "default_contrast_center",
    "number_streams",
]
