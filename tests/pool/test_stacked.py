"""Results of one structure come stacked; whatever does not agree comes as it would have come alone."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.pool.support import Point, same
from tests.pool.test_memory import arena, is_shared
from torchdali.pool import Ragged, Raised, Stacked, WorkerPool

LARGE = 3000
GENERATOR = np.random.default_rng(7)
NUMBERS = GENERATOR.integers(0, 100, (6, LARGE))

TENSOR_TYPES = [
    *[torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32],
    *[torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128],
    *[torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz],
]
ARRAY_TYPES = [
    *["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "g", "F", "D"],
    *[">i4", ">f8", ">c16", "S3", "U5", "M8[ms]", "m8[D]"],
]
STRUCTURED = np.dtype([("name", "S5"), ("place", "<f4", (2,)), ("id", ">i8"), ("in", [("deep", "?")])])
ALIGNED = np.dtype("i1, f8", align=True)


def _filled(dtype, index):
    array = np.zeros(LARGE, dtype)
    array.view("u1")[:] = np.resize(NUMBERS[index] % 2, array.nbytes)
    return array


def _tensor(dtype, index):
    return torch.as_tensor(NUMBERS[index] % 7).to(dtype)


def _number_of(index):
    return torch.arange(4 * 3 * 20 * 20).view(4, 3, 20, 20) + index


# Each maps the index of an item to a value; the values of different indices agree in structure and not in content.
ALIKE: dict[str, Any] = {
    **{str(dtype): lambda index, dtype=dtype: _tensor(dtype, index) for dtype in TENSOR_TYPES},
    **{f"small {dtype}": lambda index, dtype=dtype: _tensor(dtype, index)[:3] for dtype in TENSOR_TYPES},
    **{f"array {dtype}": lambda index, dtype=dtype: NUMBERS[index].astype(dtype) for dtype in ARRAY_TYPES},
    **{f"0-d array {dtype}": lambda index, dtype=dtype: NUMBERS[index, :1].astype(dtype)[0, ...] for dtype in "fiU"},
    **{f"scalar {dtype}": lambda index, dtype=dtype: NUMBERS[index].astype(dtype)[0] for dtype in ["?", "u2", "f8"]},
    "date scalar": lambda index: np.datetime64("2020-01-02") + index,
    "string scalar": lambda index: np.str_("abc"[index % 3]),
    "structured scalar": lambda index: _filled(STRUCTURED, index)[3],
    "structured": lambda index: _filled(STRUCTURED, index),
    "structured, aligned": lambda index: _filled(ALIGNED, index),
    "void": lambda index: np.frombuffer(NUMBERS[index].tobytes(), "V8"),
    "0-d": lambda index: torch.tensor(2.5 * index),
    "0-d bfloat16": lambda index: torch.tensor(2.5 * index, dtype=torch.bfloat16),
    "empty": lambda index: torch.empty(0),
    "empty with a shape": lambda index: torch.empty(3, 0, 2, dtype=torch.int16),
    "empty array": lambda index: np.empty((3, 0, 2), np.uint8),
    "empty structured": lambda index: np.empty(0, STRUCTURED),
    "every second": lambda index: _tensor(torch.int32, index)[::2],
    "transposed": lambda index: _tensor(torch.float32, index).view(50, -1).t(),
    "expanded": lambda index: _tensor(torch.int16, index).expand(3, LARGE),
    "expanded from one": lambda index: torch.tensor(index).expand(LARGE),
    "channels last": lambda index: _number_of(index).to(memory_format=torch.channels_last),
    "part of a larger one": lambda index: _tensor(torch.int64, index)[500:1500],
    "alternately laid out": lambda index: _number_of(index)[0, 0] if index % 2 else _number_of(index)[0, 0].t(),
    "backwards": lambda index: NUMBERS[index][::-1],
    "Fortran order": lambda index: np.asfortranarray(NUMBERS[index].reshape(50, -1)),
    "broadcast": lambda index: np.broadcast_to(NUMBERS[index], (3, LARGE)),
    "read-only": lambda index: np.frombuffer(NUMBERS[index].tobytes(), np.int64),
    "NaN": lambda index: torch.full((LARGE,), torch.nan),
    "int": lambda index: index - 3,
    "largest int": lambda index: (2**63 - 1, -(2**63))[index % 2],
    "float": lambda index: (0.0, -0.0, float("inf"), 5e-324)[index % 4],
    "bool": lambda index: index % 2 == 0,
    "complex": lambda index: complex(index, -0.0),
    "empty tuple": lambda index: (),
    "empty containers": lambda index: ([], {}, (), {"a": []}, torch.tensor(index)),
    "tuple": lambda index: (_tensor(torch.uint8, index), index),
    "tuple of one": lambda index: (index,),
    "list": lambda index: [NUMBERS[index], index / 2, True],
    "dict": lambda index: {"image": _tensor(torch.uint8, index), 5: {"deep": [index, NUMBERS[index, :9]]}},
    "named tuple": lambda index: Point(_tensor(torch.float16, index), y=Point(index, np.float32(index))),
    "nested": lambda index: [[[[[NUMBERS[index]], ((_tensor(torch.bool, index),),)]]]],
    "twice the same": lambda index: (lambda value: (value, [value], value))(_tensor(torch.int32, index)),  # noqa: PLC3002
    "many leaves": lambda index: [index * number for number in range(500)],
}
COUNT = len(NUMBERS)


def stacked(values):
    """What stacking values by hand gives."""
    one = values[0]
    if isinstance(one, torch.Tensor):
        return torch.stack(values)
    if isinstance(one, (np.ndarray, np.generic)):
        whole = np.empty((len(values), *one.shape), one.dtype)  # np.stack would change the order of bytes
        whole[...] = np.stack(values)
        return whole
    if type(one) in (int, float, bool, complex):
        types = {int: torch.int64, float: torch.float64, bool: torch.bool, complex: torch.complex128}
        return torch.tensor(values, dtype=types[type(one)])
    if isinstance(one, dict):
        return {key: stacked([value[key] for value in values]) for key in one}
    entries = [stacked(list(column)) for column in zip(*values, strict=True)]
    return type(one)(*entries) if hasattr(one, "_fields") else type(one)(entries)


def equal(one, other):
    """As ``same``, but for bytes between fields and behind long doubles, which nobody has written."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.dtype in (ALIGNED, np.longdouble):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return same(one, other)


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [value]


def contiguous(value):
    return all(x.is_contiguous() if isinstance(x, torch.Tensor) else x.flags.c_contiguous for x in leaves(value))


def rows(result):
    """The results as a list, stacked or not, of single tensors."""
    return list(result.value) if isinstance(result, Stacked) else result


def run_stacked(pool: WorkerPool, items, function=0):
    """What is stacked as it is, all else as a list."""
    result = pool.collect(pool.submit(function, items, stack=True), timeout=20)
    return result.items() if isinstance(result, Ragged) else result


def same_all(arrived, expected):
    return isinstance(arrived, list) and len(arrived) == len(expected) and all(map(same, arrived, expected))


@pytest.fixture(scope="module")
def alike_pool():
    with WorkerPool([lambda index, make=make: make(index) for make in ALIKE.values()], 2) as pool:
        yield pool


@pytest.mark.parametrize("name", ALIKE)
def test_results_of_one_structure_are_stacked(alike_pool, name):
    pool, function = alike_pool, list(ALIKE).index(name)
    values = [ALIKE[name](index) for index in range(COUNT)]
    for order in (range(COUNT), range(COUNT), [5, 3, 3], [2]):
        result = run_stacked(pool, order, function)
        assert isinstance(result, Stacked)
        assert result.size == len(order)
        assert equal(result.value, stacked([values[index] for index in order]))
        assert contiguous(result.value)
    assert pool.statistics().deaths == 0


@pytest.mark.parametrize("size", [1, 5000])
def test_stacked_values_lie_in_shared_memory_where_they_are_large(make_pool, size):
    pool = make_pool(lambda item: (torch.full((size,), item), np.full(size, item), item))
    run_stacked(pool, range(8))
    result = run_stacked(pool, range(8))
    assert [is_shared(pool, leaf) for leaf in result.value] == [size > 1, size > 1, False]
    assert (arena(pool).in_use > 0) == (size > 1)
    assert pool.statistics().copied_bytes == 0


def test_what_is_stacked_may_be_written_to(make_pool):
    pool = make_pool(lambda item: {"small": torch.tensor([item]), "large": np.zeros(5000), "number": item})
    run_stacked(pool, range(4))
    value = run_stacked(pool, range(4)).value
    for leaf in value.values():
        leaf[...] = 3
    assert [float(leaf.sum()) for leaf in value.values()] == [12, 60_000, 12]


def test_no_items_give_no_results_before_and_after_the_structure_is_known(make_pool):
    pool = make_pool(lambda item: torch.ones(3000) * item)
    assert run_stacked(pool, []) == []
    run_stacked(pool, range(4))
    assert run_stacked(pool, []) == []
    assert isinstance(run_stacked(pool, range(4)), Stacked)


def test_a_job_that_does_not_ask_for_stacking_gets_a_list(make_pool):
    pool = make_pool(lambda item: torch.full((2000,), item))
    run_stacked(pool, range(4))
    assert same_all(pool.collect(pool.submit(0, range(4))), [torch.full((2000,), item) for item in range(4)])
    assert isinstance(run_stacked(pool, range(4)), Stacked)


def test_batches_of_any_length_are_stacked(make_pool):
    pool = make_pool(lambda item: (torch.full((700,), item), item))
    run_stacked(pool, range(16))
    for length in (64, 1, 5, 300, 2, 3):
        result = run_stacked(pool, range(length))
        assert isinstance(result, Stacked)
        assert torch.equal(result.value[0], torch.arange(length).view(-1, 1).expand(length, 700))
        assert result.value[1].tolist() == list(range(length))


def test_each_function_has_a_structure_of_its_own(make_pool):
    pool = make_pool(lambda item: item, lambda item: {"a": torch.full((900,), item)}, lambda item: [item, str(item)])
    for number in range(4):
        jobs = [pool.submit(function, range(5), stack=True) for function in (0, 1, 2, 1, 0)]
        found = [pool.collect(job) for job in jobs]
        if number:
            assert found[0].value.tolist() == found[4].value.tolist() == list(range(5))
            assert same(found[1].value["a"], stacked([torch.full((900,), item) for item in range(5)]))
            assert found[3].size == 5
        assert found[2] == [[item, str(item)] for item in range(5)]


def test_stacked_batches_that_are_kept_are_not_overwritten(make_pool):
    pool = make_pool(lambda item: torch.full((3000,), item), workers=3)
    run_stacked(pool, range(4))
    kept = {number: run_stacked(pool, [number] * 4) for number in range(10)}
    views = {number: run_stacked(pool, [number] * 4).value[1][5:9] for number in range(10, 20)}
    for _ in range(50):
        run_stacked(pool, [99] * 4)
    assert all((result.value == number).all() for number, result in kept.items())
    assert all((view == number).all() for number, view in views.items())


# --- results that do not agree ----------------------------------------------------------------------------------------

USUAL = lambda item: {"image": torch.full((600,), item), "label": item}  # noqa: E731
UNUSUAL: dict[str, Any] = {
    "shape": lambda item: {"image": torch.full((601,), item), "label": item},
    "dimensions": lambda item: {"image": torch.full((600, 1), item), "label": item},
    "type": lambda item: {"image": torch.full((600,), item, dtype=torch.int32), "label": item},
    "array": lambda item: {"image": np.full(600, item), "label": item},
    "number": lambda item: {"image": torch.full((600,), item), "label": float(item)},
    "truth": lambda item: {"image": torch.full((600,), item), "label": True},
    "NumPy's number": lambda item: {"image": torch.full((600,), item), "label": np.int64(item)},
    "nothing": lambda item: None,
    "large number": lambda item: {"image": torch.full((600,), item), "label": 2**63 + item},
    "other key": lambda item: {"image": torch.full((600,), item), "labels": item},
    "more keys": lambda item: {**USUAL(item), "more": 0},
    "fewer keys": lambda item: {"image": torch.full((600,), item)},
    "other order": lambda item: {"label": item, "image": torch.full((600,), item)},
    "other nesting": lambda item: [USUAL(item)],
    "deeper": lambda item: {"image": [torch.full((600,), item)], "label": item},
    "text": lambda item: "text" * 1000,
    "requires grad": lambda item: {"image": torch.full((600,), float(item), requires_grad=True), "label": item},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_one_result_that_does_not_agree_makes_a_list_of_all_wherever_it_is(make_pool, name):
    odd = UNUSUAL[name]
    pool = make_pool(lambda item: odd(item[0]) if item[1] else USUAL(item[0]))
    run_stacked(pool, [(item, False) for item in range(12)])
    for where in ([0], [5], [11], [2, 3, 7], range(12)):
        usual = run_stacked(pool, [(item, False) for item in range(12)])
        usual = usual if isinstance(usual, Stacked) else run_stacked(pool, [(item, False) for item in range(12)])
        assert isinstance(usual, Stacked)
        result = run_stacked(pool, [(item, item in where) for item in range(12)])
        assert same_all(result, [odd(item) if item in where else USUAL(item) for item in range(12)])
    assert pool.statistics().deaths == 0


@pytest.mark.parametrize("known", [False, True], ids=["before the structure is known", "after"])
@pytest.mark.parametrize("bad", [[0], [4], [9], [1, 2, 8], list(range(10))], ids=str)
def test_what_raises_stands_in_its_place_and_the_others_are_right(make_pool, known, bad):
    def call(item):
        if item < 0:
            raise KeyError(f"no {-item - 1}")
        return item, torch.full((500,), item)

    pool = make_pool(call)
    for _ in range(2 if known else 0):
        run_stacked(pool, range(10))
    result = run_stacked(pool, [-item - 1 if item in bad else item for item in range(10)])
    for item, value in enumerate(result):
        if item in bad:
            assert isinstance(value, Raised)
            assert str(value.exception) == f"'no {item}'"
        else:
            assert same(value, (item, torch.full((500,), item)))
    run_stacked(pool, range(10))
    assert isinstance(run_stacked(pool, range(10)), Stacked)


def test_results_that_never_agree_arrive_and_later_ones_that_do_are_stacked(make_pool):
    pool = make_pool(lambda size: np.full(size, size))
    for number in range(12):
        sizes = [number + 1, 1000 * number + 2, 3]
        assert same_all(run_stacked(pool, sizes), [np.full(size, size) for size in sizes])
    assert any(isinstance(run_stacked(pool, [50] * 8), Stacked) for _ in range(20))


def test_a_structure_that_changes_for_good_is_learnt_anew(make_pool):
    pool = make_pool(lambda size: torch.full((size,), size))
    for size in (100, 2000, 3, 50_000):
        found = [run_stacked(pool, [size] * 6) for _ in range(3)]
        assert isinstance(found[-1], Stacked)
        for result in found:
            assert [tensor.tolist() == [size] * size for tensor in rows(result)] == [True] * 6


def test_jobs_under_way_when_the_structure_changes_are_right(make_pool):
    pool = make_pool(lambda size: torch.full((size,), size), workers=3)
    sizes = [5, 5, 700, 5, 700, 700, 700, 9, 5, 5]
    jobs = [pool.submit(0, [size] * 7, stack=True) for size in sizes * 3]
    for size, job in zip(sizes * 3, jobs, strict=True):
        assert same_all([tensor.clone() for tensor in rows(pool.collect(job))], [torch.full((size,), size)] * 7)


def test_a_small_result_of_a_list_holds_no_shared_memory_if_it_is_kept(make_pool):
    pool = make_pool(lambda item: (np.zeros(2000), torch.tensor([item]), np.int64(item)) if item else "other")
    run_stacked(pool, range(1, 1001))
    found = run_stacked(pool, range(1000))
    kept = [entry[1:] for entry in found[1:]]
    del found
    assert arena(pool).in_use == 0
    assert [int(label) for _, label in kept] == list(range(1, 1000))


def test_values_that_change_on_their_way_are_never_stacked_wrongly(make_pool):
    """NumPy's pickle brings dates of the other byte order into the machine's own."""
    pool = make_pool(lambda item: np.full(5000, item, ">M8[s]"))
    for _ in range(3):
        result = run_stacked(pool, range(1, 5))
        rows = result.value if isinstance(result, Stacked) else result
        assert [{int(date) for date in row.astype("i8")} for row in rows] == [{1}, {2}, {3}, {4}]
