import numpy as np
import pytest

from torchdali.bench import _copy_rate
from torchdali.bench._copy_rate import copy_rate


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_thread_copies_so_many_times(threads, monkeypatch):
    copied = []
    monkeypatch.setattr(_copy_rate, "_NBYTES", 1 << 20)
    monkeypatch.setattr(np, "copyto", lambda target, source: copied.append((target.nbytes, source.nbytes)))
    rate = copy_rate(threads, repeats=4)
    assert copied == [(1 << 20, 1 << 20)] * 4 * threads
    assert len(rate.rounds) == 4
    assert rate.min > 0
