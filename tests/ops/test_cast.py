import numpy as np
import pytest
import torch

from tests.tensorlist.support import for_each
from torchdali import TensorList
from torchdali.ops import Cast, Crop, Fused
from torchdali.ops._execute import execute, image_sizes

TYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
VALUES = [
    -1e30,
    -70000.0,
    -129.0,
    -128.5,
    -1.5,
    -0.5,
    0.0,
    0.5,
    1.5,
    2.5,
    126.5,
    127.5,
    128.0,
    255.5,
    300.0,
    66000.0,
    1e30,
]


def by_hand(value: float, dtype: torch.dtype) -> object:
    """One number, with Python's, which are exact."""
    if dtype == torch.bool:
        return value != 0
    limits = torch.iinfo(dtype)
    return max(limits.min, min(limits.max, round(value)))


@for_each("dtype", [dtype for dtype in TYPES if not dtype.is_floating_point])
def test_half_precision_is_rounded_and_clamped_as_the_number_that_it_is(dtype):
    for source in (torch.float16, torch.bfloat16):
        values = torch.tensor([-60000, -40000, -129, -1.5, 0.5, 127.5, 255.5, 32767, 40000, 60000], dtype=source)
        expected = [by_hand(value, dtype) for value in values.tolist()]
        assert Cast(dtype)(values).tolist() == expected
        if dtype != torch.bool:
            image = values.view(1, 1, 1, -1)
            assert Crop(0, dtype=dtype)(image).flatten().tolist() == expected
            assert Fused(Cast(dtype))(image).flatten().tolist() == expected


@for_each("dtype", [dtype for dtype in TYPES if not dtype.is_floating_point])
def test_floating_point_is_rounded_half_to_even_and_clamped(dtype):
    for source in (torch.float32, torch.float64):
        values = torch.tensor(VALUES, dtype=source)
        result = Cast(dtype)(values)
        assert result.dtype == dtype
        for value, number in zip(values.tolist(), result.tolist(), strict=True):
            expected = by_hand(value, dtype)
            if dtype == torch.int64 and value > 1e18:
                continue  # below
            assert number == expected, (value, source)
    assert Cast(torch.int64)(torch.tensor([1e30, -1e30])).tolist() == [2**63 - 1024, -(2**63)]


@for_each("dtype", [dtype for dtype in TYPES if not dtype.is_floating_point])
@for_each("source", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integers_are_clamped_and_nothing_is_lost_on_the_way(dtype, source):
    limits = torch.iinfo(source)
    numbers = [
        n for n in (limits.min, -129, -1, 0, 1, 127, 200, 2**53 + 1, limits.max) if limits.min <= n <= limits.max
    ]
    assert Cast(dtype)(torch.tensor(numbers, dtype=source)).tolist() == [by_hand(n, dtype) for n in numbers]


@for_each("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@for_each("source", TYPES)
def test_floating_point_results_are_those_of_torch(dtype, source):
    values = torch.tensor([0, 1, 2, 77, 100]).to(source)
    assert torch.equal(Cast(dtype)(values), values.to(dtype))


def test_bool_becomes_zero_and_one():
    assert Cast(torch.uint8)(torch.tensor([True, False])).tolist() == [1, 0]


def test_a_ragged_batch_keeps_shapes_layout_and_order_in_memory():
    flat = torch.linspace(-3, 300, 72)
    for batch in (
        TensorList.from_flat(flat, [(4, 5, 3), (2, 2, 3)], "HWC", order=(2, 0, 1)),
        TensorList([torch.rand(3, 4), torch.rand(2), torch.rand(())]),
        TensorList.from_batch(flat.view(2, 12, 3).transpose(1, 2)),
    ):
        results = Cast(torch.uint8)(batch)
        assert (results.layout, results.dtype, results.shape()) == (batch.layout, torch.uint8, batch.shape())
        for new, old in zip(results, batch, strict=True):
            assert new.stride() == old.stride()
            assert torch.equal(new, old.round().clamp(0, 255).byte())
    assert Cast(torch.float32)(batch) is batch
    assert isinstance(Cast(torch.uint8)(flat), torch.Tensor)


def test_as_a_step_among_others_it_does_the_same_to_images():
    rng = np.random.default_rng(3)
    images = [torch.from_numpy(rng.uniform(-100, 400, (3, h, 5)).astype(np.float32)) for h in (2, 7)]
    for dtype in (torch.uint8, torch.int16, torch.float16):
        batch, operator = TensorList(images, "CHW"), Cast(dtype)
        stepped = execute([operator.step(image_sizes(batch, "Cast"), batch.dtype)], batch, "Cast")
        assert stepped.dtype == dtype
        assert all(torch.equal(a, b) for a, b in zip(stepped, operator(batch), strict=True))
    with pytest.raises(ValueError, match="cannot be fused"):
        Cast(torch.bool).step(np.ones((1, 3), np.int64), torch.uint8)


def test_types_without_order_are_refused():
    with pytest.raises(ValueError, match="dtype is torch.complex64"):
        Cast(torch.complex64)
    with pytest.raises(TypeError, match="values of type torch.complex64 cannot be cast"):
        Cast(torch.uint8)(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="no argument 'dtype'"):
        Cast(torch.uint8)(torch.zeros(2), dtype=torch.int8)
    assert repr(Cast(torch.int8)) == "Cast(torch.int8)"


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives():
    rng = np.random.default_rng(3)
    values = [torch.from_numpy(rng.uniform(-200, 400, shape)) for shape in ((3, 4, 5), (3, 2, 9), (1, 1, 1))]
    for samples in (values, [sample[0] for sample in values], [values[0], values[1][0]]):
        for source in (torch.float32, torch.int16, torch.float16):
            batch = TensorList(samples).to(source)
            for dtype in TYPES:
                there = Cast(dtype)(TensorList([sample.cuda() for sample in batch]))
                assert there.dtype == dtype
                assert all(torch.equal(a, b) for a, b in zip(there.cpu(), Cast(dtype)(batch), strict=True))
