"""A thread that makes batches ahead of the one who uses them.

Who waits for whom. The thread waits until there is room: it makes at most so many batches beyond the one that was handed out
last, and after the end of an epoch none until somebody asks again. The consumer waits for the next batch. Who must have the
source for himself (to begin another epoch, or to change the stage) closes a gate, at which the thread waits once it is done
with what it has in hand.

What the two share are queues and plain attributes that one side alone writes, no lock that is held while anything is done:
Ctrl-C can come between any two lines of the consumer, and a lock that it left locked would be waited for in vain. For the
same reason batches are not got from a queue, out of which Ctrl-C would lose them: the queues are bells.

Lifetime. The thread has no strong reference to what makes the batches but while it makes one, so a pipeline that is dropped
is freed, and its finalizer ends the thread. It is a daemon, which nobody waits for without a bound.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from torchdali._warnings import warn
from torchdali.errors import PipelineStateError
from torchdali.pool import deferred_interrupt

__all__ = ["Ahead", "Outcome"]

Result = TypeVar("Result")

IDLE_SECONDS = 5.0
"""After so long without a sign the thread looks by itself whether it is still wanted."""

TURN_SECONDS = 0.005
"""How long passes between two looks at whether another thread is done with what it does alone."""

CHECK_SECONDS = 0.5
"""After so long without a batch the consumer looks whether the thread lives."""

SILENT_SECONDS = 60.0
"""After so long it is said what is being waited for."""

END_SECONDS = 5.0
"""How long the end of a pipeline waits for the batch that is being worked on; the thread then ends after that."""


class Outcome(NamedTuple):
    """What came of one attempt at a batch."""

    outputs: Any = None
    error: BaseException | None = None
    """To be raised instead."""
    last: bool = False
    """Nothing follows until it is asked for: the epoch is over."""
    samples: int = 0
    event: Any = None
    """What the consumer's stream has to wait for."""
    draws: Any = None
    warnings: tuple[tuple[str, type[Warning]], ...] = ()
    """To be raised in the consumer's thread."""
    starved: float = 0.0
    """Seconds that whoever made it had nothing to do before, as the sources' workers were not done."""
    busy: float = 0.0
    """Seconds that it took beside."""


class _Control:
    """What the thread is told, and says. It refers to neither the batches nor to what makes them."""

    def __init__(self, depth: int) -> None:
        self.bell: SimpleQueue[None] = SimpleQueue()
        """Rung after a change to the attributes below."""
        # Written by the consumer:
        self.stopped = False
        self._gates: deque[_Gate] = deque()
        self.allowed = depth
        self.asked = 0
        # Written by the thread, and by the consumer while the thread waits at the gate:
        self.made = 0
        self.ends = 0

    @property
    def gate(self) -> _Gate | None:
        """The one that is closed."""
        with contextlib.suppress(IndexError):  # another thread may have opened it since somebody looked
            return self._gates[0]
        return None

    def close(self, gate: _Gate) -> None:
        """Close a gate; it is the one that is closed when those before it are open."""
        self._gates.append(gate)

    def open(self, gate: _Gate) -> None:
        """Open it, if it is not."""
        with contextlib.suppress(ValueError):
            self._gates.remove(gate)
        gate.opened.put(None)

    def left(self) -> None:
        """Open those that Ctrl-C has left closed in the thread that calls this; what others are doing goes on."""
        thread = threading.current_thread()
        for gate in list(self._gates):
            if gate.thread is thread:
                self.open(gate)


class _Gate:
    """Where the thread waits while the consumer does something alone."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.entered = False
        """Something is being done."""
        self.reached: SimpleQueue[None] = SimpleQueue()
        self.opened: SimpleQueue[None] = SimpleQueue()


def _work(control: _Control, ahead: weakref.ref[Ahead]) -> None:
    """The body of the thread."""
    waited = False
    while not control.stopped:
        _empty(control.bell)  # before looking: what changes from here on rings again
        idle = control.made >= control.allowed or control.ends > control.asked
        # Between two gates something is done, if there is anything to do: else who closes one after the other in a thread of
        # his own would have the consumer wait for ever.
        gate = control.gate
        if gate is not None and (idle or not waited):
            _wait_at(gate, control)
            waited = True
        elif idle:
            _listen(control.bell, IDLE_SECONDS)
        else:
            worker = ahead()
            if worker is None:
                return
            worker.step()
            waited = False
            del worker
    worker = ahead()
    if worker is not None:
        worker.clear()  # an exception among the outcomes refers, by its traceback, to all there is: a cycle


def _wait_at(gate: _Gate, control: _Control) -> None:
    gate.reached.put(None)
    while control.gate is gate and not control.stopped:
        _listen(gate.opened, CHECK_SECONDS)


def _listen(bell: SimpleQueue[None], seconds: float) -> bool:
    try:
        bell.get(timeout=seconds)
    except Empty:
        return False
    return True


def _empty(bell: SimpleQueue[None]) -> None:
    with contextlib.suppress(Empty):
        while True:
            bell.get_nowait()


def _end(control: _Control, thread: threading.Thread, pid: int) -> None:
    control.stopped = True
    control.bell.put(None)
    if pid == os.getpid() and thread is not threading.current_thread():
        thread.join(END_SECONDS)


class Ahead:
    """Calls a method of an object in a thread, some times ahead.

    Args:
        owner: when it is freed the thread ends.
        make: a bound method, which is not kept alive. It returns an :class:`Outcome`, or None to be called again, which it
            should do in a fraction of a second if it has to wait.
        depth: outcomes that are made at most beyond the one taken last.
        name: of the object, for messages.
        context: that the thread runs in.
        doing: says what is being waited for, for people; likewise a bound method that is not kept alive.
    """

    def __init__(
        self,
        owner: object,
        make: Callable[[], Outcome | None],
        depth: int,
        *,
        name: str,
        context: Context,
        doing: Callable[[], str],
    ) -> None:
        self._make = weakref.WeakMethod(make)
        self._doing = weakref.WeakMethod(doing)
        self._depth = depth
        self._name = name
        self._outcomes: deque[Outcome] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        """Rung when there is another outcome."""
        self._taken: Outcome | None = None
        self._at_end = False
        self._pid = os.getpid()
        self._control = _Control(depth)
        self._thread = threading.Thread(
            target=context.run, args=(_work, self._control, weakref.ref(self)), name=f"{name} stage", daemon=True
        )
        self._finalizer = weakref.finalize(owner, _end, self._control, self._thread, self._pid)
        self._thread.start()

    # --- in the thread ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Try to make an outcome."""
        make = self._make()
        if make is None:
            self._control.stopped = True
            return
        try:
            outcome = make()
        except BaseException as error:
            # Not only an Exception: what forward raises, KeyboardInterrupt included, is the consumer's to see.
            outcome = Outcome(error=error)
        if outcome is not None:
            self._control.made += 1
            self._control.ends += outcome.last
            self._outcomes.append(outcome)
            self._bell.put(None)

    @property
    def ready(self) -> int:
        """Outcomes that are there."""
        return len(self._outcomes) + (self._taken is not None)

    # --- for the consumer ---------------------------------------------------------------------------------------------

    def peek(self) -> Outcome:
        """The next outcome; the same again until :meth:`advance`.

        Raises:
            PipelineStateError: the thread is not there any more.
        """
        control = self._control
        control.left()
        while (taken := self._taken) is None:
            if self._at_end:
                with deferred_interrupt():
                    self._at_end = False
                    control.asked += 1
                    control.bell.put(None)
            self._await()
            # Ctrl-C before this loses nothing, nor does it after; another thread may have dropped what is ahead meanwhile.
            with deferred_interrupt(), contextlib.suppress(IndexError):
                taken = self._taken = self._outcomes.popleft()
                with contextlib.suppress(Empty):
                    self._bell.get_nowait()
                self._at_end = taken.last
                control.allowed += 1
                control.bell.put(None)
                return taken
        return taken

    def advance(self) -> None:
        """Let go of the outcome that :meth:`peek` gave."""
        self._taken = None

    def told(self, outcome: Outcome) -> None:
        """:meth:`peek` is to give this: what it gave, without the warnings that were raised."""
        self._taken = outcome

    def _await(self) -> None:
        start = time.monotonic()
        told = False
        while not self._outcomes:
            if _listen(self._bell, CHECK_SECONDS):
                continue
            if not self._thread.is_alive() and not self._outcomes:
                raise PipelineStateError(self._why_dead())
            waited = time.monotonic() - start
            if waited > SILENT_SECONDS and not told:
                told = True
                doing = self._doing()
                warn(f"{self._name} has waited for {waited:.0f} s; {'' if doing is None else doing()}", stacklevel=5)

    def _why_dead(self) -> str:
        if self._pid != os.getpid():
            return (
                f"this {self._name} belongs to process {self._pid}, from which this one was forked, and its stage runs there; "
                "make a new one here"
            )
        return f"this {self._name} is closed, or the interpreter is at its end; make a new one"

    def alone(self, action: Callable[[], Result]) -> Result:
        """Do something while the thread does nothing; waits for what it has in hand, and for others who do something alone."""
        if threading.current_thread() is self._thread:
            return action()
        gate = _Gate()
        try:
            if self._close(gate):
                while not _listen(gate.reached, CHECK_SECONDS) and self._thread.is_alive():
                    pass
                gate.entered = True
            return action()
        finally:
            self._control.open(gate)

    def _close(self, gate: _Gate) -> bool:
        """Close a gate; whether that was to be done, and is not the case already, by who called this."""
        control, closed = self._control, self._control.gate
        if closed is not None and closed.thread is gate.thread and closed.entered:
            return False
        control.left()
        control.close(gate)
        while (closed := control.gate) is not gate:
            if closed is not None and not closed.thread.is_alive():
                control.open(closed)
            time.sleep(TURN_SECONDS)
        control.bell.put(None)
        return True

    def forget(self) -> None:
        """Drop what is ahead and begin again; only within :meth:`alone`."""
        self.clear()
        _empty(self._bell)
        self._at_end = False
        self._control.allowed, self._control.asked = self._depth, 0
        self._control.made = self._control.ends = 0

    # --- the end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Tell the thread to end; it does after what it has in hand."""
        self._control.stopped = True
        self._control.bell.put(None)

    def join(self) -> bool:
        """Wait until the thread has ended, for :data:`END_SECONDS` at most, and drop what is ahead; whether it has."""
        self._finalizer()
        self.clear()
        return not self._thread.is_alive()

    def clear(self) -> None:
        """Drop what is ahead."""
        self._outcomes.clear()
        self._taken = None
