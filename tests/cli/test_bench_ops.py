import json
import re
import shutil
import sys

import pytest
import torch

import torchdali
from torchdali.bench import _ops, count_operator_steps, measure_operators
from torchdali.cli import bench, main

TINY = ("bench", "ops", "--device", "cpu", "--batch-size", "2", "--rounds", "2")


@pytest.fixture
def one_photograph(tmp_path, photographs):
    """A folder with one."""
    folder = tmp_path / "photographs" / "inner"
    folder.mkdir(parents=True)
    shutil.copy(photographs / "bridge.jpg", folder / "one.JPG")
    return folder.parent


def test_the_json_has_settings_cases_and_the_machine(command, one_photograph, tmp_path):
    arguments = ("--case", "flip", "--case", "training", "--case", "flip", "--data", one_photograph)
    ran = command(*TINY, *arguments, "--json", "-", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["settings"] == {
        "cases": ["flip", "training"],
        "batch_size": 2,
        "rounds": 2,
        "device": "cpu",
        "folder": str(one_photograph),
    }
    flip, training = figures["cases"]
    assert flip["bytes_read"] == flip["bytes_written"] == figures["image_bytes"] > 0
    assert training["bytes_written"] == 2 * 3 * 224 * 224 * 2
    for case in figures["cases"]:
        nbytes = case["bytes_read"] + case["bytes_written"]
        times = zip(case["device_ms"]["rounds"], case["copy_ms"]["rounds"], strict=True)
        for (taken, copy), rate, share in zip(
            times, case["gigabytes_per_second"]["rounds"], case["share"]["rounds"], strict=True
        ):
            assert rate == pytest.approx(nbytes / 1e9 / (taken / 1e3))
            assert share == pytest.approx(copy / taken)
        assert case["reaches_bars"] is None
        assert case["python_ms"] is None
    assert {"per_image", "torchvision"} <= set(flip["others"])
    assert "in_turn" in training["others"]
    assert {"processor", "cpus", "versions", "device_name", "kernels", "copy_gigabytes_per_second"} == set(
        figures["machine"]
    )
    assert figures["machine"]["versions"]["torch"] == str(torch.__version__)


def test_the_table_has_a_line_for_a_case_and_says_that_kornia_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(_ops, "has_kornia", lambda: False)
    assert main([*TINY, "--case", "flip", "--json", str(tmp_path / "figures.json")]) == 0
    ran, errors = capsys.readouterr()
    assert errors == ""
    assert re.search(r"^  flip +\d+\.\d{3} +- +\d+\.\d{3} +\d+\.\d +\d+\.\d +\d+% +- +", ran, re.MULTILINE)
    assert re.search(r"^  kornia +not installed, so not compared$", ran, re.MULTILINE)
    assert "torchdali's operators on cpu: batches of 2 photographs" in ran
    assert f"torchdali {torchdali.__version__}, python" in ran
    assert json.loads((tmp_path / "figures.json").read_text())["missing"] == ["kornia"]


def test_the_progress_bar_counts_the_steps_of_operators_to_the_end(monkeypatch, capsys):
    counts = []

    def counting(settings, step):
        report = measure_operators(settings, lambda name: (counts.append(name), step(name)))
        assert len(counts) == count_operator_steps(settings)
        return report

    monkeypatch.setattr(bench, "measure_operators", counting)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*TINY, "--case", "erase"]) == 0
    assert "100% |" in capsys.readouterr().err
    assert len(set(counts)) == len(counts), "each step has a name of its own"


def test_wrong_arguments_for_operators_are_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.jpg").write_bytes(b"no image")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for arguments, message in (
        (["--case", "swim"], "swim"),
        (["--device", "tpu"], "'tpu' is no device"),
        (["--device", "cuda:1"], "--device cuda:1: there are 1; --device cpu always works"),
        (["--batch-size", "0"], "0 is too small"),
        (["--workers", "2"], "unrecognized arguments: --workers"),
        (["--json", "nowhere/x.json"], "there is no folder 'nowhere'"),
        (["--data", str(tmp_path / "none")], "there are no images in"),
        (["--data", str(tmp_path / "broken")], "one.jpg"),
    ):
        assert main([*TINY, *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("torchdali bench ops: error: ")
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""


def test_the_device_is_the_first_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [bench._find_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        "cuda:0",
        "cpu",
        "cuda:0",
        "cuda:1",
    ]
    for name in ("cuda:2", "cuda:256", "cuda:1000", "cuda:99999999999"):
        with pytest.raises(bench.UserError, match=f"--device {name}: there are 2"):
            bench._find_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert bench._find_device("auto") == "cpu"
    with pytest.raises(bench.UserError, match="there is no CUDA device"):
        bench._find_device("cuda")


def test_the_benchmark_of_operators_has_help(capsys):
    assert main(["bench", "ops", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "usage: torchdali bench ops" in printed
    for option in ("--device", "--batch-size", "--rounds", "--data", "--case", "--json", "--no-progress"):
        assert option in printed
