"""Datasets that end their worker, and what the tests of faults and lifetime share."""

import ctypes
import faulthandler
import os
import signal
import sys
import time
import warnings
from contextlib import contextmanager

import psutil
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from tests.pool.support import Tally, die
from torchdali.errors import WorkerDiedError
from torchdali.pool._zygote import living_zygote

ENDS = ["sigkill", "sigsegv", "sigterm", "os._exit", "sys.exit"]


def end(how):
    """End this worker."""
    faulthandler.disable()  # the test runner's, which would print
    if how == "sigsegv":
        ctypes.string_at(0)
    elif how == "os._exit":
        os._exit(3)
    elif how == "sys.exit":
        sys.exit(3)
    die(getattr(signal, how.upper()))


class Bomb:
    """Ends the worker that sets it off, at each number as often as it is told, over all workers."""

    def __init__(self, how="sigkill", times=200):
        self.how, self.times, self.set_off = how, times, Tally(256)

    def __call__(self, number=0):
        if self.set_off[number] < self.times:
            self.set_off.add(number)
            end(self.how)


class Numbers(Dataset):
    """Its sample i is i; at some of them the bomb goes off. Counts how often each was read."""

    def __init__(self, size, bomb=None, at=(), seconds=0.0):
        self.size, self.bomb, self.at, self.seconds = size, bomb, frozenset(at), seconds
        self.reads = Tally(max(1, size))

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if self.reads[index] < 255:
            self.reads.add(index)
        if self.seconds:
            time.sleep(self.seconds)
        if index in self.at:
            self.bomb(index)
        return torch.tensor([index])


class Stream(IterableDataset):
    """Worker w of N yields w, w + N, w + 2N, ... below the size; at some of them the bomb goes off."""

    def __init__(self, size, bomb=None, at=(), seconds=0.0):
        self.size, self.bomb, self.at, self.seconds = size, bomb, frozenset(at), seconds

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, self.size, step):
            if self.seconds:
                time.sleep(self.seconds)
            if number in self.at:
                self.bomb(number)
            yield torch.tensor([number])


def ints(batch):
    """The numbers in a batch."""
    return batch.flatten().tolist()


def drain(iterator, most=1000):
    """All that an iterator gives: lists of numbers, and in their turns the deaths; gives up after ``most``."""
    found = []
    for _ in range(most):
        try:
            found.append(ints(next(iterator)))
        except WorkerDiedError as error:
            found.append(error)
        except StopIteration:
            return found
    raise AssertionError(f"the epoch has no end: {found[-4:]}")


def batches(size, batch_size):
    """What a loader gives of Numbers in order."""
    return [list(range(first, min(size, first + batch_size))) for first in range(0, size, batch_size)]


def only_batches(found):
    return [entry for entry in found if isinstance(entry, list)]


def only_deaths(found):
    return [entry for entry in found if isinstance(entry, WorkerDiedError)]


@contextmanager
def told_of_deaths():
    """Yields the list of the RuntimeWarnings that are given meanwhile."""
    texts = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in told if issubclass(warning.category, RuntimeWarning)]


def pids_of(iterator):
    return [process.pid for process in iterator._workers]


def children():
    """Processes of this one's, zombies included, but for the zygote, which lasts."""
    zygote = living_zygote()
    own = None if zygote is None else zygote.pid
    return {child.pid for child in psutil.Process().children(recursive=True)} - {own}
