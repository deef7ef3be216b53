"""Engines that make batches of JPEGs: what they make, what is measured, and how their processes are dealt with."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.cli.conftest import run_process
from torchdali.bench import _jpeg_run as running
from torchdali.bench._jpeg import JpegSettings, count_jpeg_steps, measure_jpeg
from torchdali.bench._jpeg_child import _measure
from torchdali.bench._jpeg_feeds import FeedPlan, Files, MissingEngineError, open_feed
from torchdali.bench._jpeg_memory import bytes_of_processes, child_environment
from torchdali.bench._jpeg_run import Task, run_by_turns
from torchdali.bench._jpeg_tree import end_session, tree_cpu_seconds, tree_pids
from torchdali.bench._jpeg_variants import CROPPED, DECODED, IN_MAIN, FeedSettings
from torchdali.cli import main
from torchdali.source import PHOTOGRAPHS

BUSY = "import time\nwhile time.process_time() < {}: pass\n"


@pytest.fixture
def settings(tmp_path):
    """Of all engines, with a folder that has no DALI in it."""
    return FeedSettings(str(PHOTOGRAPHS), ("torchdali", "dali", "torch"), "cpu", 1, 2, (4, 8), str(tmp_path))


def plan(engine: str, job: str = "training", variant: str = "", **more) -> FeedPlan:
    return FeedPlan(engine, job, 2, str(PHOTOGRAPHS), "cpu", 1, variant, **{"size": 32, **more})


def task(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str = "torchdali") -> Task:
    """One that runs this code as the engine's process."""
    (tmp_path / "some_engine.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Task("some_engine", plan(engine), {}, 0.0)


def run_tasks(tasks: list[Task], rounds: int = 1) -> running.Results:
    return run_by_turns(tasks, rounds, "cpu", lambda name: None, lambda results: None)


def is_alive(pid: int) -> bool:
    """Whether a process is there and not only waits for its parent to look at it."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def found(plan: FeedPlan, seconds: float = 0.02):
    """What is measured of an engine, in this process."""
    feed = open_feed(plan)
    try:
        return _measure(feed, seconds, warmup=1, warmup_seconds=0)
    finally:
        feed.close()


# --- engines --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "variant"), [("torchdali", ""), ("torch", IN_MAIN), ("torch", DECODED), ("torch", CROPPED)]
)
def test_training_batches_of_all_engines_are_alike(engine, variant):
    one = found(plan(engine, variant=variant, channels_last=engine == "torchdali"))
    assert one.output == "2x3x32x32 float16"
    assert one.images >= 2
    assert one.images % 2 == 0
    assert one.seconds >= 0.02
    assert one.first_batch_seconds > 0
    assert (one.stalled_seconds is None) is (engine == "torch")


@pytest.mark.parametrize(("engine", "variant"), [("torchdali", ""), ("torch", IN_MAIN), ("torch", DECODED)])
def test_the_tutorials_batches_of_all_engines_are_alike(engine, variant):
    assert found(plan(engine, "tutorial", variant)).output == "2 images, uint8"


def test_normalised_images_are_of_the_same_range_in_all_engines():
    lowest, highest = [], []
    for engine, variant in (("torchdali", ""), ("torch", CROPPED)):
        feed = open_feed(dataclasses.replace(plan(engine, variant=variant), batch_size=16))
        try:
            feed.start()
            batches = feed.batches()
            images, labels = next(batches)
            del batches
        finally:
            feed.close()
        assert labels.shape == (16,)
        lowest.append(float(images.min()))
        highest.append(float(images.max()))
    # Contrasts of up to 3 drive some pixels to 0 and to 255; what these become is (value - mean) / std.
    assert lowest == pytest.approx([-123.7 / 58.4] * 2, abs=0.01)
    assert highest == pytest.approx([(255 - 103.5) / 57.4] * 2, abs=0.01)


def test_options_of_the_pipeline_are_passed_on_if_they_are_given(settings):
    (own,) = dataclasses.replace(settings, engines=("torchdali",)).plans("training", 2)
    assert own.options == {}
    options = {"cpu_share": "auto"}
    (own,) = dataclasses.replace(settings, engines=("torchdali",), options=options).plans("training", 2)
    assert own.options == options
    feed = open_feed(plan("torchdali", options={"batch_size": "no number"}))
    with pytest.raises(ValueError, match="no number"):
        feed.start()


def test_all_variants_of_engines_are_planned_and_torch_trains_with_one(settings):
    def names(job: str, **options) -> list[tuple[str, str, int]]:
        return [(one.engine, one.variant, one.workers) for one in settings.plans(job, 2, **options)]

    common = [("torchdali", "", 1), ("dali", "4 workers", 4), ("dali", "8 workers", 8)]
    assert names("tutorial") == [*common, ("torch", IN_MAIN, 2), ("torch", DECODED, 2)]
    assert names("training") == [*names("tutorial"), ("torch", CROPPED, 2)]
    assert names("training", only_best_of_torch=True) == [*common, ("torch", CROPPED, 2)]


def test_files_are_repeated_with_their_labels():
    files = Files(str(PHOTOGRAPHS))
    count = len(files.paths)
    data, label = files.read(count + 1)
    assert data.tobytes() == Path(files.paths[1]).read_bytes()
    assert label == files.labels[1]


@pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is not None, reason="DALI is installed")
def test_missing_dali_is_said_with_what_to_do():
    with pytest.raises(MissingEngineError, match=r"pip install nvidia-dali-cuda130, or .* --dali-path"):
        open_feed(plan("dali"))


# --- processes ------------------------------------------------------------------------------------------------------------


def test_threads_of_openmp_keep_no_processor_busy_while_they_wait_where_all_run_on_the_cpu(settings, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for engine in ("torchdali", "torch", "dali"):
        assert settings.environment(engine)["OMP_WAIT_POLICY"] == "passive"
        assert "OMP_WAIT_POLICY" not in dataclasses.replace(settings, device="cuda:0").environment(engine)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "OMP_WAIT_POLICY" not in settings.environment("torch")


def test_the_folder_with_dali_is_in_the_path_of_its_processes_alone(settings):
    assert "PYTHONPATH" not in settings.environment("torchdali") | settings.environment("torch")
    path = child_environment(settings.environment("dali"))["PYTHONPATH"].split(os.pathsep)
    assert path[0] == settings.dali_path
    assert str(Path(running.__file__).parents[2]) in path


def test_processor_time_is_that_of_the_whole_tree_the_ended_and_the_orphans_included():
    # It burns 0.2 s itself, 0.2 s in a child that ends, and 0.2 s in one whose parent ends before it.
    burn = BUSY.format(0.2)
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn + 'time.sleep(60)'!r}])"
    code = (
        f"import subprocess, sys\n{burn}"
        f"subprocess.run([sys.executable, '-c', {burn!r}])\n"
        f"subprocess.run([sys.executable, '-c', {orphan!r}])\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + 20
            while tree_cpu_seconds(process.pid) < 0.58 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert tree_cpu_seconds(process.pid) >= 0.58
            pids = tree_pids(process.pid)
            assert len(pids) == 2
        finally:
            end_session(process.pid)
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def test_an_engine_that_fails_is_told_and_not_tried_again(tmp_path, monkeypatch):
    bad = task(
        "import sys; sys.stderr.write('line\\nno luck\\n'); open('tried', 'a').write('.')", tmp_path, monkeypatch
    )
    monkeypatch.chdir(tmp_path)
    results = run_tasks([bad], rounds=2)
    assert results.runs == []
    (failure,) = results.failures
    assert failure.message == "line\nno luck"
    assert (tmp_path / "tried").read_text() == "."


STARTS_A_CHILD = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
pathlib.Path("child").write_text(str(child.pid))
"""


def ended(tmp_path: Path) -> bool:
    """Whether the child that an engine started is gone, or goes soon."""
    pid, deadline = int((tmp_path / "child").read_text()), time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_an_engine_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "_CPU_START_SECONDS", 1.5)
    results = run_tasks([task(STARTS_A_CHILD + "time.sleep(99)", tmp_path, monkeypatch)])
    assert "no answer within" in results.failures[0].message
    assert ended(tmp_path)


def test_what_an_engine_leaves_behind_is_ended_after_its_answer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = STARTS_A_CHILD + 'print(\'{"missing": "this"}\', flush=True)\n'
    assert run_tasks([task(code, tmp_path, monkeypatch)]).missing == {"torchdali": "this"}
    assert ended(tmp_path)


def test_the_drivers_list_of_processes_gives_memory_by_process(tmp_path, monkeypatch):
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\nprintf '12, 100\\n13, [N/A]\\n12, 28\\n'\n")
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert bytes_of_processes() == {12: 128 * 2**20}
    listing.write_text("#!/bin/sh\nexit 9\n")
    assert bytes_of_processes() == {}
    monkeypatch.setenv("PATH", "")
    assert bytes_of_processes() == {}


# --- all of it ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is not None, reason="DALI is installed")
def test_the_command_measures_says_what_is_missing_and_writes_figures_and_chart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["torchdali", "bench", "jpeg", "--and so on"])
    status = main(
        "bench jpeg --engines torchdali,dali --jobs tutorial --batch-size 2 --device cpu --rounds 1 --seconds 0.05 --warmup 1 "
        "--warmup-seconds 0 --workers 1 --dali-workers 1 --json figures.json --chart chart.png".split()
    )
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    assert "on the CPU (no CUDA device was used): 1 round of 0.05 s" in printed.out
    assert "missing: nvidia.dali cannot be imported" in printed.out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["results"]["missing"]) == ["dali"]
    (run,) = figures["results"]["runs"]
    assert (run["engine"], run["round"], run["gpu_bytes"]) == ("torchdali", 0, None)
    assert run["images"] > 0
    assert run["cpu_seconds"] > 0
    assert run["first_batch_seconds"] > 0
    machine = figures["machine"]
    assert {"processor", "cpus", "driver", "gpu", "versions", "date", "command"} == set(machine)
    assert {"torch", "torchvision", "torchdali"} <= set(machine["versions"])
    assert machine["command"] == "python -m torchdali bench jpeg '--and so on'"
    assert (tmp_path / "chart.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(os.listdir(tmp_path)) == ["chart.png", "figures.json"]


def test_steps_are_counted_and_results_handed_out_after_each_measurement(monkeypatch, settings):
    def answer(task, memory):
        return {"found": {"images": 4, "seconds": 2.0, "cpu_seconds": 1.0, "first_batch_seconds": 0.5, "output": "",
                          "versions": {}, "waited_seconds": None, "stalled_seconds": None}}, None  # fmt: skip

    monkeypatch.setattr(running, "_converse", answer)
    wanted, steps, after = JpegSettings(settings, batch_sizes=(2, 4), rounds=2), [], []
    results = measure_jpeg(wanted, steps.append, lambda results: after.append(len(results.runs)))
    assert len(steps) == len(set(steps)) == count_jpeg_steps(wanted) == 2 * 2 * (5 + 6)
    assert after == list(range(1, 45))
    assert results.runs[0].images_per_second == 2.0
    assert results.runs[0].cpu_seconds_per_1000 == 250.0
    # By turns: each round has all engines once for each job and batch size.
    assert [run.round for run in results.runs] == [0] * 22 + [1] * 22


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "torch,swim"], "'swim' is unknown; it is some of torchdali, dali, torch"),
        (["--jobs", "swim"], "'swim' is unknown; it is some of tutorial, training"),
        (["--batch-size", "2,0"], "0 is too small"),
        (["--seconds", "0"], "0 is out of range; it is more than 0"),
        (["--seconds", "nan"], "nan is out of range"),
        (["--warmup-seconds", "-1"], "-1 is out of range; it is from 0 to"),
        (["--cpu-share", "2"], "2 is out of range; it is from 0 to 1, or auto"),
        (["--cpu-share", "much"], "'much' is not a number"),
        (["--placement", "moon"], "moon"),
        (["--gpu-workers", "2"], 'gpu_workers is 2, but placement is "main"'),
        (["--chart", "x.jpg"], "the chart is a PNG; 'x.jpg' does not end in .png"),
        (["--chart", "nowhere/x.png"], "there is no folder 'nowhere'"),
        (["--data", "nowhere"], "there is no folder 'nowhere'"),
        (["--from-json", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchdali.cli._bench_engines.measure_jpeg", lambda *_: pytest.fail("it measured"))
    assert main(["bench", "jpeg", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("torchdali bench jpeg: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_chart_without_matplotlib_names_the_extra_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("torchdali.cli._bench_engines.measure_jpeg", lambda *_: pytest.fail("it measured"))
    assert main(["bench", "jpeg", "--chart", str(tmp_path / "x.png")]) == 2
    assert "pip install 'torchdali[notebooks]'" in capsys.readouterr().err


def test_the_benchmarks_have_help(capsys):
    for name in ("jpeg", "train"):
        assert main(["bench", name, "--help"]) == 0
        printed = capsys.readouterr().out
        for option in ("--engines", "--placement", "--gpu-workers", "--cpu-share", "--dali-path", "--json", "--chart"):
            assert option in printed


@pytest.mark.gpu
def test_all_engines_that_are_installed_run_on_the_gpu(tmp_path):
    ran = run_process(
        *("bench", "jpeg", "--engines", "torchdali,torch", "--batch-size", "4", "--rounds", "1", "--seconds", "0.2"),
        *("--warmup-seconds", "0", "--torch-workers", "2", "--json", "figures.json"),
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert results["failures"] == []
    assert len(results["runs"]) == 3 + 4
    assert all(run["gpu_bytes"] > 0 for run in results["runs"])
    assert results["gpu_name"] == torch.cuda.get_device_name()


def test_an_engine_ends_with_whoever_has_it_measured(tmp_path):
    """Also in the middle, by SIGTERM, which ends the one who would have ended it."""
    asked = json.dumps(
        {"plan": dataclasses.asdict(plan("torchdali")), "seconds": 100.0, "warmup": 0, "warmup_seconds": 0}
    )
    program = (
        "import subprocess, sys, time\n"
        "process = subprocess.Popen([sys.executable, '-m', 'torchdali.bench._jpeg_child'], stdin=subprocess.PIPE, text=True,"
        " start_new_session=True)\n"
        f"process.stdin.write({asked!r} + '\\n'); process.stdin.flush()\n"
        "print(process.pid, flush=True); time.sleep(100)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], env=child_environment(), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        engine = psutil.Process(int(process.stdout.readline()))
        deadline = time.monotonic() + 60
        while not engine.children() and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = engine.children()
        assert workers
        process.terminate()
    _, alive = psutil.wait_procs([engine, *workers], timeout=10)
    assert not alive
