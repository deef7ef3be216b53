"""Epochs: batches in order, their end, the next one."""

import warnings

import numpy as np
import pytest

from tests.source.support import epoch, firsts, numbers, values
from torchdali.source import BatchInfo, ExternalSource, SampleInfo


def batch_numbers(length, size=4):
    """The samples of ``numbers`` as a batch source."""

    def batch(info):
        first = info.iteration * size
        if first >= length:
            raise StopIteration
        return np.array([[index, info.epoch_idx] for index in range(first, min(first + size, length))])

    return batch


class Samples:
    """An iterable of samples, which counts its epochs by itself."""

    def __init__(self, length):
        self.length, self.epochs = length, 0

    def __iter__(self):
        number, self.epochs = self.epochs, self.epochs + 1
        return iter([np.array([index, number]) for index in range(self.length)])


class Batches(Samples):
    def __iter__(self):
        samples = list(super().__iter__())
        return iter([samples[first : first + 4] for first in range(0, self.length, 4)])


def generator_function(length):
    samples = Samples(length)

    def generate():
        yield from samples

    return generate


KINDS = {
    "samples in workers": lambda length: ExternalSource(numbers(length)),
    "samples here": lambda length: ExternalSource(numbers(length), parallel=False),
    "batches in workers": lambda length: ExternalSource(batch_numbers(length), batch=True, batch_info=True),
    "batches here": lambda length: ExternalSource(batch_numbers(length), batch=True, batch_info=True, parallel=False),
    "iterable of samples": lambda length: ExternalSource(Samples(length), parallel=False),
    "iterable of batches": lambda length: ExternalSource(Batches(length), batch=True, parallel=False),
    "iterable of batches in a worker": lambda length: ExternalSource(Batches(length), batch=True),
    "generator of samples": lambda length: ExternalSource(generator_function(length), parallel=False),
}


@pytest.mark.parametrize("length", [1, 4, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_sources_give_the_same_epochs(make_reader, kind, length):
    reader = make_reader(KINDS[kind](length))
    for number in range(3):
        batches = epoch(reader)
        assert values(batches) == [[index, number] for index in range(length)]
        assert [len(batch.outputs[0]) for batch in batches] == [4] * (length // 4) + [length % 4] * (length % 4 > 0)
        assert [index for batch in batches for index in batch.indices] == list(range(length))
        assert [batch.iteration for batch in batches] == list(range(len(batches)))
        assert {batch.epoch for batch in batches} == {number} == {reader.epoch}
        reader.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_stop_iteration_is_repeated_until_reset(make_reader, kind):
    reader = make_reader(KINDS[kind](5))
    assert firsts(epoch(reader)) == [0, 1, 2, 3, 4]
    for _ in range(5):
        with pytest.raises(StopIteration):
            reader.next()
    reader.reset()
    assert firsts(epoch(reader)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [1, 2])
def test_reset_in_the_middle_of_an_epoch_begins_the_next_at_its_first_sample(make_reader, kind, taken):
    reader = make_reader(KINDS[kind](20), prefetch=3)
    for number in range(4):
        batches = [reader.next() for _ in range(taken)]
        assert values(batches) == [[index, number] for index in range(4 * taken)]
        reader.reset()
    assert firsts(epoch(reader)) == list(range(20))
    assert reader.epoch == 4


def test_reset_in_an_epoch_not_yet_begun_does_nothing(make_reader):
    reader = make_reader(numbers(6))
    reader.reset()
    reader.reset()
    assert values(epoch(reader)) == [[index, 0] for index in range(6)]
    reader.reset()
    reader.prefetch()
    reader.reset()
    assert values(epoch(reader)) == [[index, 1] for index in range(6)]


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_a_source_is_told_the_right_place_and_epoch_however_much_is_prefetched(make_reader, prefetch):
    def source(info):
        assert type(info) is SampleInfo
        if info.idx_in_epoch >= 10:
            raise StopIteration
        return np.array(info)

    reader = make_reader(source, prefetch=prefetch)
    for number in range(3):
        assert values(epoch(reader)) == [[index, index % 4, index // 4, number] for index in range(10)]
        reader.reset()


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("batch_info", [True, False])
def test_a_batch_source_is_told_its_iteration_or_a_batch_info(make_reader, parallel, batch_info):
    def source(info):
        assert type(info) is (BatchInfo if batch_info else int)
        number, number_of_epoch = info if batch_info else (info, -1)
        if number == 3:
            raise StopIteration
        return np.array([[number, number_of_epoch]])

    wrapped = ExternalSource(source, batch=True, batch_info=batch_info, parallel=parallel)
    reader = make_reader(wrapped)
    for number in range(2):
        assert values(epoch(reader)) == [[iteration, number if batch_info else -1] for iteration in range(3)]
        reader.reset()


@pytest.mark.parametrize("parallel", [True, False])
def test_a_batch_source_may_take_no_argument(make_reader, parallel):
    reader = make_reader(ExternalSource(lambda: np.ones((4, 2)), batch=True, parallel=parallel))
    assert [reader.next().outputs[0].shape() for _ in range(3)] == [[(2,)] * 4] * 3


def test_samples_of_one_batch_may_have_different_shapes(make_reader):
    reader = make_reader(lambda info: np.zeros((info.idx_in_epoch, 3)))
    assert reader.next().outputs[0].shape() == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("parallel", [True, False])
def test_several_outputs_stay_together(make_reader, parallel):
    def source(info):
        if info.idx_in_epoch >= 10:
            raise StopIteration
        return np.array([info.idx_in_epoch]), 2 * info.idx_in_epoch, bytes([info.idx_in_epoch])

    batches = epoch(make_reader(ExternalSource(source, 3, parallel=parallel)))
    assert values(batches, 0) == values(batches, 2) == [[index] for index in range(10)]
    assert values(batches, 1) == [2 * index for index in range(10)]


# --- the end of the data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "dropped"), [(10, 2), (11, 3), (3, 3)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "batches" not in kind])
def test_samples_that_fill_no_batch_are_dropped_with_a_warning_where_that_is_wanted(make_reader, kind, length, dropped):
    reader = make_reader(KINDS[kind](length), last_batch="drop")
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=f"{dropped} samples at the end of the epoch .from index {length // 4 * 4} on"
        ):
            assert firsts(epoch(reader)) == list(range(length - dropped))
        with pytest.raises(StopIteration):
            reader.next()
        reader.reset()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "batches" in kind])
def test_a_short_batch_that_a_source_made_itself_is_delivered(make_reader, kind):
    reader = make_reader(KINDS[kind](10), last_batch="drop")
    assert firsts(epoch(reader)) == list(range(10))


@pytest.mark.parametrize("last_batch", ["drop", "partial"])
def test_nothing_is_warned_of_where_all_batches_are_full(make_reader, last_batch):
    reader = make_reader(numbers(8), last_batch=last_batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert firsts(epoch(reader)) == list(range(8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_without_samples_gives_no_batch(make_reader, kind):
    reader = make_reader(KINDS[kind](0))
    for _ in range(2):
        assert epoch(reader) == []
        reader.reset()


@pytest.mark.parametrize(("source", "batch"), [(Samples, False), (Batches, True)])
def test_a_cycle_that_is_quiet_never_ends(make_reader, source, batch):
    reader = make_reader(ExternalSource(source(6), batch=batch, parallel=False, cycle="quiet"))
    batches = [reader.next() for _ in range(7)]
    expected = [0, 1, 2, 3, 4, 5] * 5
    assert firsts(batches) == expected[: len(firsts(batches))]
    assert len(firsts(batches)) == (22 if batch else 28)
    assert reader.epoch == 0


@pytest.mark.parametrize("source", [Samples(6), generator_function(6)], ids=["iterable", "generator"])
def test_a_cycle_that_raises_goes_on_without_a_reset(make_reader, source):
    reader = make_reader(ExternalSource(source, parallel=False, cycle="raise"))
    for number in range(3):
        batches = epoch(reader)
        assert values(batches) == [[index, number] for index in range(6)]
        assert {batch.epoch for batch in batches} == {number}


def test_a_generator_object_goes_on_where_it_was(make_reader):
    reader = make_reader(ExternalSource((np.array([index]) for index in range(12)), parallel=False))
    assert firsts([reader.next()]) == [0, 1, 2, 3]
    reader.reset()
    assert firsts(epoch(reader)) == list(range(4, 12))
    reader.reset()
    assert epoch(reader) == []


def test_an_empty_iterable_that_cycles_ends_all_the_same(make_reader):
    assert epoch(make_reader(ExternalSource([], parallel=False, cycle="quiet"))) == []


# --- several sources --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(10, 20), (20, 10), (10, 10), (8, 20), (20, 0)])
@pytest.mark.parametrize(
    "kinds",
    [
        ("samples in workers", "samples here"),
        ("samples in workers", "samples in workers"),
        ("iterable of samples", "samples in workers"),
    ],
    ids=" and ".join,
)
def test_the_first_source_to_stop_ends_the_epoch_for_all(make_reader, kinds, first, second):
    reader = make_reader(KINDS[kinds[0]](first), KINDS[kinds[1]](second))
    for number in range(2):
        batches = epoch(reader)
        expected = [[index, number] for index in range(min(first, second))]
        assert values(batches, 0) == values(batches, 1) == expected
        with pytest.raises(StopIteration):
            reader.next()
        reader.reset()


@pytest.mark.parametrize(("first", "second"), [(8, 20), (20, 10), (10, 10), (20, 0), (0, 20)])
@pytest.mark.parametrize("kind", ["batches in workers", "batches here", "iterable of batches"])
def test_a_batch_source_beside_a_sample_source_stops_the_epoch_or_is_stopped(make_reader, kind, first, second):
    reader = make_reader(KINDS[kind](first), KINDS["samples in workers"](second))
    for number in range(2):
        batches = epoch(reader)
        assert values(batches, 0) == values(batches, 1) == [[index, number] for index in range(min(first, second))]
        reader.reset()


def test_sources_have_their_own_functions_and_outputs_in_order(make_reader):
    sources = [
        ExternalSource(lambda info: np.array([1, info.idx_in_epoch])),
        ExternalSource(lambda info: (2, np.array([3])), 2, parallel=False),
        ExternalSource(lambda info: np.array([4, info.idx_in_epoch])),
    ]
    batch = make_reader(*sources).next()
    assert [output[1].tolist() for output in batch.outputs] == [[1, 1], 2, [3], [4, 1]]


@pytest.mark.parametrize("parallel", [True, False])
def test_sources_that_disagree_about_the_size_of_a_batch_are_an_error(make_reader, parallel):
    odd = ExternalSource(lambda iteration: np.zeros((3, 1)), batch=True, parallel=parallel)
    reader = make_reader(numbers(100), odd)
    with pytest.raises(ValueError, match=r"in iteration 0 the sources gave \[4, 3\] samples; they have to agree"):
        reader.next()


@pytest.mark.parametrize("parallel", [True, False])
def test_a_batch_that_is_too_large_is_an_error(make_reader, parallel):
    reader = make_reader(ExternalSource(lambda iteration: np.zeros((5, 1)), batch=True, parallel=parallel))
    with pytest.raises(ValueError, match="in iteration 0 a source gave 5 samples; batch_size is 4"):
        reader.next()
