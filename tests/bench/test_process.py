import contextlib
import mmap
import os
import resource
import subprocess
import sys

import numpy as np

from torchdali.bench._process import count_descriptors, cpu_seconds, many_descriptors, resident_bytes

BUSY = """
import sys, time
while time.process_time() < float(sys.argv[1]):
    pass
print("done", flush=True)
sys.stdin.read()
"""


def test_the_processor_time_of_a_living_child_counts_if_it_is_named():
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, "0.3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        alone, both = cpu_seconds([]), cpu_seconds([child.pid])
        child.communicate("")
    assert both - alone >= 0.3


def test_the_processor_time_of_this_process_counts():
    before = cpu_seconds([])
    own = resource.getrusage(resource.RUSAGE_SELF)
    while True:
        now = resource.getrusage(resource.RUSAGE_SELF)
        if now.ru_utime + now.ru_stime - own.ru_utime - own.ru_stime >= 0.05:
            break
    assert cpu_seconds([]) - before >= 0.04


def test_memory_counts_when_it_is_touched_be_it_private_or_shared():
    before = resident_bytes()
    private = np.full(32 << 20, 1, np.uint8)
    with mmap.mmap(-1, 16 << 20) as shared:
        untouched = resident_bytes()
        shared[:] = b"\1" * len(shared)
        touched = resident_bytes()
    assert untouched - before >= 0.9 * private.nbytes
    assert touched - untouched >= 0.9 * (16 << 20)


def test_descriptors_are_counted():
    before = count_descriptors()
    opened = os.pipe()
    assert count_descriptors() == before + 2
    for fd in opened:
        os.close(fd)
    assert count_descriptors() == before


def test_the_limit_of_descriptors_is_raised_and_restored():
    soft, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft // 2, hard))
    try:
        with contextlib.suppress(ZeroDivisionError), many_descriptors():
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
            raise ZeroDivisionError
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft // 2, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
