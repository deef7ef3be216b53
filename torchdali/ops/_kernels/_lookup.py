"""8-bit images, each grey level of which becomes one of 256 results: an affine function of the level, exactly.

Each program makes its image's table of results in double precision, and tries whether arithmetic in single precision gives the
same for all 256 levels. It nearly always does where the results are 8 or 16 bits wide, and is quicker by far than looking up each
pixel. Where it does not, the table is written to memory for the program's own threads to look into; programs of one image write
the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torchdali.ops._kernels._pieces import convert

__all__ = ["lookup_kernel"]

_FOUR_LEVELS = tl.constexpr(
    """
    {
        .reg .b32 level<4>;
        .reg .f32 value<4>;
        bfe.u32 level0, $1, 0, 8;
        bfe.u32 level1, $1, 8, 8;
        bfe.u32 level2, $1, 16, 8;
        bfe.u32 level3, $1, 24, 8;
        cvt.rn.f32.u32 value0, level0;
        cvt.rn.f32.u32 value1, level1;
        cvt.rn.f32.u32 value2, level2;
        cvt.rn.f32.u32 value3, level3;
        fma.rn.f32 value0, value0, $2, $6;
        fma.rn.f32 value1, value1, $3, $7;
        fma.rn.f32 value2, value2, $4, $8;
        fma.rn.f32 value3, value3, $5, $9;
        cvt.rni.sat.u8.f32 level0, value0;
        cvt.rni.sat.u8.f32 level1, value1;
        cvt.rni.sat.u8.f32 level2, value2;
        cvt.rni.sat.u8.f32 level3, value3;
        prmt.b32 level0, level0, level1, 0x3340;
        prmt.b32 level2, level2, level3, 0x3340;
        prmt.b32 $0, level0, level2, 0x5410;
    }
    """
)
"""Of four levels in a register: times a factor plus an offset, rounded half to even and clamped, in as few instructions as
there are for it."""


@triton.jit
def _affine(levels, factor, offset, OUT: tl.constexpr, TO: tl.constexpr, ASSEMBLY: tl.constexpr):
    """``convert(factor * levels + offset)`` in single precision, of uint8."""
    if ASSEMBLY and TO == 1:
        factors = tl.zeros_like(levels).to(tl.float32) + factor
        offsets = tl.zeros_like(levels).to(tl.float32) + offset
        result = tl.inline_asm_elementwise(
            _FOUR_LEVELS, "=r,r,f,f,f,f,f,f,f,f", [levels, factors, offsets], dtype=tl.uint8, is_pure=True, pack=4
        )
    else:
        result = convert(tl.fma(levels.to(tl.float32), factor, offset), TO).to(OUT)
    return result


@triton.jit
def lookup_kernel(
    integers,
    doubles,
    blocks,
    tables,
    OUT: tl.constexpr,
    TO: tl.constexpr,
    ALIGNED: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
):
    """Integers: source, target, number of elements, first block. Doubles: as in ``Colour.terms``. Tables: 256 of type OUT for
    each image, whatever is in them. To be launched without fused multiplication and addition, which rounds in another way.

    ALIGNED: all addresses are multiples of 16 bytes, and the target may be written up to the next one. ASSEMBLY: whether there
    is an NVIDIA GPU to understand it. PART: how many are looked up at a time.
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
    levels = tl.load(source + place, mask=mask, other=0)

    # The table is made while the pixels are on their way.
    level = tl.arange(0, 256)
    shift = tl.load(terms)
    scale = tl.load(terms + 1)
    center = tl.load(terms + 2)
    slope = tl.load(terms + 3)
    value = (level.to(tl.float64) - center) * slope
    value = convert((value + center) * scale + shift, TO).to(OUT)

    factor = (scale * slope).to(tl.float32)
    offset = (shift + scale * (center - slope * center)).to(tl.float32)
    same = value == _affine(level.to(tl.uint8), factor, offset, OUT, TO, False)
    if tl.sum(same.to(tl.int32)) == 256:
        tl.store(target + place, _affine(levels, factor, offset, OUT, TO, ASSEMBLY), mask=mask)
    else:
        table = tables + image * 256
        tl.store(table + level, value)
        tl.debug_barrier()
        for part in range(0, BLOCK, PART):
            at = start + part + tl.arange(0, PART)
            inside = at < count
            index = tl.load(source + at, mask=inside, other=0).to(tl.int32)
            tl.store(target + at, tl.load(table + index), mask=inside)
