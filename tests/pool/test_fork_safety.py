"""Workers that are forked from a process full of threads compute as it does, and wait for none of its locks."""

import contextlib
import logging
import queue
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from tests.pool.support import BOUND
from torchdali.pool._zygote import living_zygote

SECONDS = 4 * BOUND
"""A deadlock lasts longer than that, and no computation here takes nearly as long."""

METHODS = ["fork", "zygote"]


@pytest.fixture(params=METHODS)
def start(request, make_pool):
    """Starts a pool as it is when its test calls it: a zygote, too, is forked only then."""

    def start(*functions, workers=2):
        zygote = living_zygote()
        if request.param == "zygote" and zygote is not None:
            zygote.close()
        return make_pool(*functions, workers=workers, start_method=request.param)

    return start


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def collect(pool, items, function=0):
    found = pool.collect(pool.submit(function, items), timeout=SECONDS)
    assert pool.statistics().deaths == 0
    return found


COMPUTATIONS: dict[str, Any] = {
    "product": lambda: (torch.arange(250_000.0).view(500, 500) % 7) @ torch.ones(500, 500),
    "product of doubles": lambda: (torch.arange(90_000.0).view(300, 300) % 7).double() @ torch.ones(300, 300).double(),
    "sum": lambda: torch.arange(2_000_000).sum(),
    "elements": lambda: (torch.arange(1_000_000) * 3 + 1).clamp_(max=50_000),
    "sort": lambda: ((torch.arange(300_000) * 7919) % 300_007).sort().values,
    "convolution": lambda: torch.nn.functional.conv2d(torch.ones(4, 3, 64, 64), torch.ones(8, 3, 3, 3)),
    "resize": lambda: torch.nn.functional.interpolate(
        (torch.arange(150_528) % 256).view(1, 3, 224, 224).byte(), size=(448, 448), mode="nearest"
    ),
    "copy": lambda: torch.arange(1_000_000).view(1000, 1000).t().contiguous(),
    "inverse": lambda: torch.linalg.inv(2 * torch.eye(200)),
    "Fourier": lambda: torch.fft.fft(torch.eye(128)[0]).real,
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_torch_computes_in_a_worker_after_many_threads_did_here(start, name):
    compute = COMPUTATIONS[name]
    with torch_threads(4):
        for other in COMPUTATIONS.values():
            other()
        here = compute()
        pool = start(lambda item: compute())
        assert all(torch.equal(here, there) for there in collect(pool, range(6)))
        assert torch.equal(here, compute())


def test_threads_of_torch_are_as_many_here_after_the_start_as_before(start):
    with torch_threads(4):
        COMPUTATIONS["product"]()
        pool = start(lambda item: torch.get_num_threads())
        assert collect(pool, range(4)) == [1] * 4
        assert torch.get_num_threads() == 4


def test_gradients_are_computed_in_a_worker_after_they_were_here(start):
    def gradient(item):
        weight = torch.full((50, 50), 2.0, requires_grad=True)
        (weight @ torch.ones(50, 50)).square().sum().backward()
        return weight.grad

    with torch_threads(4):
        here = gradient(0)
        pool = start(gradient)
        assert all(torch.equal(here, there) for there in collect(pool, range(4)))


@pytest.mark.parametrize("operation", ["blur", "resize", "color", "all"])
def test_opencv_computes_in_a_worker_after_many_threads_did_here(start, operation):
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
    image = np.random.default_rng(3).integers(0, 256, (1500, 1500, 3), np.uint8)
    operations = {
        "blur": lambda: cv2.GaussianBlur(image, (15, 15), 3),
        "resize": lambda: cv2.resize(image, (2500, 2500), interpolation=cv2.INTER_CUBIC),
        "color": lambda: cv2.cvtColor(image, cv2.COLOR_BGR2LAB),
    }
    wanted = list(operations) if operation == "all" else [operation]

    def compute(item):
        return sum(int(operations[name]().sum(dtype=np.int64)) for name in wanted)

    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        for call in operations.values():
            call()
        here = compute(0)
        pool = start(compute, lambda item: cv2.getNumThreads())
        assert collect(pool, range(4)) == [here] * 4
        assert set(collect(pool, range(4), function=1)) <= {0, 1}
        assert cv2.getNumThreads() == 4
        assert compute(0) == here
    finally:
        cv2.setNumThreads(before)


def test_numpy_multiplies_in_a_worker_after_many_threads_did_here(start):
    matrix = (np.arange(640_000.0) % 11).reshape(800, 800)

    def compute(item):
        return matrix @ matrix, np.linalg.inv(2 * np.eye(300))

    here = compute(0)
    pool = start(compute)
    for there in collect(pool, range(4)):
        assert np.allclose(here[0], there[0])
        assert np.allclose(here[1], there[1])


def test_workers_started_while_threads_compute_do_the_same(start):
    """Several starts, each in the middle of what threads do: allocate, import, format, multiply, log, draw."""
    stop = threading.Event()
    logger = logging.getLogger("test_fork_safety")
    logger.addHandler(logging.NullHandler())

    def work(number):
        rounds = 0
        while not stop.is_set():
            rounds += 1
            np.ones((60, 60)) @ np.ones((60, 60))
            torch.ones(300, 300) @ torch.ones(300, 300)
            [str(entry) for entry in range(200)]
            logger.error("round %d of %d", rounds, number)
            random.random()
        return rounds

    def compute(item):
        logger.error("item %d", item)
        product = torch.full((300, 300), float(item)) @ torch.ones(300, 300)
        return float(product.sum()), float((np.ones((60, 60)) @ np.ones((60, 60))).sum()), random.random() < 2

    with torch_threads(2), ThreadPoolExecutor(4) as executor:
        futures = [executor.submit(work, number) for number in range(4)]
        try:
            for _ in range(4):
                pool = start(compute)
                assert collect(pool, range(8)) == [(300.0**3 * item, 60.0**3, True) for item in range(8)]
                pool.close()
        finally:
            stop.set()
    assert all(future.result() > 0 for future in futures)


@contextlib.contextmanager
def held_by_a_thread(*locks: Any) -> Iterator[None]:
    """Another thread holds these locks meanwhile."""
    held, release = threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                lock.acquire()
                stack.callback(lock.release)
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        release.set()
        thread.join()


def test_a_worker_may_log_though_a_thread_held_the_lock_of_its_handler_at_the_fork(start):
    handler = logging.StreamHandler(open("/dev/null", "w"))  # noqa: PTH123, SIM115
    logger = logging.getLogger("test_fork_safety.held")
    logger.addHandler(handler)

    def log(item):
        logger.error("item %d", item)
        logging.getLogger(f"test_fork_safety.new{item}").warning("from a new logger")
        return item

    try:
        assert handler.lock is not None
        with held_by_a_thread(handler):
            pool = start(log)
            assert collect(pool, range(4)) == list(range(4))
    finally:
        logger.removeHandler(handler)
        handler.stream.close()


def test_a_worker_may_use_threads_and_queues_though_the_executor_of_its_parent_is_busy(start):
    release = threading.Event()

    def compute(item):
        waiting: queue.Queue[int] = queue.Queue()
        with ThreadPoolExecutor(3) as executor:
            list(executor.map(waiting.put, range(item)))
        return sum(waiting.get() for _ in range(item))

    with ThreadPoolExecutor(3) as executor:
        futures = [executor.submit(release.wait) for _ in range(20)]  # most of them are waiting in its queue
        try:
            pool = start(compute)
            assert collect(pool, [1, 5, 10, 30]) == [0, 10, 45, 435]
        finally:
            release.set()
        assert all(future.result() for future in futures)


@pytest.mark.parametrize("method", METHODS)
def test_workers_print_though_threads_of_the_parent_print_all_the_time(program, method):
    ended = program(
        f"""
        import sys, threading
        from torchdali.pool import WorkerPool

        stop = threading.Event()

        def chatter():
            while not stop.is_set():
                print("x" * 100, file=sys.stderr, flush=True)
                sys.stdout.write("")
                sys.stdout.flush()

        def call(item):
            print("item", flush=True)
            sys.stderr.write("")
            sys.stderr.flush()
            return item

        threads = [threading.Thread(target=chatter) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                with WorkerPool([call], 2, start_method={method!r}) as pool:
                    found = pool.collect(pool.submit(0, range(4)), timeout={BOUND})
                    assert found == list(range(4)), found
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        """
    ).wait(60)
    assert ended.code == 0, ended.err[-2000:]
    assert ended.out.count("item") == 12  # lines of two workers may run into each other
