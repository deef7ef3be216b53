"""Ctrl-C in the middle of an epoch: one KeyboardInterrupt, no batch lost, none twice, no worker left."""

import signal

import pytest
from torch.utils.data import IterableDataset

from tests.helpers import through_interrupts
from tests.loader.support import Made
from tests.pool.support import all_gone
from torchdali import DataLoader

pytestmark = pytest.mark.timeout(60)

START = """
import json, os, random, signal, sys, threading, time
import torch, torchdali

def say(value):
    print(json.dumps(value), flush=True)

class Numbers(torch.utils.data.Dataset):
    slow = ()
    def __init__(self, size):
        self.size = size
    def __len__(self):
        return self.size
    def __getitem__(self, index):
        if index in self.slow:
            time.sleep(0.5)
        return torch.tensor([index])

class Stream(torch.utils.data.IterableDataset):
    def __init__(self, size):
        self.size = size
    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        yield from (torch.tensor([i]) for i in range(info.id, self.size, info.num_workers))

class Listed(torch.utils.data.IterableDataset):
    def __init__(self, size):
        self.samples = [torch.tensor([i]) for i in range(size)]
    def __iter__(self):
        return iter(self.samples)

def pids(iterator):
    return [process.pid for process in iterator._workers]

class Interrupts:
    '''Sends SIGINT at random moments; it is raised only below a call of __next__ of the given classes.'''

    def __init__(self, seed, *functions):
        self.codes = {function.__code__ for function in functions}
        self.draw, self.raised = random.Random(seed), 0
        signal.signal(signal.SIGINT, self.handle)
        signal.signal(signal.SIGALRM, self.alarm)
        self.alarm(0, None)

    def alarm(self, number, frame):
        del frame
        signal.setitimer(signal.ITIMER_REAL, self.draw.uniform(0.00005, 0.002))
        os.kill(os.getpid(), signal.SIGINT)

    def handle(self, number, frame):
        while frame is not None:
            if frame.f_code in self.codes:
                self.raised += 1
                del frame
                raise KeyboardInterrupt
            frame = frame.f_back

    def end(self):
        signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize("options", ["", "persistent_workers=True", "pipeline=torch.neg", "in_order=False"])
def test_ctrl_c_in_next_is_raised_once_and_the_epoch_goes_on(program, options):
    running = program(
        START
        + f"""
Numbers.slow = {{30}}
it = iter(torchdali.DataLoader(Numbers(60), batch_size=3, num_workers=2, {options}))
found, interrupts = [], 0
say(pids(it))
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
while True:
    try:
        found += [abs(n) for n in next(it).flatten().tolist()]
    except KeyboardInterrupt:
        interrupts += 1
    except StopIteration:
        break
say([interrupts, sorted(found) == list(range(60)), len(found)])
"""
    )
    pids = running.line()
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert running.line(1) == [1, True, 60]
    assert all_gone(pids)


def test_a_program_that_is_interrupted_in_its_loop_shows_one_traceback_and_takes_its_workers_along(program):
    running = program(
        START
        + """
Numbers.slow = range(6, 10_000)
it = iter(torchdali.DataLoader(Numbers(6000), batch_size=3, num_workers=2))
say(pids(it))
for batch in it:
    say(0)
"""
    )
    pids = running.line()
    assert running.line(1) == 0
    running.signal(signal.SIGINT)
    ended = running.wait()
    assert ended.code in (-signal.SIGINT, 1)
    assert ended.err.count("Traceback") == 1
    assert "KeyboardInterrupt" in ended.err
    assert all_gone(pids)


@pytest.mark.parametrize("kind", ["map", "iterable", "out of order", "stage", "persistent", "alone", "iterable alone"])
@pytest.mark.parametrize("seed", range(2))
def test_an_epoch_under_fire_is_whole(program, kind, seed):
    """However often next() is interrupted: each batch comes once, in order."""
    options = {"out of order": "in_order=False", "stage": "pipeline=torch.neg", "persistent": "persistent_workers=True"}
    workers, size = (0, 6000) if kind.endswith("alone") else (2, 1200)
    dataset = {"iterable": "Stream", "iterable alone": "Listed"}.get(kind, "Numbers")
    running = program(
        START
        + f"""
from torchdali.loader._stage import StagedIterator
from torchdali.loader._iterator import WorkersIterator
from torchdali.loader._serial import SerialIterator
loader = torchdali.DataLoader({dataset}({size}), batch_size=3, num_workers={workers}, {options.get(kind, "")})
expected = [list(range(i, i + 3)) for i in range(0, {size}, 3)]
if {kind == "iterable"}:
    expected = [list(range(i + w, i + w + 6, 2)) for i in range(0, {size}, 6) for w in (0, 1)]
wrong = []
interrupts = Interrupts({seed}, StagedIterator.__next__, WorkersIterator.__next__, SerialIterator.__next__)
for epoch in range(2):
    it, found = iter(loader), []
    while True:
        try:
            found.append([abs(n) for n in next(it).flatten().tolist()])
        except KeyboardInterrupt:
            continue
        except StopIteration:
            break
    found = sorted(found) if {kind == "out of order"} else found
    wrong.append([len(expected), len(found), found == expected])
interrupts.end()
say([interrupts.raised, wrong])
""",
        abrupt=True,
    )
    ended = running.wait(40)
    assert (ended.code, ended.err) == (0, "")
    raised, wrong = running.line()
    assert raised > 20
    # Strict: also an interrupt on the way out, when next() has its batch already, must not cost that batch.
    assert wrong == [[size // 3, size // 3, True]] * 2


class Interrupting:
    """Calls a function; at some calls Ctrl-C comes while it is at work."""

    def __init__(self, function, *calls):
        self.function, self.calls, self.count = function, calls, 0

    def __call__(self, argument):
        self.count += 1
        if self.count in self.calls:
            raise KeyboardInterrupt
        return self.function(argument)


class Continuing:
    """An iterator that goes on after Ctrl-C."""

    def __init__(self, size, *calls):
        self.size, self.next = size, Interrupting(self.give, *calls)
        self.given = 0

    def give(self, _):
        if self.given == self.size:
            raise StopIteration
        self.given += 1
        return self.given - 1

    def __iter__(self):
        return self

    def __next__(self):
        return self.next(None)


class Iterable(IterableDataset):
    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return self.make()


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_without_workers_an_interrupt_in_the_user_s_code_loses_no_batch(kind):
    collate = Interrupting(list, 2, 3)
    reading = Interrupting(lambda index: index, 6, 8)
    dataset = Made(reading, 9) if kind == "map" else Iterable(lambda: Continuing(9, 6, 8))
    found, interrupts = through_interrupts(iter(DataLoader(dataset, batch_size=2, collate_fn=collate)).__next__)
    assert interrupts == 4
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


def test_a_generator_that_an_interrupt_has_ended_is_no_end_of_the_epoch_in_silence():
    def numbers():
        yield from (0, 1, 2)
        raise KeyboardInterrupt

    iterator = iter(DataLoader(Iterable(numbers), batch_size=2, collate_fn=list))
    assert next(iterator) == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        next(iterator)
    with pytest.raises(RuntimeError, match=r"Ctrl-C came while Iterable.__iter__ was at work; .* ended after 3 items"):
        next(iterator)
    assert list(iterator) == []


def test_a_worker_whose_code_raises_a_keyboard_interrupt_goes_on_with_the_next_batch():
    """It has its turn as any exception has; there nobody pressed Ctrl-C."""
    loader = DataLoader(Iterable(lambda: iter(range(8))), batch_size=2, collate_fn=Interrupting(list, 2), num_workers=1)
    iterator = iter(loader)
    assert next(iterator) == [0, 1]
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        next(iterator)
    assert list(iterator) == [[4, 5], [6, 7]]


def test_an_interrupt_in_the_stage_s_module_loses_no_batch(program):
    running = program(
        START
        + """
class Module(torch.nn.Module):
    done = 0
    def forward(self, batch):
        Module.done += 1
        if Module.done in (3, 4, 9):
            raise KeyboardInterrupt
        return batch

it = iter(torchdali.DataLoader(Numbers(60), batch_size=3, num_workers=2, pipeline=Module()))
found, interrupts = [], 0
while True:
    try:
        found += next(it).flatten().tolist()
    except KeyboardInterrupt:
        interrupts += 1
    except StopIteration:
        break
say([interrupts, found == list(range(60)), len(found)])
"""
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert running.line() == [3, True, 60]
