"""The stage in processes of its own: the same batches, the same errors, and nothing lost when one of them dies."""

import gc
import os
import signal
import time
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torchvision import tv_tensors

from tests.pipeline.placing import WORKERS, Everything, broken_now_and_then, epochs, equal
from tests.pipeline.support import Draws, Training, count_to, endless, numbers
from torchdali import (
    DecodeError,
    ExternalSource,
    Pipeline,
    TensorList,
    WorkerDiedError,
)
from torchdali.ops import DecodeImage


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_draws_and_order_are_those_of_the_main_process(photographs, workers):
    here = epochs(Everything(broken_now_and_then(photographs)))
    there = epochs(Everything(broken_now_and_then(photographs), placement="workers", gpu_workers=workers))

    assert [len(epoch) for epoch in there] == [6, 6]
    assert equal(here, there)


def test_sources_of_all_kinds_feed_it():
    def batches():
        for start in range(0, 12, 4):
            yield np.arange(start, start + 4, dtype=np.float32)[:, None]

    for source in (
        ExternalSource(batches, batch=True, parallel=True),
        ExternalSource(batches, batch=True, parallel=False),
        ExternalSource(count_to(12), batch=False, parallel=False),
        ExternalSource(count_to(12, width=2000), batch=False),
    ):
        with Pipeline(source, batch_size=4, device="cpu", **WORKERS) as pipeline:
            for _ in range(2):
                assert [numbers(batch) for batch in pipeline] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
                if source.source is batches:
                    break


class StageProblemError(Exception):
    def __init__(self, number):
        super().__init__(f"no {number}")
        self.number = number


class Fails(Pipeline):
    def forward(self, batch):
        first = numbers(batch)[0]
        if first == 4:
            raise StageProblemError(first)
        if first == 8:
            raise StopIteration
        if first == 12:
            return lambda: (yield)
        return batch


def test_an_exception_arrives_at_its_batch_with_its_type_and_the_others_follow():
    with Fails(count_to(20), batch_size=4, device="cpu", **WORKERS) as pipeline:
        assert numbers(pipeline.run()[0]) == [0, 1, 2, 3]
        with pytest.raises(StageProblemError, match="no 4") as caught:
            pipeline.run()
        assert caught.value.number == 4
        assert "raise StageProblemError(first)" in str(caught.value.__cause__)
        with pytest.raises(RuntimeError, match="StopIteration, which would end the epoch in silence"):
            pipeline.run()
        pipeline.run()  # a function passes, by value
        assert numbers(pipeline.run()[0]) == [16, 17, 18, 19]
        with pytest.raises(StopIteration):
            pipeline.run()


def test_a_bad_image_is_named_and_counted(photographs):
    with Training(broken_now_and_then(photographs, 8), **WORKERS) as pipeline:
        with pytest.raises(DecodeError, match="sample 3 of epoch 0") as caught:
            pipeline.run()
        assert (caught.value.index, caught.value.position) == (3, 3)
        pipeline.run()
        with pytest.raises(StopIteration):
            pipeline.run()
    skipping = Everything(broken_now_and_then(photographs, 20), **WORKERS)
    epochs(skipping)
    assert skipping.statistics().bad_images == 6  # 3, 10 and 17 of each epoch
    assert skipping.statistics().stage_seconds["decode"] > 0


class Lazy(Pipeline):
    """Takes a while, so that somebody can be killed meanwhile; tells which process it was."""

    def forward(self, batch):
        time.sleep(0.05)
        return batch, os.getpid()


def test_a_killed_stage_worker_costs_its_batches_and_is_replaced_at_reset():
    with Lazy(count_to(80), batch_size=4, device="cpu", **WORKERS) as pipeline:
        first, _ = pipeline.run()
        assert numbers(first) == [0, 1, 2, 3]
        victim = pipeline.gpu_worker_pids[0]
        os.kill(victim, signal.SIGKILL)
        delivered, died = [0, 1, 2, 3], 0
        while True:
            try:
                batch, _ = pipeline.run()
            except WorkerDiedError as error:
                assert "SIGKILL" in str(error)
                assert f"{victim}" in str(error)
                died += 1
            except StopIteration:
                break
            else:
                delivered += numbers(batch)
        assert 1 <= died <= 2  # what it had in hand
        assert len(delivered) == 80 - 4 * died
        assert delivered == sorted(set(delivered))

        assert [number for batch, _ in pipeline for number in numbers(batch)] == list(range(80))
        assert victim not in pipeline.gpu_worker_pids
        assert len(pipeline.gpu_worker_pids) == 2
        assert pipeline.statistics().worker_deaths == 1


def test_with_restart_nothing_is_lost_whoever_is_killed():
    with Lazy(count_to(96), batch_size=4, device="cpu", on_worker_death="restart", **WORKERS) as pipeline:
        delivered = []
        with pytest.warns(RuntimeWarning, match="SIGKILL"):
            for number, (batch, _) in enumerate(pipeline):
                delivered += numbers(batch)
                if number in (2, 9):
                    os.kill(pipeline.gpu_worker_pids[number % 2], signal.SIGKILL)
        assert delivered == list(range(96))
        assert pipeline.statistics().worker_deaths == 2


def test_a_reset_in_the_middle_begins_the_next_epoch():
    with Draws(count_to(40), **WORKERS) as pipeline, Draws(count_to(40)) as reference:
        for stop in (0, 1, 4):
            for one in (pipeline, reference):
                one.reset()
                for _ in range(stop):
                    one.run()
        pipeline.reset()
        reference.reset()
        for _ in range(5):
            assert pipeline.run() == reference.run()


class Scaled(Pipeline):
    def __init__(self, source, **options):
        super().__init__(source, **{"batch_size": 2, "device": "cpu", **options})
        self.scale = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.scale.weight, 1)

    def forward(self, batch):
        result = self.scale(batch.stack()[:, :1].to(self.scale.weight.dtype))
        return result.flatten(), self.training


def test_a_change_of_the_module_reaches_the_workers():
    with Scaled(count_to(1000), **WORKERS) as pipeline:
        pipeline.start_py_workers()
        pipeline.load_state_dict({"scale.weight": torch.tensor([[2.0]])})  # before the first batch
        assert pipeline.run()[0].tolist() == [0, 2]
        pipeline.load_state_dict({"scale.weight": torch.tensor([[10.0]])})
        assert pipeline.eval() is pipeline
        pipeline.reset()
        values, training = pipeline.run()
        assert values.tolist() == [0, 10]
        assert not training
        pipeline.train()
        pipeline.double()
        pipeline.reset()
        values, training = pipeline.run()
        assert values.dtype == torch.float64
        assert training
        assert [pipeline.run()[0].tolist() for _ in range(6)] == [[20.0 * n, 20.0 * n + 10] for n in range(1, 7)]


def test_workers_that_took_the_place_of_others_have_the_changed_module_too():
    with Scaled(count_to(400), on_worker_death="restart", **WORKERS) as pipeline:
        pipeline.load_state_dict({"scale.weight": torch.tensor([[3.0]])})
        found = []
        with pytest.warns(RuntimeWarning, match="SIGKILL"):
            for number, (values, _) in enumerate(pipeline):
                found += values.tolist()
                if number == 3:
                    for pid in pipeline.gpu_worker_pids:
                        os.kill(pid, signal.SIGKILL)
        assert found == [3.0 * number for number in range(400)]


class Point(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Kinds(Pipeline):
    def forward(self, batch):
        shared = torch.arange(2000.0)
        return {
            "image": tv_tensors.Image(torch.zeros(3, 4, 4)),
            "boxes": tv_tensors.BoundingBoxes(torch.ones(1, 4), format="XYXY", canvas_size=(5, 6)),
            "twice": [shared, shared],
            "point": Point(shared[:3], torch.tensor(7)),
            "half": torch.ones(600, dtype=torch.bfloat16),
            "empty": torch.empty(0, 3),
            "list": TensorList([torch.zeros(2), torch.ones(3)]),
            "none": None,
            "numbers": np.arange(3),
        }


def test_what_forward_returns_arrives_as_what_it_is():
    with Kinds(count_to(4), batch_size=4, device="cpu", **WORKERS) as pipeline:
        (found,) = list(pipeline)
    assert type(found["image"]) is tv_tensors.Image
    assert type(found["boxes"]) is tv_tensors.BoundingBoxes
    assert found["boxes"].canvas_size == (5, 6)
    assert found["twice"][0] is found["twice"][1]
    assert type(found["point"]) is Point
    assert found["point"].y.item() == 7
    assert found["half"].dtype == torch.bfloat16
    assert found["empty"].shape == (0, 3)
    assert found["list"].shape() == [(2,), (3,)]
    assert found["none"] is None
    assert found["numbers"].tolist() == [0, 1, 2]


class Unsendable(Pipeline):
    def forward(self, batch):
        return (number for number in numbers(batch))


def test_what_cannot_be_sent_is_said():
    cannot = pytest.raises(TypeError, match='cannot be sent from the process.*placement="main"')
    with Unsendable(count_to(4), batch_size=4, device="cpu", **WORKERS) as pipeline, cannot:
        pipeline.run()


def test_batches_that_are_kept_are_never_overwritten():
    with Lazy(count_to(400, width=5000), batch_size=8, device="cpu", **WORKERS) as pipeline:
        kept = [batch for batch, _ in pipeline]
    for number, batch in enumerate(kept):
        for position, sample in enumerate(batch):
            assert (sample == number * 8 + position).all()


class Sparse(Pipeline):
    def forward(self, batch):
        return [sample.to_dense().tolist() for sample in batch], [sample.dim() for sample in batch]


def test_samples_that_lie_nowhere_in_memory_pass():
    def source(info):
        if info.idx_in_epoch >= 8:
            raise StopIteration
        return torch.eye(3)[info.idx_in_epoch % 3].to_sparse()

    with Sparse(ExternalSource(source, parallel=False), batch_size=4, device="cpu", **WORKERS) as pipeline:
        rows = [row for batch, _ in pipeline for row in batch]
    assert rows == [torch.eye(3)[number % 3].tolist() for number in range(8)]


def test_counts_of_a_decoder_that_was_taken_out_here_meanwhile_go_nowhere(photographs):
    with Training(endless(photographs, 40), batch_size=4, device="cpu", **WORKERS) as pipeline:
        pipeline.run()
        for name, module in list(pipeline.named_modules()):
            if isinstance(module, DecodeImage):
                delattr(pipeline, name)
        assert len(list(pipeline)) >= 9


class Products(Pipeline):
    def __init__(self, source, **options):
        super().__init__(source, batch_size=2, device="cpu", **options)
        self.layer = nn.Linear(3, 2)

    def forward(self, batch):
        result = self.layer(batch.stack().float())
        return result, result.requires_grad


def test_the_consumer_s_autocast_and_gradients_stay_outside():
    with torch.autocast("cpu", torch.bfloat16), Products(count_to(4), **WORKERS) as pipeline:
        result, tracked = pipeline.run()
    assert result.dtype == torch.float32
    assert not tracked


def test_both_workers_work_and_end_with_the_pipeline():
    with Lazy(count_to(80), batch_size=4, device="cpu", **WORKERS) as pipeline:
        pids = {pid for _, pid in pipeline}
        assert pids == set(pipeline.gpu_worker_pids)
        assert set(pipeline.worker_pids) > pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_pipeline_that_is_dropped_ends_its_processes_without_the_garbage_collector():
    pipeline = Lazy(count_to(80), batch_size=4, device="cpu", **WORKERS)
    pipeline.run()
    pids = pipeline.worker_pids
    gc.disable()
    try:
        del pipeline
        deadline = time.monotonic() + 10
        while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(psutil.pid_exists(pid) for pid in pids)
    finally:
        gc.enable()
