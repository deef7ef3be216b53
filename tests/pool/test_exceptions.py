"""What a function raises is raised here: same type, the worker's traceback, the item."""

import builtins
import dataclasses
import os
import sys
import threading
import traceback
from typing import Any

import numpy as np
import pytest

from torchdali.errors import WorkerError, WorkerTraceback
from torchdali.pool import Raised


class Demanding(Exception):
    def __init__(self, path, code):
        super().__init__(f"{path} failed with {code}")
        self.path, self.code = path, code


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    path: str
    code: int


def only(pool, item) -> BaseException:
    (result,) = pool.collect(pool.submit(0, [item]))
    assert isinstance(result, Raised)
    return result.exception


@pytest.mark.parametrize(
    "exception",
    [
        ValueError("bad value", 3),
        KeyError("the key"),
        Demanding("a.jpg", 7),
        FileNotFoundError(2, "No such file", "b.jpg"),
        Frozen("a.jpg", 7),
    ],
    ids=lambda exception: type(exception).__name__,
)
def test_an_exception_arrives_with_its_own_type_text_and_attributes(make_pool, exception):
    def call(item):
        raise exception

    arrived = only(make_pool(call), 1)
    assert type(arrived) is type(exception)
    assert str(arrived) == str(exception)
    assert arrived.args == exception.args
    assert {key: value for key, value in vars(arrived).items() if key != "__notes__"} == vars(exception)


def test_a_class_defined_in_a_function_arrives_as_that_class(make_pool):
    class Local(Exception):
        pass

    def call(item):
        raise Local(item)

    pool = make_pool(call)
    with pytest.raises(Local, match="7"):
        raise only(pool, 7)


def test_a_class_defined_in_the_worker_arrives_by_value(make_pool):
    def call(item):
        class OnlyThere(Exception):
            pass

        raise OnlyThere("text")

    arrived = only(make_pool(call), 1)
    assert type(arrived).__name__ == "OnlyThere"
    assert str(arrived) == "text"
    assert "in call" in str(arrived.__cause__)


def test_an_attribute_that_cannot_be_pickled_does_not_hide_the_exception(make_pool):
    def call(item):
        error = ValueError("with a socket")
        error.connection = sys.stderr  # type: ignore[attr-defined]
        error.place = item  # type: ignore[attr-defined]
        raise error

    arrived = only(make_pool(call), 3)
    assert type(arrived) is ValueError
    assert arrived.args == ("with a socket",)
    assert arrived.place == 3  # type: ignore[attr-defined]
    assert "TextIOWrapper" in arrived.connection  # type: ignore[attr-defined]


@pytest.mark.parametrize("cls", [SystemExit, KeyboardInterrupt])
def test_what_would_end_the_program_in_silence_becomes_a_runtime_error(make_pool, cls):
    def call(item):
        raise cls(3)

    pool = make_pool(call)
    pids = pool.pids
    arrived = only(pool, 1)
    assert type(arrived) is RuntimeError
    assert f"{cls.__name__}(3) was raised in a worker" in str(arrived)
    assert "in call" in str(arrived.__cause__)
    assert pool.pids == pids


def test_sys_exit_does_not_end_a_worker(make_pool):
    pool = make_pool(lambda item: sys.exit(3) if item == 5 else item)
    results = pool.collect(pool.submit(0, range(10)))
    assert isinstance(results[5], Raised)
    assert results[:5] + results[6:] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert pool.statistics().deaths == 0


def test_an_exception_whose_text_cannot_be_made_kills_nobody(make_pool):
    class Mute(Exception):
        def __str__(self):
            raise LookupError("no words")

    def call(item):
        if item == 1:
            raise Mute
        return item

    pool = make_pool(call)
    results = pool.collect(pool.submit(0, range(3)))
    assert isinstance(results[1], Raised)
    assert isinstance(results[1].exception, (Mute, WorkerError))
    assert results[::2] == [0, 2]
    assert pool.statistics().deaths == 0


def test_the_traceback_of_the_worker_is_shown(make_pool):
    def deep(item):
        return {}[item]

    def call(item):
        return deep(item)

    pool = make_pool(call, name="reading")
    pids = pool.pids
    arrived = only(pool, "some item")
    assert isinstance(arrived.__cause__, WorkerTraceback)
    text = str(arrived.__cause__)
    assert "in call" in text
    assert "in deep" in text
    assert "KeyError: 'some item'" in text
    assert "for 'some item'" in text.splitlines()[0]
    assert "of reading" in text.splitlines()[0]
    assert any(f"worker {index} (pid {pid})" in text for index, pid in enumerate(pids))
    shown = "".join(traceback.format_exception(arrived))
    assert text in shown
    assert shown.index("in deep") < shown.index("direct cause of the following exception")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_a_note_names_the_item_and_the_pool(make_pool):
    pool = make_pool(lambda item: 1 // 0, name="reading")
    assert only(pool, ("cat.jpg", 3)).__notes__ == ["raised for ('cat.jpg', 3) in a worker of reading"]


def test_a_long_item_is_shortened_and_one_that_cannot_be_shown_is_named(make_pool):
    pool = make_pool(lambda item: 1 // 0)
    first = str(only(pool, "x" * 5000).__cause__).splitlines()[0]
    assert "xxx..." in first
    assert len(first) < 300
    assert "<Shy whose repr raises LookupError>" in str(only(pool, Shy()).__cause__)


class Shy:
    def __repr__(self):
        raise LookupError("no")


def test_each_item_has_its_own_exception_and_the_others_their_results(make_pool):
    def call(item):
        if item % 3 == 0:
            raise ValueError(f"item {item}")
        return np.full(1000, item)

    pool = make_pool(call)
    for _ in range(3):
        results = pool.collect(pool.submit(0, range(40)))
        for item, result in enumerate(results):
            if item % 3 == 0:
                assert str(result.exception) == f"item {item}"
            else:
                assert result.tolist() == [item] * 1000
    assert pool.statistics().items == 120


def test_a_result_that_cannot_be_pickled_is_reported_for_its_item_alone(make_pool):
    pool = make_pool(lambda item: threading.Lock() if item == 3 else np.full(1000, item))
    pool.collect(pool.submit(0, [0] * 50))  # quick items: the next travel in one run
    results = pool.collect(pool.submit(0, range(6)))
    assert isinstance(results[3], Raised)
    assert "pickle" in str(results[3].exception).lower()
    assert "for 3" in str(results[3].exception.__cause__).splitlines()[0]
    assert [int(result[0]) for result in results[:3] + results[4:]] == [0, 1, 2, 4, 5]


def test_an_exception_in_a_result_is_a_result(make_pool):
    pool = make_pool(lambda item: ValueError("returned"))
    (result,) = pool.collect(pool.submit(0, [0]))
    assert type(result) is ValueError


def test_a_failed_item_counts_as_done(make_pool):
    pool = make_pool(lambda item: 1 // 0)
    pool.collect(pool.submit(0, range(5)))
    assert pool.statistics().items == 5


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exceptions_of_an_exception_group_arrive_together(make_pool):
    group: Any = getattr(builtins, "ExceptionGroup", None)

    def call(item):
        raise group("several", [ValueError(1), KeyError(2)])

    arrived: Any = only(make_pool(call), 0)
    assert type(arrived) is group
    assert [type(inner) for inner in arrived.exceptions] == [ValueError, KeyError]


def test_raising_goes_on_after_many_failures_and_no_descriptor_is_left(make_pool):
    def call(item):
        raise ValueError("x" * 100_000)

    pool = make_pool(call)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        results = pool.collect(pool.submit(0, range(10)))
        assert {len(str(result.exception)) for result in results} == {100_000}
    assert len(os.listdir("/proc/self/fd")) == before
