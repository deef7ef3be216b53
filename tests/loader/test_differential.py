"""The loader beside torch's, on the same inputs: every batch and the state of every generator after it."""

import functools
import random
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from tests.loader.support import (
    LOADERS,
    Drawing,
    DrawingAtOnce,
    Shards,
    SizedShards,
    UnendingSet,
    assert_same_record,
    identical,
    record,
    seed_all,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create", "ignore:This process .* is multi-threaded"
)

SIZE = 23
WAYS = {
    "no workers": {},
    "one worker": {"num_workers": 1},
    "two persistent workers": {"num_workers": 2, "persistent_workers": True},
    "three workers": {"num_workers": 3, "prefetch_factor": 1},
}


def compare(build, **options):
    """``build(cls)`` makes a loader of that class; both go through the same."""
    assert_same_record(*[record(functools.partial(build, cls), **options) for cls in LOADERS.values()])


def generator(seed=11):
    return torch.Generator().manual_seed(seed)


# --- samplers that draw in every way there is -----------------------------------------------------------------------------


class EagerSampler(Sampler):
    """Draws all in ``__iter__``, from every generator."""

    def __iter__(self):
        order = list(range(SIZE))
        random.shuffle(order)
        order = [order[i] for i in np.random.permutation(SIZE)]
        return iter([order[i] for i in torch.randperm(SIZE).tolist()])

    def __len__(self):
        return SIZE


class LazySampler(EagerSampler):
    """Draws with each index, from every generator."""

    def __iter__(self):
        for _ in range(SIZE):
            yield (random.randrange(SIZE) + np.random.randint(SIZE) + int(torch.randint(SIZE, ()))) % SIZE


class LazyBatches:
    """A batch sampler without a base class, with batches of different sizes."""

    def __iter__(self):
        left = SIZE
        while left > 0:
            count = random.randint(1, 5)
            yield np.random.randint(0, SIZE, count).tolist()
            left -= count


def weighted(**options):
    return WeightedRandomSampler([0.1 + i % 4 for i in range(SIZE)], 17, **options)


def shared(**options):
    """A generator that the sampler and the loader share."""
    own = generator()
    return {"generator": own, "sampler": RandomSampler(range(SIZE), generator=own, **options)}


SAMPLING = {
    "in order": lambda: {},
    "shuffled": lambda: {"shuffle": True},
    "shuffled with a generator": lambda: {"shuffle": True, "generator": generator(), "drop_last": True},
    "in order with a generator": lambda: {"generator": generator()},
    "a generator shared with the sampler": shared,
    "many draws with replacement": lambda: shared(replacement=True, num_samples=70),
    "with replacement, of the default generator": lambda: {"sampler": RandomSampler(range(SIZE), True, 40)},
    "more samples than there are": lambda: {"sampler": RandomSampler(range(SIZE), num_samples=50)},
    "a generator of the sampler's own": lambda: {"sampler": RandomSampler(range(SIZE), generator=generator(3))},
    "weighted": lambda: {"sampler": weighted()},
    "weighted with a generator": lambda: {"sampler": weighted(generator=generator()), "generator": generator(2)},
    "a random subset": lambda: {"sampler": SubsetRandomSampler(range(3, SIZE))},
    "eager draws": lambda: {"sampler": EagerSampler()},
    "lazy draws": lambda: {"sampler": LazySampler()},
    "a list": lambda: {"sampler": [5, 3, 3, 1, 0, 22]},
    "a batch sampler": lambda: {"batch_sampler": BatchSampler(RandomSampler(range(SIZE)), 6, True), "batch_size": 1},
    "a list of batches": lambda: {"batch_sampler": [[0], [5, 4, 3], (7, 8), range(10, 13)], "batch_size": 1},
    "batches drawn lazily": lambda: {"batch_sampler": LazyBatches(), "batch_size": 1},
    "no batches": lambda: {"batch_size": None, "shuffle": True},
    "no batches of a batch sampler": lambda: {
        "batch_size": None,
        "sampler": BatchSampler(SequentialSampler(range(SIZE)), 5, False),
    },
}


EACH_WITH = [
    (sampling, way)
    for number, sampling in enumerate(SAMPLING)
    for way in ("two persistent workers", ("no workers", "one worker", "three workers")[number % 3])
]


@pytest.mark.parametrize(("sampling", "way"), EACH_WITH)
def test_batches_and_draws_are_those_of_torch_with(sampling, way):
    dataset = Drawing(SIZE)
    compare(lambda cls: cls(dataset, **{"batch_size": 4, **SAMPLING[sampling](), **WAYS[way]}))


@pytest.mark.parametrize("seed", [0, 2**40 + 5])
def test_batches_and_draws_are_those_of_torch_after_any_seed(seed):
    seed_all(0)

    def reseed(loader, epoch):
        torch.manual_seed(seed + epoch)

    dataset = Drawing(SIZE)
    compare(lambda cls: cls(dataset, 5, True, num_workers=2), before_epoch=reseed)


@pytest.mark.parametrize("persistent", [False, True])
def test_four_workers_with_few_batches_give_those_of_torch(persistent):
    compare(lambda cls: cls(Drawing(9), 3, num_workers=4, prefetch_factor=5, persistent_workers=persistent))


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("way", ["no workers", "two persistent workers"])
def test_next_to_no_samples_give_the_batches_of_torch(way, size):
    compare(lambda cls: cls(Drawing(size), 2, **WAYS[way]))


@pytest.mark.parametrize("way", WAYS)
def test_samples_asked_for_at_once_are_those_of_torch(way):
    compare(lambda cls: cls(DrawingAtOnce(SIZE), 4, True, **WAYS[way]))


@pytest.mark.parametrize("way", ["no workers", "two persistent workers"])
def test_samples_asked_for_one_by_one_where_a_subset_asks_at_once(way):
    subset = torch.utils.data.Subset(DrawingAtOnce(SIZE), [1, 7, 5, 20, 2])
    compare(lambda cls: cls(subset, 2, True, **WAYS[way]))


# --- epochs that are left early -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["lazy draws", "with replacement, of the default generator"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stops", [(2, 0, None)])
def test_after_an_epoch_that_is_left_the_next_is_that_of_torch(sampling, way, stops):
    build = SAMPLING[sampling]
    compare(lambda cls: cls(Drawing(SIZE), **{"batch_size": 2, **build(), **WAYS[way]}), epochs=len(stops), stops=stops)


class CountingSampler(Sampler):
    """Notes what was taken of it, and when."""

    def __init__(self):
        self.log = []

    def __iter__(self):
        for index in range(12):
            self.log.append(index)
            yield index

    def __len__(self):
        return 12


@pytest.mark.parametrize("way", WAYS)
def test_the_sampler_is_asked_when_torch_asks_it(way):
    logs = {}
    for name, cls in LOADERS.items():
        sampler = CountingSampler()
        loader = cls(Drawing(12), 1, sampler=sampler, **WAYS[way])
        taken = logs[name] = []
        for _ in range(2):
            iterator = iter(loader)
            taken.append(len(sampler.log))
            for _ in iterator:
                taken.append(len(sampler.log))
    assert logs["torchdali"] == logs["stock"]


class FailingSampler(CountingSampler):
    """Raises once, after some."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def __iter__(self):
        yield from range(self.after)
        raise LookupError("of the sampler")


@pytest.mark.parametrize("after", [0, 7])
@pytest.mark.parametrize("way", WAYS)
def test_what_the_sampler_raises_comes_when_it_comes_in_torch(way, after):
    seen = {}
    for name, cls in LOADERS.items():
        events = seen[name] = []
        try:
            iterator = iter(cls(Drawing(12), 1, sampler=FailingSampler(after), **WAYS[way]))
            events.append("begun")
            for _ in range(12):
                try:
                    events.append(next(iterator)["index"].tolist())
                except LookupError as error:
                    events.append(str(error))
        except StopIteration:
            events.append("end")
        except LookupError as error:
            events.append(f"at once: {error}")
    assert seen["torchdali"] == seen["stock"]


# --- several processes of a training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["no workers", "two persistent workers", "three workers"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_distributed_sampler_gives_the_epochs_that_torch_gives(way, rank):
    def build(cls):
        sampler = DistributedSampler(range(SIZE), num_replicas=2, rank=rank, shuffle=True, seed=5)
        return cls(Drawing(SIZE), 4, sampler=sampler, **WAYS[way])

    compare(build, before_epoch=lambda loader, epoch: loader.sampler.set_epoch(epoch * 3))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_changed_in_the_dataset_between_epochs_is_seen_where_torch_sees_it(way):
    def change(loader, epoch):
        loader.dataset.size = SIZE + 100 * epoch

    class Telling(Drawing):
        def __getitem__(self, index):
            return index, self.size

    compare(lambda cls: cls(Telling(SIZE), sampler=range(5), **WAYS[way]), before_epoch=change)


# --- iterable datasets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"batch_size": None}], ids=repr)
def test_uneven_shards_give_the_batches_of_torch(options, way):
    compare(lambda cls: cls(Shards((7, 0, 20)), **{"batch_size": 3, **options, **WAYS[way]}))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("length", "drop_last"), [(5, True), (5, False), (30, False)])
def test_a_length_that_is_wrong_is_warned_of_as_torch_does(length, drop_last, way):
    dataset = SizedShards((7, 0, 20), length)
    seen = {}
    for name, cls in LOADERS.items():
        loader = cls(dataset, 3, drop_last=drop_last, **WAYS[way])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lengths = [len(loader)]
            for _ in range(2):
                lengths.append(len(list(loader)))
        told = [
            (str(w.message).partition(", this ")[0], w.category, w.filename)
            for w in caught
            if "IterableDataset" in str(w.message)
        ]
        seen[name] = lengths, loader._IterableDataset_len_called, told
    assert seen["torchdali"] == seen["stock"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_worker_whose_part_has_ended_is_not_asked_again(way, batch_size):
    compare(lambda cls: cls(UnendingSet(), batch_size, **WAYS[way]), epochs=2)


def stop_at_five(batch):
    if 5 in batch:
        raise StopIteration
    return batch


class Count(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(12))


@pytest.mark.parametrize("way", ["one worker", "two persistent workers"])
def test_a_collate_function_that_ends_an_iterable_dataset_ends_that_worker(way):
    compare(lambda cls: cls(Count(), 2, collate_fn=stop_at_five, **WAYS[way]), epochs=2)


# --- any order --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True])
def test_out_of_order_come_the_same_samples_and_the_same_draws_here(persistent):
    seen = []
    for cls in LOADERS.values():
        events = record(
            lambda cls=cls: cls(
                Drawing(SIZE),
                4,
                True,
                num_workers=3,
                in_order=False,
                persistent_workers=persistent,
                generator=generator(),
            )
        )
        batches = [[sorted(e[0]["index"].tolist()) for e in events if isinstance(e[0], dict)]]
        seen.append((sorted(batches[0]), [e[-1] for e in events]))
    assert seen[0] == seen[1]


def test_out_of_order_uneven_shards_come_whole():
    seen = []
    for cls in LOADERS.values():
        loader = cls(Shards((7, 0, 20)), None, num_workers=3, in_order=False)
        seen.append([sorted(sample["at"] for sample in loader) for _ in range(2)])
    assert seen[0] == seen[1]


# --- several iterators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_two_iterators_at_once_give_what_they_give_in_torch(way):
    def paired(loader):
        return list(zip(loader, loader, strict=False))

    seen = []
    for cls in LOADERS.values():
        seed_all(1)
        seen.append(paired(cls(Drawing(SIZE), 4, True, **WAYS[way])))
    assert identical(*seen)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_set_after_construction_counts_for_the_next_epoch(way):
    def change(loader, epoch):
        if epoch == 1:
            loader.collate_fn = len
            loader.generator = generator(epoch)
        if epoch == 2:
            loader.worker_init_fn = torch.manual_seed
            loader.prefetch_factor = 1 if loader.num_workers else None

    compare(lambda cls: cls(Drawing(SIZE), 4, True, **WAYS[way]), before_epoch=change)


def test_the_number_of_workers_may_be_set_after_construction():
    def change(loader, epoch):
        loader.num_workers = (0, 2, 1)[epoch]

    compare(lambda cls: cls(Drawing(SIZE), 4, True, num_workers=1), before_epoch=change)


@pytest.mark.parametrize("way", WAYS)
def test_the_init_function_draws_from_what_torch_seeded(way):
    def init(worker):
        random.random(), np.random.rand(worker + 1), torch.rand(3)

    compare(lambda cls: cls(Drawing(SIZE), 4, worker_init_fn=init, **WAYS[way]), epochs=3)
