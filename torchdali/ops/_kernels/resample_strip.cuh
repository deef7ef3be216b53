// What a warp does: a strip of the result, from the steps of the input that lie in shared memory to results in memory.

#pragma once

#include "resample_pieces.cuh"

// Rounded to grey levels first, there are 256 results for each channel, which are looked up.
constexpr bool LEVELS = FIRST == 1;

// A part of one channel is a plane of the strip: all channels of a place are made together, so that what they share, such as
// weights and waiting, is done once. Images of one channel have two parts instead.
constexpr int PARTS = CHANNELS == 1 ? 2 : 1, WIDTH = 16 * PARTS, PLANES = PARTS * CHANNELS;

// Channels side by side, results of a tile are collected in shared memory, in rows so far apart that lanes meet in few banks,
// and leave it in blocks of 16 bytes.
constexpr int ROW = CHANNELS * WIDTH, APART = sizeof(Result) == 1 ? ROW : ROW + 8;
constexpr int COLLECTED = SPREAD == 1 ? 0 : TILE * APART * (int)sizeof(Result);
constexpr int EACH = 16 / (int)sizeof(Result), BLOCKS_OF_ROW = ROW / EACH;
constexpr int LANES_OF_ROW = 4 * sizeof(Result), ROWS_AT_ONCE = 32 / LANES_OF_ROW;  // of four lanes three have a block

// What is in shared memory.
struct Shared {
    u64 *full, *empty;     // of the ring: that a step is there, that it is used
    int *spans;            // of a tile: its first and its last step
    Result *levels;        // for each channel, what becomes of a grey level: the bits of the result
    uint4 *unit;           // what is added to the sums of a row, in 2^-16
    uint4 *tiles, *parts;  // weights
    u8 *collected;         // results, for each warp
    u8 *ring;              // of steps, in each of them the rows of one channel after those of the other
    int pitch, stages;
};

// Sums of 16 columns for 16 rows, 8.8 bits: [0], [1] whole levels of this lane's two columns, [2], [3] the fractions.
struct Sums {
    u32 of[4];
};

// Where a strip is written.
struct Target {
    int to_channel, to_row;
    Result *begin;  // this lane's first pixel; that of the strip where channels lie side by side
    int columns;    // from there on; INSIDE: all of the strip, whose rows can be written in the largest pieces
    bool whole;     // pairs of results lie at multiples of their size
};

constexpr int INSIDE = 1 << 20;  // more than any number of columns of a strip

// PRODUCTS: for each part, 0: not known. With one, no tile depends on more than two steps. ALIGNED: parts begin at a multiple
// of 4 bytes, in each row.
template <int PRODUCTS, bool ALIGNED>
struct Strip {
    static constexpr int KEPT = PRODUCTS > 0 ? PRODUCTS : 1;
    static constexpr int HALVES = ALIGNED ? 1 : 2;  // 8 rows are a multiple of 16 bytes if each is one of 4

    const Shared &shared;
    const Target &target;
    int lane, tiles, rows, products, groups;
    const uint4 *across;  // weights, [part][product][high, low][lane]; this lane's
    Result *collected;    // this warp's

    int offset[PLANES][HALVES];  // of this lane's bytes in a stage, for both groups of 8 rows
    u32 shift[PLANES];           // what they miss to a multiple of 4, in bits
    u32 kept[PARTS][KEPT][2][4];  // weights, if it is known how many: reading shared memory is what takes the time
    Sums ring[2][PLANES];        // even and odd steps
    int slot, phase;

    // ``from``: the first byte that the block wants; ``starts``: of parts, their first byte of a row.
    DEVICE void place(u64 from, i64 source_c, int source_h, const int (&starts)[PARTS]) {
        UNROLL for (int plane = 0; plane < PLANES; plane++) {
            const int channel = plane % CHANNELS, begin = (int)(from + (u64)(channel * source_c));
            UNROLL for (int half = 0; half < HALVES; half++) {
                const int row = (lane >> 2) + 8 * half;
                const int byte = ((begin + row * source_h) & 15) + 4 * (lane & 3) + starts[plane / CHANNELS];
                offset[plane][half] = (channel * STEP + (lane >> 2)) * shared.pitch + (byte & ~3);
                shift[plane] = 8 * (byte & 3);  // the same for both halves: 8 rows are a multiple of 8 bytes
            }
        }
    }

    DEVICE void load(u32 (&w)[2][4], int number) const {
        UNROLL for (int n = 0; n < 2; n++) {
            const uint4 four = across[(2 * number + n) * 32];
            w[n][0] = four.x, w[n][1] = four.y, w[n][2] = four.z, w[n][3] = four.w;
        }
    }

    // ``stage``: both groups of 8 rows of it.
    DEVICE void sum_across(Sums &sums, int plane, const Place (&stage)[2], const int (&units)[4]) const {
        const int none[4] = {0, 0, 0, 0}, part = plane / CHANNELS;
        int low[2][4], high[2][4];
        UNROLL for (int n = 0; n < 8; n++) {
            high[n / 4][n % 4] = 0;
            low[n / 4][n % 4] = units[n % 4];
        }
#pragma unroll (KEPT)
        for (int product = 0; product < (PRODUCTS > 0 ? PRODUCTS : products); product++) {
            u32 w[2][4];
            if (PRODUCTS > 0) UNROLL for (int n = 0; n < 8; n++) w[n / 4][n % 4] = kept[part][product][n / 4][n % 4];
            else load(w, part * products + product);
            UNROLL for (int half = 0; half < 2; half++) {
                const int at = offset[plane][half % HALVES] + 32 * product;
                u32 b0 = stage[half].word(at), b1 = stage[half].word(at + 16);
                if (!ALIGNED) {
                    b0 = shift_right(b0, stage[half].word(at + 4), shift[plane]);
                    b1 = shift_right(b1, stage[half].word(at + 20), shift[plane]);
                }
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
            sums.of[n] = permute(pairs[0][n], pairs[1][n], 0x5410);
            sums.of[2 + n] = permute(pairs[0][n], pairs[1][n], 0x7632);
        }
    }

    DEVICE void across_step(Sums (&sums)[PLANES], const int (&units)[4]) {
        barrier_wait(shared.full + slot, phase);
        const u8 *begin = shared.ring + slot * (CHANNELS * STEP) * shared.pitch;
        const Place stage[2] = {Place(begin), Place(begin + 8 * shared.pitch)};
        UNROLL for (int plane = 0; plane < PLANES; plane++) sum_across(sums[plane], plane, stage, units);
        __syncwarp();
        if (lane == 0) barrier_arrive(shared.empty + slot);
        if (++slot == shared.stages) slot = 0, phase ^= 1;
    }

    DEVICE void advance(int step, const int (&units)[4]) {
        if (step & 1) across_step(ring[1], units);
        else across_step(ring[0], units);
    }

    // Adds a plane's part of the results that the ring gives, in 2^-15. Of the products those of high bytes are 256 times larger
    // than those of a high and a low one.
    DEVICE void down(u32 (&sums)[4], int plane, uint4 w) const {
        const u32(&even)[4] = ring[0][plane].of, (&odd)[4] = ring[1][plane].of;
        const u32 levels[4] = {even[0], even[1], odd[0], odd[1]}, fractions[4] = {even[2], even[3], odd[2], odd[3]};
        const int none[4] = {0, 0, 0, 0};
        int high[4], middle[4];
        multiply32(high, levels, w.x, w.y, none);
        multiply32(middle, fractions, w.x, w.y, none);
        multiply32_signed(middle, levels, w.z, w.w, middle);
        UNROLL for (int n = 0; n < 4; n++) sums[n] += (u32)(high[n] * 256 + middle[n]);
    }

    // From sums to the bits of results.
    DEVICE void finish(u32 (&sums)[4], const Colours &colours, int channel) const {
        const Table<Result> levels(shared.levels);
        UNROLL for (int n = 0; n < 4; n++)
            sums[n] = LEVELS ? levels[level(sums[n]) + 256 * channel] : bits_of(colours.of_sum(sums[n]));
    }

    // Channel by channel.
    DEVICE void write_planes(const u32 (&values)[PLANES][4], Result *near, int rows_left) const {
        if (target.columns == INSIDE && rows_left >= TILE) {
            UNROLL for (int plane = 0; plane < PLANES; plane++) {
                const u32(&bits)[4] = values[plane];
                const int at = plane % CHANNELS * target.to_channel + 16 * (plane / CHANNELS);
                store(near + at, bits[0], bits[2], true, 2);
                store(near + (at + target.to_row), bits[1], bits[3], true, 2);
            }
        } else {
            const int mine = rows_left - 2 * (lane & 3);
            UNROLL for (int plane = 0; plane < PLANES; plane++) {
                const u32(&bits)[4] = values[plane];
                const int at = plane % CHANNELS * target.to_channel + 16 * (plane / CHANNELS);
                const int columns = target.columns - 16 * (plane / CHANNELS);
                UNROLL for (int half = 0; half < 2; half++)
                    if (half < mine)
                        store(near + (at + half * target.to_row), bits[half], bits[2 + half], target.whole && columns > 1,
                              columns);
            }
        }
    }

    // Side by side: lanes have pixels, and are to write neighbouring bytes. ``near``: where this lane's block of 16 bytes goes.
    DEVICE void write_rows(const u32 (&values)[PLANES][4], Result *near, int rows_left) const {
        UNROLL for (int half = 0; half < 2; half++) {
            Pair *to = (Pair *)(collected + (2 * (lane & 3) + half) * APART + 2 * CHANNELS * (lane >> 2));
            UNROLL for (int n = 0; n < CHANNELS; n++)
                to[n] = pair_of(values[2 * n % CHANNELS][2 * (2 * n / CHANNELS) + half],
                                values[(2 * n + 1) % CHANNELS][2 * ((2 * n + 1) / CHANNELS) + half]);
        }
        __syncwarp();
        if (target.columns == INSIDE && rows_left >= TILE) {
            if (lane % LANES_OF_ROW < BLOCKS_OF_ROW)
                UNROLL for (int row = 0; row < TILE; row += ROWS_AT_ONCE)
                    write(near + row * target.to_row, *(const uint4 *)(collected + row * APART + place_in(APART)));
        } else {
            const int count = CHANNELS * least(target.columns, WIDTH), at = 2 * lane;
            near += at - place_in(target.to_row);
            ROLL for (int row = 0; row < least(rows_left, TILE); row++, near += target.to_row) {
                const Result *from = collected + row * APART + at;
                if (target.whole && at + 1 < count) {
                    write(near, *(const Pair *)from);
                } else {
                    if (at < count) write(near, from[0]);
                    if (at + 1 < count) write(near + 1, from[1]);
                }
            }
        }
        __syncwarp();
    }

    // Where this lane's block of 16 bytes is in rows of which each is so far from the other.
    DEVICE int place_in(int apart) const { return lane / LANES_OF_ROW * apart + lane % LANES_OF_ROW * EACH; }

    DEVICE void run(const float *parameters) {
        const uint4 four = *shared.unit;  // from there, compilers keep all four registers that a product needs
        const int units[4] = {(int)four.x, (int)four.y, (int)four.z, (int)four.w};
        slot = phase = 0;
        if (PRODUCTS > 0)
            UNROLL for (int part = 0; part < PARTS; part++)
                UNROLL for (int product = 0; product < KEPT; product++) load(kept[part][product], part * KEPT + product);
        UNROLL for (int plane = 0; plane < PLANES; plane++)
            UNROLL for (int n = 0; n < 8; n++) ring[n / 4][plane].of[n % 4] = 0;
        Colours colours[CHANNELS];
        if (!LEVELS) UNROLL for (int channel = 0; channel < CHANNELS; channel++) colours[channel].load(parameters, channel);
        Result *near = target.begin + (SPREAD == 1 ? 0 : place_in(target.to_row));
        int last = -1, span = shared.spans[0];
        for (int tile = 0; tile < tiles; tile++, near += TILE * target.to_row) {
            const int to = span >> 16;
            u32 values[PLANES][4];
            UNROLL for (int n = 0; n < 4 * PLANES; n++) values[n / 4][n % 4] = 0;
            if (PRODUCTS == 1) {
                while (last < to) advance(++last, units);
                const uint4 w = Place(shared.tiles + tile * 32).four(16 * lane);
                UNROLL for (int plane = 0; plane < PLANES; plane++) down(values[plane], plane, w);
            } else {
                // Two steps at a time. ``advance`` stands here once: its copies are what takes a compiler's time.
                int next = least((span & 0xffff) + 1, to), group = tile * groups;
                ROLL for (;; group++, next = least(next + 2, to)) {
                    while (last < next) advance(++last, units);
                    const uint4 w = Place(shared.tiles + group * 32).four(16 * lane);
                    UNROLL for (int plane = 0; plane < PLANES; plane++) down(values[plane], plane, w);
                    if (last >= to) break;
                }
            }
            span = shared.spans[tile + 1];  // or what is behind them
            UNROLL for (int plane = 0; plane < PLANES; plane++)
                finish(values[plane], colours[plane % CHANNELS], plane % CHANNELS);
            if (SPREAD == 1) write_planes(values, near, rows - tile * TILE);
            else write_rows(values, near, rows - tile * TILE);
        }
    }
};
