"""Names that pipelines use for element types and image types, after DALI's ``types`` module.

The element types are torch's own dtypes under DALI's names, so either can be passed anywhere.
"""

from __future__ import annotations

import enum

import torch

from torchdali.source import BatchInfo, SampleInfo

__all__ = [
    "BOOL",
    "FLOAT",
    "FLOAT16",
    "FLOAT64",
    "INT16",
    "INT32",
    "INT64",
    "INT8",
    "UINT8",
    "BatchInfo",
    "DALIImageType",
    "GRAY",
    "RGB",
    "SampleInfo",
]


class DALIImageType(enum.Enum):
    """Colour spaces that images can be decoded to."""

    RGB = "RGB"
    """Three channels; grayscale images are repeated in each."""
    GRAY = "GRAY"
    """One channel, the luma of colour images."""


RGB = DALIImageType.RGB
GRAY = DALIImageType.GRAY

BOOL = torch.bool
UINT8 = torch.uint8
INT8 = torch.int8
INT16 = torch.int16
INT32 = torch.int32
INT64 = torch.int64
FLOAT16 = torch.float16
FLOAT = torch.float32
FLOAT64 = torch.float64
