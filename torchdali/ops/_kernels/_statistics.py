"""Mean and deviation of images, and what a change of colour needs to take them out.

Each program sums up a piece of an image; the last one of those that share a statistic puts the pieces together, in the order of
their numbers, so that a result does not depend on which was last. Sums are of float64 distances from a value of the piece
itself, or of integers where the type is 8 bits: no digits are lost however far from zero the values are.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["COLUMNS", "GIVEN", "PARTIAL", "SETTINGS", "statistics_kernel"]

COLUMNS = 9
"""Of the table of integers."""
SETTINGS = 4
GIVEN = 6
"""Doubles of all rows together, and of each row behind them."""
PARTIAL = 7
"""Doubles that each program leaves: number of values, means and sums of squares of three channels."""


@triton.jit
def _moments(total, squares, shift, count, given, WHOLE: tl.constexpr, GIVEN_MEAN: tl.constexpr):
    """Mean of a piece, and the sum of squared distances from it or from a given mean."""
    if WHOLE:
        number = count.to(tl.int64)
        whole = tl.sum(total).to(tl.int64)
        mean = whole.to(tl.float64) / count.to(tl.float64)
        # All of it fits into the 53 bits of a double: one rounding, by the division.
        distance = (number * tl.sum(squares).to(tl.int64) - whole * whole).to(tl.float64) / count.to(tl.float64)
    else:
        part = tl.sum(total)
        mean = shift + part / count.to(tl.float64)
        distance = tl.sum(squares) - part * part / count.to(tl.float64)
    if GIVEN_MEAN:
        gap = mean - tl.load(given)
        distance += count.to(tl.float64) * gap * gap
    return mean, distance


@triton.jit
def _between(number, mean, center, GIVEN_MEAN: tl.constexpr):
    """What the distance of pieces' means from the common one adds to the sum of squares; a given mean is in it already."""
    gap = mean - center
    if GIVEN_MEAN:
        gap = gap * 0.0
    return number * gap * gap


@triton.jit
def _factor(squares, count, settings):
    degrees = count - tl.load(settings + 1)
    variance = tl.where(degrees > 0.0, squares / tl.where(degrees > 0.0, degrees, 1.0), 0.0) + tl.load(settings)
    return tl.where(variance > 0.0, tl.load(settings + 2) / tl.sqrt(tl.where(variance > 0.0, variance, 1.0)), 0.0)


@triton.jit
def _write(
    parameters,
    outputs,
    given,
    center,
    factor,
    shift,
    inside,
    channel: tl.constexpr,
    GIVEN_MEAN: tl.constexpr,
    GIVEN_STD: tl.constexpr,
    LOOKUP: tl.constexpr,
    STEP: tl.constexpr,
    TYPE: tl.constexpr,
):
    """The parameters of one channel of some rows."""
    centers = tl.load(given + channel, mask=inside, other=0.0)
    factors = tl.load(given + 3 + channel, mask=inside, other=0.0)
    if not GIVEN_MEAN:
        centers = centers * 0.0 + center
    if not GIVEN_STD:
        factors = factors * 0.0 + factor
    if LOOKUP:  # as Colour.terms
        at = parameters + outputs + channel * STEP * 4
        tl.store(at, shift - centers * factors, mask=inside)
        tl.store(at + 1, factors, mask=inside)
        tl.store(at + 2, centers * 0.0, mask=inside)
        tl.store(at + 3, centers * 0.0 + 1.0, mask=inside)
    else:  # a change of colour of kind 3
        at = parameters + outputs
        high = centers.to(TYPE)
        tl.store(at + 4 * channel, factors.to(TYPE), mask=inside)
        tl.store(at + 1 + channel, high, mask=inside)
        tl.store(at + 5 + channel, (centers - high.to(tl.float64)).to(TYPE), mask=inside)
        tl.store(at + 9 + channel, (centers * 0.0 + shift).to(TYPE), mask=inside)


@triton.jit
def _finish(
    integers,
    doubles,
    partials,
    parameters,
    begin,
    end,
    first_row,
    last_row,
    COLUMNS: tl.constexpr,
    SETTINGS: tl.constexpr,
    GIVEN: tl.constexpr,
    PARTIAL: tl.constexpr,
    CHANNELS: tl.constexpr,
    JOINT: tl.constexpr,
    GIVEN_MEAN: tl.constexpr,
    GIVEN_STD: tl.constexpr,
    LOOKUP: tl.constexpr,
    STEP: tl.constexpr,
    TYPE: tl.constexpr,
    MERGE: tl.constexpr,
):
    """From the pieces of the programs ``begin`` to ``end`` to the parameters of some rows."""
    place = tl.arange(0, MERGE)
    numbers = tl.zeros([MERGE], tl.float64)
    red = tl.zeros([MERGE], tl.float64)
    green = tl.zeros([MERGE], tl.float64)
    blue = tl.zeros([MERGE], tl.float64)
    for at in range(begin, end, MERGE):
        piece = partials + (at + place).to(tl.int64) * PARTIAL
        inside = at + place < end
        # Volatile: other processors have written them just now.
        number = tl.load(piece, mask=inside, other=0.0, volatile=True)
        numbers += number
        red += number * tl.load(piece + 1, mask=inside, other=0.0, volatile=True)
        if CHANNELS == 3:
            green += number * tl.load(piece + 2, mask=inside, other=0.0, volatile=True)
            blue += number * tl.load(piece + 3, mask=inside, other=0.0, volatile=True)
    count = tl.sum(numbers)
    mean0 = tl.sum(red) / count
    mean1 = tl.sum(green) / count
    mean2 = tl.sum(blue) / count
    if JOINT and CHANNELS == 3:
        mean0 = (mean0 + mean1 + mean2) / 3.0
        mean1 = mean0
        mean2 = mean0

    red = tl.zeros([MERGE], tl.float64)
    green = tl.zeros([MERGE], tl.float64)
    blue = tl.zeros([MERGE], tl.float64)
    for at in range(begin, end, MERGE):
        piece = partials + (at + place).to(tl.int64) * PARTIAL
        inside = at + place < end
        number = tl.load(piece, mask=inside, other=0.0, volatile=True)
        mean = tl.load(piece + 1, mask=inside, other=0.0, volatile=True)
        red += tl.load(piece + 4, mask=inside, other=0.0, volatile=True) + _between(number, mean, mean0, GIVEN_MEAN)
        if CHANNELS == 3:
            mean = tl.load(piece + 2, mask=inside, other=0.0, volatile=True)
            green += tl.load(piece + 5, mask=inside, other=0.0, volatile=True)
            green += _between(number, mean, mean1, GIVEN_MEAN)
            mean = tl.load(piece + 3, mask=inside, other=0.0, volatile=True)
            blue += tl.load(piece + 6, mask=inside, other=0.0, volatile=True)
            blue += _between(number, mean, mean2, GIVEN_MEAN)
    squares0 = tl.sum(red)
    squares1 = tl.sum(green)
    squares2 = tl.sum(blue)
    if JOINT and CHANNELS == 3:
        squares0 = squares0 + squares1 + squares2
        squares1 = squares0
        squares2 = squares0
        count = count * 3.0
    factor0 = _factor(squares0, count, doubles)
    factor1 = _factor(squares1, count, doubles)
    factor2 = _factor(squares2, count, doubles)

    shift = tl.load(doubles + 3)
    for at in range(first_row, last_row, MERGE):
        inside = at + place < last_row
        number = (at + place).to(tl.int64)
        outputs = tl.load(integers + number * COLUMNS + 8, mask=inside, other=0)
        given = doubles + SETTINGS + number * GIVEN
        _write(parameters, outputs, given, mean0, factor0, shift, inside, 0, GIVEN_MEAN, GIVEN_STD, LOOKUP, STEP, TYPE)
        if CHANNELS == 3:
            _write(
                parameters, outputs, given, mean1, factor1, shift, inside, 1, GIVEN_MEAN, GIVEN_STD, LOOKUP, STEP, TYPE
            )
            _write(
                parameters, outputs, given, mean2, factor2, shift, inside, 2, GIVEN_MEAN, GIVEN_STD, LOOKUP, STEP, TYPE
            )


@triton.jit
def statistics_kernel(
    integers,
    doubles,
    blocks,
    groups,
    counters,
    partials,
    parameters,
    COLUMNS: tl.constexpr,
    SETTINGS: tl.constexpr,
    GIVEN: tl.constexpr,
    PARTIAL: tl.constexpr,
    IN: tl.constexpr,
    CHANNELS: tl.constexpr,
    WHOLE: tl.constexpr,
    FLAT: tl.constexpr,
    JOINT: tl.constexpr,
    GIVEN_MEAN: tl.constexpr,
    GIVEN_STD: tl.constexpr,
    LOOKUP: tl.constexpr,
    STEP: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    TURNS: tl.constexpr,
    MERGE: tl.constexpr,
):
    """Integers: source, its strides c h w, height and width, first block, group, where its parameters are to be written.
    Doubles: epsilon, ddof, scale, shift; then for each row mean and factor of three channels, those that are given.
    Groups, of rows that share statistics: first and last + 1 of their programs, of their rows. Counters: 0 for each group.

    WHOLE: sum up integers. FLAT: each channel is one piece of memory, of height 1. JOINT: channels share statistics.
    LOOKUP: the parameters are for the lookup, and STEP whether each channel has its own; else of TYPE, for colours.
    """
    program = tl.program_id(0)
    number = tl.load(blocks + program).to(tl.int64)
    row = integers + number * COLUMNS
    source = tl.load(row).to(tl.pointer_type(IN))
    source_c = tl.load(row + 1).to(tl.int32)
    source_h = tl.load(row + 2).to(tl.int32)
    source_w = tl.load(row + 3).to(tl.int32)
    pixels = (tl.load(row + 4) * tl.load(row + 5)).to(tl.int32)
    width = tl.load(row + 5).to(tl.int32)
    start = (program - tl.load(row + 6).to(tl.int32)) * (BLOCK * TURNS)
    count = tl.minimum(pixels - start, BLOCK * TURNS)
    given = doubles + SETTINGS + number * GIVEN

    WORK: tl.constexpr = tl.int32 if WHOLE else tl.float64
    begins = source + (start // width) * source_h + (start % width) * source_w
    shift0 = tl.load(begins).to(WORK)
    shift1 = shift0
    shift2 = shift0
    if CHANNELS == 3:
        shift1 = tl.load(begins + source_c).to(WORK)
        shift2 = tl.load(begins + 2 * source_c).to(WORK)
    total0 = tl.zeros([BLOCK], WORK)
    squares0 = tl.zeros([BLOCK], WORK)
    total1 = tl.zeros([BLOCK], WORK)
    squares1 = tl.zeros([BLOCK], WORK)
    total2 = tl.zeros([BLOCK], WORK)
    squares2 = tl.zeros([BLOCK], WORK)
    for turn in range(0, count, BLOCK):
        pixel = start + turn + tl.arange(0, BLOCK)
        inside = pixel < pixels
        if FLAT:
            at = source + pixel * source_w
        else:
            y = pixel // width
            at = source + y * source_h + (pixel - y * width) * source_w
        value = tl.load(at, mask=inside, other=0).to(WORK)
        if not WHOLE:
            value = tl.where(inside, value - shift0, 0.0)
        total0 += value
        squares0 += value * value
        if CHANNELS == 3:
            value = tl.load(at + source_c, mask=inside, other=0).to(WORK)
            if not WHOLE:
                value = tl.where(inside, value - shift1, 0.0)
            total1 += value
            squares1 += value * value
            value = tl.load(at + 2 * source_c, mask=inside, other=0).to(WORK)
            if not WHOLE:
                value = tl.where(inside, value - shift2, 0.0)
            total2 += value
            squares2 += value * value

    piece = partials + program.to(tl.int64) * PARTIAL
    tl.store(piece, count.to(tl.float64))
    mean, distance = _moments(total0, squares0, shift0, count, given, WHOLE, GIVEN_MEAN)
    tl.store(piece + 1, mean)
    tl.store(piece + 4, distance)
    if CHANNELS == 3:
        mean, distance = _moments(total1, squares1, shift1, count, given + 1, WHOLE, GIVEN_MEAN)
        tl.store(piece + 2, mean)
        tl.store(piece + 5, distance)
        mean, distance = _moments(total2, squares2, shift2, count, given + 2, WHOLE, GIVEN_MEAN)
        tl.store(piece + 3, mean)
        tl.store(piece + 6, distance)

    group = tl.load(row + 7)
    begin = tl.load(groups + 4 * group).to(tl.int32)
    end = tl.load(groups + 4 * group + 1).to(tl.int32)
    tl.debug_barrier()  # all that is written above is written before the program counts as done
    if tl.atomic_add(counters + group, 1, sem="acq_rel", scope="gpu") == end - begin - 1:
        _finish(
            integers,
            doubles,
            partials,
            parameters,
            begin,
            end,
            tl.load(groups + 4 * group + 2).to(tl.int32),
            tl.load(groups + 4 * group + 3).to(tl.int32),
            COLUMNS,
            SETTINGS,
            GIVEN,
            PARTIAL,
            CHANNELS,
            JOINT,
            GIVEN_MEAN,
            GIVEN_STD,
            LOOKUP,
            STEP,
            TYPE,
            MERGE,
        )
