"""Workers find out what operators will do with a batch; what comes of it is what the stage would make by itself."""

import os
import signal
import time

import numpy as np
import pytest
import torch

import torchdali
from tests.pipeline.looking_ahead import FILES, Again, Decoding, Read, Training, assert_same, epoch, patient
from torchdali import ExternalSource, fn, ops, pipeline_def
from torchdali.pipeline import _foresee
from torchdali.pipeline._foresee import MOST_LATE


@pytest.fixture
def decided(monkeypatch):
    """Numbers of the batches in which the stage's thread decided what to do, by what was decided."""
    found = {}
    pid = os.getpid()

    def noting(cls, name):
        decide = getattr(cls, name)

        def decides(self, *arguments, **keywords):
            context = ops.current_batch()
            if os.getpid() == pid and context is not None and context.following is not None:
                found.setdefault(type(self).__name__, set()).add(context.iteration)
            return decide(self, *arguments, **keywords)

        monkeypatch.setattr(cls, name, decides)

    noting(ops.Fused, "steps")
    noting(ops.Rotate, "steps")
    noting(ops.BrightnessContrast, "steps")
    noting(ops.RandomOperator, "uniforms")
    return found


@pytest.mark.parametrize("decoder", [ops.DecodeImage, ops.DecodeRandomCrop])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_stage_decides_nothing_any_more_and_makes_the_same(early, decided, decoder, share):
    expected = epoch(Training(decoder(), stage_thread=False))
    found = patient(Training(early(decoder), cpu_share=share))
    assert_same(found, expected)
    assert len(found) == 15
    assert all(len(batches) <= 5 for batches in decided.values()), decided


def test_what_a_function_of_fn_calls_is_foreseen_too(early, decided, monkeypatch):
    def make(**options):
        @pipeline_def(batch_size=4, py_num_workers=2, device_id=None, seed=6, last_batch="partial", **options)
        def pipeline():
            files = fn.external_source(source=lambda info: Again()(info)[0], batch=False, parallel=True)
            images = fn.resize(fn.decoders.image_random_crop(files), size=(20, 24))
            contrast = fn.random.uniform(range=(1.0, 3.0))
            return fn.brightness_contrast(images, contrast=contrast, brightness=fn.random.uniform(range=(0.5, 1.0)))

        return pipeline()

    def run(pipeline, pause):
        batches = []
        with pipeline:
            while True:
                try:
                    (images,) = pipeline.run()
                except StopIteration:
                    return batches
                batches.append([image.clone() for image in images])
                time.sleep(pause)

    expected = run(make(stage_thread=False), 0)
    pipeline = make()
    for module in pipeline.modules():
        if isinstance(module, ops.DecodeImage):
            module._decoders.update(early()._decoders)
    assert_same(run(pipeline, 0.03), expected)
    assert all(len(batches) <= 5 for batches in decided.values()), decided


@pytest.mark.parametrize(
    ("decoder", "options"),
    [
        (ops.DecodeImage, {}),
        (ops.DecodeRandomCrop, {}),
        (ops.DecodeCrop, {"size": 20, "position": (ops.Uniform(0, 1), 0.5)}),
    ],
)
def test_draws_are_recorded_as_ever(early, decoder, options):
    def draws(pipeline):
        found = []
        with pipeline:
            for _ in pipeline:
                found.append({name: values.clone() for name, values in pipeline.last_draws.items()})
                time.sleep(0.02)
        return found

    expected = draws(Training(decoder(**options), stage_thread=False, record_draws=True))
    found = draws(Training(early(decoder, **options), record_draws=True))
    assert len(expected[0]) == (3 if decoder is ops.DecodeImage else 4)
    assert [sorted(batch) for batch in found] == [sorted(batch) for batch in expected]
    for batch, other in zip(found, expected, strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in batch)


@pytest.mark.parametrize("odd", [b"no image", FILES[3][:300]])
def test_bad_images_cost_the_others_nothing(early, odd):
    source = Again(60, {9: np.frombuffer(bytes(odd), np.uint8), 10: np.frombuffer(bytes(odd), np.uint8)})
    expected = epoch(Training(ops.DecodeImage(on_error="skip"), source, stage_thread=False))
    found = patient(Training(early(on_error="skip"), source))
    assert [len(batch) for batch in found] == [4, 4, 2, *[4] * 12]
    assert_same(found, expected)


def test_what_the_engine_alone_refuses_is_left_out_with_its_draws(early, library, monkeypatch):
    class Drawing(Decoding):
        def __init__(self, decode, **options):
            super().__init__(decode, Again(), **options)
            self.before, self.after = ops.Uniform(), ops.Uniform()
            self.shrink = ops.Resize((8, 9))

        def forward(self, files):
            before = self.before()
            images = self.shrink(self.decode(files))
            return images, before, self.after()

    def run(pipeline):
        with pipeline:
            found = []
            for images, before, after in pipeline:
                found.append((len(images), before.clone(), after.clone()))
                time.sleep(0.03)
            return found

    # As after a file of which neither engine nor CPU makes anything, though its header is good.
    def broken(module):
        original = module._one_by_one

        def one_by_one(batch, infos, given, others, names, device):
            found, others = original(batch, infos, given, others, names, device)
            ops._context.keep_samples(len(batch), [0, 2, 3])
            return found[[0, 2, 3]], others

        monkeypatch.setattr(module, "_one_by_one", one_by_one)
        return module

    good = run(Drawing(ops.DecodeImage(), stage_thread=False))
    library.statuses = [0] * 0
    decode = library.nvjpegDecodeBatched
    calls = []

    def refusing(*arguments):
        calls.append(True)
        return 3 if len(calls) == 9 else decode(*arguments)

    library.nvjpegDecodeBatched = refusing
    found = run(Drawing(broken(early(on_error="skip"))))
    short = [n for n, (count, _, _) in enumerate(found) if count == 3]
    assert len(short) == 1
    for n, ((count, before, after), (_, same_before, same_after)) in enumerate(zip(found, good, strict=True)):
        kept = [0, 2, 3] if n in short else [0, 1, 2, 3]
        assert count == len(kept)
        assert torch.equal(before, same_before)
        assert torch.equal(after, same_after[kept])


def test_nobody_waits_for_workers_that_have_enough_to_do(early, monkeypatch):
    answers = []
    answer = _foresee.Foresight.answer
    monkeypatch.setattr(
        _foresee.Foresight, "answer", lambda self, asked: answers.append(answer(self, asked)) or answers[-1]
    )
    monkeypatch.setattr(_foresee, "foresee_in_worker", slow_to_foresee)
    monkeypatch.setattr(torchdali.pipeline._staff, "foresee_in_worker", slow_to_foresee)
    expected = epoch(Training(ops.DecodeImage(), Again(160), stage_thread=False))
    assert_same(epoch(Training(early(), Again(160))), expected)
    assert answers.count(None) >= MOST_LATE
    assert len(answers) < 39  # it was not asked for each


def slow_to_foresee(request):
    time.sleep(0.3)
    return _foresee_in_worker(request)


_foresee_in_worker = _foresee.foresee_in_worker


def deadly_to_foresee(request):
    if request.iteration == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return _foresee_in_worker(request)


def test_the_death_of_a_worker_that_foresees_costs_nothing(early, monkeypatch):
    monkeypatch.setattr(torchdali.pipeline._staff, "foresee_in_worker", deadly_to_foresee)
    expected = epoch(Training(ops.DecodeImage(), stage_thread=False))
    pipeline = Training(early(), on_worker_death="restart")
    with pytest.warns(RuntimeWarning, match="another one was started"):
        found = patient(pipeline)
    assert_same(found, expected)
    assert pipeline.statistics().worker_deaths >= 1


def test_epochs_end_and_begin_as_without(early):
    with Training(early(), Read()) as pipeline, Training(ops.DecodeImage(), Read(), stage_thread=False) as other:
        for _ in range(3):
            assert_same([list(i) for i in pipeline], [list(i) for i in other])
        for one in (pipeline, other):
            next(iter(one))
            one.reset()
        assert_same([list(i) for i in pipeline], [list(i) for i in other])
        pipeline.set_epoch(1)
        other.set_epoch(1)
        assert_same([list(i) for i in pipeline], [list(i) for i in other])


def test_ranks_have_their_own_samples_foreseen(early):
    expected = epoch(Training(ops.DecodeImage(), stage_thread=False))
    images = [image for batch in expected for image in batch]

    class Sized(Again):
        def __len__(self):
            return self.count

    for rank in range(2):
        pipeline = Training(early(), Sized())
        pipeline.shard(rank, 2)
        mine = [image for batch in patient(pipeline) for image in batch]
        assert len(mine) == 30
        assert all(torch.equal(image, other) for image, other in zip(mine, images[rank::2], strict=True))


def test_batches_of_iterables_are_not_foreseen(early):
    def batches():
        for n in range(5):
            yield [np.stack([np.resize(FILES[0], 4000)] * 4) * 0 + n]

    class Passing(torchdali.Pipeline):
        def __init__(self):
            super().__init__(ExternalSource(batches, num_outputs=1, batch=True), batch_size=4, num_workers=1)

    with Passing() as pipeline:
        assert pipeline._reader._foresight is None
        assert [int(batch[0][0]) for batch in pipeline] == list(range(5))
