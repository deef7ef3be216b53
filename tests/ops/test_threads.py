"""What is done image by image on several threads is done as on the caller's own."""

import pytest
import torch

from torchdali import TensorList
from torchdali.ops import Normalize, Resize
from torchdali.ops._threads import parallel_map


@pytest.fixture(autouse=True)
def several_threads(monkeypatch):
    monkeypatch.setattr("torchdali.ops._threads.available_cpus", lambda: 3)


def modes(_=None):
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
    )


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.float16),
        torch.autocast("cpu", cache_enabled=False),
        torch.enable_grad(),
    ],
    ids=["no_grad", "inference_mode", "autocast", "autocast without a cache", "enable_grad"],
)
def test_threads_have_the_modes_of_who_calls_and_lose_them_afterwards(context):
    before = modes()
    with context:
        assert parallel_map(modes, range(9)) == [modes()] * 9
    assert parallel_map(modes, range(9)) == [before] * 9


def test_without_gradients_no_image_of_several_has_one():
    images = TensorList([torch.rand(3, 8, 9, requires_grad=True) for _ in range(3)])
    with torch.no_grad():
        assert not any(image.requires_grad for image in Resize(5)(images))
    with torch.inference_mode():
        for operator in (Resize(5), Normalize(), Normalize(axes="HW")):
            assert all(image.is_inference() for image in operator(images))
    assert all(image.requires_grad for image in Resize(5)(images))
