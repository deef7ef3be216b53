"""What an engine decodes ahead, on a stream of its own, arrives as it was made, whatever the consumer does meanwhile."""

import random

import numpy as np
import pytest
import torch

import torchdali
from torchdali import ExternalSource, JpegFolder, ops

pytestmark = pytest.mark.gpu

BATCHES = 1000


class Decoding(torchdali.Pipeline):
    """Photographs again and again, as they are or in parts."""

    def __init__(self, folder, decode, **options):
        files = JpegFolder(folder)

        def read(info):
            if info.idx_in_epoch >= BATCHES * 8:
                raise StopIteration
            return [np.fromfile(files.files[info.idx_in_epoch % len(files.files)], np.uint8)]

        super().__init__(
            ExternalSource(read, num_outputs=1), batch_size=8, num_workers=4, device="cuda", seed=1, **options
        )
        self.decode = decode

    def forward(self, files):
        return self.decode(files)


def sums(pipeline, seed=None):
    """Of all images, in the order in which they come; with a seed to a consumer that goes its own way."""
    pace = random.Random(seed)
    streams = [torch.cuda.default_stream(), *(torch.cuda.Stream() for _ in range(3))]
    found = []
    with pipeline:
        for _ in range(BATCHES):
            with torch.cuda.stream(pace.choice(streams) if seed is not None else streams[0]):
                images = pipeline.run()[0]
                if seed is not None:
                    torch.cuda._sleep(pace.choice([0, 0, 2_000, 200_000]))
                weights = torch.arange(1, 9, device="cuda")
                found.append(torch.stack([image.long().sum() * image.shape[1] for image in images]) * weights)
                del images  # while the device may not have begun to read them
        torch.cuda.synchronize()
    return torch.stack(found).cpu()


@pytest.mark.slow
@pytest.mark.parametrize("decode", [ops.DecodeImage, ops.DecodeRandomCrop])
def test_a_thousand_batches_are_those_of_a_stage_that_does_all_itself(image_folder, decode):
    ways = [{"stage_thread": False}, {}, {"cpu_share": 0.0, "prefetch": 4}]
    pipelines = [Decoding(image_folder, decode(), **way) for way in ways]
    for pipeline in pipelines:
        pipeline.start_py_workers()
    assert not torch.cuda.is_initialized()
    expected = sums(pipelines[0])
    for seed, pipeline in enumerate(pipelines[1:], 5):
        wrong = (sums(pipeline, seed=seed) != expected).nonzero().tolist()
        assert not wrong, "batches, and images of these"
