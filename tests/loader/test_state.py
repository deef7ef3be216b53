"""What a loader's state is: a value of its own, had at any time, refused where it does not fit."""

import gc
import os
import pickle
import threading

import pytest
import torch
from torch import nn

from tests.loader.resuming import (
    END,
    contents,
    cut,
    cuts,
    faults,
    generators,
    go_on,
    plain,
    seed_all,
    set_generators,
    take,
    through_file,
)
from tests.loader.resuming_data import (
    BATCHES,
    SAMPLERS,
    Both,
    Counting,
    Items,
    IteratorState,
    Noisy,
    Stream,
    own_generator,
)
from torchdali.loader import DataLoader

LOADERS = {
    "shuffled": lambda workers: DataLoader(Items(), 3, shuffle=True, num_workers=workers),
    "own generator": lambda workers: DataLoader(
        Items(), 3, shuffle=True, num_workers=workers, generator=own_generator()
    ),
    "stateful sampler": lambda workers: DataLoader(
        Items(), 3, num_workers=workers, **SAMPLERS["stateful with a generator"]()
    ),
    "stateful dataset": lambda workers: DataLoader(Counting(), 3, num_workers=workers),
    "noisy dataset": lambda workers: DataLoader(Noisy(), 3, num_workers=workers),
    "stateful stream": lambda workers: DataLoader(Both(9, 14), 3, num_workers=workers),
}

every_loader = pytest.mark.parametrize("kind", LOADERS)
any_workers = pytest.mark.parametrize("workers", [0, 2])


def _state(loader, place):
    return cut(loader, place, later=0).state


# --- a value of its own ---------------------------------------------------------------------------------------------------


@any_workers
@every_loader
def test_a_state_does_not_change_while_its_loader_goes_on(kind, workers):
    loader = LOADERS[kind](workers)
    iterator = iter(loader)
    states = [loader.state_dict()]
    for _ in range(3):
        next(iterator)
        states.append(loader.state_dict())
    before = [pickle.dumps(state) for state in states]
    contents(iterator)
    contents(loader)
    assert [pickle.dumps(state) for state in states] == before


@any_workers
@every_loader
def test_what_is_loaded_is_not_changed_by_going_on(kind, workers):
    state = _state(LOADERS[kind](workers), 2)
    before = pickle.dumps(state)
    loader = LOADERS[kind](workers)
    loader.load_state_dict(state)
    loader.state_dict()
    contents(loader)
    contents(loader)
    assert pickle.dumps(state) == before


@any_workers
@pytest.mark.parametrize("kind", ["shuffled", "stateful sampler", "stateful stream"])
def test_what_was_loaded_may_be_changed_afterwards(kind, workers):
    whole = cut(LOADERS[kind](workers), 2, later=0)
    loader = LOADERS[kind](workers)
    loader.load_state_dict(whole.state)
    whole.state["batches"] = 0
    whole.state["finished"] = True
    whole.state.clear()
    loader.state_dict().clear()
    assert contents(loader) == whole.epochs[0]


@any_workers
@every_loader
def test_a_loader_that_has_not_begun_tells_the_state_that_it_was_given(kind, workers):
    state = through_file(_state(LOADERS[kind](workers), 3))
    loader = LOADERS[kind](workers)
    loader.load_state_dict(state)
    assert plain(loader.state_dict()) == plain(state)


@any_workers
def test_of_two_states_the_one_that_was_loaded_last_counts(workers):
    first, second = cuts(DataLoader(Items(), 3, shuffle=True, num_workers=workers), [2, 5], later=0)
    loader = DataLoader(Items(), 3, shuffle=True, num_workers=workers)
    loader.load_state_dict(second.state)
    loader.load_state_dict(first.state)
    assert contents(loader) == first.epochs[0]


@any_workers
@every_loader
def test_a_state_can_be_pickled(kind, workers):
    whole = cut(LOADERS[kind](workers), 2)
    whole.state = pickle.loads(pickle.dumps(whole.state))
    assert go_on(LOADERS[kind](workers), whole, saved=False) == whole.epochs


@any_workers
def test_asking_twice_gives_the_same(workers):
    loader = DataLoader(Noisy(), 3, num_workers=workers)
    iterator = iter(loader)
    take(iterator, 3)
    assert plain(loader.state_dict()) == plain(loader.state_dict())
    assert len(contents(iterator)) == BATCHES - 3
    assert plain(loader.state_dict()) == plain(loader.state_dict())


# --- at any time ----------------------------------------------------------------------------------------------------------


@any_workers
@every_loader
def test_before_any_iteration_the_state_is_that_of_a_beginning(kind, workers):
    seed_all()
    original, resumed = LOADERS[kind](workers), LOADERS[kind](workers)
    state, saved = original.state_dict(), generators()
    expected = [contents(original), contents(original)]
    resumed.load_state_dict(through_file(state))
    set_generators(saved)
    assert [contents(resumed), contents(resumed)] == expected


def test_a_generator_is_set_to_what_it_was_before_any_iteration():
    generator = own_generator()
    torch.rand(5, generator=generator)
    original = DataLoader(Items(), 3, shuffle=True, generator=generator)
    state = original.state_dict()
    resumed = DataLoader(Items(), 3, shuffle=True, generator=torch.Generator())
    resumed.load_state_dict(state)
    assert contents(resumed) == contents(original)


@any_workers
@pytest.mark.parametrize("stage", [{}, {"pipeline": nn.Identity(), "prefetch": 3}], ids=["", "with a stage"])
def test_after_a_break_the_state_tells_what_was_handed_out(stage, workers):
    def make():
        return DataLoader(Items(), 3, shuffle=True, generator=own_generator(), num_workers=workers, **stage)

    expected = contents(make())
    loader, resumed = make(), make()
    for number, _ in enumerate(loader):
        if number == 3:
            break
    gc.collect()
    resumed.load_state_dict(loader.state_dict())
    assert contents(resumed) == expected[4:]


@any_workers
def test_a_new_epoch_begins_a_new_state(workers):
    loader = DataLoader(Items(), 3, shuffle=True, generator=own_generator(), num_workers=workers)
    take(iter(loader), 3)
    iterator = iter(loader)
    state = loader.state_dict()
    resumed = DataLoader(Items(), 3, shuffle=True, generator=own_generator(), num_workers=workers)
    resumed.load_state_dict(state)
    assert contents(resumed) == contents(iterator)


class Slow(Items):
    """Waits before each item from number 6 on."""

    def __init__(self):
        super().__init__()
        self.go = torch.multiprocessing.get_context("fork").Event()

    def __getitem__(self, index):
        if index >= 6:
            self.go.wait()
        return index


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_nobody_waits_for_a_slow_worker_when_a_state_is_asked_for(taken):
    dataset = Slow()
    loader = DataLoader(dataset, 3, num_workers=2)
    iterator = iter(loader)
    take(iterator, taken)
    rescue = threading.Timer(20, dataset.go.set)
    rescue.start()
    state = loader.state_dict()
    waited = dataset.go.is_set()
    dataset.go.set()
    rescue.cancel()
    rescue.join()
    assert not waited
    resumed = DataLoader(Items(), 3, num_workers=2)
    resumed.load_state_dict(state)
    assert contents(resumed) == contents(iterator)


class Shake(nn.Module):
    """Draws, so that it shows which number a batch has."""

    def forward(self, batch):
        return batch + torch.rand(batch.shape)


@any_workers
@pytest.mark.parametrize(("stage", "epoch"), [(nn.Identity(), 0), (Shake(), 0), (Shake(), 1)], ids=str)
def test_of_a_device_stage_only_what_was_handed_out_counts(stage, epoch, workers):
    def make():
        return DataLoader(Items(), 3, shuffle=True, num_workers=workers, pipeline=stage, prefetch=3)

    assert faults(make, [1, BATCHES - 2, END], epoch=epoch) == []


# --- beside the batches ---------------------------------------------------------------------------------------------------


@any_workers
@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize("sampler", ["shuffled", "weighted", "eager", "lazy", "stateful"])
def test_no_generator_of_this_process_is_touched_by_going_on(sampler, place, workers):
    def make():
        return DataLoader(Items(), **{"batch_size": 3, "num_workers": workers, **SAMPLERS[sampler]()})

    state = _state(make(), place)
    seed_all(99)
    before = generators()
    loader = make()
    loader.load_state_dict(state)
    assert generators() == before
    iterator = iter(loader)
    assert generators() == before
    if place:
        contents(iterator)
        assert generators() == before


@any_workers
def test_the_length_stays_that_of_a_whole_epoch(workers):
    state = _state(DataLoader(Items(), 3, num_workers=workers), 3)
    loader = DataLoader(Items(), 3, num_workers=workers)
    loader.load_state_dict(state)
    assert len(loader) == BATCHES
    iterator = iter(loader)
    assert len(iterator) == len(loader) == BATCHES
    assert len(contents(iterator)) == BATCHES - 3
    assert len(loader) == BATCHES


def test_no_descriptor_is_left_behind():
    def resume():
        loader = DataLoader(Noisy(), 3, num_workers=2)
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
        del iterator
        resumed = DataLoader(Noisy(), 3, num_workers=2)
        resumed.load_state_dict(state)
        contents(resumed)

    resume()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        resume()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.slow
def test_a_worker_that_is_not_forked_goes_on_too():
    whole = cut(DataLoader(Noisy(), 3, num_workers=1), 3, later=0)
    resumed = DataLoader(Noisy(), 3, num_workers=1, multiprocessing_context="spawn")
    assert go_on(resumed, whole) == whole.epochs


# --- what is no state -----------------------------------------------------------------------------------------------------

TORCHDATA = {"_index_sampler_state": None, "_sampler_iter_yielded": 3, "_num_yielded": 3, "_iterator_finished": False}


@pytest.mark.parametrize("wrong", [None, 5, "state", [1], TORCHDATA, {"version": 0}, {"_snapshot": {}}], ids=str)
def test_what_is_no_state_is_refused_and_changes_nothing(wrong):
    loader = DataLoader(Items(), 3)
    with pytest.raises(ValueError, match=r"no state of torchdali.DataLoader.*state_dict"):
        loader.load_state_dict(wrong)
    assert len(contents(loader)) == BATCHES


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_a_state_of_another_version_is_refused(version):
    state = _state(DataLoader(Items(), 3), 2)
    with pytest.raises(ValueError, match="version"):
        DataLoader(Items(), 3).load_state_dict({**state, "version": version})


@any_workers
def test_a_state_with_something_missing_is_refused(workers):
    state = _state(DataLoader(Items(), 3, shuffle=True, num_workers=workers), 2)
    for name in state:
        with pytest.raises(ValueError, match=r"state"):
            DataLoader(Items(), 3, shuffle=True, num_workers=workers).load_state_dict(
                {key: value for key, value in state.items() if key != name}
            )


WRONG = {"batches": "3", "workers": None, "start": 5, "num_workers": "2", "beyond": 7, "generators": None}


@pytest.mark.parametrize("name", WRONG)
def test_a_state_with_something_of_another_type_is_refused(name):
    state = _state(DataLoader(Items(), 3, shuffle=True, num_workers=2), 2)
    with pytest.raises(ValueError, match=r"state"):
        DataLoader(Items(), 3, shuffle=True, num_workers=2).load_state_dict({**state, name: WRONG[name]})


@any_workers
def test_a_state_of_the_other_kind_of_dataset_is_refused(workers):
    items, stream = DataLoader(Items(), 3, num_workers=workers), DataLoader(Stream(9, 9), 3, num_workers=workers)
    for one, other in ((items, stream), (stream, items)):
        with pytest.raises(ValueError, match=r"map-style.*iterable|iterable.*map-style"):
            other.load_state_dict(_state(one, 1))


def test_a_negative_number_of_batches_between_snapshots_is_refused():
    with pytest.raises(ValueError, match="snapshot_every_n_steps is -1"):
        DataLoader(IteratorState(9), 3, snapshot_every_n_steps=-1)


def test_a_refused_state_leaves_the_one_that_was_loaded_before():
    whole = cut(DataLoader(Items(), 3, shuffle=True), 2, later=0)
    loader = DataLoader(Items(), 3, shuffle=True)
    loader.load_state_dict(whole.state)
    with pytest.raises(ValueError, match="no state"):
        loader.load_state_dict({})
    assert contents(loader) == whole.epochs[0]
