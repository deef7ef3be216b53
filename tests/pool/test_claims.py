"""What each worker has in hand."""

import mmap
import os

from torchdali.pool._claims import TAKING, Claims
from torchdali.pool._memory import Memory


def make(workers):
    return Claims(Memory(1 << 20), workers)


def test_the_table_takes_whole_pages():
    assert make(1).nbytes == mmap.PAGESIZE
    assert make(256).nbytes == mmap.PAGESIZE
    assert make(257).nbytes == 2 * mmap.PAGESIZE


def test_a_worker_can_say_that_it_may_have_taken_something():
    claims = make(2)
    claims.taking(1)
    assert [claims.of(worker)[0] for worker in range(2)] == [0, TAKING]
    claims.take(1, 5)
    assert claims.of(1) == (5, 0)


def test_claims_begin_empty():
    claims = make(3)
    assert [claims.of(worker) for worker in range(3)] == [(0, 0)] * 3


def test_each_worker_has_a_claim_of_its_own():
    claims = make(3)
    claims.take(1, 2**40)
    claims.advance(1, 5)
    claims.take(2, 8)
    assert [claims.of(worker) for worker in range(3)] == [(0, 0), (2**40, 5), (8, 0)]
    claims.drop(1)
    assert claims.of(1)[0] == 0
    assert claims.of(2) == (8, 0)


def test_taking_a_task_begins_at_its_first_item():
    claims = make(1)
    claims.take(0, 3)
    claims.advance(0, 9)
    claims.take(0, 4)
    assert claims.of(0) == (4, 0)


def test_claims_outlive_the_process_that_made_them():
    claims = make(2)
    pid = os.fork()
    if pid == 0:
        claims.take(1, 42)
        claims.advance(1, 3)
        os._exit(0)
    os.waitpid(pid, 0)
    assert claims.of(1) == (42, 3)
