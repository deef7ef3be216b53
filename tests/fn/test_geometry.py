"""The functions that move pixels: DALI's arguments, as constants and as nodes, give what the modules give."""

import cv2
import numpy as np
import pytest
import torch

from tests.ops.images import random_image
from torchdali import TensorList, fn, ops, pipeline_def, types

SIZES = ((20, 30), (33, 17))


def files():
    images = [random_image(*size, seed=seed).permute(1, 2, 0).numpy() for seed, size in enumerate(SIZES)]
    return [cv2.imencode(".jpg", image)[1].reshape(-1) for image in images]


def source(iteration):
    if iteration:
        raise StopIteration
    return (
        files(),
        [np.float32([0.25]), np.float32([1.0])],
        [np.float32([3, 4]), np.float32([5, 6])],
        [np.float32([[1, 0, 2], [0, 1, 3]]), np.float32([[0, 1, 0], [1, 0, 0]])],
    )


def run(function):
    """The outputs of a pipeline function of images (H, W, C), numbers, pairs and matrices; then the images."""

    def pipeline():
        jpegs, numbers, pairs, matrices = fn.external_source(source, num_outputs=4)
        images = fn.decoders.image(jpegs)
        outputs = function(images, numbers, pairs, matrices)
        return (*(outputs if isinstance(outputs, tuple) else (outputs,)), images)

    with pipeline_def(batch_size=2, device_id=None, seed=3)(pipeline)() as pipe:
        (outputs,) = list(pipe)
    return outputs


def assert_same(batch, expected):
    assert batch.layout == "HWC"
    assert len(batch) == len(expected) == 2
    for one, other in zip(batch, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_constants_give_what_the_modules_give():
    *results, images = run(
        lambda images, *_: (
            fn.resize(images, resize_shorter=12, interp_type=types.INTERP_CUBIC, dtype=types.FLOAT),
            fn.resize(images, size=(5, 6), interp_type="nearest", subpixel_scale=False),
            fn.resize(images, size=(5, 6), interp_type=types.INTERP_LINEAR, antialias=False),
            fn.resize(images, size=(5, 6), interp_type=types.INTERP_TRIANGULAR, antialias=False),
            fn.crop(images, crop=(11, 12), crop_pos_x=0.2, crop_pos_y=1.0),
            fn.crop(images, crop_h=40, out_of_bounds_policy="pad", fill_values=[1, 2, 3]),
            fn.flip(images),
            fn.rotate(images, angle=30, fill_value=7, interp_type=types.INTERP_NN),
            fn.warp_affine(images, [[1, 0, 2], [0, 1, 3]], size=(9, 8), inverse_map=False, fill_value=0),
            fn.gaussian_blur(images, sigma=(1.0, 0.5), window_size=5),
            fn.pad(images, fill_value=9, align=16),
            fn.erase(images, anchor=(0.1, 3), shape=(0.5, 4), normalized_anchor=True, normalized_shape=True),
        )
    )
    modules = [
        ops.Resize(resize_shorter=12, filter="cubic", dtype=torch.float32),
        ops.Resize((5, 6), filter="nearest"),
        ops.Resize((5, 6), antialias=False),
        ops.Resize((5, 6)),
        ops.Crop((11, 12), 0.2, 1.0),
        ops.Crop((40, 0), out_of_bounds="pad", fill=(1, 2, 3)),
        ops.Flip(),
        ops.Rotate(30, fill=7, filter="nearest"),
        ops.WarpAffine([[1, 0, 2], [0, 1, 3]], (9, 8), inverse_map=False, fill=0),
        ops.GaussianBlur((1.0, 0.5), 5),
        ops.Pad(fill=9, align=16),
        ops.Erase((0.1, 3), (0.5, 4), normalized=True),
    ]
    for result, module in zip(results, modules, strict=True):
        assert_same(result, module(images))


def test_nodes_give_what_values_for_each_sample_give():
    *results, images = run(
        lambda images, numbers, pairs, matrices: (
            fn.resize(images, size=pairs),
            fn.resize(images, resize_x=numbers, resize_y=7),
            fn.crop(images, crop_h=5, crop_w=pairs_width(pairs), crop_pos_x=numbers, crop_pos_y=numbers),
            fn.flip(images, horizontal=fn.random.uniform(values=[1.0]), vertical=0),
            fn.rotate(images, angle=numbers, keep_size=True),
            fn.warp_affine(images, matrix=matrices),
            fn.gaussian_blur(images, sigma=pairs),
            fn.pad(images, shape=pairs),
            fn.erase(images, anchor=pairs, shape=(2, 2)),
            fn.random_resized_crop(images, size=pairs),
        )
    )
    numbers, pairs = torch.tensor([0.25, 1.0]), torch.tensor([[3.0, 4], [5, 6]])
    matrices = torch.tensor([[[1.0, 0, 2], [0, 1, 3]], [[0, 1, 0], [1, 0, 0]]])
    modules = [
        ops.Resize(pairs),
        ops.Resize(resize_x=numbers, resize_y=7),
        ops.Crop((5, 8), numbers, numbers),
        ops.Flip(),
        ops.Rotate(numbers, keep_size=True),
        ops.WarpAffine(matrices),
        ops.GaussianBlur(pairs),
        ops.Pad(pairs),
        ops.Erase(pairs, (2, 2)),
    ]
    *results, random = results
    for result, module in zip(results, modules, strict=True):
        assert_same(result, module(images))
    assert [tuple(image.shape) for image in random] == [(3, 4, 3), (5, 6, 3)]


def pairs_width(_):
    return fn.random.uniform(values=[8.0])


def test_axes_can_be_named():
    *results, images = run(
        lambda images, *_: (
            fn.pad(images, axis_names="W", shape=50),
            fn.pad(images, axis_names="H", align=32, fill_value=1),
            fn.pad(images, axis_names="WH", shape=(-1, 40), align=(1, 7)),
            fn.erase(images, anchor=3, shape=4, axis_names="W"),
        )
    )
    modules = [
        ops.Pad((0, 50)),
        ops.Pad((-1, 0), 1, (32, 1)),
        ops.Pad((40, -1), 0, (7, 1)),
        ops.Erase(3, 4, axes="W"),
    ]
    for result, module in zip(results, modules, strict=True):
        assert_same(result, module(images))


def test_the_draws_of_crops_follow_the_seed():
    def crops(images, *_):
        one = fn.random_resized_crop(images, size=8, random_area=(0.1, 0.5), seed=11)
        same = fn.random_resized_crop(images, size=8, random_area=(0.1, 0.5))
        return one, same

    first, second, images = run(crops)
    again = run(crops)
    assert_same(first, again[0])
    assert_same(second, again[1])
    assert not torch.equal(first[0], second[0])
    assert isinstance(images, TensorList)


def test_arguments_that_make_no_sense_are_refused_at_definition():
    def defining(function):
        return lambda: pipeline_def(batch_size=2, device_id=None)(
            lambda: function(fn.decoders.image(fn.external_source(source, num_outputs=4)[0]))
        )()

    for function, error, message in [
        (lambda images: fn.resize(images), TypeError, "given by nothing"),
        (lambda images: fn.resize(images, size=3, subpixel_scale=True), ValueError, "subpixel_scale=True"),
        (lambda images: fn.resize(images, size=3, interp_type="best"), ValueError, "filter is 'best'"),
        (lambda images: fn.crop(images, crop=(3, 3), crop_h=2), TypeError, "crop excludes crop_h"),
        (lambda images: fn.flip(images, device="tpu"), ValueError, "fn.flip has no device 'tpu'"),
        (lambda images: fn.rotate(images, angle=3, interp_type=types.INTERP_CUBIC), ValueError, "filter is 'cubic'"),
        (lambda images: fn.pad(images, axis_names="C"), ValueError, "axis_names is 'C'"),
        (lambda images: fn.pad(images, axis_names="H", shape=(1, 2)), ValueError, "one for each of the axes 'H'"),
        (lambda images: fn.pad(images, axis_names="H", shape=images), TypeError, "shape is a node"),
        (
            lambda images: fn.erase(images, anchor=1, shape=1, normalized=True, normalized_shape=False),
            TypeError,
            "normalized excludes",
        ),
        (lambda images: fn.flip(torch.zeros(3)), TypeError, "fn.flip was given a Tensor"),
    ]:
        with pytest.raises(error, match=message):
            defining(function)()


def test_a_node_s_argument_is_missing_outside_its_graph():
    module = ops.Rotate(ops._geometry_arguments.GIVEN_IN_THE_CALL)
    assert repr(module) == "Rotate(angle=given in the call)"
    with pytest.raises(TypeError, match="angle is given in the call"):
        module(torch.zeros(1, 3, 4, 4))
    sized = ops.Crop(ops._geometry_arguments.GIVEN_IN_THE_CALL)
    with pytest.raises(TypeError, match="size is missing; it has to be given in the call"):
        sized(torch.zeros(1, 3, 4, 4))
