"""The stage runs ahead in a thread: how far, in what order, and that nothing is lost whatever comes in between."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest

import torchdali
from tests.pipeline.support import Counted, Draws, count_to, numbers
from torchdali import ExternalSource, Pipeline, PipelineStateError, WorkerDiedError

ROOT = Path(torchdali.__file__).parent.parent


def stages():
    return [thread for thread in threading.enumerate() if thread.name.endswith("stage")]


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    if stages():
        gc.collect()
        until(lambda: not stages())


# --- how far ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_batches_are_made_ahead_than_prefetch_says(prefetch):
    with Counted(count_to(80), prefetch=prefetch) as pipeline:
        for taken in range(1, 5):
            pipeline.run()
            until(lambda expected=taken + prefetch: pipeline.forwards >= expected)
            time.sleep(0.03)
            assert pipeline.forwards == taken + prefetch


def test_batches_that_nobody_holds_are_freed():
    alive = weakref.WeakSet()

    class Made(Pipeline):
        def forward(self, batch):
            output = batch.as_tensor() + 1
            alive.add(output)
            return output

    with Made(count_to(400), batch_size=4, device="cpu", prefetch=2) as pipeline:
        most = 0
        for batch in pipeline:
            most = max(most, len(alive))
            del batch
    assert most <= 2 + 2, "two ahead, one in hand and one at work"


def test_the_thread_begins_with_the_first_batch_and_ends_with_the_pipeline():
    before = len(stages())
    pipeline = Counted(count_to(8))
    pipeline.build()
    assert len(stages()) == before
    pipeline.run()
    assert len(stages()) == before + 1
    assert pipeline.threads <= set(stages())
    pipeline.close()
    assert len(stages()) == before


def test_without_a_thread_forward_runs_where_a_batch_is_asked_for():
    with Counted(count_to(20), stage_thread=False) as pipeline:
        pipeline.run()
        pipeline.run()
        assert pipeline.forwards == 2
        assert pipeline.threads == {threading.current_thread()}


def test_the_stage_and_the_consumer_work_at_the_same_time():
    with Counted(count_to(40), seconds=0.03) as pipeline:
        start = time.monotonic()
        for _ in pipeline:
            time.sleep(0.03)
        statistics = pipeline.statistics()
        assert time.monotonic() - start < 0.5, "one after the other it is 0.6 s"
    assert statistics.batches == 10
    assert statistics.run_seconds >= 0.3
    assert statistics.stall_seconds < 0.2


# --- in what order ------------------------------------------------------------------------------------------------------


def use(pipeline, moves):
    """What a consumer sees that does some of this and some of that."""
    seen = []
    for move in moves:
        try:
            if move == "run":
                seen.append(pipeline.run())
            elif move == "reset":
                pipeline.reset()
            else:
                seen.append([batch for batch, _ in zip(pipeline, range(3), strict=False)])
        except (StopIteration, ZeroDivisionError) as error:
            seen.append(type(error))
        seen.append(pipeline.epoch_idx)
    return seen


@pytest.mark.parametrize("cycle", ["raise", "quiet", False])
def test_whatever_the_consumer_does_it_sees_the_same_as_without_a_thread(cycle):
    def epoch():
        yield from (np.full((4, 3), first) for first in range(0, 12, 4))

    random = np.random.default_rng(3)
    for number in range(2):
        source = count_to(26) if number % 2 else ExternalSource(epoch, batch=True, cycle=cycle, parallel=False)
        moves = random.choice(["run", "reset", "iterate"], 25, p=[0.7, 0.2, 0.1])
        seen = []
        for options in ({"stage_thread": False, "num_workers": 1}, {"prefetch": 1}, {"prefetch": 4}):
            with Draws(source, **options) as pipeline:
                seen.append(use(pipeline, moves))
        assert seen[1] == seen[0]
        assert seen[2] == seen[0]


def test_an_exception_arrives_at_its_batch_after_those_before_it():
    class Fails(Counted):
        def forward(self, batch):
            if numbers(super().forward(batch))[0] in (8, 12):
                raise ZeroDivisionError(numbers(batch)[0])
            return batch

    with Fails(count_to(24), prefetch=4) as pipeline:
        seen = [pipeline.run()]
        until(lambda: pipeline.forwards == 5)
        seen.append(pipeline.run())
        assert [numbers(batch)[0] for (batch,) in seen] == [0, 4]
        for expected in ("8", "12"):
            with pytest.raises(ZeroDivisionError, match=expected):
                pipeline.run()
        assert numbers(pipeline.run()[0]) == [16, 17, 18, 19]


def test_stop_iteration_in_forward_does_not_end_the_epoch():
    class Stops(Pipeline):
        def forward(self, batch):
            if numbers(batch)[0] == 4:
                raise StopIteration
            return batch

    for thread in (True, False):
        with Stops(count_to(12), batch_size=4, device="cpu", stage_thread=thread) as pipeline:
            pipeline.run()
            with pytest.raises(RuntimeError, match="end the epoch in silence"):
                pipeline.run()
            assert numbers(pipeline.run()[0])[0] == 8


def test_a_reset_in_the_middle_waits_for_forward_and_drops_what_is_ahead():
    with Counted(count_to(40), seconds=0.05, prefetch=3) as pipeline:
        pipeline.run()
        pipeline.reset()
        assert pipeline.epoch_idx == 1
        assert [numbers(batch)[0] for batch in pipeline] == list(range(0, 40, 4))


# --- whatever comes in between --------------------------------------------------------------------------------------------


def test_closing_while_forward_works_ends_in_time():
    pipeline = Counted(count_to(40), seconds=0.2)
    pipeline.run()
    start = time.monotonic()
    pipeline.close()
    assert time.monotonic() - start < 2
    with pytest.raises(PipelineStateError, match="closed"):
        pipeline.run()


def test_closing_and_counters_do_not_wait_for_a_slow_source():
    def source(info):
        if info.iteration:
            time.sleep(30)
        return count_to(40)(info)

    pipeline = Counted(source)
    pipeline.run()
    time.sleep(0.1)
    start = time.monotonic()
    assert pipeline.statistics().batches == 1
    assert len(pipeline.worker_pids) == 1
    pipeline.close()
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("slow", ["source", "stage"])
def test_ctrl_c_loses_nothing(slow):
    def source(info):
        time.sleep(0.02 if slow == "source" else 0)
        return count_to(40)(info)

    batches, interrupts = [], 0
    with Counted(source, seconds=0.05 if slow == "stage" else 0) as pipeline:
        pipeline.build()
        while len(batches) < 10:
            timer = threading.Timer(0.06, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                for _ in range(3):
                    if len(batches) < 10:
                        batches.append(pipeline.run()[0])  # nothing in between, where Ctrl-C would lose it for the test
                timer.cancel()
                timer.join()
                time.sleep(0.001)  # a signal that was sent is still to be delivered
            except KeyboardInterrupt:
                interrupts += 1
                timer.join()
    assert [number for batch in batches for number in numbers(batch)] == list(range(40))
    assert interrupts


def test_killed_workers_are_named_at_their_batch_or_replaced_with_a_warning(tmp_path):
    def source(info):
        if info.idx_in_epoch == 17 and not (restart and flag.exists()):
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return count_to(40)(info)

    flag, restart = tmp_path / "died", False
    with Counted(source, num_workers=2, prefetch=3) as pipeline:
        firsts = [numbers(pipeline.run()[0])[0] for _ in range(4)]
        assert firsts == [0, 4, 8, 12]
        with pytest.raises(WorkerDiedError, match="idx_in_epoch=17"):
            pipeline.run()
        assert numbers(pipeline.run()[0])[0] == 20
    flag.unlink()
    restart = True
    with Counted(source, num_workers=2, prefetch=3, on_worker_death="restart") as pipeline:
        with pytest.warns(RuntimeWarning, match="SIGKILL") as caught:
            seen = [number for batch in pipeline for number in numbers(batch)]
        assert seen == list(range(40))
        told = [warning for warning in caught if "SIGKILL" in str(warning.message)]
        assert [warning.filename for warning in told] == [__file__]


def test_a_warning_that_is_an_error_costs_no_batch():
    with Counted(count_to(10), last_batch="drop") as pipeline, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [numbers(pipeline.run()[0])[0] for _ in range(2)] == [0, 4]
        with pytest.raises(UserWarning, match="do not fill a batch"):
            pipeline.run()
        with pytest.raises(StopIteration):
            pipeline.run()


def test_two_pipelines_at_once_keep_apart():
    with Counted(count_to(60)) as one, Counted(count_to(60), batch_size=5) as other:
        for _ in range(2):
            pairs = list(zip(one, other, strict=False))
            assert [(numbers(a)[0], numbers(b)[0]) for a, b in pairs] == [(4 * i, 5 * i) for i in range(12)]


def test_a_pipeline_that_is_dropped_is_freed_at_once_and_its_thread_ends():
    def fails(info):
        if info.iteration:
            raise ZeroDivisionError
        return np.zeros(1)

    for source in (count_to(400), fails):
        pipeline = Counted(source)
        batches = iter(pipeline)
        next(batches)
        time.sleep(0.03)
        reference = weakref.ref(pipeline)
        del pipeline, batches
        if source is not fails:  # an exception's traceback is a cycle, which is collected some time
            assert reference() is None
        gc.collect()
        assert reference() is None
        until(lambda: not stages())


def test_in_a_forked_child_it_says_whose_it_is():
    with Counted(count_to(40)) as pipeline:
        pipeline.run()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(10):
                    pipeline.run()
            except PipelineStateError as error:
                status = 0 if "from which this one was forked" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert numbers(pipeline.run()[0])[0] == 4


def test_ctrl_c_while_the_thread_starts_loses_no_batch(monkeypatch):
    start, started = threading.Thread.start, []

    def interrupted(thread):
        start(thread)
        if not started and thread.name.endswith(" stage"):
            started.append(thread)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with Counted(count_to(12)) as pipeline:
        # Its traceback keeps what was being made, as a debugger does.
        with pytest.raises(KeyboardInterrupt) as caught:
            pipeline.run()
        assert started
        assert [numbers(batch) for batch in pipeline] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        assert caught.type is KeyboardInterrupt


def test_another_thread_may_change_the_pipeline_while_this_one_takes_batches():
    """Who asked for the stage to pause is not forgotten by who waits for a batch."""

    def change():
        while not done.is_set():
            pipeline.load_state_dict(pipeline.state_dict())

    done = threading.Event()
    with Counted(count_to(4000)) as pipeline:
        thread = threading.Thread(target=change, daemon=True)
        thread.start()
        seen = [number for batch in pipeline for number in numbers(batch)]
        done.set()
        thread.join(20)
        assert not thread.is_alive()
    assert seen == list(range(4000))


@pytest.mark.parametrize("call", ["statistics", "close", "checkpoint", "report"])
def test_in_a_forked_child_nobody_waits_for_locks_that_threads_of_the_parent_held(call):
    with Counted(count_to(40)) as pipeline:
        pipeline.run()
        held, done = threading.Event(), threading.Event()

        def hold():
            pool = pipeline._reader.pool
            with pipeline._turns.door, pipeline._turns.lock, pool._lock, pipeline._stopwatch._lock:
                held.set()
                done.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(20)
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            getattr(pipeline, call)()
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        done.set()
        thread.join()
        assert status == 0
        assert numbers(pipeline.run()[0])[0] == 4


EXIT = """
import time, numpy as np, torchdali
class Slow(torchdali.Pipeline):
    def forward(self, batch):
        time.sleep(0.2)
        return batch.as_tensor() + 1
pipelines = [Slow(lambda info: np.zeros(3), batch_size=2, device="cpu") for _ in range(2)]
batches = [iter(pipeline) for pipeline in pipelines]
print([next(entry).sum().item() for entry in batches])
"""


def test_the_interpreter_ends_although_nothing_was_closed():
    done = subprocess.run(
        [sys.executable, "-c", EXIT], cwd=ROOT, timeout=30, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[6.0, 6.0]\n"
    assert done.stderr == ""
