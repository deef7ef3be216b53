"""Workers that die, fail or are slow while they decode for the stage; Ctrl-C meanwhile."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from tests.pipeline.sharing import GOOD, Decodes, results, same, source_of
from tests.pool.support import die
from torchdali import WorkerDiedError
from torchdali.ops._decoded import DecodeSettings, Observation
from torchdali.pipeline import _staff
from torchdali.pipeline._share import HELD, SharingReader
from torchdali.pipeline._share_out import decode_in_worker
from torchdali.pool import worker_info
from torchdali.source import Reader


def with_function(monkeypatch, function):
    """Workers call this in the place of the decoding function."""
    monkeypatch.setattr(_staff, "decode_in_worker", function)


@pytest.mark.parametrize("policy", ["raise", "restart"])
@pytest.mark.filterwarnings("ignore:.*(died|was killed|going on with)")
def test_a_worker_that_dies_while_it_decodes_costs_no_image(monkeypatch, policy):
    calls = multiprocessing.get_context("fork").Value("i", 0)

    def dies_once(item):
        with calls.get_lock():
            calls.value += 1
            number = calls.value
        if number == 5:
            die(signal.SIGKILL)
        return decode_in_worker(item)

    with Decodes(GOOD) as pipeline:
        expected = results(pipeline)
    with_function(monkeypatch, dies_once)
    with Decodes(GOOD, cpu_share=1, on_worker_death=policy) as pipeline:
        try:
            same(results(pipeline), expected)
        except WorkerDiedError:  # it had samples of a later batch in hand as well
            assert policy == "raise"
        same(results(pipeline), expected)
        assert pipeline.statistics().worker_deaths == 1


@pytest.mark.filterwarnings("ignore:.*(died|was killed|going on with)")
def test_a_file_that_kills_every_worker_is_decoded_in_the_stage(monkeypatch):
    def dies(item):
        if worker_info() is not None and isinstance(item.place, bytes) and item.place == GOOD[6]:
            die(signal.SIGKILL)
        return decode_in_worker(item)

    monkeypatch.setattr("torchdali.pool.Memory.offset_of", lambda *_: None)  # so that files are known by their bytes
    with Decodes(GOOD) as pipeline:
        expected = results(pipeline)
    with_function(monkeypatch, dies)
    with Decodes(GOOD, cpu_share=1, on_worker_death="restart") as pipeline:
        same(results(pipeline), expected)
        assert pipeline.statistics().worker_deaths == 3


@pytest.mark.filterwarnings("ignore:.*(died|was killed|going on with)")
def test_without_any_worker_what_was_read_still_arrives(monkeypatch):
    def dies(item):
        die(signal.SIGKILL)

    with_function(monkeypatch, dies)
    with Decodes(GOOD, cpu_share=1, num_workers=1) as pipeline:
        assert [int(label) for label in pipeline.run()[1]] == [0, 1, 2, 3]
        with pytest.raises(WorkerDiedError):
            list(iter(pipeline.run, None))
        with pytest.raises(WorkerDiedError):
            pipeline.run()


def refuse(error):
    raise error


def test_whatever_a_worker_answers_the_image_arrives(monkeypatch):
    answers = [
        lambda item: refuse(MemoryError()),
        lambda item: refuse(SystemExit()),
        lambda item: None,
        lambda item: {"no": "image"},
    ]

    with Decodes(GOOD) as pipeline:
        expected = results(pipeline)
    for function in answers:
        with_function(monkeypatch, function)
        with Decodes(GOOD, cpu_share=1) as pipeline:
            same(results(pipeline), expected)
            assert pipeline.statistics().cpu_share == 0


def test_workers_killed_at_random_cost_nothing_when_they_are_replaced():
    random = np.random.default_rng(7)
    with Decodes(GOOD * 4) as pipeline:
        expected = results(pipeline)
    with (
        pytest.warns(RuntimeWarning, match="was killed by SIGKILL"),
        Decodes(GOOD * 4, cpu_share=0.7, on_worker_death="restart", num_workers=3) as pipeline,
    ):
        pipeline.build()
        seen = []
        while True:
            if random.random() < 0.3 and (pids := pipeline.worker_pids):
                with contextlib.suppress(ProcessLookupError):  # killed before, which nobody has noticed yet
                    os.kill(int(random.choice(pids)), signal.SIGKILL)
            try:
                images, labels = pipeline.run()
            except StopIteration:
                break
            seen.append(([image.clone() for image in images], images.layout, [int(label) for label in labels]))
        same(seen, expected)
        assert pipeline.statistics().worker_deaths > 0


@pytest.fixture
def make_reader():
    """Makes readers that share out everything once they have learned what, and closes them after the test."""
    readers = []

    def make(function=decode_in_worker, num_workers=1):
        options = {"batch_size": 4, "prefetch": 2, "seed": 1, "last_batch": "partial", "name": "reader"}
        inner = Reader([source_of(GOOD)], num_workers=num_workers, functions=[function], **options)
        readers.append(SharingReader(inner, 1.0))
        readers[-1].start()
        return readers[-1], inner

    yield make
    for reader in readers:
        reader.close()


RGB = Observation(((0, DecodeSettings("RGB", True, 1 << 28, "torchvision")),))


def test_ctrl_c_while_it_waits_loses_no_batch(make_reader):
    def slow(item):
        time.sleep(0.02)
        return decode_in_worker(item)

    reader, _ = make_reader(slow, 2)
    reader.learn(RGB)
    interrupts, seen = 0, []
    while "end" not in seen:
        timer = threading.Timer(0.015, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with contextlib.suppress(StopIteration):
                reader.peek()
            timer.cancel()
            timer.join()
            time.sleep(0.001)  # a signal that was sent is still to be delivered
        except KeyboardInterrupt:  # then the same again
            interrupts += 1
            continue
        try:
            batch = reader.next()
        except StopIteration:
            seen.append("end")
        else:
            seen.append(int(batch.outputs[1][0]))
            assert batch.decoded is not None
            assert len(batch.decoded.images) == 4
    assert seen == [0, 4, 8, 12, 16, 20, 24, "end"]
    assert interrupts


def test_when_all_workers_are_dead_what_is_held_is_handed_on_as_it_is(make_reader):
    reader, inner = make_reader()
    reader.next()
    while reader.wait(1) or len(reader._held) < HELD:
        reader._look_ahead()
    os.kill(reader.pids[0], signal.SIGKILL)
    while reader.pids:  # it is seen by whoever waits
        inner.pool.collect(inner.pool.submit(inner.first_function, [None]))
    reader.learn(RGB)
    for number in range(HELD):
        batch = reader.next()
        assert batch.decoded is None
        assert [int(label) for label in batch.outputs[1]] == [*range(4 * number + 4, 4 * number + 8)]
    with pytest.raises(WorkerDiedError):
        list(iter(reader.next, None))
