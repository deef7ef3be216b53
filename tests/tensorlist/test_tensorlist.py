import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tensorlist.support import for_each
from torchdali import TensorList
from torchdali.ops import BrightnessContrast, Cast, Normalize, OneHot, Resize


def ragged() -> TensorList:
    return TensorList([torch.arange(6).view(2, 3), torch.arange(4).view(2, 2)])


def dense() -> TensorList:
    return TensorList([torch.tensor([1]), torch.tensor([2]), torch.tensor([3])])


def test_it_is_a_sequence_of_tensors():
    batch = ragged()
    assert len(batch) == 2
    assert batch.shape() == [(2, 3), (2, 2)]
    assert [tuple(tensor.shape) for tensor in batch] == [(2, 3), (2, 2)]
    assert batch[-1].shape == (2, 2)
    assert isinstance(batch[:1], TensorList)
    assert len(batch[1:]) == 1
    with pytest.raises(IndexError):
        batch[2]


def test_at_gives_an_array_that_shares_the_memory():
    batch = ragged()
    batch.at(0)[0, 0] = 77
    assert batch[0][0, 0] == 77


def test_equal_shapes_become_one_tensor_or_array():
    assert torch.equal(dense().as_tensor(), torch.tensor([[1], [2], [3]]))
    assert torch.equal(dense().stack(), dense().as_tensor())
    assert np.array_equal(dense().as_array(), [[1], [2], [3]])
    assert np.array_equal(np.array(dense()), [[1], [2], [3]])


@pytest.mark.parametrize("method", ["as_tensor", "as_array", "stack"])
def test_different_shapes_are_an_error_that_names_them(method):
    with pytest.raises(ValueError, match=r"sample 0 has \(2, 3\), sample 1 has \(2, 2\)"):
        getattr(ragged(), method)()


def test_an_empty_part_of_a_list_keeps_its_type_and_the_shape_that_all_samples_had():
    for empty in (
        dense()[:0],
        dense()[[]],
        dense()[:0][:1],
        dense().pack()[3:],
        TensorList.from_batch(torch.tensor([[1]]))[:0],
    ):
        assert empty.dtype == torch.int64
        assert empty.is_dense_tensor()
        assert empty.as_tensor().shape == (0, 1)
        assert torch.cat([empty.as_tensor(), dense().as_tensor()]).shape == (3, 1)


def test_an_empty_list_of_which_nobody_knows_the_shape_has_no_tensor():
    for empty in (ragged()[:0], TensorList([])):
        assert not empty.is_dense_tensor()
        with pytest.raises(ValueError, match="empty"):
            empty.as_tensor()


@pytest.mark.parametrize("batch", [[torch.zeros(3, 4, 4)], np.zeros((1, 3, 4, 4)), None, 3], ids=repr)
def test_what_is_no_batch_is_named_and_what_to_do_about_it(batch):
    for call in (TensorList.from_batch, Resize(3), Cast(torch.int8), Normalize(), BrightnessContrast(), OneHot(3)):
        with pytest.raises(
            TypeError, match=rf"a {type(batch).__name__} is no batch; .*TensorList\(tensors\) makes one"
        ):
            call(batch)


def test_torch_functions_take_it_for_a_tensor_where_shapes_agree():
    logits = torch.randn(3, 5)
    labels = TensorList.from_batch(torch.tensor([0, 3, 4]))
    assert torch.equal(F.cross_entropy(logits, labels), F.cross_entropy(logits, torch.tensor([0, 3, 4])))
    assert torch.stack(dense()).shape == (3, 1)
    assert torch.cat(dense()).shape == (3,)
    with pytest.raises(ValueError, match="shapes differ"):
        torch.sum(ragged())


def test_a_batch_of_mixed_types_or_a_layout_that_does_not_fit_is_refused():
    with pytest.raises(TypeError, match=r"sample 1 is torch.int64"):
        TensorList([torch.zeros(1), torch.zeros(1, dtype=torch.int64)])
    with pytest.raises(TypeError, match="sample 0 of a TensorList is a int"):
        TensorList([1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="layout 'HWC'"):
        TensorList([torch.zeros(2, 2)], "HWC")
    with pytest.raises(ValueError, match="sample 1 is on meta"):
        TensorList([torch.zeros(1), torch.zeros(1, device="meta")])


def test_what_is_not_in_cpu_memory_says_how_to_get_there():
    with pytest.raises(TypeError, match=r"as_cpu\(\)\.at"):
        TensorList([torch.zeros(1, device="meta")]).at(0)


def test_map_keeps_the_layout_where_it_still_fits():
    images = TensorList([torch.zeros(4, 5, 3), torch.zeros(2, 2, 3)], "HWC")
    assert images.map(lambda image: image + 1).layout == "HWC"
    assert images.map(lambda image: image.sum()).layout == ""


def test_its_repr_tells_size_type_place_and_shapes():
    text = repr(TensorList([torch.zeros(4, 5, 3)], "HWC"))
    assert text == "TensorList(1 x torch.float32 on cpu, layout='HWC', shapes [(4, 5, 3)])"


@pytest.mark.gpu
def test_a_batch_travels_to_the_gpu_and_back():
    there = ragged().to("cuda")
    assert there.device == torch.device("cuda:0") or there.device.type == "cuda"
    assert all(torch.equal(a, b) for a, b in zip(there.as_cpu(), ragged(), strict=True))
    with pytest.raises(TypeError, match="as_cpu"):
        there.as_array()


# --- moving and converting --------------------------------------------------------------------------------------------


def every_storage() -> list[TensorList]:
    flat = torch.arange(10)
    return [
        ragged(),
        TensorList.from_batch(torch.arange(12).view(2, 2, 3).transpose(1, 2), "HW"),
        TensorList.from_flat(flat, [(2, 3), (2, 2)], order=(1, 0)),
        TensorList.from_flat(flat, [(1,), (2,)], offsets=[9, 0]),
        TensorList([torch.zeros(2), torch.zeros(2, 2)]),
    ]


@for_each("place", range(5))
def test_a_conversion_of_type_is_that_of_each_sample_in_every_form(place):
    batch = every_storage()[place]
    half = torch.float16
    example = torch.zeros(1, dtype=half)
    for converted in (
        batch.to(half),
        batch.to("cpu", half),
        batch.to(torch.device("cpu"), half, False, True),
        batch.to(dtype=half),
        batch.to(device="cpu", dtype=half),
        batch.to(example),
        batch.to(TensorList([example])),
    ):
        assert converted.dtype == half
        assert converted.layout == batch.layout
        for new, old in zip(converted, batch, strict=True):
            assert torch.equal(new, old.to(half))
            assert new.stride() == old.stride()


@for_each("place", range(5))
def test_what_is_there_already_is_itself_unless_a_copy_is_wanted(place):
    batch = every_storage()[place]
    assert batch.to("cpu") is batch
    assert batch.to(batch.dtype) is batch
    assert batch.cpu() is batch
    assert batch.to() is batch
    for copied in (batch.to("cpu", copy=True), batch.clone()):
        for new, old in zip(copied, batch, strict=True):
            assert torch.equal(new, old)
            assert new.stride() == old.stride()
            assert new.data_ptr() != old.data_ptr()


def test_what_lies_in_one_memory_is_moved_at_once():
    there = every_storage()[2].to("meta")
    assert there.device == torch.device("meta")
    assert there.flat.shape == (10,)
    assert [sample.stride() for sample in there] == [sample.stride() for sample in every_storage()[2]]
    assert every_storage()[1].to("meta").block.shape == (2, 3, 2)


def test_a_few_samples_of_a_large_buffer_are_moved_without_the_rest():
    few = TensorList.from_flat(torch.arange(1000), [(2,), (3,)], offsets=[0, 997])
    moved = few.to(torch.int16)
    assert moved.flat.numel() == 5
    assert [sample.tolist() for sample in moved] == [[0, 1], [997, 998, 999]]


@for_each(
    "positional, named, message",
    [
        ((torch.float16, torch.int8), {}, "two values for dtype"),
        (("cpu",), {"device": "cpu"}, "two values for device"),
        ((3.5,), {}, "was given a float"),
        ((), {"memory_format": torch.contiguous_format}, "no argument 'memory_format'"),
        ((), {"dtype": "float16"}, "is a torch.dtype"),
        (("cpu", True, True, True), {}, "three flags"),
    ],
)
def test_a_target_that_is_none_is_refused(positional, named, message):
    with pytest.raises(TypeError, match=message):
        ragged().to(*positional, **named)


def test_samples_at_equal_distances_in_a_buffer_are_one_tensor_without_a_copy():
    flat = torch.arange(12)
    dense = TensorList.from_flat(flat, [(3, 2)] * 2, order=(1, 0)).as_tensor()
    assert torch.equal(dense, flat.view(2, 2, 3).transpose(1, 2))
    assert dense.data_ptr() == flat.data_ptr()
    apart = TensorList.from_flat(flat, [(2,)] * 3, offsets=[8, 0, 4])
    assert apart.as_tensor().tolist() == [[8, 9], [0, 1], [4, 5]]
    assert apart[1:].as_tensor().data_ptr() == flat.data_ptr()


def test_stacking_puts_the_batch_where_torch_does():
    samples = [torch.arange(6).view(2, 3), torch.arange(6, 12).view(2, 3)]
    for dim in (0, 1, 2, -1):
        assert torch.equal(TensorList(samples).stack(dim), torch.stack(samples, dim))


def test_errors_of_unequal_shapes_name_the_ways_out():
    with pytest.raises(ValueError, match=r"pad\(\).*resize"):
        ragged().stack()


# --- in the place of a tensor -----------------------------------------------------------------------------------------


def test_arithmetic_of_equal_shapes_is_that_of_their_tensor():
    batch, tensor = dense(), dense().as_tensor()
    factors = torch.tensor([[1.0], [0.5], [2.0]])
    for result, expected in (
        (batch / 255, tensor / 255),
        (2 - batch, 2 - tensor),
        (batch * factors, tensor * factors),
        (factors * batch, factors * tensor),
        (batch + batch, tensor + tensor),
        (batch**2 % 3 // 2, tensor**2 % 3 // 2),
        (-batch, -tensor),
        (batch > 1, tensor > 1),
        (batch <= 1, tensor <= 1),
    ):
        assert torch.equal(result, expected)
    assert batch == batch
    assert batch != dense()
    assert len({batch, batch}) == 1


def test_arithmetic_of_different_shapes_says_what_to_do():
    with pytest.raises(ValueError, match=r"`/` needs samples of one shape.*batch\.map.*sample 1 has \(2, 2\)"):
        ragged() / 255
    with pytest.raises(ValueError, match=r"`\*` needs"):
        2 * ragged()
    with pytest.raises(TypeError, match="unsupported operand"):
        dense() + "1"


def test_torch_s_comparison_takes_batches_of_one_shape():
    torch.testing.assert_close(dense().as_tensor(), torch.tensor([[1], [2], [3]]))
    torch.testing.assert_close(list(ragged()), list(ragged()))
    assert torch.allclose(dense(), dense())
    with pytest.raises(AssertionError):
        torch.testing.assert_close(list(ragged()), list(ragged().clone().map(lambda sample: sample + 1)))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_torch_s_and_other_libraries_helpers_move_a_batch_by_its_own_methods(monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = dense()
    monkeypatch.setattr(TensorList, "pin_memory", lambda self, device=None: pinned)
    assert pin_memory({"x": [ragged()]})["x"][0] is pinned
    assert ragged().is_pinned() is False


@pytest.mark.gpu
def test_pinned_batches_are_one_buffer_and_arrive_without_waiting():
    for batch in (ragged(), *every_storage()):
        pinned = batch.pin_memory()
        assert pinned.is_pinned()
        assert pinned.pin_memory() is pinned
        there = pinned.cuda(non_blocking=True)
        assert there.device == torch.device("cuda", 0)
        assert there.to("cuda") is there
        there.record_stream(torch.cuda.Stream())
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(there.cpu(), batch, strict=True))
    assert ragged().pin_memory().flat is not None


@pytest.mark.gpu
def test_a_stream_that_is_recorded_keeps_memory_from_being_used_again():
    batch = TensorList.from_flat(torch.ones(1 << 20, device="cuda"), [(1 << 19,), (1 << 19,)])
    address, stream = int(batch.pointers[0]), torch.cuda.Stream()
    batch[0].sum()  # a kernel is loaded at its first use, which would wait for the one that is to take long
    torch.cuda.synchronize()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(1_000_000_000)
        total = batch[0].sum()
    batch.record_stream(stream)
    del batch
    assert torch.zeros(1 << 20, device="cuda").data_ptr() != address
    stream.synchronize()
    assert total.item() == 1 << 19


def test_an_array_that_numpy_makes_of_a_batch_is_its_own():
    batch = TensorList.from_batch(torch.zeros(3, 2))
    for array in (np.array(batch), np.array(batch, copy=True), np.array(batch, np.float64)):
        array[:] = 7
        assert batch.as_tensor().sum() == 0
    assert np.asarray(batch).shape == (3, 2)


@pytest.mark.parametrize(
    "other", [np.float32(2), np.int64(2), np.float64(2), np.array([2, 2]), np.full((3, 2), 2.0)], ids=repr
)
def test_operators_with_what_is_numpys_give_tensors(other):
    batch = TensorList(list(torch.arange(6.0).view(3, 2)))
    for symbol in (operator.add, operator.sub, operator.mul, operator.truediv):
        for left, right in ((batch, other), (other, batch)):
            made = symbol(left, right)
            expected = symbol(*(torch.as_tensor(np.asarray(value)) for value in (left, right)))
            assert isinstance(made, torch.Tensor)
            assert torch.equal(made.double(), expected.double())


def test_numpy_s_integers_are_sizes_as_others_are():
    batch = TensorList([torch.zeros(3, 5, 6), torch.zeros(3, 7, 2)], "CHW")
    assert batch.pad(size=np.int64(8)).shape == batch.pad(size=8).shape == (2, 3, 8, 8)
    assert batch.pad(multiple_of=np.int32(4)).shape == batch.pad(multiple_of=4).shape == (2, 3, 8, 8)


def test_arguments_by_name_are_taken_as_those_by_place():
    batch = TensorList([torch.zeros(2), torch.ones(3)])
    assert batch.to(other=torch.zeros(1, dtype=torch.int64)).dtype == torch.int64
    for join in (torch.cat, torch.concat, torch.concatenate):
        assert join(batch).tolist() == join(tensors=batch).tolist() == [0, 0, 1, 1, 1]
