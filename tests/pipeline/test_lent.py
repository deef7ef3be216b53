"""Inputs that a stage keeps in a process of its own: they stay what they were, and nothing else is held."""

import contextlib
import os
import signal

import numpy as np
import pytest
import torch

from tests.pipeline.placing import WORKERS
from tests.pipeline.sharing import Decodes
from tests.pipeline.support import endless
from torchdali import ExternalSource, Pipeline, TensorList, ops
from torchdali.pipeline._lent import LentMemory
from torchdali.pool._memory import Memory


def numbered(count, width=20_000):
    """Samples that hold their number, of several sizes."""

    def source(info):
        if info.idx_in_epoch >= count:
            raise StopIteration
        return np.full(width + info.idx_in_epoch % 7, info.idx_in_epoch, np.float32)

    return ExternalSource(source, batch=False)


class Keeps(Pipeline):
    """Keeps its last inputs, or a part of each, and says what is in the oldest; raises now and then."""

    def __init__(self, source, *, most=6, kept=lambda batch: batch, raises=(), **options):
        super().__init__(source, batch_size=4, device="cpu", num_workers=2, **options)
        self.most, self.part, self.raises = most, kept, raises
        self.kept = []
        self.calls = 0

    def forward(self, batch):
        self.kept = [*self.kept, self.part(batch)][-self.most :]
        self.calls += 1
        if self.calls in self.raises:
            raise LookupError(f"call {self.calls}")
        return [sorted(set(np.asarray(sample).tolist())) for sample in self.kept[0]]


def outcomes(pipeline):
    seen = []
    with pipeline:
        while True:
            try:
                seen.append(pipeline.run()[0])
            except LookupError as error:
                seen.append(str(error))
            except StopIteration:
                return seen


@pytest.mark.parametrize("raises", [(), (3, 4, 9, 21)])
@pytest.mark.parametrize("part", [lambda batch: batch, lambda batch: [batch[0][5:9], batch[3].numpy()[::-1]]])
def test_what_the_stage_keeps_stays_what_it_was(part, raises):
    here = outcomes(Keeps(numbered(160), kept=part, raises=raises))
    there = outcomes(Keeps(numbered(160), kept=part, raises=raises, placement="workers", gpu_workers=1))
    assert len(here) == 40
    assert here == there


def held(pipeline):
    crew = pipeline._staff.crew
    return sorted(number for kept in crew._kept.values() for number in kept)


def test_it_is_held_as_long_as_the_stage_has_it():
    with Keeps(numbered(160), most=3, placement="workers", gpu_workers=1) as pipeline:
        for _ in range(20):
            pipeline.run()
            assert len(held(pipeline)) <= 3
        assert len(held(pipeline)) == 3
    assert held(pipeline) == []


class Sums(Decodes):
    def forward(self, files, labels):
        return [image.sum() for image in self.decode(files)], labels


def test_of_a_stage_that_keeps_nothing_nothing_is_held(photographs):
    """Not the files for the sake of the labels that go through, and not what others have decoded."""
    source = endless(photographs, 160)
    with Sums(source, ops.DecodeImage(), batch_size=16, device="cpu", cpu_share=0.5, **WORKERS) as pipeline:
        for _ in range(2):
            for _ in pipeline:
                assert held(pipeline) == []
        assert pipeline.statistics().cpu_share > 0.3


def test_what_is_not_known_to_be_kept_is_held_for_some_batches_at_most():
    raises = range(1, 1000)
    with Keeps(numbered(160), most=1, raises=raises, placement="workers", gpu_workers=1) as pipeline:
        for _ in range(30):
            with pytest.raises(LookupError):
                pipeline.run()
        assert 1 <= sum(map(len, pipeline._staff.crew._perhaps.values())) <= 8


@pytest.mark.filterwarnings("ignore:worker .* was killed:RuntimeWarning")
@pytest.mark.parametrize("policy", ["raise", "restart"])
def test_what_is_kept_of_batches_that_raised_stays_too_however_many_there_are(policy):
    raises = range(1, 40)
    options = {"most": 40, "raises": raises, "placement": "workers", "gpu_workers": 1, "on_worker_death": policy}
    *raised, kept = outcomes(Notes(numbered(160), **options))
    assert raised == [f"call {number}" for number in raises]
    assert kept == list(range(0, 160, 4))


class Notes(Keeps):
    """Says what all that it keeps holds, and how many descriptors the process has."""

    def forward(self, batch):
        super().forward(batch)
        return [int(kept[0].max()) for kept in self.kept], len(os.listdir("/proc/self/fd"))


def test_inputs_that_are_kept_cost_no_descriptor_each():
    options = {"most": 400, "placement": "workers", "gpu_workers": 1, "on_worker_death": "restart"}
    with Notes(numbered(1200, width=2000), **options) as pipeline:
        found = list(pipeline)
    assert [kept for kept, _ in found] == [list(range(0, 4 * number + 1, 4)) for number in range(300)]
    assert max(count for _, count in found) < 150


class Overwrites(Pipeline):
    """Writes to its inputs, and dies of some batches when it has, once each."""

    def __init__(self, source, folder, **options):
        super().__init__(source, batch_size=4, device="cpu", num_workers=2, on_worker_death="restart", **options)
        self.folder = folder

    def forward(self, batch):
        number = int(batch[0][0])
        for sample in batch:
            sample += 1000
        if number % 20 == 8:
            with contextlib.suppress(FileExistsError):
                (self.folder / str(number)).mkdir()
                os.kill(os.getpid(), signal.SIGKILL)
        return batch if number % 8 else [float(sample[0]) for sample in batch]


@pytest.mark.filterwarnings("ignore:worker .* was killed:RuntimeWarning")
@pytest.mark.parametrize("method", ["fork", "zygote"])
def test_what_a_worker_wrote_to_its_inputs_before_it_died_is_not_seen_by_the_next_one(tmp_path, method):
    with Overwrites(numbered(80), tmp_path, start_method=method, **WORKERS) as pipeline:
        seen = [float(np.ravel(sample)[0]) for batch in pipeline for sample in batch]
        assert pipeline.statistics().worker_deaths == 4
    assert seen == [1000.0 + number for number in range(80)]


@pytest.fixture(params=[False, True], ids=["shared", "private"])
def lent(request):
    memory = Memory(1 << 20)
    yield LentMemory(memory, private=request.param)
    memory.close()


def test_views_are_counted_by_batch_until_nobody_has_them(lent):
    lent.begin(3)
    first = torch.from_numpy(lent.view(0, 64))
    lent.begin(4)
    second, third = torch.from_numpy(lent.view(64, 64)).view(torch.float32)[3:5], lent.view(128, 64)
    assert lent.held() == (3, 4)
    del first
    assert lent.held() == (4,)
    del third
    assert lent.held() == (4,)
    del second
    assert lent.held() == ()


def test_small_outputs_that_are_inputs_are_copied_and_others_are_not(lent):
    small, large = torch.from_numpy(lent.view(0, 64)), torch.from_numpy(lent.view(64, 1 << 18))
    elsewhere = torch.zeros(4)
    assert lent.own(small).data_ptr() != small.data_ptr()
    assert torch.equal(lent.own(small), small)
    assert lent.own(large) is large
    assert lent.own(elsewhere) is elsewhere
    ragged = TensorList([small[:3], small[5:]])
    assert [sample.data_ptr() for sample in lent.own(ragged)] != [sample.data_ptr() for sample in ragged]
    assert lent.own(TensorList([])) is not None
    mixed = TensorList([small[:4], elsewhere.view(2, 2).byte()])
    assert [sample.dim() for sample in lent.own(mixed)] == [1, 2]
