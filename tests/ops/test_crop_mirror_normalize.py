import warnings
from itertools import product

import numpy as np
import pytest
import torch

from torchdali import TensorList
from torchdali.ops import CoinFlip, CropMirrorNormalize, Uniform

MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]


def noise(*shape, dtype=torch.uint8):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def column(values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def test_it_crops_mirrors_normalises_and_lays_out():
    images = [noise(3, 9, 10), noise(3, 8, 12)]
    cuts = [images[0][:, 5:, :6], images[1][:, 4:, :6].flip(2)]
    for given, wanted in product(("CHW", "HWC"), ("CHW", "HWC", None)):
        batch = TensorList([image if given == "CHW" else image.permute(1, 2, 0) for image in images], given)
        operator = CropMirrorNormalize(
            crop=(4, 6), crop_pos_x=0.0, crop_pos_y=1.0, mirror=[0, 1], mean=MEAN, std=STD, output_layout=wanted
        )
        results = operator(batch)
        assert results.layout == (wanted or given)
        for result, cut in zip(results, cuts, strict=True):
            planar = result if results.layout == "CHW" else result.permute(2, 0, 1)
            assert torch.allclose(planar.double(), (cut.double() - column(MEAN)) / column(STD), atol=1e-6)
            assert result.is_contiguous() or wanted is None


def test_scale_shift_and_dtype_follow_the_formula():
    image = noise(1, 3, 5, 6)
    ours = CropMirrorNormalize(mean=MEAN, std=STD, scale=32.0, shift=8.0, dtype=torch.int8)(image)
    exact = (image[0].double() - column(MEAN)) * 32 / column(STD) + 8
    assert torch.equal(ours[0], exact.round().clamp(-128, 127).to(torch.int8))


def test_without_arguments_images_only_become_floats():
    image = noise(2, 3, 5, 6)
    ours = CropMirrorNormalize()(image)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, image.float())
    assert torch.equal(CropMirrorNormalize(dtype=None, output_layout="HWC")(image), image.permute(0, 2, 3, 1))


def test_what_is_outside_has_the_fill_value_which_is_not_normalised():
    image = noise(3, 4, 5)
    operator = CropMirrorNormalize(
        crop=(6, 8),
        crop_pos_x=0.0,
        mirror=[0, 1],
        mean=MEAN,
        std=STD,
        fill_values=(-7.0, 7.5, 9.0),
        out_of_bounds_policy="pad",
    )
    as_it_is, mirrored = operator(TensorList([image, image], "CHW"))
    expected = column([-7.0, 7.5, 9.0]).repeat(1, 6, 8)
    # The window begins at column 0 * (5 - 8) and row 0.5 * (4 - 6) of the image.
    expected[:, 1:5, :5] = (image.double() - column(MEAN)) / column(STD)
    assert torch.allclose(as_it_is.double(), expected, atol=1e-6)
    assert torch.equal(mirrored, as_it_is.flip(2))


def test_other_policies_trim_or_refuse():
    image = noise(1, 3, 4, 5)
    trimmed = CropMirrorNormalize(crop=(6, 2), out_of_bounds_policy="trim_to_shape")(image)
    assert torch.equal(trimmed, image[:, :, :, 2:4].float())
    with pytest.raises(ValueError, match=r"rows -1 to 5 .*4 x 5 pixels"):
        CropMirrorNormalize(crop=(6, 2))(image)


def test_channels_are_added_up_to_a_power_of_2():
    image = noise(2, 3, 4, 5)
    for mean in (100.0, MEAN):
        plain = CropMirrorNormalize(mean=mean)(image)
        padded = CropMirrorNormalize(mean=mean, pad_output=True, fill_values=0.25, out_of_bounds_policy="pad")(image)
        without = CropMirrorNormalize(mean=mean, pad_output=True, fill_values=0.25)(image)
        assert without[:, 3:].eq(0).all()
        assert padded.shape == (2, 4, 4, 5)
        assert torch.allclose(padded[:, :3], plain, atol=1e-4)
        assert padded[:, 3].unique().tolist() == [0.25]
    for channels, total in ((1, 1), (2, 2), (5, 8)):
        assert CropMirrorNormalize(pad_output=True)(noise(1, channels, 2, 2)).shape[1] == total


def test_random_arguments_and_those_of_the_call_are_for_each_sample():
    images = noise(1, 3, 6, 8).expand(16, 3, 6, 8)
    torch.manual_seed(2)
    positions, flips = Uniform(0.0, 1.0)(16), CoinFlip()(16)
    torch.manual_seed(2)
    drawn = CropMirrorNormalize(crop=(6, 4), crop_pos_x=Uniform(0.0, 1.0), mirror=CoinFlip())(images)
    given = CropMirrorNormalize(crop=3)(images, crop=(6, 4), crop_pos_x=positions, mirror=flips)
    assert torch.equal(drawn, given)
    assert set(flips.tolist()) == {0, 1}
    means = torch.arange(16.0)
    assert torch.equal(CropMirrorNormalize()(images, mean=means), images - means.view(16, 1, 1, 1))


def test_mistakes_are_named():
    image = noise(1, 3, 4, 5)
    with pytest.raises(ValueError, match="output_layout is 'WHC'"):
        CropMirrorNormalize(output_layout="WHC")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out_of_bounds_policy is 'wrap'"):
        CropMirrorNormalize(out_of_bounds_policy="wrap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rounding is 'up'"):
        CropMirrorNormalize(rounding="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"std is \[0.0\] .*positive"):
        CropMirrorNormalize(std=0.0)(image)
    with pytest.raises(ValueError, match="image 0 has 3 channels"):
        CropMirrorNormalize(mean=[1.0, 2.0])(image)
    with pytest.raises(ValueError, match="3 channels, but mean or std is given for 2"):
        CropMirrorNormalize(mean=[1.0, 2.0], pad_output=True)(image)
    with pytest.raises(ValueError, match="fill_values has 3 numbers; give 1, or one for each of the 4"):
        CropMirrorNormalize(pad_output=True, fill_values=(1.0, 2.0, 3.0))(image)
    with pytest.raises(ValueError, match=r"one number of channels; the batch has images with \[1, 3\]"):
        CropMirrorNormalize(pad_output=True)(TensorList([image[0], image[0, :1]], "CHW"))
    with pytest.raises(ValueError, match=r"x is 1.5 for"):
        CropMirrorNormalize(crop=2, crop_pos_x=1.5)(image)
    with pytest.raises(TypeError, match="steps"):
        CropMirrorNormalize().step(np.array([[3, 4, 5]]), torch.uint8)


def test_a_compiled_operator_gives_the_same_without_a_word():
    images = noise(2, 3, 6, 7)
    operator = CropMirrorNormalize(crop=4, mirror=[0, 1], mean=MEAN, std=STD)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(torch.compile(operator, backend="aot_eager")(images), operator(images))


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("policy", ["trim_to_shape", "pad"])
def test_the_gpu_gives_the_same_within_rounding(layout, policy):
    images = [noise(h, w, 3) for h, w in ((33, 17), (8, 100))]
    operator = CropMirrorNormalize(
        crop=(16, 20), mirror=[1, 0], mean=MEAN, std=STD, output_layout=layout, out_of_bounds_policy=policy
    )
    on_gpu = operator(TensorList([image.cuda() for image in images], "HWC")).as_cpu()
    on_cpu = operator(TensorList(images, "HWC"))
    assert on_gpu.layout == on_cpu.layout == layout
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_to_mirror_is_a_finite_number():
    images = noise(2, 3, 5, 6)
    with pytest.raises(
        ValueError, match=r"mirror is nan for sample 1 .*; it has to be a finite number: 0 \(as it is\)"
    ):
        CropMirrorNormalize()(images, mirror=torch.tensor([1.0, float("nan")]))
