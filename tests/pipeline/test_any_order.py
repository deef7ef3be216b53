"""A pipeline's calls in any order: each batch in its turn, and a checkpoint that says where that is."""

import contextlib
import random
import threading

import numpy as np
import pytest
import torch

from tests.pipeline.placing import WORKERS
from tests.pipeline.support import WAYS
from torchdali import ExternalSource, Pipeline
from torchdali.pipeline._ahead import Ahead
from torchdali.source import Reader
from torchdali.source._feed import ParallelFeed

BATCHES, SIZE = 5, 3
MOVES = ["run"] * 6 + ["begin", "begin in a thread", "reset", "set_epoch", "restore", "change"]


class Placed(Pipeline):
    """Returns the epoch and the number of each batch."""

    def forward(self, epochs, numbers):
        return int(epochs[0]), int(numbers[0]) // SIZE


def by_sample(info):
    if info.idx_in_epoch >= BATCHES * SIZE:
        raise StopIteration
    return np.int64(info.epoch_idx), np.int64(info.idx_in_epoch)


def by_batch(info):
    if info.iteration >= BATCHES:
        raise StopIteration
    return torch.full((SIZE,), info.epoch_idx), torch.arange(SIZE) + info.iteration * SIZE


class Expected:
    """Where the consumer is to be."""

    def __init__(self):
        self.epoch = self.batch = 0
        self.jump = None
        self.begun = self.told = self.built = False

    def begin(self):
        """An iteration, or a reset of what was built."""
        if self.jump is not None:
            (self.epoch, self.batch), self.jump = self.jump, None
            self.begun = self.told = False
        elif self.begun:
            self.epoch, self.batch = self.epoch + 1, 0
            self.begun = self.told = False
        self.built = True

    def run(self):
        if not self.built:
            self.begin()
        self.begun = True
        if self.batch == BATCHES:
            self.told = True
            return None
        self.batch += 1
        return self.epoch, self.batch - 1

    def checkpoint(self):
        if self.jump is not None:
            return self.jump[0], self.jump[1] * SIZE, False
        return self.epoch, self.batch * SIZE, self.told


def run(pipeline):
    try:
        return pipeline.run()
    except StopIteration:
        return None


def move(draw, pipeline, expected, how):
    if how == "run":
        outputs, wanted = run(pipeline), expected.run()
        assert outputs == wanted
    elif how == "begin":
        iter(pipeline)
        expected.begin()
    elif how == "begin in a thread":
        thread = threading.Thread(target=iter, args=(pipeline,))
        thread.start()
        thread.join()
        expected.begin()
    elif how == "reset":
        pipeline.reset()
        if expected.built:
            expected.begin()
    elif how == "set_epoch":
        epoch = draw.choice([expected.epoch, expected.epoch + 1, draw.randrange(6)])
        pipeline.set_epoch(epoch)
        if expected.jump is None or expected.jump[0] != epoch:
            expected.jump = epoch, 0
    elif how == "restore":
        epoch, batch, finished = draw.randrange(5), draw.randrange(BATCHES), draw.random() < 0.2
        pipeline.restore({"version": 1, "epoch": epoch, "samples": batch * SIZE, "finished": finished, "seed": 1})
        expected.jump = (epoch + 1, 0) if finished else (epoch, batch)
    else:
        draw.choice([pipeline.train, pipeline.eval, lambda: pipeline.load_state_dict(pipeline.state_dict())])()
    checkpoint = pipeline.checkpoint()
    assert (checkpoint["epoch"], checkpoint["samples"], checkpoint["finished"]) == expected.checkpoint()


def placed(source, parallel=True, **options):
    whole = source is by_batch
    source = ExternalSource(source, num_outputs=2, parallel=parallel, batch=whole, batch_info=whole)
    return Placed(source, **{"batch_size": SIZE, "num_workers": 1, "device": "cpu", "seed": 1, **options})


@pytest.mark.parametrize("source", [by_sample, by_batch])
@pytest.mark.parametrize("options", [*WAYS, WORKERS], ids=str)
def test_whatever_is_called_each_batch_comes_in_its_turn(source, options):
    for seed in range(10 if "placement" not in options else 4):
        draw, moves = random.Random(seed), []
        with placed(source, prefetch=draw.randint(1, 4), **options) as pipeline:
            expected = Expected()
            for _ in range(30):
                moves.append(draw.choice(MOVES))
                try:
                    move(draw, pipeline, expected, moves[-1])
                except AssertionError as error:
                    raise AssertionError(f"after {moves} with the seed {seed}: {error}") from error


@pytest.mark.parametrize("step", [(Ahead, "_await"), (Reader, "finish"), (ParallelFeed, "receive")])
def test_whatever_ctrl_c_breaks_off_each_batch_comes_in_its_turn(monkeypatch, step):
    """A call that was broken off has been made, or not: what is asked for next is asked for as if it had been made."""
    holder, name = step
    original = getattr(holder, name)
    broken = [0]

    def interrupted(*args):
        if threading.current_thread() is threading.main_thread() and draw.random() < 0.3:
            broken[0] += 1
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(holder, name, interrupted)
    for seed in range(20):
        draw = random.Random(seed)
        with placed(by_sample, stage_thread=holder is Ahead) as pipeline:
            expected = Expected()
            for _ in range(30):
                how = draw.choice(["run", "run", "run", "begin", "restore"])
                if how == "restore":
                    move(draw, pipeline, expected, how)
                    how = "begin"
                while True:
                    try:
                        outputs = run(pipeline) if how == "run" else iter(pipeline) and None
                    except KeyboardInterrupt:
                        continue
                    break
                if how == "run":
                    assert outputs == expected.run()
                else:
                    expected.begin()
            with contextlib.suppress(KeyboardInterrupt):
                pipeline.close()
    assert broken[0] > 5
