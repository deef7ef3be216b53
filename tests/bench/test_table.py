import dataclasses
import json
import re

import pytest

from torchdali.bench import Machine, Report, Settings, as_dict, as_text
from torchdali.bench._measure import Throughput, WorkloadResult
from torchdali.bench._overheads import Held, Overheads
from torchdali.bench._summary import Summary

MACHINE = Machine("A Processor", 3, {"torchdali": "1.2", "python": "3.4"})


def overheads(start: float, restart: float, kept: Held) -> Overheads:
    return Overheads(
        first_batch_ms=Summary.of([start]),
        restart_ms=Summary.of([restart]),
        restart_to_batch_ms=Summary.of([7.0, 8.0, 12.0]),
        none_kept=Held(10, 5_000_000),
        kept=kept,
        kept_batches=20,
        kept_bytes=123_000_000,
    )


@pytest.fixture
def report() -> Report:
    stock = Throughput(Summary.of([100.0, 120.0, 90.0]), Summary.of([11.0]), Summary.of([6.25]))
    torchdali = Throughput(Summary.of([800.0, 900.0, 1000.0]), Summary.of([89.0]), Summary.of([0.5]))
    result = WorkloadResult("blobs", 64, 6400, stock, torchdali, Summary.of([8.0, 7.5, 11.1]), bar=8.0)
    return Report(
        Settings(workloads=("blobs",), num_workers=2, batch_size=16, rounds=3),
        [result],
        overheads(90.0, 1.5, Held(1290, 145_000_000)),
        overheads(40.0, 0.25, Held(13, 150_000_000)),
        {1: Summary.of([4.0, 5.0, 4.5]), 2: Summary.of([8.0])},
    )


def cells(text: str, name: str) -> list[str]:
    """The rest of the line that begins with a name, split where two blanks are."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return re.split(r"\s{2,}", line.strip())[1:]


def test_a_line_of_throughput(report):
    text = as_text(report, MACHINE)
    assert cells(text, "blobs") == ["100", "900", "8.00x", "7.50-11.10", "8x yes", "11", "89", "6.25", "0.50"]
    assert "2 workers, batches of 16, 3 rounds" in text


def test_a_median_below_the_bar_is_a_no_whatever_the_best_round_is(report):
    result = dataclasses.replace(report.workloads[0], ratio=Summary.of([7.9, 7.9, 50.0]))
    worse = dataclasses.replace(report, workloads=[result])
    assert cells(as_text(worse, MACHINE), "blobs")[4] == "8x no"
    assert as_dict(worse, MACHINE)["workloads"][0]["reaches_bar"] is False
    assert as_dict(report, MACHINE)["workloads"][0]["reaches_bar"] is True


def test_lines_of_overheads(report):
    text = as_text(report, MACHINE)
    assert cells(text, "first batch, ms") == ["90.00 (90.00-90.00)", "40.00 (40.00-40.00)"]
    assert cells(text, "epoch restart, ms") == ["1.50 (1.50-1.50)", "0.25 (0.25-0.25)", "1 yes"]
    assert cells(text, "restart to first batch, ms") == ["8.00 (7.00-12.00)"] * 2
    assert cells(text, "descriptors, none kept") == ["10", "10"]
    assert cells(text, "descriptors, 20 batches kept") == ["1290", "13"]
    assert cells(text, "descriptors for 20 batches kept") == ["1280", "3", "4 yes"]
    assert cells(text, "memory, none kept, MB") == ["5", "5"]
    assert cells(text, "memory, 20 batches kept, MB") == ["145", "150"]
    assert cells(text, "samples in 20 batches kept, MB") == ["123", "123"]


def test_overheads_beyond_the_bars_are_a_no(report):
    worse = dataclasses.replace(report, torchdali=overheads(40.0, 1.01, Held(15, 0)))
    text, bars = as_text(worse, MACHINE), as_dict(worse, MACHINE)["bars"]
    assert cells(text, "epoch restart, ms")[2] == "1 no"
    assert cells(text, "descriptors for 20 batches kept")[2] == "4 no"
    assert bars == {
        "restart_ms": {"bar": 1.0, "reaches_bar": False},
        "descriptors": {"bar": 4, "reaches_bar": False},
    }


def test_lines_of_the_machine(report):
    text = as_text(report, MACHINE)
    assert cells(text, "processor") == ["A Processor"]
    assert cells(text, "CPUs") == ["3"]
    assert cells(text, "copying, 1 thread") == ["4.5 GB/s (4.0-5.0)"]
    assert cells(text, "copying, 2 threads") == ["8.0 GB/s (8.0-8.0)"]
    assert cells(text, "versions") == ["torchdali 1.2, python 3.4"]


def test_json_has_all_figures(report):
    data = json.loads(json.dumps(as_dict(report, MACHINE)))
    assert data["settings"] == {
        "subject": "pool",
        "folder": None,
        "workloads": ["blobs"],
        "num_workers": 2,
        "batch_size": 16,
        "rounds": 3,
        "samples_scale": 1.0,
    }
    (blobs,) = data["workloads"]
    assert blobs["stock"]["samples_per_second"] == {"median": 100, "min": 90, "max": 120, "rounds": [100, 120, 90]}
    assert blobs["ratio"]["rounds"] == [8.0, 7.5, 11.1]
    assert data["overheads"]["torchdali"]["kept"] == {"descriptors": 13, "nbytes": 150_000_000}
    assert data["machine"]["copy_gigabytes_per_second"]["1"]["median"] == 4.5
    assert data["machine"]["versions"] == {"torchdali": "1.2", "python": "3.4"}
