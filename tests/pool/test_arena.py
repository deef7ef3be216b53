"""The arena's table: what is reserved, leased, free again."""

import gc
import mmap
import os
import random
import resource

import numpy as np
import pytest
import torch

from torchdali.pool._arena import Arena, default_memory_limit

PAGE = mmap.PAGESIZE


def reserve(arena, nbytes):
    slot = arena.reserve(nbytes)
    assert slot is not None
    return slot


def test_the_size_is_the_limit_in_whole_pages():
    assert Arena(10 * PAGE + 5).size == 10 * PAGE
    assert Arena(1).size == PAGE
    assert len(Arena(3 * PAGE).memory) == 3 * PAGE


def test_the_default_limit_is_a_part_of_the_memory():
    assert default_memory_limit() >= 4 << 30


def test_a_large_arena_takes_no_memory_before_it_is_used():
    def resident():
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1])

    before = resident()
    arena = Arena(8 << 30)
    reserve(arena, 4 << 30)
    assert resident() - before < 1000
    assert arena.size == 8 << 30


def test_a_smaller_arena_is_made_where_the_address_space_is_limited():
    used = int(open("/proc/self/statm").read().split()[0]) * PAGE  # noqa: SIM115, PTH123
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), old[1]))
    try:
        arena = Arena(64 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    assert 64 << 20 <= arena.size <= 1 << 30
    assert arena.reserve(arena.size) is not None


def test_slots_do_not_overlap_and_are_as_large_as_was_asked():
    arena = Arena(100 * PAGE)
    slots = [reserve(arena, nbytes) for nbytes in (0, 1, PAGE, PAGE + 1, 5 * PAGE)]
    assert [slot.capacity for slot in slots] == [PAGE, PAGE, PAGE, 2 * PAGE, 5 * PAGE]
    taken = [page for slot in slots for page in range(slot.offset, slot.offset + slot.capacity, PAGE)]
    assert len(taken) == len(set(taken)) == 10
    assert arena.in_use == 10 * PAGE


def test_what_does_not_fit_is_not_reserved():
    arena = Arena(10 * PAGE)
    assert arena.reserve(11 * PAGE) is None
    reserve(arena, 6 * PAGE)
    assert arena.reserve(5 * PAGE) is None
    assert arena.reserve(4 * PAGE) is not None
    assert arena.reserve(1) is None
    assert arena.in_use == 10 * PAGE


def test_a_released_slot_is_free_again():
    arena = Arena(10 * PAGE)
    slot = reserve(arena, 10 * PAGE)
    slot.release()
    assert arena.in_use == 0
    assert arena.reserve(10 * PAGE) is not None


def test_a_lease_is_writable_and_lies_in_the_mapping():
    arena = Arena(10 * PAGE)
    reserve(arena, PAGE)
    slot = reserve(arena, PAGE)
    lease = slot.lease()
    lease[:3] = [1, 2, 3]
    assert lease.dtype == np.uint8
    assert len(lease) == PAGE
    assert arena.memory[slot.offset : slot.offset + 3] == b"\1\2\3"


@pytest.mark.parametrize(
    "view",
    [
        lambda lease: lease[5:6],
        lambda lease: lease.view(np.float64).reshape(2, -1)[1],
        lambda lease: torch.from_numpy(lease)[3:].view(-1, 1)[:5],
        lambda lease: np.frombuffer(memoryview(lease)[3:10], np.uint8),
        lambda lease: memoryview(lease)[2:],
    ],
    ids=["slice", "view of a view", "tensor", "buffer", "memoryview"],
)
def test_a_lease_lasts_as_long_as_any_view_of_it(view):
    arena = Arena(10 * PAGE)
    lease = reserve(arena, PAGE).lease()
    kept = view(lease)
    del lease
    gc.collect()
    assert arena.in_use == PAGE
    del kept
    assert arena.in_use == 0


def test_views_may_outlive_the_arena():
    lease = reserve(Arena(10 * PAGE), PAGE).lease()
    gc.collect()
    lease[:] = 7
    assert lease.sum() == 7 * PAGE


def test_the_lowest_place_that_fits_is_taken_and_neighbours_are_joined():
    arena = Arena(100 * PAGE)
    slots = [reserve(arena, 10 * PAGE) for _ in range(5)]
    for number in (1, 3, 2):
        slots[number].release()
    assert reserve(arena, 30 * PAGE).offset == slots[1].offset
    slots[0].release()
    assert reserve(arena, 4 * PAGE).offset == 0
    assert reserve(arena, 10 * PAGE).offset == 50 * PAGE
    assert reserve(arena, 6 * PAGE).offset == 4 * PAGE


def test_the_high_water_mark_is_the_end_of_the_furthest_slot():
    arena = Arena(100 * PAGE)
    assert arena.high_water == 0
    slots = [reserve(arena, 10 * PAGE) for _ in range(3)]
    for slot in slots:
        slot.release()
    reserve(arena, PAGE)
    assert arena.high_water == 30 * PAGE


def test_random_use_never_overlaps_and_ends_with_one_free_part():
    draw = random.Random(3)
    arena = Arena(200 * PAGE)
    owners = np.zeros(200, int)
    held = {}
    for number in range(1, 3000):
        slot = arena.reserve(draw.randrange(1, 30 * PAGE))
        if slot is not None:
            pages = slice(slot.offset // PAGE, (slot.offset + slot.capacity) // PAGE)
            assert not owners[pages].any()
            owners[pages] = number
            held[number] = (slot, slot.lease() if draw.random() < 0.5 else None)
        while held and (slot is None or draw.random() < 0.4):
            gone = draw.choice(list(held))
            slot, lease = held.pop(gone)
            if lease is None:
                slot.release()
            del lease
            owners[owners == gone] = 0
        assert arena.in_use == np.count_nonzero(owners) * PAGE
    for slot, lease in held.values():
        if lease is None:
            slot.release()
    del lease
    held.clear()
    assert arena.in_use == 0
    assert reserve(arena, 200 * PAGE).offset == 0


def test_what_a_child_writes_is_seen_by_its_parent():
    arena = Arena(10 * PAGE)
    slot = reserve(arena, PAGE)
    pid = os.fork()
    if pid == 0:
        arena.memory[slot.offset : slot.offset + 5] = b"child"
        os._exit(0)
    os.waitpid(pid, 0)
    assert slot.lease()[:5].tobytes() == b"child"
