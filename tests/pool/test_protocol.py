"""What parent and workers tell each other."""

import os
import pickle

import pytest

from torchdali.pool._protocol import Claims, Result, Task


def test_a_task_arrives_as_it_was_sent():
    task = Task(7, 1, 4096, 1 << 40, 3, pickle.dumps([1, "two", {"three": (None,)}]))
    assert Task.unpack(task.pack()) == task


def test_the_items_of_a_task_are_not_loaded_before_somebody_asks_for_them():
    task = Task.unpack(Task(1, 0, 0, 0, 1, b"this is no pickle").pack())
    assert task.items == b"this is no pickle"


@pytest.mark.parametrize("description", [b"bytes", (64, 100_000)])
def test_a_result_arrives_as_it_was_sent(description):
    result = Result(7, 2, 0.25, 3 << 40, description)
    assert Result.unpack(result.pack()) == result


def test_claims_begin_empty():
    claims = Claims(3)
    assert [claims.of(worker) for worker in range(3)] == [(0, 0)] * 3


def test_each_worker_has_a_claim_of_its_own():
    claims = Claims(3)
    claims.take(1, 2**40)
    claims.advance(1, 5)
    claims.take(2, 8)
    assert [claims.of(worker) for worker in range(3)] == [(0, 0), (2**40, 5), (8, 0)]
    claims.drop(1)
    assert claims.of(1)[0] == 0
    assert claims.of(2) == (8, 0)


def test_taking_a_task_begins_at_its_first_item():
    claims = Claims(1)
    claims.take(0, 3)
    claims.advance(0, 9)
    claims.take(0, 4)
    assert claims.of(0) == (4, 0)


def test_claims_outlive_the_process_that_made_them():
    claims = Claims(2)
    pid = os.fork()
    if pid == 0:
        claims.take(1, 42)
        claims.advance(1, 3)
        os._exit(0)
    os.waitpid(pid, 0)
    assert claims.of(1) == (42, 3)
