"""Batches on their way to another process: where they lie, or what they are."""

import pickle

import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.pipeline._parcel import Mixed, Placed, pack_batch, pack_outputs, unpack_batch, unpack_outputs
from torchdali.pool._memory import Memory


@pytest.fixture
def memory():
    made = Memory(1 << 20)
    yield made
    made.close()


def in_memory(memory, samples, start=64, gap=64):
    """The samples as tensors that lie in the memory."""
    placed = []
    for sample in samples:
        nbytes = sample.numel() * sample.element_size()
        tensor = torch.from_numpy(memory.view(start, nbytes)).view(sample.dtype).view(sample.shape)
        placed.append(tensor.copy_(sample))
        start += -(-nbytes // gap) * gap
    return placed


def no_view(offset, nbytes):
    raise AssertionError("nothing of it lies in a memory")


def there_and_back(batch, memory):
    packed = pickle.loads(pickle.dumps(pack_batch(batch, memory)))
    result = unpack_batch(packed, no_view if memory is None else memory.view)
    assert (len(result), result.dtype, result.layout) == (len(batch), batch.dtype, batch.layout)
    assert (result.block is None) == (batch.block is None)
    for sample, expected in zip(result, batch, strict=True):
        assert sample.shape == expected.shape
        assert torch.equal(sample, expected)
    return packed, result


RAGGED = [torch.arange(10 * n, dtype=torch.uint8) for n in (3, 1, 5)]


def test_of_what_lies_in_the_memory_only_the_places_are_sent(memory):
    batch = TensorList(in_memory(memory, RAGGED))
    packed, result = there_and_back(batch, memory)
    assert isinstance(packed, Placed)
    assert result.pointers.tolist() == batch.pointers.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
@pytest.mark.parametrize("shapes", [[(2, 3), (4, 1), (1, 1)], [(), (), ()], [(5,), (5,), (5,)]])
def test_shapes_and_types_stay_what_they_are(memory, dtype, shapes):
    samples = [(torch.arange(int(np.prod(shape))).reshape(shape) % 7).to(dtype) for shape in shapes]
    for batch in (
        TensorList(in_memory(memory, samples)),
        TensorList(samples),
        TensorList([in_memory(memory, samples)[0], *samples[1:]]),
    ):
        there_and_back(batch, memory)


def test_a_block_stays_a_block(memory):
    block = in_memory(memory, [torch.rand(4, 2, 3)])[0]
    packed, result = there_and_back(TensorList.from_batch(block, "HW"), memory)
    assert isinstance(packed, Placed)
    assert result.block.data_ptr() == block.data_ptr()
    for rows in (block[::2], block.transpose(1, 2), torch.rand(3, 2)):
        there_and_back(TensorList.from_batch(rows), memory)


def test_what_had_no_room_in_the_memory_is_sent_by_value_and_alone(memory):
    inside = in_memory(memory, RAGGED)
    packed, result = there_and_back(TensorList([inside[0], RAGGED[1], inside[2]], "W"), memory)
    assert isinstance(packed, Mixed)
    assert result.pointers.tolist()[::2] == [inside[0].data_ptr(), inside[2].data_ptr()]


def test_what_is_irregular_passes_as_it_is(memory):
    turned = in_memory(memory, [torch.rand(3, 4)])[0].t()
    for batch in (
        TensorList([]),
        TensorList([torch.zeros(2), torch.zeros(2, 2)]),
        TensorList([torch.zeros(0), torch.ones(3)]),
        TensorList([turned, turned]),
    ):
        there_and_back(batch, memory)
    there_and_back(TensorList(RAGGED), None)


def test_tensors_of_a_device_go_where_they_are_placed_and_others_beside_the_description():
    meta, plain = torch.empty(3, device="meta"), torch.ones(2)
    placed = []

    def place(tensor):
        placed.append(tensor)
        return len(placed) - 1

    packed = pack_outputs({"a": meta, "b": [plain, meta, plain], "c": "text"}, place)
    assert [tensor.device.type for tensor in placed] == ["meta"]  # once, though it is there twice
    assert len(packed.on_cpu) == 1

    result = unpack_outputs(packed, lambda number: torch.full((3,), float(number)))
    assert result["a"] is result["b"][1]
    assert result["b"][0] is result["b"][2]
    assert result["a"].tolist() == [0, 0, 0]
    assert result["c"] == "text"
