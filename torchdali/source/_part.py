"""Which of an epoch's samples one of several processes reads, as in training on several devices."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["NO_SAMPLE", "Part", "Rest"]

Rest = Literal["pad", "drop", "uneven"]
"""What becomes of samples that are not as many as to give each process the same number. ``"pad"``: the first ones of the epoch
are read again. ``"drop"``: they are left out. ``"uneven"``: some processes have one more than others."""

NO_SAMPLE = -1
"""In the place of an index: the epoch is over for this process."""


class Part(NamedTuple):
    """Every ``ranks``-th sample of an epoch, from the ``rank``-th on."""

    rank: int
    ranks: int
    samples: int | None
    """In the epoch, of all ranks; None: not known, the source tells by StopIteration."""
    rest: Rest = "pad"

    @classmethod
    def of(cls, rank: Any, ranks: Any, samples: int | None, rest: Any) -> Part:
        """Checked.

        Raises:
            ValueError: there is no such rank or policy, or it needs the number of samples and there is none.
        """
        for name, value in (("ranks", ranks), ("rank", rank)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} is {value!r}; it has to be an integer")  # noqa: TRY004  as of all sizes
        if ranks < 1 or not 0 <= rank < ranks:
            raise ValueError(f"rank is {rank} of {ranks}; ranks are counted from 0 to their number less one")
        if rest not in get_args(Rest):
            raise ValueError(f'rest is {rest!r}; it is "pad", "drop" or "uneven"')
        if samples is None and ranks > 1 and rest != "uneven":
            raise ValueError(
                f'rest="{rest}" gives all {ranks} ranks the same number of samples, for which the number of all of them has '
                'to be known, and a source has no __len__. Give it one; or pass rest="uneven" and train within '
                "`torch.distributed.algorithms.join.Join`, as ranks then make different numbers of steps"
            )
        return cls(rank, ranks, samples, rest)

    @property
    def length(self) -> int | None:
        """Samples of this rank in an epoch; None: not known."""
        if self.samples is None:
            return None
        if self.rest == "pad":
            return -(-self.samples // self.ranks)
        if self.rest == "drop":
            return self.samples // self.ranks
        return max(0, -(-(self.samples - self.rank) // self.ranks))

    def at(self, place: int) -> int:
        """Index in the epoch of this rank's sample at a place; :data:`NO_SAMPLE` beyond its last."""
        length = self.length
        if length is not None and place >= length:
            return NO_SAMPLE
        index = place * self.ranks + self.rank
        return index if self.samples is None else index % self.samples

    def number(self, iteration: int) -> int:
        """Of a batch of this rank, among those of all ranks."""
        return iteration * self.ranks + self.rank

    def indices(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Of this rank's ``count`` samples from a place on, shape (count,)."""
        indices = np.arange(first, first + count, dtype=np.int64) * self.ranks + self.rank
        return indices if self.samples is None else indices % max(1, self.samples)
