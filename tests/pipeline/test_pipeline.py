import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import torchdali
from tests.helpers import Files, decode_serially, enhance_serially
from torchdali import ExternalSource, JpegFolder, Pipeline, PipelineStateError, TensorList, WorkerDiedError, ops


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


def test_iteration_gives_an_epoch_of_chw_images_and_labels(image_folder):
    files = JpegFolder(image_folder)
    with Training(folder_source(image_folder)) as pipeline:
        seen = 0
        for images, labels in pipeline:
            assert images.layout == "CHW"
            for image, label in zip(images, labels, strict=True):
                assert image.shape == decode_serially(files.files[seen]).shape
                assert int(label) == files.labels[seen]
                seen += 1
        assert seen == len(files)


def test_both_ways_of_writing_a_pipeline_give_the_same_pixels(photographs):
    @torchdali.pipeline_def(batch_size=4, py_num_workers=2, device_id=None, last_batch="partial")
    def traced():
        source = torchdali.fn.external_source(Files(photographs), num_outputs=2, batch=False, parallel=True)
        jpegs, labels = source
        contrast = torchdali.fn.random.uniform(range=(1.0, 3.0))
        images = torchdali.fn.brightness_contrast(torchdali.fn.decoders.image(jpegs), contrast=contrast)
        return images, labels

    with traced(seed=3) as by_fn, Training(folder_source(photographs), seed=3) as by_module:
        for (ours, _), (theirs, _) in zip(by_module, by_fn, strict=True):
            assert theirs.layout == "HWC"
            for a, b in zip(ours, theirs, strict=True):
                assert torch.equal(a.permute(1, 2, 0), b)


def test_it_is_a_module_like_any_other(photographs):
    pipeline = Training(folder_source(photographs))
    assert isinstance(pipeline, nn.Module)
    assert list(pipeline.state_dict()) == ["scale"]
    pipeline.load_state_dict({"scale": torch.full((1,), 3.0)})
    assert pipeline.scale.item() == 3.0
    assert [name for name, _ in pipeline.named_children()] == ["decode", "enhance"]
    assert "BrightnessContrast" in str(pipeline)
    assert "Uniform(1.0, 3.0)" in str(pipeline)
    assert pipeline.to(torch.float64).scale.dtype == torch.float64
    assert not pipeline.eval().training
    data = torch.from_numpy(np.fromfile(photographs / "cat.jpg", np.uint8))
    (image,) = pipeline.decode([data])
    assert torch.equal(image, decode_serially(photographs / "cat.jpg"))
    pipeline.close()


def test_an_epoch_has_every_sample_once_and_in_order_whatever_the_workers():
    for workers, prefetch, size in ((1, 1, 4), (2, 3, 5), (4, 2, 1), (3, 5, 100)):
        with plain(count_to(23), num_workers=workers, prefetch=prefetch, batch_size=size) as pipeline:
            for _ in range(2):
                assert [number for batch in pipeline for number in numbers(batch)] == list(range(23))


def test_a_short_last_batch_is_delivered_or_dropped_with_a_warning():
    with plain(count_to(10)) as pipeline:
        assert [len(batch) for batch in pipeline] == [4, 4, 2]
    with plain(count_to(10), last_batch="drop") as pipeline, pytest.warns(UserWarning, match="2 samples .*index 8"):
        assert [len(batch) for batch in pipeline] == [4, 4]


def test_a_new_iteration_begins_at_the_first_sample_also_after_a_break():
    with plain(count_to(10)) as pipeline:
        for batch in pipeline:
            assert numbers(batch) == [0, 1, 2, 3]
            break
        assert [numbers(batch)[0] for batch in pipeline] == [0, 4, 8]


def test_an_old_iterator_ends_when_a_new_one_begins():
    with plain(count_to(10)) as pipeline:
        old = iter(pipeline)
        next(old)
        new = iter(pipeline)
        assert numbers(next(new)) == [0, 1, 2, 3]
        assert list(old) == []
        assert numbers(next(new)) == [4, 5, 6, 7]


def test_the_length_is_known_where_the_source_s_is(photographs):
    folder = JpegFolder(photographs)
    assert len(Plain(ExternalSource(folder, num_outputs=2), batch_size=4)) == -(-len(folder) // 4)
    assert len(Plain(ExternalSource(folder, num_outputs=2), batch_size=4, last_batch="drop")) == len(folder) // 4
    without = Plain(count_to(3), batch_size=4)
    assert bool(without)
    with pytest.raises(TypeError, match="no __len__"):
        len(without)


def test_kept_batches_are_never_overwritten():
    width = 50_000
    with plain(count_to(200, width), num_workers=3) as pipeline:
        kept = list(pipeline)
    for number, sample in enumerate(sample for batch in kept for sample in batch):
        assert torch.equal(sample, torch.full((width,), number))


def test_writing_into_a_batch_harms_nobody():
    with plain(count_to(40, 5000)) as pipeline:
        for _ in range(2):
            for number, batch in enumerate(pipeline):
                assert numbers(batch) == list(range(number * 4, number * 4 + 4))
                for sample in batch:
                    sample.fill_(-1)


def test_several_sources_go_together():
    sources = [ExternalSource(count_to(9)), ExternalSource(count_to(7)), ExternalSource(range(100), parallel=False)]
    with plain(sources) as pipeline:
        batches = [(numbers(a), numbers(b), [int(x) for x in c]) for a, b, c in pipeline]
    assert batches == [([0, 1, 2, 3],) * 3, ([4, 5, 6],) * 3]


def test_outputs_may_be_nested_and_keep_their_form():
    class Nested(Pipeline):
        def forward(self, numbers):
            return {"all": [numbers, numbers.as_tensor()], "name": "x"}

    with Nested(count_to(4), batch_size=4, device="cpu") as pipeline:
        (out,) = pipeline.run()
        assert out["name"] == "x"
        assert out["all"][1].shape == (4, 3)


# --- when things go wrong -----------------------------------------------------------------------------------------------


class SourceProblemError(Exception):
    def __init__(self, sample, why):
        super().__init__(f"{why} at {sample}")
        self.sample = sample


def test_an_exception_of_the_source_arrives_at_its_batch_and_the_next_batch_follows():
    def source(info):
        if info.idx_in_epoch == 5:
            raise SourceProblemError(5, "broken")
        return count_to(12)(info)

    with plain(source) as pipeline:
        assert numbers(pipeline.run()[0]) == [0, 1, 2, 3]
        with pytest.raises(SourceProblemError, match="broken at 5") as caught:
            pipeline.run()
        assert caught.value.sample == 5
        assert "idx_in_epoch=5" in str(caught.value.__cause__)
        assert 'raise SourceProblemError(5, "broken")' in str(caught.value.__cause__)
        assert numbers(pipeline.run()[0]) == [8, 9, 10, 11]
        pipeline.reset()
        assert numbers(pipeline.run()[0]) == [0, 1, 2, 3]


def test_an_exception_of_the_stage_costs_its_batch_alone():
    class Fails(Pipeline):
        def forward(self, batch):
            if numbers(batch)[0] == 4:
                raise ZeroDivisionError("in the stage")
            return batch

    with Fails(count_to(12), batch_size=4, device="cpu") as pipeline:
        assert numbers(pipeline.run()[0]) == [0, 1, 2, 3]
        with pytest.raises(ZeroDivisionError):
            pipeline.run()
        assert numbers(pipeline.run()[0]) == [8, 9, 10, 11]


def test_a_cut_jpeg_names_its_sample_and_nothing_else_is_lost(photographs):
    files = JpegFolder(photographs)

    def source(info):
        data, label = files(info)
        return (data[: len(data) // 2] if info.idx_in_epoch == 6 else data), label

    with Training(ExternalSource(source, num_outputs=2)) as pipeline:
        assert len(pipeline.run()[0]) == 4
        with pytest.raises(torchdali.DecodeError, match="sample 6 of epoch 0 .*cut off"):
            pipeline.run()
        assert [int(label) for label in pipeline.run()[1]] == files.labels[8:12]


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ((1, 2, 3), ValueError, "returned 3 outputs, but num_outputs=2"),
        (7, TypeError, "returned a int, but with num_outputs=2"),
        ((np.array([object()]), 1), TypeError, "output 0 .*dtype"),
        ((1, None), TypeError, "output 1 .*is None"),
        ((torch.zeros(2, device="meta"), 1), TypeError, "tensor on meta"),
    ],
)
def test_wrong_outputs_are_named_with_their_sample(returned, error, message):
    source = ExternalSource(lambda info: returned, num_outputs=2, name="wrong")
    with plain(source) as pipeline, pytest.raises(error, match=message) as caught:
        pipeline.run()
    assert "source wrong for SampleInfo(idx_in_epoch=0" in str(caught.value)


def test_a_killed_worker_is_named_at_once_and_reset_replaces_it():
    def source(info):
        if info.idx_in_epoch == 6 and info.epoch_idx == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return count_to(20)(info)

    with plain(source) as pipeline:
        numbers(pipeline.run()[0])
        start = time.monotonic()
        with pytest.raises(
            WorkerDiedError, match=r"worker \d of Plain \(pid \d+\) was killed by SIGKILL.*idx_in_epoch=6"
        ):
            pipeline.run()
        assert time.monotonic() - start < 5, "a dead worker is noticed at once"
        assert len(pipeline.worker_pids) == 1
        assert numbers(pipeline.run()[0]) == [8, 9, 10, 11]
        pipeline.reset()
        assert len(pipeline.worker_pids) == 2
        assert [number for batch in pipeline for number in numbers(batch)] == list(range(20))


def test_ctrl_c_in_run_loses_nothing():
    def source(info):
        time.sleep(0.05)
        return count_to(12)(info)

    with plain(source, batch_size=6) as pipeline:
        pipeline.build()
        timer = threading.Timer(0.08, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            pipeline.run()
        timer.join()
        assert [number for _ in range(2) for number in numbers(pipeline.run()[0])] == list(range(12))


def test_ctrl_c_in_the_stage_loses_nothing():
    class Interrupted(Pipeline):
        interrupts = 2

        def forward(self, batch):
            if numbers(batch)[0] == 4 and self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            return batch

    with Interrupted(count_to(12), batch_size=4, device="cpu") as pipeline:
        seen = []
        for _ in range(5):
            with contextlib.suppress(KeyboardInterrupt):
                seen += numbers(pipeline.run()[0])
        assert seen == list(range(12))


def test_a_pipeline_can_be_started_after_another_ran_on_the_cpu(photographs):
    with Training(folder_source(photographs)) as first:
        first.run()
        with Training(folder_source(photographs)) as second:
            assert len(second.run()[0]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": 1, "num_workers": 0}, "num_workers is 0"),
        ({"batch_size": 1, "num_threads": 0}, "num_threads is 0"),
        ({"batch_size": 1, "prefetch": 0}, "prefetch is 0"),
        ({"batch_size": 1, "last_batch": "keep"}, "last_batch is 'keep'"),
        ({"batch_size": 1, "device": "tpu:0"}, "device is 'tpu:0'"),
        ({"batch_size": 1, "device": -1}, "device is -1"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Plain(count_to(1), **options)


def test_a_source_that_is_none_is_named():
    with pytest.raises(TypeError, match="this is a int"):
        Plain(5, batch_size=1)  # type: ignore[arg-type]


def test_a_closed_pipeline_says_so_and_its_batches_stay():
    pipeline = plain(count_to(8, 5000))
    (batch,) = pipeline.run()
    pipeline.close()
    pipeline.close()
    for use in (pipeline.run, pipeline.reset, pipeline.start_py_workers, pipeline.build, lambda: iter(pipeline)):
        with pytest.raises(PipelineStateError, match="closed"):
            use()
    assert numbers(batch) == [0, 1, 2, 3]


def test_a_pipeline_that_is_dropped_ends_its_workers():
    pipeline = plain(count_to(8))
    pipeline.run()
    pids = pipeline.worker_pids
    assert len(pids) == 2
    del pipeline  # the fixture sees whether they are gone


def test_after_cuda_workers_are_refused_with_the_reason_and_the_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    pipeline = plain(count_to(3))
    with pytest.raises(torchdali.CudaInitializedError) as caught:
        pipeline.start_py_workers()
    text = str(caught.value)
    assert "already initialised" in text
    assert "Why it matters" in text
    assert "start_py_workers()" in text
    assert pipeline.worker_pids == []


def test_the_device_of_a_pipeline_is_checked_when_it_is_built():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with plain(count_to(3), device="cuda") as pipeline, pytest.raises(RuntimeError, match="CUDA is not available"):
        pipeline.build()


def test_statistics_tell_where_the_time_went(photographs):
    with Training(folder_source(photographs)) as pipeline:
        count = sum(len(labels) for _, labels in pipeline)
        statistics = pipeline.statistics()
    assert statistics.samples == count
    assert set(statistics.stage_seconds) == {"decode", "enhance"}
    assert statistics.source_seconds > 0
    assert 0 < sum(statistics.stage_seconds.values()) <= statistics.run_seconds


def test_validation_by_the_module_way_equals_the_reference(photographs):
    class Validation(Pipeline):
        def __init__(self, source):
            super().__init__(source, batch_size=5, num_workers=2, device="cpu")
            self.decode = ops.DecodeImage()
            self.enhance = ops.BrightnessContrast(contrast=1.5)

        def forward(self, jpegs, labels):
            return self.enhance(self.decode(jpegs))

    files = JpegFolder(photographs).files
    with Validation(folder_source(photographs)) as pipeline:
        images = [image for batch in pipeline for image in batch]
    for image, path in zip(images, files, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), enhance_serially(path, 1.5))


def test_a_tensor_list_comes_out_of_a_tensor_list_source():
    class Dense(Pipeline):
        def forward(self, batch):
            assert isinstance(batch, TensorList)
            return batch.as_tensor() * 2

    with Dense(count_to(4), batch_size=4, device="cpu") as pipeline:
        assert pipeline.run()[0][:, 0].tolist() == [0, 2, 4, 6]
