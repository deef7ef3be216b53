"""Ctrl-C at any moment: nothing is lost, nothing comes twice."""

import pytest

START = """
import json, os, random, signal, sys, threading, time
import numpy
from torchdali.pool import WorkerPool

def say(value):
    print(json.dumps(value), flush=True)

class Interrupts:
    '''Sends SIGINT at random moments; it is raised only while the given function runs.'''

    def __init__(self, function, seed):
        self.code, self.draw, self.raised = function.__code__, random.Random(seed), 0
        signal.signal(signal.SIGINT, self.handle)
        signal.signal(signal.SIGALRM, self.alarm)
        self.send()

    def alarm(self, number, frame):
        del frame  # a frame that lives on would keep what it refers to
        self.send()

    def send(self):
        signal.setitimer(signal.ITIMER_REAL, self.draw.uniform(0.00005, 0.002))
        os.kill(os.getpid(), signal.SIGINT)

    def handle(self, number, frame):
        while frame is not None:
            if frame.f_code is self.code:
                self.raised += 1
                del frame
                raise KeyboardInterrupt
            frame = frame.f_back

    def end(self):
        signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_job_that_is_collected_under_fire_arrives_whole(program, seed):
    running = program(
        START
        + f"""
pool = WorkerPool([lambda item: numpy.full(1000 if item % 5 else 20_000, item)], 2)
pool.start()
interrupts = Interrupts(WorkerPool.collect, {seed})
jobs, wrong = [], 0
for number in range(300):
    jobs.append(pool.submit(0, range(10 * number, 10 * number + 10)))
    while len(jobs) > 3 or (number == 299 and jobs):
        try:
            results = pool.collect(jobs[0])
        except KeyboardInterrupt:
            continue
        first = 10 * (number - len(jobs) + 1)
        wrong += [array.min() for array in results] != list(range(first, first + 10))
        wrong += [array.max() for array in results] != list(range(first, first + 10))
        jobs.pop(0)
interrupts.end()
results = None
numbers = pool.statistics()
say([interrupts.raised, wrong, numbers.items, numbers.deaths, pool._arena.in_use, len(pool._dispatch.outstanding)])
""",
        abrupt=True,
    )
    ended = running.wait(40)
    assert (ended.code, ended.err) == (0, "")
    raised, *rest = running.line()
    assert raised > 20
    assert rest == [0, 3000, 0, 0, 0]


@pytest.mark.parametrize("action", ["start", "submit", "cancel", "close"])
def test_other_calls_are_whole_or_may_be_repeated(program, action):
    """However often start, submit, cancel and close are interrupted, workers and memory are accounted for."""
    running = program(
        START
        + f"""
interrupts = Interrupts(WorkerPool.{action}, 7)
rounds = 15 if {action!r} in ("start", "close") else 1
pids, held, memory = [], [], []

def until_done(call):
    while True:
        try:
            return call()
        except KeyboardInterrupt:
            pass

for _ in range(rounds):
    pool = WorkerPool([lambda item: os.getpid()], 2)
    until_done(pool.start)
    pids += pool.pids
    for number in range(150 // rounds):
        job = until_done(lambda: pool.submit(0, range(5)))
        if {action!r} == "cancel":
            until_done(lambda: pool.cancel(job))
        else:
            pids += pool.collect(job)
    job = None
    for _ in range(300):  # what an interrupted call may have left under way
        until_done(lambda: pool.collect(pool.submit(0, [0])))
        if not pool._arena.in_use:
            break
        time.sleep(0.002)
    if {action!r} != "submit":  # of which an interrupt at its very end leaves a job that nobody knows
        memory.append(pool._arena.in_use)
    until_done(pool.close)
    held.append(pool._workforce.closed)
interrupts.end()
import multiprocessing
say([interrupts.raised, sorted(set(pids)), held, memory, len(multiprocessing.active_children())])
time.sleep(100)
""",
        abrupt=True,
    )
    raised, pids, held, memory, children = running.line(seconds=30)
    assert raised > 0
    assert all(held)
    assert len(pids) == 2 * len(held)
    assert not any(memory)
    assert children == 0


@pytest.mark.parametrize("prefetch", [1, 3])
def test_a_reader_under_fire_delivers_each_sample_once(program, prefetch):
    running = program(
        START
        + f"""
from torchdali.source import ExternalSource, Reader

def sample(info):
    if info.idx_in_epoch >= 1203:
        raise StopIteration
    return numpy.full(500, info.idx_in_epoch)

reader = Reader([ExternalSource(sample)], batch_size=4, num_workers=2, prefetch={prefetch}, seed=0,
                last_batch="partial", name="reader")
reader.start()
interrupts = Interrupts(Reader.next, 5)
seen = []
while True:
    try:
        batch = reader.next()
    except KeyboardInterrupt:
        continue
    except StopIteration:
        break
    seen += [int(tensor[0]) for tensor in batch.outputs[0]]
interrupts.end()
reader.close()
say([interrupts.raised, len(seen), seen == list(range(1203))])
""",
        abrupt=True,
    )
    ended = running.wait(40)
    assert (ended.code, ended.err) == (0, "")
    raised, count, right = running.line()
    assert raised > 20
    assert (count, right) == (1203, True)


def test_a_real_ctrl_c_while_waiting_leaves_the_job_to_be_collected(program):
    running = program(
        START
        + """
def slow(item):
    time.sleep(0.3)
    return item

with WorkerPool([slow], 2) as pool:
    pids = pool.pids
    job = pool.submit(0, range(4))
    threading.Timer(0.1, lambda: os.killpg(0, signal.SIGINT)).start()  # the whole group, as a terminal does
    try:
        pool.collect(job)
    except KeyboardInterrupt:
        say("interrupted")
    say([pool.collect(job), pool.pids == pids, pool.statistics().deaths])
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert running.line(0) == "interrupted"
    assert running.line(1) == [[0, 1, 2, 3], True, 0]


def test_collect_in_another_thread_does_not_touch_the_handler(program):
    running = program(
        START
        + """
handler = signal.getsignal(signal.SIGINT)
with WorkerPool([lambda item: item], 2) as pool:
    seen = []
    def use():
        for number in range(200):
            seen.extend(pool.collect(pool.submit(0, [number])))
    thread = threading.Thread(target=use)
    thread.start()
    same = True
    while thread.is_alive():
        same = same and signal.getsignal(signal.SIGINT) is handler
    thread.join()
    say([same, seen == list(range(200))])
""",
        abrupt=True,
    )
    assert running.wait().err == ""
    assert running.line() == [True, True]
