"""Whatever a function returns arrives as it was."""

import datetime
import pathlib
from decimal import Decimal

import numpy as np
import torch

from tests.pool.support import Point, Record, same

GENERATOR = np.random.default_rng(5)
LARGE = 5000
NUMBERS = GENERATOR.integers(0, 100, LARGE)


def _structured(count):
    array = np.zeros(count, np.dtype([("name", "S5"), ("place", "<f4", (2,)), ("id", ">i8")]))
    array["name"], array["id"], array["place"] = b"abc", np.arange(count), 0.5
    return array


ARRAYS = {
    **{
        dtype: NUMBERS.astype(dtype)
        for dtype in [
            *["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "g", "F", "D"],
            *[">i4", ">f8", "S3", "U4", "M8[ms]", "m8[D]"],
        ]
    },
    "void": np.frombuffer(NUMBERS.tobytes(), "V8"),
    "structured": _structured(LARGE),
    "packed field": _structured(LARGE)["place"],
    "objects": np.array([None, 1, "two", {"three": 3}], object),
    "Fortran order": np.asfortranarray(NUMBERS.reshape(50, 100)),
    "every second": NUMBERS[::2],
    "backwards": NUMBERS[::-1],
    "transposed": NUMBERS.reshape(10, 20, 25).transpose(2, 0, 1),
    "broadcast": np.broadcast_to(NUMBERS, (3, LARGE)),
    "0-d": np.array(2.5),
    "0-d structured": _structured(1)[0:1].reshape(()),
    "empty": np.empty(0, np.float32),
    "empty with a shape": np.empty((3, 0, 2), np.uint8),
    "NaN": np.full(LARGE, np.nan),
    "small": np.arange(4),
    "scalar": np.float32(1.5),
    "integer scalar": np.int64(7),
    "date scalar": np.datetime64("2020-01-02"),
    "many dimensions": np.zeros((1,) * 20 + (300, 5), np.float32),
    "read-only": np.frombuffer((NUMBERS + 1).tobytes(), np.int64),
    "masked": np.ma.masked_greater(NUMBERS, 50),
}

TENSORS = {
    **{
        str(dtype): torch.as_tensor(NUMBERS % 2).to(dtype)
        for dtype in [
            *[torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64],
            *[torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2],
            *[torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128],
        ]
    },
    "0-d": torch.tensor(2.5),
    "0-d bfloat16": torch.tensor(2.5, dtype=torch.bfloat16),
    "empty": torch.empty(0),
    "empty with a shape": torch.empty(3, 0, 2, dtype=torch.int16),
    "small": torch.arange(4),
    "every second": torch.arange(LARGE)[::2],
    "transposed": torch.arange(LARGE).view(50, 100).t(),
    "expanded": torch.arange(LARGE).expand(3, LARGE),
    "part of a larger one": torch.arange(LARGE)[1000:3000],
    "channels last": torch.arange(4 * 3 * 20 * 20).view(4, 3, 20, 20).to(memory_format=torch.channels_last),
    "conjugate": torch.complex(torch.ones(LARGE), torch.arange(LARGE).float()).conj(),
    "negative view": torch.complex(torch.ones(LARGE), torch.arange(LARGE).float()).conj().imag,
    "NaN": torch.full((LARGE,), torch.nan),
}

OTHERS = {
    "None": None,
    "nothing much": [(), [], {}, "", b"", set(), 0, False],
    "numbers": [1, -(2**80), 0.1, float("inf"), 1j, Decimal("1.10")],
    "text": "a\0b \u20ac \U0001f600" * 3,
    "long text": "text" * 100_000,
    "long bytes": bytes(range(256)) * 2000,
    "bytearray": bytearray(b"x" * 5000),
    "a dict": {"image": np.arange(3000), "label": 3, ("a", 1): None, 5: {"deep": [torch.ones(2000), "text"]}},
    "a named tuple": Point(np.arange(2000), y=Point(torch.arange(3), "inner")),
    "an instance": Record("name", np.arange(2000.0)),
    "a set": {1, "two", frozenset({3})},
    "standard library": [
        datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        pathlib.PurePath("a/b"),
        range(3),
    ],
    "types": [int, np.float32, torch.float16, torch.Size([1, 2]), np.dtype("f4")],
    "a long list": list(range(20_000)),
    "many arrays": [np.full(300, number) for number in range(200)],
    "nested": [[[[[np.arange(1000)], (torch.arange(1000),)]]]],
}


def travel(make_pool, values):
    pool = make_pool(lambda name: values[name])
    names = list(values)
    return dict(zip(names, pool.collect(pool.submit(0, names)), strict=True))


def report(values, arrived):
    return [name for name, value in values.items() if not same(value, arrived[name])]


def test_numpy_arrays_of_every_kind_arrive_as_they_were(make_pool):
    arrived = travel(make_pool, ARRAYS)
    assert report(ARRAYS, arrived) == []


def test_tensors_of_every_kind_arrive_as_they_were(make_pool):
    arrived = travel(make_pool, TENSORS)
    assert report(TENSORS, arrived) == []


def test_python_values_arrive_as_they_were(make_pool):
    arrived = travel(make_pool, OTHERS)
    assert report(OTHERS, arrived) == []


def test_values_arrive_as_they_were_when_no_memory_can_be_shared(make_pool):
    values = {("array", name): value for name, value in ARRAYS.items()}
    values |= {("tensor", name): value for name, value in TENSORS.items()}
    values |= {("other", name): value for name, value in OTHERS.items()}
    pool = make_pool(lambda name: values[name], memory_limit=1)
    arrived = pool.collect(pool.submit(0, list(values)))
    assert report(values, dict(zip(values, arrived, strict=True))) == []
    assert pool.statistics().shared_bytes == 0


def test_the_comparison_of_these_tests_sees_differences():
    values = [*ARRAYS.values(), *TENSORS.values(), *OTHERS.values()]
    for number, value in enumerate(values):
        assert same(value, value)
        assert [other for other in range(len(values)) if same(value, values[other])] == [number]


def test_items_arrive_as_they_were(make_pool):
    items = [*ARRAYS.values(), *OTHERS.values()]
    pool = make_pool(lambda item: item)
    assert all(map(same, pool.collect(pool.submit(0, items)), items))


def test_a_payload_larger_than_a_packet_crosses_in_both_directions(make_pool):
    items = [bytes([number]) * 300_000 for number in range(10)]
    pool = make_pool(lambda item: item[::-1] + b"end")
    assert pool.collect(pool.submit(0, items)) == [item + b"end" for item in items]


def test_a_tensor_that_requires_grad_arrives_detached_or_a_leaf(make_pool):
    pool = make_pool(lambda item: torch.ones(3000, requires_grad=True))
    (tensor,) = pool.collect(pool.submit(0, [0]))
    assert tensor.is_leaf
    assert torch.equal(tensor.detach(), torch.ones(3000))


def test_a_parameter_arrives_as_a_parameter(make_pool):
    pool = make_pool(lambda item: torch.nn.Parameter(torch.arange(3000.0)))
    (parameter,) = pool.collect(pool.submit(0, [0]))
    assert isinstance(parameter, torch.nn.Parameter)
    assert torch.equal(parameter.data, torch.arange(3000.0))


def test_what_arrives_may_be_written_to(make_pool):
    values = [np.arange(5), np.arange(5000), torch.arange(5), torch.arange(5000)]
    pool = make_pool(lambda number: values[number])
    for result in pool.collect(pool.submit(0, range(4))):
        result[:] = 1
        assert result.sum() == len(result)


def test_sparse_tensors_arrive_in_parts(make_pool):
    pool = make_pool(lambda item: torch.eye(item).to_sparse())
    for size, result in zip((3, 500), pool.collect(pool.submit(0, [3, 500])), strict=True):
        assert result.layout is torch.sparse_coo
        assert torch.equal(result.to_dense(), torch.eye(size))
