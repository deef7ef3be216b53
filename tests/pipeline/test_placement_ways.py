"""The ways to get a stage in processes of its own, and what else goes with it."""

import logging

import pytest

from tests.pipeline.placing import WORKERS, Everything, broken_now_and_then, epochs, equal
from tests.pipeline.support import Draws, Training, count_to, folder_source
from torchdali import JpegFolder, fn, pipeline_def


@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_workers_that_inherit_nothing_do_the_same(photographs, method):
    source = folder_source(photographs)
    options = {"seed": 8, "start_method": method}
    here, there = Training(source, seed=8), Training(source, **options, **WORKERS)
    with here, there:
        for _ in range(3):
            assert equal(here.run(), there.run())


def test_auto_chooses_the_main_process_where_there_is_no_gpu_and_says_so(caplog):
    with caplog.at_level(logging.INFO, "torchdali"), Draws(count_to(4), placement="auto") as pipeline:
        assert pipeline.placement == "main"
        assert pipeline.gpu_worker_pids == []
        pipeline.run()
    assert "the stage runs in the main process" in caplog.text
    assert "no CUDA device" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "gpu"}, "'gpu'"),
        ({"placement": "workers", "gpu_workers": 0}, "gpu_workers is 0"),
        ({"gpu_workers": 2}, 'placement is "main"'),
        ({"placement": "workers", "stage_thread": False}, "stage_thread is False"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Draws(count_to(4), **options)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_workers_decode_their_share_for_it_too(photographs, share):
    options = {"on_worker_death": "restart", "cpu_share": share}
    here = epochs(Everything(broken_now_and_then(photographs, 40)), 3)
    pipeline = Everything(broken_now_and_then(photographs, 40), **options, **WORKERS)
    assert equal(here, epochs(pipeline, 3))
    assert 0 < pipeline.statistics().cpu_share <= share
    assert pipeline.statistics().bad_images == 18


@pytest.mark.parametrize("method", ["fork", "zygote"])
def test_a_pipeline_of_fn_calls_has_it_too(photographs, method):
    files = JpegFolder(photographs)

    @pipeline_def(batch_size=4, py_num_workers=2, device_id=None, seed=6, py_start_method=method, last_batch="partial")
    def pipeline():
        jpegs, labels = fn.external_source(source=files, num_outputs=2, batch=False, parallel=True)
        images = fn.decoders.image(jpegs, device="mixed")
        return fn.brightness_contrast(images, contrast=fn.random.uniform(range=(1.0, 3.0))), labels

    with pipeline() as here, pipeline(placement="workers", gpu_workers=2) as there:
        for _ in range(3):
            assert equal(here.run(), there.run())
        assert len(there.gpu_worker_pids) == 2
