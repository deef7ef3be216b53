"""What goes wrong in the user's code is raised as torch's loader raises it, and the sample is named."""

import gc
import random
import re
import time
import traceback
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from tests.loader.support import LOADERS, Drawing, Made, as_is, identical, record
from torchdali import DataLoader


class TwoArguments(Exception):
    def __init__(self, name, number):
        super().__init__(name, number)
        self.name = name
        self.number = number


class KeywordOnly(Exception):
    def __init__(self, *, number):
        super().__init__(f"number {number}")


class WithMessage(Exception):
    message = "none"

    def __init__(self, message):
        super().__init__(message)
        self.message = f"told: {message}"


class Unpicklable(Exception):
    def __init__(self, text="unpicklable"):
        super().__init__(text)
        self.generator = (number for number in range(3))


class WithSlots(ValueError):
    __slots__ = ()


ERRORS = {
    "ValueError": lambda: ValueError("bad\nin two lines"),
    "no text": lambda: RuntimeError(),
    "KeyError": lambda: KeyError("a 'key'"),
    "IndexError": lambda: IndexError(3),
    "an OSError": lambda: FileNotFoundError(2, "No such file", "name.jpg"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "two arguments": lambda: TwoArguments("a", 1),
    "keyword only": lambda: KeywordOnly(number=3),
    "with a message": lambda: WithMessage("text"),
    "with slots": lambda: WithSlots("text"),
    "NotImplementedError": lambda: NotImplementedError("later"),
    "AssertionError": lambda: AssertionError((1, 2)),
    "torch's": lambda: torch.linalg.LinAlgError("singular"),
    "of memory": lambda: torch.OutOfMemoryError("much"),
}


def bare(error):
    """Type and text of an exception, without the files and lines that it passed."""
    text = re.sub(r"^ +.*\n", "", str(error), flags=re.MULTILINE)
    return type(error), text, type(error.args[0]) if error.args else None


def raising(make, at=2):
    def get(index):
        if index == at:
            raise make()
        return index

    return get


def first_error(loader):
    seen = []
    iterator = iter(loader)
    while True:
        try:
            seen.append(next(iterator))
        except StopIteration:
            return seen
        except Exception as error:
            seen.append(bare(error))


def only_error(loader):
    try:
        list(loader)
    except Exception as error:
        return bare(error)
    raise AssertionError("nothing was raised")


def collate_raising(batch):
    if 2 in batch:
        raise LookupError("of collate_fn")
    return batch


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_has_type_and_text_of_torchs(kind, num_workers):
    stock, ours = (
        first_error(cls(Made(raising(ERRORS[kind]), 6), 2, num_workers=num_workers, collate_fn=as_is))
        for cls in LOADERS.values()
    )
    assert ours == stock
    assert len(ours) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_an_error_of_the_collate_function_is_torchs(batch_size, num_workers):
    def collate(batch):
        return collate_raising([batch] if batch_size is None else batch)

    stock, ours = (
        first_error(cls(Made(int, 6), batch_size, num_workers=num_workers, collate_fn=collate))
        for cls in LOADERS.values()
    )
    assert ours == stock


FAILING_COLLATION = {
    "None": lambda index: None,
    "a set": lambda index: {index},
    "an array of objects": lambda index: np.array([None]),
    "different lengths": lambda index: [0] * (index + 1),
    "different shapes": lambda index: torch.zeros(index + 1),
    "different keys": lambda index: {index: 1},
    "gradients": lambda index: torch.ones(2, requires_grad=True),
    "sparse": lambda index: torch.eye(2).to_sparse(),
    "numbers that do not fit": lambda index: 2**70,
    "other number types": lambda index: torch.ones(2, dtype=(torch.int64, torch.float32)[index % 2]),
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", FAILING_COLLATION)
def test_what_default_collate_refuses_is_refused_in_torchs_words(kind, num_workers):
    dataset = Made(FAILING_COLLATION[kind])
    stock, ours = (first_error(cls(dataset, 2, num_workers=num_workers)) for cls in LOADERS.values())
    assert identical(ours, stock)


@pytest.fixture
def torch_waits_less(monkeypatch):
    """For workers of its loader that do not end by themselves: by default five seconds each."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.3)
    yield
    gc.collect()  # iterators that the traceback of an exception refers to: they end their workers now, not when it waits again


def init_raising(worker):
    if worker == 1:
        raise PermissionError(f"worker {worker}")


@pytest.mark.usefixtures("torch_waits_less")
def test_an_error_of_the_init_function_is_torchs():
    told = []
    for cls in LOADERS.values():
        iterator = iter(cls(Made(int, 6), 2, num_workers=2, worker_init_fn=init_raising))
        assert next(iterator).tolist() == [0, 1]
        with pytest.raises(PermissionError) as caught:
            next(iterator)
        told.append(bare(caught.value))
        del iterator, caught
    assert told[1] == told[0]


class FailingStream(IterableDataset):
    """Fails at one point of its life."""

    def __init__(self, where):
        self.where = where

    def __iter__(self):
        if self.where == "__iter__":
            raise BlockingIOError("of __iter__")
        return self.numbers()

    def numbers(self):
        yield 1
        if self.where == "a generator":
            raise BlockingIOError("of a generator")
        yield 2


@pytest.mark.usefixtures("torch_waits_less")
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("where", "batch_size"), [("__iter__", None), ("a generator", 1)])
def test_an_error_of_an_iterable_dataset_is_torchs(where, batch_size, num_workers):
    dataset = FailingStream(where)
    stock, ours = (only_error(cls(dataset, batch_size, num_workers=num_workers)) for cls in LOADERS.values())
    assert ours == stock
    assert ours[0] is BlockingIOError


def test_the_class_of_an_error_may_be_local_and_is_the_same_here():
    class Local(Exception):
        pass

    with pytest.raises(Local, match="Caught Local in DataLoader worker process 0"):
        list(DataLoader(Made(raising(lambda: Local("x"))), num_workers=1))


def test_an_error_that_cannot_be_pickled_is_raised_all_the_same():
    with pytest.raises(Exception, match="unpicklable"):
        list(DataLoader(Made(raising(Unpicklable)), num_workers=1))


def test_what_cannot_be_sent_raises_and_the_next_batch_comes():
    dataset = Made(lambda index: (part for part in "ab") if index == 1 else index)
    seen = first_error(DataLoader(dataset, num_workers=1, collate_fn=as_is, timeout=20))
    assert [seen[0], seen[2], seen[3]] == [[0], [2], [3]]
    assert seen[1][0] is TypeError
    assert "generator" in seen[1][1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_note_names_the_sample_once(num_workers):
    loader = DataLoader(
        Made(raising(lambda: ValueError("bad"), 5), 8), 2, sampler=[4, 2, 5, 1], num_workers=num_workers
    )
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(ValueError, match="bad") as caught:
        next(iterator)
    assert caught.value.__notes__ == ["raised for sample 5"]
    error = caught.value.with_traceback(None)
    error.__cause__ = None
    assert "".join(traceback.format_exception(error)).count("raised for sample 5") == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_map_dataset_that_raises_stop_iteration_ends_the_epoch_with_a_warning(num_workers):
    loader = DataLoader(Made(raising(StopIteration)), num_workers=num_workers)
    with pytest.warns(RuntimeWarning, match="sample 2"):
        assert [batch.item() for batch in loader] == [0, 1]


@pytest.mark.parametrize("persistent", [False, True])
def test_draws_after_an_error_are_those_of_torch(persistent):
    class Sometimes(Drawing):
        def __getitem__(self, index):
            if index == 7:
                random.random()
                return None
            return super().__getitem__(index)

    def build(cls):
        return cls(Sometimes(12), 2, num_workers=2, persistent_workers=persistent, sampler=[0, 1, 2, 3, 4, 5, 8, 9])

    records = [record(lambda cls=cls: build(cls)) for cls in LOADERS.values()]
    assert identical(records[1], records[0])


class FailingOnce(IterableDataset):
    """Goes on behind what it raises, in the middle of a batch."""

    def __iter__(self):
        return map(self.checked, range(8))

    def checked(self, number):
        if number == 3:
            raise LookupError("three")
        return number


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_of_an_iterable_that_raises_uses_up_what_it_had_read_until_then(num_workers):
    seen = first_error(DataLoader(FailingOnce(), 2, collate_fn=as_is, num_workers=num_workers))
    assert [seen[0], *seen[2:]] == [[0, 1], [4, 5], [6, 7]]
    assert seen[1][0] is LookupError


class OddError(BaseException):
    """None that ``except Exception`` catches, as asyncio's CancelledError."""


class OddPart:
    """Raises it where it is told to, when it is given sample 2."""

    def __init__(self, name, where):
        self.odd = name == where

    def __call__(self, given):
        if self.odd and 2 in torch.as_tensor(given):
            raise OddError("odd")
        return given


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("where", ["dataset", "collate_fn", "stage"])
def test_an_exception_that_is_no_exception_has_its_turn_and_the_next_batch_comes(where, num_workers):
    dataset, collate, stage = (OddPart(name, where) for name in ("dataset", "collate_fn", "stage"))
    loader = DataLoader(
        Made(dataset, 6),
        2,
        num_workers=num_workers,
        collate_fn=lambda samples: torch.tensor(collate(samples)),
        pipeline=stage if where == "stage" else None,
    )
    iterator = iter(loader)
    assert next(iterator).tolist() == [0, 1]
    with pytest.raises(OddError, match="odd"):
        next(iterator)
    assert [batch.tolist() for batch in iterator] == [[4, 5]]


class AnotherGenerator(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return np.random.rand(), get_worker_info().id


def set_generator(worker):
    np.random.set_bit_generator(np.random.PCG64(worker))


def test_another_bit_generator_of_numpy_is_no_obstacle():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        stock, ours = (
            list(cls(AnotherGenerator(), 2, num_workers=2, worker_init_fn=set_generator)) for cls in LOADERS.values()
        )
    assert identical(ours, stock)


def slow_to_begin(index):
    time.sleep(0 if index else 3)
    return index


@pytest.mark.usefixtures("torch_waits_less")
def test_a_batch_that_takes_too_long_is_said_in_torchs_words():
    stock, ours = (only_error(cls(Made(slow_to_begin), num_workers=1, timeout=1)) for cls in LOADERS.values())
    assert stock[:2] == (RuntimeError, "DataLoader timed out after 1 seconds")
    assert ours[0] is RuntimeError
    assert ours[1].startswith(stock[1])
