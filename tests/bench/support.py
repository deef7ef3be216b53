"""Workloads that are small and engines without processes."""

from collections.abc import Iterator

import torch

from torchdali.bench._engines import Engine
from torchdali.bench._workloads import Batch, Blobs, Order, Vectors, Workload


def blobs(samples: int = 24) -> Workload:
    return Workload("blobs", Blobs(samples, shortest=2_000, longest=9_000), stacked=False, bar=8.0)


def vectors(samples: int = 24) -> Workload:
    return Workload("vectors", Vectors(samples, 300, distinct=8), stacked=True, bar=2.0)


class Simple(Engine):
    """Loads in this process."""

    name = "simple"

    def epoch(self, order: Order) -> Iterator[Batch]:
        return iter([self.load(indices) for indices in order])

    def load(self, indices: list[int]) -> Batch:
        samples = [self.workload.samples[index] for index in indices]
        return torch.stack(samples) if self.workload.stacked else samples

    @property
    def pids(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


def no_step(name: str) -> None:
    pass
