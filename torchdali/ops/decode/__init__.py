"""Decoding of image files: one interface, several libraries, the same results."""

from torchdali.ops.decode._decode_image import DecodeImage
from torchdali.ops.decode._policy import DecodeStatistics
from torchdali.ops.decode._windows import DecodeCrop, DecodeRandomCrop, DecodeSlice

__all__ = ["DecodeCrop", "DecodeImage", "DecodeRandomCrop", "DecodeSlice", "DecodeStatistics"]
