import time

import pytest
import torch

from tests.bench.support import Simple, blobs, no_step, vectors
from torchdali.bench._engines import ENGINES
from torchdali.bench._measure import UnequalBatchesError, measure_throughput


class OtherBytes(Simple):
    def load(self, indices):
        batch = super().load(indices)
        batch[-1].view(torch.uint8)[-1] += 1
        return batch


class OtherOrder(Simple):
    def load(self, indices):
        return super().load(indices[::-1])


class OtherType(Simple):
    def load(self, indices):
        return super().load(indices).double()


class OtherKind(Simple):
    def load(self, indices):
        return list(super().load(indices))


class FewerSamples(Simple):
    def load(self, indices):
        return super().load(indices[:-1])


class FewerBatches(Simple):
    def epoch(self, order):
        return super().epoch(order[:-1])


class FewerLater(Simple):
    epochs = 0

    def epoch(self, order):
        self.epochs += 1
        return super().epoch(order if self.epochs == 1 else order[:-1])


class Slow(Simple):
    """Takes 20 ms for an epoch, at least."""

    def epoch(self, order):
        time.sleep(0.02)
        return super().epoch(order)


class Busy(Simple):
    """Uses 20 ms of a processor in an epoch, at least."""

    def epoch(self, order):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return super().epoch(order)


def measure(workload, *engines, rounds=3, step=no_step):
    return measure_throughput(workload, num_workers=2, batch_size=7, rounds=rounds, step=step, engines=engines)


@pytest.mark.parametrize(
    ("make", "engine"),
    [
        *(
            (make, engine)
            for make in (blobs, vectors)
            for engine in (OtherBytes, OtherOrder, FewerSamples, FewerBatches)
        ),
        (vectors, OtherType),
        (vectors, OtherKind),
    ],
)
def test_an_engine_with_other_batches_is_an_error(make, engine):
    with pytest.raises(UnequalBatchesError, match=r"batch \d of simple is not that of simple"):
        measure(make(), Simple, engine)


def test_an_engine_that_loses_samples_while_it_is_measured_is_an_error():
    with pytest.raises(UnequalBatchesError, match="simple gave 21 samples of 24"):
        measure(vectors(), Simple, FewerLater)


@pytest.mark.parametrize("subject", ENGINES)
def test_the_real_engines_give_the_same(subject):
    for workload in (blobs(), vectors()):
        result = measure(workload, *ENGINES[subject], rounds=2)
        assert result.ratio.min > 0
        assert min(result.stock.cpu_seconds_per_gigabyte.rounds + result.torchdali.cpu_seconds_per_gigabyte.rounds) > 0


def test_engines_take_turns_after_a_warm_up():
    steps = []
    measure(vectors(), Simple, Slow, rounds=2, step=steps.append)
    assert steps == [
        "vectors: warm-up",
        "vectors: simple, round 1",
        "vectors: simple, round 1",
        "vectors: simple, round 2",
        "vectors: simple, round 2",
    ]


def test_rates_are_of_all_samples_and_bytes_of_an_epoch():
    workload = blobs()
    nbytes = sum(workload.samples[index].nbytes for index in range(24))
    result = measure(workload, Simple, Slow)
    assert (result.samples, result.nbytes) == (24, nbytes)
    for samples, megabytes in zip(
        result.torchdali.samples_per_second.rounds, result.torchdali.megabytes_per_second.rounds, strict=True
    ):
        assert 0 < samples <= 24 / 0.02
        assert megabytes == pytest.approx(samples * nbytes / 24 / 1e6)


def test_processor_time_is_what_is_used_and_not_what_is_slept():
    result = measure(vectors(), Slow, Busy)
    gigabytes = 24 * 300 * 4 / 1e9
    assert result.torchdali.cpu_seconds_per_gigabyte.min >= 0.02 / gigabytes
    assert result.stock.cpu_seconds_per_gigabyte.min < 0.02 / gigabytes


def test_the_second_engine_is_compared_with_the_first():
    result = measure(vectors(), Simple, Slow)
    expected = [
        second / first
        for first, second in zip(
            result.stock.samples_per_second.rounds, result.torchdali.samples_per_second.rounds, strict=True
        )
    ]
    assert len(expected) == 3
    assert result.ratio.rounds == pytest.approx(expected)
    assert result.reaches_bar == (result.ratio.median >= 2.0)
