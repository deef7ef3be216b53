"""Batches brought into one buffer, or into one tensor with padding."""

import numpy as np
import pytest
import torch

from tests.tensorlist.support import for_each
from tests.tensorlist.test_storage import KINDS, SHAPES, make, planar
from torchdali import TensorList
from torchdali.tensorlist._packing import padded


def same(one: TensorList, other: TensorList) -> bool:
    return one.shape() == other.shape() and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@for_each("kind", KINDS)
def test_packed_samples_lie_one_after_another(kind):
    batch = make(kind)
    packed = batch.pack()
    assert same(packed, batch)
    assert packed.layout == batch.layout
    assert packed.flat.numel() == batch.numel()
    assert packed.pack() is packed
    ends = packed.offsets + packed.sizes.prod(1)
    assert ends[:-1].tolist() == packed.offsets[1:].tolist()


@for_each("kind", KINDS)
def test_contiguous_samples_have_their_dimensions_in_order(kind):
    batch = make(kind)
    made = batch.contiguous()
    assert same(made, batch)
    assert all(tensor.is_contiguous() for tensor in made)
    assert made.contiguous() is made
    assert made.flat.numel() == batch.numel()
    assert torch.equal(made.flat, torch.cat([tensor.reshape(-1) for tensor in batch]))


def test_packing_keeps_the_order_of_dimensions_in_memory():
    apart = TensorList([image.clone() for image in planar()], "HWC")
    assert apart.flat is None
    packed = apart.pack()
    assert packed.order == (2, 0, 1)
    assert [image.stride() for image in packed] == [image.stride() for image in planar()]
    mixed = TensorList([torch.arange(6).view(2, 3), torch.arange(6).view(3, 2).T])
    assert mixed.pack().order == (0, 1)
    assert same(mixed.pack(), mixed)


@for_each("alignment", [1, 2, 4, 64])
@for_each("kind", KINDS)
def test_aligned_samples_begin_at_multiples_of_so_many_bytes(kind, alignment):
    batch = make(kind) if kind != "tensors" else make(kind).map(lambda tensor: tensor.to(torch.int32))
    packed = batch.pack(alignment)
    assert same(packed, batch)
    assert not (packed.offsets * 4 % alignment).any()
    assert packed.pack(alignment) is packed


def test_what_lies_between_aligned_samples_is_zero():
    packed = TensorList([torch.ones(3, dtype=torch.uint8), torch.ones(5, dtype=torch.uint8)]).pack(8)
    assert packed.flat.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


@for_each("alignment", [0, 6, -4, 2.5])
def test_an_alignment_that_does_not_go_with_the_type_is_refused(alignment):
    with pytest.raises(ValueError, match="multiple of a torch.float32.s 4 bytes"):
        TensorList([torch.zeros(3)]).pack(alignment)


def test_gradients_go_through_packing_padding_and_stacking():
    for gather in (TensorList.pack, TensorList.contiguous):
        leaves = [torch.ones(2, 3, requires_grad=True), torch.ones(1, 2, requires_grad=True)]
        batch = TensorList(leaves)
        (gather(batch).flat * torch.arange(8)).sum().backward()
        assert leaves[0].grad.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert leaves[1].grad.tolist() == [[6, 7]]
    leaf = torch.ones(4, requires_grad=True)
    TensorList.from_flat(leaf, [(1,), (3,)]).pad().sum().backward()
    assert leaf.grad.tolist() == [1, 1, 1, 1]


def by_hand(batch, shape, value):
    result = torch.full((len(batch), *shape), value, dtype=batch.dtype)
    for row, sample in zip(result, batch, strict=True):
        row[tuple(map(slice, sample.shape))] = sample
    return result


@for_each("kind", [kind for kind in KINDS if kind != "numbers"])
def test_padding_puts_each_sample_in_the_first_corner(kind):
    batch = make(kind)
    shape = batch.sizes.max(0).tolist()
    expected = by_hand(batch, shape, -7)
    assert torch.equal(batch.pad(-7), expected)
    # what is done on the GPU, where the number of launches must not depend on that of samples
    at_once, mask = padded(batch, batch.contiguous().flat, shape, -7, want_mask=True)
    assert torch.equal(at_once, expected)
    assert torch.equal(mask, by_hand(TensorList([torch.ones_like(s).bool() for s in batch]), shape, False))


def test_padding_gives_lengths_and_mask_where_they_are_wanted():
    words = TensorList([torch.tensor([1, 2, 3]), torch.tensor([4])])
    rows, lengths, mask = words.pad(return_lengths=True, return_mask=True)
    assert rows.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert lengths.tolist() == [3, 1]
    assert lengths.dtype == torch.int64
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    _, lengths = planar().pad(return_lengths=True)
    assert [tuple(row) for row in lengths.tolist()] == SHAPES


def test_one_number_is_for_all_dimensions_but_channels():
    images = planar()
    assert images.pad(multiple_of=8).shape == (3, 8, 8, 3)
    assert images.pad(size=10).shape == (3, 10, 10, 3)
    assert images.pad(size=10, multiple_of=4).shape == (3, 12, 12, 3)
    assert images.pad(size=(6, 9, 4), multiple_of=(1, 5, 1)).shape == (3, 6, 10, 4)
    assert TensorList(list(images)).pad(multiple_of=8).shape == (3, 8, 8, 8)
    assert images.pad(size=(None, 9, None)).shape == (3, 4, 9, 3)


@for_each(
    "options, message",
    [
        ({"size": 5}, r"sample 2 has shape \(1, 7, 3\), which is larger than size=5 in dimension 1"),
        ({"size": (8, 8)}, "size has 2 numbers; samples have 3 dimensions"),
        ({"multiple_of": 0}, "multiple_of is 0"),
        ({"size": -1}, "size is -1"),
        ({"multiple_of": 1.5}, "multiple_of is 1.5"),
    ],
)
def test_padding_to_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        planar().pad(**options)


def test_an_empty_batch_has_no_shape_to_pad_to():
    with pytest.raises(ValueError, match="empty"):
        planar()[:0].pad()
    assert len(planar()[:0].pack()) == 0
    assert len(planar()[:0].contiguous()) == 0
    assert TensorList([], dtype=torch.int8).pack().flat.dtype == torch.int8


@pytest.mark.gpu
def test_padding_on_the_gpu_is_that_on_the_cpu():
    for kind in (kind for kind in KINDS if kind != "numbers"):
        there = make(kind).to("cuda")
        assert torch.equal(there.pad(-7).cpu(), make(kind).pad(-7))
        assert same(there.pack(64).as_cpu(), make(kind))
        assert same(there.contiguous().as_cpu(), make(kind))


@pytest.mark.gpu
def test_the_number_of_launches_does_not_depend_on_that_of_samples():
    from torch.profiler import ProfilerActivity, profile

    def launches(count, work):
        batch = TensorList([torch.ones(3 + n % 5, 4, device="cuda") for n in range(count)])
        work(batch)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as record:
            work(batch)
            torch.cuda.synchronize()
        return sum(event.count for event in record.key_averages() if "LaunchKernel" in event.key)

    for work in (TensorList.pack, TensorList.pad, lambda batch: batch.to(torch.float16)):
        many = launches(100, work)
        assert many > 0
        assert many <= launches(10, work) + 3


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_arrays_and_nested_tensors_become_batches_and_back():
    arrays = [np.ones((2, 3), np.float32), np.zeros((4, 3), np.float32)]
    batch = TensorList.from_numpy(arrays, "HW")
    assert batch.shape() == [(2, 3), (4, 3)]
    batch[0][0, 0] = 5
    assert arrays[0][0, 0] == 5
    assert batch.numpy()[0][0, 0] == 5
    fixed = np.arange(3)
    fixed.setflags(write=False)
    assert TensorList.from_numpy([fixed, fixed[::-1]])[1].tolist() == [2, 1, 0]
    nested = batch.to_nested()
    assert nested.is_nested
    assert same(TensorList.from_nested(nested), batch)
    jagged = batch.to_nested(torch.jagged)
    assert jagged.layout == torch.jagged
    assert same(TensorList.from_nested(jagged, "HW"), batch)
    assert TensorList.from_nested(jagged, "HW").layout == "HW"
    with pytest.raises(TypeError, match="no nested tensor"):
        TensorList.from_nested(torch.zeros(2, 2))
    for no_block in (nested, jagged):
        with pytest.raises(TypeError, match="from_nested"):
            TensorList.from_batch(no_block)
