"""Waits for a GPU, which the host does not see."""

import pytest
import torch

import torchdali
from tests.report.support import BATCH, Source, Stages, report_of
from torchdali import ExternalSource, JpegFolder, ops

pytestmark = pytest.mark.gpu


class Heavy(torch.nn.Module):
    """Work for some milliseconds, which is only begun on the host."""

    def forward(self, batch):
        numbers = torch.ones(4096, 4096, device=batch.device)
        for _ in range(20):
            numbers = numbers @ numbers * 1e-4
        return batch + (numbers[0, 0] * 0).to(batch.dtype)


class OnGpu(Stages):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._request = "cuda"

    def forward(self, batch):
        return super().forward(batch.to(self.device))


def consume_on_gpu(pipeline):
    with torchdali.profile() as p:
        for batch in pipeline:
            batch.sum().item()
    return p.report()


def test_an_operator_that_is_slow_on_the_gpu_alone_is_found():
    with OnGpu(Source(batches=20), heavy=Heavy()) as pipeline:
        report = consume_on_gpu(pipeline)
    assert report.bound == "augment", report
    assert report.operators["heavy"] > 0.5 * (report.wait_seconds + report.step_seconds)
    assert 0 < report.device_wait_seconds <= report.wait_seconds


def test_decoding_on_the_gpu_is_measured_on_its_stream():
    source = ExternalSource(JpegFolder(torchdali.source.PHOTOGRAPHS), num_outputs=2)

    class Decode(torchdali.Pipeline):
        def __init__(self):
            super().__init__(source, batch_size=BATCH, num_workers=2, device="cuda")
            self.decode = ops.DecodeImage()

        def forward(self, jpegs, labels):
            return self.decode(jpegs), labels

    with Decode() as pipeline:
        report = report_of(pipeline)
    decode = next(stage for stage in report.stages if stage.name == "decode" and stage.where == "the stage thread")
    assert decode.seconds > 0
    assert decode.seconds == pytest.approx(report.operators["decode"], rel=0.5)
