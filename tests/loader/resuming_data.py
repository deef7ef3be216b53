"""Data sets and samplers for the tests of resuming, which tell where they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from tests.loader.resuming import draws

COUNT = 23
BATCHES = 8
"""Of 3, the last one of 2."""

# --- map-style ------------------------------------------------------------------------------------------------------------


class Items(Dataset[Any]):
    """Each item is its index."""

    def __init__(self, count: int = 23) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return index


class Noisy(Items):
    """With draws from each of the generators; from ``quiet_from`` on without.

    Args:
        only_in_workers: in the main process nothing is drawn.
    """

    def __init__(self, count: int = 23, quiet_from: int = 10**9, *, only_in_workers: bool = False) -> None:
        super().__init__(count)
        self.quiet_from = quiet_from
        self.only_in_workers = only_in_workers

    def __getitem__(self, index: int) -> Any:
        quiet = index >= self.quiet_from or (self.only_in_workers and get_worker_info() is None)
        return (index, *((0.0, 0.0, 0.0) if quiet else draws()))


class Counting(Items):
    """With a state: how many items were made of it."""

    made = 0

    def __getitem__(self, index: int) -> Any:
        self.made += 1
        return index, self.made

    def state_dict(self) -> dict[str, int]:
        return {"made": self.made}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.made = state["made"]


class CountingNoisy(Counting):
    """The same, with a draw for each item below ``quiet_from``."""

    quiet_from = 10**9

    def __getitem__(self, index: int) -> Any:
        return (*super().__getitem__(index), random.random() if index < self.quiet_from else 0.0)


class Failing(Noisy):
    """Raises for some, after drawing."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.bad = bad

    def __getitem__(self, index: int) -> Any:
        item = super().__getitem__(index)
        if index in self.bad:
            raise ValueError(f"no item {index}")
        return item


# --- iterable -------------------------------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    """A worker's part is as many numbers as ``sizes`` says, from 1000 times its number on."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def part(self) -> list[int]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        return list(range(1000 * worker, 1000 * worker + self.sizes[worker]))

    def __iter__(self) -> Iterator[Any]:
        yield from self.part()


class Position:
    """An iterator that can give and take its state."""

    def __init__(self, values: list[int], raises: tuple[int, ...] = ()) -> None:
        self.values, self.raises, self.position = values, raises, 0

    def __iter__(self) -> Position:
        return self

    def __next__(self) -> int:
        if self.position >= len(self.values):
            raise StopIteration
        self.position += 1
        value = self.values[self.position - 1]
        if value in self.raises:
            raise ValueError(f"no value {value}")
        return value

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Plain:
    """An iterator that can not."""

    def __init__(self, inner: Iterator[Any]) -> None:
        self.inner = inner

    def __iter__(self) -> Plain:
        return self

    def __next__(self) -> Any:
        return next(self.inner)


class IteratorState(Stream):
    def __iter__(self) -> Iterator[Any]:
        return Position(self.part())


class DatasetState(Stream):
    """It knows where it is itself, and in which epoch; ``__iter__`` is a generator."""

    position = 0
    epoch = 0

    def __iter__(self) -> Iterator[Any]:
        part = self.part()
        while self.position < len(part):
            self.position += 1
            yield part[self.position - 1] + 100 * self.epoch
        self.position = 0
        self.epoch += 1

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self.epoch = state["position"], state["epoch"]


class OwnIterator(Stream):
    """It is its own iterator, and begins anew in ``__iter__``: its state has to be loaded after that."""

    position = 0

    def __iter__(self) -> Iterator[Any]:
        self.position = 0
        self.values = self.part()
        return self

    def __next__(self) -> int:
        if self.position >= len(self.values):
            raise StopIteration
        self.position += 1
        return self.values[self.position - 1]

    state_dict = Position.state_dict
    load_state_dict = Position.load_state_dict


class Both(Stream):
    """State on the dataset, of its epochs, and on the iterator, of its place."""

    epoch = -1

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        return Position([value + 100 * self.epoch for value in self.part()])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch - 1}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch = state["epoch"]


class NoisyStream(Stream):
    """In an order that is drawn at the beginning, and with draws along the way; without a state."""

    def __iter__(self) -> Iterator[Any]:
        part = self.part()
        random.shuffle(part)
        for value in part:
            yield (value, *draws())


class NoisyIteratorState(Stream):
    """The order is drawn at the beginning and part of the iterator's state; there are draws along the way."""

    def __iter__(self) -> Iterator[Any]:
        return NoisyPosition(self.part())


class NoisyPosition(Position):
    def __init__(self, values: list[int]) -> None:
        super().__init__(random.sample(values, len(values)))

    def __next__(self) -> Any:
        return (super().__next__(), *draws())

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "values": list(self.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.values = state["position"], list(state["values"])


class FailingStream(Stream):
    """Raises for some values, and goes on after them; with a state on the iterator or without."""

    def __init__(self, *sizes: int, bad: tuple[int, ...], stateful: bool) -> None:
        super().__init__(*sizes)
        self.bad, self.stateful = bad, stateful

    def __iter__(self) -> Iterator[Any]:
        iterator = Position(self.part(), self.bad)
        return iterator if self.stateful else Plain(iterator)


# --- samplers -----------------------------------------------------------------------------------------------------------


WEIGHTS = [1.0 + index % 3 for index in range(COUNT)]


def own_generator():
    """A generator of the loader's own."""
    return torch.Generator().manual_seed(3)


class Eager:
    """A sampler that draws from each generator when it is asked for an iterator."""

    def __len__(self):
        return COUNT

    def __iter__(self):
        order = [random.randrange(COUNT) for _ in range(8)] + np.random.permutation(COUNT).tolist()[:8]
        return iter(order + torch.randperm(COUNT).tolist()[:7])


class Lazy(Eager):
    """The same when it is asked for the first index."""

    def __iter__(self):
        yield from super().__iter__()


class Epochs:
    """A stateful sampler, whose order depends on how many epochs it has seen."""

    def __init__(self):
        self.epoch, self.given = 0, 0

    def __len__(self):
        return COUNT

    def __iter__(self):
        order = random.Random(self.epoch).sample(range(COUNT), COUNT)
        while self.given < COUNT:
            self.given += 1
            yield order[self.given - 1]
        self.epoch, self.given = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "given": self.given}

    def load_state_dict(self, state):
        self.epoch, self.given = state["epoch"], state["given"]


class EpochBatches(Epochs):
    """A stateful batch sampler."""

    def __len__(self):
        return BATCHES

    def __iter__(self):
        order = random.Random(self.epoch).sample(range(COUNT), COUNT)
        while self.given < BATCHES:
            self.given += 1
            yield order[3 * self.given - 3 : 3 * self.given]
        self.epoch, self.given = self.epoch + 1, 0


class Walk:
    """A stateful sampler that draws each index from its own generator, whose state is part of its own."""

    def __init__(self):
        self.generator, self.given = own_generator(), 0

    def __len__(self):
        return COUNT

    def __iter__(self):
        while self.given < COUNT:
            self.given += 1
            yield int(torch.randint(COUNT, (), generator=self.generator))
        self.given = 0

    def state_dict(self):
        return {"generator": self.generator.get_state(), "given": self.given}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.given = state["given"]


class Lengths:
    """A batch sampler with batches of several sizes, in an order from torch's generator."""

    def __len__(self):
        return 6

    def __iter__(self):
        for size in torch.randperm(6).tolist():
            yield list(range(size, 2 * size + 1))


def _walk_withown_generator():
    walk = Walk()
    return {"sampler": walk, "generator": walk.generator}


SAMPLERS = {
    "in order": lambda: {},
    "shuffled": lambda: {"shuffle": True},
    "shuffled by a generator": lambda: {"shuffle": True, "generator": own_generator()},
    "dropping the last": lambda: {"shuffle": True, "drop_last": True},
    "with replacement": lambda: {"sampler": RandomSampler(Items(), replacement=True, num_samples=70)},
    "with replacement by a generator": lambda: {
        "sampler": RandomSampler(Items(), replacement=True, num_samples=70, generator=own_generator())
    },
    "weighted": lambda: {"sampler": WeightedRandomSampler(WEIGHTS, 20)},
    "weighted by a generator": lambda: {"sampler": WeightedRandomSampler(WEIGHTS, 20, generator=own_generator())},
    "of a subset": lambda: {"sampler": SubsetRandomSampler(range(2, COUNT))},
    "of a subset by two generators": lambda: {
        "sampler": SubsetRandomSampler(range(2, COUNT), generator=own_generator()),
        "generator": torch.Generator().manual_seed(4),
    },
    "a list": lambda: {"sampler": list(range(COUNT - 1, 0, -1))},
    "eager": lambda: {"sampler": Eager()},
    "lazy": lambda: {"sampler": Lazy()},
    "stateful": lambda: {"sampler": Epochs()},
    "stateful with a generator": lambda: {"sampler": Walk()},
    "stateful with the same generator": lambda: _walk_withown_generator(),
    "single": lambda: {"batch_size": None, "shuffle": True},
    "single, stateful": lambda: {"batch_size": None, "sampler": Epochs()},
    "batches": lambda: {"batch_sampler": BatchSampler(SequentialSampler(Items()), 4, True)},
    "random batches": lambda: {"batch_sampler": BatchSampler(RandomSampler(Items()), 3, False)},
    "batches of a stateful sampler": lambda: {"batch_sampler": BatchSampler(Epochs(), 4, False)},
    "batches of several sizes": lambda: {"batch_sampler": Lengths()},
    "stateful batches": lambda: {"batch_sampler": EpochBatches()},
}
