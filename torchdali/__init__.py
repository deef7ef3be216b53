"""A PyTorch-native data loader after DALI's parallel external source.

Worker processes that are forked before CUDA run the user's source and write into shared memory; an ``nn.Module`` decodes and
augments their batches on the device. Importing this starts nothing and does not touch CUDA.
"""

from torchdali import display, errors, fn, ops, pool, source, types
from torchdali._version import __version__
from torchdali.display import show
from torchdali.errors import CudaInitializedError, DecodeError, PipelineStateError, WorkerDiedError
from torchdali.loader import DataLoader, ragged_collate, start
from torchdali.pipeline import Pipeline, PipelineStatistics, pipeline_def
from torchdali.pool import worker_info
from torchdali.report import Report, profile, progress
from torchdali.source import BatchInfo, ExternalSource, JpegFolder, SampleInfo
from torchdali.tensorlist import TensorList

__all__ = [
    "BatchInfo",
    "CudaInitializedError",
    "DataLoader",
    "DecodeError",
    "ExternalSource",
    "JpegFolder",
    "Pipeline",
    "PipelineStateError",
    "PipelineStatistics",
    "Report",
    "SampleInfo",
    "TensorList",
    "WorkerDiedError",
    "__version__",
    "display",
    "errors",
    "fn",
    "ops",
    "pipeline_def",
    "pool",
    "profile",
    "progress",
    "ragged_collate",
    "show",
    "source",
    "start",
    "types",
    "worker_info",
]
