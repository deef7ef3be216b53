"""8-bit images through a table of 256 results for each: any function of a grey level, exactly."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["INTEGERS", "lookup_kernel"]

INTEGERS = 4


@triton.jit
def lookup_kernel(integers, tables, blocks, OUT: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """Integers: source, target, number of elements, first block. Tables: 256 results of type OUT for each image.

    ALIGNED: all addresses are multiples of 16 bytes, and the target may be written up to the next one.
    """
    program = tl.program_id(0)
    image = tl.load(blocks + program)
    row = integers + image.to(tl.int64) * 4
    source = tl.load(row).to(tl.pointer_type(tl.uint8))
    target = tl.load(row + 1).to(tl.pointer_type(OUT))
    count = tl.load(row + 2).to(tl.int32)
    start = (program - tl.load(row + 3).to(tl.int32)) * BLOCK
    table = tables + image * 256
    if ALIGNED:
        # A word of 16 bytes that holds one byte of the image can be read whole, whatever the rest of it is.
        source = tl.multiple_of(source, 16)
        target = tl.multiple_of(target, 16)
        start = tl.multiple_of(start, 16)
        count = tl.multiple_of((count + 15) // 16 * 16, 16)
    place = start + tl.arange(0, BLOCK)
    mask = place < count
    levels = tl.load(source + place, mask=mask, other=0).to(tl.int32)
    tl.store(target + place, tl.load(table + levels), mask=mask)
