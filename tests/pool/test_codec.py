"""Objects to a description and pieces, and back."""

import numpy as np
import pytest
import torch

from tests.pool.support import same
from torchdali.pool._codec import ALIGNMENT, SMALL, decode, encode, layout


def place(encoded):
    """The pieces in one memory, as a worker writes them."""
    spans, size = layout(piece.nbytes for piece in encoded.pieces)
    memory = np.zeros(size, np.uint8)
    for piece, (offset, length) in zip(encoded.pieces, spans, strict=True):
        memory[offset : offset + length] = piece
    return memory


def test_pieces_are_aligned_and_do_not_overlap():
    lengths = [1, 64, 65, 5000, 0, 3]
    spans, size = layout(lengths)
    assert [length for _, length in spans] == lengths
    assert all(offset % ALIGNMENT == 0 for offset, _ in spans)
    ends = [offset + length for offset, length in spans]
    assert all(end <= start for end, (start, _) in zip(ends, spans[1:], strict=False))
    assert size >= max(ends)


def test_no_pieces_need_no_memory():
    assert layout([]) == ([], 0)


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
    memory = place(encoded)
    value = decode(encoded.description, memory)
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
    one, two = decode(encoded.description, place(encoded))
    assert one is two


@pytest.mark.parametrize("memory", ["a larger one", "an exact one"])
def test_more_memory_than_needed_does_no_harm(memory):
    encoded = encode([torch.arange(500), np.arange(777)])
    exact = place(encoded)
    given = np.concatenate([exact, np.ones(999, np.uint8)]) if memory == "a larger one" else exact
    assert same(decode(encoded.description, given), [torch.arange(500), np.arange(777)])


def test_what_cannot_be_pickled_raises_what_pickle_raises():
    with pytest.raises((AttributeError, TypeError, Exception), match="pickle"):
        encode([np.arange(2000), lambda: 0])


@pytest.mark.parametrize("tensor", [torch.ones(3, device="meta"), torch.eye(3).to_sparse()], ids=["meta", "sparse"])
def test_a_tensor_that_has_no_plain_memory_is_refused(tensor):
    with pytest.raises(TypeError, match="only strided CPU tensors can be passed on"):
        encode(tensor)
