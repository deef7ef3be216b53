"""Which sources are taken, and what is said of the others."""

import functools

import numpy as np
import pytest

from torchdali.source import ExternalSource, JpegFolder, SampleInfo


def generator():
    yield np.zeros(1)


class Callable:
    def __call__(self, info):
        return info

    def method(self, info):
        return info

    def __len__(self):
        return 12


class Iterable:
    def __iter__(self):
        return iter([1, 2])


class IndexedOnly:
    def __getitem__(self, index):
        return index


SAMPLE_SOURCES = {
    "function": lambda info: info,
    "with a default": lambda info, scale=2: info,
    "all defaults": lambda info=None: info,
    "with an optional keyword": lambda info, *, scale=2: info,
    "positional only": eval("lambda info, /: info"),
    "callable object": Callable(),
    "bound method": Callable().method,
    "partial": functools.partial(lambda scale, info: info, 2),
    "partial with a keyword": functools.partial(lambda info, scale: info, scale=2),
    "a builtin": abs,
    "a builtin without a signature": max,
    "cached": functools.lru_cache(lambda info: info),
}


@pytest.mark.parametrize("name", SAMPLE_SOURCES)
def test_a_callable_of_one_argument_is_a_sample_source(name):
    source = ExternalSource(SAMPLE_SOURCES[name])
    assert source.kind == "sample"
    assert source.takes_argument


REFUSED = {
    "lambda: 0": (lambda: 0, "takes no argument, but with batch=False it is called with a SampleInfo"),
    "*args": (lambda *args: 0, r"takes `\*args`"),
    "**kwargs": (lambda info, **kwargs: 0, r"takes `\*\*kwargs`"),
    "info, *args": (lambda info, *args: 0, r"takes `\*args`"),
    "keyword-only": (lambda info, *, key: 0, "takes `key`"),
    "two": (lambda info, other: 0, r"takes 2 arguments \(info, other\)"),
    "three": (lambda a, b, c, d=0: 0, r"takes 3 arguments \(a, b, c\)"),
    "partial of two": (functools.partial(lambda a, b, c: 0, 1), r"takes 2 arguments \(b, c\)"),
    "unbound method": (Callable.method, r"takes 2 arguments \(self, info\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_signature_is_refused_and_the_reason_told(name):
    source, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        ExternalSource(source)


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "lambda: 0"])
def test_another_signature_is_refused_for_batches_too(name):
    source, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        ExternalSource(source, batch=True)


def test_a_batch_source_may_take_no_argument_or_one():
    nothing, one = ExternalSource(lambda: 0, batch=True), ExternalSource(lambda iteration: 0, batch=True)
    assert (nothing.kind, nothing.takes_argument) == ("batch", False)
    assert (one.kind, one.takes_argument) == ("batch", True)


@pytest.mark.parametrize("source", [5, None, object(), IndexedOnly()], ids=repr)
def test_what_is_neither_callable_nor_iterable_is_refused(source):
    with pytest.raises(TypeError, match="a source is a callable or an iterable, not"):
        ExternalSource(source, parallel=False)


@pytest.mark.parametrize("source", [generator, generator(), Iterable(), [1, 2], functools.partial(generator)], ids=str)
def test_an_iterable_of_samples_runs_in_the_main_process_only(source):
    with pytest.raises(TypeError, match="is an iterable of samples, whose state only one process can have"):
        ExternalSource(source)
    assert ExternalSource(source, parallel=False).kind == "iterable"
    assert ExternalSource(source, batch=True).kind == "iterable"


def test_generators_and_iterators_go_on_where_they_are_and_other_iterables_begin_anew():
    def begins_anew(source):
        return ExternalSource(source, batch=True).begins_anew

    assert [begins_anew(source) for source in (generator, Iterable(), [1, 2], functools.partial(generator))] == [
        True
    ] * 4
    assert [begins_anew(source) for source in (generator(), iter([1, 2]), map(str, [1]))] == [False] * 3


@pytest.mark.parametrize(
    ("value", "meaning"),
    [(None, "no"), (False, "no"), ("no", "no"), (True, "quiet"), ("quiet", "quiet"), ("raise", "raise")],
)
def test_cycle_has_three_meanings(value, meaning):
    assert ExternalSource([1], parallel=False, cycle=value).cycle == meaning


@pytest.mark.parametrize("value", ["yes", "", 7])
def test_another_cycle_is_refused(value):
    with pytest.raises(ValueError, match="it is one of False, 'no', True, 'quiet', 'raise'"):
        ExternalSource([1], parallel=False, cycle=value)


def test_a_callable_has_no_cycle():
    with pytest.raises(ValueError, match="is for iterables; the callable <lambda> ends an epoch by StopIteration"):
        ExternalSource(lambda info: 0, cycle="quiet")


@pytest.mark.parametrize("cycle", [True, "raise"])
def test_a_generator_object_cannot_start_again(cycle):
    with pytest.raises(TypeError, match="is a generator, which cannot start again"):
        ExternalSource(generator(), parallel=False, cycle=cycle)
    assert ExternalSource(generator, parallel=False, cycle=cycle).cycle != "no"


@pytest.mark.parametrize("argument", ["num_outputs", "prefetch_queue_depth", "bytes_per_sample_hint"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_counts_are_positive_integers(argument, value):
    with pytest.raises(ValueError, match=f"{argument} is {value!r}; it has to be a positive integer, or None"):
        ExternalSource(lambda info: 0, **{argument: value})


def test_the_length_is_that_of_the_source(photographs):
    assert len(ExternalSource(Callable())) == 12
    assert len(ExternalSource([1, 2, 3], parallel=False)) == 3
    assert len(ExternalSource(JpegFolder(photographs), 2)) == len(JpegFolder(photographs))


@pytest.mark.parametrize("source", [lambda info: 0, Iterable()], ids=["callable", "iterable"])
def test_a_source_without_a_length_says_so(source):
    with pytest.raises(TypeError, match="has no __len__, so the length of an epoch is not known"):
        len(ExternalSource(source, parallel=False))


def test_the_name_is_the_sources_own_or_the_one_that_was_given():
    def reading(info):
        return info

    assert ExternalSource(reading).name == "reading"
    assert ExternalSource(Callable()).name == "Callable"
    assert ExternalSource([1], parallel=False).name == "list"
    assert ExternalSource(reading, name="mine").name == "mine"
    with pytest.raises(TypeError, match="the source mine takes no argument"):
        ExternalSource(lambda: 0, name="mine")


def test_the_repr_tells_what_it_is():
    assert repr(ExternalSource(Callable(), 2)) == "ExternalSource(Callable, sample, num_outputs=2, parallel)"
    assert "iterable, num_outputs=None, main process" in repr(ExternalSource([1], parallel=False))


def test_a_sample_info_is_a_tuple_with_the_names_of_dali():
    assert SampleInfo(1, 2, 3, 4)._asdict() == {
        "idx_in_epoch": 1,
        "idx_in_batch": 2,
        "iteration": 3,
        "epoch_idx": 4,
    }
