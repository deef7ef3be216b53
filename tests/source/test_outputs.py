"""What a source may return, and what it becomes."""

import array
import copy

import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.source import ExternalSource
from torchdali.source._outputs import as_batches, as_tensor, split_outputs

NUMBERS = np.arange(12)
PACKED = np.zeros(4, [("flag", "u1"), ("value", "f4")])
PACKED["value"] = [0, 1, 2, 3]

ACCEPTED = {
    "an array": (NUMBERS, torch.arange(12)),
    "a tensor": (torch.arange(12), torch.arange(12)),
    "read-only": (np.frombuffer(NUMBERS.tobytes(), np.int64), torch.arange(12)),
    "backwards": (NUMBERS[::-1], torch.arange(11, -1, -1)),
    "upside down": (NUMBERS.reshape(3, 4)[::-1], torch.arange(12).view(3, 4).flip(0)),
    "every second": (NUMBERS[::2], torch.arange(0, 12, 2)),
    "transposed": (NUMBERS.reshape(3, 4).T, torch.arange(12).view(3, 4).t()),
    "broadcast": (np.broadcast_to(NUMBERS, (2, 12)), torch.arange(12).expand(2, 12)),
    "big-endian": (NUMBERS.astype(">i4"), torch.arange(12, dtype=torch.int32)),
    "big-endian floats backwards": (NUMBERS.astype(">f8")[::-1], torch.arange(11, -1, -1, dtype=torch.float64)),
    "a field of a packed structure": (PACKED["value"], torch.arange(4, dtype=torch.float32)),
    "empty": (np.empty((0, 3), np.float32), torch.empty(0, 3)),
    "bool": (np.array([True, False]), torch.tensor([True, False])),
    "complex": (np.array([1j]), torch.tensor([1j], dtype=torch.complex128)),
    "uint16": (np.arange(3, dtype=np.uint16), torch.arange(3).to(torch.uint16)),
    "float16": (np.ones(2, np.float16), torch.ones(2, dtype=torch.float16)),
    "bfloat16": (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    "an integer": (3, torch.tensor(3)),
    "a float": (2.5, torch.tensor(2.5, dtype=torch.float64)),
    "a truth value": (True, torch.tensor(True)),
    "a scalar": (np.float32(1.5), torch.tensor(1.5)),
    "0-d": (np.array(7), torch.tensor(7)),
    "a list": ([[1, 2], [3, 4]], torch.tensor([[1, 2], [3, 4]])),
    "a list of arrays": ([np.ones(2), np.zeros(2)], torch.tensor([[1.0, 1], [0, 0]], dtype=torch.float64)),
    "bytes": (b"\0\1\xff", torch.tensor([0, 1, 255], dtype=torch.uint8)),
    "bytearray": (bytearray(b"ab"), torch.tensor([97, 98], dtype=torch.uint8)),
    "memoryview": (memoryview(b"ab"), torch.tensor([97, 98], dtype=torch.uint8)),
    "no bytes": (b"", torch.empty(0, dtype=torch.uint8)),
    "an array of the standard library": (array.array("i", [1, 2]), torch.tensor([1, 2], dtype=torch.int32)),
    "a tensor that requires grad": (torch.ones(2, requires_grad=True), torch.ones(2)),
    "a parameter": (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
}

REFUSED = {
    "None": (None, "output 0 of src is None"),
    "str": ("text", "output 0 of src is str"),
    "dict": ({"a": 1}, "output 0 of src is dict"),
    "set": ({1}, "output 0 of src is set"),
    "an object array": (np.array([None, 1], object), "with NumPy dtype dtype\\('O'\\)"),
    "ragged lists": ([[1], [1, 2]], "of which no array can be made"),
    "a list of str": (["a", "b"], "with NumPy dtype"),
    "an array of str": (np.array(["a"]), "with NumPy dtype"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), "with NumPy dtype"),
    "a structure": (PACKED, "with NumPy dtype"),
    "long double": (np.ones(2, np.longdouble), "for which torch has none"),
    "an object": (object(), "with NumPy dtype dtype\\('O'\\)"),
    "another device": (torch.ones(2, device="meta"), r"is a tensor on meta.*Return `tensor.cpu\(\)`"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_numbers_of_every_kind_become_tensors(name):
    value, expected = ACCEPTED[name]
    tensor = as_tensor(value, "output 0 of src")
    assert type(tensor) is torch.Tensor
    assert tensor.dtype == expected.dtype
    assert torch.equal(tensor, expected)
    assert not tensor.requires_grad


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_tensor_may_be_written_to_without_touching_what_is_read_only(name):
    value, expected = ACCEPTED[name]
    read_only = isinstance(value, (bytes, memoryview)) or (isinstance(value, np.ndarray) and not value.flags.writeable)
    as_tensor(value if read_only else copy.deepcopy(value), "src").zero_()
    assert torch.equal(as_tensor(value, "src"), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_number_is_refused_with_its_place(name):
    value, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        as_tensor(value, "output 0 of src")


def test_plain_arrays_and_tensors_keep_their_memory():
    numbers, tensor = np.zeros(3), torch.zeros(3)
    as_tensor(numbers, "")[0] = 1
    as_tensor(tensor, "")[0] = 1
    assert numbers[0] == 1
    assert tensor[0] == 1


def test_one_output_is_what_was_returned_and_several_come_as_a_tuple_or_list():
    assert split_outputs((1, 2), None, "src") == ((1, 2),)
    assert split_outputs((1, 2), 2, "src") == (1, 2)
    assert split_outputs([1], 1, "src") == (1,)


@pytest.mark.parametrize("value", [None, 5, np.zeros((2, 3)), torch.zeros(2), "ab", {1: 2, 3: 4}], ids=repr)
def test_several_outputs_come_in_nothing_but_a_tuple_or_list(value):
    kind = "None" if value is None else type(value).__name__
    with pytest.raises(
        TypeError, match=f"src returned a {kind}, but with num_outputs=2 it has to return a tuple or list of 2"
    ):
        split_outputs(value, 2, "src")


@pytest.mark.parametrize("value", [(), (1,), (1, 2, 3)])
def test_another_number_of_outputs_is_refused(value):
    with pytest.raises(ValueError, match=f"src returned {len(value)} outputs, but num_outputs=2 were promised"):
        split_outputs(value, 2, "src")


@pytest.mark.parametrize(
    "value",
    [np.arange(6).reshape(3, 2), torch.arange(6).view(3, 2), [np.array([0, 1]), [2, 3], torch.tensor([4, 5])]],
    ids=["array", "tensor", "list"],
)
def test_a_batch_is_an_array_with_the_batch_first_or_a_sequence_of_samples(value):
    (batch,) = as_batches(value, None, "src")
    assert isinstance(batch, TensorList)
    assert [tensor.tolist() for tensor in batch] == [[0, 1], [2, 3], [4, 5]]


def test_a_batch_may_be_a_tensor_list_and_its_samples_of_different_shapes():
    given = TensorList([torch.zeros(2), torch.zeros(3)])
    assert as_batches((given, [b"a", b"bcd"]), 2, "src")[0] is given
    assert as_batches((given, [b"a", b"bcd"]), 2, "src")[1].shape() == [(1,), (3,)]


def test_a_batch_is_no_single_number():
    with pytest.raises(ValueError, match="output 1 of src is a single number"):
        as_batches((np.zeros(2), 5), 2, "src")


def test_outputs_of_a_batch_have_as_many_samples_as_each_other():
    with pytest.raises(ValueError, match=r"the outputs of src have \[2, 3\] samples; they have to agree"):
        as_batches((np.zeros(2), np.zeros(3)), 2, "src")


def test_a_bad_sample_of_a_batch_is_named():
    with pytest.raises(TypeError, match="sample 1 of output 0 of src is None"):
        as_batches([np.zeros(1), None], None, "src")


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, r"output 0 of the source bad for SampleInfo\(idx_in_epoch=0.* is None"),
        ("text", TypeError, "is str; a source returns NumPy arrays"),
        (np.array([None]), TypeError, "dtype"),
        (torch.zeros(1, device="meta"), TypeError, "is a tensor on meta"),
    ],
    ids=["None", "str", "objects", "device"],
)
def test_a_bad_output_is_refused_where_it_is_made(make_reader, parallel, value, error, message):
    reader = make_reader(ExternalSource(lambda info: value, name="bad", parallel=parallel))
    with pytest.raises(error, match=message):
        reader.next()


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(("value", "error"), [((1,), ValueError), (np.zeros(2), TypeError)], ids=["one", "an array"])
def test_the_wrong_number_of_outputs_is_refused_where_it_is_made(make_reader, parallel, value, error):
    reader = make_reader(ExternalSource(lambda info: value, 2, name="bad", parallel=parallel))
    with pytest.raises(error, match="the source bad for SampleInfo.*num_outputs=2"):
        reader.next()


@pytest.mark.parametrize("parallel", [True, False])
def test_every_accepted_output_arrives(make_reader, parallel):
    names = list(ACCEPTED)

    def source(info):
        if info.idx_in_epoch >= len(names):
            raise StopIteration
        return ACCEPTED[names[info.idx_in_epoch]][0]

    reader = make_reader(ExternalSource(source, parallel=parallel), batch_size=1)
    for name in names:
        ((tensor,),) = reader.next().outputs
        assert torch.equal(tensor, ACCEPTED[name][1]), name
        assert tensor.dtype == ACCEPTED[name][1].dtype
