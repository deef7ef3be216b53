"""Benchmarks that compare torchdali with what PyTorch has, both in one run on one machine.

Only ratios of one run mean anything: rates depend on the machine and on what else it does.
"""

from torchdali.bench._benchmark import PoolReport, Progress, Settings, count_steps, measure_pool
from torchdali.bench._table import Machine, as_dict, as_text
from torchdali.bench._workloads import WORKLOADS

__all__ = [
    "WORKLOADS",
    "Machine",
    "PoolReport",
    "Progress",
    "Settings",
    "as_dict",
    "as_text",
    "count_steps",
    "measure_pool",
]
