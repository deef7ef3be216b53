"""Workers that decode a part of each batch for a stage on a CUDA device."""

import pytest
import torch

from tests.pipeline.sharing import Decodes
from tests.pipeline.support import endless, folder_source
from torchdali import ops

pytestmark = pytest.mark.gpu

SHARES = (0, 0.5, 1, "auto")


def epochs(pipeline, count=3):
    """Images and labels, copied."""
    seen = []
    for _ in range(count):
        for images, labels in pipeline:
            assert images.device == pipeline.device
            assert {image.device for image in images} == {pipeline.device}
            seen += [(image.cpu(), int(label)) for image, label in zip(images, labels, strict=True)]
    return seen


@pytest.mark.parametrize(
    ("options", "decode"),
    [
        ({}, lambda: ops.DecodeImage()),
        ({"pin_memory": True}, lambda: ops.DecodeImage("GRAY")),
        ({"stage_thread": False}, lambda: ops.DecodeRandomCrop(layout="HWC")),
    ],
)
def test_images_agree_with_those_of_the_decoder_on_the_gpu(options, decode, photographs):
    pipelines = [Decodes(folder_source(photographs), decode(), device="cuda", cpu_share=s, **options) for s in SHARES]
    for pipeline in pipelines:
        pipeline.start_py_workers()
    assert not torch.cuda.is_initialized()
    expected = None
    for share, pipeline in zip(SHARES, pipelines, strict=True):
        with pipeline:
            seen = epochs(pipeline)
            statistics = pipeline.statistics()
        if share != "auto":
            assert statistics.cpu_share == pytest.approx(share, abs=0.12)
        if expected is None:
            expected = seen
        for (image, label), (other, its) in zip(seen, expected, strict=True):
            assert label == its
            assert image.shape == other.shape
            assert (image.int() - other.int()).abs().float().mean() < 3.0


def test_images_that_the_next_operator_works_on_are_complete(photographs):
    """Copies are not waited for: what comes after them on the stream has to see all of them."""

    class Sums(Decodes):
        def forward(self, files, labels):
            images = self.decode(files)
            torch.cuda._sleep(2_000_000)
            return torch.stack([image.sum(dtype=torch.int64) for image in images]), labels

    for pinned in (False, True):
        pipeline = Sums(
            folder_source(photographs), ops.DecodeImage(decoder="cpu"), device="cuda", cpu_share=1, pin_memory=pinned
        )
        plain = Sums(folder_source(photographs), ops.DecodeImage(decoder="cpu"), device="cuda", pin_memory=pinned)
        with pipeline, plain:
            for _ in range(10):
                for (ours, _), (theirs, _) in zip(pipeline, plain, strict=True):
                    assert torch.equal(ours, theirs)
            assert pipeline.statistics().cpu_share > 0.8


def test_stage_workers_get_images_from_more_memory_than_is_pinned_at_a_time(image_folder):
    """A copy from what is pinned in part, or in two pieces, is refused by CUDA."""
    options = {"batch_size": 160, "num_workers": 6, "device": "cuda", "placement": "workers", "gpu_workers": 2}
    shared = Decodes(endless(image_folder, 1600), cpu_share=0.7, **options)
    alone = Decodes(endless(image_folder, 1600), **options)
    with shared, alone:
        for epoch in range(2):
            for number, ((ours, labels), (theirs, its)) in enumerate(zip(shared, alone, strict=True)):
                assert torch.equal(labels.as_tensor(), its.as_tensor())
                for image, other in zip(ours, theirs, strict=True):
                    assert (image.int() - other.int()).abs().float().mean() < 3.0, (epoch, number)
        assert shared.statistics().cpu_share > 0.5
        assert len(shared._staff.reader.memory.segments) > 1
