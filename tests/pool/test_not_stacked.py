"""What cannot be stacked comes as it would without asking for it."""

import collections
import contextlib
import sys
import threading
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from tests.pool.support import Point
from tests.pool.test_stacked import run_stacked, same_all
from torchdali.pool import Raised, Stacked

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    QUANTIZED = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


class SubTensor(torch.Tensor):
    pass


class SubArray(np.ndarray):
    pass


class OneArgument(Point):
    def __new__(cls, x):
        return super().__new__(cls, x, 2)

    def __getnewargs__(self):
        return (self.x,)


class Unequal:
    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise ValueError("this cannot be compared")


UNSTACKABLE: dict[str, Any] = {
    "requires grad": lambda: torch.ones(2000, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.arange(2000.0)),
    "conjugate": lambda: torch.complex(torch.ones(2000), torch.arange(2000.0)).conj(),
    "negative view": lambda: torch.complex(torch.ones(2000), torch.arange(2000.0)).conj().imag,
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "nested tensor": lambda: NESTED,
    "quantized": lambda: QUANTIZED,
    "meta": lambda: torch.ones(3, device="meta"),
    "subclass of a tensor": lambda: torch.arange(2000).as_subclass(SubTensor),
    "subclass of an array": lambda: np.arange(2000).view(SubArray),
    "matrix": lambda: np.matrix([[1, 2]]),
    "objects": lambda: np.array([None, 1, "two"], object),
    "masked": lambda: np.ma.masked_greater(np.arange(2000), 50),
    "records": lambda: np.rec.array([(1, 2.0)], dtype="i4, f8"),
    "None": lambda: None,
    "text": lambda: ("text", 1),
    "set": lambda: {1, 2},
    "large int": lambda: 2**63,
    "64 dimensions": lambda: np.zeros((1,) * (64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32)),
    "size": lambda: torch.Size([1, 2]),
    "result of max": lambda: torch.max(torch.eye(3), 0),
    "own dict": lambda: collections.OrderedDict(a=1),
    "own named tuple": lambda: OneArgument(1),
    "keys that are tuples": lambda: {(1, "a"): 1},
    "key that cannot be pickled": lambda: {threading.Lock(): 1},
    "key that cannot be compared": lambda: {Unequal(): 1},
}


def told(value):
    """A value that can be compared, also for what compares by identity and for what was raised."""
    if isinstance(value, Raised):
        return type(value.exception), str(value.exception)
    if isinstance(value, np.ma.MaskedArray):
        return value.tolist()
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            return value.dtype, value.shape
        if value.is_nested:
            return list(value.unbind())
        if value.is_quantized:
            return value.int_repr(), value.q_scale()
        return value.layout, value.to_dense()
    if isinstance(value, dict):
        return [type(key) for key in value], list(value.values())
    return value


@pytest.mark.parametrize("name", UNSTACKABLE)
def test_what_cannot_be_stacked_comes_as_it_does_without(make_pool, name):
    pool = make_pool(lambda item: UNSTACKABLE[name](), workers=1)
    alone = pool.collect(pool.submit(0, range(3)))
    for _ in range(3):
        result = [entry for entry in run_stacked(pool, range(3))]
        assert [type(entry) for entry in result] == [type(entry) for entry in alone]
        assert same_all([told(entry) for entry in result], [told(entry) for entry in alone])
    assert pool.statistics().deaths == 0


def test_a_structure_that_only_the_worker_knows_fails_alone(make_pool):
    def call(item):
        module = sys.modules.setdefault("known_in_the_worker", types.ModuleType("known_in_the_worker"))
        if not hasattr(module, "Pair"):
            module.Pair = collections.namedtuple("Pair", "one two")  # type: ignore[attr-defined]
            module.Pair.__module__ = module.__name__
        return module.Pair(item, 1)

    pool = make_pool(call, lambda item: item, workers=1)
    for _ in range(3):
        assert [type(entry.exception) for entry in run_stacked(pool, range(3))] == [ModuleNotFoundError] * 3
        assert pool.collect(pool.submit(1, [5])) == [5]


def test_keys_that_are_equal_and_of_different_types_stay_what_they_are(make_pool):
    pool = make_pool(lambda item: {item: 5})
    run_stacked(pool, [1, 1])
    found = run_stacked(pool, [True, 1.0, 1])
    assert same_all([list(entry) for entry in found], [[True], [1.0], [1]])


def test_an_empty_block_is_in_the_memory_of_the_others_whatever_the_default_device(make_pool):
    pool = make_pool(lambda item: (torch.empty(0, 3, device="cpu"), torch.ones(3, device="cpu")))
    with torch.device("meta"):
        for _ in range(3):
            result = run_stacked(pool, range(2))
    assert [leaf.device.type for leaf in result.value] == ["cpu", "cpu"]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, contextlib.nullcontext])
def test_tensors_made_without_gradients_are_stacked(make_pool, mode):
    def call(item):
        with mode():
            return torch.ones(2000) * item

    pool = make_pool(call)
    run_stacked(pool, range(4))
    assert run_stacked(pool, range(4)).value.sum(1).tolist() == [0, 2000, 4000, 6000]


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("size", [3, 2000])
@pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
def test_a_function_that_returns_the_same_buffer_each_time_gives_each_item_its_own_value(make_pool, kind, size, stack):
    buffer = kind(size)

    def call(item):
        buffer[:] = item
        return {"value": buffer[:], "number": item}

    pool = make_pool(call)
    for _ in range(4):
        result = pool.collect(pool.submit(0, range(40), stack=stack))
        values = list(result.value["value"]) if isinstance(result, Stacked) else [entry["value"] for entry in result]
        assert [set(value.tolist()) for value in values] == [{item} for item in range(40)]
