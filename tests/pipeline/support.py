"""Pipelines and sources that the tests of pipelines share."""

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


def count_to(n, width=3):
    def source(info):
        if info.idx_in_epoch >= n:
            raise StopIteration
        return np.full(width, info.idx_in_epoch)

    return source


def numbers(batch):
    return [int(value[0]) for value in batch]


def plain(source, **options):
    return Plain(source, **{"batch_size": 4, "num_workers": 2, "device": "cpu", **options})


def folder_source(folder):
    return ExternalSource(JpegFolder(folder), num_outputs=2)
