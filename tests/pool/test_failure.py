"""Exceptions taken apart and put together again."""

import asyncio
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from torchdali.errors import DecodeError, WorkerDiedError, WorkerError, WorkerTraceback
from torchdali.pool._failure import Failure, known_exceptions, pack, unpack


class Plain(Exception):
    pass


class Demanding(Exception):
    def __init__(self, path, code, *, hint):
        super().__init__(f"{path}: {code}")
        self.path, self.code, self.hint = path, code, hint


class Adding(Exception):
    def __init__(self, code, text="?"):
        super().__init__(f"code {code}: {text}")
        self.code = code


class Slotted(Exception):
    __slots__ = ("place",)

    def __init__(self, place):
        super().__init__("slotted")
        self.place = place


class ReadOnly(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.__dict__["name"] = two

    @property
    def name(self):
        return "from the class"


class Mute(Exception):
    def __str__(self):
        raise LookupError("no words")


class Unprintable(Exception):
    def __repr__(self):
        raise LookupError("no picture")


class Refusing(Exception):
    def __new__(cls, *args):
        if not args:
            raise LookupError("there is no such exception")
        return super().__new__(cls)

    def __init__(self, *args):
        super().__init__()


def make_local(name):
    class Local(Exception):
        pass

    Local.__name__ = Local.__qualname__ = name
    return Local


def travel(exception, known=None):
    """There and back, as between a worker and its parent."""
    known = known_exceptions() if known is None else known

    def fail():
        raise exception

    try:
        fail()
    except BaseException as error:
        failure = pack(error, known, "In a worker:")
    return unpack(pickle.loads(pickle.dumps(failure)), known, "the note")


BUILT_IN = [
    ValueError("text"),
    ValueError(),
    ValueError(1, [2], {"three": 3}),
    KeyError("key"),
    KeyError(("a", 1)),
    FileNotFoundError(2, "No such file or directory", "name.jpg"),
    OSError(5, "other"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
    StopIteration(5),
    AssertionError(),
    RecursionError("deep"),
    MemoryError(),
    ModuleNotFoundError("no module", name="module", path="path"),
    SyntaxError("bad", ("file", 1, 2, "text")),
    subprocess.CalledProcessError(3, ["command"], b"out"),
    asyncio.CancelledError("stop"),
    np.linalg.LinAlgError("singular"),
    Plain("mine"),
    pickle.PicklingError("no"),
]


@pytest.mark.parametrize("exception", BUILT_IN, ids=repr)
def test_an_exception_keeps_its_type_arguments_and_text(exception):
    again = travel(exception)
    assert type(again) is type(exception)
    assert again.args == exception.args
    assert str(again) == str(exception)
    assert {key: value for key, value in vars(again).items() if key != "__notes__"} == vars(exception)


def test_the_attributes_of_an_os_error_are_kept():
    again = travel(FileNotFoundError(2, "No such file or directory", "name.jpg"))
    assert (again.errno, again.filename) == (2, "name.jpg")


@pytest.mark.parametrize(
    "exception",
    [
        DecodeError("bad data", position=3, index=5),
        WorkerDiedError("dead", worker=1, pid=2, exitcode=-9, items=(1, 2)),
        Demanding("a.jpg", 7, hint=["x"]),
        Adding(5),
    ],
    ids=lambda exception: type(exception).__name__,
)
def test_an_exception_whose_constructor_takes_something_else_keeps_type_text_and_attributes(exception):
    again = travel(exception)
    assert type(again) is type(exception)
    assert str(again) == str(exception)
    assert {key: value for key, value in vars(again).items() if key != "__notes__"} == vars(exception)


def test_an_exception_class_made_inside_a_function_keeps_its_type():
    cls = make_local("Inner")
    again = travel(cls("text", 3))
    assert type(again) is cls
    assert again.args == ("text", 3)


def test_two_classes_of_one_name_are_told_apart():
    classes = [make_local("Twin"), make_local("Twin")]
    known = known_exceptions()
    assert [type(travel(cls("x"), known)) for cls in classes] == classes


def test_a_class_that_the_parent_does_not_know_arrives_by_value():
    known = known_exceptions()
    again = travel(make_local("TooLate")("text"), known)
    assert type(again).__name__ == "TooLate"
    assert str(again) == "text"


def test_a_class_that_cannot_even_be_sent_by_value_is_named_in_a_worker_error():
    known = known_exceptions()
    cls = make_local("TooLate")
    cls.lock = threading.Lock()
    again = travel(cls("text"), known)
    assert type(again) is WorkerError
    assert "TooLate: text" in str(again)


def test_what_cannot_be_pickled_arrives_as_its_repr():
    exception = Plain("text", lambda: 0)
    exception.handle = open  # type: ignore[attr-defined]
    exception.callback = lambda: 0  # type: ignore[attr-defined]
    again = travel(exception)
    assert type(again) is Plain
    assert again.args[0] == "text"
    assert "lambda" in again.args[1]
    assert again.handle is open  # type: ignore[attr-defined]
    assert "lambda" in again.callback  # type: ignore[attr-defined]


def test_an_attribute_in_a_slot_does_no_harm():
    assert str(travel(Slotted(3))) == "slotted"
    assert type(travel(Slotted(3))) is Slotted


def test_an_exception_that_cannot_be_built_again_becomes_a_worker_error():
    for exception in (ReadOnly(1, 2), Refusing(1)):
        again = travel(exception)
        assert isinstance(again, (WorkerError, type(exception)))
        if isinstance(again, WorkerError):
            assert type(exception).__name__ in str(again)


@pytest.mark.parametrize("cls", [Mute, Unprintable])
def test_an_exception_that_cannot_be_printed_arrives_all_the_same(cls):
    again = travel(cls(1))
    assert isinstance(again, (cls, WorkerError))


def leave():
    raise GeneratorExit("of a user's class")


class Leaving(Exception):
    def __reduce__(self):
        return leave, ()


class LeavingAttributes(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.value = Leaving("inside")


@pytest.mark.parametrize("kind", [Leaving, LeavingAttributes])
def test_one_whose_unpickling_raises_what_is_no_exception_arrives_all_the_same(kind):
    known = known_exceptions()
    error = unpack(pack(kind("text"), known, "where"), known, "note")
    assert isinstance(error, kind)
    assert str(error) == "text"


def test_the_cause_is_the_workers_traceback():
    def inner():
        raise Plain("here")

    def outer():
        try:
            inner()
        except Plain as error:
            raise Demanding("a", 1, hint=None) from error

    known = known_exceptions()
    try:
        outer()
    except Demanding as error:
        again = unpack(pack(error, known, "In worker 3:"), known, "the note")
    assert isinstance(again.__cause__, WorkerTraceback)
    text = str(again.__cause__)
    assert text.startswith("In worker 3:\n\n")
    assert "in inner" in text
    assert "in outer" in text
    assert "The above exception was the direct cause" in text
    if sys.version_info >= (3, 11):
        assert again.__notes__ == ["the note"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_notes_of_the_worker_are_kept_above_the_new_one():
    for cls in (Plain, make_local("Noted")):
        exception = cls("x")
        exception.add_note("from the worker")
        assert travel(exception).__notes__ == ["from the worker", "the note"]


def test_the_known_exceptions_are_all_there_once():
    cls = make_local("Known")
    known = known_exceptions()
    assert len(set(known)) == len(known)
    assert {BaseException, ValueError, Plain, DecodeError, cls} <= set(known)


def test_a_failure_is_small_where_the_exception_is():
    failure = pack(ValueError("x"), known_exceptions(), "where")
    assert isinstance(failure, Failure)
    assert len(pickle.dumps(failure)) < 1000
