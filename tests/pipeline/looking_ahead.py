"""What tests of pipelines that look ahead of their stage have in common."""

import time

import numpy as np
import torch

import torchdali
from tests.ops.decode.oddities import encoded, picture
from torchdali import ExternalSource, ops

__all__ = ["FILES", "Again", "Decoding", "Read", "Training", "assert_same", "epoch", "patient", "same"]

# Of chroma as large as luma: what the stand-in for the engine makes of a row does not depend on those below either.
FILES = [np.frombuffer(encoded(picture(70 + 2 * n, 80 + n), quality=70, subsampling=0), np.uint8) for n in range(20)]


class Read:
    """A source of JPEGs, some of which may be something else."""

    def __init__(self, odd=None):
        self.odd = odd or {}

    def __call__(self, info):
        n = info.idx_in_epoch
        if n >= len(FILES):
            raise StopIteration
        return (self.odd.get(n, FILES[n]),)


class Decoding(torchdali.Pipeline):
    def __init__(self, decode, source=None, change=None, **options):
        super().__init__(
            ExternalSource(source or Read(), num_outputs=1, batch=False), batch_size=4, num_workers=2, seed=1, **options
        )
        self.decode = decode
        self.change = change

    def forward(self, files):
        return self.decode(files if self.change is None else self.change(files))


def epoch(pipeline):
    with pipeline:
        return [[image.clone() for image in images] for images in pipeline]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert all(torch.equal(image, same) for image, same in zip(batch, other, strict=True))


class Again:
    """A source of JPEGs that goes on for longer."""

    def __init__(self, count=60, odd=None, pause=0.0):
        self.count, self.odd, self.pause = count, odd or {}, pause

    def __call__(self, info):
        n = info.idx_in_epoch
        if n >= self.count:
            raise StopIteration
        time.sleep(self.pause)
        return (self.odd.get(n, FILES[n % len(FILES)]),)


class Training(Decoding):
    """What a network is trained with."""

    def __init__(self, decode, source=None, **options):
        super().__init__(decode, source or Again(), **options)
        self.contrast = ops.Uniform(0.6, 1.4)
        self.prepare = ops.Fused(
            ops.Resize((20, 24)),
            ops.BrightnessContrast(contrast=self.contrast),
            ops.CropMirrorNormalize(mirror=ops.CoinFlip(), mean=[90.0, 100.0, 110.0], std=50.0, dtype=torch.float32),
        )
        self.turn = ops.Rotate(ops.Uniform(-30, 30))

    def forward(self, files):
        return self.turn(self.prepare(self.decode(files)))


def patient(pipeline):
    """An epoch of a consumer who leaves workers time to foresee."""
    batches = []
    with pipeline:
        for images in pipeline:
            batches.append([image.clone() for image in images])
            time.sleep(0.03)
    return batches


def same(batch, other):
    return batch[0].shape == other[0].shape and all(
        torch.equal(image, one) for image, one in zip(batch, other, strict=True)
    )
