"""Results that are nested alike and differ in shape come as columns; whatever does not fit comes as it would have alone."""

import collections
from typing import Any

import numpy as np
import pytest
import torch

from tests.pool.support import Point, Tally, die, same, wait_until
from tests.pool.test_memory import arena, is_shared
from tests.pool.test_stacked import ARRAY_TYPES, STRUCTURED, TENSOR_TYPES
from torchdali.errors import WorkerDiedError
from torchdali.pool import Column, Ragged, Raised, Stacked, WorkerPool, empty

NUMBERS = np.random.default_rng(3).integers(0, 7, 5000)
LENGTHS = [1500, 0, 3, 4001, 2, 1500]


def collect(pool: WorkerPool, items, function=0) -> Any:
    return pool.collect(pool.submit(function, items, stack=True), timeout=20)


def tensor(length, dtype=torch.float32):
    return torch.empty(length, dtype=dtype).copy_(torch.from_numpy(words(length, "i8")))


def words(length, dtype="i4"):
    return (np.resize(NUMBERS, length) + length % 5).astype(dtype)


# Each maps a length to a value; those of different lengths are nested alike and differ in shape.
ALIKE: dict[str, Any] = {
    **{str(dtype): lambda length, dtype=dtype: tensor(length, dtype) for dtype in TENSOR_TYPES},
    **{f"array {dtype}": lambda length, dtype=dtype: words(length, dtype) for dtype in ARRAY_TYPES if dtype != "g"},
    "two dimensions": lambda length: tensor(length).view(1, -1).expand(length % 7 + 1, length),
    "one length of several": lambda length: np.full((3, length, 2), length % 251, np.uint8),
    "every second": lambda length: (tensor(2 * length + 8)[::2], words(2 * length)[::2], words(length)[::-1]),
    "part of a larger one": lambda length: tensor(5000)[500 : 500 + length // 2],
    "read-only": lambda length: np.frombuffer(NUMBERS[:length].tobytes(), np.int64),
    "structured": lambda length: np.zeros(length, STRUCTURED),
    "numbers beside": lambda length: {"data": tensor(length), "n": length, "x": length / 2, "even": length % 2 == 0},
    "large number": lambda length: (tensor(length), 2**63 - 1 - length, -(2**63) + length),
    "scalars beside": lambda length: [words(length), np.float16(length), np.zeros(1, STRUCTURED)[0], np.str_("a")],
    "no dimensions": lambda length: (tensor(length), torch.tensor(length), np.array(length), torch.tensor(True)),
    "empty ones beside": lambda length: (torch.empty(0, 3), tensor(length), np.empty((2, 0)), torch.empty(length, 0)),
    "named tuple": lambda length: Point(tensor(length, torch.float16), y=Point(length, [words(length), ()])),
    "nothing but empty": lambda length: (torch.empty(length, 0), np.empty((0, length), "f2")),
    "all small": lambda length: {5: [words(length % 50)], "label": tensor(length % 9, torch.uint8)},
    "all large": lambda length: tensor(2000 + length, torch.int64),
}


@pytest.fixture(scope="module")
def alike_pool():
    with WorkerPool([lambda length, make=make: make(length) for make in ALIKE.values()], 2) as pool:
        yield pool


@pytest.mark.parametrize("name", ALIKE)
def test_results_that_differ_in_shape_come_as_columns_with_the_same_content(alike_pool, name):
    pool, make, function = alike_pool, ALIKE[name], list(ALIKE).index(name)
    for lengths in (LENGTHS, [0, 4000, 0], [7, 9]):
        result = collect(pool, lengths, function)
        assert isinstance(result, Ragged)
        assert result.size == len(lengths)
        items = result.items()
        assert len(items) == len(lengths)
        assert all(same(item, make(length)) for item, length in zip(items, lengths, strict=True))
    assert pool.statistics().deaths == 0
    assert pool.statistics().copied_bytes == 0


def test_a_column_tells_where_each_item_lies(make_pool):
    pool = make_pool(lambda size: {"image": torch.full((size, size + 1), size, dtype=torch.int16), "label": size})
    result = collect(pool, range(40, 100))
    column = result.value["image"]
    assert isinstance(column, Column)
    assert (column.dtype, column.kind) == (torch.int16, torch.Tensor)
    assert column.shapes.tolist() == [[size, size + 1] for size in range(40, 100)]
    assert column.nbytes.tolist() == [2 * size * (size + 1) for size in range(40, 100)]
    for size, offset, length in zip(range(40, 100), column.offsets, column.nbytes, strict=True):
        assert set(column.memory[offset : offset + length].view(np.int16).tolist()) == {size}
    assert is_shared(pool, column.memory)
    assert not (column.offsets % 64).any()
    assert torch.equal(result.value["label"], torch.arange(40, 100))


def test_what_is_of_one_shape_and_small_is_a_block_of_its_own(make_pool):
    pool = make_pool(lambda n: (torch.zeros(3000 + n), torch.tensor([n]), np.full((2, 3), n), np.int32(n), n / 2))
    label, array, scalar, number = collect(pool, range(20)).value[1:]
    assert arena(pool).in_use == 0  # the column is gone
    assert torch.equal(label, torch.arange(20).view(20, 1))
    assert same(array, np.arange(20).repeat(6).reshape(20, 2, 3))
    assert same(scalar, np.arange(20, dtype=np.int32))
    assert torch.equal(number, torch.arange(20, dtype=torch.float64) / 2)


def test_small_items_hold_no_shared_memory_if_they_are_kept(make_pool):
    pool = make_pool(lambda n: (np.zeros(2000 + n), words(n % 200), torch.tensor([n])))
    result = collect(pool, range(1000))
    short = result.value[1]
    kept = [entry[1:] for entry in result.items()]
    del result
    assert arena(pool).in_use == 0
    assert all(same(entry, (words(n % 200), torch.tensor([n]))) for n, entry in enumerate(kept))
    assert all(same(one, other[0]) for one, other in zip(short.items(), kept, strict=True))


def test_any_part_of_a_column_holds_the_memory(make_pool):
    pool = make_pool(lambda n: torch.full((3000 + n,), n), workers=3)
    kept = {number: collect(pool, [number, number + 1]) for number in range(10)}
    views = {number: collect(pool, [number, number + 1]).items()[1][5:9] for number in range(10, 20)}
    for _ in range(40):
        collect(pool, [98, 99])
    for number, result in kept.items():
        assert all(torch.equal(*pair) for pair in zip(result.items(), map(full, [number, number + 1]), strict=True))
    assert all((view == number + 1).all() for number, view in views.items())
    assert pool.statistics().slots == 20
    del kept, views, result
    assert pool.statistics().slots == 0


def full(number):
    return torch.full((3000 + number,), number)


def test_what_is_made_in_shared_memory_is_not_moved(make_pool):
    def call(size):
        made, other = empty(size, torch.uint8), empty((2, size), np.int16)
        made[:], other[:] = size % 251, size
        return made, other[1], size, np.frombuffer(made.numpy(), np.uint8)[1:]

    pool = make_pool(call, workers=1)
    before = pool.statistics().shared_bytes
    sizes = [16_000, 8_000, 640]
    result = collect(pool, sizes)
    made, other, _, rest = result.value
    for size, one, two, three in zip(sizes, made.items(), other.items(), rest.items(), strict=True):
        assert same(one, torch.full((size,), size % 251, dtype=torch.uint8))
        assert same(two, np.full(size, size, np.int16))
        assert same(three, np.full(size - 1, size % 251, np.uint8))
    assert np.array_equal(rest.memory[rest.offsets[0] :][:9], made.memory[made.offsets[0] + 1 :][:9])
    assert pool.statistics().shared_bytes - before < 5 * sum(sizes) + 1000  # and not 8: nothing was written twice


def test_a_function_that_returns_the_same_buffer_each_time_gives_each_item_its_own_value(make_pool):
    buffer = np.zeros(5000)

    def call(item):
        buffer[:] = item
        return buffer[: 2000 + item], item

    pool = make_pool(call)
    result = collect(pool, range(40))
    assert isinstance(result, Ragged)
    assert [set(value.tolist()) for value in result.value[0].items()] == [{item} for item in range(40)]


def test_results_of_one_shape_are_still_stacked_and_so_are_the_next(make_pool):
    pool = make_pool(lambda length: torch.full((length,), length))
    assert isinstance(collect(pool, [5, 2000]), Ragged)
    for _ in range(3):
        assert torch.equal(collect(pool, [700] * 9).value, torch.full((9, 700), 700))
    assert isinstance(collect(pool, [5, 2000]), list)  # blocks were expected
    assert isinstance(collect(pool, [5, 2000]), Ragged)


def test_a_job_that_was_collected_gives_the_same_again_and_a_cancelled_one_leaves_nothing(make_pool):
    pool = make_pool(tensor)
    job = pool.submit(0, LENGTHS, stack=True)
    result = pool.collect(job)
    assert isinstance(result, Ragged)
    assert pool.collect(job) is result
    del job, result
    for _ in range(5):
        pool.cancel(pool.submit(0, LENGTHS, stack=True))
    # A worker may still have one of them in hand, whose memory comes back when the next job is collected.
    assert wait_until(lambda: isinstance(collect(pool, LENGTHS), Ragged) and pool.statistics().slots == 0)


def test_without_stack_nothing_is_a_column(make_pool):
    pool = make_pool(tensor)
    assert isinstance(pool.collect(pool.submit(0, LENGTHS)), list)


# --- what does not fit ------------------------------------------------------------------------------------------------

Local = collections.namedtuple("Local", "one two")


class Unpicklable:
    def __reduce__(self):
        raise ValueError("this cannot be sent")


ODD: dict[str, Any] = {
    "type": lambda n: {"image": tensor(n, torch.int32), "label": n},
    "dimensions": lambda n: {"image": tensor(n).view(1, -1), "label": n},
    "array": lambda n: {"image": words(n), "label": n},
    "number": lambda n: {"image": tensor(n), "label": float(n)},
    "nothing": lambda n: None,
    "text": lambda n: "text" * 1000,
    "other key": lambda n: {"image": tensor(n), "labels": n},
    "other nesting": lambda n: [{"image": tensor(n), "label": n}],
    "named tuple": lambda n: Local(tensor(n), n),
    "number that is too large": lambda n: {"image": tensor(n), "label": 2**63 + n},
}


@pytest.mark.parametrize("name", ODD)
def test_one_result_that_does_not_fit_makes_a_list_of_all_wherever_it_is(make_pool, name):
    usual, odd = lambda n: {"image": tensor(n), "label": n}, ODD[name]
    pool = make_pool(lambda item: odd(item[0]) if item[1] else usual(item[0]))
    sizes = [1000 + n if n % 3 else n for n in range(12)]
    for where in ([0], [5], [11], [2, 3, 7]):
        result = collect(pool, [(size, place in where) for place, size in enumerate(sizes)])
        assert isinstance(result, list)
        for place, (value, size) in enumerate(zip(result, sizes, strict=True)):
            assert same(value, odd(size) if place in where else usual(size))
    assert isinstance(collect(pool, [(size, False) for size in sizes]), Ragged)


@pytest.mark.parametrize("bad", [[0], [4], [9], [1, 2, 8], list(range(10))], ids=str)
def test_what_raises_stands_in_its_place_and_the_others_are_right(make_pool, bad):
    def call(item):
        if item in bad:
            raise KeyError(f"no {item}")
        return (tensor(2000 - 100 * item), item) if item != 7 or 8 not in bad else Unpicklable()

    result = collect(make_pool(call), range(10))
    for item, value in enumerate(result):
        if item in bad:
            assert isinstance(value, Raised)
            assert str(value.exception) == f"'no {item}'"
        elif item == 7 and 8 in bad:
            assert str(value.exception) == "this cannot be sent"
        else:
            assert same(value, (tensor(2000 - 100 * item), item))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: (lambda value: (value, [value]))(tensor(n)),  # noqa: PLC3002
        lambda n: tensor(6 * n).view(2, 3, n).permute(2, 0, 1),
        lambda n: torch.ones(2, 4, n, 3).to(memory_format=torch.channels_last),
        lambda n: np.asfortranarray(words(3 * n).reshape(3, n)),
    ],
    ids=["twice the same", "permuted", "channels last", "Fortran order"],
)
def test_what_a_description_tells_beyond_content_is_told(make_pool, make):
    result = collect(make_pool(make), [20, 700, 30])
    assert isinstance(result, list)
    for value, n in zip(result, [20, 700, 30], strict=True):
        expected = make(n)
        assert same(value, expected)
        if isinstance(value, tuple):
            assert value[0] is value[1][0]
        elif isinstance(value, torch.Tensor):
            assert value.stride() == expected.stride()
        else:
            assert value.strides == expected.strides


def test_results_that_have_no_room_are_as_they_are_without_stack(make_pool):
    pool = make_pool(lambda n: (tensor(n), n), bytes_per_item=4096, workers=1)
    sizes = [10, 900, 20, 4000, 5000, 800, 3]
    result = collect(pool, sizes)
    assert isinstance(result, list)
    assert all(same(value, (tensor(n), n)) for value, n in zip(result, sizes, strict=True))
    assert pool.statistics().copied_bytes > 0
    assert isinstance(collect(pool, sizes), Ragged)


@pytest.mark.filterwarnings("ignore:.*results are copied from here on")
def test_results_without_shared_memory_are_right(make_pool):
    pool = make_pool(lambda n: (tensor(n), n), memory_limit=1)
    for _ in range(3):
        assert all(same(value, (tensor(n), n)) for value, n in zip(collect(pool, LENGTHS), LENGTHS, strict=True))


def test_a_table_that_is_long_lies_in_the_memory_too(make_pool):
    pool = make_pool(lambda n: tensor(n % 50), workers=1)
    for _ in range(3):
        result = collect(pool, range(20_000))
    assert result.value.shapes[:, 0].tolist() == [n % 50 for n in range(20_000)]
    assert same(result.items()[4321], tensor(4321 % 50))


def test_a_table_that_has_no_room_in_the_memory_arrives(make_pool):
    pool = make_pool(lambda n: tensor(n % 16, torch.uint8), workers=1, bytes_per_item=64)
    result = collect(pool, range(20_000))
    assert pool.statistics().copied_bytes > 0
    assert all(same(value, tensor(n % 16, torch.uint8)) for n, value in enumerate(result))


# --- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 9, 23])
def test_after_a_death_in_the_middle_all_items_are_there_in_order(make_pool, place):
    deaths = Tally(1)

    def call(n):
        if n == place and not deaths[0]:
            deaths.add(0)
            die()
        return tensor(100 + 30 * n), n

    pool = make_pool(call, on_worker_death="restart")
    result = collect(pool, range(24))
    assert isinstance(result, Ragged)
    assert result.value[1].tolist() == list(range(24))
    assert all(same(item, (tensor(100 + 30 * n), n)) for n, item in enumerate(result.items()))
    assert pool.statistics().deaths == 1


def test_what_is_lost_with_a_worker_stands_among_the_others(make_pool):
    def call(n):
        if n == 9:
            die()
        return tensor(100 + 30 * n), n

    pool = make_pool(call, on_worker_death="restart", tries=2)
    result = collect(pool, range(24))
    assert isinstance(result[9].exception, WorkerDiedError)
    assert all(same(item, (tensor(100 + 30 * n), n)) for n, item in enumerate(result) if n != 9)
    pool = make_pool(call, on_worker_death="raise")
    result = collect(pool, range(24))
    lost = [n for n, item in enumerate(result) if isinstance(item, Raised)]
    assert 9 in lost
    assert all(same(item, (tensor(100 + 30 * n), n)) for n, item in enumerate(result) if n not in lost)


def test_a_kept_result_outlives_its_pool(make_pool):
    pool = make_pool(lambda n: (tensor(1000 + n), n))
    result = collect(pool, range(10))
    pool.close()
    assert all(same(item, (tensor(1000 + n), n)) for n, item in enumerate(result.items()))
    assert not isinstance(result, Stacked)
