"""A fresh loader goes on from a saved state of a map-style dataset as if nothing had been interrupted."""

import itertools

import pytest
import torch
from torch.utils.data import (
    DistributedSampler,
)

from tests.loader.resuming import (
    END,
    contents,
    cut,
    faults,
    generators,
    go_on,
    plain,
    seed_all,
    set_generators,
    take,
    take_all,
    through_file,
)
from tests.loader.resuming_data import (
    BATCHES,
    COUNT,
    SAMPLERS,
    Counting,
    CountingNoisy,
    Failing,
    Items,
    Noisy,
    own_generator,
)
from torchdali.loader import DataLoader


def _loader(dataset, arguments=None, **options):
    options = {**(arguments or {}), **options}
    if "batch_sampler" not in options:
        options.setdefault("batch_size", 3)
    return DataLoader(dataset, **options)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_rest_of_the_epoch_and_the_next_ones_are_those_of_the_uninterrupted_run(kind):
    assert faults(lambda: _loader(Items(), SAMPLERS[kind]()), [0, 1, 2, 5, END], later=2) == []


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_same_with_workers(kind):
    assert faults(lambda: _loader(Items(), SAMPLERS[kind](), num_workers=2), [4, END]) == []


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_later_epoch_can_be_gone_on_with(kind):
    assert faults(lambda: _loader(Items(), SAMPLERS[kind]()), [0, 3, END], epoch=2) == []


@pytest.mark.parametrize("kind", ["shuffled by a generator", "stateful", "stateful with a generator"])
def test_a_later_epoch_can_be_gone_on_with_by_workers(kind):
    assert faults(lambda: _loader(Items(), SAMPLERS[kind](), num_workers=2), [0, 3, END], epoch=1) == []


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(
    "kind", ["shuffled", "shuffled by a generator", "lazy", "stateful", "stateful with a generator"]
)
def test_persistent_workers_go_on_too(kind, epoch):
    def make():
        return _loader(Items(), SAMPLERS[kind](), num_workers=2, persistent_workers=True)

    assert faults(make, [0, 3, BATCHES, END], epoch=epoch) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_distributed_sampler_goes_on_with_its_epoch_set(workers):
    def make():
        sampler = DistributedSampler(Items(50), num_replicas=2, rank=1, seed=5)
        return _loader(Items(50), sampler=sampler, num_workers=workers)

    def before(loader, epoch):
        loader.sampler.set_epoch(epoch)

    assert faults(make, [0, 4, END], epoch=2, before=before) == []


@pytest.mark.parametrize(("saved", "loaded"), [(0, 1), (0, 3), (1, 0), (2, 0), (2, 4), (3, 1)])
@pytest.mark.parametrize("kind", ["shuffled by a generator", "lazy", "stateful"])
def test_another_number_of_workers_gives_the_same_batches(kind, saved, loaded):
    whole = cut(_loader(Items(), SAMPLERS[kind](), num_workers=saved), 3)
    resumed = go_on(_loader(Items(), SAMPLERS[kind](), num_workers=loaded), whole)
    assert resumed == whole.epochs


def test_a_state_goes_through_several_numbers_of_workers_in_one_epoch():
    whole = cut(_loader(Items(), shuffle=True, num_workers=2), 1)
    expected, state = whole.epochs[0], whole.state
    for workers in (0, 3, 1, 4):
        loader = _loader(Items(), shuffle=True, num_workers=workers)
        loader.load_state_dict(state)
        assert take(iter(loader), 1) == expected[:1]
        expected, state = expected[1:], loader.state_dict()
    assert len(expected) == BATCHES - 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "kind", ["shuffled", "with replacement by a generator", "lazy", "stateful", "stateful batches"]
)
def test_a_resumed_loader_can_be_resumed_again_in_the_same_epoch(kind, workers):
    def make():
        return _loader(Items(), SAMPLERS[kind](), num_workers=workers)

    whole = cut(make(), 1, later=2)
    state, expected = whole.state, whole.epochs[0]
    for _ in range(3):
        loader = make()
        loader.load_state_dict(state)
        assert loader.state_dict() is not None
        iterator = iter(loader)
        assert take(iterator, 2) == expected[:2]
        state, expected = through_file(loader.state_dict()), expected[2:]
    last = make()
    last.load_state_dict(state)
    set_generators(whole.generators)
    assert [contents(last), contents(last), contents(last)] == [expected, *whole.epochs[1:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_can_be_taken_back_to_an_earlier_state_of_its_own(workers):
    loader = _loader(Items(), shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    whole = cut(loader, 3)
    assert go_on(loader, whole) == whole.epochs


@pytest.mark.parametrize("early", [True, False])
def test_workers_that_were_started_before_go_on_too(early):
    def make():
        return _loader(Noisy(), num_workers=2)

    whole = cut(make(), 3)
    loader = make()
    if early:
        loader.start()
    loader.load_state_dict(whole.state)
    if not early:
        loader.start()
    set_generators(whole.generators)
    assert [contents(loader) for _ in whole.epochs] == whole.epochs


# --- random draws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("quiet_from", [100, 9], ids=["always", "at first"])
def test_draws_in_workers_go_on_where_they_were(persistent, epoch, quiet_from):
    def make():
        return _loader(Noisy(COUNT, quiet_from), num_workers=3, persistent_workers=persistent)

    assert faults(make, [0, 1, 5, BATCHES, END] if persistent else [1, 5], epoch=epoch) == []


def test_draws_in_workers_go_on_where_they_were_when_only_later_items_draw():
    class Late(Noisy):
        def __getitem__(self, index):
            return super().__getitem__(COUNT - 1 - index)

    def make():
        return _loader(Late(COUNT, 9), num_workers=2, persistent_workers=True)

    assert faults(make, [0, 1, 2, 7], epoch=1) == []


def test_draws_in_workers_go_on_after_a_second_resume():
    whole = cut(_loader(Noisy(), num_workers=2), 1)
    first = _loader(Noisy(), num_workers=2)
    first.load_state_dict(whole.state)
    assert take(iter(first), 2) == whole.epochs[0][:2]
    second = _loader(Noisy(), num_workers=2)
    second.load_state_dict(first.state_dict())
    assert contents(second) == whole.epochs[0][2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_in_this_process_are_the_users_to_save(workers):
    def make():
        return _loader(Noisy(), shuffle=True, generator=own_generator(), num_workers=workers)

    assert faults(make, [1, 3, END]) == []


@pytest.mark.parametrize(("saved", "loaded"), [(1, 0), (2, 0)])
def test_draws_of_workers_do_not_set_the_generators_of_this_process(saved, loaded):
    whole = cut(_loader(Noisy(), num_workers=saved), 2)
    loader = _loader(Noisy(only_in_workers=True), num_workers=loaded)
    loader.load_state_dict(whole.state)
    seed_all(99)
    before = generators()
    assert [batch[0] for batch in contents(loader)] == [batch[0] for batch in whole.epochs[0]]
    assert generators()[:2] == before[:2]
    assert generators()[2] == before[2]


# --- datasets with a state ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("every", [1, 3])
def test_a_dataset_goes_on_from_its_own_state(workers, every):
    def make():
        return _loader(Counting(), num_workers=workers, snapshot_every_n_steps=every)

    assert faults(make, [0, 3, 4, BATCHES]) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_lives_on_keeps_its_state_into_the_next_epoch(workers):
    def make():
        return _loader(Counting(), num_workers=workers, persistent_workers=workers > 0)

    assert faults(make, [0, 4, BATCHES, END], epoch=1) == []


def test_a_dataset_with_a_state_does_not_lose_the_draws_of_its_worker():
    class Quiet(CountingNoisy):
        quiet_from = 9  # the draws end with batch 2, so a state after batch 4 has nothing new to tell of them

        def __getitem__(self, index):
            return super().__getitem__(0 if index > 18 else index)

    assert faults(lambda: _loader(Quiet(), num_workers=2), [3, 4, 5, 6]) == []


# --- errors, order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", [2, 3, 4, 5, 6])
def test_batches_that_raised_have_had_their_turn(workers, place):
    def make():
        return _loader(Failing(7, 10), num_workers=workers)  # batches 2 and 3

    seed_all()
    loader = make()
    iterator = iter(loader)
    for _ in range(place):
        try:
            plain(next(iterator))
        except ValueError:
            continue
    state, saved = loader.state_dict(), generators()
    expected = take_all(iterator)
    resumed = make()
    resumed.load_state_dict(through_file(state))
    set_generators(saved)
    assert take_all(iter(resumed)) == expected
    assert len(expected) == BATCHES - place


class Held(Items):
    """Items of the first worker wait until the second one has made some."""

    def __init__(self, count):
        super().__init__(count)
        self.go = torch.multiprocessing.get_context("fork").Event()

    def __getitem__(self, index):
        if index == 0:
            self.go.wait(30)
        return index


@pytest.mark.parametrize("loaded", [0, 1, 2, 3])
@pytest.mark.parametrize("taken", [1, 2, 3])
def test_batches_out_of_order_come_once_each(taken, loaded):
    dataset = Held(COUNT)
    loader = _loader(dataset, num_workers=2, in_order=False, prefetch_factor=4)
    iterator = iter(loader)
    first = take(iterator, taken)  # all of the second worker, as batch 0 is held
    assert [0, 1, 2] not in first
    state = loader.state_dict()
    dataset.go.set()
    del iterator
    resumed = _loader(Items(), num_workers=loaded, in_order=False)
    resumed.load_state_dict(through_file(state))
    assert sorted(first + contents(resumed)) == contents(_loader(Items()))
    assert sorted(contents(resumed)) == contents(_loader(Items()))


def test_batches_out_of_order_come_once_each_over_two_resumes():
    def make():
        return _loader(Items(60), num_workers=3, in_order=False, shuffle=True, generator=own_generator())

    found, state = [], None
    for count in (4, 5, 100):
        loader = make()
        if state is not None:
            loader.load_state_dict(state)
        for _, batch in zip(range(count), loader, strict=False):
            found.append(plain(batch))
        state = loader.state_dict()
    assert sorted(itertools.chain(*found)) == list(range(60))
