"""What parent and workers tell each other."""

import pickle

import pytest

from torchdali.pool._protocol import Result, Task


def test_a_task_arrives_as_it_was_sent():
    task = Task(7, 1, 4096, 1 << 40, 3, pickle.dumps([1, "two", {"three": (None,)}]), True, b"structure", 5, 64)
    assert Task.unpack(task.pack()) == task


def test_the_items_of_a_task_are_not_loaded_before_somebody_asks_for_them():
    task = Task.unpack(Task(1, 0, 0, 0, 1, b"this is no pickle").pack())
    assert task.items == b"this is no pickle"


@pytest.mark.parametrize("description", [b"bytes", (64, 100_000)])
def test_a_result_arrives_as_it_was_sent(description):
    result = Result(7, 2, 0.25, 0.5, 3 << 40, description, [1, 2], b"structure", True)
    assert Result.unpack(result.pack()) == result
