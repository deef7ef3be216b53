"""The states of the generators that data loading draws from: Python's, NumPy's, torch's, and generators of one's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["RandomState", "draw_seed", "generators_of", "seed_worker"]


class RandomState:
    """What the generators of this process were in at one moment.

    Args:
        generators: those of one's own, beside the three that every process has.
    """

    def __init__(self, generators: Sequence[torch.Generator] = ()) -> None:
        self._python = random.getstate()
        self._numpy: Any = np.random.get_state()
        self._torch = torch.default_generator.get_state()
        self._own = [generator.get_state() for generator in generators]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RandomState):
            return NotImplemented
        return (
            self._python == other._python
            and torch.equal(self._torch, other._torch)
            and self._numpy[2:] == other._numpy[2:]
            and bool(np.array_equal(self._numpy[1], other._numpy[1]))
        )

    __hash__ = None  # type: ignore[assignment]

    def restore(self, generators: Sequence[torch.Generator] = ()) -> None:
        """Set the generators to it; those of one's own in the order in which they were given."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.default_generator.set_state(self._torch)
        self.restore_own(generators)

    def restore_own(self, generators: Sequence[torch.Generator]) -> None:
        """Set only generators of one's own."""
        for generator, state in zip(generators, self._own, strict=False):  # there may be others by now
            generator.set_state(state)

    def to_dict(self) -> dict[str, Any]:
        """As numbers, strings and tensors, which any way of saving can take."""
        _, key, position, has_gauss, gauss = self._numpy
        return {
            "python": self._python,
            "numpy": [torch.from_numpy(key.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
            "torch": self._torch,
            "own": self._own,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> RandomState:
        """From :meth:`to_dict`."""
        state = cls.__new__(cls)
        version, words, gauss = saved["python"]
        state._python = (version, tuple(words), gauss)
        key, position, has_gauss, cached = saved["numpy"]
        state._numpy = ("MT19937", np.asarray(key).astype(np.uint32), position, has_gauss, cached)
        state._torch = saved["torch"]
        state._own = list(saved["own"])
        return state


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
