import numpy as np
import pytest
import torch
import torch.nn.functional as F

from torchdali import TensorList


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


def test_an_empty_list_keeps_its_type_and_has_no_tensor():
    empty = dense()[:0]
    assert empty.dtype == torch.int64
    assert not empty.is_dense_tensor()
    with pytest.raises(ValueError, match="empty"):
        empty.as_tensor()


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
