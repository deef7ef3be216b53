"""Pieces that the kernels are made of: finding the image of a program, colours, rounding.

Each kernel works on a whole ragged batch in one launch. Its grid has one dimension: ``blocks`` names the image of each
program, and a row of ``integers`` and one of ``floats`` hold what is to be known of that image, addresses first of all.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["apply_colours", "convert", "load_colour", "store_colour"]


@triton.jit
def convert(value, TO: tl.constexpr):
    """Round to a type: 0 float32, 1 uint8, 2 int8, 3 int16, 4 float16, 5 bfloat16; what is returned is float32."""
    if TO == 1:
        value = tl.minimum(tl.maximum(value, 0.0), 255.0)
    elif TO == 2:
        value = tl.minimum(tl.maximum(value, -128.0), 127.0)
    elif TO == 3:
        value = tl.minimum(tl.maximum(value, -32768.0), 32767.0)
    if TO == 4:
        value = value.to(tl.float16).to(tl.float32)
    elif TO == 5:
        value = value.to(tl.bfloat16).to(tl.float32)
    elif TO != 0:
        # Adding 1.5 * 2**23 leaves no bits below one: rounds half to even.
        value = (value + 12582912.0) - 12582912.0
    return value


@triton.jit
def _apply_colour(red, green, blue, parameters, KIND: tl.constexpr, TO: tl.constexpr, CHANNELS: tl.constexpr):
    if KIND == 1:  # a factor and an offset for each channel
        red = tl.load(parameters) * red + tl.load(parameters + 9)
        if CHANNELS == 3:
            green = tl.load(parameters + 4) * green + tl.load(parameters + 10)
            blue = tl.load(parameters + 8) * blue + tl.load(parameters + 11)
    elif KIND == 2:  # a matrix
        mixed_red = (
            tl.load(parameters) * red
            + tl.load(parameters + 1) * green
            + tl.load(parameters + 2) * blue
            + tl.load(parameters + 9)
        )
        mixed_green = (
            tl.load(parameters + 3) * red
            + tl.load(parameters + 4) * green
            + tl.load(parameters + 5) * blue
            + tl.load(parameters + 10)
        )
        blue = (
            tl.load(parameters + 6) * red
            + tl.load(parameters + 7) * green
            + tl.load(parameters + 8) * blue
            + tl.load(parameters + 11)
        )
        red = mixed_red
        green = mixed_green
    if KIND != 0:
        red = convert(red, TO)
        if CHANNELS == 3:
            green = convert(green, TO)
            blue = convert(blue, TO)
    return red, green, blue


@triton.jit
def apply_colours(
    red,
    green,
    blue,
    parameters,
    FIRST: tl.constexpr,
    KIND0: tl.constexpr,
    TO0: tl.constexpr,
    KIND1: tl.constexpr,
    TO1: tl.constexpr,
    KIND2: tl.constexpr,
    TO2: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Round to the type FIRST, then up to three changes of colour; ``parameters``: 12 float32 for each."""
    red = convert(red, FIRST)
    if CHANNELS == 3:
        green = convert(green, FIRST)
        blue = convert(blue, FIRST)
    red, green, blue = _apply_colour(red, green, blue, parameters, KIND0, TO0, CHANNELS)
    red, green, blue = _apply_colour(red, green, blue, parameters + 12, KIND1, TO1, CHANNELS)
    red, green, blue = _apply_colour(red, green, blue, parameters + 24, KIND2, TO2, CHANNELS)
    return red, green, blue


@triton.jit
def load_colour(source, stride, mask, other0, other1, other2, CHANNELS: tl.constexpr):
    """The channels of pixels as float32; ``other``: of those that the mask leaves out."""
    red = tl.where(mask, tl.load(source, mask=mask, other=0).to(tl.float32), other0)
    green = red
    blue = red
    if CHANNELS == 3:
        green = tl.where(mask, tl.load(source + stride, mask=mask, other=0).to(tl.float32), other1)
        blue = tl.where(mask, tl.load(source + 2 * stride, mask=mask, other=0).to(tl.float32), other2)
    return red, green, blue


@triton.jit
def store_colour(target, stride, red, green, blue, mask, OUT: tl.constexpr, CHANNELS: tl.constexpr):
    """Write the channels of pixels."""
    tl.store(target, red.to(OUT), mask=mask)
    if CHANNELS == 3:
        tl.store(target + stride, green.to(OUT), mask=mask)
        tl.store(target + 2 * stride, blue.to(OUT), mask=mask)
