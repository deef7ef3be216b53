"""What tests of pipelines that look ahead of their stage have in common."""

import numpy as np
import torch

import torchdali
from tests.ops.decode.oddities import encoded, picture
from torchdali import ExternalSource

__all__ = ["FILES", "Decoding", "Read", "assert_same", "epoch"]

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
