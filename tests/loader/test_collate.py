"""``ragged_collate``: as ``default_collate``, and what differs in shape or is encoded becomes a TensorList."""

import collections

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from torchdali import DataLoader, TensorList, ragged_collate

Point = collections.namedtuple("Point", "x y")


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize(
    "samples",
    [
        [1, 2, 3],
        [1.5, 2.5],
        [True, False],
        ["a", "b"],
        [torch.ones(2, 3), torch.zeros(2, 3)],
        [torch.tensor(1), torch.tensor(2)],
        [np.arange(3.0), np.arange(3.0)],
        [np.float32(1), np.float32(2)],
        [np.array(1), np.array(2)],
        [{"a": 1, "b": torch.ones(2)}, {"a": 2, "b": torch.ones(2)}],
        [(1, "a", torch.ones(1)), (2, "b", torch.ones(1))],
        [[1, 2], [3, 4]],
        [Point(1, torch.ones(2)), Point(2, torch.ones(2))],
        [torch.ones(2, 2, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.uint8)],
        [torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)],
    ],
    ids=str,
)
def test_what_agrees_in_shape_is_collated_as_by_torch(samples):
    assert same(ragged_collate(samples), default_collate(samples))


def test_tensors_and_arrays_of_different_shapes_become_a_tensor_list():
    tensors = [torch.full((3, 4 + i, 5), float(i)) for i in range(3)]
    for samples in (tensors, [tensor.numpy() for tensor in tensors]):
        made = ragged_collate(samples)
        assert isinstance(made, TensorList)
        assert made.shape() == [(3, 4, 5), (3, 5, 5), (3, 6, 5)]
        assert all(map(torch.equal, made, tensors))


def test_different_numbers_of_dimensions_are_different_shapes():
    made = ragged_collate([torch.ones(2), torch.ones(2, 2), torch.ones(())])
    assert isinstance(made, TensorList)
    assert made.shape() == [(2,), (2, 2), ()]


@pytest.mark.parametrize("lengths", [(3, 3, 3), (3, 1, 5), (1,)])
def test_what_is_encoded_is_a_tensor_list_whatever_its_lengths(lengths):
    files = [bytes(range(length)) for length in lengths]
    arrays = [np.frombuffer(file, np.uint8).copy() for file in files]
    for samples in (files, arrays, [torch.from_numpy(array) for array in arrays]):
        made = ragged_collate(samples)
        assert isinstance(made, TensorList)
        assert made.dtype == torch.uint8
        assert [bytes(entry.tolist()) for entry in made] == files


def test_an_empty_file_is_an_empty_tensor():
    made = ragged_collate([b"abc", b""])
    assert isinstance(made, TensorList)
    assert made.shape() == [(3,), (0,)]
    assert made.dtype == torch.uint8


def test_nesting_is_kept():
    samples = [{"jpeg": b"x" * (i + 1), "box": (torch.ones(i, 4), i), "point": Point(i, [b"a"])} for i in range(3)]
    made = ragged_collate(samples)
    assert [len(entry) for entry in made["jpeg"]] == [1, 2, 3]
    assert made["box"][0].shape() == [(0, 4), (1, 4), (2, 4)]
    assert made["box"][1].tolist() == [0, 1, 2]
    assert type(made["point"]) is Point
    assert isinstance(made["point"].y[0], TensorList)


@pytest.mark.parametrize(
    "samples",
    [[object(), object()], [None, None], [np.array(["a"]), np.array(["b"])], [torch.ones(2), torch.ones(3).double()]],
    ids=["objects", "nothing", "strings in arrays", "types that differ"],
)
def test_what_cannot_be_collated_is_a_type_error(samples):
    with pytest.raises(TypeError):
        ragged_collate(samples)


@pytest.mark.parametrize("workers", [0, 2])
def test_through_workers_it_is_the_same(workers):
    samples = [(bytes([i]) * (i + 1), torch.full((i % 3 + 1, 2), i), torch.full((2,), i), {"n": i}) for i in range(12)]
    loader = DataLoader(samples, batch_size=4, num_workers=workers, collate_fn=ragged_collate)
    kept = list(loader)
    for number, (files, ragged, dense, names) in enumerate(kept):
        indices = range(4 * number, 4 * number + 4)
        assert isinstance(files, TensorList)
        assert [bytes(entry.tolist()) for entry in files] == [samples[i][0] for i in indices]
        assert isinstance(ragged, TensorList) or len({i % 3 for i in indices}) == 1
        assert all(torch.equal(entry, samples[i][1]) for entry, i in zip(ragged, indices, strict=True))
        assert torch.equal(dense, torch.tensor(indices)[:, None].expand(4, 2))
        assert names["n"].tolist() == list(indices)


def test_the_samples_are_not_changed_and_may_be_changed_afterwards():
    data = bytearray(b"abc")
    made = ragged_collate([bytes(data), b"xy"])
    data[0] = 0
    made[0][1] = 7
    assert bytes(made[0].tolist()) == b"a\x07c"
