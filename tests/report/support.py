"""Pipelines and loaders in which one stage is slow, by sleeping: it needs no processor, which others may have."""

import time

import numpy as np
import torch

import torchdali
from torchdali import ExternalSource, Pipeline, ops

BATCH = 4
BATCHES = 8
SLOW = 0.025
"""Seconds a batch that the slow stage takes; all others take a small part of it."""

FILE = torchdali.source.PHOTOGRAPHS / "bee.jpg"


class Source:
    """One small file again and again."""

    def __init__(self, seconds=0.0, data=None, batches=BATCHES):
        self.seconds, self.count = seconds, batches * BATCH
        self.data = np.arange(16, dtype=np.uint8) if data is None else data

    def __call__(self, info):
        if info.idx_in_epoch >= self.count:
            raise StopIteration
        if self.seconds:
            time.sleep(self.seconds)
        return self.data


class SlowDecode(ops.DecodeImage):
    def forward(self, files, *others):
        time.sleep(SLOW)
        return files


class SlowModule(torch.nn.Module):
    def forward(self, batch):
        time.sleep(SLOW)
        return batch


class Stages(Pipeline):
    """A pipeline whose stage is these modules, one after the other."""

    def __init__(self, source, **stages):
        options = {name: stages.pop(name) for name in list(stages) if not isinstance(stages[name], torch.nn.Module)}
        source = source if isinstance(source, ExternalSource) else ExternalSource(source)
        super().__init__(source, batch_size=BATCH, device="cpu", **{"num_workers": 1, **options})
        self.names = list(stages)
        for name, module in stages.items():
            self.add_module(name, module)

    def forward(self, batch):
        for name in self.names:
            batch = self.get_submodule(name)(batch)
        return batch


def consume(loader, seconds=0.0):
    for _ in loader:
        if seconds:
            time.sleep(seconds)


def report_of(loader, seconds=0.0):
    with torchdali.profile() as p:
        consume(loader, seconds)
    return p.report()


def slowest(report):
    """What the consumer waited for most."""
    return max(report.stages, key=lambda stage: stage.waited).name
