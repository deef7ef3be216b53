"""Pipelines: sources, a device stage, epochs."""

from torchdali.pipeline._definition import TracedPipeline, pipeline_def
from torchdali.pipeline._device import DeviceRequest
from torchdali.pipeline._pipeline import Pipeline
from torchdali.pipeline._statistics import PipelineStatistics
from torchdali.pipeline._trace import DataNode, current_trace

__all__ = [
    "DataNode",
    "DeviceRequest",
    "Pipeline",
    "PipelineStatistics",
    "TracedPipeline",
    "current_trace",
    "pipeline_def",
]
