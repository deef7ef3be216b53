"""Worker processes and shared memory; knows neither CUDA nor images.

with WorkerPool([read], num_workers=4) as pool:
    jobs = [pool.submit(0, names[i : i + 64]) for i in range(0, 256, 64)]
    for job in jobs:
        arrays = pool.collect(job)
"""

from torchdali.pool._arena import MemoryHook
from torchdali.pool._interrupt import deferred_interrupt
from torchdali.pool._job import Items, Job, Raised, Stacked
from torchdali.pool._memory import Memory, default_memory_limit
from torchdali.pool._options import DEFAULT_BYTES_PER_ITEM, OnWorkerDeath
from torchdali.pool._pool import WorkerPool
from torchdali.pool._ragged import Column, Ragged
from torchdali.pool._statistics import PoolStatistics
from torchdali.pool._worker_info import WorkerInfo, empty, worker_info, worker_memory
from torchdali.pool._workforce import StartMethod

__all__ = [
    "DEFAULT_BYTES_PER_ITEM",
    "Column",
    "Items",
    "Job",
    "Memory",
    "MemoryHook",
    "OnWorkerDeath",
    "PoolStatistics",
    "Ragged",
    "Raised",
    "Stacked",
    "StartMethod",
    "WorkerInfo",
    "WorkerPool",
    "default_memory_limit",
    "deferred_interrupt",
    "empty",
    "worker_info",
    "worker_memory",
]
