"""8-bit images through a table of 256 results for each: an affine function of a grey level, exactly.

Each program makes its image's table in double precision, and writes it to memory for its own threads to look into. Programs of
one image write the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torchdali.ops._kernels._pieces import convert

__all__ = ["lookup_kernel"]


@triton.jit
def lookup_kernel(
    integers,
    doubles,
    blocks,
    tables,
    OUT: tl.constexpr,
    TO: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Integers: source, target, number of elements, first block. Doubles: as in ``Colour.terms``. Tables: 256 of type OUT for
    each image, whatever is in them. To be launched without fused multiplication and addition, which rounds in another way.

    ALIGNED: all addresses are multiples of 16 bytes, and the target may be written up to the next one.
    """
    program = tl.program_id(0)
    image = tl.load(blocks + program)
    row = integers + image.to(tl.int64) * 4
    terms = doubles + image.to(tl.int64) * 4
    source = tl.load(row).to(tl.pointer_type(tl.uint8))
    target = tl.load(row + 1).to(tl.pointer_type(OUT))
    count = tl.load(row + 2).to(tl.int32)
    start = (program - tl.load(row + 3).to(tl.int32)) * BLOCK

    if ALIGNED:
        # A word of 16 bytes that holds one byte of the image can be read whole, whatever the rest of it is.
        source = tl.multiple_of(source, 16)
        target = tl.multiple_of(target, 16)
        start = tl.multiple_of(start, 16)
        count = tl.multiple_of((count + 15) // 16 * 16, 16)
    place = start + tl.arange(0, BLOCK)
    mask = place < count
    levels = tl.load(source + place, mask=mask, other=0).to(tl.int32)

    # The table is made while the pixels are on their way.
    level = tl.arange(0, 256)
    center = tl.load(terms + 2)
    value = (level.to(tl.float64) - center) * tl.load(terms + 3)
    value = (value + center) * tl.load(terms + 1) + tl.load(terms)
    value = convert(value, TO)
    table = tables + image * 256
    tl.store(table + level, value.to(OUT))
    tl.debug_barrier()
    tl.store(target + place, tl.load(table + levels), mask=mask)
