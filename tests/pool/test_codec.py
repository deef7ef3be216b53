"""Objects to a description and pieces, and back."""

import pickle
import threading

import numpy as np
import pytest
import torch

from tests.pool.support import same
from torchdali.pool._codec import ALIGNMENT, SMALL, aligned, decode_all, encode


def place(encoded):
    """The pieces in one memory, as a worker writes them, and where they are."""
    spans, end = [], 0
    for piece in encoded.pieces:
        spans.append((end, piece.nbytes))
        end += aligned(piece.nbytes)
    memory = np.zeros(end, np.uint8)
    for piece, (offset, length) in zip(encoded.pieces, spans, strict=True):
        memory[offset : offset + length] = piece
    return memory, spans


def decode(encoded, memory, spans):
    (value,) = decode_all([(encoded.description, spans)], memory, lambda position, error: error)
    return value


def test_lengths_are_rounded_up_to_the_alignment():
    assert [aligned(length) for length in (0, 1, 64, 65)] == [0, 64, 64, 128]
    assert ALIGNMENT == 64


@pytest.mark.parametrize("make", [lambda n: np.zeros(n, np.uint8), lambda n: torch.zeros(n, dtype=torch.uint8)])
def test_arrays_below_the_limit_stay_in_the_description(make):
    assert encode(make(SMALL - 1)).pieces == []
    assert [piece.nbytes for piece in encode(make(SMALL)).pieces] == [SMALL]


def test_large_arrays_are_not_copied_into_the_description():
    values = [np.ones(100_000), torch.ones(100_000), np.asfortranarray(np.ones((300, 300)))]
    encoded = encode(values)
    assert len(encoded.description) < 2000
    assert [piece.nbytes for piece in encoded.pieces] == [800_000, 400_000, 720_000]
    assert np.may_share_memory(np.frombuffer(encoded.pieces[0], np.uint8), values[0])
    assert np.may_share_memory(np.frombuffer(encoded.pieces[1], np.uint8), values[1].numpy())


def test_what_is_decoded_lies_in_the_memory_that_was_given():
    encoded = encode({"a": np.arange(1000), "b": torch.arange(1000), "small": np.arange(3)})
    memory, spans = place(encoded)
    value = decode(encoded, memory, spans)
    assert same(value, {"a": np.arange(1000), "b": torch.arange(1000), "small": np.arange(3)})
    assert np.may_share_memory(value["a"], memory)
    assert np.may_share_memory(value["b"].numpy(), memory)
    assert not np.may_share_memory(value["small"], memory)
    memory[:] = 0
    assert not value["a"].any()
    assert not value["b"].any()


def test_the_same_object_twice_is_one_object_again():
    array = np.arange(2000)
    encoded = encode([array, array])
    assert len(encoded.pieces) == 1
    one, two = decode(encoded, *place(encoded))
    assert one is two


def test_what_pickle_refuses_passes_by_value():
    class Local:
        def __init__(self, data):
            self.data = data

    encoded = encode([Local(np.arange(2000)), lambda x: x + 1])
    assert [piece.nbytes for piece in encoded.pieces] == [16_000]
    local, function = decode(encoded, *place(encoded))
    assert type(local) is Local
    assert local.data.sum() == 1999 * 1000
    assert function(2) == 3


def test_what_cannot_be_pickled_at_all_raises_what_pickle_raises():
    with pytest.raises(TypeError, match="cannot pickle '_thread.lock' object"):
        encode([np.arange(2000), threading.Lock()])


def test_a_tensor_without_memory_passes():
    encoded = encode(torch.ones(3, device="meta"))
    again = decode(encoded, *place(encoded))
    assert again.device.type == "meta"
    assert again.shape == (3,)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_tensor_passes_in_parts_that_lie_in_shared_memory(layout):
    sparse = torch.arange(4096.0).view(64, 64).to_sparse(layout=layout)
    encoded = encode(sparse)
    assert sum(piece.nbytes for piece in encoded.pieces) >= 4095 * 4
    again = decode(encoded, *place(encoded))
    assert again.layout is layout
    assert torch.equal(again.to_dense(), sparse.to_dense())


def test_one_object_that_cannot_be_loaded_does_not_spoil_the_others():
    described = [(encode(1).description, []), (b"no pickle", []), (encode(3).description, [])]
    values = decode_all(described, np.empty(0, np.uint8), lambda position, error: (position, type(error)))
    assert values == [1, (1, pickle.UnpicklingError), 3]
