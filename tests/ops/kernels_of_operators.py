"""Operators by their kernels against the same by their definitions; run as kernels.py is, by test_kernels.py."""

import os
from itertools import product

import numpy as np
import pytest
import torch

from tests.ops.images import random_image
from torchdali import TensorList, ops
from torchdali.ops import _execute, _normalize

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
SIZES = ((5, 9), (1, 1), (4, 10))
WIDE = (torch.int32, torch.int64, torch.float64)
MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that were launched, in their order; and no image is worked on alone."""
    from torchdali.ops._kernels import _launch, _standardize

    names = []

    def counting(owner, name):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (names.append(name), original(*given))[1])

    counting(_launch._Launch, "run")
    counting(_standardize._Standardize, "_statistics")
    monkeypatch.setattr(_launch, "_LOOKUPS", {})
    monkeypatch.setattr(_launch, "_LOOKUP_WIDE", (256, 4))
    monkeypatch.setattr(_launch, "_LOOKUP_PART", 64)
    monkeypatch.setattr(_standardize, "_BLOCK", 16)
    monkeypatch.setattr(_standardize, "_TURNS", 2)
    monkeypatch.setattr(_standardize, "_MERGE", 2)
    return names


def by_kernels(monkeypatch, operator, images):
    with monkeypatch.context() as patched:
        for module in (_execute, _normalize):
            patched.setattr(module, "has_kernels", lambda _: True)
        return operator(images.to(DEVICE)).as_cpu()


def pairs(monkeypatch, operator, images):
    """What the kernels give and what the definition does, for each image."""
    got, expected = by_kernels(monkeypatch, operator, images), operator(images)
    assert got.layout == expected.layout
    assert got.dtype == expected.dtype
    assert got.shape() == expected.shape()
    return zip(got, expected, strict=True)


def photographs(dtype=torch.uint8, layout="CHW", channels=3, sizes=SIZES, planar=None):
    """Images (C, H, W) or (H, W, C) that differ in brightness, planar in memory or with the channels side by side."""
    images = []
    for seed, (height, width) in enumerate(sizes):
        noise = np.random.default_rng(seed).uniform(20 * seed, 100 + 60 * seed, (channels, height, width))
        image = torch.from_numpy(noise + 9 * np.arange(channels)[:, None, None]).to(dtype)
        if planar is None:
            planar = layout == "CHW"
        stored = image if planar else image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        images.append(stored if layout == "CHW" else stored.permute(1, 2, 0))
    return TensorList(images, layout)


# --- normalisation by the images' own statistics ------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "dtype"), [("CHW", torch.uint8), ("HWC", torch.float32)])
def test_statistics_take_two_launches_and_are_those_of_the_definition(monkeypatch, launched, layout, dtype):
    for axes, batch in product(("CHW", "HW"), (False, True)):
        operator = ops.Normalize(axes=axes, batch=batch, epsilon=0.5, scale=2.0, shift=1.0, ddof=1)
        for got, expected in pairs(monkeypatch, operator, photographs(dtype, layout)):
            assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6), (axes, batch)
    assert launched == ["run", "_statistics"] * 4


def test_what_is_given_is_used_and_the_rest_computed(monkeypatch, launched):
    given = [{"mean": 100.0}, {"mean": MEAN}, {"std": 3.0}, {"std": STD}]
    for known, (axes, batch) in product(given, (("CHW", True), ("HW", False))):
        operator = ops.Normalize(**known, axes=axes, batch=batch)
        for got, expected in pairs(monkeypatch, operator, photographs()):
            assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6), (known, axes, batch)
    assert launched == ["run", "_statistics"] * 8


def test_means_of_each_sample_count_for_its_own_distances(monkeypatch, launched):
    operator = ops.Normalize(np.array([[90.0], [140.0], [180.0]]), batch=True)
    for got, expected in pairs(monkeypatch, operator, photographs(torch.float32)):
        assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert launched


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_numbers_of_channels_have_their_statistics_too(monkeypatch, launched, channels):
    for axes, batch, layout in (("HW", True, "CHW"), ("CHW", False, "HWC"), ("HW", False, "HWC")):
        images = photographs(layout=layout, channels=channels, sizes=SIZES[:2])
        for got, expected in pairs(monkeypatch, ops.Normalize(axes=axes, batch=batch), images):
            assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6), (axes, batch, layout)
    assert len(launched) == 6


def test_images_of_different_numbers_of_channels_do_as_well(monkeypatch, launched):
    images = TensorList([photographs(channels=channels)[2 * (channels % 2)] for channels in (1, 2, 3)])
    for axes in ("CHW", "HW"):
        for got, expected in pairs(monkeypatch, ops.Normalize(axes=axes), images):
            assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6), axes
    assert len(launched) == 4
    with pytest.raises(ValueError, match="need images that agree in the others"):
        by_kernels(monkeypatch, ops.Normalize(axes="HW", batch=True), images)


def test_a_small_deviation_far_from_zero_loses_no_digits(monkeypatch, launched):
    types = [torch.int8, torch.int16, torch.float16, torch.float32, *WIDE]
    for dtype in types:
        offset = {torch.int8: 90, torch.float16: 1024, torch.int16: 30000}.get(dtype, 10_000_000)
        image = (random_image(6, 11) % 4 + torch.tensor([0, 1, 2])[:, None, None] + offset).to(dtype)
        for got, expected in pairs(monkeypatch, ops.Normalize(axes="HW"), TensorList([image[:, 1:, 2:-1]])):
            assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6), dtype
    assert launched == ["run", "_statistics"] * len(types)


def test_results_of_integer_types_are_rounded_once(monkeypatch, launched):
    for dtype in (torch.uint8, torch.int8, torch.float16, torch.int32, torch.float64):
        operator = ops.Normalize(scale=60.0, shift=20.0, dtype=dtype)
        for got, expected in pairs(monkeypatch, operator, photographs()):
            assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12), dtype
    assert launched


def test_an_image_without_a_deviation_becomes_the_shift(monkeypatch, launched):
    uniform = TensorList([torch.full((3, 5, 8), 77.7), torch.full((3, 4, 9), 0.3)])
    for images, ddof in ((uniform, 0), (photographs(torch.float32), 3 * 5 * 9)):
        results = by_kernels(monkeypatch, ops.Normalize(shift=3.0, ddof=ddof), images)
        assert all(result.eq(3.0).all() for result in results)
    assert launched


@pytest.mark.skipif(INTERPRETED, reason="programs of the interpreter run one after the other")
def test_programs_that_race_for_the_end_give_the_same_each_time(monkeypatch):
    sizes = [(200 + 37 * n % 300, 150 + 53 * n % 400) for n in range(48)]
    for dtype, axes, batch in product((torch.uint8, torch.float32), ("CHW", "HW"), (False, True)):
        images = photographs(dtype, sizes=sizes)
        operator = ops.Normalize(axes=axes, batch=batch)
        for got, expected in pairs(monkeypatch, operator, images):
            assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6)
        there = images.to(DEVICE)
        first = operator(there)
        for _ in range(20):
            assert all(torch.equal(*pair) for pair in zip(first, operator(there), strict=True))


def test_other_axes_are_done_by_the_definition(monkeypatch, launched):
    for got, expected in pairs(monkeypatch, ops.Normalize(axes="W"), photographs()):
        assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert launched == []


# --- added channels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "layout", "policy"), [*product((3,), ("CHW", "HWC"), ("trim_to_shape", "pad")), (5, "HWC", "pad")]
)
def test_channels_are_added_in_the_same_launch(monkeypatch, launched, layout, policy, channels):
    for crop, given in ((None, "HWC"), (3, "CHW")):
        operator = ops.CropMirrorNormalize(
            crop=crop,
            mirror=[1, 0, 1],
            mean=[100.0 + 5 * n for n in range(channels)],
            std=40.0,
            pad_output=True,
            output_layout=layout,
            fill_values=0.3,
            out_of_bounds_policy=policy,
            dtype=torch.float16,
        )
        images = photographs(layout=given, channels=channels)
        for got, expected in pairs(monkeypatch, operator, images):
            assert torch.allclose(got, expected, rtol=1e-3, atol=1e-4)
            axis = layout.index("C")
            added = got.narrow(axis, channels, got.shape[axis] - channels)
            assert torch.equal(added, expected.narrow(axis, channels, got.shape[axis] - channels))
        again = crop is not None and policy == "pad"  # the frame around the second image is a launch of its own
        assert launched == ["run"] * (2 if again else 1)
        launched.clear()


def test_what_follows_added_channels_sees_them(monkeypatch, launched):
    padded = ops.CropMirrorNormalize(mean=MEAN, std=STD, pad_output=True, output_layout=None)
    operator = ops.Fused(padded, ops.Normalize([0.0, 1.0, 2.0, 3.0], 0.5), ops.Flip())
    for got, expected in pairs(monkeypatch, operator, photographs()):
        assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
        assert got[3].unique().tolist() == [-6.0]
    assert launched == ["run"] * 2


# --- types that float32 does not hold -----------------------------------------------------------------------------------


def wide_images(dtype, layout="CHW"):
    """Values that float32 would round; for int64 some that float64 would."""
    large = {torch.int32: 2**31 - 1000, torch.int64: 2**62 + 1, torch.float64: 0.1}[dtype]
    images = []
    for seed, size in enumerate(SIZES):
        image = random_image(*size, dtype=torch.int16, seed=seed).to(dtype) % 999 + large
        images.append(image.permute(1, 2, 0).contiguous() if layout == "HWC" else image)
    return TensorList(images, layout)


@pytest.mark.parametrize(("dtype", "layout"), list(zip(WIDE, ("CHW", "HWC", "CHW"), strict=True)))
def test_pixels_of_wide_types_are_moved_with_all_their_bits(monkeypatch, launched, dtype, layout):
    operators = (
        ops.Crop((4, 5), 0.3, 0.8, out_of_bounds="pad", fill=(1, 2.5, 123456789.3)),
        ops.Flip([0, 1, 1], [0, 1, 0]),
        ops.Resize((9, 11), filter="nearest"),
        ops.Erase((1, 2), (2, 3), (16777217, 5, 7.1)),
    )
    for operator in operators:
        for got, expected in pairs(monkeypatch, operator, wide_images(dtype, layout)):
            assert torch.equal(got, expected), operator
    assert launched == ["run"] * len(operators)


@pytest.mark.parametrize("dtype", WIDE)
def test_colours_of_wide_types_are_those_of_double_precision(monkeypatch, launched, dtype):
    images = wide_images(dtype) if dtype != torch.int64 else TensorList([image // 4096 for image in wide_images(dtype)])
    operators = (
        ops.BrightnessContrast(0.9, [0.7, 1.5, 1.1]),
        ops.Normalize(MEAN, STD, dtype=torch.float64),
        ops.Normalize(1e9, 3.0, scale=1e4, dtype=torch.int32),
        ops.Fused(ops.Normalize(MEAN, STD, dtype=torch.float32), ops.Normalize(1.0, 3.0, dtype=torch.float64)),
        ops.Fused(
            ops.Flip(), ops.Normalize(MEAN, STD, scale=70.0, dtype=torch.int64), ops.BrightnessContrast(1.2, 0.8)
        ),
    )
    for operator in operators:
        for got, expected in pairs(monkeypatch, operator, images):
            assert torch.equal(got, expected), operator
    for got, expected in pairs(monkeypatch, ops.ColorTwist(hue=10.0, saturation=1.3), images):
        assert torch.allclose(got.double(), expected.double(), rtol=1e-14)
    assert launched == ["run"] * (len(operators) + 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_other_types_become_wide_ones(monkeypatch, launched, dtype):
    for to in WIDE:
        for got, expected in pairs(monkeypatch, ops.Normalize(3.0, 1e-7, dtype=to), photographs(dtype, planar=False)):
            assert torch.allclose(got.double(), expected.double(), rtol=1e-6, atol=0)
    assert launched == ["run"] * 3


def test_halves_are_rounded_to_even_and_limits_kept_in_double_precision(monkeypatch, launched):
    values = [
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.5,
        2.0**51 + 0.5,
        2.0**51 + 1.5,
        -(2.0**51) - 1.5,
        1e19,
        -1e19,
        3e9,
        -3e9,
        2.0**52 + 1,
    ]
    images = TensorList([torch.tensor(values, dtype=torch.float64).view(1, 2, 7)])
    for to in (torch.int64, torch.int32, torch.uint8, torch.int8, torch.int16, torch.float16, torch.float32):
        for got, expected in pairs(monkeypatch, ops.Fused(ops.Cast(to)), images):
            assert torch.equal(got, expected), to
    assert len(launched) == 7


def test_wide_types_that_are_resampled_are_done_by_the_definition(monkeypatch, launched):
    for got, expected in pairs(monkeypatch, ops.Resize((6, 6)), wide_images(torch.float64)):
        assert torch.allclose(got, expected, rtol=1e-14)  # products of matrices, whose sums have another order on a GPU
    for got, expected in pairs(monkeypatch, ops.Crop((1, 1), dtype=torch.float32), wide_images(torch.int64)):
        assert torch.equal(got, expected)
    assert launched == []
