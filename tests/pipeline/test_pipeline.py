import numpy as np
import pytest
import torch
from torch import nn

import torchdali
from tests.helpers import Files, decode_serially, enhance_serially
from tests.pipeline.support import Plain, Training, count_to, folder_source, numbers, plain
from torchdali import ExternalSource, JpegFolder, Pipeline, TensorList, ops


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


@pytest.mark.parametrize("stage_thread", [True, False])
def test_a_warning_points_to_the_line_that_asked_for_the_batch(stage_thread):
    def in_a_loop(pipeline):
        for _ in pipeline:
            pass

    def by_run(pipeline):
        with pytest.raises(StopIteration, match="the epoch is over"):
            pipeline.run()

    for ask in (in_a_loop, by_run):
        with plain(count_to(2), last_batch="drop", stage_thread=stage_thread) as pipeline:
            with pytest.warns(UserWarning, match="do not fill a batch of 4") as caught:
                ask(pipeline)
            line = caught[0].lineno
            assert caught[0].filename == __file__
            assert ask.__code__.co_firstlineno < line <= ask.__code__.co_firstlineno + 2
