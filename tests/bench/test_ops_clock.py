import time

import pytest
import torch

from torchdali.bench._ops_clock import CudaClock, clock_of


def test_on_the_cpu_all_times_are_that_of_one_call_without_its_preparation():
    calls = []

    def prepare():
        time.sleep(0.05)
        return lambda: (calls.append(1), time.sleep(0.01))

    times = clock_of(torch.device("cpu")).times(prepare)
    assert len(calls) == 1
    assert times.device == times.returned == times.done
    assert 0.01 <= times.done < 0.05


@pytest.mark.gpu
def test_the_time_of_the_gpu_has_no_slow_python_in_it():
    clock = CudaClock(torch.device("cuda"))
    small = torch.ones(16, device="cuda")

    def slow():
        time.sleep(0.01)
        small.add_(1)

    returned, done = clock.wall_seconds(slow)
    assert 0.01 <= returned <= done
    assert clock.device_seconds(slow) < returned / 2


@pytest.mark.gpu
def test_the_time_of_the_gpu_is_that_of_the_work_and_not_of_the_launch():
    clock = CudaClock(torch.device("cuda"))
    source = torch.ones(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    one = min(clock.device_seconds(lambda: target.copy_(source)) for _ in range(5))
    four = min(clock.device_seconds(lambda: [target.copy_(source) for _ in range(4)]) for _ in range(5))
    assert 3 < four / one < 5
    returned, done = clock.wall_seconds(lambda: [target.copy_(source) for _ in range(4)])
    assert returned < done
