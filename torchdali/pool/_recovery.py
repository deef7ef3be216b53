"""What happens when workers die or are stopped: who held what, what is lost, what is done again, who takes their place.

What a dead worker had in hand is known from its claim. What it may have taken without having said so is what is neither in
the channel nor claimed by a living worker; before that is concluded, each living worker has said what it took.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence

from torchdali._warnings import warn
from torchdali.errors import WorkerDiedError
from torchdali.pool._child import Child, describe_exit, wait_for_all
from torchdali.pool._claims import TAKING
from torchdali.pool._dispatch import Dispatch
from torchdali.pool._job import Job
from torchdali.pool._options import OnWorkerDeath
from torchdali.pool._statistics import PoolStatistics
from torchdali.pool._worker import describe_item
from torchdali.pool._workforce import Workforce

__all__ = ["Recovery"]

CHECK_SECONDS = 0.5
"""How long passes at most between two looks at whether workers are stopped."""

FUTILE_STARTS = 5
"""So many processes in a row may die in one worker's place while the pool does nothing; then no more are started."""

FUTILE_STARTS_OF_ONE = 20
"""The same where others go on meanwhile."""

CLAIM_SECONDS = 1.0
"""How long a living worker may need between taking a task and claiming it (two lines of code) before it is killed."""


class Recovery:
    """Deals with workers that have died or do not go on.

    Args:
        workforce, dispatch, statistics: of the pool.
        name: of the pool, for messages.
        policy: whether the dead are replaced and their work is done again.
        tries: how many workers an item may cost.
        stopped_seconds: a worker that is stopped for longer is killed.
        start: starts workers, by index; raises where that is not possible.
    """

    def __init__(
        self,
        workforce: Workforce,
        dispatch: Dispatch,
        statistics: PoolStatistics,
        *,
        name: str,
        policy: OnWorkerDeath,
        tries: int,
        stopped_seconds: float,
        start: Callable[[list[int]], None],
    ) -> None:
        self._workforce = workforce
        self._dispatch = dispatch
        self._statistics = statistics
        self._name = name
        self._policy = policy
        self._tries = tries
        self._stopped_seconds = stopped_seconds
        self._start = start
        self._stopped: dict[int, float] = {}
        self._killed: dict[int, str] = {}
        """Workers that were killed here, and why."""
        self._checked = 0.0
        self._futile: dict[int, int] = {}
        """How many processes in a row have died as worker of an index without having done anything."""
        self._futile_alone: dict[int, int] = {}
        """The same, of those in whose time nobody else did anything."""
        self._progress: dict[int, tuple[int, int]] = {}
        """What was done by a worker, and by all, when it died last: results, and deaths with work in hand."""
        self._dead_at_work = 0
        self.last_death: WorkerDiedError | None = None

    def begin(self) -> None:
        """Workers were started on request: what was before does not count any more."""
        self.last_death = None
        self._futile.clear()
        self._futile_alone.clear()

    @staticmethod
    def none_left(death: WorkerDiedError) -> WorkerDiedError:
        """What is raised for work that nobody can do since this death."""
        return WorkerDiedError(
            f"no worker is left; the last one died: {death}. The next epoch starts new ones; of a pool by itself, start()",
            worker=death.worker,
            pid=death.pid,
            exitcode=death.exitcode,
        )

    def whom(self, job: Job) -> str:
        """What a job waits for, for people."""
        in_hand = []
        for index, child in self._workforce.workers.items():
            serial, position = self._workforce.claims.of(index)
            entry = self._dispatch.outstanding.get(serial)
            if entry is not None and entry.job is job:
                item = describe_item(job.items[entry.run.first + min(position, entry.run.size - 1)])
                state = "is stopped at" if child.stopped() else "works on"
                in_hand.append(f"worker {index} (pid {child.pid}) {state} {item}")
        missing = len(job.runs) - len(job.parts)
        return "; ".join(in_hand) or f"{missing} runs of calls are not begun, all workers have others in hand"

    # --- stopped ------------------------------------------------------------------------------------------------------

    def check_stopped(self) -> None:
        """Kill the workers that have been stopped for too long; does nothing when it was called a moment ago."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        for index, child in self._workforce.workers.items():
            if not child.stopped():
                self._stopped.pop(index, None)
            elif now - self._stopped.setdefault(index, now) >= self._stopped_seconds:
                self._kill(index, child, f"was stopped (SIGSTOP) for {self._stopped_seconds:g} s, and killed,")

    def _kill(self, index: int, child: Child, why: str) -> None:
        self._killed[index] = why
        child.signal(signal.SIGKILL)
        wait_for_all([child], CLAIM_SECONDS)

    # --- dead ---------------------------------------------------------------------------------------------------------

    def bury(self, *, replace: bool = True) -> None:
        """Deal with the workers that have died, if any; with ``replace`` start others, if that is the policy."""
        lanes: set[int] = set()
        deaths: list[WorkerDiedError] = []
        while dead := list(self._workforce.take_dead()):
            self._dispatch.receive()  # what they had sent before
            for index, child in dead:
                deaths.append(self._bury(index, child))
                lanes.add(self._workforce.lane_of(index))
            for lane in lanes:
                self._send_lost_again(lane)
        if not deaths:
            return
        self.last_death = deaths[-1]
        said = self._replace(deaths) if self._policy == "restart" and replace else []
        for lane in range(len(self._workforce.lanes)):
            if not self._workforce.serving(lane):
                self._dispatch.lose_lane(lane, self.last_death)
        for text in said:  # last, since a warning may be an error
            warn(text, RuntimeWarning, stacklevel=2)

    def _bury(self, index: int, child: Child) -> WorkerDiedError:
        serial, position = self._workforce.claims.of(index)
        held = self._dispatch.held_by(serial)
        position = min(position, max(0, len(held) - 1))
        self._count_futile(index, at_work=bool(held))
        error = self._error(index, child, held, position, serial)
        self._statistics.deaths += 1
        self._stopped.pop(index, None)
        child.forget()
        if held and self._policy == "restart":
            self._dispatch.redo(serial, position, self._tries, error)
        elif held:
            self._dispatch.lose(serial, error)
        return error

    def _count_futile(self, index: int, *, at_work: bool) -> None:
        # What dies of its work is bounded by the tries of that work.
        self._dead_at_work += at_work
        done = self._statistics.items_by_worker.get(index, 0)
        progress = self._statistics.items + self._dead_at_work
        done_before, progress_before = self._progress.get(index, (0, 0))
        idle = not at_work and done == done_before
        self._futile[index] = self._futile.get(index, 0) + 1 if idle else 0
        alone = self._futile_alone.get(index, 0) if progress == progress_before else 0
        self._futile_alone[index] = alone + 1 if idle else 0
        self._progress[index] = done, progress

    def _given_up(self, index: int) -> bool:
        """True when it makes no sense to start another worker of this index."""
        return self._futile_alone.get(index, 0) >= FUTILE_STARTS or self._futile.get(index, 0) >= FUTILE_STARTS_OF_ONE

    def _error(self, index: int, child: Child, held: Sequence[object], position: int, serial: int) -> WorkerDiedError:
        message = f"worker {index} of {self._name} (pid {child.pid}) "
        message += self._killed.pop(index, "") or describe_exit(child.exitcode)
        if held:
            message += f" while it worked on {describe_item(held[position])}"
        lost = held
        if held and self._policy == "restart":
            entry = self._dispatch.outstanding[serial]
            tries = entry.job.tries.get(entry.run.first + position, 0) + 1
            again = len(held)
            if tries >= self._tries:
                lost, again = held[position : position + 1], len(held) - 1
                message += f"; it is given up after {tries} {'try' if tries == 1 else 'tries'}"
            if again:
                message += f"; {again} {'call is' if again == 1 else 'calls are'} done again"
        elif held:
            if len(held) > 1:
                message += f" ({len(held)} calls are lost, from {describe_item(held[0])} to {describe_item(held[-1])})"
            message += '; on_worker_death="restart" has another worker do again what is lost'
        return WorkerDiedError(message, worker=index, pid=child.pid, exitcode=child.exitcode, items=tuple(lost))

    def _send_lost_again(self, lane: int) -> None:
        queued = self._dispatch.take_back(lane)
        deadline = time.monotonic() + CLAIM_SECONDS
        while True:
            claims = {index: self._workforce.claims.of(index)[0] for index in self._workforce.serving(lane)}
            taking = [index for index, serial in claims.items() if serial == TAKING]
            if not taking or lane:
                break
            if time.monotonic() > deadline:  # it is buried in the next round
                for index in taking:
                    self._kill(index, self._workforce.workers[index], "did not say what it had taken, and was killed,")
                break
            time.sleep(0.0005)
        self._dispatch.receive()
        outstanding = self._dispatch.outstanding
        settled = {*claims.values(), *queued}
        lost = [serial for serial, entry in outstanding.items() if entry.job.lane == lane and serial not in settled]
        waiting = {serial: task for serial, task in queued.items() if serial in outstanding}
        self._dispatch.send_again({**dict.fromkeys(lost), **waiting})

    def _replace(self, deaths: list[WorkerDiedError]) -> list[str]:
        """Start others in the place of the dead; returns what there is to say of it."""
        futile = [index for index in self._workforce.missing if self._given_up(index)]
        wanted = [index for index in self._workforce.missing if index not in futile]
        outcome = "another one was started in its place"
        if wanted:
            try:
                self._start(wanted)
            except Exception as error:
                outcome = f"it cannot be replaced, {len(self._workforce.workers)} workers go on: {error}"
            else:
                self._statistics.restarts += len(wanted)
        return [
            f"{death}; it is number {self._futile[death.worker]} in a row that died before it did anything; "
            "no more are started"
            if death.worker in futile
            else f"{death}; {outcome}"
            for death in deaths
        ]
