"""Affine maps: rotation, shear, translation by parts of a pixel."""

from __future__ import annotations

import triton
import triton.language as tl

from torchdali.ops._kernels._pieces import apply_colours, load_colour, store_colour

__all__ = ["FLOATS", "INTEGERS", "warp_kernel"]

INTEGERS = 13
FLOATS = 9


@triton.jit
def warp_kernel(
    integers,
    floats,
    blocks,
    INTEGER_COLUMNS: tl.constexpr,
    FLOAT_COLUMNS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    CHANNELS: tl.constexpr,
    LINEAR: tl.constexpr,
    CLAMP: tl.constexpr,
    FIRST: tl.constexpr,
    KIND0: tl.constexpr,
    TO0: tl.constexpr,
    KIND1: tl.constexpr,
    TO1: tl.constexpr,
    KIND2: tl.constexpr,
    TO2: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Integers: source, its strides c h w, its height and width, target, its strides c h w, its height and width, first
    block. Floats: the matrix, row by row, from output to input; fill of the channels; then 36 of colours.
    """
    program = tl.program_id(0)
    image = tl.load(blocks + program)
    row = integers + image.to(tl.int64) * INTEGER_COLUMNS
    parameters = floats + image.to(tl.int64) * FLOAT_COLUMNS
    source = tl.load(row).to(tl.pointer_type(IN))
    source_c = tl.load(row + 1).to(tl.int32)
    source_h = tl.load(row + 2).to(tl.int32)
    source_w = tl.load(row + 3).to(tl.int32)
    image_height = tl.load(row + 4).to(tl.int32)
    image_width = tl.load(row + 5).to(tl.int32)
    target = tl.load(row + 6).to(tl.pointer_type(OUT))
    target_c = tl.load(row + 7).to(tl.int32)
    target_h = tl.load(row + 8).to(tl.int32)
    target_w = tl.load(row + 9).to(tl.int32)
    height = tl.load(row + 10).to(tl.int32)
    width = tl.load(row + 11).to(tl.int32)
    first = tl.load(row + 12).to(tl.int32)
    fill0 = tl.load(parameters + 6)
    fill1 = tl.load(parameters + 7)
    fill2 = tl.load(parameters + 8)

    pixel = (program - first) * BLOCK + tl.arange(0, BLOCK)
    wanted = pixel < height * width
    y = pixel // width
    x = pixel - y * width
    across = x.to(tl.float32) + 0.5
    down = y.to(tl.float32) + 0.5
    source_x = tl.load(parameters) * across + tl.load(parameters + 1) * down + tl.load(parameters + 2)
    source_y = tl.load(parameters + 3) * across + tl.load(parameters + 4) * down + tl.load(parameters + 5)
    # Beyond these there is nothing of the image, and what has no integer would follow.
    source_x = tl.minimum(tl.maximum(source_x, -4.0), image_width + 4.0)
    source_y = tl.minimum(tl.maximum(source_y, -4.0), image_height + 4.0)
    if LINEAR:
        source_x -= 0.5
        source_y -= 0.5
    floor_x = tl.floor(source_x)
    floor_y = tl.floor(source_y)
    red = tl.zeros([BLOCK], tl.float32)
    green = tl.zeros([BLOCK], tl.float32)
    blue = tl.zeros([BLOCK], tl.float32)
    for corner in tl.static_range(4 if LINEAR else 1):
        corner_x = floor_x.to(tl.int32) + corner % 2
        corner_y = floor_y.to(tl.int32) + corner // 2
        if CLAMP:
            corner_x = tl.minimum(tl.maximum(corner_x, 0), image_width - 1)
            corner_y = tl.minimum(tl.maximum(corner_y, 0), image_height - 1)
        inside = wanted & (corner_y >= 0) & (corner_y < image_height) & (corner_x >= 0) & (corner_x < image_width)
        corner_red, corner_green, corner_blue = load_colour(
            source + corner_y * source_h + corner_x * source_w, source_c, inside, fill0, fill1, fill2, CHANNELS
        )
        weight = tl.full([BLOCK], 1.0, tl.float32)
        if LINEAR:
            part_x = source_x - floor_x
            part_y = source_y - floor_y
            weight = (part_x if corner % 2 else 1.0 - part_x) * (part_y if corner // 2 else 1.0 - part_y)
        red += weight * corner_red
        if CHANNELS == 3:
            green += weight * corner_green
            blue += weight * corner_blue
    red, green, blue = apply_colours(
        red, green, blue, parameters + 9, FIRST, KIND0, TO0, KIND1, TO1, KIND2, TO2, CHANNELS
    )
    store_colour(target + y * target_h + x * target_w, target_c, red, green, blue, wanted, OUT, CHANNELS)
