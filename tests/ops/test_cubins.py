"""Machine code on disk: made once by several processes, never taken where it is not what was wanted."""

import fcntl
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("triton")

from torchdali.ops._kernels import _cubins
from torchdali.ops._kernels._cubins import Program, built, folder, kept

PROGRAM = Program(
    "small.cu",
    b'#include "factor.cuh"\nextern "C" __global__ void scale(float *x) { x[threadIdx.x] *= FACTOR + MORE; }',
    (("factor.cuh", b"#define FACTOR 3\n"),),
    ("--gpu-architecture=sm_80", "-DMORE=1"),
)
PARTS = [b"source", b"options"]

ONE_OF_SEVERAL = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("cubins", sys.argv[1])
cubins = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cubins)  # without torch, which takes longer than all the rest
def noted(name):
    with open(name, "ab", buffering=0) as file:
        file.write(b"x")
"""

WITHOUT_COMPILER = """
def make():
    noted("made")
    time.sleep(0.3)
    return b"machine code"
def want():
    return cubins.kept([b"source", b"options"], make)
"""

BY_NVRTC = """
from cuda.bindings import nvrtc
translate = cubins.translated
def translated(*given):
    noted("made")
    return translate(*given)
cubins.translated = translated
def want():
    return cubins.built(cubins.Program(*%r), nvrtc)
"""

RACE = """
noted("ready")
sys.stdin.read()  # until all are ready
sys.stdout.buffer.write(want())
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The folder, which does not exist yet."""
    place = tmp_path / "of the user" / "kernels"
    monkeypatch.setenv("TORCHDALI_CACHE_DIR", str(place))
    return place


@pytest.fixture(scope="module")
def nvrtc():
    module = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        module.nvrtcVersion()
    except RuntimeError:
        pytest.skip("needs NVRTC")
    return module


def unwanted():
    pytest.fail("it was made once more")


def names(place):
    return sorted(path.suffix for path in place.iterdir())


def process(text, folder):
    """Runs a program that has ``cubins`` and ``noted``, in a folder of its own."""
    command = [sys.executable, "-c", ONE_OF_SEVERAL + text, _cubins.__file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)


def wait_for(path, size):
    until = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < until, f"{path.name} has not become {size} bytes"
        time.sleep(0.01)


def race(text, folder, count=4):
    """What the processes got, and how many of them made it."""
    racers = [process(text + RACE, folder) for _ in range(count)]
    try:
        wait_for(folder / "ready", count)
        for racer in racers:
            racer.stdin.close()
        results = [racer.stdout.read() for racer in racers]
        assert [racer.wait(60) for racer in racers] == [0] * count
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
            racer.stdout.close()
    return results, (folder / "made").stat().st_size


def test_what_was_made_is_found_again_and_nothing_else_is_left(place):
    assert kept(PARTS, lambda: b"first") == b"first"
    assert kept(PARTS, unwanted) == b"first"
    assert names(place) == [".cubin"]


def test_what_is_made_from_something_else_is_something_else():
    assert kept([b"ab", b"c"], lambda: b"one") == b"one"
    assert kept([b"a", b"bc"], lambda: b"two") == b"two"
    assert kept([b"ab", b"c", b""], lambda: b"three") == b"three"
    assert kept([b"ab", b"c"], unwanted) == b"one"


@pytest.mark.parametrize("damage", ["cut off", "a bit", "empty", "text", "of other parts"])
def test_a_file_that_is_not_what_was_left_is_made_anew(place, damage):
    kept(PARTS, lambda: b"machine code")
    (file,) = place.iterdir()
    contents = bytearray(file.read_bytes())
    if damage == "of other parts":
        kept([b"other"], lambda: b"other code")
        (other,) = set(place.iterdir()) - {file}
        other.replace(file)
    elif damage == "a bit":
        contents[-1] ^= 1
        file.write_bytes(contents)
    else:
        file.write_bytes(
            {"cut off": contents[:-3], "empty": b"", "text": b"a cubin? no: a text of some length" * 9}[damage]
        )
    assert kept(PARTS, lambda: b"machine code once more") == b"machine code once more"
    assert kept(PARTS, unwanted) == b"machine code once more"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to give files away")
def test_a_file_of_another_user_is_not_used(place):
    kept(PARTS, lambda: b"machine code")
    (file,) = place.iterdir()
    os.chown(file, 12345, -1)
    assert kept(PARTS, lambda: b"our own") == b"our own"
    assert kept(PARTS, unwanted) == b"our own"


def test_a_folder_that_cannot_be_made_or_has_no_name_is_no_error(place, monkeypatch):
    place.parent.write_text("a file where a folder should be")
    assert [kept(PARTS, lambda: b"code") for _ in range(2)] == [b"code"] * 2
    monkeypatch.setattr(_cubins, "folder", lambda: None)
    assert kept(PARTS, lambda: b"code") == b"code"


def test_a_full_disk_is_no_error_and_leaves_no_part_of_a_file(place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert kept(PARTS, lambda: b"code") == b"code"
    assert names(place) == []


def test_what_the_compiler_raises_is_raised_and_nothing_is_kept(place):
    def make():
        raise RuntimeError("error: expected a ;")

    with pytest.raises(RuntimeError, match="expected a ;") as caught:
        kept(PARTS, make)
    assert caught.value.__context__ is None
    assert names(place) == []
    assert kept(PARTS, lambda: b"right") == b"right"


def test_the_folder_is_the_users_wish_or_where_others_have_theirs(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert folder() == Path(os.environ["TORCHDALI_CACHE_DIR"])
    monkeypatch.setenv("TORCHDALI_CACHE_DIR", "")
    assert folder() == Path("/caches/torchdali")
    for ignored in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert folder() == Path("/home/somebody/.cache/torchdali")


def test_of_several_processes_one_makes_it(tmp_path, place):
    results, made = race(WITHOUT_COMPILER, tmp_path)
    assert results == [b"machine code"] * 4
    assert made == 1
    assert names(place) == [".cubin"]


def test_of_several_processes_one_calls_the_compiler(tmp_path, place, nvrtc):
    results, made = race(BY_NVRTC % (tuple(PROGRAM),), tmp_path)
    assert results == [_cubins.translated(PROGRAM, nvrtc)] * 4
    assert made == 1
    assert names(place) == [".cubin"]


def test_who_dies_at_work_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(_cubins, "_PATIENCE", 1e6)
    dying = process(WITHOUT_COMPILER.replace("0.3", "600") + "want()", tmp_path)
    try:
        wait_for(tmp_path / "made", 1)
    finally:
        dying.kill()
        dying.communicate()
    assert kept(PARTS, lambda: b"by another") == b"by another"
    assert kept(PARTS, unwanted) == b"by another"


def test_who_waits_too_long_for_another_process_makes_it_itself(place, monkeypatch):
    monkeypatch.setattr(_cubins, "_PATIENCE", 0.1)
    kept(PARTS, lambda: b"code")
    (file,) = place.iterdir()
    file.unlink()
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert kept(PARTS, lambda: b"code") == b"code"
        assert names(place) == [".cubin", ".lock"]


def test_all_that_a_program_is_made_of_counts(place, nvrtc):
    others = [
        PROGRAM._replace(source=PROGRAM.source.replace(b"*=", b"+=")),
        PROGRAM._replace(headers=(("factor.cuh", b"#define FACTOR 4\n"),)),
        PROGRAM._replace(options=("--gpu-architecture=sm_80", "-DMORE=5")),
        PROGRAM._replace(options=("--gpu-architecture=sm_90", "-DMORE=1")),
    ]
    images = [built(program, nvrtc) for program in (PROGRAM, *others)]
    assert len(set(images)) == len(list(place.iterdir())) == 5
    assert images[0] == _cubins.translated(PROGRAM, nvrtc)


def test_machine_code_of_another_compiler_is_not_used(monkeypatch, nvrtc):
    class Newer:
        def nvrtcVersion(self):
            return nvrtc.nvrtcResult.NVRTC_SUCCESS, 99, 0

    built(PROGRAM, nvrtc)
    monkeypatch.setattr(_cubins, "translated", lambda *_: b"newer")
    assert built(PROGRAM, Newer()) == b"newer"


def test_what_the_compiler_says_of_a_wrong_program_is_told(place, nvrtc):
    with pytest.raises(RuntimeError, match=r"small\.cu\(1\): error"):
        built(PROGRAM._replace(source=b"int half("), nvrtc)
    assert names(place) == []


def test_importing_the_kernel_compiles_nothing(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)  # whoever imports it fails
    path = Path(_cubins.__file__).with_name("_cuda.py")
    spec = importlib.util.spec_from_file_location("once_more", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert not place.exists()
