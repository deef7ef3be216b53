"""The arena's table: what is reserved, leased, free again."""

import gc
import mmap
import os
import random
import resource

import numpy as np
import pytest
import torch

from torchdali.pool import default_memory_limit
from torchdali.pool._arena import SEGMENT, SHRINK_AFTER, Arena
from torchdali.pool._memory import Memory

PAGE = mmap.PAGESIZE


def make(nbytes, **options):
    return Arena(Memory(nbytes), **options)


def reserve(arena, nbytes):
    slot = arena.reserve(nbytes)
    assert slot is not None
    return slot


def test_the_size_is_the_limit_in_whole_pages():
    assert Memory(10 * PAGE + 5).size == 10 * PAGE
    assert Memory(1).size == PAGE
    assert len(Memory(3 * PAGE).map) == 3 * PAGE


def test_the_default_limit_is_a_part_of_the_memory():
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 64 << 20 <= default_memory_limit() <= whole // 2


def test_a_large_arena_takes_no_memory_before_it_is_used():
    def resident():
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1])

    before = resident()
    memory = Memory(8 << 30)
    reserve(Arena(memory), 4 << 30)
    assert resident() - before < 1000
    assert memory.size == 8 << 30


def test_a_smaller_arena_is_made_where_the_address_space_is_limited():
    used = int(open("/proc/self/statm").read().split()[0]) * PAGE  # noqa: SIM115, PTH123
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), old[1]))
    try:
        memory = Memory(64 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    assert 64 << 20 <= memory.size <= 1 << 30
    assert Arena(memory).reserve(memory.size) is not None


def test_slots_do_not_overlap_and_are_as_large_as_was_asked():
    arena = make(100 * PAGE)
    slots = [reserve(arena, nbytes) for nbytes in (0, 1, PAGE, PAGE + 1, 5 * PAGE)]
    assert [slot.capacity for slot in slots] == [PAGE, PAGE, PAGE, 2 * PAGE, 5 * PAGE]
    taken = [page for slot in slots for page in range(slot.offset, slot.offset + slot.capacity, PAGE)]
    assert len(taken) == len(set(taken)) == 10
    assert arena.in_use == 10 * PAGE


def test_what_does_not_fit_is_not_reserved():
    arena = make(10 * PAGE)
    assert arena.reserve(11 * PAGE) is None
    reserve(arena, 6 * PAGE)
    assert arena.reserve(5 * PAGE) is None
    assert arena.reserve(4 * PAGE) is not None
    assert arena.reserve(1) is None
    assert arena.in_use == 10 * PAGE


def test_a_released_slot_is_free_again():
    arena = make(10 * PAGE)
    slot = reserve(arena, 10 * PAGE)
    slot.release()
    assert arena.in_use == 0
    assert arena.reserve(10 * PAGE) is not None


def test_a_lease_is_writable_and_lies_in_the_mapping():
    arena = make(10 * PAGE)
    reserve(arena, PAGE)
    slot = reserve(arena, PAGE)
    lease = slot.lease()
    lease[:3] = [1, 2, 3]
    assert lease.dtype == np.uint8
    assert len(lease) == PAGE
    assert arena.read(slot.offset, 3) == b"\1\2\3"


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
    arena = make(10 * PAGE)
    lease = reserve(arena, PAGE).lease()
    kept = view(lease)
    del lease
    gc.collect()
    assert arena.in_use == PAGE
    del kept
    assert arena.in_use == 0


def test_views_may_outlive_the_arena():
    lease = reserve(make(10 * PAGE), PAGE).lease()
    gc.collect()
    lease[:] = 7
    assert lease.sum() == 7 * PAGE


def test_the_lowest_place_that_fits_is_taken_and_neighbours_are_joined():
    arena = make(100 * PAGE)
    slots = [reserve(arena, 10 * PAGE) for _ in range(5)]
    for number in (1, 3, 2):
        slots[number].release()
    assert reserve(arena, 30 * PAGE).offset == slots[1].offset
    slots[0].release()
    assert reserve(arena, 4 * PAGE).offset == 0
    assert reserve(arena, 10 * PAGE).offset == 50 * PAGE
    assert reserve(arena, 6 * PAGE).offset == 4 * PAGE


def test_the_peak_is_the_most_that_was_in_use_at_a_time():
    arena = make(100 * PAGE)
    assert arena.peak == 0
    slots = [reserve(arena, 10 * PAGE) for _ in range(3)]
    for slot in slots:
        slot.release()
    reserve(arena, PAGE)
    assert (arena.peak, arena.in_use, arena.slots) == (30 * PAGE, PAGE, 1)


def test_random_use_never_overlaps_and_ends_with_one_free_part():
    draw = random.Random(3)
    arena = make(200 * PAGE)
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
    memory = Memory(10 * PAGE)
    slot = reserve(Arena(memory), PAGE)
    pid = os.fork()
    if pid == 0:
        memory.map[slot.offset : slot.offset + 5] = b"child"
        os._exit(0)
    os.waitpid(pid, 0)
    assert slot.lease()[:5].tobytes() == b"child"


# --- segments ---------------------------------------------------------------------------------------------------------


def test_memory_grows_by_segments_and_a_slot_lies_in_one():
    arena = make(4 * SEGMENT)
    assert arena.growth == 0
    slots = [reserve(arena, SEGMENT * 3 // 4) for _ in range(3)]
    assert arena.growth == 3
    assert arena.committed == 3 * SEGMENT
    assert [slot.offset // SEGMENT for slot in slots] == [0, 1, 2]
    assert [(slot.offset + slot.capacity - 1) // SEGMENT for slot in slots] == [0, 1, 2]
    reserve(arena, SEGMENT // 8)
    assert arena.growth == 3


def test_a_slot_larger_than_a_segment_has_one_of_its_size():
    arena = make(4 * SEGMENT)
    slot = reserve(arena, 3 * SEGMENT)
    assert (arena.growth, arena.committed) == (1, 3 * SEGMENT)
    assert arena.reserve(2 * SEGMENT) is None
    slot.release()
    assert arena.reserve(2 * SEGMENT) is not None


def test_segments_that_are_not_used_for_a_while_are_given_back_and_their_memory_is_zero_when_used_again():
    memory = Memory(4 * SEGMENT)
    arena = Arena(memory)
    slots = [reserve(arena, SEGMENT) for _ in range(3)]
    held = os.fstat(memory.fd).st_blocks
    for slot in slots:
        slot.lease()[:] = 1
    assert os.fstat(memory.fd).st_blocks - held >= 3 * SEGMENT // 512
    del slots, slot
    for _ in range(2 * SHRINK_AFTER):
        reserve(arena, PAGE).release()
    assert arena.committed == SEGMENT
    assert os.fstat(memory.fd).st_blocks - held <= SEGMENT // 512 + 8
    first, second = reserve(arena, SEGMENT), reserve(arena, SEGMENT)
    assert arena.growth == 4
    assert first.lease().any()
    assert not second.lease().any()


def test_a_segment_that_is_in_use_is_not_given_back():
    arena = make(4 * SEGMENT)
    first, second = reserve(arena, SEGMENT), reserve(arena, SEGMENT)
    kept = second.lease()
    kept[:] = 7
    first.release()
    for _ in range(3 * SHRINK_AFTER):
        reserve(arena, PAGE).release()
    assert arena.committed == 2 * SEGMENT
    assert (kept == 7).all()


class Hook:
    """Records what it is told; its fences pass when the test says so."""

    def __init__(self, refuse=False):
        self.told, self.fences, self.refuse = [], [], refuse

    def register(self, address, nbytes):
        if self.refuse:
            raise RuntimeError("not this memory")
        self.told.append(("register", address, nbytes))

    def unregister(self, address, nbytes):
        self.told.append(("unregister", address, nbytes))

    def fence(self):
        passed = []
        self.fences.append(passed)
        return lambda: bool(passed)


def test_a_hook_is_told_of_each_segment_once_before_it_is_used():
    memory, hook = Memory(4 * SEGMENT), Hook()
    start = np.frombuffer(memory.map, np.uint8).ctypes.data
    arena = Arena(memory, start=5, hook=hook)
    assert hook.told == []
    reserve(arena, PAGE)
    reserve(arena, PAGE)
    assert hook.told == [("register", start + PAGE, SEGMENT)]
    reserve(arena, SEGMENT)
    assert hook.told[1:] == [("register", start + PAGE + SEGMENT, SEGMENT)]


def test_memory_is_not_used_again_before_the_fence_has_passed():
    hook = Hook()
    arena = make(2 * PAGE, hook=hook)
    one, other = reserve(arena, PAGE).lease(), reserve(arena, PAGE)
    del one
    assert arena.reserve(PAGE) is None
    other.release()
    assert arena.reserve(PAGE) is None
    assert len(hook.fences) == 2
    hook.fences[1].append(True)  # fences pass in order
    assert arena.reserve(PAGE) is None
    hook.fences[0].append(True)
    assert arena.reserve(PAGE) is not None
    assert arena.reserve(PAGE) is not None


def test_memory_whose_fence_cannot_be_made_is_not_used_again_until_it_can():
    hook = Hook()
    arena = make(PAGE, hook=hook)
    reserve(arena, PAGE).release()
    fence, hook.fence = hook.fence, lambda: 1 / 0
    assert arena.reserve(PAGE) is None
    assert isinstance(arena.refused, ZeroDivisionError)
    hook.fence = fence
    assert arena.reserve(PAGE) is None
    hook.fences[0].append(True)
    assert arena.reserve(PAGE) is not None


def test_a_hook_that_refuses_a_segment_is_remembered_and_nothing_is_reserved():
    arena = make(2 * PAGE, hook=Hook(refuse=True))
    assert arena.reserve(PAGE) is None
    assert str(arena.refused) == "not this memory"


def test_a_hook_is_told_before_memory_is_given_back():
    hook = Hook()
    arena = make(4 * SEGMENT, hook=hook)
    slots = [reserve(arena, SEGMENT) for _ in range(2)]
    for slot in slots:
        slot.release()
    arena.collect()
    for fence in hook.fences:
        fence.append(True)
    arena._hook.fence = lambda: lambda: True
    for _ in range(2 * SHRINK_AFTER):
        reserve(arena, PAGE).release()
    registered = [entry[1:] for entry in hook.told if entry[0] == "register"]
    assert [entry[1:] for entry in hook.told if entry[0] == "unregister"] == registered[1:]


def test_a_hook_is_told_when_the_last_view_is_gone_and_not_before():
    hook = Hook()
    arena = make(4 * SEGMENT, hook=hook)
    lease = reserve(arena, PAGE).lease()
    view = torch.from_numpy(lease)[5:]
    del arena, lease
    gc.collect()
    assert [entry[0] for entry in hook.told] == ["register"]
    assert view.sum() == 0
    del view
    gc.collect()
    assert [entry[0] for entry in hook.told] == ["register", "unregister"]
    assert hook.told[0][1:] == hook.told[1][1:]


def test_the_memory_knows_the_segments_that_hold_slots():
    memory = Memory(4 * SEGMENT)
    arena = Arena(memory, start=3 * PAGE)
    assert memory.segment_of(5 * PAGE) is None
    small, large = reserve(arena, PAGE), reserve(arena, SEGMENT + PAGE)
    assert memory.segment_of(small.offset) == (3 * PAGE, SEGMENT)
    assert memory.segment_of(large.offset + large.capacity - 1) == (3 * PAGE + SEGMENT, SEGMENT + PAGE)
    assert memory.segment_of(2 * PAGE) is None
    assert memory.segment_of(large.offset + large.capacity) is None
    large.release()
    for _ in range(2 * SHRINK_AFTER):
        reserve(arena, PAGE).release()
    assert memory.segment_of(large.offset) is None
