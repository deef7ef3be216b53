import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tensorlist.support import for_each
from torchdali import TensorList, fn, pipeline_def, types
from torchdali.ops import OneHot


def by_hand(sample: torch.Tensor, num_classes: int, axis: int, on: float, off: float) -> torch.Tensor:
    """Each place by itself."""
    shape = [*sample.shape[:axis], num_classes, *sample.shape[axis:]]
    result = torch.full(shape, off, dtype=torch.float64)
    for place in np.ndindex(*shape):
        if int(sample[place[:axis] + place[axis + 1 :]]) == place[axis]:
            result[place] = on
    return result


def ragged() -> list[torch.Tensor]:
    return [torch.tensor([[0, 2, 1], [3, -1, 4]]), torch.tensor([[1], [0]]), torch.zeros(0, 2, dtype=torch.int64)]


def test_labels_become_what_torch_makes_of_them():
    labels = torch.tensor([2, 0, 1, 2])
    expected = F.one_hot(labels, 3).float()
    assert torch.equal(OneHot(3)(labels), expected)
    for batch in (TensorList.from_batch(labels), TensorList(list(labels)), TensorList(list(labels[:, None]))):
        results = OneHot(3)(batch)
        assert isinstance(results, TensorList)
        assert torch.equal(results.as_tensor(), expected)
    assert torch.equal(OneHot(3)(labels[:, None, None]), expected)


@for_each("axis", [None, -1, 0, 1, 2])
@for_each("storage", ["apart", "planar", "block"])
def test_every_place_follows_the_definition(axis, storage):
    samples = ragged() if storage != "block" else [ragged()[0], ragged()[0] + 1]
    batch = {
        "apart": lambda: TensorList(samples),
        "planar": lambda: TensorList([sample.T.contiguous().T for sample in samples]).pack(),
        "block": lambda: TensorList.from_batch(torch.stack(samples)),
    }[storage]()
    results = OneHot(4, 5, -2, axis=axis)(batch)
    for result, sample in zip(results, samples, strict=True):
        expected = by_hand(sample, 4, 2 if axis in (None, -1) else axis, 5, -2)
        assert result.dtype == torch.float32
        assert torch.equal(result.double(), expected)


def test_numbers_of_no_class_are_off_everywhere():
    assert OneHot(3, dtype=torch.int8)(torch.tensor([-1, 3, 1])).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_an_axis_that_is_given_keeps_dimensions_of_one_element():
    labels = torch.tensor([[1], [0]])
    assert OneHot(2)(labels).shape == (2, 2)
    assert OneHot(2, axis=-1)(labels).shape == (2, 1, 2)
    assert OneHot(2, axis=0)(labels).shape == (2, 2, 1)


def test_every_integer_type_is_taken_and_the_input_is_left_alone():
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        classes = torch.tensor([1, 0], dtype=dtype)
        result = OneHot(300, dtype=torch.float16)(classes)
        assert result.dtype == torch.float16
        assert result.argmax(1).tolist() == [1, 0]
        assert classes.tolist() == [1, 0]


def test_the_layout_has_the_new_dimension_where_it_is_named():
    masks = TensorList([torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8)], "HW")
    assert OneHot(2, axis=0, axis_name="C")(masks).layout == "CHW"
    assert OneHot(2, axis_name="C")(masks).layout == "HWC"
    assert OneHot(2)(masks).layout == ""
    with pytest.raises(ValueError, match="no layout that names"):
        OneHot(2, axis_name="C")(TensorList(list(masks)))


def test_an_empty_batch_stays_empty():
    assert len(OneHot(3)(TensorList([], dtype=torch.int64))) == 0


@for_each(
    "arguments, options, message",
    [
        ((0,), {}, "num_classes is 0"),
        ((2.5,), {}, "num_classes is 2.5"),
        ((3, 300, 0, torch.uint8), {}, "on_value is 300, which torch.uint8 cannot hold"),
        ((3, 1, 0.5, torch.int32), {}, "off_value is 0.5, which"),
        ((3, float("nan")), {}, "on_value is nan"),
        ((3,), {"dtype": torch.complex64}, "dtype is torch.complex64"),
        ((3,), {"axis": -2}, "axis is -2"),
        ((3,), {"axis_name": "CH"}, "single letter"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        OneHot(*arguments, **options)


def test_classes_have_to_be_integers_and_the_axis_to_be_there():
    with pytest.raises(TypeError, match="classes of type torch.float32"):
        OneHot(3)(torch.zeros(2))
    with pytest.raises(ValueError, match="axis is 2; with samples of 1 dimensions it is -1 or from 0 to 1"):
        OneHot(3, axis=2)(torch.zeros(2, 2, dtype=torch.int64))


def test_it_prints_what_differs_from_the_defaults():
    assert repr(OneHot(3)) == "OneHot(3)"
    assert repr(OneHot(3, 0.9, axis=0)) == "OneHot(3, on_value=0.9, axis=0)"


def test_pipelines_have_one_hot_and_cast_with_dali_s_arguments():
    @pipeline_def(batch_size=3, device_id=None)
    def pipeline():
        labels = fn.external_source(lambda info: np.array([info.idx_in_epoch % 4], np.int32), batch=False)
        return fn.one_hot(labels, num_classes=4, on_value=9, dtype=types.UINT8), fn.cast(labels, dtype=types.FLOAT16)

    with pipeline() as pipe:
        vectors, numbers = pipe.run()
    assert vectors.as_tensor().tolist() == [[9, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0]]
    assert vectors.dtype == torch.uint8
    assert numbers.as_tensor().tolist() == [[0], [1], [2]]
    assert numbers.dtype == torch.float16


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives():
    for axis in (None, 0, 1):
        operator = OneHot(4, 5, -2, axis=axis)
        there = operator(TensorList(ragged()).cuda())
        assert there.device.type == "cuda"
        assert all(torch.equal(a, b) for a, b in zip(there.cpu(), operator(TensorList(ragged())), strict=True))
