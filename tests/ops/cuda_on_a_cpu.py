"""What a kernel in CUDA C++ needs to be compiled for a CPU, where each thread of a block is a fiber."""

__all__ = ["CUDA_ON_A_CPU"]

CUDA_ON_A_CPU = r"""
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#define EMULATED
#define DEVICE inline
#define __global__
#define __launch_bounds__(...)
#define SHARED(name) unsigned char *name = memory_of_block
#define threadIdx (Index{(unsigned)current})
struct uint4 { unsigned x, y, z, w; };
struct int4 { int x, y, z, w; };
struct Index { unsigned x; };
struct Fiber { ucontext_t context; bool done; };
struct Meeting { int waiting; unsigned turn; };
struct Values { unsigned a[4], b[2]; int value; };
struct Phase { int16_t expected, pending; int32_t phase; };
static unsigned char *memory_of_block;
static uint64_t low_end, high_end;  // of the image's memory
static int64_t written;  // bytes of results, by a block
static const char *error;
static Index blockIdx, blockDim;
static std::vector<Fiber> fibers;
static ucontext_t outside;
static int current, alive;
static Meeting of_warp[32], of_block;
static Values values[1024];
static uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
static void yield() {
    int from = current, to = from;
    do to = (to + 1) % (int)fibers.size(); while (fibers[to].done && to != from);
    if (to == from) return;
    current = to;
    swapcontext(&fibers[from].context, &fibers[to].context);
}
static bool last_to_arrive(Meeting &meeting, int count) {
    if (++meeting.waiting < count) return false;
    meeting.waiting = 0, meeting.turn++;
    return true;
}
static void meet(Meeting &meeting, int count) {
    unsigned turn = meeting.turn;
    if (!last_to_arrive(meeting, count)) while (meeting.turn == turn) yield();
}
static void __syncwarp() { meet(of_warp[current / 32], 32); }
static void tables_arrive() { last_to_arrive(of_block, (int)blockDim.x); }
static void tables_wait() { meet(of_block, (int)blockDim.x); }
static int byte_of(unsigned word, int n, bool sign) { return sign ? (int8_t)(word >> 8 * n) : (uint8_t)(word >> 8 * n); }
// Fragments as PTX has them for m16n8k32 with bytes.
static void product(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, const int (&c)[4], bool sign) {
    int lane = current % 32, base = current - lane, sums[4];
    memcpy(values[current].a, a, sizeof a);
    values[current].b[0] = b0, values[current].b[1] = b1;
    __syncwarp();
    for (int n = 0; n < 4; n++) {
        int row = lane / 4 + n / 2 * 8, column = lane % 4 * 2 + n % 2;
        sums[n] = c[n];
        for (int k = 0; k < 32; k++)
            sums[n] += byte_of(values[base + row % 8 * 4 + k % 16 / 4].a[row / 8 + k / 16 * 2], k % 4, false) *
                       byte_of(values[base + column * 4 + k % 16 / 4].b[k / 16], k % 4, sign);
    }
    __syncwarp();
    memcpy(d, sums, sizeof sums);
}
static void multiply32(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, const int (&c)[4]) {
    product(d, a, b0, b1, c, false);
}
static void multiply32_signed(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, const int (&c)[4]) {
    product(d, a, b0, b1, c, true);
}
static int from_lane(int value, int lane) {
    values[current].value = value;
    __syncwarp();
    int result = values[(current & ~31) + lane].value;
    __syncwarp();
    return result;
}
template <int APART> static void put_bytes(unsigned char *to, unsigned first, unsigned second, bool wanted) {
    if (wanted) to[0] = (unsigned char)first, to[APART] = (unsigned char)second;
}
static float product(float a, float b) { return a * b; }
template <typename T> struct Table {
    const T *values;
    explicit Table(const T *values) : values(values) {}
    unsigned operator[](unsigned n) const { return values[n]; }
};
struct Place {
    const unsigned char *begin;
    explicit Place(const void *place) : begin((const unsigned char *)place) {}
    unsigned word(int at) const { return *(const unsigned *)aligned(at, 4); }
    uint4 four(int at) const { return *(const uint4 *)aligned(at, 16); }
    void copy16(int at, unsigned long long from) const {
        if (from % 16) error = "a copy is not aligned";
        if (from + 16 <= low_end || from >= high_end) error = "something outside of the image was read";
        memcpy((void *)aligned(at, 16), (void *)from, 16);
    }
    const unsigned char *aligned(int at, int size) const {
        if ((uint64_t)(begin + at) % size) error = "an access is not aligned";
        return begin + at;
    }
};
static void barrier_init(unsigned long long *b, unsigned n) { *(Phase *)b = {(int16_t)n, (int16_t)n, 0}; }
static void barrier_arrive(unsigned long long *b) {
    Phase &phase = *(Phase *)b;
    if (--phase.pending == 0) phase.pending = phase.expected, phase.phase ^= 1;
}
static void barrier_arrive_copied(unsigned long long *b) { barrier_arrive(b); }
static void barrier_wait(unsigned long long *b, unsigned parity) { while (((Phase *)b)->phase == (int)parity) yield(); }
static void copies_wait() {}
template <typename T> static void write(void *to, T value) {
    if ((uint64_t)to % sizeof(T)) error = "a store is not aligned";
    memcpy(to, &value, sizeof value);
    written += sizeof value;
}
static unsigned permute(unsigned a, unsigned b, unsigned selector) {
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned result = 0;
    for (int n = 0; n < 4; n++) result |= (unsigned)(uint8_t)(both >> 8 * (selector >> 4 * n & 7)) << 8 * n;
    return result;
}
static unsigned shift_right(unsigned low, unsigned high, unsigned n) { return (unsigned)(((uint64_t)high << 32 | low) >> n); }
static unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static unsigned half_of(float value) { _Float16 half = (_Float16)value; uint16_t bits; memcpy(&bits, &half, 2); return bits; }
static unsigned half_pair(float low, float high) { return half_of(low) | half_of(high) << 16; }
static float from_half(unsigned word) { uint16_t bits = word; _Float16 half; memcpy(&half, &bits, 2); return (float)half; }
static unsigned bfloat_of(float value) {
    unsigned bits = __float_as_uint(value);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static unsigned bfloat_pair(float low, float high) { return bfloat_of(low) | bfloat_of(high) << 16; }
static float __saturatef(float value) { return value < 0 ? 0 : value > 1 ? 1 : value; }
static float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static float __fdividef(float a, float b) { return a / b; }
#include "resample.cu"
static struct { const i64 *integers; const float *floats; const int4 *blocks; int bytes, whole; } call;
static void thread() {
    resize(call.integers, call.floats, call.blocks, call.bytes, call.whole);
    fibers[current].done = true;
    if (!--alive) setcontext(&outside);
    for (;;) yield();
}
extern "C" const char *emulate(const i64 *integers, const float *floats, const int4 *blocks, int count, int threads, int bytes,
                               int whole, const uint64_t *ends) {
    const int stack = 65536, guard = 1024;
    std::vector<char> stacks(threads * stack);
    call = {integers, floats, blocks, bytes, whole};
    error = nullptr;
    memory_of_block = (unsigned char *)aligned_alloc(128, (bytes + guard + 127) / 128 * 128);
    for (int block = 0; block < count; block++) {
        memset(memory_of_block, 0xee, bytes + guard);  // what has no weight may be anything
        low_end = ends[2 * blocks[block].x], high_end = ends[2 * blocks[block].x + 1];
        blockIdx.x = block, blockDim.x = threads, alive = threads, current = 0, written = 0;
        fibers.assign(threads, Fiber());
        for (int n = 0; n < threads; n++) {
            getcontext(&fibers[n].context);
            fibers[n].context.uc_stack.ss_sp = &stacks[n * stack];
            fibers[n].context.uc_stack.ss_size = stack;
            makecontext(&fibers[n].context, thread, 0);
        }
        swapcontext(&outside, &fibers[0].context);
        for (int n = 0; n < guard; n++)
            if (memory_of_block[bytes + n] != 0xee) error = "shared memory was written beyond its end";
        int4 part = blocks[block];
        if (written != (int64_t)((part.y >> 16) - (part.y & 0xffff)) * (part.w - part.z) * CHANNELS * (int)sizeof(Result))
            error = "something was written twice, or not at all, or beside the result";
    }
    free(memory_of_block);
    return error;
}
"""
