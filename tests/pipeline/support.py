"""Pipelines and sources that the tests of pipelines share."""

import threading
import time

import numpy as np
import torch
from torch import nn

from torchdali import ExternalSource, JpegFolder, Pipeline, ops


class Training(Pipeline):
    def __init__(self, source, **options):
        super().__init__(source, **{"batch_size": 4, "num_workers": 2, "device": "cpu", **options})
        self.decode = ops.DecodeImage()
        self.enhance = ops.BrightnessContrast(contrast=ops.Uniform(1.0, 3.0))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, jpegs, labels):
        return self.enhance(self.decode(jpegs)), labels


class Plain(Pipeline):
    """Without a forward, which passes on what the source gives."""


class Counted(Pipeline):
    """Counts its forwards, each of which takes a while."""

    def __init__(self, source, *, seconds=0.0, **options):
        super().__init__(source, **{"batch_size": 4, "num_workers": 1, "device": "cpu", **options})
        self.seconds = seconds
        self.forwards = 0
        self.threads = set()

    def forward(self, batch):
        self.threads.add(threading.current_thread())
        time.sleep(self.seconds)
        self.forwards += 1
        return batch


class Draws(Pipeline):
    """What it draws tells of seed, epoch and batch."""

    def __init__(self, source, **options):
        super().__init__(source, **{"batch_size": 4, "num_workers": 2, "device": "cpu", "seed": 11, **options})
        self.draw = ops.Uniform(0, 1)

    def forward(self, batch):
        if 21 in numbers(batch):
            raise ZeroDivisionError
        return numbers(batch), self.draw().tolist(), torch.rand(2).tolist()


def count_to(n, width=3):
    def source(info):
        if info.idx_in_epoch >= n:
            raise StopIteration
        return np.full(width, info.idx_in_epoch)

    return source


def numbers(batch):
    return [int(value[0]) for value in batch]


WAYS = [
    {},
    {"parallel": False},
    {"stage_thread": False},
    {"stage_thread": False, "parallel": False},
    {"cpu_share": 0.5},
]
"""Options of pipelines whose stage runs in this process; ``parallel`` is the source's."""


def outcomes(pipeline, calls, kind):
    """What so many calls of run() give: the first number of a batch, the text of an exception of a kind, or "the end"."""
    seen = []
    for _ in range(calls):
        try:
            seen.append(numbers(pipeline.run()[0])[0])
        except StopIteration:
            seen.append("the end")
        except kind as error:
            seen.append(str(error))
    return seen


def plain(source, **options):
    return Plain(source, **{"batch_size": 4, "num_workers": 2, "device": "cpu", **options})


def folder_source(folder):
    return ExternalSource(JpegFolder(folder), num_outputs=2)


def endless(folder, samples=400):
    """A folder's files over and over, in epochs of so many."""
    files = JpegFolder(folder)

    def source(info):
        if info.idx_in_epoch >= samples:
            raise StopIteration
        return files(info._replace(idx_in_epoch=info.idx_in_epoch % len(files)))

    return ExternalSource(source, num_outputs=2, batch=False)
