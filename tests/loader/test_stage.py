"""The device stage, on the CPU: what it is called with, what comes out, what goes wrong, what it leaves alone."""

import collections

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from tests.helpers import decode_serially, read_bytes
from tests.loader.support_faults import Numbers, Stream, batches, ints
from tests.pipeline.support import count_to, plain
from torchdali import DataLoader, TensorList, ops, ragged_collate

pytestmark = pytest.mark.timeout(60)
WORKERS = pytest.mark.parametrize("workers", [0, 2])


def pairs(size=20):
    images = torch.arange(size * 3 * 8 * 8, dtype=torch.float32).reshape(size, 3, 8, 8) / 1000
    return TensorDataset(images, torch.arange(size))


class Named(Numbers):
    """Samples that are mappings."""

    def __getitem__(self, index):
        return {"image": torch.full((3, 4), float(index)), "name": f"sample {index}", "label": index}


class One(nn.Module):
    def forward(self, batch):
        return batch * 2


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, images, labels):
        return {"images": (images * self.scale).detach(), "labels": labels + 1}


class Whole(nn.Module):
    """Takes a batch that is a list as one argument."""

    def forward(self, batch):
        assert isinstance(batch, list)
        return batch[0].mean(dim=(1, 2, 3)), batch[1]


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return type(one) is type(other) and torch.equal(one, other)
    if isinstance(one, TensorList):
        return isinstance(other, TensorList) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


STAGES = {
    "module of one": (lambda: One(), lambda module, batch: module(batch[0]), lambda: TensorDataset(pairs().tensors[0])),
    "module of two": (lambda: Two(), lambda module, batch: module(*batch), pairs),
    "module of a list": (lambda: Whole(), lambda module, batch: module(batch), pairs),
    "function of two": (lambda: torch.mul, None, None),
    "lambda of two": (lambda: lambda x, y: (y, x), lambda function, batch: function(*batch), pairs),
    "lambda of a list": (lambda: lambda batch: batch[::-1], lambda function, batch: function(batch), pairs),
    "lambda of all": (lambda: lambda *parts: parts, lambda function, batch: function(*batch), pairs),
    "dict": (
        lambda: lambda batch: {**batch, "image": batch["image"] + 1},
        lambda function, batch: function(batch),
        None,
    ),
    "v2": (
        lambda: v2.Compose([v2.Resize(4), v2.Normalize([0.5] * 3, [0.1] * 3)]),
        lambda transform, batch: transform(*batch),
        pairs,
    ),
    "sequential": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), lambda module, batch: module(batch[0]), None),
}


@WORKERS
@pytest.mark.parametrize("name", [name for name, (_, call, _) in STAGES.items() if call is not None])
def test_what_comes_out_is_what_the_module_makes_by_hand(name, workers):
    make, call, dataset = STAGES[name]
    data = dataset() if dataset else Named(20) if name == "dict" else TensorDataset(pairs().tensors[0])
    loader = DataLoader(data, batch_size=6, num_workers=workers, pipeline=make())
    by_hand = make()
    expected = [call(by_hand, batch) for batch in DataLoader(data, batch_size=6)]
    found = list(loader)
    assert len(found) == len(loader) == 4
    assert all(map(equal, found, expected))


def test_a_device_alone_leaves_batches_as_they_are():
    loader = DataLoader(Named(12), batch_size=3, num_workers=2, device="cpu")
    assert all(map(equal, loader, DataLoader(Named(12), batch_size=3)))
    point = collections.namedtuple("point", "x y")
    samples = [point(1, "a"), point(2, "b")]
    (batch,), (expected,) = DataLoader(samples, batch_size=2, device="cpu"), DataLoader(samples, batch_size=2)
    assert type(batch) is type(expected) is point
    assert batch.x.tolist() == [1, 2]
    assert batch.y == expected.y


@WORKERS
def test_batches_are_brought_to_whatever_device_it_is(workers):
    """Also where that is no GPU: ``meta`` is the one that is everywhere."""
    for batch in DataLoader(pairs(), batch_size=5, num_workers=workers, device="meta"):
        assert [part.device.type for part in batch] == ["meta", "meta"]
    module = nn.Conv2d(3, 2, 3, device="meta")
    loader = DataLoader(TensorDataset(pairs().tensors[0]), batch_size=5, num_workers=workers, pipeline=module)
    for batch in loader:
        assert batch.device.type == "meta"
        assert batch.shape == (5, 2, 6, 6)


@WORKERS
def test_ragged_batches_go_through_ordinary_modules_and_operators(workers):
    samples = [(torch.full((3, 4 + i % 3, 5), float(i)), i) for i in range(12)]
    loader = DataLoader(
        samples,
        batch_size=4,
        num_workers=workers,
        collate_fn=ragged_collate,
        pipeline=lambda images, labels: (images.map(torch.neg), labels),
    )
    for number, (images, labels) in enumerate(loader):
        assert isinstance(images, TensorList)
        assert labels.tolist() == list(range(4 * number, 4 * number + 4))
        for image, label in zip(images, labels.tolist(), strict=True):
            assert torch.equal(image, -samples[label][0])


class Files(torch.utils.data.Dataset):
    """Bytes of JPEGs."""

    def __init__(self, folder, form=bytes):
        self.paths, self.form = sorted(folder.glob("*.jpg")), form

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        if self.form is bytes:
            return self.paths[index].read_bytes(), index
        data = read_bytes(self.paths[index])
        return (data if self.form is torch.Tensor else data.numpy()), index


class Decoding(nn.Module):
    def __init__(self):
        super().__init__()
        self.decode = ops.DecodeImage()
        self.enhance = ops.BrightnessContrast(contrast=1.5)

    def forward(self, jpegs, labels):
        images = self.decode(jpegs)
        return images, self.enhance(images), labels


@pytest.mark.parametrize("form", [bytes, torch.Tensor, np.ndarray])
def test_jpegs_are_decoded_in_the_stage(photographs, form):
    dataset = Files(photographs, form)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=ragged_collate, pipeline=Decoding())
    seen = []
    for images, enhanced, labels in loader:
        for image, bright, label in zip(images, enhanced, labels.tolist(), strict=True):
            pixels = decode_serially(dataset.paths[label])
            assert torch.equal(image, pixels)
            by_hand = (128 + 1.5 * (pixels.double() - 128)).round().clamp(0, 255).to(torch.uint8)
            assert int((bright.int() - by_hand.int()).abs().max()) <= 1
            seen.append(label)
    assert seen == list(range(len(dataset)))


# --- errors -----------------------------------------------------------------------------------------------------------


class Picky(nn.Module):
    """Raises for some batches, by their first number."""

    def forward(self, batch):
        if int(batch[0]) in (3, 9, 12):
            raise LookupError(int(batch[0]))
        return batch


@WORKERS
@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_errors_of_the_module_are_raised_in_their_turn_and_the_epoch_goes_on(workers, prefetch):
    loader = DataLoader(Numbers(18), batch_size=3, num_workers=workers, pipeline=Picky(), prefetch=prefetch)
    for _ in range(2):
        iterator, found = iter(loader), []
        while True:
            try:
                found.append(ints(next(iterator)))
            except LookupError as error:
                found.append(error.args[0])
            except StopIteration:
                break
        assert found == [[0, 1, 2], 3, [6, 7, 8], 9, 12, [15, 16, 17]]


def test_errors_of_workers_and_of_the_module_keep_their_turns():
    class Bad(Numbers):
        def __getitem__(self, index):
            if index == 7:
                raise KeyError(index)
            return super().__getitem__(index)

    iterator = iter(DataLoader(Bad(18), batch_size=3, num_workers=2, pipeline=Picky()))
    found = []
    for _ in range(6):
        try:
            found.append(ints(next(iterator)))
        except (KeyError, LookupError) as error:
            found.append(type(error))
    assert found == [[0, 1, 2], LookupError, KeyError, LookupError, LookupError, [15, 16, 17]]
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize("error", [StopIteration("not the end"), StopAsyncIteration()], ids=repr)
@WORKERS
def test_a_module_that_raises_stop_iteration_does_not_end_the_epoch_in_silence(error, workers):
    def stage(batch):
        if int(batch[0]) == 6:
            raise error
        return batch

    iterator, found = iter(DataLoader(Numbers(18), batch_size=3, num_workers=workers, pipeline=stage)), []
    raised = 0
    while True:
        try:
            found.append(ints(next(iterator)))
        except StopIteration:
            break
        except Exception:
            raised += 1
    assert raised == 1
    assert found == [batch for batch in batches(18, 3) if batch[0] != 6]


def test_a_time_out_of_the_workers_is_raised_through_the_stage_and_nothing_is_lost():
    iterator = iter(DataLoader(Numbers(12, seconds=0.15), batch_size=3, num_workers=2, timeout=0.1, pipeline=torch.neg))
    found, late = [], 0
    while True:
        try:
            found.append(ints(-next(iterator)))
        except RuntimeError as error:
            assert "DataLoader timed out after" in str(error)
            late += 1
        except StopIteration:
            break
    assert late > 0
    assert found == batches(12, 3)


@pytest.mark.parametrize("prefetch", [0, -1, 1.5, "2", None, True])
def test_prefetch_is_a_number_of_batches(prefetch):
    with pytest.raises(ValueError, match="prefetch is"):
        DataLoader(range(3), prefetch=prefetch)


def test_what_is_no_stage_is_refused():
    with pytest.raises(TypeError, match="Plain.*sources and workers of its own"):
        DataLoader(range(3), pipeline=plain(count_to(4)))
    with pytest.raises(TypeError, match="pipeline is a int"):
        DataLoader(range(3), pipeline=3)


# --- around it --------------------------------------------------------------------------------------------------------


def test_length_attributes_and_workers_are_those_of_the_loader():
    module = Two()
    loader = DataLoader(pairs(), batch_size=6, num_workers=2, pipeline=module, device="cpu", prefetch=3)
    assert (loader.pipeline, loader.device, loader.prefetch) == (module, "cpu", 3)
    iterator = iter(loader)
    assert len(iterator) == len(loader) == 4
    assert iter(iterator) is iterator
    assert [worker.is_alive() for worker in iterator._workers] == [True, True]
    assert len(list(iterator)) == 4
    with pytest.raises(StopIteration):
        next(iterator)
    with pytest.raises(AttributeError, match="no_such_thing"):
        getattr(iterator, "no_such_" + "thing")


@pytest.mark.parametrize("dataset", [Numbers(60), Stream(60)], ids=["map", "iterable"])
def test_persistent_workers_through_the_stage_also_after_an_epoch_that_was_left(dataset):
    loader = DataLoader(dataset, batch_size=3, num_workers=1, persistent_workers=True, pipeline=torch.neg, prefetch=4)
    pids = None
    for taken in (1, 20, 7, 0, 20):
        iterator = iter(loader)
        assert [ints(-next(iterator)) for _ in range(taken)] == batches(60, 3)[:taken]
        now = [worker.pid for worker in iterator._workers]
        assert pids in (None, now)
        pids = now


def test_the_stage_is_not_further_ahead_than_it_is_told():
    done = []
    loader = DataLoader(Numbers(60), batch_size=3, num_workers=2, pipeline=lambda b: done.append(1) or b, prefetch=2)
    iterator = iter(loader)
    for taken in range(1, 11):
        next(iterator)
        assert taken <= len(done) <= taken + 2


@pytest.mark.parametrize("options", ["", "pipeline=torch.nn.Identity()", "device='cpu'", "pin_memory=False"])
def test_nothing_of_the_gpu_is_touched(program, options):
    running = program(
        f"""
import json, sys, torch, torchdali
for batch in torchdali.DataLoader(range(12), batch_size=3, num_workers=2, {options}):
    pass
loader = torchdali.DataLoader(range(12), num_workers=1, {options})
loader.start()
print(json.dumps([torch.cuda.is_initialized(), batch.tolist()]), flush=True)
""",
        abrupt=True,
    )
    ended = running.wait()
    assert (ended.code, ended.err) == (0, "")
    assert running.line() == [False, [9, 10, 11]]
