"""The hand-over from the stage's thread and stream to the consumer's, on a device."""

import os
import random

import numpy as np
import pytest
import torch

from torchdali import ExternalSource, Pipeline
from torchdali.pipeline._handover import Handover

pytestmark = pytest.mark.gpu

BATCHES = int(os.environ.get("TORCHDALI_TEST_HANDOVERS", "10000"))
WIDTH = 2048


def counting(batches):
    """The batch of a number holds that number, made in this process."""

    def source(info):
        if info.iteration >= batches:
            raise StopIteration
        return [np.float32([info.iteration])] * 2

    return ExternalSource(source, batch=True, batch_info=True, parallel=False)


class Filled(Pipeline):
    """Batches of one number, which take the device a while."""

    def __init__(self, batches, *, cycles=3000, **options):
        super().__init__(counting(batches), batch_size=2, device="cuda", **options)
        self.register_buffer("scale", torch.ones(1))
        self.cycles = cycles

    def forward(self, batch):
        numbers = batch.as_tensor().to(self.device)
        torch.cuda._sleep(self.cycles)
        return (numbers * self.scale).expand(2, WIDTH).contiguous(), {"too": [numbers + 1]}


def wrong_sums(batches, seed=0, longest=20_000, cycles=3000):
    """How many batches a consumer with streams of its own, at its own pace, finds other than they were made."""
    pace = random.Random(seed)
    streams = [torch.cuda.default_stream(), *(torch.cuda.Stream() for _ in range(3))]
    sums = torch.zeros(batches, 3, dtype=torch.float64, device="cuda")
    torch.cuda.synchronize()
    with Filled(batches, cycles=cycles) as pipeline:
        for number in range(batches):
            with torch.cuda.stream(pace.choice(streams)):
                filled, others = pipeline.run()
                torch.cuda._sleep(pace.choice([0, 0, longest // 10, longest]))
                sums[number, 0] = filled.double().sum()
                sums[number, 1] = filled.max()
                sums[number, 2] = others["too"][0][0, 0]
                del filled, others  # while the device may not have begun to read them
        torch.cuda.synchronize()
    number = torch.arange(batches, dtype=torch.float64)
    expected = torch.stack([number * 2 * WIDTH, number, number + 1], 1)
    return int((sums.cpu() != expected).any(1).sum())


def test_every_batch_arrives_as_it_was_made_whatever_the_consumer_s_pace_and_stream():
    assert wrong_sums(BATCHES) == 0


@pytest.mark.parametrize("missing", ["the wait", "the record"])
def test_it_would_not_without_the_wait_or_the_record(monkeypatch, missing):
    def receive(self, outputs, event, stalled):
        stream = torch.cuda.current_stream()
        if missing == "the record":
            stream.wait_event(event[1])
        else:
            outputs[0].record_stream(stream)

    monkeypatch.setattr(Handover, "receive", receive)
    # Without the wait a stage that takes long is overtaken; without the record a consumer that is far behind reads what has
    # been free for long.
    slow = {"cycles": 2_000_000, "longest": 0} if missing == "the wait" else {"longest": 5_000_000}
    wrong = wrong_sums(500, **slow)
    print(f"without {missing} {wrong} of 500 batches are wrong")
    assert wrong > 0


def test_memory_does_not_grow_over_many_batches():
    with Filled(2000) as pipeline:
        reserved = []
        for number, batch in enumerate(pipeline):
            torch.cuda._sleep(2000)
            (batch[0] + 1).sum()
            if number in (400, 1999):
                torch.cuda.synchronize()
                reserved.append(torch.cuda.memory_reserved())
    assert reserved[1] == reserved[0]
    assert torch.cuda.memory_allocated() < 1 << 22


def test_the_stage_does_not_wait_for_the_training_s_kernels():
    with Filled(50, prefetch=3) as pipeline:
        pipeline.run()
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000_000)  # about half a second of clock cycles
        for _ in range(8):
            pipeline.run()
        ahead = pipeline._runner._ahead
        _, event = ahead.peek().event
        event.synchronize()
        assert not torch.cuda.current_stream().query(), "the batch is done before the kernel that was queued first"


def test_a_loaded_state_is_there_for_the_batches_after_it():
    with Filled(50) as pipeline:
        pipeline.run()
        state = {"scale": torch.full((1,), 5.0, device="cuda")}
        torch.cuda._sleep(500_000_000)
        pipeline.load_state_dict(state)
        pipeline.reset()
        pipeline.run()
        assert pipeline.run()[0].eq(5).all()


def test_draws_on_the_device_are_the_stage_s_own():
    class Draws(Pipeline):
        def forward(self, batch):
            return torch.rand(3, device="cuda"), torch.nn.functional.dropout(torch.ones(20, device="cuda"))

    drawn = []
    for thread in (True, False):
        with Draws(counting(6), batch_size=2, device="cuda", seed=7, stage_thread=thread) as pipeline:
            torch.cuda.manual_seed(3)
            state = torch.cuda.get_rng_state()
            drawn.append([torch.cat(batch) for batch in pipeline])
            assert torch.equal(torch.cuda.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_times_of_the_stage_are_measured_on_its_stream():
    class Timed(Pipeline):
        def __init__(self):
            super().__init__(counting(5), batch_size=2, device="cuda")
            self.work = torch.nn.Linear(1, 1)

        def forward(self, batch):
            return self.work(batch.as_tensor().to(self.device))

    with Timed() as pipeline:
        assert len(list(pipeline)) == 5
        statistics = pipeline.statistics()
    assert 0 < statistics.stage_seconds["work"] < 30
    assert statistics.stall_seconds > 0


def test_a_pipeline_on_the_cpu_does_not_touch_cuda():
    with Pipeline(counting(5), batch_size=2, device="cpu") as pipeline:
        assert len(list(pipeline)) == 5
        pipeline.statistics()
        pipeline.to(torch.float64)
    assert not torch.cuda.is_initialized()
