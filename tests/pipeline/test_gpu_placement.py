"""The stage in processes that own a CUDA context each; needs a CUDA device."""

import os
import signal

import pytest
import torch

from tests.pipeline.support import Training, endless, folder_source
from torchdali import ExternalSource, Pipeline, WorkerDiedError, ops

pytestmark = pytest.mark.gpu

WORKERS = {"placement": "workers", "gpu_workers": 2}


class Crops(Pipeline):
    """A training's chain: ragged images, one dense batch in half precision, labels on the device."""

    def __init__(self, source, **options):
        super().__init__(source, **{"batch_size": 16, "num_workers": 2, "device": "cuda", "seed": 5, **options})
        self.decode = ops.DecodeRandomCrop()
        self.prepare = ops.Fused(
            ops.Resize((64, 64)),
            ops.BrightnessContrast(contrast=ops.Uniform(1.0, 3.0)),
            ops.CropMirrorNormalize(dtype=torch.float16, mean=[120.0] * 3, std=[60.0] * 3, mirror=ops.CoinFlip()),
        )

    def forward(self, jpegs, labels):
        return self.prepare(self.decode(jpegs)), labels


def on_cpu(batch):
    return [[sample.cpu() for sample in output] for output in batch]


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert len(a) == len(b)
        for column, expected in zip(a, b, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(column, expected, strict=True))


@pytest.mark.parametrize("kind", [Training, Crops])
def test_pixels_labels_and_order_are_those_of_the_main_process(image_folder, kind):
    there = kind(endless(image_folder, 120), device="cuda", seed=5, **WORKERS)
    here = kind(endless(image_folder, 120), device="cuda", seed=5)
    with there, here:
        for _ in range(2):
            assert_equal([on_cpu(batch) for batch in there], [on_cpu(batch) for batch in here])


def test_tensors_are_this_process_s_own_and_outlive_the_workers(photographs):
    with Crops(endless(photographs, 64), **WORKERS) as pipeline:
        kept = list(pipeline)
        images, labels = kept[0]
        assert images.device == labels.device == pipeline.device
        copies = [on_cpu(batch) for batch in kept]
    torch.cuda.synchronize()
    assert_equal([on_cpu(batch) for batch in kept], copies)
    before = torch.cuda.memory_allocated()
    size = sum(images.nbytes + labels.nbytes for images, labels in kept)
    del kept, images, labels
    assert before - torch.cuda.memory_allocated() >= size


def test_a_thousand_batches_with_a_consumer_at_its_own_pace_are_all_right(photographs):
    """Also while batches grow, for which the workers' memory is made anew."""

    class Marked(Pipeline):
        def forward(self, batch):
            number = int(batch[0][0])
            values = torch.full(((1 + number // 40) * 30_000,), float(number), device=self.device)
            return values, values.sum(), number

    def source(info):
        if info.iteration >= 1000:
            raise StopIteration
        return torch.full((1,), info.iteration)

    with Marked(ExternalSource(source, batch=False), batch_size=1, device="cuda", **WORKERS) as pipeline:
        wrong, kept = torch.zeros((), device="cuda", dtype=torch.int64), []
        streams = [torch.cuda.Stream() for _ in range(3)]
        for expected, (values, total, number) in enumerate(pipeline):
            assert number == expected
            with torch.cuda.stream(streams[expected % 3]):
                streams[expected % 3].wait_stream(torch.cuda.default_stream())
                values.record_stream(streams[expected % 3])
                bad = (values != expected).sum() + (total != values.sum()).sum()
            torch.cuda.default_stream().wait_stream(streams[expected % 3])
            wrong += bad
            kept = [*kept[-5:], (values, expected)]
            if expected % 100 == 0:
                assert all(bool((old == mark).all()) for old, mark in kept)
        assert int(wrong) == 0
        assert number == 999


def test_a_killed_worker_costs_its_batches_or_nothing_as_the_policy_says(photographs):
    reference = Crops(endless(photographs), **WORKERS)
    with reference, Crops(endless(photographs), on_worker_death="restart", **WORKERS) as pipeline:
        pipeline.start_py_workers()
        expected = [on_cpu(batch) for batch in reference]
        found = []
        with pytest.warns(RuntimeWarning, match="SIGKILL"):
            for number, batch in enumerate(pipeline):
                found.append(on_cpu(batch))
                if number == 5:
                    os.kill(pipeline.gpu_worker_pids[1], signal.SIGKILL)
        assert_equal(found, expected)


def test_with_raise_the_others_go_on(photographs):
    with Crops(endless(photographs), **WORKERS) as pipeline:
        pipeline.run()
        os.kill(pipeline.gpu_worker_pids[0], signal.SIGKILL)
        died = delivered = 0
        while True:
            try:
                pipeline.run()
                delivered += 1
            except WorkerDiedError:
                died += 1
            except StopIteration:
                break
        assert 1 <= died <= 2
        assert delivered + died == 24
        assert len(list(pipeline)) == 25


def test_pipelines_that_are_made_after_cuda_is_up_get_their_workers_from_the_zygote(photographs):
    with Training(folder_source(photographs), device="cuda") as first:
        first.run()
        assert torch.cuda.is_initialized()
        second = Training(folder_source(photographs), device="cuda", seed=2, **WORKERS)
        third = Training(folder_source(photographs), device="cuda", seed=2)
        with second, third:
            assert_equal([on_cpu(batch) for batch in second], [on_cpu(batch) for batch in third])


def test_auto_takes_processes_where_there_is_a_gpu_and_processors_for_it(photographs):
    with Crops(endless(photographs, 32), placement="auto") as pipeline:
        assert len(list(pipeline)) == 2
        expected = "workers" if len(os.sched_getaffinity(0)) >= 4 else "main"
        assert pipeline.placement == expected
        assert bool(pipeline.gpu_worker_pids) == (expected == "workers")


def test_a_changed_module_on_the_device_reaches_the_workers(photographs):
    class Scaled(Pipeline):
        def __init__(self, source, **options):
            super().__init__(source, batch_size=4, device="cuda", **options)
            self.scale = torch.nn.Linear(1, 1, bias=False)

        def forward(self, jpegs, labels):
            return self.scale(torch.ones(len(labels), 1, device=self.device)).flatten()

    with Scaled(folder_source(photographs), **WORKERS) as pipeline:
        pipeline.run()
        for value in (2.0, 3.0):
            pipeline.load_state_dict({"scale.weight": torch.tensor([[value]])})
            pipeline.reset()
            assert pipeline.run()[0].tolist() == [value] * 4
        pipeline.half()
        pipeline.reset()
        with pytest.raises(RuntimeError):  # forward makes single precision
            pipeline.run()
