"""Where data comes from: sources, what they are told and may return, epochs."""

from torchdali.source._batch import Predecoded, SourceBatch
from torchdali.source._external import ExternalSource
from torchdali.source._folder import PHOTOGRAPHS, JpegFolder
from torchdali.source._info import BatchInfo, SampleInfo
from torchdali.source._part import Part, Rest
from torchdali.source._reader import LastBatch, Reader

__all__ = [
    "PHOTOGRAPHS",
    "BatchInfo",
    "ExternalSource",
    "JpegFolder",
    "LastBatch",
    "Part",
    "Predecoded",
    "Reader",
    "Rest",
    "SampleInfo",
    "SourceBatch",
]
