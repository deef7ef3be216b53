"""How batches are handed out: each once, whatever comes between."""

import os
import signal
import threading
import time
import warnings

import pytest

from tests.pipeline.placing import WORKERS
from tests.pipeline.support import Counted, count_to, numbers, outcomes
from torchdali import _warnings
from torchdali.pipeline import _ahead
from torchdali.pipeline._runner import Runner
from torchdali.report import Meter

WAYS = [{}, WORKERS, {"stage_thread": False}]


class Warns(Counted):
    """Twice, for one batch."""

    def forward(self, batch):
        if numbers(batch)[0] == 4:
            _warnings.warn("the first")
            _warnings.warn("the second")
        return super().forward(batch)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_warning_that_is_an_error_costs_no_batch(options):
    with Warns(count_to(12), **options) as pipeline, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert outcomes(pipeline, 6, UserWarning) == [0, "the first", "the second", 4, 8, "the end"]
    assert "placement" in options or pipeline.forwards == 3


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_ctrl_c_after_a_batch_is_made_costs_neither_it_nor_another_forward(monkeypatch, options):
    delivered, times = Meter.delivered, 2

    def interrupted(self, *arguments):
        nonlocal times
        times -= 1
        if times >= 0:
            raise KeyboardInterrupt
        delivered(self, *arguments)

    with Counted(count_to(12), **options) as pipeline:
        assert numbers(pipeline.run()[0])[0] == 0
        monkeypatch.setattr(Meter, "delivered", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                pipeline.run()
        assert [numbers(batch)[0] for batch in (pipeline.run()[0], pipeline.run()[0])] == [4, 8]
        with pytest.raises(StopIteration):
            pipeline.run()
    assert "placement" in options or pipeline.forwards == 3


def test_a_batch_that_was_made_and_not_handed_out_is_dropped_by_another_epoch(monkeypatch):
    def interrupted(self, *arguments):
        raise KeyboardInterrupt

    with Counted(count_to(12), stage_thread=False) as pipeline:
        assert numbers(pipeline.run()[0])[0] == 0
        with monkeypatch.context() as patched:
            patched.setattr(Meter, "delivered", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pipeline.run()
        assert [numbers(batch)[0] for batch in pipeline] == [0, 4, 8]
        assert pipeline.epoch_idx == 1


class Exclusive(Counted):
    """Knows who is at work on it."""

    def __init__(self, source, **options):
        super().__init__(source, **options)
        self.at_work, self.together, self.changes = 0, 0, 0

    def work(self):
        self.at_work += 1
        self.together = max(self.together, self.at_work)
        time.sleep(0.001)
        self.at_work -= 1

    def change(self):
        self.work()
        self.changes += 1
        self._undisturbed(lambda: None)  # as load_state_dict() of a subclass may

    def forward(self, batch):
        self.work()
        return batch


def test_threads_that_change_the_module_at_the_same_time_do_it_one_after_the_other():
    with Exclusive(count_to(160)) as pipeline:
        batches = iter(pipeline)
        next(batches)
        changes = [lambda: pipeline._undisturbed(pipeline.change)] * 20
        threads = [threading.Thread(target=lambda: [change() for change in changes], daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert sum(1 for _ in batches) == 39
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert (pipeline.together, pipeline.changes) == (1, 80)


def interrupting(step):
    """It is interrupted by Ctrl-C where that comes, which is in the main thread."""

    def interrupted(*args):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return step(*args)

    return interrupted


@pytest.mark.parametrize(
    ("holder", "step"),
    [(_ahead, "_listen"), (_ahead._Control, "open"), (Exclusive, "work")],
    ids=["before", "after", "in"],
)
def test_a_change_that_ctrl_c_ended_keeps_no_other_from_being_made(monkeypatch, holder, step):
    with Exclusive(count_to(400)) as pipeline:
        next(iter(pipeline))
        with monkeypatch.context() as patched:
            patched.setattr(holder, step, interrupting(getattr(holder, step)))
            with pytest.raises(KeyboardInterrupt):
                pipeline._undisturbed(pipeline.change)
        before = pipeline.changes
        pipeline._undisturbed(pipeline.change)
        assert pipeline.changes == before + 1
        pipeline.run()
        assert pipeline.together == 1


def test_who_changes_the_module_all_the_time_keeps_no_other_thread_waiting():
    with Counted(count_to(4000), seconds=0.01) as pipeline:
        next(iter(pipeline))
        changes, end = [0], threading.Event()

        def change():
            while not end.is_set():
                pipeline.train()
                changes[0] += 1

        thread = threading.Thread(target=change, daemon=True)
        thread.start()
        for _ in range(5):
            before = changes[0]
            pipeline.eval()
            assert changes[0] - before < 500
        end.set()
        thread.join()


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_ctrl_c_in_the_middle_of_handing_out_a_batch_has_it_come_again(monkeypatch, options):
    advance, times = Runner._advance, 2

    def interrupted(self):
        nonlocal times
        advance(self)
        times -= 1
        if times >= 0:
            os.kill(os.getpid(), signal.SIGINT)  # noted, and raised once the batch is counted

    with Warns(count_to(12), **options) as pipeline:
        assert numbers(pipeline.run()[0])[0] == 0
        monkeypatch.setattr(Runner, "_advance", interrupted)
        for number in range(2):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                with pytest.raises(KeyboardInterrupt):
                    pipeline.run()
            assert [str(warning.message) for warning in told] == ([] if number else ["the first", "the second"])
            assert pipeline.checkpoint()["samples"] == 4
        assert [numbers(batch)[0] for batch in (pipeline.run()[0], pipeline.run()[0])] == [4, 8]
        assert pipeline.checkpoint()["samples"] == 12
        with pytest.raises(StopIteration):
            pipeline.run()
    assert "placement" in options or pipeline.forwards == 3
