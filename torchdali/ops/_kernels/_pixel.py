"""One output pixel of one input pixel: crops, flips, padding, nearest neighbours, changes of colour, erased rectangles."""

from __future__ import annotations

import triton
import triton.language as tl

from torchdali.ops._kernels._pieces import apply_colours, load_colour, store_colour

__all__ = ["FLOATS", "INTEGERS", "pixel_kernel"]

INTEGERS = 19
FLOATS = 3
"""Columns of the tables before the colours' and the rectangles'."""


@triton.jit
def pixel_kernel(
    integers,
    floats,
    blocks,
    INTEGER_COLUMNS: tl.constexpr,
    FLOAT_COLUMNS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    TYPE: tl.constexpr,
    CHANNELS: tl.constexpr,
    SCALED: tl.constexpr,
    FIRST: tl.constexpr,
    KIND0: tl.constexpr,
    TO0: tl.constexpr,
    KIND1: tl.constexpr,
    TO1: tl.constexpr,
    KIND2: tl.constexpr,
    TO2: tl.constexpr,
    REGIONS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Integers: source, its strides c h w, its height and width, the window's top left height width, target, its strides
    c h w, its height and width, flips vertical horizontal, first block; then top left height width of each rectangle.
    Floats: fill of the channels; then 36 of colours; then the fill of rectangles, of each channel. TYPE: what is computed in,
    float32 with a table of float32, or float64 with a table of float64; int64 where nothing is computed.
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
    top = tl.load(row + 6).to(tl.int32)
    left = tl.load(row + 7).to(tl.int32)
    window_height = tl.load(row + 8).to(tl.int32)
    window_width = tl.load(row + 9).to(tl.int32)
    target = tl.load(row + 10).to(tl.pointer_type(OUT))
    target_c = tl.load(row + 11).to(tl.int32)
    target_h = tl.load(row + 12).to(tl.int32)
    target_w = tl.load(row + 13).to(tl.int32)
    height = tl.load(row + 14).to(tl.int32)
    width = tl.load(row + 15).to(tl.int32)
    flip_v = tl.load(row + 16)
    flip_h = tl.load(row + 17)
    first = tl.load(row + 18).to(tl.int32)

    pixel = (program - first) * BLOCK + tl.arange(0, BLOCK)
    wanted = pixel < height * width
    y = pixel // width
    x = pixel - y * width
    source_y = tl.where(flip_v != 0, height - 1 - y, y)
    source_x = tl.where(flip_h != 0, width - 1 - x, x)
    if SCALED:
        source_y = ((2 * source_y + 1) * window_height) // (2 * height)
        source_x = ((2 * source_x + 1) * window_width) // (2 * width)
    source_y += top
    source_x += left
    inside = wanted & (source_y >= 0) & (source_y < image_height) & (source_x >= 0) & (source_x < image_width)
    red, green, blue = load_colour(
        source + source_y * source_h + source_x * source_w,
        source_c,
        inside,
        tl.load(parameters),
        tl.load(parameters + 1),
        tl.load(parameters + 2),
        CHANNELS,
        TYPE,
    )
    red, green, blue = apply_colours(
        red, green, blue, parameters + 3, FIRST, KIND0, TO0, KIND1, TO1, KIND2, TO2, CHANNELS
    )
    for region in range(REGIONS):
        rectangle = row + 19 + 4 * region
        region_y = y - tl.load(rectangle).to(tl.int32)
        region_x = x - tl.load(rectangle + 1).to(tl.int32)
        erased = (region_y >= 0) & (region_y < tl.load(rectangle + 2).to(tl.int32))
        erased = erased & (region_x >= 0) & (region_x < tl.load(rectangle + 3).to(tl.int32))
        red = tl.where(erased, tl.load(parameters + 39).to(TYPE), red)
        if CHANNELS == 3:
            green = tl.where(erased, tl.load(parameters + 40).to(TYPE), green)
            blue = tl.where(erased, tl.load(parameters + 41).to(TYPE), blue)
    store_colour(target + y * target_h + x * target_w, target_c, red, green, blue, wanted, OUT, CHANNELS)
