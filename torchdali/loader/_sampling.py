"""Samplers that can give and take their state."""

from __future__ import annotations

import copy
from typing import Any

from torchdali.loader._fetching import is_stateful

__all__ = ["NO_STATE", "SamplerStates", "draws_from_torch_alone", "stateful_sampler"]

NO_STATE = object()
"""In the place of a state: from here on there is none."""


def stateful_sampler(loader: Any) -> Any:
    """What of a loader's samplers can give and take its state, the outer one first; None if none can.

    Nor where batches come out of order: what has been delivered is then no beginning of what the sampler gave.
    """
    if not loader.in_order:
        return None
    batch_sampler = loader.batch_sampler
    for sampler in (batch_sampler, getattr(batch_sampler, "sampler", None), loader.sampler):
        if sampler is not None and is_stateful(sampler):
            return sampler
    return None


def draws_from_torch_alone(loader: Any) -> bool:
    """Whether a loader's samplers are torch's own, which know no other generators."""
    batch_sampler = loader.batch_sampler
    samplers = (loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    return all(sampler is None or type(sampler).__module__.startswith("torch.utils.data.") for sampler in samplers)


class SamplerStates:
    """What a loader's sampler says after each index.

    Args:
        loader: whose sampler is asked, if it is one that can.
    """

    def __init__(self, loader: Any) -> None:
        self._sampler = stateful_sampler(loader)

    def take(self) -> Any:
        """The state now; None without one, :data:`NO_STATE` where it turns out that there is none."""
        if self._sampler is None:
            return None
        try:
            return copy.deepcopy(self._sampler.state_dict())
        except Exception:  # a method of that name may mean something else; the sampler is replayed then
            self._sampler = None
            return NO_STATE
