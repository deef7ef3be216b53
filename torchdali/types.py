"""Names that pipelines use for element types and image types, after DALI's ``types`` module.

The element types are torch's own dtypes under DALI's names, so either can be passed anywhere.
"""

from __future__ import annotations

import enum

import torch

from torchdali.source import BatchInfo, SampleInfo

__all__ = [
    "ANY_DATA",
    "BGR",
    "BOOL",
    "FLOAT",
    "FLOAT16",
    "FLOAT64",
    "INTERP_CUBIC",
    "INTERP_GAUSSIAN",
    "INTERP_LANCZOS3",
    "INTERP_LINEAR",
    "INTERP_NN",
    "INTERP_TRIANGULAR",
    "INT16",
    "INT32",
    "INT64",
    "INT8",
    "UINT8",
    "BatchInfo",
    "DALIImageType",
    "DALIInterpType",
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
    BGR = "BGR"
    """As RGB, in the order of OpenCV."""
    ANY_DATA = "UNCHANGED"
    """The channels that are stored."""


RGB = DALIImageType.RGB
GRAY = DALIImageType.GRAY
BGR = DALIImageType.BGR
ANY_DATA = DALIImageType.ANY_DATA

BOOL = torch.bool
UINT8 = torch.uint8
INT8 = torch.int8
INT16 = torch.int16
INT32 = torch.int32
INT64 = torch.int64
FLOAT16 = torch.float16
FLOAT = torch.float32
FLOAT64 = torch.float64


class DALIInterpType(enum.Enum):
    """Filters to resize and to warp with; the values are this library's names of them."""

    INTERP_NN = "nearest"
    INTERP_LINEAR = "linear"
    INTERP_CUBIC = "cubic"
    INTERP_LANCZOS3 = "lanczos3"
    INTERP_GAUSSIAN = "gaussian"
    INTERP_TRIANGULAR = "triangular"
    """Linear and always antialiased."""


INTERP_NN = DALIInterpType.INTERP_NN
INTERP_LINEAR = DALIInterpType.INTERP_LINEAR
INTERP_CUBIC = DALIInterpType.INTERP_CUBIC
INTERP_LANCZOS3 = DALIInterpType.INTERP_LANCZOS3
INTERP_GAUSSIAN = DALIInterpType.INTERP_GAUSSIAN
INTERP_TRIANGULAR = DALIInterpType.INTERP_TRIANGULAR
