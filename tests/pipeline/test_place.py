"""Where a pipeline is in its epochs, and which part of them it reads."""

import contextlib
import warnings

import numpy as np
import pytest
import torch

import torchdali
from torchdali import ExternalSource, PipelineStateError, _warnings, ops
from torchdali.pipeline._ahead import Ahead
from torchdali.source import Reader
from torchdali.source._feed import ParallelFeed


class Numbers:
    def __init__(self, count=11):
        self.count = count

    def __len__(self):
        return self.count

    def __call__(self, info):
        if info.idx_in_epoch >= self.count:
            raise StopIteration
        return np.int64(info.idx_in_epoch), np.int64(info.epoch_idx), torch.rand((), dtype=torch.float64)


class WithoutLength:
    def __call__(self, info):
        if info.idx_in_epoch >= 11:
            raise StopIteration
        return np.int64(info.idx_in_epoch), np.int64(info.epoch_idx), np.float64(0)


class Drawing(torchdali.Pipeline):
    def __init__(self, source, **options):
        super().__init__(source, device="cpu", seed=3, record_draws=True, **options)
        self.draw = ops.Uniform(0.0, 1.0)
        self.noise = torch.nn.Identity()

    def forward(self, numbers, epochs, drawn):
        return numbers.as_tensor(), epochs.as_tensor(), drawn.as_tensor(), self.draw(), torch.rand(())


def make(source=None, batch_size=2, parallel=True, **options):
    source = ExternalSource(source or Numbers(), num_outputs=3, parallel=parallel)
    return Drawing(source, batch_size=batch_size, num_workers=2, **options)


def plain(batches):
    return [[part.tolist() for part in batch] for batch in batches]


def of_ranks(ranks, rest="pad", **options):
    found = []
    for rank in range(ranks):
        with make(**options) as pipeline:
            pipeline.shard(rank, ranks, rest=rest)
            batches = plain(pipeline)
            if rest != "uneven" or not isinstance(options.get("source"), WithoutLength):
                assert len(batches) == len(pipeline)
            found.append(batches)
    return found


@pytest.mark.parametrize("parallel", [True, False])
def test_the_parts_of_all_ranks_are_disjoint_and_make_up_the_epoch(parallel):
    numbers = [
        number for batches in of_ranks(3, "uneven", parallel=parallel) for batch in batches for number in batch[0]
    ]
    assert sorted(numbers) == list(range(11))


def test_batches_and_draws_of_a_part_are_the_same_wherever_the_stage_runs():
    main = of_ranks(2)
    assert of_ranks(2, placement="workers") == main
    assert [batches[0][0] for batches in main] == [[0, 2], [1, 3]]
    assert main[0][0][3] != main[1][0][3]


def test_with_padding_each_rank_makes_as_many_steps_and_none_is_left_out():
    found = of_ranks(3, "pad")
    assert [len(batches) for batches in found] == [2, 2, 2]
    assert {number for batches in found for batch in batches for number in batch[0]} == set(range(11))
    assert [batches[-1][0] for batches in found] == [[6, 9], [7, 10], [8, 0]]


def test_with_dropping_each_rank_has_as_many_samples_and_none_twice():
    numbers = [[number for batch in batches for number in batch[0]] for batches in of_ranks(3, "drop")]
    assert numbers == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_a_source_without_a_length_can_be_read_unevenly_and_in_no_other_way():
    found = of_ranks(2, "uneven", source=WithoutLength())
    assert sorted(number for batches in found for batch in batches for number in batch[0]) == list(range(11))
    with make(WithoutLength()) as pipeline, pytest.raises(ValueError, match="no __len__"):
        pipeline.shard(0, 2)


def test_what_is_drawn_for_a_sample_does_not_depend_on_the_number_of_ranks():
    drawn = {}
    for batches in [*of_ranks(1), *of_ranks(2, "uneven")]:
        for numbers, _, of_source, of_operator, _ in batches:
            for number, *draws in zip(numbers, of_source, of_operator, strict=True):
                assert drawn.setdefault(number, draws) == draws
    assert len({tuple(draws) for draws in drawn.values()}) == 11


def test_what_is_drawn_for_a_whole_batch_differs_between_ranks():
    first, second = of_ranks(2, "drop")
    assert not {batch[4] for batch in first} & {batch[4] for batch in second}


@pytest.mark.parametrize("arguments", [(2, 2), (-1, 2), (0, 0), (0.0, 2), (0, 2, "some")])
def test_a_rank_that_cannot_be_is_refused(arguments):
    rank, ranks, rest = (*arguments, "pad")[:3]
    with make() as pipeline, pytest.raises(ValueError, match="rank|rest"):
        pipeline.shard(rank, ranks, rest=rest)


def test_a_source_of_whole_batches_cannot_be_divided():
    source = ExternalSource(lambda: np.zeros((2, 1)), batch=True)
    with (
        torchdali.Pipeline(source, batch_size=2, device="cpu") as pipeline,
        pytest.raises(TypeError, match="whole batches"),
    ):
        pipeline.shard(0, 2, rest="uneven")


def test_a_pipeline_that_has_begun_cannot_be_divided():
    with make() as pipeline:
        pipeline.run()
        with pytest.raises(PipelineStateError, match="before the first batch"):
            pipeline.shard(0, 2)


@pytest.mark.parametrize("options", [{}, {"parallel": False}, {"stage_thread": False}, {"cpu_share": 0.5}])
def test_a_pipeline_goes_on_exactly_from_a_checkpoint_in_the_middle_of_an_epoch(options):
    with make(**options) as pipeline:
        list(pipeline)
        batches = iter(pipeline)
        taken = [next(batches) for _ in range(2)]
        checkpoint = pipeline.checkpoint()
        rest = plain(batches)
        after = plain(pipeline)
    assert taken[0][1][0] == 1
    assert (checkpoint["epoch"], checkpoint["samples"], checkpoint["finished"]) == (1, 4, False)
    with make(**options) as pipeline:
        pipeline.restore(checkpoint)
        assert pipeline.checkpoint() == checkpoint
        assert plain(pipeline) == rest
        assert plain(pipeline) == after


def test_from_a_checkpoint_at_the_end_the_next_epoch_follows():
    with make() as pipeline:
        list(pipeline)
        checkpoint = pipeline.checkpoint()
        second = plain(pipeline)
        pipeline.restore(checkpoint)
        assert plain(pipeline) == second


def test_a_checkpoint_can_be_gone_on_from_with_other_ranks_and_batches():
    with make(Numbers(12), batch_size=4) as pipeline:
        batches = iter(pipeline)
        next(batches)
        checkpoint = pipeline.checkpoint()
    found = []
    for rank in range(2):
        with make(Numbers(12), batch_size=2) as pipeline:
            pipeline.shard(rank, 2)
            pipeline.restore(checkpoint)
            found += [number for batch in pipeline for number in batch[0].tolist()]
    assert sorted(found) == list(range(4, 12))
    with make(Numbers(12), batch_size=3) as pipeline, pytest.raises(ValueError, match="no whole number of steps"):
        pipeline.restore(checkpoint)


def test_an_iterable_is_passed_over_up_to_the_place():
    def batches():
        yield from (np.full((2,), number) for number in range(5))

    def pipeline(parallel):
        source = ExternalSource(batches, batch=True, parallel=parallel)
        return torchdali.Pipeline(source, batch_size=2, device="cpu", seed=0)

    for parallel in (True, False):
        with pipeline(parallel) as one:
            next(iter(one))
            checkpoint = one.checkpoint()
        with pipeline(parallel) as other:
            other.restore(checkpoint)
            assert [batch.as_tensor()[0].item() for batch in other] == [1, 2, 3, 4]
    source = ExternalSource(batches(), batch=True)
    other = torchdali.Pipeline(source, batch_size=2, device="cpu", seed=0)
    with pytest.raises(TypeError, match="generator function"):
        other.restore(checkpoint)


def test_another_seed_is_warned_of():
    with make() as pipeline, pytest.warns(RuntimeWarning, match="the seed 4"):
        pipeline.restore(pipeline.checkpoint() | {"seed": 4})


@pytest.mark.parametrize(
    "checkpoint", [None, {}, {"version": 2, "epoch": 0, "samples": 0, "finished": False, "seed": 3}]
)
def test_what_is_no_checkpoint_is_refused(checkpoint):
    with make() as pipeline, pytest.raises(ValueError, match="no checkpoint"):
        pipeline.restore(checkpoint)


def test_an_epoch_can_be_named_and_repeated():
    with make() as pipeline:
        pipeline.set_epoch(7)
        once = plain(pipeline)
        assert once[0][1] == [7, 7]
        eighth = plain(pipeline)
        assert eighth[0][1] == [8, 8]
        pipeline.set_epoch(7)
        assert plain(pipeline) == once
        with pytest.raises(ValueError, match="counted from 0"):
            pipeline.set_epoch(-1)


@pytest.mark.parametrize("name", ["restore", "set_epoch"])
@pytest.mark.parametrize(
    ("holder", "step", "stage_thread"),
    [(Ahead, "alone", True), (Ahead, "_await", True), (Reader, "finish", False), (ParallelFeed, "receive", False)],
)
def test_ctrl_c_before_the_first_batch_forgets_no_place(monkeypatch, name, holder, step, stage_thread):
    """In the middle of an epoch, while the next one is begun or its first batch is waited for."""

    with make(stage_thread=stage_thread) as pipeline:
        pipeline.run()
        if name == "restore":
            pipeline.restore(pipeline.checkpoint() | {"epoch": 5, "samples": 4})
        else:
            pipeline.set_epoch(5)
        for _ in range(2):
            with monkeypatch.context() as patched:
                patched.setattr(holder, step, interrupted)
                with pytest.raises(KeyboardInterrupt):
                    next(iter(pipeline))
        numbers, epochs, *_ = next(iter(pipeline))
        assert epochs.tolist() == [5, 5]
        assert numbers.tolist() == ([4, 5] if name == "restore" else [0, 1])
        assert next(iter(pipeline))[1].tolist() == [6, 6]


def test_a_batch_that_ctrl_c_took_back_is_not_behind_the_checkpoint(monkeypatch):
    with make() as pipeline:
        first, *_ = pipeline.run()

        with monkeypatch.context() as patched:
            patched.setattr(Ahead, "advance", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pipeline.run()
        checkpoint = pipeline.checkpoint()
        second, *_ = pipeline.run()
    assert (first.tolist(), second.tolist()) == ([0, 1], [2, 3])
    with make() as pipeline:
        pipeline.restore(checkpoint)
        again, *_ = pipeline.run()
    assert torch.equal(again, second)


def place(pipeline):
    checkpoint = pipeline.checkpoint()
    return checkpoint["epoch"], checkpoint["samples"], checkpoint["finished"]


def passed(pipeline):
    numbers, epochs, *_ = pipeline.run()
    return int(epochs[0]), int(numbers[0])


@pytest.mark.parametrize("stage_thread", [True, False])
def test_batches_of_a_restored_place_count_also_without_an_iteration(stage_thread):
    with make(stage_thread=stage_thread) as pipeline:
        pipeline.restore({"version": 1, "epoch": 2, "samples": 6, "finished": False, "seed": 3})
        assert passed(pipeline) == (2, 6)
        assert place(pipeline) == (2, 8, False)


@pytest.mark.parametrize("stage_thread", [True, False])
def test_ctrl_c_while_the_next_epoch_is_begun_leaves_nothing_of_the_last_one_in_the_checkpoint(
    monkeypatch, stage_thread
):
    with make(stage_thread=stage_thread) as pipeline:
        assert len(list(pipeline)) == 6
        with monkeypatch.context() as patched:
            patched.setattr(Reader, "finish", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pipeline.reset()
        assert place(pipeline) == (1, 0, False)
        assert passed(pipeline) == (1, 0)


@pytest.mark.parametrize("stage_thread", [True, False])
def test_a_place_is_gone_to_once_also_where_a_warning_about_it_is_an_error(monkeypatch, stage_thread):
    with make(stage_thread=stage_thread) as pipeline:
        pipeline.run()
        pipeline.set_epoch(5)
        with monkeypatch.context() as patched, warnings.catch_warnings():
            patched.setattr(Reader, "_revive", lambda self: _warnings.warn("others have died"))
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="others have died"):
                pipeline.reset()
        assert passed(pipeline) == (5, 0)
        assert place(pipeline) == (5, 2, False)
        assert next(iter(pipeline))[1].tolist() == [6, 6]


@pytest.mark.parametrize("stage_thread", [True, False])
@pytest.mark.parametrize("begin", [lambda pipeline: next(iter(pipeline)), lambda pipeline: pipeline.run()])
def test_going_to_a_place_that_was_broken_off_is_begun_again(stage_thread, begin):
    """Here while what was read is passed over."""
    broken = []

    def items():
        for number in range(11):
            if number == 3 and not broken:
                broken.append(number)
                raise KeyboardInterrupt
            yield np.int64(number), np.int64(2), np.float64(0)

    source = ExternalSource(items, num_outputs=3, batch=False, parallel=False)
    with Drawing(source, batch_size=2, stage_thread=stage_thread) as pipeline:
        pipeline.restore({"version": 1, "epoch": 2, "samples": 6, "finished": False, "seed": 3})
        with pytest.raises(KeyboardInterrupt):
            begin(pipeline)
        assert place(pipeline) == (2, 6, False)
        assert [begin(pipeline)[0].tolist(), *(numbers.tolist() for numbers, *_ in rest(pipeline))] == [
            [6, 7],
            [8, 9],
            [10],
        ]
        assert place(pipeline) == (2, 12, True)


@pytest.mark.parametrize("stage_thread", [True, False])
def test_epochs_that_begin_by_themselves_count_from_their_beginning(stage_thread):
    items = [(np.int64(number), np.int64(0), np.float64(0)) for number in range(11)]
    source = ExternalSource(items, num_outputs=3, batch=False, parallel=False, cycle="raise")
    with Drawing(source, batch_size=2, stage_thread=stage_thread) as pipeline:
        for epoch in range(3):
            assert passed(pipeline) == (0, 0)
            assert place(pipeline) == (epoch, 2, False)
            assert len(list(rest(pipeline))) == 5
            assert place(pipeline) == (epoch, 12, True)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("stage_thread", [True, False])
def test_a_batch_that_raised_counts_and_one_that_comes_again_does_not(stage_thread, parallel):
    class OddError(BaseException):
        pass

    def source(info):
        if info.idx_in_epoch == 3:
            raise OddError
        return Numbers()(info)

    with make(source, parallel=parallel, stage_thread=stage_thread) as pipeline:
        pipeline.run()
        with pytest.raises(OddError):
            pipeline.run()
        assert place(pipeline) == (0, 4, False)
        forward, pipeline.forward = pipeline.forward, interrupted
        pipeline.reset()
        with pytest.raises(KeyboardInterrupt):
            pipeline.run()
        assert place(pipeline) == (1, 0, False)
        pipeline.forward = forward


def rest(pipeline):
    """The batches up to the end of the epoch."""
    with contextlib.suppress(StopIteration):
        while True:
            yield pipeline.run()


def interrupted(*args):
    raise KeyboardInterrupt
