"""What all tests share: photographs, and the proof that nothing is left behind."""

import gc
import os
import pickle
import re
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest
import torch
from _pytest.runner import runtestprotocol

import torchdali
from tests.huge_pages import Gathering
from torchdali.pool._zygote import living_zygote

BUNDLED = Path(torchdali.__file__).parent / "photographs"
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # else asking is enough to spoil CUDA for forked children
CUDA = torch.cuda.is_available()

LARGER = os.environ.get("TORCHDALI_TEST_DATA")

MANY = 100
"""Tests that make up for the second which it takes to make forks cheap."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in whatever a shell starts in the background. Tests press Ctrl-C, here and in the programs that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CUDA:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; there is none"))


def pytest_collection_finish(session: pytest.Session) -> None:
    if len(session.items) > MANY:
        session.config.pluginmanager.register(Gathering())


@pytest.fixture(scope="session", autouse=True)
def _kernels_are_not_kept_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDALI_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


def _children() -> list[psutil.Process]:
    """Of those that come from tests: not what starts workers, which lasts as long as this process."""
    zygote = living_zygote()
    own = None if zygote is None else zygote.pid
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.pid != own and not _is_helper(_command(child))]


def _is_helper(command: str) -> bool:
    return "resource_tracker" in command or "multiprocessing.forkserver" in command


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _of_others(file: str) -> bool:
    """Whether a file in /dev/shm is CUDA's, or torch's of a process that lives and comes from elsewhere."""
    if file.startswith("cuda.shm."):  # left by CUDA itself where a tensor was handed to another process
        return True
    maker = re.match(r"torch_(\d+)_", file)
    if maker is None or not psutil.pid_exists(int(maker[1])):
        return False
    own = psutil.Process()
    return int(maker[1]) not in {own.pid, *(child.pid for child in own.children(recursive=True))}


@pytest.fixture
def no_zygote() -> None:
    """That of an earlier test is ended."""
    zygote = living_zygote()
    if zygote is not None:
        zygote.close()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After each test no child process, zombies included, no new file in /dev/shm."""
    before, files = set(_children()), set(os.listdir("/dev/shm"))
    yield
    if not (set(_children()) - before or _new_files(files)):
        return
    gc.collect()  # takes its time, so not after every test; what ends with an object in a cycle is still there before it
    deadline = time.monotonic() + 3
    while (left := set(_children()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"processes were left behind: {left}"
    assert not _new_files(files), "files in /dev/shm"


def _new_files(files: set[str]) -> set[str]:
    return {file for file in set(os.listdir("/dev/shm")) - files if not _of_others(file)}


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


# --- a process for each test where there is a GPU -------------------------------------------------------------------------
#
# Workers are forked before CUDA, so in one process only the first test to use a GPU could start any. There each test that
# may use it runs in a child of its own, forked while this process has not touched CUDA.

TOUCHES_NO_GPU = ("tests/pool/", "tests/source/")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if not CUDA or item.nodeid.startswith(TOUCHES_NO_GPU):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports_from_child(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports_from_child(item: pytest.Item) -> list[pytest.TestReport]:
    hook = item.config.hook
    with tempfile.TemporaryFile() as file:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from Python 3.12 on
            pid = os.fork()
        if pid == 0:
            gc.freeze()  # what was there before is not this test's: collecting garbage would copy all of it
            torch.set_num_threads(1)  # OpenMP's others did not survive the fork, and would be waited for
            try:
                # As if another test of the module followed: what several tests share is the parent's to take down.
                nextitem = cast("pytest.Item", item.parent)
                reports = runtestprotocol(item, nextitem=nextitem, log=False)
                data = [hook.pytest_report_to_serializable(config=item.config, report=report) for report in reports]
                file.write(pickle.dumps(data))
                file.flush()
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        file.seek(0)
        written = file.read()
    if not written:
        call = pytest.CallInfo.from_call(lambda: pytest.fail(f"the test's process ended with status {status}"), "call")
        return [pytest.TestReport.from_item_and_call(item, call)]
    return [hook.pytest_report_from_serializable(config=item.config, data=data) for data in pickle.loads(written)]
