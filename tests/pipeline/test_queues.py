"""CUDA is told to give streams queues of their own, before it is initialised and where nobody else has a say."""

import os

import numpy as np
import pytest
import torch

import torchdali
from tests.pipeline.support import Draws, count_to
from torchdali.pipeline import _placement, _queues, _staff
from torchdali.pipeline._queues import VARIABLE, allow_queues


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, "")  # so that it is as before in the end
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setattr(_queues, "_DEFAULT_PIPE", tmp_path / "none")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)


def test_there_are_as_many_as_there_can_be():
    allow_queues()
    assert os.environ[VARIABLE] == "32"


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    allow_queues()
    assert os.environ[VARIABLE] == "1"


def test_it_would_come_too_late_after_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    allow_queues()
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("how", ["variable", "folder"])
def test_processes_that_share_a_gpu_share_them(monkeypatch, tmp_path, how):
    if how == "variable":
        monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    else:
        monkeypatch.setattr(_queues, "_DEFAULT_PIPE", tmp_path)
    allow_queues()
    assert VARIABLE not in os.environ


def on(device, monkeypatch):
    def expected(request):
        return None if device is None else torch.device(device)

    monkeypatch.setattr(_staff, "expected_device", expected)
    monkeypatch.setattr(torchdali.loader._stage, "expected_device", expected)


@pytest.mark.parametrize(("device", "wanted"), [("cpu", False), ("cuda:0", True), (None, True)])
def test_a_pipeline_sees_to_it_where_it_may_be_on_a_gpu(monkeypatch, device, wanted):
    on(device, monkeypatch)
    with Draws(count_to(4), device="cpu"):
        assert (VARIABLE in os.environ) == wanted


class Tells(torchdali.Pipeline):
    """What its stage finds in the environment."""

    def forward(self, numbers):
        return numbers, os.environ.get(VARIABLE, "nothing")


@pytest.mark.parametrize(("device", "wanted"), [("cpu", "nothing"), ("cuda:0", "32"), (None, "32")])
def test_processes_of_a_stage_see_to_it_themselves(monkeypatch, device, wanted):
    on(device, monkeypatch)
    with Tells(count_to(4), batch_size=2, device="cpu", placement="workers", gpu_workers=2) as pipeline:
        assert {told for _, told in pipeline} == {wanted}
        assert VARIABLE not in os.environ


@pytest.mark.parametrize(("device", "wanted"), [("cpu", False), ("cuda:0", True)])
def test_so_does_a_loader_with_a_stage(monkeypatch, device, wanted):
    on(device, monkeypatch)
    data = [np.float32(n) for n in range(4)]
    torchdali.DataLoader(data)
    assert VARIABLE not in os.environ
    torchdali.DataLoader(data, pipeline=torch.nn.Identity())
    assert (VARIABLE in os.environ) == wanted


def test_without_a_gpu_nothing_is_set():
    if _placement._count_cuda_devices() != 0:
        pytest.skip("there is a GPU")
    with Draws(count_to(4)):
        assert VARIABLE not in os.environ
