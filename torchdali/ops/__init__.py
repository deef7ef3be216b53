"""Operators: ``nn.Module`` s that work on batches, on the CPU and on the GPU."""

from torchdali.ops._arguments import Argument
from torchdali.ops._brightness_contrast import (
    BrightnessContrast,
    brightness_contrast_reference,
    default_contrast_center,
)
from torchdali.ops._context import BatchContext, batch_context, current_batch
from torchdali.ops._decode import DecodeImage
from torchdali.ops._operator import Operator
from torchdali.ops._random import Choice, RandomOperator, Uniform, number_streams
from torchdali.ops._threads import available_cpus

__all__ = [
    "Argument",
    "BatchContext",
    "BrightnessContrast",
    "Choice",
    "DecodeImage",
    "Operator",
    "RandomOperator",
    "Uniform",
    "available_cpus",
    "batch_context",
    "brightness_contrast_reference",
    "current_batch",
    "default_contrast_center",
    "number_streams",
]
