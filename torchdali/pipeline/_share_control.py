"""How large a part of each batch the workers decode, when that is to be found out while running."""

from __future__ import annotations

import numbers
from typing import Literal, TypeAlias

__all__ = ["CpuShare", "ShareControl", "check_share"]

CpuShare: TypeAlias = float | Literal["auto"]


def check_share(value: object) -> CpuShare:
    """See that a share is one.

    Raises:
        ValueError: it is neither a number from 0 to 1 nor ``"auto"``.
    """
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise ValueError(
            f'cpu_share is {value!r}; it is the share of each batch that the workers decode, from 0 to 1, or "auto"'
        )
    return float(value)


class ShareControl:
    """Finds the share of images that workers decode beside reading.

    Three parties make a batch, one after the other for each batch and all at once for several: the workers, which read all
    files and decode the share; the stage, which decodes the rest; the consumer. The slowest sets the pace, and who it is
    shows in what the stage's side does between two batches: it waits for the workers, works, or has no room for more because
    the consumer is slow.

    After each :data:`WINDOW` batches, of the time that passed:

    - the stage waited for workers for more than :data:`WAITED` of it: they are the slowest, and the share falls by a step;
    - else, there was no room for more than :data:`UNWANTED` of it: the consumer is the slowest, and cores are used in vain;
      the share falls by the smallest step, until the stage is only just fast enough;
    - else, workers were idle for more than :data:`IDLE` of it, and the stage hardly waited for room: the share rises by a
      step.

    In between it stays. While the stage is the slowest, a rise is on trial: where batches do not come faster by at least
    :data:`WORTH` of what the stage was spared, because handing images over costs as much as decoding them, it is taken
    back, and a fall is tried in the same way. If neither makes anything faster both rest for a while, each time for longer.

    A step is a part of what is left to the stage, ``1 - share``: its time for a batch is in proportion to that. Each change
    of direction halves the steps, and several in one direction double them: they become small where the share is right, and
    large again when the machine or the data change. What is under way when the share changes, :data:`LAG` batches, is not
    looked at.

    Args:
        share: to begin with.
    """

    WINDOW = 4
    LAG = 4
    WAITED = 0.05
    UNWANTED = 0.10
    IDLE = 0.05
    WORTH = 0.3
    FALL = 0.75
    """Part of the share that is left where a fall is tried."""
    FIRST_REST, LONGEST_REST = 4, 64
    """Windows after which trials that did not pay are made again."""
    HIGHEST = 0.9
    FIRST_STEP, LARGEST_STEP, SMALLEST_STEP = 0.1, 0.3, 0.02
    _PATIENCE = 2
    """Steps in one direction after which they become larger."""

    def __init__(self, share: float = 0.0) -> None:
        self.share = share
        self._step = self.FIRST_STEP
        self._direction = 0
        self._repeats = 0
        self._skip = self.LAG
        self._before: tuple[float, float] | None = None
        """Share and seconds for a batch before a change that is on trial."""
        self._trial = 1
        """Direction of the next trial."""
        self._rest, self._longer_rest = 0, self.FIRST_REST
        self._begin()

    def _begin(self) -> None:
        self._batches = 0
        self._waited = self._worked = self._unwanted = self._busy = 0.0

    def batch(self, *, waited: float, worked: float, unwanted: float, busy: float) -> float:
        """Take in one batch, and return the share of the next.

        Args:
            waited: seconds that the stage waited for workers before it.
            worked: seconds that the stage took for it.
            unwanted: seconds before both in which there was no room for it.
            busy: seconds that a worker worked meanwhile, on average.
        """
        if self._skip:
            self._skip -= 1
            return self.share
        self._batches += 1
        self._waited += waited
        self._worked += worked
        self._unwanted += unwanted
        self._busy += busy
        if self._batches >= self.WINDOW:
            self._decide()
            self._begin()
        return self.share

    def pause(self) -> None:
        """What comes next says nothing for a while: an epoch begins."""
        self._skip = max(self._skip, self.LAG)
        self._begin()

    def _decide(self) -> None:
        total = self._waited + self._worked + self._unwanted
        if total <= 0:
            return
        pace = total / self._batches
        before, self._before = self._before, None
        if self._waited > self.WAITED * total:
            self._move(-1, self._next_step(-1))
        elif self._unwanted > self.UNWANTED * total:
            self._move(-1, self.SMALLEST_STEP)
        elif before is not None and not self._pays(before, pace):
            self.share, self._skip = before[0], self.LAG
            self._failed()
        elif total - self._busy > self.IDLE * total and self._unwanted < self.UNWANTED / 2 * total:
            self._try(pace, paid=before is not None)

    def _try(self, pace: float, *, paid: bool) -> None:
        if paid:
            self._longer_rest = self.FIRST_REST
        if self._rest:
            self._rest -= 1
            return
        share = self.share
        if self._trial > 0:
            self._move(1, self._next_step(1))
        elif share:
            self.share = share * self.FALL if share > self.SMALLEST_STEP else 0.0
            self._skip = self.LAG
        else:
            self._failed()
        if self.share != share:
            self._before = share, pace

    def _failed(self) -> None:
        self._trial = -self._trial
        if self._trial > 0:
            self._rest, self._longer_rest = self._longer_rest, min(2 * self._longer_rest, self.LONGEST_REST)

    def _pays(self, before: tuple[float, float], pace: float) -> bool:
        share, pace_before = before
        spared = max(0.0, 1 - (1 - self.share) / (1 - share))
        return pace < pace_before * (1 - self.WORTH * spared)

    def _next_step(self, direction: int) -> float:
        if direction == -self._direction:
            self._step = max(self._step / 2, self.SMALLEST_STEP)
            self._repeats = 0
        else:
            self._repeats += 1
            if self._repeats > self._PATIENCE:
                self._step = min(self._step * 2, self.LARGEST_STEP)
        self._direction = direction
        return self._step

    def _move(self, direction: int, step: float) -> None:
        left = (1 - self.share) * (1 - step) if direction > 0 else (1 - self.share) / (1 - step)
        share = min(max(1 - left, 0.0), self.HIGHEST)
        if share != self.share:
            self.share = share
            self._skip = self.LAG
