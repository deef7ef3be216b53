"""Ctrl-C in the middle of an epoch: one KeyboardInterrupt, no batch lost, none twice, no worker left."""

import signal

import pytest

from tests.pool.support import all_gone

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


@pytest.mark.parametrize("kind", ["map", "iterable", "out of order", "stage", "persistent"])
@pytest.mark.parametrize("seed", range(2))
def test_an_epoch_under_fire_is_whole(program, kind, seed):
    """However often next() is interrupted: each batch comes once, in order."""
    options = {"out of order": "in_order=False", "stage": "pipeline=torch.neg", "persistent": "persistent_workers=True"}
    dataset = "Stream(1200)" if kind == "iterable" else "Numbers(1200)"
    running = program(
        START
        + f"""
from torchdali.loader._stage import StagedIterator
from torchdali.loader._iterator import WorkersIterator
loader = torchdali.DataLoader({dataset}, batch_size=3, num_workers=2, {options.get(kind, "")})
expected = [list(range(i, i + 3)) for i in range(0, 1200, 3)]
if {kind == "iterable"}:
    expected = [list(range(i + w, i + w + 6, 2)) for i in range(0, 1200, 6) for w in (0, 1)]
wrong = []
interrupts = Interrupts({seed}, StagedIterator.__next__, WorkersIterator.__next__)
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
    assert wrong == [[400, 400, True]] * 2


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
