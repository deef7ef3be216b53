"""A loader made again with other samplers: for one of several processes, or for a framework that makes its own."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, Dataset, DistributedSampler, RandomSampler, SequentialSampler

from torchdali.loader._loader import DataLoader
from torchdali.loader._own import is_iterable
from torchdali.source import Rest

__all__ = ["arguments_of", "loader_for_rank", "made_again"]

_NAMES = tuple(name for name in inspect.signature(DataLoader.__init__).parameters if name not in ("self", "shuffle"))


def arguments_of(loader: Any) -> dict[str, Any]:
    """What a loader was made with, or one of torch's; what goes with nothing else is left out."""
    found = {name: getattr(loader, name) for name in _NAMES if hasattr(loader, name)}
    if is_iterable(loader):
        left_out = {"sampler", "batch_sampler"}
    elif loader.batch_sampler is not None and loader.batch_size is None:
        left_out = {"batch_size", "sampler", "drop_last"}
    else:
        left_out = {"batch_sampler"}
    return {name: value for name, value in found.items() if name not in left_out}


def made_again(loader: DataLoader[Any], **changes: Any) -> DataLoader[Any]:
    """A loader with the same arguments but some; it has the workers of the other, if these were started and wait.

    Raises:
        TypeError: its class has a constructor of its own, of which nothing is known.
    """
    kind = type(loader)
    if "__init__" in vars(kind) and kind is not DataLoader:
        raise TypeError(
            f"{kind.__name__} has a constructor of its own, so that it cannot be made again with other samplers: give it a "
            "DistributedSampler, or what else is to be another one, when you make it"
        )
    again: DataLoader[Any] = kind(**(arguments_of(loader) | changes))
    if again.dataset is loader.dataset and again.num_workers == loader.num_workers:
        again._torchdali.crew = loader._torchdali.take_crew()
    return again


class _UnevenSampler(DistributedSampler[Any]):
    """Torch's, but with each sample once: the first ranks may have one more than the last."""

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, **options)
        self.num_samples = max(0, math.ceil((len(dataset) - self.rank) / self.num_replicas))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        count = len(self.dataset)  # type: ignore[arg-type]
        if not self.shuffle:
            return iter(range(self.rank, count, self.num_replicas))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(count, generator=generator).tolist()[self.rank :: self.num_replicas])


def loader_for_rank(loader: DataLoader[Any], rank: int, ranks: int, rest: Rest) -> DataLoader[Any]:
    """A loader that gives a rank its part of the dataset; the same one if it does already, or there is only one.

    Iterable datasets read their own parts, as with torch's.

    Args:
        loader: over all of it.
        rank, ranks, rest: as of :meth:`~torchdali.Pipeline.shard`.

    Raises:
        TypeError: it has a sampler of which nothing is known.
    """
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if ranks == 1 or is_iterable(loader) or any(isinstance(sampler, DistributedSampler) for sampler in samplers):
        return loader
    plain = loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler
    known = type(loader.sampler) is SequentialSampler or (
        type(loader.sampler) is RandomSampler and not loader.sampler.replacement and loader.sampler._num_samples is None
    )
    if not (plain and known and loader.batch_size is not None):
        raise TypeError(
            f"a loader with the sampler {type(loader.sampler).__name__} and the batch sampler "
            f"{type(loader.batch_sampler).__name__} cannot be divided among {ranks} ranks without knowing them: make it in a "
            "factory, which is told the rank, with a sampler that gives this rank its part"
        )
    kind = _UnevenSampler if rest == "uneven" else DistributedSampler
    sampler: DistributedSampler[Any] = kind(
        loader.dataset,
        num_replicas=ranks,
        rank=rank,
        shuffle=isinstance(loader.sampler, RandomSampler),
        seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
        drop_last=rest == "drop",
    )
    generator = loader.generator
    if generator is None:  # else workers of the same number draw the same on all ranks
        generator = torch.Generator().manual_seed((torch.initial_seed() + 0x9E3779B9 * (rank + 1)) % 2**63)
    return made_again(loader, sampler=sampler, generator=generator)
