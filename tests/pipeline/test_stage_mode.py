"""The state that the stage runs in: gradients, changes of the module, draws that are kept."""

import time

import torch

from tests.pipeline.support import Counted, Draws, count_to
from torchdali import Pipeline


def test_the_stage_has_no_gradients_in_its_thread_and_the_consumer_s_mode_without():
    class Learns(Pipeline):
        def __init__(self, **options):
            super().__init__(count_to(8), batch_size=4, device="cpu", **options)
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, batch):
            return batch.as_tensor() * self.scale

    for thread in (True, False):
        with Learns(stage_thread=thread) as pipeline:
            assert pipeline.run()[0].requires_grad is not thread


def test_a_changed_module_holds_for_what_is_not_begun_and_after_reset_for_all():
    class Scaled(Counted):
        def __init__(self):
            super().__init__(count_to(80), seconds=0.01)
            self.register_buffer("scale", torch.ones(1))

        def forward(self, batch):
            return super().forward(batch).as_tensor() * self.scale

    with Scaled() as pipeline:
        pipeline.run()
        pipeline.load_state_dict({"scale": torch.full((1,), 3.0)})
        pipeline.double()
        later = [pipeline.run()[0] for _ in range(6)]
        assert later[-1][0, 0] == 3 * 24
        assert later[-1].dtype == torch.float64
        pipeline.reset()
        assert pipeline.run()[0][:, 0].tolist() == [0, 3, 6, 9]


def test_draws_are_kept_when_they_are_asked_for():
    for thread in (True, False):
        with Draws(count_to(16), stage_thread=thread, record_draws=True) as pipeline:
            assert pipeline.last_draws is None
            for _ in range(3):
                _, drawn, _ = pipeline.run()
                time.sleep(0.02)
                assert list(pipeline.last_draws) == ["draw"]
                assert pipeline.last_draws["draw"].flatten().tolist() == drawn
    with Draws(count_to(16)) as pipeline:
        pipeline.run()
        assert pipeline.last_draws is None
