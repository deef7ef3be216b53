import numpy as np
import pytest
import torch

from torchdali import fn, ops, pipeline_def, types

IMAGES = np.random.default_rng(5).integers(0, 256, (4, 3, 6, 7), dtype=np.uint8)


def run(function, **options):
    """The outputs of the first batch of a pipeline function, as tensors."""
    options = {"batch_size": 4, "device_id": None, "seed": 3, **options}
    with pipeline_def(**options)(function)() as pipe:
        return [output.as_tensor() for output in pipe.run()]


def images():
    return fn.external_source(lambda iteration: IMAGES, batch=True)


def test_functions_are_the_operators_of_these_names():
    def pipeline():
        batch = images()
        return (
            fn.brightness(batch, brightness=1.5, brightness_shift=0.1),
            fn.contrast(batch, contrast=0.5, contrast_center=100.0),
            fn.brightness_contrast(batch, brightness=0.5, contrast=2.0, dtype=types.INT16),
            fn.color_twist(batch, brightness=0.9, contrast=1.1, hue=20.0, saturation=0.5, dtype=types.FLOAT),
            fn.hsv(batch, hue=-30.0, saturation=1.5, value=0.8),
            fn.hue(batch, hue=90.0),
            fn.saturation(batch, saturation=0.0),
            fn.normalize(batch, mean=[1.0, 2.0, 3.0], stddev=4.0, scale=2.0, shift=1.0),
            fn.normalize(batch, axis_names="HW", epsilon=1.0, ddof=1, dtype=types.FLOAT16),
            fn.normalize(batch, axes=(0, 1), batch=True),
            fn.crop_mirror_normalize(batch, crop=(4, 5), mirror=1, mean=[1.0, 2.0, 3.0], output_layout="HWC"),
            fn.crop_mirror_normalize(batch, crop_h=4, crop_pos_y=0.0, std=2.0, pad_output=True),
        )

    given = torch.from_numpy(IMAGES)
    expected = (
        ops.BrightnessContrast(1.5, brightness_shift=0.1),
        ops.BrightnessContrast(contrast=0.5, contrast_center=100.0),
        ops.BrightnessContrast(0.5, 2.0, dtype=torch.int16),
        ops.ColorTwist(0.9, 1.1, 0.5, 20.0, dtype=torch.float32),
        ops.Hsv(-30.0, 1.5, 0.8),
        ops.Hue(90.0),
        ops.Saturation(0.0),
        ops.Normalize([1.0, 2.0, 3.0], 4.0, 2.0, 1.0),
        ops.Normalize(axes="HW", epsilon=1.0, ddof=1, dtype=torch.float16),
        ops.Normalize(axes="CH", batch=True),
        ops.CropMirrorNormalize((4, 5), mirror=1, mean=[1.0, 2.0, 3.0], output_layout="HWC"),
        ops.CropMirrorNormalize((4, 0), crop_pos_y=0.0, std=2.0, pad_output=True),
    )
    for ours, operator in zip(run(pipeline), expected, strict=True):
        assert torch.equal(ours, operator(given)), operator


def test_arguments_may_be_drawn_for_each_sample():
    def pipeline():
        batch = images()
        hue = fn.random.uniform(range=(-90.0, 90.0))
        means = fn.random.normal(mean=100.0, stddev=10.0, shape=3)
        mirror = fn.random.coin_flip()
        return (
            fn.hue(batch, hue=hue),
            fn.normalize(batch, mean=means, stddev=hue_free(batch)),
            fn.crop_mirror_normalize(batch, mirror=mirror, mean=means),
            hue,
            means,
            mirror,
        )

    def hue_free(batch):
        return fn.random.uniform(values=[2.0])

    turned, normal, mirrored, hues, means, mirror = run(pipeline)
    given = torch.from_numpy(IMAGES)
    assert (means.shape, means.dtype, mirror.dtype) == ((4, 3), torch.float32, torch.int32)
    assert len(set(hues.tolist())) == 4
    assert torch.equal(turned, ops.Hue(hues)(given))
    assert torch.allclose(normal.double(), (given - means.double()[:, :, None, None]) / 2, atol=1e-4)
    for ours, image, mean, flip in zip(mirrored, given, means, mirror.tolist(), strict=True):
        assert torch.allclose(ours, (image.flip(2) if flip else image) - mean[:, None, None], atol=1e-4)


def test_draws_are_recorded_by_the_names_of_the_operators():
    def pipeline():
        hue = fn.random.uniform(range=(-90.0, 90.0))
        return fn.hue(images(), hue=hue), hue, fn.random.uniform(values=[1, 2], shape=2, dtype=types.INT64)

    with pipeline_def(batch_size=4, device_id=None, record_draws=True)(pipeline)() as pipe:
        _, hues, choices = pipe.run()
        names = {name.rpartition(".")[2]: values for name, values in pipe.last_draws.items()}
    assert torch.equal(names["random_uniform"], hues.as_tensor())
    assert torch.equal(names["random_uniform_1"], choices.as_tensor())
    assert choices[0].dtype == torch.int64


def test_mistakes_in_a_pipeline_function_are_named():
    for body, error, message in (
        (lambda x: fn.hue(7, hue=1.0), TypeError, "fn.hue was given a int 7"),
        (lambda x: fn.hsv(x, device="tpu"), ValueError, "fn.hsv has no device 'tpu'"),
        (lambda x: fn.saturation(x, saturation="much"), TypeError, "saturation is 'much'"),
        (lambda x: fn.normalize(x, axes=(0,), axis_names="C"), ValueError, "exclude each other"),
        (lambda x: fn.normalize(x, axes=()), ValueError, "axes is"),
        (lambda x: fn.crop_mirror_normalize(x, crop=4, crop_h=3), ValueError, "exclude each other"),
        (lambda x: fn.random.coin_flip(probability=2), ValueError, "probability is 2"),
        (lambda x: fn.random.uniform(device="tpu"), ValueError, "fn.random.uniform has no device 'tpu'"),
        (lambda x: fn.random.normal(stddev=-1), ValueError, "stddev=-1"),
    ):
        with pytest.raises(error, match=message):
            pipeline_def(batch_size=4, device_id=None)(lambda body=body: body(images()))()
