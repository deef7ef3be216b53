"""What workers have found out ahead is what the stage does on a GPU, to the last bit."""

import time

import numpy as np
import pytest
import torch

import torchdali
from torchdali import ExternalSource, JpegFolder, ops
from torchdali.pipeline import _foresee

pytestmark = pytest.mark.gpu

BATCHES = 60


class Training(torchdali.Pipeline):
    """Photographs again and again, as a network is trained with them."""

    def __init__(self, folder, **options):
        files = JpegFolder(folder)

        def read(info):
            if info.idx_in_epoch >= BATCHES * 32:
                raise StopIteration
            return [np.fromfile(files.files[info.idx_in_epoch % len(files.files)], np.uint8)]

        source = ExternalSource(read, num_outputs=1)
        super().__init__(source, batch_size=32, num_workers=4, device="cuda", seed=1, **options)
        self.decode = ops.DecodeRandomCrop()
        self.prepare = ops.Fused(
            ops.Resize(96),
            ops.BrightnessContrast(contrast=ops.Uniform(1.0, 3.0)),
            ops.CropMirrorNormalize(mirror=ops.CoinFlip(), mean=[120.0, 115.0, 100.0], std=58.0, dtype=torch.float16),
            channels_last=True,
        )
        self.turn = ops.Rotate(ops.Uniform(-30, 30), keep_size=True)

    def forward(self, files):
        return self.turn(self.prepare(self.decode(files))).as_tensor()


def results(pipeline):
    made = []
    with pipeline:
        for batch in pipeline:
            made.append(batch.clone())
            time.sleep(0.02)  # as a training would take: a stage that is waited for waits for no answer
    return made


def test_batches_are_those_of_a_stage_that_decides_by_itself(image_folder, monkeypatch):
    answers = []
    answer = _foresee.Foresight.answer
    monkeypatch.setattr(
        _foresee.Foresight, "answer", lambda self, asked: answers.append(answer(self, asked)) or answers[-1]
    )
    pipelines = [
        Training(image_folder, stage_thread=False),
        Training(image_folder),
        Training(image_folder, cpu_share=0),
    ]
    for pipeline in pipelines:
        pipeline.start_py_workers()
    expected, *others = map(results, pipelines)
    assert len(expected) == BATCHES
    for found in others:
        assert all(torch.equal(batch, same) for batch, same in zip(found, expected, strict=True))
    print(f"{sum(found is not None for found in answers)} of {2 * BATCHES} batches were foreseen")
    assert sum(found is not None for found in answers) > BATCHES / 2
