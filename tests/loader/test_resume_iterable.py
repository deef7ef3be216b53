"""A fresh loader goes on from a saved state of an iterable dataset as if nothing had been interrupted."""

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset
from torch.utils.data.datapipes.iter import IterableWrapper

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
    take_all,
    through_file,
)
from tests.loader.resuming_data import (
    Both,
    DatasetState,
    FailingStream,
    IteratorState,
    NoisyIteratorState,
    NoisyStream,
    OwnIterator,
    Stream,
)
from torchdali.loader import DataLoader

KINDS = [Stream, IteratorState, DatasetState, OwnIterator, Both]
"""With a state nowhere, on the iterator, on the dataset, on both in one, and on each of them."""

UNEVEN = (7, 16, 3)
"""With batches of 3: the third worker's part ends first and evenly, then the first one's, with an incomplete batch."""


def _loader(dataset, **options):
    options.setdefault("batch_size", 3)
    return DataLoader(dataset, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_without_workers_the_rest_and_the_next_epochs_are_those_of_the_uninterrupted_run(kind):
    for epoch in (0, 2):
        assert faults(lambda: _loader(kind(16)), [0, 1, 3, 5, 6, END], epoch=epoch, later=2) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [0, 1, 3])
def test_uneven_parts_go_on_each_from_its_own_place(kind, every):
    def make():
        return _loader(kind(*UNEVEN), num_workers=3, snapshot_every_n_steps=every)

    assert faults(make, [1, 5, 8, 10] if every == 1 else [2, 8], later=0) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_place_of_an_epoch_can_be_gone_on_from(kind):
    """In the order of an iterator that goes on to the next batch of each part, whatever has ended already."""

    def make():
        return _loader(kind(2, 5), num_workers=2, batch_size=2)

    assert faults(make, range(5), later=0) == []


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_persistent_workers_go_on_with_their_parts_and_with_the_next_epoch(kind, epoch):
    def make():
        return _loader(kind(7, 12), num_workers=2, persistent_workers=True)

    assert faults(make, [0, 1, 4, 7, END], epoch=epoch) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{"batch_size": None}, {"drop_last": True}, {"prefetch_factor": 5}], ids=str)
@pytest.mark.parametrize("kind", [Stream, IteratorState, DatasetState])
def test_single_samples_and_dropped_last_batches_and_other_prefetching(kind, options, workers):
    if workers == 0 and "prefetch_factor" in options:
        options = {"batch_size": 4}

    def make():
        return _loader(kind(7, 11), num_workers=workers, **options)

    assert faults(make, [1, 2], later=1) == []


@pytest.mark.parametrize("kind", [Stream, IteratorState, DatasetState, OwnIterator])
@pytest.mark.parametrize("workers", [0, 3])
def test_a_resumed_loader_can_be_resumed_again(kind, workers):
    def make():
        return _loader(kind(*UNEVEN), num_workers=workers, snapshot_every_n_steps=2)

    expected = contents(make())
    state, given = None, []
    while len(given) < len(expected):
        loader = make()
        if state is not None:
            loader.load_state_dict(state)
        given += take(iter(loader), min(3, len(expected) - len(given)))
        state = through_file(loader.state_dict())
    last = make()
    last.load_state_dict(state)
    assert given == expected
    assert contents(last) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_can_be_taken_back_to_an_earlier_state_of_its_own(kind, workers):
    loader = _loader(kind(7, 11), num_workers=workers, persistent_workers=workers > 0)
    expected = take(iterator := iter(loader), 2)
    state = loader.state_dict()
    expected = contents(iterator)
    loader.load_state_dict(state)
    assert contents(loader) == expected


@pytest.mark.parametrize(("saved", "loaded"), [(2, 3), (3, 2), (0, 2), (2, 0)])
def test_the_number_of_workers_has_to_be_the_same(saved, loaded):
    state = cut(_loader(Stream(9, 9, 9), num_workers=saved), 1, later=0).state
    loader = _loader(Stream(9, 9, 9), num_workers=loaded)
    with pytest.raises(ValueError, match=f"num_workers={saved}.*{loaded}"):
        loader.load_state_dict(state)
    assert len(contents(loader)) == 3 * max(1, loaded)


def test_after_the_end_of_an_epoch_the_number_of_workers_may_be_another_one():
    state = cut(_loader(Stream(9, 9, 9), num_workers=2), END, later=0).state
    loader = _loader(Stream(9, 9, 9), num_workers=3)
    loader.load_state_dict(state)
    assert contents(loader) == contents(_loader(Stream(9, 9, 9), num_workers=3))


# --- random draws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("kind", [NoisyStream, NoisyIteratorState])
def test_orders_and_draws_of_workers_go_on_where_they_were(kind, persistent):
    def make():
        return _loader(kind(7, 12), num_workers=2, persistent_workers=persistent)

    for epoch in (0, 1):
        assert faults(make, [0, 1, 4, 7, END] if persistent else [1, 4], epoch=epoch) == []


def test_draws_go_on_after_a_second_resume():
    def make():
        return _loader(NoisyStream(7, 12), num_workers=2)

    first, second = make(), make()
    whole = cut(make(), 1, later=0)
    first.load_state_dict(whole.state)
    assert take(iter(first), 2) == whole.epochs[0][:2]
    second.load_state_dict(first.state_dict())
    assert contents(second) == whole.epochs[0][2:]


@pytest.mark.parametrize("own", [False, True], ids=["default generator", "own generator"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore")
def test_a_shuffled_data_pipe_goes_on_in_the_same_order(workers, own):
    def make():
        generator = torch.Generator().manual_seed(3) if own else None
        pipe = IterableWrapper(range(20)).shuffle().sharding_filter()
        return _loader(pipe, num_workers=workers, generator=generator)

    assert faults(make, [1, 3, END]) == []


# --- errors, order, a device stage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stateful", [False, True], ids=["without a state", "with a state"])
@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_raised_have_had_their_turn(workers, stateful, place):
    def make():
        return _loader(FailingStream(13, 10, bad=(4, 1005), stateful=stateful), num_workers=workers)

    loader, resumed = make(), make()
    iterator = iter(loader)
    for _ in range(place):
        try:
            plain(next(iterator))
        except ValueError:
            continue
    state = loader.state_dict()
    expected = take_all(iterator)
    resumed.load_state_dict(through_file(state))
    assert take_all(iter(resumed)) == expected


class Held(IterableDataset):
    """The first worker waits after its first batch."""

    def __init__(self, kind):
        self.inner = kind(9, 12)
        self.go = torch.multiprocessing.get_context("fork").Event()

    def __iter__(self):
        return self.inner.__iter__()

    def collate(self, samples):
        if samples[0] == 3:
            self.go.wait(30)
        return torch.tensor(samples)


@pytest.mark.parametrize("kind", [Stream, IteratorState])
@pytest.mark.parametrize("taken", [2, 4, 5])
def test_batches_out_of_order_come_once_each(kind, taken):
    dataset = Held(kind)
    loader = _loader(dataset, num_workers=2, in_order=False, collate_fn=dataset.collate)
    iterator = iter(loader)
    first = take(iterator, taken)
    assert [3, 4, 5] not in first
    state = loader.state_dict()
    dataset.go.set()
    del iterator
    resumed = _loader(kind(9, 12), num_workers=2, in_order=False)
    resumed.load_state_dict(state)
    whole = contents(_loader(kind(9, 12), num_workers=2))
    assert sorted(first + contents(resumed)) == sorted(whole)
    assert sorted(contents(resumed)) == sorted(whole)


class Shake(nn.Module):
    def forward(self, batch):
        return batch + torch.rand(batch.shape)


@pytest.mark.parametrize(("sizes", "workers"), [((16,), 0), ((7, 16, 3), 3)])
@pytest.mark.parametrize("kind", [Stream, DatasetState])
def test_a_device_stage_has_handed_out_less_than_was_made_and_draws_the_same_again(kind, sizes, workers):
    def make():
        return _loader(kind(*sizes), num_workers=workers, pipeline=Shake(), prefetch=3)

    assert faults(make, [1, 2, 5] if workers == 0 else [2, 5, 8], later=0) == []


def test_generators_of_this_process_are_left_alone_by_going_on():
    whole = cut(_loader(NoisyStream(7, 12), num_workers=2), 2, later=0)
    loader = _loader(NoisyStream(7, 12), num_workers=2)
    loader.load_state_dict(whole.state)
    seed_all(99)
    before = generators()
    assert contents(loader) == whole.epochs[0]
    assert generators() == before


def test_worker_init_fn_runs_before_a_state_is_restored():
    def init(worker):
        torch.manual_seed(worker)

    def make():
        return _loader(NoisyStream(7, 12), num_workers=2, worker_init_fn=init)

    assert faults(make, [0, 1, 3]) == []


def test_one_worker_and_none_read_the_same_and_leave_generators_alone():
    for saved, loaded in ((0, 1), (1, 0)):
        whole = cuts(_loader(IteratorState(16), num_workers=saved), [2], later=0)[0]
        resumed = _loader(IteratorState(16), num_workers=loaded)
        before = generators()
        set_generators(before)
        assert go_on(resumed, whole) == whole.epochs
