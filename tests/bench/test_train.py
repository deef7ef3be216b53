"""A training that engines feed."""

import json
from types import SimpleNamespace

import pytest
import torch

from torchdali.bench import _train_child as child
from torchdali.bench._jpeg_feeds import FeedPlan, open_feed
from torchdali.bench._jpeg_variants import CROPPED, FeedSettings
from torchdali.bench._train import TrainSettings, _tasks
from torchdali.cli import main
from torchdali.source import PHOTOGRAPHS


def plan(engine: str, workers: int = 1, variant: str = "") -> FeedPlan:
    data = str(PHOTOGRAPHS)
    return FeedPlan(engine, "training", 2, data, "cpu", workers, variant, size=32, channels_last=True)


@pytest.mark.parametrize(("engine", "variant"), [("torchdali", ""), ("torch", CROPPED), ("synthetic", "")])
def test_a_network_learns_from_batches_of_every_engine(engine, variant, monkeypatch):
    seen = []

    class Trainer:
        def __init__(self, model, device, *, compile_mode):
            assert (model, device.type, compile_mode) == ("resnet18", "cpu", None)

        def step(self, images, labels):
            seen.append((images, labels))

    monkeypatch.setattr(child, "_Trainer", Trainer)
    feed = open_feed(plan(engine, 2, variant))
    try:
        one = child._measure(feed, "resnet18", steps=3, warmup=1, compile_mode=None)
    finally:
        feed.close()
    steps, warmup = (4, 2) if engine == "torch" else (3, 1)  # whole turns of its workers
    assert one.images == 2 * steps
    assert len(seen) == 1 + warmup + steps
    for images, labels in seen:
        assert images.shape == (2, 3, 32, 32)
        assert images.dtype == torch.float16
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == (2,)
        assert labels.dtype == torch.int64
    assert 0 <= one.waited_seconds <= one.seconds
    assert (one.stalled_seconds is None) is (engine != "torchdali")


def test_a_step_changes_the_network():
    trainer = child._Trainer("resnet18", torch.device("cpu"), compile_mode=None)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.step(torch.rand(2, 3, 32, 32).half(), torch.tensor([3, 1003]))
    after = list(trainer.model.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before[:1], after[:1], strict=True))
    assert all(parameter.isfinite().all() for parameter in after)
    assert all(parameter.grad is None for parameter in after)


def test_the_network_is_compiled_in_the_mode_that_was_asked_for(monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda network, mode: modes.append(mode) or network)
    child._Trainer("resnet18", torch.device("cpu"), compile_mode="reduce-overhead")
    child._Trainer("resnet18", torch.device("cpu"), compile_mode=None)
    assert modes == ["reduce-overhead"]


def test_a_network_with_auxiliary_outputs_learns_from_its_logits():
    trainer = child._Trainer("resnet18", torch.device("cpu"), compile_mode=None)
    network = trainer.model
    trainer.model = lambda images: SimpleNamespace(logits=network(images), aux_logits=None)
    before = network.fc.weight.detach().clone()
    trainer.step(torch.rand(2, 3, 32, 32).half(), torch.tensor([3, 1003]))
    assert not torch.equal(network.fc.weight, before)


def test_processes_are_asked_for_what_the_settings_say():
    feeds = FeedSettings("somewhere", ("synthetic", "dali"), "cuda:0", 3, 4, (1, 2), "site")
    synthetic, one, two = _tasks(TrainSettings(feeds, "resnet50", batch_size=7, steps=5, warmup=2, image_size=64))
    assert synthetic.plan == FeedPlan("synthetic", "training", 7, "somewhere", "cuda:0", 0, size=64, channels_last=True)
    assert (one.plan.workers, two.plan.workers) == (1, 2)
    assert one.ask == {"model": "resnet50", "steps": 5, "warmup": 2, "compile_mode": "default"}
    assert one.environment == {"PYTHONPATH": "site"}
    assert synthetic.environment == {}


def test_the_command_trains_and_writes_figures(tmp_path, capsys):
    file = tmp_path / "figures.json"
    status = main(
        "bench train --engines torchdali --model resnet18 --device cpu --no-compile --batch-size 2 --steps 2 --warmup 0 "
        f"--image-size 32 --workers 1 --json {file}".split()
    )
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    assert "resnet18 fed with JPEGs, on the CPU (no CUDA device was used): 1 round of 2 steps" in printed.out
    assert "float32, channels last, not compiled" in printed.out
    figures = json.loads(file.read_text())
    (own,) = figures["groups"][0]["lines"]
    assert own["images_per_second"]["median"] > 0
    assert own["stalled_share"]["median"] <= own["waited_share"]["median"] <= 1
    assert own["output"] == "2x3x32x32 float16"
    assert figures["results"]["failures"] == []


def test_an_unknown_model_is_one_line(capsys):
    assert main(["bench", "train", "--model", "resnet0"]) == 2
    assert capsys.readouterr().err.startswith(
        "torchdali bench train: error: argument --model: 'resnet0' is no model of torchvision.models"
    )


def test_a_mode_cannot_be_both_asked_for_and_refused(capsys):
    assert main(["bench", "train", "--no-compile", "--compile-mode", "max-autotune"]) == 2
    assert "--compile-mode: not allowed with argument --no-compile" in capsys.readouterr().err
