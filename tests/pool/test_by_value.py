"""Pickling by value: what is meant by name passes."""

import pickle
import types

import pytest
import torch

from torchdali.pool._by_value import dumps

ops = types.SimpleNamespace(zeros=torch.zeros)


def both_names():
    """As cloudpickle sees it, this may mean `torch.ops`."""
    torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark
    return torch.zeros(1), ops.zeros(1)


def test_functions_that_may_mean_modules_with_classes_of_their_own_pass():
    # As of a script or a notebook's cell, whose functions go by value.
    names = {**both_names.__globals__, "__name__": "__main__"}
    function = types.FunctionType(both_names.__code__, names, "both_names")
    function.__module__ = "__main__"
    again = pickle.loads(dumps(function))
    assert again is not function
    assert [value.tolist() for value in again()] == [[0.0], [0.0]]
    assert pickle.loads(dumps(torch.ops)) is torch.ops


def test_a_module_that_no_import_gives_is_not_taken_for_one():
    class Own(types.ModuleType):
        pass

    with pytest.raises(TypeError, match="cannot pickle 'Own' object"):
        dumps(Own("torch.ops"))
