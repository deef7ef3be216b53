import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest
import torch

import torchdali
from tests.cli.conftest import own_environment, run_process
from torchdali.bench import count_steps, measure
from torchdali.bench._measure import UnequalBatchesError
from torchdali.cli import bench, main

QUICK = ("bench", "pool", "--quick", "--rounds", "2", "--batch-size", "8")
ROWS = (
    "blobs",
    "fixed",
    "small",
    "first batch, ms",
    "epoch restart, ms",
    "restart to first batch, ms",
    "descriptors, none kept",
    "descriptors, 8 batches kept",
    "descriptors for 8 batches kept",
    "memory, none kept, MB",
    "memory, 8 batches kept, MB",
    "samples in 8 batches kept, MB",
    "processor",
    "CPUs",
    "copying, 1 thread",
    "copying, 2 threads",
    "versions",
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All that is quickly measured: the process, and the figures that it wrote."""
    folder = tmp_path_factory.mktemp("bench")
    process = run_process(*QUICK, "--json", "figures.json", cwd=folder)
    assert process.returncode == 0, process.stderr
    assert os.listdir(folder) == ["figures.json"]
    return process, json.loads((folder / "figures.json").read_text())


def numbers_of_rounds(summary: dict[str, Any]) -> int:
    """Checks a summary."""
    assert set(summary) == {"median", "min", "max", "rounds"}
    assert all(isinstance(value, float) for value in (summary["median"], *summary["rounds"]))
    assert 0 < summary["min"] <= summary["median"] <= summary["max"]
    assert (summary["min"], summary["max"]) == (min(summary["rounds"]), max(summary["rounds"]))
    return len(summary["rounds"])


@pytest.mark.parametrize("row", ROWS)
def test_the_tables_have_every_row(row, ran):
    lines = [line for line in ran[0].stdout.splitlines() if line.startswith(f"  {row}  ")]
    assert len(lines) == 1
    assert len(lines[0].split()) > len(row.split())


def test_a_row_of_a_workload_has_both_rates_the_ratio_and_the_bar(ran):
    for name, bar in (("blobs", "8x"), ("fixed", "2x"), ("small", r"1\.5x")):
        row = rf"^  {name} +\d+ +\d+ +\d+\.\d\dx +\d+\.\d\d-\d+\.\d\d +{bar} (yes|no)( +\d+){{2}}( +\d+\.\d\d){{2}}$"
        assert re.search(row, ran[0].stdout, re.MULTILINE), name


def test_the_tables_say_what_ran_on_what(ran):
    report = ran[0].stdout
    assert "2 workers, batches of 8, 2 rounds" in report
    assert f"torchdali {torchdali.__version__}, python {sys.version.split()[0]}, torch {torch.__version__}" in report


def test_without_a_terminal_there_is_nothing_on_stderr(ran):
    assert ran[0].stderr == ""


def test_the_json_file_has_every_figure_of_the_workloads(ran):
    figures = ran[1]["workloads"]
    assert [workload["name"] for workload in figures] == ["blobs", "fixed", "small"]
    for workload in figures:
        assert numbers_of_rounds(workload["ratio"]) == 2
        assert workload["reaches_bar"] is (workload["ratio"]["median"] >= workload["bar"])
        assert workload["nbytes"] > workload["samples"] > 0
        for engine in ("stock", "torchdali"):
            assert {name: numbers_of_rounds(summary) for name, summary in workload[engine].items()} == {
                "samples_per_second": 2,
                "megabytes_per_second": 2,
                "cpu_seconds_per_gigabyte": 2,
            }


def test_the_json_file_has_every_figure_beside_the_workloads(ran):
    figures = ran[1]
    assert figures["settings"] == {
        "subject": "pool",
        "folder": None,
        "workloads": ["blobs", "fixed", "small"],
        "num_workers": 2,
        "batch_size": 8,
        "rounds": 2,
        "samples_scale": 1 / 32,
    }
    for engine in ("stock", "torchdali"):
        overheads = figures["overheads"][engine]
        for name in ("first_batch_ms", "restart_ms", "restart_to_batch_ms"):
            assert numbers_of_rounds(overheads[name]) == 2
        for held in (overheads["none_kept"], overheads["kept"]):
            assert all(type(value) is int for value in held.values())
            assert set(held) == {"descriptors", "nbytes"}
        assert overheads["kept_batches"] == 8
        assert overheads["kept"]["nbytes"] >= 0.9 * overheads["kept_bytes"] > 0
    assert set(figures["bars"]) == {"restart_ms", "descriptors"}
    rates = figures["machine"].pop("copy_gigabytes_per_second")
    assert {threads: numbers_of_rounds(rate) for threads, rate in rates.items()} == {"1": 5, "2": 5}
    assert set(figures["machine"]) == {"processor", "cpus", "versions"}


def test_the_loader_is_compared_in_the_same_way_and_on_images_too(command, tmp_path):
    ran = command("bench", "loader", *QUICK[2:], "--json", "-", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["benchmark"] == "loader"
    bars = {workload["name"]: workload["bar"] for workload in figures["workloads"]}
    assert bars == {"blobs": 8.0, "fixed": 2.0, "small": 1.5, "images": 1.0}
    assert figures["workloads"][-1]["samples"] == 16
    assert figures["bars"]["descriptors"]["reaches_bar"]


def test_images_come_from_the_folder_that_is_named(command, tmp_path, photographs):
    shutil.copy(photographs / "owl.jpg", tmp_path / "one.jpg")
    ran = command("bench", "loader", *QUICK[2:], "--workload", "images", "--data", str(tmp_path), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "torchdali.DataLoader and the stock DataLoader" in ran.stdout
    assert re.search(r"images +\d+ +\d+ ", ran.stdout)


def test_a_folder_without_images_is_said_so(command, tmp_path):
    ran = command("bench", "loader", "--workload", "images", "--data", str(tmp_path), cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == f"torchdali bench loader: error: there are no images in {str(tmp_path)!r}"


def test_json_on_stdout_is_alone_there_and_has_the_chosen_workloads_once(command, tmp_path):
    ran = command(*QUICK, "--workload", "small", "--workload", "small", "--json", "-", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert [workload["name"] for workload in figures["workloads"]] == ["small"]
    assert not list(tmp_path.iterdir())


def test_the_progress_bar_counts_the_steps_to_the_end(monkeypatch, capsys):
    counts = []

    def counting(settings, step):
        report = measure(settings, lambda name: (counts.append(name), step(name)))
        assert len(counts) == count_steps(settings)
        return report

    monkeypatch.setattr(bench, "measure", counting)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*QUICK, "--workload", "fixed"]) == 0
    assert "100% |" in capsys.readouterr().err
    assert len(set(counts)) == len(counts), "each step has a name of its own"


def test_unequal_samples_end_it_with_a_traceback(monkeypatch):
    def unequal(*_, **__):
        raise UnequalBatchesError("batch 0 of torchdali is not that of stock")

    monkeypatch.setattr(bench, "measure", unequal)
    with pytest.raises(UnequalBatchesError):
        main([*QUICK])


@pytest.mark.parametrize(
    ("arguments", "program", "message"),
    [
        ([], "torchdali bench", "arguments are required: BENCHMARK"),
        (["swimming"], "torchdali bench", "swimming"),
        (["pool", "--workers", "0"], "torchdali bench pool", "0 is too small; it is at least 1"),
        (["pool", "--workers", "99999"], "torchdali bench pool", "99999 is too large"),
        (["pool", "--batch-size", "none"], "torchdali bench pool", "'none' is not a whole number"),
        (["pool", "--rounds", "0"], "torchdali bench pool", "0 is too small"),
        (["pool", "--workload", "huge"], "torchdali bench pool", "huge"),
        (["pool", "--samples-scale", "0"], "torchdali bench pool", "0 is out of range"),
        (["pool", "--samples-scale", "nan"], "torchdali bench pool", "nan is out of range"),
        (["pool", "--samples-scale", "x"], "torchdali bench pool", "'x' is not a number"),
        (["pool", "--samples-scale", "2", "--quick"], "torchdali bench pool", "not allowed with"),
        (["pool", "--json", "nowhere/x.json"], "torchdali bench pool", "there is no folder 'nowhere'"),
        (["pool", "--json", "."], "torchdali bench pool", "'.' is a folder"),
        (["pool", "--bogus"], "torchdali bench pool", "unrecognized arguments: --bogus"),
        (["pool", "more"], "torchdali bench pool", "unrecognized arguments: more"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(arguments, program, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("it measured"))
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{program}: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_machine_that_has_no_more_of_something_is_one_line_and_status_2(monkeypatch, capsys):
    def exhausted(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(bench, "measure", exhausted)
    assert main([*QUICK]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("Resource temporarily unavailable")


@pytest.mark.parametrize("subject", ["pool", "loader"])
def test_the_benchmarks_and_their_arguments_have_help(capsys, subject):
    assert main(["bench", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "pool" in printed
    assert "loader" in printed
    assert main(["bench", subject, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"usage: torchdali bench {subject}" in printed
    assert ("--data" in printed) is (subject == "loader")
    for option in ("--workers", "--batch-size", "--rounds", "--samples-scale", "--quick", "--workload", "--json"):
        assert option in printed


@pytest.mark.parametrize(
    ("terminal", "arguments", "bar"), [(True, [], True), (True, ["--no-progress"], False), (False, [], False)]
)
def test_there_is_a_bar_on_a_terminal_unless_it_is_not_wanted(terminal, arguments, bar, monkeypatch, capsys):
    def measure(settings, step):
        step("one thing")
        step("another thing")
        raise OSError("enough")

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main([*QUICK, *arguments]) == 2
    *before, error = capsys.readouterr().err.splitlines()
    assert error == "torchdali bench pool: error: enough"
    assert ("another thing" in "".join(before)) is bar


def test_ctrl_c_ends_it_with_130_and_leaves_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "torchdali", *QUICK, "--rounds", "1000000"],
        cwd=tmp_path,
        env=own_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            workers = wait_for_workers(process)
            os.killpg(process.pid, signal.SIGINT)
            output, errors = process.communicate(timeout=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "KeyboardInterrupt" not in errors
    # A worker of the stock loader complains if the parent goes away while it takes a descriptor; we have no part in it.
    assert "torchdali" not in errors
    assert output == ""
    assert not [worker for worker in workers if worker.is_running()]
    assert not list(tmp_path.iterdir())


def wait_for_workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Of both engines."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended by itself"
        workers = psutil.Process(process.pid).children(recursive=True)
        if len(workers) == 4:
            return workers
        time.sleep(0.02)
    raise AssertionError("no workers were started")
