"""The states of the generators that data loading draws from: Python's, NumPy's, torch's, and generators of one's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["RandomState", "draw_seed", "generators_of", "seed_worker"]


class RandomState:
    """What the generators of this process were in at one moment.

    Args:
        generators: those of one's own, beside the three that every process has.
        torch_alone: leave out Python's and NumPy's, which cost most.
    """

    def __init__(self, generators: Sequence[torch.Generator] = (), *, torch_alone: bool = False) -> None:
        self._python = None if torch_alone else random.getstate()
        # Of any kind of bit generator.
        self._numpy: dict[str, Any] | None = None if torch_alone else np.random.get_state(legacy=False)
        self._torch = torch.default_generator.get_state()
        self._own = [generator.get_state() for generator in generators]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RandomState):
            return NotImplemented
        return (
            self._python == other._python
            and torch.equal(self._torch, other._torch)
            and _same(self._numpy, other._numpy)
            and all(map(torch.equal, self._own, other._own))
        )

    __hash__ = None  # type: ignore[assignment]

    def restore(self, generators: Sequence[torch.Generator] = ()) -> None:
        """Set the generators to it; those of one's own in the order in which they were given."""
        if self._python is not None:
            random.setstate(self._python)
        if self._numpy is not None:
            np.random.set_state(self._numpy)
        torch.default_generator.set_state(self._torch)
        self.restore_own(generators)

    def restore_own(self, generators: Sequence[torch.Generator]) -> None:
        """Set only generators of one's own."""
        for generator, state in zip(generators, self._own, strict=False):  # there may be others by now
            generator.set_state(state)

    def to_dict(self) -> dict[str, Any]:
        """As numbers, strings and tensors, which any way of saving can take."""
        numpy = _map_arrays(self._numpy, lambda array: torch.from_numpy(array.astype(np.int64)))
        return {"python": self._python, "numpy": numpy, "torch": self._torch, "own": self._own}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> RandomState:
        """From :meth:`to_dict`."""
        state = cls.__new__(cls)
        state._python = None
        if saved["python"] is not None:
            version, words, gauss = saved["python"]
            state._python = (version, tuple(words), gauss)
        state._numpy = _map_arrays(saved["numpy"], lambda tensor: np.asarray(tensor).astype(np.uint32))
        state._torch = saved["torch"]
        state._own = list(saved["own"])
        return state


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    return bool(one == other)


def _map_arrays(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _map_arrays(entry, function) for name, entry in value.items()}
    return function(value) if isinstance(value, (np.ndarray, torch.Tensor)) else value


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a loader's own: its ``generator`` and those of its samplers, each once."""
    batch_sampler = loader.batch_sampler
    owners = (loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found: list[torch.Generator] = []
    for owner in owners:
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
            found.append(generator)
    return found


def draw_seed(generator: torch.Generator | None) -> int:
    """One draw of an int64, as torch's DataLoader makes for each iterator."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def seed_worker(base_seed: int, worker: int) -> int:
    """Seed the generators of this process as torch's DataLoader does in a worker; returns the worker's seed.

    Source: ``torch.utils.data._utils.worker``, whose function for NumPy's seed is called.
    """
    from torch.utils.data._utils.worker import _generate_state

    seed = base_seed + worker
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(_generate_state(base_seed, worker))
    return seed
