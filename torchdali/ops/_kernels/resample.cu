// Resizing by a linear filter, as two matrix products of 8-bit integers for each strip of the result.
//
// A warp makes a strip, 16 columns of the result in all channels, and goes down the rows of the input, 16 at a time (a step).
// Across, the weights of 16 columns (16 x 32) times 8 rows of pixels (32 x 8): bytes of memory are the operand as they are.
// The sums are rounded to 8.8 bits, and are, in the registers where they lie, the operand of the second product, down: sums of
// 16 columns (16 x 32 rows) times the weights of 8 rows of the result (a tile). Weights have 16 bits across and 15 down, in two
// bytes each, and sums of products are 32-bit integers: errors are those of the weights and of the 8.8 bits, some thousandths
// of a level. Weights whose denominator is a power of two are exact, so that ties are rounded as by the definition.
//
// One more warp copies steps to a ring in shared memory, whose rows keep their alignment to 16 bytes of global memory; a block
// of 16 bytes is read if a byte of it is wanted. What lies in memory beside the pixels that are wanted has weight 0.
//
// FIRST, KIND0..2, TO0..2 and OUT are those of the other kernels (0 float32, 1 uint8, 2 int8, 3 int16, 4 float16,
// 5 bfloat16); CHANNELS: 1 or 3; SPREAD: results from a pixel to the next, 1 or CHANNELS; TILES: the most for a block; STAGES:
// the most of the ring; THREADS, BLOCKS: bounds for the launch.

#include "resample_strip.cuh"

namespace {

// Copies steps to the ring, in the order in which they are wanted. LANES share a row, which has REPEATS blocks of 16 bytes for
// each of them at most. As a step has 16 rows, rows of all steps lie alike: which blocks of 16 bytes they take, from where a
// step begins, is found once.
template <int LANES, int REPEATS>
DEVICE void copy_steps(const Shared &shared, u64 source, i64 source_c, int source_h, int length, int rows, int steps, int lane) {
    constexpr int AT_ONCE = 32 / LANES, TURNS = STEP / AT_ONCE;
    const int mine = lane / LANES, column = 16 * (lane % LANES);
    u64 begin = source & ~(u64)15;
    u32 offset[CHANNELS][TURNS], wanted[CHANNELS][REPEATS];  // the latter has a bit for each turn
    UNROLL for (int channel = 0; channel < CHANNELS; channel++) {
        UNROLL for (int n = 0; n < REPEATS; n++) wanted[channel][n] = 0;
        UNROLL for (int turn = 0; turn < TURNS; turn++) {
            const u32 from = (u32)(source & 15) + (u32)(channel * source_c) + (u32)((turn * AT_ONCE + mine) * source_h);
            offset[channel][turn] = (from & ~15u) + column;
            UNROLL for (int n = 0; n < REPEATS; n++)
                wanted[channel][n] |= (u32)(column + 512 * n < (int)(from & 15) + length) << turn;
        }
    }
    int slot = 0, phase = 1;
    for (int step = 0; step < steps; step++, begin += (u64)((i64)STEP * source_h)) {
        const int left = rows - step * STEP;
        if (left < STEP) {
            u32 there = 0;
            UNROLL for (int turn = 0; turn < TURNS; turn++) there |= (u32)(turn * AT_ONCE + mine < left) << turn;
            UNROLL for (int channel = 0; channel < CHANNELS; channel++)
                UNROLL for (int n = 0; n < REPEATS; n++) wanted[channel][n] &= there;
        }
        if (step >= shared.stages) barrier_wait(shared.empty + slot, phase);
        Place to(shared.ring + (slot * CHANNELS * STEP + mine) * shared.pitch + column);
        UNROLL for (int channel = 0; channel < CHANNELS; channel++)
            UNROLL for (int turn = 0; turn < TURNS; turn++, to.begin += AT_ONCE * shared.pitch)
                UNROLL for (int n = 0; n < REPEATS; n++)
                    if (wanted[channel][n] >> turn & 1) to.copy16(512 * n, begin + offset[channel][turn] + 512 * n);
        barrier_arrive_copied(shared.full + slot);
        if (++slot == shared.stages) slot = 0, phase ^= 1;
    }
    copies_wait();  // before this thread ends
}

}  // namespace

// ``blocks``: row of the tables, first column and that behind the last (16 bits each), first row and that behind the last.
// ``bytes``: of shared memory: barriers, spans of tiles, results of grey levels, weights of tiles, weights of parts, collected
// results, the ring.
// ``whole``: 1: pairs of results lie at multiples of their size in bytes; 2: rows of the result begin at multiples of 16 bytes.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    resize(const i64 *integers, const float *floats, const int4 *blocks, int bytes, int whole) {
    SHARED(memory);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x >> 5) - 1;
    const int group = lane >> 2, quarter = lane & 3;
    const int4 block = blocks[blockIdx.x];
    const i64 *row = integers + (i64)block.x * INTEGERS;
    const float *parameters = floats + (i64)block.x * FLOATS;
    // All of the tables is read before anything depends on it, so that memory is waited for once.
    const i64 source_c = row[SOURCE_C], before = row[TOP] * row[SOURCE_H] + row[LEFT];
    const u64 image = (u64)row[SOURCE];
    const int source_h = (int)row[SOURCE_H];
    const bool flip = row[FLIP_H] != 0;
    Colours colours[CHANNELS];
    if (LEVELS) UNROLL for (int channel = 0; channel < CHANNELS; channel++) colours[channel].load(parameters + 5, channel);
    const Axis x(row, parameters[1], WINDOW_WIDTH, WIDTH_, LIMIT_X), y(row, parameters[0], WINDOW_HEIGHT, HEIGHT, LIMIT_Y);
    const int left = block.y & 0xffff, right = block.y >> 16, top = block.z, bottom = block.w;
    const bool fast = x.fits(16, 32) && y.fits(TILE, STEP + 1);
    const int active = (right - left + WIDTH - 1) / WIDTH, tiles = (bottom - top + TILE - 1) / TILE;
    const int products = fast ? 1 : x.fits(16, 64) ? 2 : (x.span(16) + 31) / 32;
    const int groups = fast ? 1 : (y.span(TILE) + 3 * STEP - 2) / (2 * STEP);

    // Which part of the window the block depends on. Its columns are flipped by being taken in another order.
    const int first = x.low(flip ? x.after - right : left), end = x.high((flip ? x.after - left : right) - 1);
    const int first_row = y.low(top), end_row = y.high(bottom - 1), steps = (end_row - first_row + STEP - 1) / STEP;
    const bool aligned = fast && x.fits(16, 29) && ((source_h | (int)source_c) & 3) == 0;
    const u64 source = image + (u64)(before + (i64)first_row * source_h + first);

    Shared shared;
    shared.full = (u64 *)memory;
    shared.empty = shared.full + STAGES;
    shared.spans = (int *)(memory + 16 * STAGES);
    shared.unit = (uint4 *)(memory + (16 * STAGES + 4 * TILES + 15) / 16 * 16);
    shared.levels = (Result *)(shared.unit + 1);
    shared.tiles = (uint4 *)(shared.levels + (LEVELS ? 256 * CHANNELS : 0));
    shared.parts = shared.tiles + tiles * groups * 32;
    shared.collected = (u8 *)(shared.parts + active * PARTS * products * 64);
    shared.ring = shared.collected + active * COLLECTED;
    shared.pitch = ((end - first + 30) & ~15) | 16;  // an odd multiple of 16 bytes: neighbours are in other banks
    const int room = bytes - (int)(shared.ring - memory) - 32 * products - 32;
    shared.stages = least((int)__fdividef((float)room + 0.5f, (float)(CHANNELS * STEP * shared.pitch)), STAGES);

    if (warp == warps) {
        if (lane < STAGES) {
            barrier_init(shared.full + lane, 32);
            barrier_init(shared.empty + lane, active);
        }
        __syncwarp();
        tables_arrive();
        const int length = end - first, rows = end_row - first_row;
        if (length + 15 <= 256) copy_steps<16, 1>(shared, source, source_c, source_h, length, rows, steps, lane);
        else if (length + 15 <= 512) copy_steps<32, 1>(shared, source, source_c, source_h, length, rows, steps, lane);
        else copy_steps<32, 2>(shared, source, source_c, source_h, length, rows, steps, lane);
        return;
    }

    // Sums are rounded to 8.8 bits, half up; where each column's one weight is 65535 of 65536, up.
    const u32 unit = x.before == x.after ? 255 : 128;
    if (threadIdx.x == 0) *shared.unit = make_uint4(unit, unit, unit, unit);

    if (LEVELS)
        for (int value = threadIdx.x; value < 256; value += 32 * warps)
            UNROLL for (int channel = 0; channel < CHANNELS; channel++)
                shared.levels[256 * channel + value] = (Result)bits_of(colours[channel].of((float)value));

    // Weights are few among zeros. Across, a lane makes those of a column, down, those of a row of a tile, a warp those of 4
    // tiles: both at once, as each waits for itself.
    int starts[PARTS];
    uint4 *across = shared.parts + warp * PARTS * products * 64;
    int place = least(left + warp * WIDTH + lane, x.after - 1);
    if (flip) place = x.after - 1 - place;
    Taps horizontal(x, place, warp < active && lane < WIDTH);
    UNROLL for (int part = 0; part < PARTS; part++) {
        starts[part] = from_lane(horizontal.first, 16 * part + (flip ? 15 : 0)) - first;
        if (aligned) starts[part] -= ((int)source + starts[part]) & 3;  // as rows do not begin before a block of 16 bytes
    }
    const int start = first + starts[PARTS == 1 || lane < 16 ? 0 : 1];
    u8 *of_column = (u8 *)(across + (lane >> 4) * products * 64 + (lane >> 1 & 7) * 4) + 4 * (lane & 1);
    if (warp < active)
        ROLL for (int n = lane; n < PARTS * products * 64; n += 32) across[n] = make_uint4(0, 0, 0, 0);
    ROLL for (int some = 4 * warp; some == 4 * warp || some < tiles; some += 4 * warps) {
        uint4 *there = shared.tiles + some * groups * 32;
        ROLL for (int n = lane; n < least(tiles - some, 4) * groups * 32; n += 32) there[n] = make_uint4(0, 0, 0, 0);
        __syncwarp();
        const int tile = some + (lane >> 3), at = top + tile * TILE + (lane & 7);
        Taps vertical(y, least(at, bottom - 1), at < bottom);
        const int to = (from_lane(vertical.end, lane | 7) - 1 - first_row) / STEP;
        const int from = fast ? (to > 0 ? to - 1 : 0) : (from_lane(vertical.first, lane & 24) - first_row) / STEP;
        if (at < bottom && (lane & 7) == 0) shared.spans[tile] = from | to << 16;
        u8 *of_row = (u8 *)(there + (lane >> 3) * groups * 32 + (lane & 7) * 4);
        const int most = horizontal.count > vertical.count ? horizontal.count : vertical.count;
        float number = 0.0f;
        ROLL for (int n = 0; n < most; n++, number += 1.0f) {
            horizontal.add(n, number);
            vertical.add(n, number);
        }
        horizontal.share_out(65536.0f);
        vertical.share_out(32768.0f);
        number = 0.0f;
        ROLL for (int n = 0; n < most; n++, number += 1.0f) {
            const u32 byte = (u32)(horizontal.first + n - start), row = (u32)(vertical.first + n - first_row);
            u8 *to_column = of_column + byte / 32 * 1024 + (byte & 12) * 4 + (byte & 16) / 2 + (byte & 3);
            u8 *to_row = of_row + (row / STEP - (u32)from) / 2 * 512 + (row & 6) * 8 + (row & 24) / 4 + (row & 1);
            const u32 of_byte = horizontal.next(number), of_line = vertical.next(number) + 128;
            put_bytes<512>(to_column, of_byte >> 8, of_byte, n < horizontal.count);
            put_bytes<8>(to_row, of_line >> 8, of_line ^ 0x80, n < vertical.count);  // the second has a sign
        }
        horizontal.count = 0;
    }
    tables_wait();
    if (warp >= active) return;

    const int column = left + warp * WIDTH + (SPREAD == 1 ? 2 * group : 0);
    const bool inside = whole > (SPREAD > 1) && left + (warp + 1) * WIDTH <= right;
    Target target = {(int)row[TARGET_C], (int)(row[FLIP_V] ? -row[TARGET_H] : row[TARGET_H]), (Result *)row[TARGET],
                     inside ? INSIDE : least(right - column, WIDTH), whole > 0};
    target.begin += (row[FLIP_V] ? y.after - 1 : 0) * row[TARGET_H] + SPREAD * column;
    target.begin += (top + (SPREAD == 1 ? 2 * quarter : 0)) * target.to_row;
#define STRIP(...) \
    Strip<__VA_ARGS__> strip = {shared, target, lane, tiles, bottom - top, products, groups, across + lane, \
                                (Result *)(shared.collected + warp * COLLECTED)}; \
    strip.place(source, source_c, source_h, starts); \
    strip.run(parameters + 5)
    if (aligned) {
        STRIP(1, true);
    } else if (products == 1) {
        STRIP(1, false);
    } else if (products == 2) {
        STRIP(2, false);
    } else {
        STRIP(0, false);
    }
}
