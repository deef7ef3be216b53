import mmap
import os
import time
import weakref

import numpy as np
import pytest
import torch

from tests.bench.support import Simple, blobs, no_step
from torchdali.bench._engines import ENGINES
from torchdali.bench._overheads import measure_overheads

SLEEP = 0.03


class SlowStart(Simple):
    def __init__(self, workload, num_workers):
        time.sleep(SLEEP)
        super().__init__(workload, num_workers)


class SlowEpoch(Simple):
    def epoch(self, order):
        time.sleep(SLEEP)
        return super().epoch(order)


class SlowBatch(Simple):
    def epoch(self, order):
        for indices in order:
            time.sleep(SLEEP)
            yield self.load(indices)


class Hoarder(Simple):
    """Has a descriptor and 4 MB of shared memory for each batch that lives."""

    def epoch(self, order):
        for indices in order:
            fd = os.open("/dev/null", os.O_RDONLY)
            # malloc may have some left, which would not count
            memory = np.frombuffer(mmap.mmap(-1, 4_000_000), np.uint8)
            memory[:] = 7
            weakref.finalize(memory, os.close, fd)
            yield [torch.from_numpy(memory) for _ in indices]
            del memory


def measure(*engines, samples=24, rounds=2):
    return measure_overheads(blobs(samples), num_workers=2, batch_size=1, rounds=rounds, step=no_step, engines=engines)


def test_the_first_batch_counts_from_before_the_engine_is_made():
    (overheads,) = measure(SlowStart)
    assert overheads.first_batch_ms.min >= 1000 * SLEEP
    assert overheads.restart_ms.min < 1000 * SLEEP, "an engine that is restarted is there already"


def test_a_restart_is_over_when_the_first_batch_can_be_waited_for():
    (overheads,) = measure(SlowEpoch)
    assert overheads.restart_ms.min >= 1000 * SLEEP


def test_waiting_for_the_first_batch_is_not_the_restart():
    (overheads,) = measure(SlowBatch, samples=4)
    assert overheads.restart_to_batch_ms.min >= 1000 * SLEEP
    assert overheads.first_batch_ms.min >= 1000 * SLEEP
    assert overheads.restart_ms.min < 1000 * SLEEP


def test_what_is_kept_is_counted_of_twenty_batches():
    (overheads,) = measure(Hoarder)
    assert overheads.kept_batches == 20
    assert overheads.kept.descriptors - overheads.none_kept.descriptors == 20
    assert overheads.kept.nbytes - overheads.none_kept.nbytes >= 0.8 * 20 * 4_000_000


def test_of_a_short_epoch_what_there_is_is_kept():
    (overheads,) = measure(Hoarder, samples=3)
    assert overheads.kept_batches == 3
    assert overheads.kept.descriptors - overheads.none_kept.descriptors == 3


def test_the_bytes_of_the_kept_samples_are_known():
    workload = blobs()
    (overheads,) = measure(Simple)
    kept = [index for batch in workload.order(1, 0)[:20] for index in batch]
    assert overheads.kept_bytes == sum(workload.samples[index].nbytes for index in kept)


@pytest.mark.parametrize("rounds", [1, 3])
def test_each_time_of_the_real_engines_is_measured_in_each_round(rounds):
    for overheads in measure(*ENGINES["pool"], rounds=rounds):
        for times in (overheads.first_batch_ms, overheads.restart_ms, overheads.restart_to_batch_ms):
            assert len(times.rounds) == rounds
            assert times.min > 0
        for restart, arrived in zip(overheads.restart_ms.rounds, overheads.restart_to_batch_ms.rounds, strict=True):
            assert restart < arrived


@pytest.mark.parametrize("subject", ENGINES)
def test_torchdali_keeps_batches_without_descriptors(subject):
    stock, torchdali = measure(*ENGINES[subject])
    assert stock.kept.descriptors - stock.none_kept.descriptors >= 20
    assert torchdali.kept.descriptors == torchdali.none_kept.descriptors
