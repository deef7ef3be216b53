"""``DataLoader.start`` and ``torchdali.start``: workers at once, and everything else as without."""

import copy
import gc
import inspect
import os
import pickle
import random
import signal
import threading
import warnings

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler
from torch.utils.data import DataLoader as TorchDataLoader

import torchdali
from tests.loader.support_faults import Numbers, batches, children, drain, ints, pids_of
from tests.pipeline.support import count_to, plain
from tests.pool.support import Tally, all_gone, wait_until
from torchdali import DataLoader

pytestmark = pytest.mark.timeout(60)


class Drawing(Numbers):
    """Draws from all three generators of its worker."""

    def __getitem__(self, index):
        return [index, random.random(), float(np.random.random()), torch.rand(3)]


class Seen(Numbers):
    """Says what the dataset is told in its worker."""

    value = 1

    def __getitem__(self, index):
        return torch.tensor([self.value])


def generator_states():
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def test_start_forks_the_workers_and_the_next_epoch_uses_them():
    before = children()
    loader = DataLoader(Numbers(12), batch_size=3, num_workers=2)
    assert children() == before
    loader.start()
    started = children() - before
    assert len(started) == 2
    iterator = iter(loader)
    assert set(pids_of(iterator)) == started
    assert [ints(batch) for batch in iterator] == batches(12, 3)
    assert all_gone(list(started))
    assert [ints(batch) for batch in loader] == batches(12, 3)


def test_with_persistent_workers_all_later_epochs_use_them():
    before = children()
    loader = DataLoader(Numbers(12), batch_size=3, num_workers=2, persistent_workers=True)
    loader.start()
    started = children() - before
    for _ in range(3):
        assert [ints(batch) for batch in loader] == batches(12, 3)
        assert children() - before == started
        loader.start()  # does nothing
    assert set(pids_of(loader._iterator)) == started


def test_start_twice_is_start_once():
    before = children()
    loader = DataLoader(Numbers(12), batch_size=3, num_workers=2)
    loader.start()
    started = children()
    loader.start()
    assert children() == started
    assert len(started - before) == 2


def test_start_without_workers_does_nothing():
    before = children()
    loader = DataLoader(Numbers(12), batch_size=3)
    loader.start()
    assert children() == before
    assert [ints(batch) for batch in loader] == batches(12, 3)


def test_a_started_loader_that_is_never_used_leaves_nothing():
    before = children()
    for persistent in (False, True):
        loader = DataLoader(Numbers(12), num_workers=2, persistent_workers=persistent)
        loader.start()
        pids = list(children() - before)
        assert len(pids) == 2
        del loader
        assert all_gone(pids)


def test_a_program_that_ends_with_a_started_loader_ends_in_silence(program):
    running = program(
        """
import json, psutil, torchdali
loader = torchdali.DataLoader(range(10), num_workers=2)
loader.start()
print(json.dumps([child.pid for child in psutil.Process().children()]), flush=True)
"""
    )
    pids = running.line()
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert len(pids) == 2
    assert all_gone(pids)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
def test_random_draws_are_those_of_torch_s_loader(own, persistent):
    def epochs(cls, begin):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        loader = cls(
            Drawing(12),
            batch_size=2,
            shuffle=True,
            num_workers=2,
            persistent_workers=persistent,
            generator=torch.Generator().manual_seed(3) if own else None,
        )
        begin(loader)
        found = [[[part.tolist() for part in batch] for batch in loader] for _ in range(2)]
        return found, generator_states()

    expected = epochs(TorchDataLoader, lambda loader: None)
    assert epochs(DataLoader, lambda loader: None) == expected
    assert epochs(DataLoader, lambda loader: loader.start()) == expected


def test_start_draws_nothing():
    loader = DataLoader(Drawing(12), shuffle=True, num_workers=2, generator=torch.Generator().manual_seed(1))
    before = [generator_states(), loader.generator.get_state().tolist()]
    loader.start()
    assert [generator_states(), loader.generator.get_state().tolist()] == before


def test_workers_see_the_dataset_as_of_start():
    dataset = Seen(4)
    loader = DataLoader(dataset, num_workers=2)
    loader.start()
    dataset.value = 2
    assert [ints(batch) for batch in loader] == [[1]] * 4
    assert [ints(batch) for batch in loader] == [[2]] * 4


def test_worker_init_fn_is_called_once_in_each_worker_and_after_seeding():
    calls = Tally(2)

    def init(index):
        calls.add(index)
        torch.rand(1)

    def first(cls, start):
        torch.manual_seed(1)
        loader = cls(Drawing(4), num_workers=2, worker_init_fn=init, batch_size=None)
        if start:
            loader.start()
        return [sample[3].tolist() for sample in loader]

    expected = first(TorchDataLoader, False)
    calls.clear()
    assert first(DataLoader, True) == expected
    assert calls.counts(2) == [1, 1]


def test_a_sampler_is_made_anew_at_iter_and_not_at_start():
    class Once(Sampler):
        made = 0

        def __iter__(self):
            Once.made += 1
            return iter(range(4))

        def __len__(self):
            return 4

    loader = DataLoader(Numbers(4), sampler=Once(), num_workers=1)
    loader.start()
    assert Once.made == 0
    assert [ints(batch)[0] for batch in loader] == [0, 1, 2, 3]
    assert Once.made == 1


def test_started_workers_that_die_before_they_are_used_are_replaced():
    before = children()
    loader = DataLoader(Numbers(12), batch_size=3, num_workers=2)
    loader.start()
    pids = list(children() - before)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    # The first thread is a zombie while others still hold the descriptors: dead is a process without any other.
    assert wait_until(
        lambda: all(
            psutil.Process(pid).status() == psutil.STATUS_ZOMBIE and len(os.listdir(f"/proc/{pid}/task")) == 1
            for pid in pids
        )
    )
    assert drain(iter(loader)) == batches(12, 3)


def test_a_copy_of_a_started_loader_is_one_without_workers():
    before = children()
    loader = DataLoader(range(12), batch_size=3, num_workers=2, on_worker_death="restart")
    loader.start()
    started = children() - before
    for other in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert type(other) is DataLoader
        assert other.on_worker_death == "restart"
        assert children() - before == started
        assert [ints(batch) for batch in other] == batches(12, 3)
        del other
    assert wait_until(lambda: children() - before == started)
    assert set(pids_of(iter(loader))) == started


def test_a_fork_of_the_program_may_go_on_with_a_started_loader_or_is_told():
    loader = DataLoader(Numbers(12), batch_size=3, num_workers=2)
    loader.start()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            code = 0 if [ints(batch) for batch in loader] == batches(12, 3) else 1
        except RuntimeError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [ints(batch) for batch in loader] == batches(12, 3)


# --- of several -------------------------------------------------------------------------------------------------------


def test_several_are_started_in_one_line():
    before = children()
    one, other = (
        DataLoader(Numbers(12), batch_size=3, num_workers=1),
        DataLoader(Numbers(9), batch_size=3, num_workers=2),
    )
    pipeline = plain(count_to(8))
    torchdali.start(one, other, pipeline, DataLoader(Numbers(3)))
    assert len(children() - before) == 5
    assert [ints(batch) for batch in one] == batches(12, 3)
    assert [ints(batch) for batch in other] == batches(9, 3)
    pipeline.close()
    torchdali.start()


@pytest.mark.parametrize(
    "thing", [None, [1], TorchDataLoader(range(3)), "loader"], ids=lambda thing: type(thing).__name__
)
def test_what_has_nothing_to_start_is_refused_before_anything_is_started(thing):
    before = children()
    loader = DataLoader(Numbers(3), num_workers=1)
    with pytest.raises(TypeError, match=type(thing).__name__):
        torchdali.start(loader, thing)
    assert children() == before


# --- construction -----------------------------------------------------------------------------------------------------


def test_construction_starts_no_process_and_no_thread_and_opens_nothing():
    before = children(), threading.enumerate(), len(os.listdir("/proc/self/fd")), torch.get_rng_state().tolist()
    dataset = Numbers(1000)
    loaders = [
        DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2, persistent_workers=True, pipeline=torch.neg)
        for _ in range(1000)
    ]
    assert len(loaders) == 1000
    assert before == (
        children(),
        threading.enumerate(),
        len(os.listdir("/proc/self/fd")),
        torch.get_rng_state().tolist(),
    )


ADDED = {
    "on_worker_death": "restart",
    "memory_limit": 1 << 28,
    "snapshot_every_n_steps": 3,
    "pipeline": torch.nn.Identity(),
    "device": "cpu",
    "prefetch": 5,
}


def test_every_added_argument_is_kept_as_it_was_given_under_its_own_name():
    added = set(inspect.signature(DataLoader.__init__).parameters) - set(
        inspect.signature(TorchDataLoader.__init__).parameters
    )
    assert added == set(ADDED)
    loader = DataLoader(range(12), **ADDED)
    assert all(vars(loader)[name] is value for name, value in ADDED.items())


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_is_made_again_as_lightning_does_is_the_same(workers, used):
    options = {"persistent_workers": True, "prefetch_factor": 4, "multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(
        range(12), batch_size=5, drop_last=True, num_workers=workers, in_order=False, **ADDED, **options
    )
    if used:
        assert len([ints(batch) for batch in loader]) == 2
    names = set(inspect.signature(type(loader).__init__).parameters) - {"self"}
    kwargs = {name: value for name, value in vars(loader).items() if name in names}
    kwargs["multiprocessing_context"] = loader.multiprocessing_context
    for sampler in (SequentialSampler(range(12)), RandomSampler(range(12))):
        batch_sampler = BatchSampler(sampler, kwargs["batch_size"] or 1, kwargs["drop_last"])
        replaced = {
            **kwargs,
            "batch_sampler": batch_sampler,
            "sampler": None,
            "batch_size": 1,
            "drop_last": False,
            "shuffle": False,
        }
        again = type(loader)(**replaced)
        assert again.batch_sampler is batch_sampler
        for name in names - {"shuffle", "sampler", "batch_sampler", "batch_size", "drop_last"}:
            assert getattr(again, name) == getattr(loader, name), name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(list(again)) == 2
    gc.collect()


def test_lightning_may_drop_the_workers_of_a_persistent_loader():
    loader = DataLoader(Numbers(12), batch_size=3, num_workers=2, persistent_workers=True)
    list(loader)
    pids = pids_of(loader._iterator)
    loader._iterator = None
    assert all_gone(pids)
    assert [ints(batch) for batch in loader] == batches(12, 3)
