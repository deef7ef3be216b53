"""What the tests of a stage in processes of its own share."""

import torch
from torch import nn

from tests.pipeline.support import Training
from torchdali import ExternalSource, JpegFolder, TensorList, ops

WORKERS = {"placement": "workers", "gpu_workers": 2}


def equal(one, other):
    """Bit for bit, for what pipelines return."""
    assert type(one) is type(other)
    if isinstance(one, TensorList):
        assert one.layout == other.layout
        return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor):
        return one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other


class Everything(Training):
    """Decodes, draws in all ways there are, skips what is broken, and returns things of several kinds."""

    def __init__(self, source, **options):
        super().__init__(source, **{"seed": 3, "record_draws": True, **options})
        self.decode = ops.DecodeImage(on_error="skip")
        self.crop = ops.RandomResizedCrop(32)
        self.noise = nn.Dropout(0.3)

    def forward(self, files, labels):
        images, labels = self.decode(files, labels)
        crops = self.crop(images).stack()
        return {
            "ragged": self.enhance(images),
            "channels last": crops.contiguous(memory_format=torch.channels_last),
            "labels": labels,
            "noise": (self.noise(torch.ones(5)), torch.rand(2), "text"),
        }


def broken_now_and_then(photographs, samples=22):
    files = JpegFolder(photographs)

    def source(info):
        if info.idx_in_epoch >= samples:
            raise StopIteration
        data, label = files(info._replace(idx_in_epoch=info.idx_in_epoch % len(files)))
        return (data[: len(data) // 2] if info.idx_in_epoch % 7 == 3 else data), label

    return ExternalSource(source, num_outputs=2, batch=False)


def epochs(pipeline, number=2):
    with pipeline:
        return [[(batch, pipeline.last_draws) for batch in pipeline] for _ in range(number)]
