"""Benchmarks that compare torchdali with what PyTorch has, both in one run on one machine.

Only ratios of one run mean anything: rates depend on the machine and on what else it does.
"""

from torchdali.bench._benchmark import Progress, Report, Settings, count_steps, measure
from torchdali.bench._table import Machine, as_dict, as_text
from torchdali.bench._workloads import IMAGES, WORKLOADS

__all__ = [
    "IMAGES",
    "WORKLOADS",
    "Machine",
    "Report",
    "Progress",
    "Settings",
    "as_dict",
    "as_text",
    "count_steps",
    "measure",
]
