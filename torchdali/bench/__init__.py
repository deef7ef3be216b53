"""Benchmarks that compare torchdali with what PyTorch has, both in one run on one machine.

:func:`measure` is about the pool and the loader, :func:`measure_operators` about operators on images.

Only ratios of one run mean anything: rates depend on the machine and on what else it does.
"""

from torchdali.bench._benchmark import Progress, Report, Settings, count_steps, measure
from torchdali.bench._ops import OperatorReport, OperatorSettings, count_operator_steps, measure_operators
from torchdali.bench._ops_cases import CASES
from torchdali.bench._ops_table import operators_as_dict, operators_as_text
from torchdali.bench._table import Machine, as_dict, as_text
from torchdali.bench._workloads import IMAGES, WORKLOADS

__all__ = [
    "CASES",
    "IMAGES",
    "WORKLOADS",
    "Machine",
    "OperatorReport",
    "OperatorSettings",
    "Report",
    "Progress",
    "Settings",
    "as_dict",
    "as_text",
    "count_operator_steps",
    "count_steps",
    "measure",
    "measure_operators",
    "operators_as_dict",
    "operators_as_text",
]
