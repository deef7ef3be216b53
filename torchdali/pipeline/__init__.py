"""Pipelines: sources, a device stage, epochs."""

from torchdali.pipeline._adapt import adapt_modules
from torchdali.pipeline._definition import TracedPipeline, pipeline_def
from torchdali.pipeline._device import DeviceRequest
from torchdali.pipeline._pinned import PinnedMemory
from torchdali.pipeline._pipeline import Pipeline
from torchdali.pipeline._statistics import PipelineStatistics
from torchdali.pipeline._trace import DataNode, current_trace

__all__ = [
    "DataNode",
    "DeviceRequest",
    "PinnedMemory",
    "Pipeline",
    "PipelineStatistics",
    "TracedPipeline",
    "adapt_modules",
    "current_trace",
    "pipeline_def",
]
