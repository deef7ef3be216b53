"""The loader in a program's eyes: arguments, warnings, attributes, lengths, copies and subclasses."""

import copy
import inspect
import multiprocessing
import pickle
import warnings

import pytest
import torch
from torch.utils.data import DataLoader as StockLoader
from torch.utils.data import SequentialSampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from tests.loader.shipped import Squares, method_of_worker
from tests.loader.support import LOADERS, Drawing, Made, Shards, SizedShards, as_is, identical
from torchdali import DataLoader

DATA = Drawing(10)
STREAM = Shards((5, 2))


def outcome(function):
    """What a call gives: type and text of what it raises, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function()
            raised = None
        except Exception as error:
            raised = type(error), str(error)
    return raised, sorted((w.category.__name__, str(w.message)) for w in caught)


# --- construction ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "negative workers": {"num_workers": -1},
    "negative time": {"timeout": -1},
    "prefetching without workers": {"prefetch_factor": 2},
    "negative prefetching": {"num_workers": 1, "prefetch_factor": -1},
    "persistent without workers": {"persistent_workers": True},
    "sampler and shuffle": {"sampler": [1], "shuffle": True},
    "batch_sampler and batch_size": {"batch_sampler": [[1]], "batch_size": 2},
    "batch_sampler and no batch_size": {"batch_sampler": [[1]], "batch_size": None},
    "batch_sampler and shuffle": {"batch_sampler": [[1]], "shuffle": True},
    "batch_sampler and sampler": {"batch_sampler": [[1]], "sampler": [1]},
    "batch_sampler and drop_last": {"batch_sampler": [[1]], "drop_last": True},
    "no batches and drop_last": {"batch_size": None, "drop_last": True},
    "no batches of 0": {"batch_size": 0},
    "batches of a half": {"batch_size": 1.5},
    "drop_last of text": {"drop_last": "no"},
    "stream shuffled": {"dataset": STREAM, "shuffle": True},
    "stream with a sampler": {"dataset": STREAM, "sampler": [1]},
    "stream with a batch_sampler": {"dataset": STREAM, "batch_sampler": [[1]]},
    "unknown context": {"multiprocessing_context": "thread", "num_workers": 1},
    "context of another kind": {"multiprocessing_context": 5, "num_workers": 1},
    "context without workers": {"multiprocessing_context": "fork"},
    "shuffled and empty": {"dataset": Drawing(0), "shuffle": True},
    "no length": {"dataset": object()},
    "an unknown argument": {"colour": 1},
    "too many workers": {"num_workers": 500},
    "workers of text": {"num_workers": "2"},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_construction_refuses_and_warns_of_what_torch_does(kind):
    arguments = {"dataset": DATA, **REFUSED[kind]}
    stock, ours = (outcome(lambda cls=cls: cls(**arguments)) for cls in LOADERS.values())
    assert ours == stock


LATE = {
    "a time without workers": {"timeout": 3},
    "no prefetching": {"num_workers": 1, "prefetch_factor": 0},
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of torch's own
@pytest.mark.parametrize("kind", LATE)
def test_what_is_found_out_at_iteration_is_said_as_torch_says_it(kind):
    stock, ours = (outcome(lambda cls=cls: next(iter(cls(DATA, **LATE[kind])))) for cls in LOADERS.values())
    assert ours == stock


ACCEPTED = {
    "defaults": {},
    "workers": {"num_workers": 2, "batch_size": 3, "drop_last": True, "timeout": 5, "persistent_workers": True},
    "a sampler": {"sampler": SequentialSampler(DATA), "collate_fn": as_is, "in_order": False},
    "a batch sampler": {"batch_sampler": [[1], [2]], "worker_init_fn": method_of_worker},
    "no batches": {"batch_size": None, "generator": torch.Generator()},
    "a stream": {"dataset": STREAM, "batch_size": 4, "num_workers": 1, "prefetch_factor": 7},
    "a stream with shuffle=False": {"dataset": STREAM, "shuffle": False, "batch_size": None},
    "a context": {
        "num_workers": 1,
        "multiprocessing_context": multiprocessing.get_context("spawn"),
        "pin_memory": True,
    },
}


def shown(value):
    known = (int, float, str, bool, type(None), list, torch.Generator, multiprocessing.context.BaseContext)
    return value if isinstance(value, known) or callable(value) or value in (DATA, STREAM) else type(value)


@pytest.mark.parametrize("kind", ACCEPTED)
def test_attributes_are_those_of_torch(kind):
    stock, ours = (cls(**{"dataset": DATA, **ACCEPTED[kind]}) for cls in LOADERS.values())
    assert list(vars(stock)) == [name for name in vars(ours) if name in vars(stock)]
    names = {*vars(stock), "multiprocessing_context", "_auto_collation"}
    assert {name: shown(getattr(ours, name)) for name in names} == {name: shown(getattr(stock, name)) for name in names}
    assert type(ours._index_sampler) is type(stock._index_sampler)
    assert outcome(lambda: len(ours)) == outcome(lambda: len(stock))
    assert outcome(lambda: ours[0])[0][0] is outcome(lambda: stock[0])[0][0]


def test_arguments_come_in_the_order_and_with_the_defaults_of_torch():
    stock, ours = (inspect.signature(cls.__init__).parameters for cls in LOADERS.values())
    known = [(p.name, p.default, p.kind) for p in ours.values()][: len(stock)]
    assert known == [(p.name, p.default, p.kind) for p in stock.values()]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(ours.values())[len(stock) :])


@pytest.mark.parametrize("name", "batch_size batch_sampler sampler drop_last dataset persistent_workers".split())
def test_attributes_that_torch_protects_are_protected(name):
    stock, ours = (outcome(lambda cls=cls: setattr(cls(DATA), name, None)) for cls in LOADERS.values())
    assert ours == stock
    assert ours[0][0] is ValueError


def test_the_class_can_be_subscripted_and_is_one_of_torchs():
    assert issubclass(DataLoader, StockLoader)
    assert DataLoader[int] is not None
    assert DataLoader.__name__ == "DataLoader"
    for num_workers in (0, 1):
        iterator = iter(DataLoader[int](DATA, num_workers=num_workers))
        assert isinstance(iterator, _BaseDataLoaderIter)
        assert iter(iterator) is iterator
        assert len(iterator) == 10


LENGTHS = [
    (SizedShards((3,), 10), {"batch_size": 4}),
    (SizedShards((3,), 10), {"batch_size": 4, "drop_last": True}),
    (SizedShards((3,), 10), {"batch_size": None}),
    (STREAM, {}),
    (DATA, {"batch_size": 4}),
    (DATA, {"batch_size": 4, "drop_last": True}),
    (DATA, {"batch_sampler": [[1], [2]]}),
    (DATA, {"batch_sampler": (batch for batch in [[1]])}),
    (DATA, {"batch_size": None}),
]


@pytest.mark.parametrize("number", range(len(LENGTHS)))
def test_lengths_are_those_of_torch(number):
    dataset, options = LENGTHS[number]
    lengths = []
    for cls in LOADERS.values():
        try:
            lengths.append(len(cls(dataset, **options)))
        except TypeError as error:
            lengths.append(str(error))
    assert lengths[1] == lengths[0]


# --- copies and subclasses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_can_be_copied_and_pickled_after_an_epoch(copied, num_workers):
    loader = DataLoader(Squares(), 2, num_workers=num_workers)
    expected = list(loader)
    other = copied(loader)
    assert type(other) is DataLoader
    assert identical(list(other), expected)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_loader_or_an_iterator_with_workers_is_pickled_where_torch_allows_it(persistent):
    told = []
    for cls in LOADERS.values():
        loader = cls(Squares(), 2, num_workers=1, persistent_workers=persistent)
        iterator = iter(loader)
        refused = [outcome(lambda loader=loader: pickle.dumps(loader)), outcome(lambda it=iterator: pickle.dumps(it))]
        told.append([(raised and raised[0], caught) for raised, caught in refused])
    assert told[1] == told[0]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("device", "meta"), ("device", None), ("pipeline", ["a"]), ("prefetch", True), ("memory_limit", -1)]
    + [(name, "own") for name in ("start", "_stage", "_epochs", "_progress", "_resume", "_iterable", "_started")],
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_subclass_keeps_attributes_of_its_own(name, value, when, num_workers):
    def make(cls):
        class Loader(cls):
            def __init__(self, *args, **options):
                if when == "before":
                    setattr(self, name, value)
                super().__init__(*args, **options)
                if when == "after":
                    setattr(self, name, value)

            def __iter__(self):
                return ((batch, getattr(self, name)) for batch in super().__iter__())

        return list(Loader(Made(int), 2, num_workers=num_workers))

    assert identical(make(DataLoader), make(StockLoader))


class OwnState(Made):
    """Has methods of these names, for purposes of its own."""

    def __init__(self, fault):
        super().__init__(int)
        self.fault = fault

    def state_dict(self, *parts):
        if self.fault == "raises":
            raise RuntimeError("not now")
        if self.fault == "needs arguments":
            return parts[0]
        return lambda: self.fault

    def load_state_dict(self, state):
        raise AssertionError("nobody wants that")

    def __iter__(self):
        return iter(range(4))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("fault", ["raises", "needs arguments", "cannot be pickled"])
@pytest.mark.parametrize("role", ["dataset", "sampler"])
def test_state_methods_that_nobody_asked_for_do_no_harm(role, fault, num_workers):
    arguments = {"dataset": Made(int), "num_workers": num_workers, role: OwnState(fault)}
    assert [batch.item() for batch in DataLoader(**arguments)] == [0, 1, 2, 3]
