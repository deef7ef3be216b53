"""Pieces that the kernels are made of: finding the image of a program, colours, rounding.

Each kernel works on a whole ragged batch in one launch. Its grid has one dimension: ``blocks`` names the image of each
program, and a row of ``integers`` and one of ``floats`` hold what is to be known of that image, addresses first of all.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["apply_colours", "convert", "load_colour", "store_colour"]


@triton.jit
def _convert_double(value, TO: tl.constexpr):
    """Round float64 to a type, see :func:`convert`; what is returned is float64."""
    if TO == 0:
        value = value.to(tl.float32).to(tl.float64)
    elif TO == 4:
        value = value.to(tl.float32).to(tl.float16).to(tl.float64)
    elif TO == 5:
        value = value.to(tl.float32).to(tl.bfloat16).to(tl.float64)
    elif TO != 8:
        # Adding 2**52 leaves no bits below one: rounds half to even. From there on all numbers are integers.
        large = tl.where(value < 0.0, -4503599627370496.0, 4503599627370496.0).to(tl.float64)
        value = tl.where(tl.abs(value) < 4503599627370496.0, (value + large) - large, value)
        if TO == 1:
            value = tl.minimum(tl.maximum(value, 0.0), 255.0)
        elif TO == 2:
            value = tl.minimum(tl.maximum(value, -128.0), 127.0)
        elif TO == 3:
            value = tl.minimum(tl.maximum(value, -32768.0), 32767.0)
        elif TO == 6:  # a plain number has 32 bits in some versions of Triton, too few for these
            value = tl.minimum(tl.maximum(value, -2147483648.0), tl.full(value.shape, 2147483647.0, tl.float64))
        elif TO == 7:  # the maximum has no double: the one below it
            value = tl.minimum(
                tl.maximum(value, -9223372036854775808.0), tl.full(value.shape, 9223372036854774784.0, tl.float64)
            )
    return value


@triton.jit
def convert(value, TO: tl.constexpr):
    """Round to a type: 0 float32, 1 uint8, 2 int8, 3 int16, 4 float16, 5 bfloat16; what is returned is float32.

    Of float64 also to 6 int32, 7 int64, 8 float64; what is returned is float64.
    """
    if value.dtype == tl.float64:
        value = _convert_double(value, TO)
    else:
        value = _convert_single(value, TO)
    return value


@triton.jit
def _convert_single(value, TO: tl.constexpr):
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
def _contrast(value, terms):
    center = tl.load(terms + 2)
    return tl.load(terms + 3) * (value - center) + center


@triton.jit
def _apply_colour(red, green, blue, parameters, KIND: tl.constexpr, TO: tl.constexpr, CHANNELS: tl.constexpr):
    if KIND == 1:  # a factor and an offset for each channel
        red = tl.load(parameters) * red + tl.load(parameters + 9)
        if CHANNELS == 3:
            green = tl.load(parameters + 4) * green + tl.load(parameters + 10)
            blue = tl.load(parameters + 8) * blue + tl.load(parameters + 11)
    elif KIND == 3:  # the same of the distance from a centre, which is the sum of a number and its rounding error
        red = ((red - tl.load(parameters + 1)) - tl.load(parameters + 5)) * tl.load(parameters) + tl.load(
            parameters + 9
        )
        if CHANNELS == 3:
            green = (green - tl.load(parameters + 2)) - tl.load(parameters + 6)
            green = green * tl.load(parameters + 4) + tl.load(parameters + 10)
            blue = (blue - tl.load(parameters + 3)) - tl.load(parameters + 7)
            blue = blue * tl.load(parameters + 8) + tl.load(parameters + 11)
    elif KIND == 4:  # as Colour.terms
        red = tl.load(parameters + 1) * _contrast(red, parameters) + tl.load(parameters)
        if CHANNELS == 3:
            green = tl.load(parameters + 5) * _contrast(green, parameters + 4) + tl.load(parameters + 4)
            blue = tl.load(parameters + 9) * _contrast(blue, parameters + 8) + tl.load(parameters + 8)
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
    """Round to the type FIRST, then up to three changes of colour; ``parameters``: 12 numbers for each."""
    red = convert(red, FIRST)
    if CHANNELS == 3:
        green = convert(green, FIRST)
        blue = convert(blue, FIRST)
    red, green, blue = _apply_colour(red, green, blue, parameters, KIND0, TO0, CHANNELS)
    red, green, blue = _apply_colour(red, green, blue, parameters + 12, KIND1, TO1, CHANNELS)
    red, green, blue = _apply_colour(red, green, blue, parameters + 24, KIND2, TO2, CHANNELS)
    return red, green, blue


@triton.jit
def load_colour(source, stride, mask, other0, other1, other2, CHANNELS: tl.constexpr, TYPE: tl.constexpr = tl.float32):
    """The channels of pixels as TYPE; ``other``: of those that the mask leaves out."""
    red = tl.where(mask, tl.load(source, mask=mask, other=0).to(TYPE), other0.to(TYPE))
    green = red
    blue = red
    if CHANNELS == 3:
        green = tl.where(mask, tl.load(source + stride, mask=mask, other=0).to(TYPE), other1.to(TYPE))
        blue = tl.where(mask, tl.load(source + 2 * stride, mask=mask, other=0).to(TYPE), other2.to(TYPE))
    return red, green, blue


@triton.jit
def store_colour(target, stride, red, green, blue, mask, OUT: tl.constexpr, CHANNELS: tl.constexpr):
    """Write the channels of pixels."""
    tl.store(target, red.to(OUT), mask=mask)
    if CHANNELS == 3:
        tl.store(target + stride, green.to(OUT), mask=mask)
        tl.store(target + 2 * stride, blue.to(OUT), mask=mask)
