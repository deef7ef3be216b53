"""What the tests of the loader share: datasets that draw random numbers, and a record of all that an epoch does."""

import hashlib
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader as StockLoader
from torch.utils.data import Dataset, IterableDataset, get_worker_info

import torchdali

LOADERS = {"stock": StockLoader, "torchdali": torchdali.DataLoader}

Pair = NamedTuple("Pair", [("image", Any), ("label", Any)])  # noqa: UP014  shorter


def draws() -> list[Any]:
    """One draw of each generator that a process has, and the seeds that they had."""
    return [random.random(), np.random.rand(), torch.rand(2), random.getrandbits(40), torch.initial_seed() % 2**53]


class Drawing(Dataset):
    """Each sample tells its index, draws of all generators and the worker that made it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        info = get_worker_info()
        return {
            "index": index,
            "draws": draws(),
            "worker": -1 if info is None else info.id,
            "seed": 0 if info is None else info.seed % 2**53,
        }


class Made(Dataset):
    """What a function makes of the index."""

    def __init__(self, function, size=4):
        self.function = function
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.function(index)


def as_is(batch):
    return batch


class DrawingAtOnce(Drawing):
    """The same, a batch at a time."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        extra = np.random.rand()
        return [{**self[index], "extra": extra, "size": len(indices)} for index in indices]


class Shards(IterableDataset):
    """Each worker has a shard of its own, of another length; without workers there is one of them all."""

    def __init__(self, sizes: tuple[int, ...], length: int | None = None) -> None:
        self.sizes = sizes
        self.length = length

    def __iter__(self) -> Any:
        info = get_worker_info()
        sizes = [sum(self.sizes)] if info is None else [self.sizes[info.id % len(self.sizes)]]
        worker = 0 if info is None else info.id
        return ({"at": (worker, number), "draws": draws()} for number in range(sizes[0]))


class SizedShards(Shards):
    def __len__(self) -> int:
        assert self.length is not None
        return self.length


class Unending:
    """An iterator that goes on after its end, as Python says none should."""

    def __init__(self):
        self.count = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.count += 1
        if self.count % 4 == 0:
            raise StopIteration
        return self.count


class UnendingSet(IterableDataset):
    def __iter__(self):
        return Unending()


def identical(one: Any, other: Any) -> bool:
    """Whether two values agree in type, number type, shape and every bit, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor) and one.is_nested:
        return other.is_nested and all(map(identical, one.unbind(), other.unbind()))
    if isinstance(one, torch.Tensor):
        if (one.dtype, one.shape, one.layout, one.requires_grad) != (
            other.dtype,
            other.shape,
            other.layout,
            other.requires_grad,
        ):
            return False
        if one.device.type == "meta":
            return bool(one.device == other.device)
        if one.layout is not torch.strided:
            return identical(one.to_dense(), other.to_dense())
        bits = [x.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().contiguous() for x in (one, other)]
        return torch.equal(*(x.reshape(-1).view(torch.uint8) for x in bits))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(identical, one, other))
    if hasattr(one, "__dict__") and not callable(one):
        return identical(vars(one), vars(other))
    return bool(one == other or (one != one and other != other))


def fingerprint(*generators: torch.Generator | None) -> tuple[str, ...]:
    """The state of Python's, NumPy's and torch's generator, and of those given."""
    name, key, *rest = np.random.get_state()
    parts = [
        repr(random.getstate()).encode(),
        key.tobytes() + repr((name, rest)).encode(),
        *(x.get_state().numpy().tobytes() for x in (torch.default_generator, *generators) if x is not None),
    ]
    return tuple(hashlib.blake2b(part, digest_size=6).hexdigest() for part in parts)


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def record(
    build: Callable[[], Any],
    *,
    epochs: int = 3,
    stops: tuple[int | None, ...] = (),
    seed: int = 7,
    before_epoch: Callable[[Any, int], None] | None = None,
    draw_between: bool = True,
) -> list[Any]:
    """Everything that iterating over a loader shows: batches, and the state of all generators after each.

    Args:
        build: makes the loader, or whatever is iterated over.
        epochs: how many.
        stops: for each epoch after how many batches it is left; None or nothing: it is not.
        seed: of all generators, at the beginning.
        before_epoch: called with the loader and the number of the epoch.
        draw_between: random numbers are drawn here after each batch, as training does.
    """
    seed_all(seed)
    loader = build()
    own = getattr(loader, "generator", None)
    events: list[Any] = [fingerprint(own)]
    for epoch in range(epochs):
        if before_epoch is not None:
            before_epoch(loader, epoch)
        iterator = iter(loader)
        events.append(("begun", fingerprint(own)))
        stop = stops[epoch] if epoch < len(stops) else None
        number = 0
        while number != stop:
            try:
                batch = next(iterator)
            except StopIteration:
                events.append(("end", fingerprint(own)))
                break
            events.append((batch, fingerprint(own)))
            number += 1
            if draw_between:
                torch.rand(1), random.random(), np.random.rand()
        del iterator
    return events


def assert_same_record(stock: list[Any], ours: list[Any]) -> None:
    for number, (one, other) in enumerate(zip(stock, ours, strict=False)):
        assert identical(one, other), f"event {number}:\nstock {one}\nours  {other}"
    assert len(stock) == len(ours)
