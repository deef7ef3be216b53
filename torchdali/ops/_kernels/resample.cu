// Resizing by a linear filter, as two matrix products of 8-bit integers for each strip of the result.
//
// A warp makes a strip, some PARTS of 16 columns of the result, and goes down the rows of the input, 16 at a time (a step).
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
// 5 bfloat16); SPREAD: results from a pixel to the next, 1 or 3; TILES: the most for a block; STAGES: the most of the ring;
// THREADS, BLOCKS: bounds for the launch.

#include "resample_pieces.cuh"

// Rounded to grey levels first, there are 256 results for each channel, which are looked up.
constexpr bool LEVELS = FIRST == 1;

namespace {

// Sums of 16 columns for 16 rows, 8.8 bits: [0], [1] whole levels of this lane's two columns, [2], [3] the fractions.
struct Sums {
    u32 part[PARTS][4];
};

// What is in shared memory.
struct Shared {
    u64 *full, *empty;     // of the ring: that a step is there, that it is used
    int *spans;            // of a tile: its first and its last step
    Result *levels;        // for each channel, what becomes of a grey level: the bits of the result
    uint4 *unit;           // what is added to the sums of a row, in 2^-16
    uint4 *tiles, *parts;  // weights
    u8 *ring;
    int pitch, stages;
};

constexpr int INSIDE = 1 << 20;  // more than any number of columns of a strip

// A warp's strip. PRODUCTS: for each part of it, 0: not known. With one, no tile depends on more than two steps.
// ALIGNED: parts begin at a multiple of 4 bytes, in each row.
template <int PRODUCTS, bool ALIGNED>
struct Strip {
    const Shared &shared;
    int lane, source_h, channels, tiles, rows, products, groups;
    bool whole;
    u64 source;  // the first byte that the block wants
    i64 source_c, target_c, target_h;
    Result *target;  // this lane's first pixel
    int left;        // columns from there on; INSIDE: all of the strip, which begins at a multiple of two results
    const float *parameters;

    int starts[PARTS];         // of parts: their first byte of a row
    const uint4 *across;       // weights, [part][product][high, low][lane]
    int offset[PARTS][2];      // of this lane's bytes in a stage, for both groups of 8 rows
    u32 shift[PARTS];          // what they miss to a multiple of 4, in bits
    int slot, phase;
    u32 kept[PARTS][2][4];     // with one product, its weights: reading shared memory is what takes the time
    Sums ring[2];              // even and odd steps

    DEVICE void place(u64 from) {
        UNROLL for (int half = 0; half < 2; half++) {
            const int row = (lane >> 2) + 8 * half, away = (((int)from + row * source_h) & 15) + 4 * (lane & 3);
            UNROLL for (int part = 0; part < PARTS; part++) {
                const int byte = away + starts[part];
                offset[part][half] = row * shared.pitch + (byte & ~3);
                shift[part] = 8 * (byte & 3);  // the same for both halves: 8 rows are a multiple of 8 bytes
            }
        }
    }

    DEVICE void load(u32 (&w)[2][4], int number) const {
        UNROLL for (int n = 0; n < 2; n++) {
            const uint4 four = across[(2 * number + n) * 32];
            w[n][0] = four.x, w[n][1] = four.y, w[n][2] = four.z, w[n][3] = four.w;
        }
    }

    DEVICE void across_step(Sums &sums, const int (&units)[4]) {
        const int none[4] = {0, 0, 0, 0};
        barrier_wait(shared.full + slot, phase);
        const u8 *stage = shared.ring + slot * STEP * shared.pitch;
        UNROLL for (int part = 0; part < PARTS; part++) {
            int low[2][4], high[2][4];
            UNROLL for (int n = 0; n < 8; n++) {
                high[n / 4][n % 4] = 0;
                low[n / 4][n % 4] = units[n % 4];
            }
#pragma unroll (PRODUCTS > 0 ? PRODUCTS : 1)
            for (int product = 0; product < (PRODUCTS > 0 ? PRODUCTS : products); product++) {
                u32 w[2][4];
                if (PRODUCTS == 1) UNROLL for (int n = 0; n < 8; n++) w[n / 4][n % 4] = kept[part][n / 4][n % 4];
                else load(w, part * (PRODUCTS > 0 ? PRODUCTS : products) + product);
                UNROLL for (int half = 0; half < 2; half++) {
                    const u32 *words = (const u32 *)(stage + offset[part][half] + 32 * product);
                    const u32 b0 = ALIGNED ? words[0] : shift_right(words[0], words[1], shift[part]);
                    const u32 b1 = ALIGNED ? words[4] : shift_right(words[4], words[5], shift[part]);
                    if (PRODUCTS > 0 && product == 0) {
                        multiply32(high[half], w[0], b0, b1, none);
                        multiply32(low[half], w[1], b0, b1, units);
                    } else {
                        multiply32(high[half], w[0], b0, b1, high[half]);
                        multiply32(low[half], w[1], b0, b1, low[half]);
                    }
                }
            }
            u32 pairs[2][2];  // of rows: the bytes of whole levels, then of fractions
            UNROLL for (int half = 0; half < 2; half++)
                UNROLL for (int n = 0; n < 2; n++)
                    pairs[half][n] = permute((u32)(high[half][2 * n] * 256 + low[half][2 * n]),
                                             (u32)(high[half][2 * n + 1] * 256 + low[half][2 * n + 1]), 0x5162);
            UNROLL for (int n = 0; n < 2; n++) {
                sums.part[part][n] = permute(pairs[0][n], pairs[1][n], 0x5410);
                sums.part[part][2 + n] = permute(pairs[0][n], pairs[1][n], 0x7632);
            }
        }
        __syncwarp();  // so that one lane can tell it for all
        if (lane == 0) barrier_arrive(shared.empty + slot);
        if (++slot == shared.stages) slot = 0, phase ^= 1;
    }

    DEVICE void advance(int step, const int (&units)[4]) {
        if (step & 1) across_step(ring[1], units);
        else across_step(ring[0], units);
    }

    DEVICE void write_tile(const Colours &colours, const Table<Result> &levels, Result *near, const int (&high)[PARTS][4],
                           const int (&middle)[PARTS][4], int rows_left) {
        Result *far = near + target_h;
        u32 values[PARTS][4];
        UNROLL for (int n = 0; n < 4 * PARTS; n++) {
            const u32 sum = (u32)(high[n / 4][n % 4] * 256 + middle[n / 4][n % 4]);
            values[n / 4][n % 4] = LEVELS ? levels[level(sum)] : bits_of(colours.of_sum(sum));
        }
        if (left == INSIDE && rows_left >= TILE) {
            UNROLL for (int part = 0; part < PARTS; part++) {
                store(near + 16 * SPREAD * part, values[part][0], values[part][2], true, 2);
                store(far + 16 * SPREAD * part, values[part][1], values[part][3], true, 2);
            }
        } else {
            const int mine = rows_left - 2 * (lane & 3);
            UNROLL for (int part = 0; part < PARTS; part++) {
                const int columns = left - 16 * part;
                if (mine > 0) store(near + 16 * SPREAD * part, values[part][0], values[part][2], whole && columns > 1, columns);
                if (mine > 1) store(far + 16 * SPREAD * part, values[part][1], values[part][3], whole && columns > 1, columns);
            }
        }
    }

    // Products of high bytes, and of a high and a low one, which are 256 times smaller.
    DEVICE void down(int (&high)[4], int (&middle)[4], const int (&high0)[4], const int (&middle0)[4], int part, uint4 w) {
        const u32(&even)[4] = ring[0].part[part], (&odd)[4] = ring[1].part[part];
        const u32 levels[4] = {even[0], even[1], odd[0], odd[1]}, fractions[4] = {even[2], even[3], odd[2], odd[3]};
        multiply32(high, levels, w.x, w.y, high0);
        multiply32(middle, fractions, w.x, w.y, middle0);
        multiply32_signed(middle, levels, w.z, w.w, middle);
    }

    DEVICE void run() {
        const uint4 four = *shared.unit;  // from there, compilers keep all four registers that a product needs
        const int units[4] = {(int)four.x, (int)four.y, (int)four.z, (int)four.w}, none[4] = {0, 0, 0, 0};
        slot = phase = 0;
        if (PRODUCTS == 1) UNROLL for (int part = 0; part < PARTS; part++) load(kept[part], part);
        UNROLL for (int n = 0; n < 8 * PARTS; n++) ring[n & 1].part[n / 8][n / 2 % 4] = 0;
        for (int channel = 0; channel < channels; channel++) {
            place(source + (u64)(channel * source_c));
            Colours colours;
            if (!LEVELS) colours.load(parameters, channel);
            const Table<Result> levels(shared.levels + (LEVELS ? 256 * channel : 0));
            Result *near = target + channel * target_c;
            int last = -1, span = shared.spans[0];
            for (int tile = 0; tile < tiles; tile++, near += TILE * target_h) {
                const int to = span >> 16;
                int high[PARTS][4], middle[PARTS][4], next = PRODUCTS == 1 ? to : least((span & 0xffff) + 1, to);
                const uint4 *w = shared.tiles + (PRODUCTS == 1 ? tile : tile * groups) * 32 + lane;
                if (PRODUCTS == 1) {
                    while (last < next) advance(++last, units);
                    span = shared.spans[tile + 1];  // or what is behind them
                    UNROLL for (int part = 0; part < PARTS; part++) down(high[part], middle[part], none, none, part, *w);
                } else {
                    UNROLL for (int part = 0; part < PARTS; part++)
                        UNROLL for (int n = 0; n < 4; n++) high[part][n] = middle[part][n] = 0;
                    // Two steps at a time. ``advance`` stands here once: its copies are what takes a compiler's time.
                    ROLL for (;; w += 32) {
                        while (last < next) advance(++last, units);
                        UNROLL for (int part = 0; part < PARTS; part++)
                            down(high[part], middle[part], high[part], middle[part], part, *w);
                        if (last >= to) break;
                        next = least(next + 2, to);
                    }
                    span = shared.spans[tile + 1];
                }
                write_tile(colours, levels, near, high, middle, rows - tile * TILE);
            }
        }
    }
};

// Copies steps to the ring, in the order in which they are wanted: those of one channel after those of the other. A row is not
// longer than 64 blocks of 16 bytes. Meets the other warps when the ring is full, or everything is on its way.
DEVICE void copy_steps(const Shared &shared, u64 source, i64 source_c, int source_h, int channels, int length, int rows,
                       int steps, int lane) {
    const int filled = least(shared.stages, steps * channels);
    int stage = 0, slot = 0, phase = 1;
    for (int channel = 0; channel < channels; channel++) {
        const u64 begin = source + (u64)(channel * source_c);
        u64 line = begin & ~(u64)15;
        int offset[STEP];
        u32 wanted[2] = {0, 0};  // of a bit for each row: this lane's first and second block
        UNROLL for (int row = 0; row < STEP; row++) {  // the same for all steps: 16 rows are a multiple of 16 bytes
            const int from = (int)(begin & 15) + row * source_h;
            offset[row] = (from & ~15) + 16 * lane;
            UNROLL for (int n = 0; n < 2; n++) wanted[n] |= (u32)(16 * lane + 512 * n < (from & 15) + length) << row;
        }
        for (int step = 0; step < steps; step++, stage++, line += (u64)((i64)STEP * source_h)) {
            if (stage == filled) __syncthreads();
            if (stage >= shared.stages) barrier_wait(shared.empty + slot, phase);
            u8 *to = shared.ring + slot * STEP * shared.pitch + 16 * lane;
            const u32 there = (2u << least(rows - step * STEP - 1, STEP - 1)) - 1;
            UNROLL for (int n = 0; n < 2; n++)
                if (512 * n < length + 15)
                    UNROLL for (int row = 0; row < STEP; row++)
                        if ((wanted[n] & there) >> row & 1)
                            copy16(to + row * shared.pitch + 512 * n, line + (u64)((i64)offset[row] + 512 * n));
            barrier_arrive_copied(shared.full + slot);
            if (++slot == shared.stages) slot = 0, phase ^= 1;
        }
    }
    if (stage == filled) __syncthreads();
    copies_wait();  // before this thread ends
}

}  // namespace

// ``blocks``: row of the tables, first column and that behind the last (16 bits each), first row and that behind the last.
// ``bytes``: of shared memory: barriers, spans of tiles, results of grey levels, weights of tiles, weights of parts, the ring.
// ``whole``: results begin at multiples of two of them, in bytes.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    resize(const i64 *integers, const float *floats, const int4 *blocks, int bytes, int channels, int whole) {
    SHARED(memory);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x >> 5) - 1;
    const int group = lane >> 2, quarter = lane & 3;
    const int4 block = blocks[blockIdx.x];
    const i64 *row = integers + (i64)block.x * INTEGERS;
    const float *parameters = floats + (i64)block.x * FLOATS;
    const Axis x(row, parameters[1], WINDOW_WIDTH, WIDTH_, LIMIT_X), y(row, parameters[0], WINDOW_HEIGHT, HEIGHT, LIMIT_Y);
    const bool flip = row[FLIP_H] != 0;
    const int left = block.y & 0xffff, right = block.y >> 16, top = block.z, bottom = block.w;
    const bool fast = x.fits(16, 32) && y.fits(TILE, STEP + 1);
    const int active = (right - left + WIDTH - 1) / WIDTH, tiles = (bottom - top + TILE - 1) / TILE;
    const int products = fast ? 1 : x.fits(16, 64) ? 2 : (x.span(16) + 31) / 32;
    const int groups = fast ? 1 : (y.span(TILE) + 3 * STEP - 2) / (2 * STEP);

    // Which part of the window the block depends on. Its columns are flipped by being taken in another order.
    const int first = x.low(flip ? x.after - right : left), end = x.high((flip ? x.after - left : right) - 1);
    const int first_row = y.low(top), end_row = y.high(bottom - 1), steps = (end_row - first_row + STEP - 1) / STEP;
    const int source_h = (int)row[SOURCE_H];
    const bool aligned = fast && x.fits(16, 29) && ((source_h | (int)row[SOURCE_C]) & 3) == 0;
    const u64 source = (u64)row[SOURCE] + (u64)((row[TOP] + first_row) * source_h + row[LEFT] + first);

    Shared shared;
    shared.full = (u64 *)memory;
    shared.empty = shared.full + STAGES;
    shared.spans = (int *)(memory + 16 * STAGES);
    shared.unit = (uint4 *)(memory + (16 * STAGES + 4 * TILES + 15) / 16 * 16);
    shared.levels = (Result *)(shared.unit + 1);
    shared.tiles = (uint4 *)(shared.levels + (LEVELS ? 256 * channels : 0));
    shared.parts = shared.tiles + tiles * groups * 32;
    shared.ring = (u8 *)(shared.parts + active * PARTS * products * 64);
    shared.pitch = ((end - first + 30) & ~15) | 16;  // an odd multiple of 16 bytes: neighbours are in other banks
    const int room = bytes - (int)(shared.ring - memory) - 32 * products - 32;
    shared.stages = least((int)__fdividef((float)room + 0.5f, (float)(STEP * shared.pitch)), STAGES);

    if (warp == warps) {
        if (lane < STAGES) {
            barrier_init(shared.full + lane, 32);
            barrier_init(shared.empty + lane, active);
        }
        __syncwarp();
        copy_steps(shared, source, row[SOURCE_C], source_h, channels, end - first, end_row - first_row, steps, lane);
        return;
    }

    if (LEVELS)
        for (int channel = 0; channel < channels; channel++) {
            Colours colours;
            colours.load(parameters + 5, channel);
            for (int value = threadIdx.x; value < 256; value += 32 * warps)
                shared.levels[256 * channel + value] = (Result)bits_of(colours.of((float)value));
        }

    // Weights are few among zeros. Down, a lane makes those of a row of a tile, a warp those of 4 tiles.
    ROLL for (int some = 4 * warp; some < tiles; some += 4 * warps) {
        uint4 *there = shared.tiles + some * groups * 32;
        ROLL for (int n = lane; n < least(tiles - some, 4) * groups * 32; n += 32) there[n] = make_uint4(0, 0, 0, 0);
        __syncwarp();
        const int tile = some + (lane >> 3), from_y = top + tile * TILE, at = from_y + (lane & 7);
        if (at < bottom) {
            const int to = (y.high(least(from_y + TILE, bottom) - 1) - 1 - first_row) / STEP;
            const int from = fast ? (to > 0 ? to - 1 : 0) : (y.low(from_y) - first_row) / STEP;
            if ((lane & 7) == 0) shared.spans[tile] = from | to << 16;
            u8 *bytes = (u8 *)(there + (lane >> 3) * groups * 32 + (lane & 7) * 4);
            y.weigh(at, 32768.0f, 128, [&](int tap, u32 weight) {
                const int row = tap - first_row;
                u8 *byte = bytes + (row / STEP - from) / 2 * 512 + (row & 6) * 8 + (row & 24) / 4 + (row & 1);
                byte[0] = (u8)(weight >> 8);
                byte[8] = (u8)(weight ^ 0x80);  // has a sign
            });
        }
    }

    // Sums are rounded to 8.8 bits, half up; where each column's one weight is 65535 of 65536, up.
    const u32 unit = x.before == x.after ? 255 : 128;
    if (threadIdx.x == 0) *shared.unit = make_uint4(unit, unit, unit, unit);

    // Across, a lane makes those of a column.
    int starts[PARTS];
    uint4 *across = shared.parts + warp * PARTS * products * 64;
    if (warp < active) {
        ROLL for (int n = lane; n < PARTS * products * 64; n += 32) across[n] = make_uint4(0, 0, 0, 0);
        __syncwarp();
        int at = least(left + warp * WIDTH + lane, x.after - 1);
        if (flip) at = x.after - 1 - at;
        const int low = x.low(at);
        UNROLL for (int part = 0; part < PARTS; part++) {
            starts[part] = from_lane(low, 16 * part + (flip ? 15 : 0)) - first;
            if (aligned) starts[part] -= ((int)source + starts[part]) & 3;  // as rows do not begin before a block of 16 bytes
        }
        const int start = first + (lane < 16 ? starts[0] : starts[1]);
        u8 *bytes = (u8 *)(across + (lane >> 4) * products * 64 + (lane >> 1 & 7) * 4) + 4 * (lane & 1);
        x.weigh(at, 65536.0f, 0, [&](int tap, u32 weight) {
            const int byte = tap - start;
            u8 *to = bytes + byte / 32 * 1024 + (byte & 12) * 4 + (byte & 16) / 2 + (byte & 3);
            to[0] = (u8)(weight >> 8);
            to[512] = (u8)weight;
        });
    }
    __syncthreads();
    if (warp >= active) return;

    const int column = left + warp * WIDTH + 2 * group;
    const i64 line = row[FLIP_V] ? -row[TARGET_H] : row[TARGET_H];
    Result *target = (Result *)row[TARGET] + (row[FLIP_V] ? y.after - 1 : 0) * row[TARGET_H];
    target += (top + 2 * quarter) * line + SPREAD * column;
    const bool inside = whole && column - 2 * group + WIDTH <= right;
#define STRIP(...) \
    Strip<__VA_ARGS__> strip = {shared, lane, source_h, channels, tiles, bottom - top, products, groups, whole != 0, \
                             source, row[SOURCE_C], row[TARGET_C], line, target, inside ? INSIDE : least(right - column, WIDTH), \
                             parameters + 5}; \
    for (int part = 0; part < PARTS; part++) strip.starts[part] = starts[part]; \
    strip.across = across + lane; \
    strip.run()
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
