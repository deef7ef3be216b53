"""Samples of different shapes: views of what the workers wrote, made when they are asked for."""

import os
import pickle
import signal
import weakref

import numpy as np
import pytest
import torch

from tests.pool.support import Tally
from tests.source.support import epoch
from torchdali.source import ExternalSource, SampleInfo
from torchdali.source._info import BatchInfo, SampleInfos

SIZES = np.random.default_rng(5).integers(0, 5000, 64)


def file_of(index, dtype=torch.uint8):
    made = (torch.arange(int(SIZES[index])) * (index + 3)) % 251
    return made.to(dtype)


def files(info):
    if info.idx_in_epoch >= 40:
        raise StopIteration
    return file_of(info.idx_in_epoch).numpy(), np.int32(info.idx_in_epoch)


def two(source):
    return ExternalSource(source, num_outputs=2)


@pytest.mark.parametrize("workers", [1, 3])
def test_samples_of_different_shapes_lie_in_one_buffer_and_labels_in_a_block(make_reader, workers):
    reader = make_reader(two(files), batch_size=16, num_workers=workers)
    batches = epoch(reader)
    assert [len(batch.indices) for batch in batches] == [16, 16, 8]
    for number, (data, labels) in enumerate(batch.outputs for batch in batches):
        indices = list(range(16 * number, 16 * number + len(data)))
        assert data.shape() == [(int(SIZES[index]),) for index in indices]
        assert all(torch.equal(sample, file_of(index)) for sample, index in zip(data, indices, strict=True))
        assert labels.as_tensor().dtype == torch.int32
        assert labels.as_tensor().tolist() == indices
        assert labels[0].dim() == 0
        if len(data) == 16:  # the last one ends with StopIteration
            assert data.flat is not None
            assert data.pointers.tolist() == [sample.data_ptr() for sample in data]
            assert labels.block is not None


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_types_and_dimensions_stay(make_reader, dtype):
    def source(info):
        row = file_of(info.idx_in_epoch, dtype)
        return row.view(1, -1, 1).expand(2, -1, 3), torch.tensor(info.idx_in_epoch % 3, dtype=dtype)

    batch = make_reader(two(source), batch_size=8).next()
    for index, (sample, label) in enumerate(zip(*batch.outputs, strict=True)):
        assert torch.equal(sample, file_of(index, dtype).view(1, -1, 1).expand(2, -1, 3))
        assert torch.equal(label, torch.tensor(index % 3, dtype=dtype))


def test_what_a_batch_is_made_of_lives_as_long_as_any_sample_and_labels_hold_nothing(make_reader):
    reader = make_reader(two(lambda info: (np.full(3000 + info.idx_in_epoch % 4, info.iteration), info.iteration)))
    kept, labels, slots = [], [], reader.statistics().slots
    for number in range(20):
        data, label = reader.next().outputs
        (kept if number % 2 else labels).append(data[3] if number % 2 else label)
    data = label = None
    for _ in range(40):
        reader.next()
    assert all((sample == 2 * number + 1).all() for number, sample in enumerate(kept))
    assert all(label.as_tensor().tolist() == [2 * number] * 4 for number, label in enumerate(labels))
    held = reader.statistics().slots
    kept.clear()
    assert held - reader.statistics().slots == 10
    assert slots <= 3


def test_a_batch_is_gone_when_nobody_holds_it(make_reader):
    reader = make_reader(two(files))
    batch = reader.next()
    gone = weakref.ref(batch.outputs[0].flat)
    del batch
    assert gone() is None


def test_batches_without_any_element_arrive(make_reader):
    reader = make_reader(two(lambda info: (np.empty((0, info.idx_in_epoch), np.float32), np.empty(0))))
    for number in range(2):
        empty, none = reader.next().outputs
        assert empty.shape() == [(0, 4 * number + place) for place in range(4)]
        assert empty.dtype == torch.float32
        assert [tuple(sample.shape) for sample in empty] == empty.shape()
        assert none.as_tensor().shape == (4, 0)


def test_an_empty_sample_before_others_arrives(make_reader):
    data, _ = make_reader(two(lambda info: (np.arange(900 * info.idx_in_batch), info.idx_in_batch))).next().outputs
    assert [sample.tolist() for sample in data] == [list(range(900 * place)) for place in range(4)]
    assert data[0].tolist() == []


def test_the_same_tensor_twice_and_permuted_ones_arrive(make_reader):
    def source(info):
        made = file_of(info.idx_in_epoch)
        return made, made, torch.arange(6 * (info.idx_in_epoch + 2)).view(2, 3, -1).permute(2, 0, 1)

    one, other, permuted = make_reader(ExternalSource(source, num_outputs=3)).next().outputs
    for index in range(4):
        assert torch.equal(one[index], file_of(index))
        assert torch.equal(other[index], file_of(index))
        assert torch.equal(permuted[index], torch.arange(6 * (index + 2)).view(2, 3, -1).permute(2, 0, 1))
    assert permuted.strides[:, 0].tolist() == [1] * 4


def test_after_a_worker_was_killed_no_sample_is_lost(make_reader):
    killed = Tally(1)

    def source(info):
        if info.idx_in_epoch == 21 and not killed[0]:
            killed.add(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return files(info)

    reader = make_reader(two(source), batch_size=8, pool_options={"on_worker_death": "restart"})
    with pytest.warns(RuntimeWarning, match="done again"):
        batches = epoch(reader)
    samples = [sample for batch in batches for sample in batch.outputs[0]]
    assert len(samples) == 40
    assert all(torch.equal(sample, file_of(index)) for index, sample in enumerate(samples))


def test_an_error_of_one_sample_is_raised_and_the_next_batch_is_right(make_reader):
    def source(info):
        if info.idx_in_epoch == 5:
            raise ValueError("no such file")
        return files(info)

    reader = make_reader(two(source))
    reader.next()
    with pytest.raises(ValueError, match="no such file"):
        reader.next()
    assert torch.equal(reader.next().outputs[0][1], file_of(9))


def test_the_samples_of_a_batch_are_told_without_a_list_of_them():
    infos = SampleInfos(BatchInfo(3, 2), 8, range(8))
    expected = [SampleInfo(24 + place, place, 3, 2) for place in range(8)]
    assert len(infos) == 8
    assert list(infos) == [infos[place] for place in range(8)] == expected
    assert list(infos[2:5]) == expected[2:5]
    assert list(pickle.loads(pickle.dumps(infos[5:]))[1:]) == expected[6:]
    assert infos[-1] == expected[-1]
    with pytest.raises(IndexError):
        infos[8]
