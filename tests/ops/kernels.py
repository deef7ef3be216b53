"""The kernels against the definitions, on a GPU or in Triton's interpreter; test_kernels.py runs these.

The interpreter has to be asked for before Triton is imported, hence in a process of its own.
"""

import os

import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.ops._blur import Blur
from torchdali.ops._colour import Colour
from torchdali.ops._erase import Erase
from torchdali.ops._execute import image_sizes
from torchdali.ops._groups import parts_of
from torchdali.ops._resample import Resample
from torchdali.ops._warp import Warp

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SCALE = 1 if INTERPRETED else 5  # of the sizes: the interpreter takes milliseconds for each turn of a loop
SHAPES = [(3, 14 * SCALE, 20 * SCALE), (3, 11 * SCALE, 4 * SCALE), (3, 1, 1), (3, 16 * SCALE, 13 * SCALE)]
COUNT = len(SHAPES)


@pytest.fixture
def device(monkeypatch):
    if not INTERPRETED:
        return "cuda"
    from torchdali.ops._kernels import _launch

    monkeypatch.setattr(_launch, "_TILE", (16, 32))
    return "cpu"


def photographs(device, dtype=torch.uint8, shapes=SHAPES, layout="CHW", interleaved=False):
    """Smooth images with some noise, so that neither a shift nor a lost detail goes unnoticed."""
    generator = torch.Generator().manual_seed(1)
    images = []
    for channels, height, width in shapes:
        y, x, c = torch.meshgrid(*(torch.arange(n) for n in (height, width, channels)), indexing="ij")
        values = 127 + 90 * torch.sin(y / 7 + c) * torch.cos(x / 5) + 35 * torch.rand(y.shape, generator=generator)
        image = values.clamp(0, 255).round().to(dtype).permute(2, 0, 1)
        image = image if interleaved else image.contiguous()
        images.append((image.permute(1, 2, 0) if layout == "HWC" else image).to(device))
    return TensorList(images, layout)


def defined(steps, images):
    """What the definitions make of a batch, in double precision, as views (C, H, W) on the CPU."""
    results = []
    for position, image in enumerate(images.as_cpu()):
        result = image.permute(2, 0, 1) if images.layout == "HWC" else image
        for step in steps:
            result = step.plain(result, position, torch.float64)
        results.append(result)
    return results


def run(steps, images, interleaved=None):
    from torchdali.ops._kernels import run as run_kernels

    results = run_kernels(parts_of(steps, image_sizes(images, "test"), images.dtype), images, interleaved)
    assert results.layout == images.layout
    return [image.permute(2, 0, 1) if images.layout == "HWC" else image for image in results.as_cpu()]


def differences(steps, images, interleaved=None):
    """The largest difference of each image, and the share of values that differ at all."""
    largest, differing, total = [], 0, 0
    for expected, got in zip(defined(steps, images), run(steps, images, interleaved), strict=True):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        distance = (got.double() - expected.double()).abs()
        largest.append(float(distance.max()))
        differing += int((distance > 0).sum())
        total += distance.numel()
    return max(largest), differing / total


def launches(monkeypatch, steps, images):
    from torchdali.ops._kernels import _launch

    seen = []
    original = _launch._Launch.run
    monkeypatch.setattr(_launch._Launch, "run", lambda self: (seen.append(self.group), original(self))[1])
    run(steps, images)
    return len(seen)


def contrast(to=None, count=COUNT):
    factors = np.linspace(0.7, 1.9, count)
    return Colour(factors, 128 - 128 * factors, to)


def normalise(to=torch.float16, count=COUNT):
    return Colour(np.tile([1 / 58.4, 1 / 57.1, 1 / 57.4], (count, 1)), np.tile([-2.1, -2.0, -1.8], (count, 1)), to)


def mixing(to=None):
    matrix = np.array([[0.8, 0.3, -0.1], [0.1, 0.9, 0.0], [-0.2, 0.1, 1.1]])
    return Colour(np.stack([matrix * factor for factor in np.linspace(0.6, 1.2, COUNT)]), np.full((COUNT, 3), 7.25), to)


def resized(
    height=9 * SCALE, width=10 * SCALE, name="linear", antialias=True, to=None, fill=None, window=None, flips=True
):
    if window is None:
        window = np.array([[0, 0, shape[1], shape[2]] for shape in SHAPES])
        window[0] = np.array([2, 1, 10, 17]) * SCALE
    flip = np.array([[n % 2, n // 2] for n in range(COUNT)], bool) & flips
    return Resample(window, np.tile([height, width], (COUNT, 1)), flip, name, antialias, fill, to)


# --- grey levels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("to", [None, torch.float16, torch.float32])
def test_grey_levels_of_8_bits_are_exact(device, layout, interleaved, to):
    images = photographs(device, layout=layout, interleaved=interleaved)
    assert differences([contrast(to)], images)[0] == 0


def test_a_factor_for_each_channel_of_8_bits_is_exact_too(device):
    assert differences([normalise(torch.float32)], photographs(device))[0] == 0


@pytest.mark.parametrize("interleaved", [False, True])
def test_levels_half_way_are_exact_where_single_precision_rounds_them_to_the_other_side(device, interleaved):
    levels = torch.arange(256, dtype=torch.uint8).repeat(3 * 9).view(3, 9, 256)
    images = TensorList([levels.permute(1, 2, 0).contiguous().permute(2, 0, 1) if interleaved else levels] * 4, "CHW")
    factors, offsets = np.array([0.15, 0.3, 0.2, 1.25]), np.array([0.0, 0.5, -7.7, 0.0])
    single = np.float32(factors)[:, None] * np.arange(256, dtype=np.float32) + np.float32(offsets)[:, None]
    wrong = np.rint(single) != np.rint(factors[:, None] * np.arange(256) + offsets[:, None])
    assert wrong.any(1).tolist() == [True, True, True, False]  # where arithmetic does for one of them
    assert differences([Colour(factors, offsets)], images.to(device))[0] == 0


def test_images_of_one_size_become_one_tensor(device):
    images = TensorList.from_batch(torch.arange(4 * 3 * 5 * 7, device=device).view(4, 3, 5, 7).to(torch.uint8), "CHW")
    assert differences([contrast()], images)[0] == 0
    from torchdali.ops._kernels import run as run_kernels

    results = run_kernels(parts_of([contrast()], image_sizes(images, "test"), images.dtype), images)
    assert results.block is not None
    assert results.as_tensor().is_contiguous()


@pytest.mark.parametrize("dtype", [torch.int16, torch.float16, torch.bfloat16, torch.float32])
def test_other_types_are_rounded_as_they_should(device, dtype):
    largest, differing = differences([mixing()], photographs(device, dtype))
    step = {torch.int16: 1, torch.float16: 0.25, torch.bfloat16: 2, torch.float32: 1e-4}[dtype]
    assert largest <= step
    # The interpreter cuts bfloat16 where the GPU rounds.
    assert differing < 0.02 or dtype == torch.float32 or (dtype == torch.bfloat16 and device == "cpu")


def test_colours_that_mix_round_like_the_definition(device):
    for interleaved in (False, True):
        largest, differing = differences([mixing()], photographs(device, interleaved=interleaved))
        assert largest <= 1
        assert differing < 0.001


# --- geometry -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int16])
@pytest.mark.parametrize("interleaved", [False, True])
def test_crops_flips_and_fills_are_exact_copies(device, dtype, interleaved):
    window = np.array([[2, 1, 10, 10], [-2, -3, 10, 10], [-5, -4, 10, 10], [15, 10, 10, 10]]) * SCALE
    step = resized(10 * SCALE, 10 * SCALE, fill=np.array([1.0, 2.0, 3.0]), window=window)
    assert differences([step], photographs(device, dtype, interleaved=interleaved))[0] == 0


def test_nearest_neighbours_are_exact(device):
    assert differences([resized(name="nearest")], photographs(device))[0] == 0
    assert differences([resized(25 * SCALE, 23 * SCALE, name="nearest")], photographs(device))[0] == 0


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("name", ["linear", "cubic", "lanczos3", "box", "gaussian"])
def test_resized_images_are_those_of_the_definition(device, name, antialias):
    images = photographs(device, torch.float32)
    largest, _ = differences([resized(name=name, antialias=antialias)], images)
    assert largest < 2e-2


def test_enlarged_images_are_too(device):
    largest, _ = differences([resized(20 * SCALE, 40 * SCALE)], photographs(device, torch.float32))
    assert largest < 2e-2


def test_resized_images_of_8_bits_are_within_some_hundredths_of_a_level(device):
    images = photographs(device)
    largest, _ = differences([resized(to=torch.float16), normalise(torch.float16)], images)
    assert largest < 0.2 / 57 + 0.004
    largest, differing = differences([resized()], images)
    assert largest <= 1
    assert differing < 0.06


def test_a_constant_image_stays_constant(device):
    images = TensorList([torch.full(shape, 201, dtype=torch.uint8, device=device) for shape in SHAPES], "CHW")
    for name in ("linear", "cubic", "lanczos3"):
        for image in run([resized(name=name)], images):
            assert (image == 201).all()


def test_windows_beyond_the_image_are_filled_before_they_are_resized(device):
    window = np.array([[2, 1, 15, 22], [-2, -3, 15, 10], [-5, -4, 7, 7], [10, 6, 12, 10]]) * SCALE
    for dtype in (torch.uint8, torch.float32):
        step = resized(fill=np.array([10.0, 20.0, 250.0]), window=window)
        largest, differing = differences([step], photographs(device, dtype))
        assert largest <= 1
        assert differing < 0.06 or dtype == torch.float32


def test_a_window_that_keeps_its_size_is_copied_beside_others_that_do_not(device):
    images = photographs(device, torch.float32)
    size = np.array([[14, 20], [6, 6], [1, 1], [16, 10]]) * SCALE
    size[2] = 1
    window = np.array([[0, 0, *shape[1:]] for shape in SHAPES])
    for name in ("gaussian", "linear"):
        step = Resample(window, size, np.zeros((COUNT, 2), bool), name)
        assert differences([step], images)[0] < 2e-2
        assert torch.allclose(run([step], images)[0], images.as_cpu()[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_blurred_images_are_those_of_the_definition(device, dtype):
    sigma = np.array([[1.2, 0.8], [2.0, 2.0], [3.0, 1.0], [0.0, 1.5]])
    radius = np.array([[4, 3], [6, 6], [9, 3], [0, 5]])
    largest, differing = differences([Blur(sigma, radius)], photographs(device, dtype))
    assert largest <= (1 if dtype == torch.uint8 else 2e-2)
    assert differing < 0.06 or dtype == torch.float32


@pytest.mark.parametrize("fill", [None, np.array([9.0, 99.0, 199.0])])
@pytest.mark.parametrize("name", ["nearest", "linear"])
def test_warped_images_are_those_of_the_definition(device, name, fill):
    matrices = []
    for angle, shape in zip((0.1, 1.3, 0.7, -2.0), SHAPES, strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        turned = np.array([[cos, sin, 0.0], [-sin, cos, 0.0]])
        turned[:, 2] = np.array([shape[2], shape[1]]) / 2 - turned[:, :2] @ [7.5 * SCALE, 7 * SCALE]
        matrices.append(turned)
    step = Warp(np.stack(matrices), np.tile([14, 15], (COUNT, 1)) * SCALE, name, fill)
    largest, differing = differences([step], photographs(device))
    if name == "linear":
        assert largest <= 1
    assert differing < 0.01


def test_rectangles_are_erased(device):
    regions = np.zeros((COUNT, 2, 4), np.int64)
    regions[0] = [[2, 3, 6, 8], [6, 8, 8, 12]]
    regions[3, 1] = [12, 8, 4, 5]
    images = photographs(device)
    assert differences([Erase(regions, np.array([[1.0, 2.0, 3.0]] * COUNT))], images)[0] == 0
    assert differences([contrast(), Erase(regions, np.full((COUNT, 1), 77.0))], images)[0] <= 1


# --- several in one -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [False, True])
def test_training_s_chain_is_one_launch_and_the_same(device, interleaved, monkeypatch):
    images = photographs(device)
    steps = [resized(), contrast(), normalise()]
    largest, _ = differences(steps, images, interleaved)
    assert largest < 1.95 / 57 + 0.004  # one grey level, by the contrast
    assert launches(monkeypatch, steps, images) == 1


def test_flips_and_crops_join_the_resize_beside_them(device, monkeypatch):
    images = photographs(device)
    sizes = np.array([shape[1:] for shape in SHAPES])
    flip = np.array([[n % 2 == 0, n > 1] for n in range(COUNT)])

    def turned(size):
        return Resample(np.concatenate([size * 0, size], 1), size, flip)

    small = np.tile([9 * SCALE, 10 * SCALE], (COUNT, 1))
    crop = np.array([[2, 1, 8, 9], [0, 0, 11, 3], [0, 0, 1, 1], [3, 3, 9, 9]]) * SCALE
    crop[2] = [0, 0, 1, 1]
    no_flip = np.zeros((COUNT, 2), bool)
    cropped = Resample(crop, crop[:, 2:], no_flip)
    inside = np.array([[1, 2, 5, 6], [3, 0, 7, 3], [0, 0, 1, 1], [0, 4, 9, 5]]) * SCALE
    inside[2] = [0, 0, 1, 1]
    chains = {
        "a flip after a resize": [resized(), turned(small)],
        "a flip after a change of colour": [resized(), contrast(), turned(small), contrast()],
        "a flip before anything else": [contrast(), turned(sizes), contrast()],
        "a resize of a part of a crop": [cropped, Resample(inside, small, no_flip)],
    }
    for name, steps in chains.items():
        largest, differing = differences(steps, images)
        assert largest <= 4, name
        assert differing < 0.1, name
        assert launches(monkeypatch, steps, images) == 1, name
    assert launches(monkeypatch, [resized(), Resample(inside * 0 + [0, 0, 3, 3], small, no_flip)], images) == 2


def test_more_than_three_colours_are_two_launches(device, monkeypatch):
    images = photographs(device)
    steps = [resized(name="nearest"), contrast(), mixing(), contrast(), normalise(torch.float32)]
    assert differences(steps, images)[0] < 3 / 57
    assert launches(monkeypatch, steps, images) == 2


def test_images_of_other_numbers_of_channels_work_channel_by_channel(device):
    shapes = [(1, 20, 30), (4, 12, 9), (2, 17, 40), (1, 5, 5)]
    images = photographs(device, shapes=shapes)
    window = np.array([[0, 0, shape[1], shape[2]] for shape in shapes])
    largest, differing = differences([resized(window=window), contrast()], images)
    assert largest <= 2
    assert differing < 0.1
    images = photographs(device, shapes=[(4, 20, 30)] * COUNT)
    each = Colour(np.tile([0.5, 1.0, 1.5, 2.0], (COUNT, 1)), np.zeros((COUNT, 4)), torch.float32)
    assert differences([resized(window=np.tile([0, 0, 20, 30], (COUNT, 1)), name="nearest"), each], images)[0] < 1e-4


def test_what_no_kernel_can_do_is_done_by_the_definition(device):
    assert differences([resized()], photographs(device, torch.int32))[0] <= 1
    assert differences([resized(20, 21, to=torch.float64)], photographs(device))[0] < 1e-3
