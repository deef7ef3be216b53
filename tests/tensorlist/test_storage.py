"""Where samples lie: separate tensors, one block or one buffer give the same batch and the same metadata."""

import copy
import gc
import io
import pickle
import weakref

import numpy as np
import pytest
import torch

from tests.tensorlist.support import for_each
from torchdali import TensorList

SHAPES = [(4, 5, 3), (2, 2, 3), (1, 7, 3)]
COUNTS = [60, 12, 21]


def buffer() -> torch.Tensor:
    return torch.arange(sum(COUNTS), dtype=torch.int32)


class _Leased(bytearray):
    """Memory that keeps an object alive."""

    def __init__(self, array, lease):
        super().__init__(array.tobytes())
        self.lease = lease


def planar() -> TensorList:
    """Images (H, W, C) whose channels lie in planes."""
    return TensorList.from_flat(buffer(), SHAPES, "HWC", order=(2, 0, 1))


def make(kind: str) -> TensorList:
    block = torch.arange(48, dtype=torch.int32).view(4, 2, 3, 2)
    return {
        "tensors": lambda: TensorList(
            [torch.arange(6).view(2, 3), torch.arange(4).view(2, 2), torch.zeros(0, 1)[:0].long()]
        ),
        "views": lambda: TensorList([image.permute(1, 2, 0) for image in block], "HWC"),
        "block": lambda: TensorList.from_batch(block, "HWC"),
        "permuted block": lambda: TensorList.from_batch(block.permute(0, 2, 3, 1)),
        "strided block": lambda: TensorList.from_batch(block[::2, :, 1:]),
        "overlapping block": lambda: TensorList.from_batch(torch.arange(9, dtype=torch.int32).unfold(0, 4, 1)),
        "expanded block": lambda: TensorList.from_batch(block[:1].expand(3, 2, 3, 2)),
        "buffer": lambda: TensorList.from_flat(buffer(), SHAPES),
        "planar buffer": planar,
        "buffer with gaps": lambda: TensorList.from_flat(buffer()[1:], [(2, 2), (3, 1)], offsets=[40, 3]),
        "part": lambda: planar()[1:],
        "numbers": lambda: TensorList.from_flat(buffer()[:3], [(), (), ()]),
    }[kind]()


KINDS = [
    "tensors",
    "views",
    "block",
    "permuted block",
    "strided block",
    "overlapping block",
    "expanded block",
    "buffer",
    "planar buffer",
    "buffer with gaps",
    "part",
    "numbers",
]


@for_each("kind", KINDS)
def test_the_metadata_of_a_batch_is_that_of_its_tensors(kind):
    batch = make(kind)
    sizes, strides, pointers = batch.sizes, batch.strides, batch.pointers  # before any view is made
    tensors = list(make(kind)) if kind in ("views",) else list(batch)
    assert {array.dtype for array in (sizes, strides, pointers)} == {np.dtype(np.int64)}
    assert sizes.tolist() == [list(tensor.shape) for tensor in tensors]
    assert batch.shape() == [tuple(tensor.shape) for tensor in tensors]
    for tensor, size, stride in zip(tensors, sizes, strides, strict=True):
        assert all(a == b or n <= 1 for a, b, n in zip(tensor.stride(), stride, size, strict=True))
    assert [p for p, t in zip(pointers, batch, strict=True) if t.numel()] == [t.data_ptr() for t in batch if t.numel()]
    assert batch.numel() == sum(tensor.numel() for tensor in tensors)
    assert batch.nbytes == sum(tensor.nbytes for tensor in tensors)
    assert batch.sizes is sizes, "computed once"


@for_each("kind", KINDS)
def test_the_buffer_with_offsets_and_order_holds_the_samples(kind):
    batch = make(kind)
    if kind in ("tensors", "views", "strided block"):
        assert batch.flat is None
        assert batch.offsets is None
        assert batch.order is None
        return
    assert batch.flat is not None
    assert batch.flat.dim() == 1
    for tensor, start in zip(batch, batch.offsets, strict=True):
        assert torch.equal(batch.flat[start : start + tensor.numel()], tensor.permute(batch.order).reshape(-1))
        assert tensor.data_ptr() == batch.flat.data_ptr() + start * tensor.element_size()


@for_each("kind", KINDS)
@for_each("index", [slice(1, None), slice(None, None, -1), [1, 0], np.array([-1, 0]), torch.tensor([1, 1])])
def test_some_of_the_samples_are_a_batch_that_shares_the_memory(kind, index):
    batch = make(kind)
    positions = range(len(batch))[index] if isinstance(index, slice) else np.asarray(index).tolist()
    chosen = batch[index]
    assert isinstance(chosen, TensorList)
    assert (chosen.layout, chosen.dtype) == (batch.layout, batch.dtype)
    assert len(chosen) == len(positions)
    for tensor, position in zip(chosen, positions, strict=True):
        assert torch.equal(tensor, batch[position])
        assert tensor.data_ptr() == batch[position].data_ptr()
    assert chosen.sizes.tolist() == batch.sizes[list(positions)].tolist()


def test_masks_and_lists_choose_samples_and_say_what_is_wrong():
    batch = planar()
    assert batch[[True, False, True]].shape() == [SHAPES[0], SHAPES[2]]
    assert batch[torch.tensor([False, True, False])].shape() == [SHAPES[1]]
    assert len(batch[[]]) == 0
    assert batch[np.int64(-1)] is batch[2]
    assert batch[torch.tensor(1)] is batch[1]
    with pytest.raises(IndexError, match="mask has 2 entries, the batch has 3"):
        batch[[True, False]]
    with pytest.raises(IndexError, match="sample 3 is wanted of a batch of 3"):
        batch[[0, 3]]
    with pytest.raises(IndexError, match="sample -4 is wanted"):
        batch[-4]
    with pytest.raises(TypeError, match="not by float64"):
        batch[[0.5]]
    with pytest.raises(TypeError, match="not by a tuple"):
        batch[0, 1]
    for truth in (True, torch.tensor(True)):
        with pytest.raises(TypeError, match="not by a bool"):
            batch[truth]


def test_a_part_of_a_buffer_holds_no_more_than_its_samples():
    part = planar()[1:2]
    assert part.flat.numel() == COUNTS[1]
    assert part.order == (2, 0, 1)
    assert planar()[[]].flat.numel() == 0


def test_views_are_made_once():
    for batch in (planar(), TensorList.from_batch(torch.zeros(3, 2))):
        first = batch[1]
        assert batch[1] is first
        assert batch[-2] is first
        assert list(batch)[1] is first


def test_a_sample_keeps_the_buffer_and_nothing_else_does():
    class Lease:
        pass

    array = np.arange(sum(COUNTS), dtype=np.int32)
    lease = Lease()
    gone = weakref.ref(lease)
    holder = np.frombuffer(_Leased(array, lease), np.int32)
    flat = torch.from_numpy(holder)
    sample = TensorList.from_flat(flat, SHAPES)[1]
    del flat, holder, lease
    gc.collect()
    assert gone() is not None
    assert sample[0, 0, 0] == COUNTS[0]
    del sample
    gc.collect()
    assert gone() is None


def test_an_empty_buffer_is_an_empty_batch():
    empty = TensorList.from_flat(torch.zeros(0, dtype=torch.int16), [], "HWC")
    assert len(empty) == 0
    assert empty.sizes.shape == (0, 3)
    assert empty.strides.shape == (0, 3)
    assert list(empty) == []
    assert empty.dtype == torch.int16
    assert not empty.is_dense_tensor()


@for_each(
    "arguments, error, message",
    [
        (([1, 2], [(2,)]), TypeError, "flat is a list"),
        ((torch.zeros(2, 2), [(2,)]), ValueError, r"shape \(2, 2\)"),
        ((torch.zeros(8)[::2], [(2,)]), ValueError, "no gaps"),
        (
            (torch.zeros(5), [(2, 2), (2, 1)]),
            ValueError,
            "sample 1, 2 elements from 4 on, does not lie within the buffer of 5",
        ),
        ((torch.zeros(5), [(2, 2), (2,)]), ValueError, r"\[1, 2\] dimensions"),
        ((torch.zeros(5), [(2, -2)]), ValueError, "not negative"),
        ((torch.zeros(5), [(2.0, 2.0)]), TypeError, "sizes are integers"),
        ((torch.zeros(5), np.zeros(3, np.int64)), ValueError, "a row for each sample"),
        ((torch.zeros(5), [(2, 2)], "C"), ValueError, "does not fit layout 'C'"),
    ],
)
def test_what_is_no_buffer_of_samples_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        TensorList.from_flat(*arguments)


def test_offsets_and_orders_that_do_not_fit_are_refused():
    flat = torch.zeros(8)
    with pytest.raises(ValueError, match="sample 0, 4 elements from -1 on"):
        TensorList.from_flat(flat, [(2, 2)], offsets=[-1])
    with pytest.raises(ValueError, match="sample 0, 4 elements from 5 on"):
        TensorList.from_flat(flat, [(2, 2)], offsets=[5])
    with pytest.raises(ValueError, match="there are 1 samples"):
        TensorList.from_flat(flat, [(2, 2)], offsets=[0, 4])
    with pytest.raises(TypeError, match="integers, in elements"):
        TensorList.from_flat(flat, [(2, 2)], offsets=[0.5])
    with pytest.raises(ValueError, match="each of the 2 dimensions once"):
        TensorList.from_flat(flat, [(2, 2)], order=(0, 0))


def test_samples_of_different_dimensions_have_no_table_of_shapes():
    batch = TensorList([torch.zeros(2), torch.zeros(2, 2)])
    assert batch.shape() == [(2,), (2, 2)]
    with pytest.raises(ValueError, match=r"sample 0 has shape \(2,\), sample 1 has \(2, 2\)"):
        _ = batch.sizes
    assert batch.numel() == 6


@for_each("kind", KINDS)
def test_a_batch_survives_pickling_and_copying(kind):
    batch = make(kind)
    file = io.BytesIO()
    torch.save(batch, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), copy.copy(batch), loaded):
        assert (other.layout, other.dtype, other.shape()) == (batch.layout, batch.dtype, batch.shape())
        assert all(torch.equal(a, b) for a, b in zip(other, batch, strict=True))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(copy.deepcopy(batch), batch, strict=True) if a.numel())
    assert copy.copy(batch).pointers.tolist() == batch.pointers.tolist()


def test_strides_of_samples_without_elements_are_those_of_torch():
    empty = TensorList.from_flat(torch.zeros(0), [(2, 0, 3), (0, 4, 5)])
    assert [tuple(row) for row in empty.strides.tolist()] == [
        torch.empty(2, 0, 3).stride(),
        torch.empty(0, 4, 5).stride(),
    ]


def test_a_view_made_alone_is_the_one_made_with_all():
    whole = TensorList.from_flat(buffer()[3:], [(2, 2)] * 3, offsets=[7, 0, 30], order=(1, 0))
    for position in range(3):
        alone = TensorList.from_flat(buffer()[3:], [(2, 2)] * 3, offsets=[7, 0, 30], order=(1, 0))[position]
        assert torch.equal(alone, list(whole)[position])
        assert alone.T.reshape(-1).tolist() == [n + 3 + [7, 0, 30][position] for n in range(4)]


def test_samples_without_elements_have_a_buffer_of_none():
    boxes = TensorList.from_batch(torch.zeros(3, 0, 4))
    assert boxes.flat is not None
    assert (boxes.flat.numel(), boxes.offsets.tolist()) == (0, [0, 0, 0])
    for other in (boxes.pack(), boxes.contiguous(), boxes.clone(), boxes[[2, 0, 2]]):
        assert [tuple(box.shape) for box in other] == [(0, 4)] * 3
    assert boxes.pad(size=(2, 4)).shape == (3, 2, 4)


@pytest.mark.parametrize("copied", [TensorList.clone, lambda batch: batch.to(torch.float32, copy=True)])
def test_copies_of_a_selection_with_repeats_share_nothing(copied):
    batch = TensorList.from_flat(torch.arange(6.0), np.array([[3], [3]]))
    for repeated in (batch[[0, 0, 1]], TensorList([*batch, batch[0]]).pack()[[2, 1, 2]]):
        apart = copied(repeated)
        values = [sample.tolist() for sample in apart]
        apart[0].add_(100)
        assert [sample.tolist() for sample in apart][1:] == values[1:]
        tensor = repeated.as_tensor()
        tensor[0].add_(100)
        assert tensor.tolist()[1:] == values[1:]


def test_an_empty_batch_of_known_shape_keeps_it():
    none = TensorList.from_batch(torch.zeros(2, 3, 4), "HW")[:0]
    for other in (
        none.pack(),
        none.contiguous(),
        none.pack(16),
        none.pack().clone(),
        none.contiguous().to(torch.int64),
    ):
        assert other.as_tensor().shape == (0, 3, 4)
        assert other.layout == "HW"
