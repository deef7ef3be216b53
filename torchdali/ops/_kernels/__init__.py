"""Steps on the GPU: whole ragged batches, several steps in one launch.

Importing this imports Triton; see :mod:`torchdali.ops._kernels._launch`.
"""

from torchdali.ops._kernels._launch import run
from torchdali.ops._kernels._standardize import Statistics, standardized

__all__ = ["Statistics", "run", "standardized"]
