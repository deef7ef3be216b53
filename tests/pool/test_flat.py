"""Memory stays flat, however many samples pass; kept batches cost nothing but themselves."""

import gc
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pool.support import wait_until
from tests.pool.test_memory import content, is_shared
from torchdali.pool import Stacked
from torchdali.pool._arena import SEGMENT, SHRINK_AFTER
from torchdali.pool._zygote import living_zygote

MIB = 1 << 20
SLACK = 4 * MIB
"""What a process may come to hold more while it goes on as before: its allocator's business."""


def memory_of(pid, *fields):
    """Bytes of a process, by fields of its status."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(lines[field].split()[0]) << 10 for field in fields)


def private_dirty(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) << 10
    raise AssertionError("there is no such line")


def minor_faults(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def descriptors():
    return len(os.listdir("/proc/self/fd"))


class Watch:
    """What the processes of a pool hold, compared with an earlier moment."""

    def __init__(self, pool):
        self.pool = pool
        self.before = self._now()

    def _now(self):
        gc.collect()
        own = {kind: memory_of(os.getpid(), kind) for kind in ("RssAnon", "RssShmem")}
        anonymous = {f"worker {pid}": memory_of(pid, "RssAnon") for pid in self.pool.pids}
        shared = {f"shared {pid}": memory_of(pid, "RssShmem") for pid in self.pool.pids}
        self.shared = {"RssShmem", *shared}
        return own | anonymous | shared

    def grown(self):
        """What holds more than it did, and how much more.

        Which part of the shared memory a worker has touched is chance; all of it is as much as was in use at a time.
        """
        now, peak = self._now(), self.pool.statistics().peak_bytes
        more = {name: now[name] - held for name, held in self.before.items()}
        return {name: more[name] for name in more if more[name] > (peak if name in self.shared else SLACK)}


def stream(pool, batches, size, *, ahead=3, stack=True, wanted=lambda result: None):
    """Let batches pass as an epoch does, some of them ahead."""
    jobs = []
    for number in range(batches + ahead):
        if number < batches:
            jobs.append(pool.submit(0, range(number * size, (number + 1) * size), stack=stack))
        if len(jobs) > ahead or number >= batches:
            wanted(pool.collect(jobs.pop(0), timeout=30))


def small(item):
    return {"image": torch.full((300,), item % 251, dtype=torch.uint8), "label": item, "at": np.float32(item)}


def large(item):
    return np.full(40_000, item % 251, np.uint8), item


@pytest.mark.parametrize("stack", [False, True], ids=["as lists", "stacked"])
@pytest.mark.parametrize("call", [small, large])
def test_memory_stays_flat_over_thousands_of_samples(make_pool, call, stack):
    pool = make_pool(call)
    stream(pool, 40, 64, stack=stack)
    watch, before = Watch(pool), pool.statistics()
    stream(pool, 80, 64, stack=stack)
    assert watch.grown() == {}
    after = pool.statistics()
    assert (after.growth, after.peak_bytes) == (before.growth, before.peak_bytes)
    assert (after.slots, after.bytes_in_use, after.copied_bytes) == (0, 0, before.copied_bytes)
    assert after.items - before.items == 80 * 64


@pytest.mark.slow
def test_memory_stays_flat_over_a_million_samples(make_pool):
    size, batches = 512, 1950
    seen = []
    pool = make_pool(lambda item: (np.uint8(item % 256), item))

    def check(result):
        if isinstance(result, Stacked):
            seen.append(int(result.value[1][0]))

    stream(pool, 200, size)
    watch, before = Watch(pool), pool.statistics()
    stream(pool, batches, size, wanted=check)
    assert seen == [number * size for number in range(batches)]
    assert watch.grown() == {}
    after = pool.statistics()
    assert (after.growth, after.peak_bytes, after.copied_bytes) == (before.growth, before.peak_bytes, 0)
    assert after.items >= 1_000_000


def test_many_jobs_of_one_item_leave_nothing(make_pool):
    pool = make_pool(lambda item: item)
    stream(pool, 1000, 1, stack=False)
    watch, objects = Watch(pool), len(gc.get_objects())
    stream(pool, 2000, 1, stack=False)
    assert watch.grown() == {}
    assert len(gc.get_objects()) - objects < 500


def test_jobs_that_are_cancelled_leave_nothing(make_pool):
    pool = make_pool(large)
    stream(pool, 10, 16)

    def cancel_many(count):
        for number in range(count):
            pool.cancel(pool.submit(0, range(16)))
            if number % 10 == 0:
                pool.collect(pool.submit(0, [0]))
        pool.collect(pool.submit(0, [0]))

    cancel_many(100)
    watch = Watch(pool)
    cancel_many(300)
    assert watch.grown() == {}
    pool.collect(pool.submit(0, range(64)))
    assert wait_until(lambda: pool.statistics().slots == 0)


@pytest.mark.parametrize("stack", [False, True], ids=["as lists", "stacked"])
def test_page_faults_of_workers_settle(make_pool, stack):
    """Memory that was written before is used again: a batch after many costs next to no fault."""
    pool = make_pool(lambda item: torch.zeros(100, 512), workers=2)

    def faults(batches):
        before = sum(minor_faults(pid) for pid in pool.pids)
        stream(pool, batches, 16, stack=stack)
        return (sum(minor_faults(pid) for pid in pool.pids) - before) / batches

    faults(100)
    pages = 16 * 100 * 512 * 4 / os.sysconf("SC_PAGE_SIZE")
    assert min(faults(40) for _ in range(3)) < pages / 10


# --- garbage collection -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "zygote"])
def test_what_was_inherited_is_frozen_in_workers_and_only_there(make_pool, method):
    objects = [[number] for number in range(50_000)]
    zygote = living_zygote()
    if zygote is not None:
        zygote.close()  # the next one inherits these objects
    was = gc.get_freeze_count(), gc.isenabled(), gc.get_threshold()
    count = len(objects)  # the function refers to no more: a zygote's worker would be sent them
    pool = make_pool(
        lambda item: (gc.get_freeze_count(), len(gc.get_objects()) < count, gc.isenabled(), gc.get_threshold()),
        start_method=method,
    )
    frozen, few, *others = pool.collect(pool.submit(0, [0]))[0]
    assert frozen > was[0]
    assert few
    assert tuple(others) == was[1:]
    assert (gc.get_freeze_count(), gc.isenabled(), gc.get_threshold()) == was
    assert len(objects) == count


def test_a_parent_that_does_not_collect_garbage_keeps_it_so_and_so_do_its_workers(make_pool):
    gc.disable()
    try:
        pool = make_pool(lambda item: gc.isenabled())
        assert pool.collect(pool.submit(0, [1])) == [False]
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_collecting_garbage_in_a_worker_does_not_copy_the_objects_of_the_parent(make_pool):
    files = [{"name": f"file {number}", "label": number, "box": [number, (number,)]} for number in range(150_000)]

    def call(item):
        if item == "collect":
            gc.collect()
            gc.collect()
        else:
            files[item]["label"]
        return private_dirty(os.getpid())

    pool = make_pool(call, workers=1)
    pool.collect(pool.submit(0, range(0, 150_000, 1500)))
    (before,) = pool.collect(pool.submit(0, [0]))
    (after,) = pool.collect(pool.submit(0, ["collect"]))
    assert after - before < 3 * MIB  # the objects are some 70 MiB
    assert len(files) == 150_000


# --- batches that are kept --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [False, True], ids=["as lists", "stacked"])
def test_kept_batches_cost_no_descriptors_and_are_not_overwritten(make_pool, stack):
    def checksum(batch):
        return zlib.crc32(batch.value.numpy() if isinstance(batch, Stacked) else b"".join(row.numpy() for row in batch))

    pool = make_pool(lambda item: torch.from_numpy(content(item, 3000)))
    pool.collect(pool.submit(0, range(32), stack=stack))
    before = descriptors()
    kept = []
    for number in range(20):
        kept.append(pool.collect(pool.submit(0, range(32 * number, 32 * number + 32), stack=stack)))
        stream(pool, 5, 32, stack=stack)
    assert descriptors() == before
    sums = [checksum(batch) for batch in kept]
    stream(pool, 120, 32, stack=stack)
    assert descriptors() == before
    assert [checksum(batch) for batch in kept] == sums
    for number, batch in enumerate(kept):
        rows = batch.value if isinstance(batch, Stacked) else batch
        assert is_shared(pool, rows[0])
        assert all(np.array_equal(rows[place].numpy(), content(32 * number + place, 3000)) for place in (0, 17, 31))


@pytest.mark.filterwarnings("ignore:.*results are copied from here on")
def test_results_that_were_copied_cost_no_descriptors_either(make_pool):
    pool = make_pool(large, memory_limit=1)
    before = descriptors()
    kept = [pool.collect(pool.submit(0, range(8))) for _ in range(20)]
    assert descriptors() == before
    assert all((array == item).all() for batch in kept for array, item in batch)


def test_memory_is_given_back_some_time_after_batches_were_dropped(make_pool):
    size = SEGMENT // 4
    pool = make_pool(lambda item: torch.full((size // (item + 1),), 3, dtype=torch.uint8), bytes_per_item=size)
    kept = [pool.collect(pool.submit(0, [0])) for _ in range(12)]
    most = pool.statistics().committed_bytes
    assert most >= 3 * SEGMENT
    assert all((batch[0] == 3).all() for batch in kept)
    resident = memory_of(os.getpid(), "RssShmem")
    kept.clear()
    for _ in range(2 * SHRINK_AFTER + 2):
        pool.collect(pool.submit(0, [999]))
    assert pool.statistics().committed_bytes == SEGMENT
    assert memory_of(os.getpid(), "RssShmem") <= resident - 2 * SEGMENT
    assert pool.statistics().peak_bytes >= 12 * size
    assert int(pool.collect(pool.submit(0, [0]))[0].sum()) == 3 * size


def test_beyond_the_limit_stacked_results_are_copied_with_one_warning_and_right(make_pool):
    pool = make_pool(lambda item: (torch.full((20_000,), item % 251, dtype=torch.uint8), item), memory_limit=2 * MIB)
    with pytest.warns(UserWarning, match="no shared memory left, results are copied from here on") as warned:
        kept = [pool.collect(pool.submit(0, range(16 * n, 16 * n + 16), stack=True)) for n in range(30)]
    assert len(warned) == 1
    for number, batch in enumerate(kept):
        pairs = zip(*batch.value, strict=True) if isinstance(batch, Stacked) else batch
        for item, (image, label) in enumerate(pairs, 16 * number):
            assert int(label) == item
            assert torch.equal(image, torch.full((20_000,), item % 251, dtype=torch.uint8))
    numbers = pool.statistics()
    assert numbers.peak_bytes <= 2 * MIB
    assert numbers.refused > 0
    assert numbers.copied_bytes > 0
    assert any(isinstance(batch, Stacked) for batch in kept)
    kept.clear()
    del batch, pairs, image
    pool.collect(pool.submit(0, range(16), stack=True))
    assert isinstance(pool.collect(pool.submit(0, range(16), stack=True)), Stacked)
