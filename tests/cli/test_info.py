import platform
import re
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import torchvision

import torchdali
from tests.cli.conftest import run_process
from torchdali.cli import _environment as environment
from torchdali.cli import info, main


@pytest.fixture(autouse=True)
def invented_device(monkeypatch):
    """Asking a real device would initialise CUDA, after which no test of this process could fork."""
    described = SimpleNamespace(name="NVIDIA Example", total_memory=80 << 30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: described)


def facts(capsys) -> dict[str, str]:
    assert main(["info"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return split(printed.out)


def split(printed: str) -> dict[str, str]:
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in printed.splitlines() if line)


def test_the_versions_are_those_that_run(capsys):
    told = facts(capsys)
    assert told["torchdali"] == torchdali.__version__
    assert told["python"].startswith(platform.python_version())
    assert told["torch"] == str(torch.__version__)
    assert told["torchvision"] == str(torchvision.__version__)
    assert told["numpy"] == np.__version__


def test_optional_packages_are_named_where_they_are_installed(capsys, monkeypatch):
    monkeypatch.setattr(info, "_OPTIONAL", ("psutil", "no-such-package"))
    told = facts(capsys)
    assert told["psutil"] == psutil.__version__
    assert "no-such-package" not in told


def test_the_machine_is_described(capsys):
    told = facts(capsys)
    assert platform.release() in told["platform"]
    assert re.fullmatch(r"\d+ available of \d+", told["CPUs"])
    assert re.match(r"\d+\.\d GiB, \d+\.\d GiB free", told["memory"])
    assert re.match(r"at most \d+\.\d GiB", told["shared memory"])
    assert re.match(r"(\d+|no limit) \(", told["open files"])
    assert told["start method"].startswith("fork")


@pytest.mark.parametrize("count", [0, 2])
def test_cuda_is_described_with_and_without_devices(count, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    told = facts(capsys)
    assert told["CUDA works"] == ("yes" if count else "no")
    for name in ("NVIDIA driver", "CUDA of the driver", "CUDA of torch", "GPU JPEG decoder"):
        assert told[name]
    devices = [value for name, value in told.items() if name.startswith("device cuda:")]
    assert devices == ["NVIDIA Example, 80.0 GiB, compute capability 9.0"] * count


@pytest.mark.gpu
def test_each_device_has_its_name_and_memory(tmp_path):
    process = run_process("info", cwd=tmp_path)
    assert process.returncode == 0
    told = split(process.stdout)
    assert told["CUDA works"] == "yes"
    assert re.fullmatch(r"\S.+, \d+\.\d GiB, compute capability \d+\.\d+", told["device cuda:0"])
    assert re.fullmatch(r"\d+\.\d+", told["CUDA of the driver"])


def test_variables_that_matter_are_named_where_they_are_set(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    told = facts(capsys)
    assert told["OMP_NUM_THREADS"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in told


def test_what_cannot_be_had_does_not_take_the_rest_along(capsys, monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("the driver is\nbroken")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    monkeypatch.setattr(environment, "cpu_name", broken)
    told = facts(capsys)
    assert told["CUDA works"] == "unknown: RuntimeError: the driver is"
    assert told["torch"] == str(torch.__version__)
    assert told["start method"].startswith("fork")


def test_a_device_that_does_not_answer_is_said_to_be_unknown(capsys, monkeypatch):
    def broken(index):
        raise RuntimeError("device lost")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", broken)
    told = facts(capsys)
    assert told["device cuda:0"] == told["device cuda:1"] == "unknown: RuntimeError: device lost"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.161.03  Wed Oct 19 00:50:42 UTC 2022", "470.161.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
        (None, None),
        ("something else", None),
    ],
)
def test_the_kernel_drivers_version_is_found_in_its_first_line(text, expected, monkeypatch):
    monkeypatch.setattr(environment, "first_line", lambda path: text)
    assert environment.kernel_module_version() == expected


def test_a_torchvision_without_the_gpu_decoder_is_recognised(monkeypatch):
    def empty(*arguments):
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(torch.ops.image, "decode_jpegs_cuda", empty)
    assert not environment.gpu_jpeg_decoder()


def test_the_memory_limit_of_a_container_is_named(capsys, monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(info, "_CGROUP_MEMORY", (str(tmp_path / "absent"), str(limit)))
    limit.write_text("1073741824\n")
    assert facts(capsys)["memory"].endswith("; 1.0 GiB for this control group")
    limit.write_text("max\n")
    assert facts(capsys)["memory"].endswith("free")
