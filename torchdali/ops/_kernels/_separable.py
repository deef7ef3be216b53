"""Separable filters: resizing and blurring.

A program makes a tile of a few rows of the result, and goes down the rows of the input that they need. Each is filtered
across once, four taps at a time whose weights stay in registers, and is then added to all rows of the tile, each with its own
weight, most of them zero. Weights are made on the fly from the filter's formula and divided by their sum at the end. All is
float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torchdali.ops._kernels._pieces import apply_colours, store_colour

__all__ = ["BLUR", "FILTERS", "FLOATS", "INTEGERS", "RADII", "separable_kernel"]

INTEGERS = 24
FLOATS = 5

FILTERS = {"linear": 0, "cubic": 1, "lanczos3": 2, "box": 3, "gaussian": 4}
RADII = {"linear": 1.0, "cubic": 2.0, "lanczos3": 3.0, "box": 0.5, "gaussian": 1.0}
CUBIC_OF_TORCH = 5
BLUR = 6


@triton.jit
def _weight(distance, FILTER: tl.constexpr):
    """The filter at a distance in units of its scale; for a blur that is sqrt(2) sigma. Where it jumps is not decided here."""
    size = tl.abs(distance)
    if FILTER == 0:
        weight = tl.maximum(1.0 - size, 0.0)
    elif FILTER == 1:
        near = (1.5 * size - 2.5) * size * size + 1.0
        far = ((-0.5 * size + 2.5) * size - 4.0) * size + 2.0
        weight = tl.where(size < 1.0, near, tl.where(size < 2.0, far, 0.0))
    elif FILTER == 2:
        angle = size * 3.141592653589793
        safe = tl.maximum(angle, 1e-6)
        weight = 3.0 * tl.sin(safe) * tl.sin(safe / 3.0) / (safe * safe)
        weight = tl.where(size < 1e-6, 1.0, tl.where(size < 3.0, weight, 0.0))
    elif FILTER == 3:
        weight = size * 0.0 + 1.0
    elif FILTER == 4:
        weight = tl.exp(-4.0 * size * size)
    elif FILTER == 5:
        near = (1.25 * size - 2.25) * size * size + 1.0
        far = ((-0.75 * size + 3.75) * size - 6.0) * size + 3.0
        weight = tl.where(size < 1.0, near, tl.where(size < 2.0, far, 0.0))
    else:
        weight = tl.exp(-size * size)
    return weight


@triton.jit
def _mirror(place, length):
    """An axis continued by its mirror image at both ends, without the outermost pixel again."""
    period = tl.maximum(2 * (length - 1), 1)
    place = tl.abs(place) % period
    return tl.minimum(tl.minimum(place, period - place), length - 1)


@triton.jit
def _tap(distance, inverse, limit, FILTER: tl.constexpr):
    """The weight at a distance from centre to centre, in units of half a pixel over the length of the result.

    It is an integer in these units: exact, so that where a filter jumps is the same everywhere.
    """
    weight = _weight(distance.to(tl.float32) * inverse, FILTER)
    if FILTER == 3:
        weight = tl.where((distance > -limit) & (distance <= limit), weight, 0.0)
    elif FILTER == 4 or FILTER == 6:
        weight = tl.where((distance >= -limit) & (distance <= limit), weight, 0.0)
    return weight


@triton.jit
def _row_weight(place, low, height, y, window_height, center, advance, inverse, limit, FILTER: tl.constexpr):
    """The weights of a line for the rows of a tile: of filters that jump nowhere without integers."""
    if FILTER == 3 or FILTER == 4 or FILTER == 6:
        weight = _tap((2 * place + 1) * height - (2 * y + 1) * window_height, inverse, limit, FILTER)
    else:
        weight = _weight((place - low).to(tl.float32) * advance - center, FILTER)
    return weight


@triton.jit
def _across(
    line,
    offset0,
    offset1,
    offset2,
    offset3,
    inside0,
    inside1,
    inside2,
    inside3,
    w0,
    w1,
    w2,
    w3,
    fill,
    FILL: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Four pixels of a line for each column, weighted."""
    first = line + offset0
    if PLAIN:  # one address for all four
        second = first + 1
        third = first + 2
        fourth = first + 3
    else:
        second = line + offset1
        third = line + offset2
        fourth = line + offset3
    if PLAIN:
        p0 = tl.load(first).to(tl.float32)
        p1 = tl.load(second).to(tl.float32)
        p2 = tl.load(third).to(tl.float32)
        p3 = tl.load(fourth).to(tl.float32)
    else:
        p0 = tl.load(first, mask=inside0, other=0).to(tl.float32)
        p1 = tl.load(second, mask=inside1, other=0).to(tl.float32)
        p2 = tl.load(third, mask=inside2, other=0).to(tl.float32)
        p3 = tl.load(fourth, mask=inside3, other=0).to(tl.float32)
    if FILL:
        p0 = tl.where(inside0, p0, fill)
        p1 = tl.where(inside1, p1, fill)
        p2 = tl.where(inside2, p2, fill)
        p3 = tl.where(inside3, p3, fill)
    return w0 * p0 + w1 * p1 + w2 * p2 + w3 * p3


@triton.jit
def _column(place, left, stride, image_width, length, FILTER: tl.constexpr, FILL: tl.constexpr):
    """The offset of a pixel of the window, whether it is to be loaded, and whether it has a part at all."""
    if FILTER == 6:
        column = _mirror(place, image_width)
        within = place < place + 1
        known = within
    else:
        column = left + place
        within = (place >= 0) & (place < length)
        known = within
        if FILL:
            known = within & (column >= 0) & (column < image_width)
    return column * stride, known, within


@triton.jit
def separable_kernel(
    integers,
    floats,
    blocks,
    INTEGER_COLUMNS: tl.constexpr,
    FLOAT_COLUMNS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLAIN: tl.constexpr,
    FILTER: tl.constexpr,
    FILL: tl.constexpr,
    FIRST: tl.constexpr,
    KIND0: tl.constexpr,
    TO0: tl.constexpr,
    KIND1: tl.constexpr,
    TO1: tl.constexpr,
    KIND2: tl.constexpr,
    TO2: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Integers: source, its strides c h w, its height and width, the window's top left height width, target, its strides
    c h w, its height and width, flips vertical horizontal, first block, tiles in a row, the largest distance that counts (as
    in ``_tap``) and its bound in pixels, both vertical, horizontal. Floats: what makes a distance one in units of the
    filter's scale, vertical, horizontal; fill of the channels; then 36 of colours. PLAIN: pixels lie side by side, nothing is
    filled or mirrored, and windows are at least four pixels wide.
    """
    program = tl.program_id(0)
    image = tl.load(blocks + program)
    row = integers + image.to(tl.int64) * INTEGER_COLUMNS
    parameters = floats + image.to(tl.int64) * FLOAT_COLUMNS
    source = tl.load(row).to(tl.pointer_type(IN))
    source_c = tl.load(row + 1).to(tl.int32)
    source_h = tl.load(row + 2).to(tl.int32)
    source_w = tl.load(row + 3).to(tl.int32)
    if PLAIN:
        source_w = 1
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
    tile = program - tl.load(row + 18).to(tl.int32)
    tiles = tl.load(row + 19).to(tl.int32)
    limit_y = tl.load(row + 20).to(tl.int32)
    reach_y = tl.load(row + 21).to(tl.int32)
    limit_x = tl.load(row + 22).to(tl.int32)
    reach_x = tl.load(row + 23).to(tl.int32)
    inverse_y = tl.load(parameters)
    inverse_x = tl.load(parameters + 1)
    fill0 = tl.load(parameters + 2)
    fill1 = tl.load(parameters + 3)
    fill2 = tl.load(parameters + 4)

    first_y = (tile // tiles) * ROWS
    first_x = (tile % tiles) * COLUMNS
    y = first_y + tl.arange(0, ROWS)[:, None]
    x = first_x + tl.arange(0, COLUMNS)[None, :]
    # The first tap of a result, ceil((center - limit - length) / (2 * length)), by a division of what is not negative.
    low_y = (2 * first_y + 1) * window_height - limit_y - height + 2 * height * (reach_y + 1) - 1
    low_y = low_y // (2 * height) - reach_y
    last_y = tl.minimum(first_y + ROWS, height) - 1
    high_y = ((2 * last_y + 1) * window_height + limit_y - height) // (2 * height) + 1
    if FILTER != 6:
        low_y = tl.maximum(low_y, 0)
        high_y = tl.minimum(high_y, window_height)
    center_x = (2 * x + 1) * window_width
    tap = (center_x - limit_x - width + 2 * width * (reach_x + 1) - 1) // (2 * width) - reach_x
    if PLAIN:
        tap = tl.maximum(tap, 0)

    red = tl.zeros([ROWS, COLUMNS], tl.float32)
    green = tl.zeros([ROWS, COLUMNS], tl.float32)
    blue = tl.zeros([ROWS, COLUMNS], tl.float32)
    sum_x = tl.zeros([1, COLUMNS], tl.float32)
    # In units of the filter's scale, from the first line on, so that they are small: the centres, and a line's advance.
    center_y = ((2 * y + 1) * window_height - (2 * low_y + 1) * height).to(tl.float32) * inverse_y
    advance = (2 * height).to(tl.float32) * inverse_y
    sum_y = tl.zeros([ROWS, 1], tl.float32)
    for place_y in range(low_y, high_y):
        sum_y += _row_weight(place_y, low_y, height, y, window_height, center_y, advance, inverse_y, limit_y, FILTER)
    for chunk in range(0, limit_x // width + 1, 4):
        wanted_from = tap + chunk
        place = wanted_from
        if PLAIN:  # four pixels of the window wherever they are; what is not wanted, or was there before, has no weight
            place = tl.minimum(place, window_width - 4)
        distance = (2 * place + 1) * width - center_x
        offset0, known0, within0 = _column(place, left, source_w, image_width, window_width, FILTER, FILL)
        offset1, known1, within1 = _column(place + 1, left, source_w, image_width, window_width, FILTER, FILL)
        offset2, known2, within2 = _column(place + 2, left, source_w, image_width, window_width, FILTER, FILL)
        offset3, known3, within3 = _column(place + 3, left, source_w, image_width, window_width, FILTER, FILL)
        if PLAIN:
            within0 = place >= wanted_from
            within1 = place + 1 >= wanted_from
            within2 = place + 2 >= wanted_from
            within3 = place + 3 >= wanted_from
        w0 = tl.where(within0, _tap(distance, inverse_x, limit_x, FILTER), 0.0)
        w1 = tl.where(within1, _tap(distance + 2 * width, inverse_x, limit_x, FILTER), 0.0)
        w2 = tl.where(within2, _tap(distance + 4 * width, inverse_x, limit_x, FILTER), 0.0)
        w3 = tl.where(within3, _tap(distance + 6 * width, inverse_x, limit_x, FILTER), 0.0)
        sum_x += w0 + w1 + w2 + w3
        for place_y in range(low_y, high_y):
            weight = _row_weight(
                place_y, low_y, height, y, window_height, center_y, advance, inverse_y, limit_y, FILTER
            )
            if FILTER == 6:
                line_y = _mirror(place_y, image_height)
            else:
                line_y = top + place_y
            line = source + line_y * source_h
            here0 = known0
            here1 = known1
            here2 = known2
            here3 = known3
            if FILL:
                everywhere = line_y + place * 0
                there = (everywhere >= 0) & (everywhere < image_height)
                here0 = known0 & there
                here1 = known1 & there
                here2 = known2 & there
                here3 = known3 & there
            red += weight * _across(
                line, offset0, offset1, offset2, offset3, here0, here1, here2, here3, w0, w1, w2, w3, fill0, FILL, PLAIN
            )
            if CHANNELS == 3:
                line += source_c
                green += weight * _across(
                    line,
                    offset0,
                    offset1,
                    offset2,
                    offset3,
                    here0,
                    here1,
                    here2,
                    here3,
                    w0,
                    w1,
                    w2,
                    w3,
                    fill1,
                    FILL,
                    PLAIN,
                )
                line += source_c
                blue += weight * _across(
                    line,
                    offset0,
                    offset1,
                    offset2,
                    offset3,
                    here0,
                    here1,
                    here2,
                    here3,
                    w0,
                    w1,
                    w2,
                    w3,
                    fill2,
                    FILL,
                    PLAIN,
                )
    share = 1.0 / (sum_y * sum_x)
    red, green, blue = apply_colours(
        red * share,
        green * share,
        blue * share,
        parameters + 5,
        FIRST,
        KIND0,
        TO0,
        KIND1,
        TO1,
        KIND2,
        TO2,
        CHANNELS,
    )
    target_y = tl.where(flip_v != 0, height - 1 - y, y)
    target_x = tl.where(flip_h != 0, width - 1 - x, x)
    wanted = (y < height) & (x < width)
    store_colour(target + target_y * target_h + target_x * target_w, target_c, red, green, blue, wanted, OUT, CHANNELS)
