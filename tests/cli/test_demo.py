import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torchvision
from PIL import Image

import torchdali
from tests.cli.conftest import own_environment, run_process
from torchdali.cli import main
from torchdali.source import JpegFolder, SampleInfo

CONTRASTED = {  # what contrasts from 1 to 3 leave as they are
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "black": (0, 0, 0),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The demo as it comes, on the CPU: the process, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("demo")
    return run_process("demo", "--device", "cpu", cwd=folder), folder


def write_jpeg(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (64, 48), colour).save(path, quality=95)


def nearest(pixel) -> str:
    return min(CONTRASTED, key=lambda name: float(np.abs(np.subtract(CONTRASTED[name], pixel, dtype=float)).sum()))


def rows_of_colours(path: Path) -> list[tuple[str, str]]:
    """The flat pictures of the demo's two columns, row by row, by the names of their colours."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    columns = pixels[:, [width // 4, 3 * width // 4]]
    rows: list[tuple[str, str]] = []
    # A picture is 240 pixels high, and no text is as high as the steps are long.
    top, run = 0, 0
    for y in range(height):
        inside = (columns[y].min(axis=1) < 100).all()
        if inside and run == 0:
            top = y
        run = run + 1 if inside else 0
        if run == 100:
            left, right = columns[top + 50]
            rows.append((nearest(left), nearest(right)))
    return rows


def test_it_succeeds_and_says_where_the_picture_is(ran):
    process, folder = ran
    assert process.returncode == 0, process.stderr
    assert re.search(r"^  picture +torchdali_demo\.png$", process.stdout, re.MULTILINE)
    assert os.listdir(folder) == ["torchdali_demo.png"]


def test_the_picture_has_two_columns_and_a_row_for_each_image_of_the_first_batch(ran):
    _, folder = ran
    with Image.open(folder / "torchdali_demo.png") as picture:
        assert picture.format == "PNG"
        assert 2 * 320 < picture.width < 2 * 320 + 100
        assert 4 * 240 < picture.height < 4 * 320
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[:, :15] == 255).all(), "a white margin"
    for half in np.split(pixels[:, : pixels.shape[1] // 2 * 2], 2, axis=1):
        assert len(np.unique(half.reshape(-1, 3), axis=0)) > 5000, "photographs on both sides"
    left, right = np.split(pixels[:, : pixels.shape[1] // 2 * 2].astype(int), 2, axis=1)
    assert np.abs(left - right).mean() > 3, "of different contrast"


def test_the_report_has_rates_times_device_and_versions(ran):
    report = ran[0].stdout
    rates = re.search(r"^  images/s +(\d+) +(\d+)$", report, re.MULTILINE)
    assert rates
    assert all(int(rate) > 0 for rate in rates.groups())
    shares = []
    for part in ("decode", "augment", "waiting for workers", "everything else"):
        line = re.search(rf"^  {part} +\d+\.\d\d +(\d+)% +\d+\.\d\d +(\d+)%$", report, re.MULTILINE)
        assert line, part
        shares.append([int(share) for share in line.groups()])
    assert all(abs(sum(column) - 100) <= 2 for column in zip(*shares, strict=True)), "the parts are the whole"
    assert re.search(r"^  source +\d+\.\d\d +\d+% +\d+\.\d\d +\d+%$", report, re.MULTILINE)
    assert "without the first of 3 epochs" in report
    assert "14 images in 14 classes" in report
    assert re.search(r"^  device +\S.*CPU", report, re.MULTILINE)
    for version in (torchdali.__version__, str(torch.__version__), str(torchvision.__version__)):
        assert version in report
    assert f"python {sys.version.split()[0]}" in report


def test_the_progress_bar_is_on_stderr_and_counts_all_images(ran):
    process, _ = ran
    assert "epoch 3/3" in process.stderr
    assert "84/84 images" in process.stderr
    assert re.search(r"validation \d+ images/s", process.stderr)
    assert "Traceback" not in process.stderr
    assert "Warning" not in process.stderr


def test_both_columns_show_the_same_files_in_the_order_of_training(command, tmp_path):
    for name, colour in CONTRASTED.items():
        write_jpeg(tmp_path / "data" / name / "picture.jpg", colour)
    process = command(
        *("demo", "--device", "cpu", "--data", "data", "--epochs", 1, "--batch-size", 4, "--seed", 3),
        *("--output", "sheet.png"),
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    folder = JpegFolder(tmp_path / "data", shuffle=True, seed=3)
    expected = [folder.class_name(folder.labels[folder.index(SampleInfo(i, i, 0, 0))]) for i in range(4)]
    assert expected != sorted(CONTRASTED)[:4], "the seed shuffles"
    assert rows_of_colours(tmp_path / "sheet.png") == [(name, name) for name in expected]
    assert "6 images in 6 classes" in process.stdout
    assert "one epoch" in process.stdout


def test_validation_has_contrast_one_and_a_half_and_training_one_to_three(command, tmp_path):
    write_jpeg(tmp_path / "data" / "gray.jpg", (88, 88, 88))
    process = command("demo", "--device", "cpu", "--data", "data", "--output", "sheet.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    training, validation = (sheet[sheet.shape[0] // 2, sheet.shape[1] * side // 4] for side in (1, 3))
    assert np.abs(validation - (128 - 1.5 * 40)).max() <= 2
    assert 128 - 3 * 40 - 2 <= training.min() <= training.max() <= 128 - 1 * 40 + 2
    assert np.abs(training - validation).min() > 2


def test_a_folder_with_a_list_is_read_by_the_list(command, tmp_path):
    for name, colour in CONTRASTED.items():
        write_jpeg(tmp_path / f"{name}.jpg", colour)
    (tmp_path / "file_list.txt").write_text("red.jpg 5\nblue.jpg 7\n")
    process = command("demo", "--device", "cpu", "--data", ".", "--output", "sheet.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "2 images in 2 classes" in process.stdout
    assert sorted(rows_of_colours(tmp_path / "sheet.png")) == [("blue", "blue"), ("red", "red")]


def test_a_folder_of_jpegs_is_one_class(command, tmp_path):
    for name in ("red", "blue", "green"):
        write_jpeg(tmp_path / f"{name}.jpg", CONTRASTED[name])
    process = command("demo", "--device", "cpu", "--data", tmp_path, "--output", "sheet.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "3 images in 1 class\n" in process.stdout
    assert len(rows_of_colours(tmp_path / "sheet.png")) == 3


@pytest.mark.gpu
def test_it_runs_on_a_gpu(tmp_path):
    process = run_process("demo", "--device", "cuda", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert re.search(r"^  device +\S.* \(cuda:0\)$", process.stdout, re.MULTILINE)
    assert re.search(r"^  CUDA +\d+\.\d in torch", process.stdout, re.MULTILINE)
    assert "the GPU's clock" in process.stdout
    assert (tmp_path / "torchdali_demo.png").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "there is no folder 'nowhere'"),
        (["--data", "empty"], "no JPEG"),
        (["--data", "file.txt"], "'file.txt' is a file"),
        (["--data", "badlist"], "line 1 of 'badlist/file_list.txt' is 'what'"),
        (["--device", "tpu"], "'tpu' is no device"),
        (["--device", "cuda:x"], "'cuda:x' is no device"),
        (["--workers", "0"], "0 is too small; it is at least 1"),
        (["--workers", "99999"], "99999 is too large"),
        (["--batch-size", "-3"], "-3 is too small"),
        (["--epochs", "many"], "'many' is not a whole number"),
        (["--seed", "-1"], "-1 is too small; it is at least 0"),
        (["--output", "nowhere/x.png"], "there is no folder 'nowhere'"),
        (["--output", "x.jpg"], "does not end in .png"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file.txt").touch()
    Path("badlist").mkdir()
    Path("badlist/file_list.txt").write_text("what\n")
    assert main(["demo", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("torchdali demo: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_cuda_device_that_is_not_there_is_an_error_and_not_the_cpu(tmp_path):
    process = run_process("demo", "--device", "cuda:1", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 2
    assert process.stderr.startswith("torchdali demo: error: the device is 'cuda:1', but CUDA is not available")
    assert process.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_an_image_that_cannot_be_had_is_named(damage, photographs, command, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(photographs / "cat.jpg", data / "good.jpg")
    (data / "file_list.txt").write_text("good.jpg 0\nbad.jpg 1\n")
    if damage == "cut":
        (data / "bad.jpg").write_bytes((photographs / "bee.jpg").read_bytes()[:5000])
    process = command("demo", "--device", "cpu", "--data", "data", cwd=tmp_path)
    assert process.returncode == 2
    error = process.stderr.splitlines()[-1]  # the progress bar stands before it
    assert error.startswith("torchdali demo: error: ")
    assert "'data/bad.jpg'" in error
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "torchdali_demo.png").exists()


def test_ctrl_c_ends_it_with_130_and_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "torchdali", "demo", "--device", "cpu", "--epochs", "1000000"],
        cwd=tmp_path,
        env=own_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        workers = _wait_for_workers(process)
        assert process.stderr is not None
        while "training" not in process.stderr.read(20):  # the bar moves, so batches come
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "KeyboardInterrupt" not in errors
    assert output == ""
    assert not [worker for worker in workers if worker.is_running()]
    assert not list(tmp_path.iterdir()), "no picture of what was not finished"


def _wait_for_workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended by itself"
        workers = psutil.Process(process.pid).children(recursive=True)
        if len(workers) >= 4:  # at least two for each pipeline
            return workers
        time.sleep(0.02)
    raise AssertionError("no workers were started")
