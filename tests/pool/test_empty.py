"""Memory for results that need not be copied: ``empty``."""

import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.pool.support import BOUND, Tally, same, wait_until
from tests.pool.test_memory import arena, is_shared
from torchdali.pool import Raised, empty

LARGE = 20_000
STRUCTURED = np.dtype([("name", "S5"), ("place", "<f4", (2,)), ("id", ">i8")])
KINDS = [torch.uint8, torch.float32, torch.bfloat16, torch.complex64, torch.bool, "u1", "f8", ">i4", "U3", STRUCTURED]


def fill(array, number):
    """Give every element a content; returns the array."""
    if isinstance(array, torch.Tensor):
        return array.fill_(number)
    array.reshape(-1).view("u1")[:] = number
    return array


def write_later(array, go, done):
    """In a thread of this process, write into the array when told to."""

    def write():
        if go.wait(0):
            fill(array, 9)
            done.add(0)

    threading.Thread(target=write, daemon=True).start()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_written_where_it_was_made_is_seen_without_a_copy(make_pool, kind):
    """A worker writes again after its result has arrived: that is seen only if there is one memory."""
    go, done = Tally(1), Tally(1)

    def call(item):
        array = fill(empty(LARGE, kind), 1)
        write_later(array, go, done)
        return array

    pool = make_pool(call, workers=1, bytes_per_item=1 << 20)
    (result,) = pool.collect(pool.submit(0, [0]))
    assert is_shared(pool, result.view(torch.uint8) if isinstance(result, torch.Tensor) else result)
    assert same(result, fill(empty(LARGE, kind), 1))
    go.add(0)
    assert done.wait(0)
    assert same(result, fill(empty(LARGE, kind), 9))


def test_an_ordinary_result_is_not_changed_by_what_its_worker_writes_later(make_pool):
    go, done = Tally(1), Tally(1)

    def call(item):
        array = np.ones(LARGE)
        write_later(array, go, done)
        return array

    pool = make_pool(call, workers=1)
    (result,) = pool.collect(pool.submit(0, [0]))
    go.add(0)
    assert done.wait(0)
    assert result.sum() == LARGE


@pytest.mark.parametrize(
    "shape", [7, (3, 4), (), (0,), (2, 0, 3), LARGE, (50, 400), torch.Size([2, 2]), [2, 3]], ids=str
)
def test_shape_and_type_are_as_asked_in_a_worker_and_outside(make_pool, shape):
    pool = make_pool(lambda item: [fill(empty(shape, kind), 1) for kind in KINDS], workers=1)
    (found,) = pool.collect(pool.submit(0, [0]))
    expected = (shape,) if isinstance(shape, int) else tuple(shape)
    for kind, there in zip(KINDS, found, strict=True):
        here = empty(shape, kind)
        assert tuple(here.shape) == tuple(there.shape) == expected
        assert type(here) is type(there) is (torch.Tensor if isinstance(kind, torch.dtype) else np.ndarray)
        assert here.dtype == there.dtype == (kind if isinstance(kind, torch.dtype) else np.dtype(kind))
        assert same(there, fill(here, 1))


def test_without_a_type_it_is_a_tensor_of_floats(make_pool):
    pool = make_pool(lambda item: empty(3).fill_(item))
    assert same(pool.collect(pool.submit(0, [2])), [torch.full((3,), 2.0)])
    assert empty((2, 3)).dtype == torch.float32


@pytest.mark.parametrize("make", [np.int64, np.uint8, np.array])
def test_a_size_may_be_a_number_of_numpy(make_pool, make):
    pool = make_pool(lambda item: [tuple(empty(make(5), kind).shape) for kind in ("u1", torch.uint8)])
    assert pool.collect(pool.submit(0, [0])) == [[(5,), (5,)]]
    assert tuple(empty((make(5), make(3))).shape) == (5, 3)


def test_objects_and_parts_that_are_arrays_are_made_as_numpy_makes_them(make_pool):
    pairs = np.dtype(("f4", (2,)))
    pool = make_pool(lambda item: [empty(3, object), empty((3, 4), pairs).shape])
    ((objects, shape),) = pool.collect(pool.submit(0, [0]))
    assert objects.tolist() == [None] * 3
    assert shape == empty((3, 4), pairs).shape == np.empty((3, 4), pairs).shape


def test_it_may_be_mixed_with_ordinary_arrays(make_pool):
    def call(item):
        ordinary = np.full(5000, item)
        one, other = empty(5000, "i8"), empty((100, 50), torch.int64)
        fill(empty(3000, "u1"), 77)  # not returned
        one[:], other[:] = item + 1, item + 2
        return {"a": [ordinary, one], "b": (other, torch.full((5000,), item + 3), other[:2], "text"), "c": one[:3]}

    pool = make_pool(call)
    for item, found in enumerate(pool.collect(pool.submit(0, range(40)))):
        assert all((array == item + number).all() for number, array in enumerate(found["a"]))
        whole, ordinary, part, text = found["b"]
        assert (whole == item + 2).all()
        assert (part == item + 2).all()
        assert (ordinary == item + 3).all()
        assert whole.shape == (100, 50)
        assert part.shape == (2, 50)
        assert text == "text"
        assert found["c"].tolist() == [item + 1] * 3


VIEWS = {
    "slice": lambda array: array[5000:15_000],
    "from an odd byte": lambda array: array[4001:9000],
    "every second": lambda array: array[::2],
    "reshaped": lambda array: array.reshape(100, 200),
    "transposed": lambda array: array.reshape(100, 200).T,
    "column": lambda array: array.reshape(20, -1)[:, 3:900],
    "small": lambda array: array[7:19],
    "broadcast": lambda array: (
        array.reshape(1, -1).repeat(3, 0) if isinstance(array, np.ndarray) else array.expand(3, -1)
    ),
    "the other kind": lambda array: torch.from_numpy(array) if isinstance(array, np.ndarray) else array.numpy(),
    "two that overlap": lambda array: (array[:15_000], array[5_000:]),
    "bytes": lambda array: array.view(np.uint8) if isinstance(array, np.ndarray) else array.view(torch.uint8),
    "copy": lambda array: array.copy() if isinstance(array, np.ndarray) else array.clone(),
    "result of a sum": lambda array: array + array,
}


@pytest.mark.parametrize("kind", ["u1", torch.uint8, "i4", torch.int32], ids=str)
def test_views_of_it_arrive_as_they_were(make_pool, kind):
    def make(item):
        name, start = item
        array = empty(LARGE, kind)
        content = np.arange(start, start + LARGE) % 101
        array[:] = torch.from_numpy(content) if isinstance(kind, torch.dtype) else content
        return VIEWS[name](array)

    pool = make_pool(make, bytes_per_item=1 << 20)
    items = [(name, start) for start in range(3) for name in VIEWS]
    for item, found in zip(items, pool.collect(pool.submit(0, items)), strict=True):
        assert same(found, make(item)), item
    assert pool.statistics().copied_bytes == 0


def test_more_than_fits_comes_by_a_copy_and_is_right(make_pool):
    def call(item):
        arrays = [fill(empty(size, torch.uint8), item % 200) for size in (10, 500, 3000, 100_000, 1000, 2_000_000, 64)]
        return arrays[::-1]

    pool = make_pool(call, bytes_per_item=4000)
    for _ in range(3):
        for item, arrays in enumerate(pool.collect(pool.submit(0, range(6)))):
            assert [len(array) for array in arrays] == [64, 2_000_000, 1000, 100_000, 3000, 500, 10]
            assert all((array == item).all() for array in arrays)
    assert pool.statistics().copied_bytes > 0
    assert pool.statistics().shared_bytes > 0


@pytest.mark.filterwarnings("ignore:.*results are copied from here on")
def test_without_shared_memory_it_is_ordinary_memory(make_pool):
    pool = make_pool(lambda item: fill(empty(LARGE, "u1"), item), memory_limit=1)
    for item, array in enumerate(pool.collect(pool.submit(0, range(20)))):
        assert (array == item).all()
    assert pool.statistics().shared_bytes == 0


def test_what_is_made_and_kept_by_the_worker_does_not_disturb_later_results(make_pool):
    kept = []

    def call(item):
        kept.append(fill(empty(LARGE, torch.uint8), item))
        return kept[-1]

    pool = make_pool(call)
    batches = [pool.collect(pool.submit(0, range(first, first + 10))) for first in range(0, 200, 10)]
    for number, batch in enumerate(batches):
        assert [int(array.float().mean()) for array in batch] == list(range(10 * number, 10 * number + 10))
        assert all((array == array[0]).all() for array in batch)


def test_what_was_made_and_not_returned_leaves_results_alone(make_pool):
    def call(item):
        for _ in range(item % 4):
            fill(empty(30_000, "u1"), 255)
        return fill(empty(LARGE, "u1"), item) if item % 3 else np.full(LARGE, item, "u1")

    pool = make_pool(call)
    for item, array in enumerate(pool.collect(pool.submit(0, range(60)))):
        assert len(array) == LARGE
        assert (array == item).all()


def test_a_call_that_raises_after_it_has_made_some_disturbs_no_other(make_pool):
    def call(item):
        array = fill(empty(LARGE, "u1"), item)
        if item % 3 == 0:
            raise ValueError(item)
        return array

    pool = make_pool(call)
    for item, array in enumerate(pool.collect(pool.submit(0, range(60)))):
        assert isinstance(array, Raised) if item % 3 == 0 else (array == item).all()


@pytest.mark.parametrize("stack", [False, True])
def test_kept_results_are_not_overwritten(make_pool, stack):
    pool = make_pool(lambda item: fill(empty(LARGE, torch.uint8), item), workers=3)
    kept = [pool.collect(pool.submit(0, [number] * 5, stack=stack)) for number in range(40)]
    for _ in range(100):
        pool.collect(pool.submit(0, [255] * 5, stack=stack))
    for number, batch in enumerate(kept):
        assert all((array == number).all() for array in (batch if isinstance(batch, list) else batch.value))


def test_a_file_is_read_straight_into_it(make_pool, tmp_path):
    paths = []
    for number in range(8):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(np.random.default_rng(number).bytes(50_000 + number))

    def read(path):
        with path.open("rb", buffering=0) as file:
            array = empty(path.stat().st_size, "u1")
            count = file.readinto(array)
        return array[:count]

    pool = make_pool(read)
    for array, path in zip(pool.collect(pool.submit(0, paths)), paths, strict=True):
        assert array.tobytes() == path.read_bytes()
        assert is_shared(pool, array)
    assert pool.statistics().copied_bytes == 0


BAD_SHAPES = [-1, -1000, (3, -1), (-2, -3), (-1, 0), (0, -1), (2.0,), 2.5, "3", None]


@pytest.mark.parametrize("kind", ["u1", torch.uint8, "f4"], ids=str)
def test_a_shape_that_is_none_raises_the_same_in_a_worker_and_outside(make_pool, kind):
    def attempt(shape):
        try:
            return tuple(empty(shape, kind).shape)
        except Exception as error:
            return type(error), str(error)

    pool = make_pool(attempt)
    here = [attempt(shape) for shape in BAD_SHAPES]
    assert [outcome[0] for outcome in here if outcome[0] not in (TypeError, ValueError)] == []
    assert pool.collect(pool.submit(0, BAD_SHAPES)) == here


@pytest.mark.parametrize("kind", ["u1", torch.uint8, "f8"], ids=str)
def test_an_absurd_size_raises_and_the_worker_goes_on(make_pool, kind):
    pool = make_pool(lambda size: len(empty(size, kind)), workers=1)
    for size in (2**62, 2**64, 2**70):
        absurd, usual = pool.collect(pool.submit(0, [size, 5]))
        assert isinstance(absurd, Raised)
        assert isinstance(absurd.exception, (MemoryError, RuntimeError, ValueError, OverflowError, TypeError))
        assert usual == 5
    assert pool.statistics().deaths == 0


@pytest.mark.parametrize("shape", [-100_000, (2, -50_000), (2.0,), (-1.5,)], ids=str)
def test_a_shape_that_is_none_does_no_harm_to_other_results(make_pool, shape):
    def call(item):
        if item == 0:
            try:
                empty(shape, "u1")
            except (TypeError, ValueError):
                return None
        return fill(empty(5000, torch.uint8), item) if item % 2 else np.full(5000, item, "u1")

    pool = make_pool(call, workers=1)
    kept = pool.collect(pool.submit(0, range(1, 5)))
    pool.collect(pool.submit(0, [0] * 50))
    found = pool.collect(pool.submit(0, [0, 9, 8, 9, 8, 9] * 4))
    assert [sorted(set(array.tolist())) for array in kept] == [[1], [2], [3], [4]]
    assert [sorted(set(array.tolist())) for array in found if array is not None] == [[9], [8], [9], [8], [9]] * 4
    assert pool.statistics().deaths == 0


def test_memory_made_by_it_is_free_again_when_the_results_are_gone(make_pool):
    pool = make_pool(lambda item: [empty(LARGE, "u1"), empty(LARGE, torch.uint8)[3:3000]])
    found = pool.collect(pool.submit(0, range(10)))
    view = found[3][1]
    del found
    assert arena(pool).in_use > 0
    del view
    assert wait_until(lambda: arena(pool).in_use == 0, BOUND)


def test_a_batch_may_be_collated_in_a_worker(make_pool):
    def collate(numbers):
        batch = empty((len(numbers), 3, 40, 40), torch.float32)
        return torch.stack([torch.full((3, 40, 40), float(number)) for number in numbers], out=batch)

    pool = make_pool(collate)
    for first, batch in enumerate(pool.collect(pool.submit(0, [[number, number + 1] for number in range(20)]))):
        assert batch[:, 0, 0, 0].tolist() == [first, first + 1]
        assert batch.numel() == math.prod((2, 3, 40, 40))
        assert (batch == batch[:, :1, :1, :1]).all()


def test_what_a_thread_makes_between_two_calls_is_not_the_memory_of_other_results(make_pool):
    go, done = Tally(1), Tally(1)

    def call(item):
        if item == 0:

            def write():
                if go.wait(0):
                    fill(empty(30_000, torch.uint8), 255)
                    done.add(0)

            threading.Thread(target=write, daemon=True).start()
            return fill(empty(3000, "u1"), 1)
        return np.full(100_000, item, "u1")

    pool = make_pool(call, workers=2, dedicated=1)
    pool.collect(pool.submit(0, [0], worker=0))
    (kept,) = pool.collect(pool.submit(0, [7]))  # in the memory that the first job has left
    go.add(0)
    assert done.wait(0)
    assert (kept == 7).all()


def test_threads_of_one_call_get_memory_of_their_own(make_pool):
    def call(item):
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(4) as executor:
                return list(executor.map(lambda number: fill(empty(2000, "u1"), number), range(100)))
        finally:
            sys.setswitchinterval(before)

    pool = make_pool(call, bytes_per_item=1 << 20)
    for _ in range(5):
        for arrays in pool.collect(pool.submit(0, range(4))):
            assert [sorted(set(array.tolist())) for array in arrays] == [[number] for number in range(100)]
