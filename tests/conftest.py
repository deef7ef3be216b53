"""What all tests share: photographs, and the proof that nothing is left behind."""

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

import torchdali

BUNDLED = Path(torchdali.__file__).parent / "photographs"
LARGER = os.environ.get("TORCHDALI_TEST_DATA")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; there is none"))


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "resource_tracker" not in _command(child)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After each test no child process, zombies included, no new file in /dev/shm."""
    before, files = set(_children()), set(os.listdir("/dev/shm"))
    yield
    gc.collect()
    deadline = time.monotonic() + 3
    while (left := set(_children()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"processes were left behind: {left}"
    assert not set(os.listdir("/dev/shm")) - files, "files were left in /dev/shm"


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of photographs that comes with the package."""
    return BUNDLED


@pytest.fixture(scope="session")
def image_folder() -> Path:
    """A folder of JPEGs with a file_list.txt: the one that TORCHDALI_TEST_DATA names (or its imagenet/), else ours."""
    if LARGER is None:
        return BUNDLED
    inner = Path(LARGER) / "imagenet"
    return inner if inner.is_dir() else Path(LARGER)


@pytest.fixture(scope="session")
def odd_folder() -> Path:
    """JPEGs that break decoders; only where TORCHDALI_TEST_DATA names a folder that has them in odd/."""
    odd = Path(LARGER or "") / "odd"
    if LARGER is None or not odd.is_dir():
        pytest.skip("TORCHDALI_TEST_DATA names no folder with odd/")
    return odd
