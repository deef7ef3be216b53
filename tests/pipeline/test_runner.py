"""How batches are handed out: each once, whatever comes between."""

import warnings

import pytest

from tests.pipeline.placing import WORKERS
from tests.pipeline.support import Counted, count_to, numbers
from torchdali import _warnings
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
    seen = []
    with Warns(count_to(12), **options) as pipeline, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(6):
            try:
                seen.append(numbers(pipeline.run()[0])[0])
            except StopIteration:
                seen.append("the end")
            except UserWarning as warning:
                seen.append(str(warning))
    assert seen == [0, "the first", "the second", 4, 8, "the end"]
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
