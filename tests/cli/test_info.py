import platform
import re

import numpy as np
import psutil
import pytest
import torch
import torchvision

import torchdali
from torchdali.cli import _environment as environment
from torchdali.cli import info, main


def facts(capsys) -> dict[str, str]:
    assert main(["info"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in printed.out.splitlines() if line)


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


def test_cuda_is_described_with_and_without_a_device(capsys):
    told = facts(capsys)
    assert told["CUDA works"] == ("yes" if torch.cuda.is_available() else "no")
    for name in ("NVIDIA driver", "CUDA of the driver", "CUDA of torch", "GPU JPEG decoder"):
        assert told[name]
    devices = [name for name in told if name.startswith("device cuda:")]
    assert len(devices) == torch.cuda.device_count()


@pytest.mark.gpu
def test_each_device_has_its_name_and_memory(capsys):
    assert re.match(rf"{re.escape(torch.cuda.get_device_name(0))}, \d+\.\d GiB", facts(capsys)["device cuda:0"])


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
