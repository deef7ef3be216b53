"""Pipelines whose workers decode a part of each batch, and how they are compared with those whose workers do not."""

import numpy as np
import torch

from tests.ops.decode.oddities import encoded, picture
from torchdali import DecodeError, ExternalSource, Pipeline, ops

GOOD = [encoded(picture(40 + n, 50), quality=90) for n in range(24)]


def source_of(files, batch_size=4):
    """Each file with its number; the first batch twice, because nothing is shared out before one was decoded."""
    files = files[:batch_size] + files

    def source(info):
        if info.idx_in_epoch >= len(files):
            raise StopIteration
        return np.frombuffer(files[info.idx_in_epoch], np.uint8), info.idx_in_epoch

    return ExternalSource(source, num_outputs=2)


class Decodes(Pipeline):
    def __init__(self, files, decode=None, **options):
        source = files if isinstance(files, ExternalSource) else source_of(files, options.get("batch_size", 4))
        super().__init__(source, **{"batch_size": 4, "num_workers": 2, "device": "cpu", "seed": 5, **options})
        self.decode = decode or ops.DecodeImage()

    def forward(self, files, labels):
        return self.decode(files, labels)


def results(pipeline, epochs=1):
    """All that can be seen: images, labels and errors, batch by batch."""
    seen = []
    for _ in range(epochs):
        pipeline.reset()
        while True:
            try:
                images, labels = pipeline.run()
            except StopIteration:
                break
            except DecodeError as error:
                seen.append(("error", error.index, error.position, str(error)))
            else:
                seen.append(([image.clone() for image in images], images.layout, [int(label) for label in labels]))
    return seen


def same(one, other):
    assert len(one) == len(other)
    for ours, theirs in zip(one, other, strict=True):
        if ours[0] == "error":
            assert ours == theirs
            continue
        assert ours[1:] == theirs[1:]
        assert [image.shape for image in ours[0]] == [image.shape for image in theirs[0]]
        assert all(map(torch.equal, ours[0], theirs[0]))
    return True


def compare(make, share=0.5, epochs=1, at_least=None):
    """What comes with and without a share; returns the statistics of the former."""
    with make(cpu_share=0) as pipeline:
        expected = results(pipeline, epochs)
        without = pipeline.statistics()
    with make(cpu_share=share) as pipeline:
        same(results(pipeline, epochs), expected)
        statistics = pipeline.statistics()
    assert without.cpu_share == without.cpu_share_now == 0
    assert (statistics.decoded_images, statistics.bad_images) == (without.decoded_images, without.bad_images)
    assert statistics.batches == without.batches
    if at_least is not None:
        assert statistics.cpu_share >= at_least
    return statistics
