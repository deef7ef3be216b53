// What resample.cu is made of: instructions of the device, a filter along an axis, changes of colour, the writing of results.

#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define UNROLL _Pragma("unroll")
#define ROLL _Pragma("unroll 1")

#ifndef EMULATED
#define DEVICE __device__ __forceinline__
#define SHARED(name) extern __shared__ __align__(128) u8 name[]

// d = a (16 x 32) * b (32 x 8) + c; of bytes without a sign, or where those of b have one
#define PRODUCT32(name, type)                                                                                              \
    DEVICE void name(int(&d)[4], const u32(&a)[4], u32 b0, u32 b1, const int(&c)[4]) {                                     \
        asm("mma.sync.aligned.m16n8k32.row.col.s32." type                                                               \
            ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                                     \
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                                                               \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));   \
    }
PRODUCT32(multiply32, "u8.u8")
PRODUCT32(multiply32_signed, "u8.s8")

DEVICE u32 address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }
DEVICE void barrier_init(u64 *barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(barrier)), "r"(count) : "memory");
}
DEVICE void barrier_arrive(u64 *barrier) {
    asm volatile("{.reg .b64 t; mbarrier.arrive.shared::cta.b64 t, [%0];}" ::"r"(address(barrier)) : "memory");
}
#if __CUDA_ARCH__ >= 900
#define WAIT "try_wait"
#else
#define WAIT "test_wait"
#endif
DEVICE void barrier_wait(u64 *barrier, u32 parity) {
    asm volatile("{.reg .pred p;\nagain: mbarrier." WAIT ".parity.shared::cta.b64 p, [%0], %1;\n@!p bra again;}" ::"r"(
                     address(barrier)),
                 "r"(parity)
                 : "memory");
}
DEVICE void barrier_arrive_copied(u64 *barrier) {  // when this thread's copies so far are there
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address(barrier)) : "memory");
}
// Once all threads of the block have arrived, those that wait go on, and see what all had written.
DEVICE void tables_arrive() {
    __threadfence_block();
    asm volatile("bar.arrive 1, %0;" ::"r"(blockDim.x) : "memory");
}
DEVICE void tables_wait() { asm volatile("bar.sync 1, %0;" ::"r"(blockDim.x) : "memory"); }
DEVICE void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
DEVICE void write(void *to, u8 value) { asm volatile("st.global.u8 [%0], %1;" ::"l"(to), "r"((u32)value)); }
DEVICE void write(void *to, u16 value) { asm volatile("st.global.u16 [%0], %1;" ::"l"(to), "h"(value)); }
DEVICE void write(void *to, u32 value) { asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(value)); }
DEVICE void write(void *to, u64 value) { asm volatile("st.global.u64 [%0], %1;" ::"l"(to), "l"(value)); }
DEVICE void write(void *to, uint4 value) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w));
}
DEVICE u32 permute(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
DEVICE u32 shift_right(u32 low, u32 high, u32 bits) { return __funnelshift_r(low, high, bits); }
DEVICE u32 half_pair(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
DEVICE u32 bfloat_pair(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
DEVICE float from_half(u32 bits) {
    float value;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(value) : "r"(bits));
    return value;
}
DEVICE float product(float a, float b) {  // of numbers so small that a compiler may take them for 0
    float value;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(value) : "f"(a), "f"(b));
    return value;
}
DEVICE u32 shared_word(const u8 *, u32 at) {
    u32 word;
    asm("ld.shared.u8 %0, [%1];" : "=r"(word) : "r"(at));
    return word;
}
DEVICE u32 shared_word(const u16 *, u32 at) {
    u32 word;
    asm("{.reg .u16 h; ld.shared.u16 h, [%1]; cvt.u32.u16 %0, h;}" : "=r"(word) : "r"(at));
    return word;
}
DEVICE u32 shared_word(const u32 *, u32 at) {
    u32 word;
    asm("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(at));
    return word;
}
// In shared memory.
template <typename T>
struct Table {
    u32 begin;
    DEVICE explicit Table(const T *values) : begin(address(values)) {}
    DEVICE u32 operator[](u32 n) const { return shared_word((const T *)nullptr, begin + (u32)sizeof(T) * n); }
};
// A place in shared memory. Where it is the same for all lanes of a warp, what a lane adds to it costs no instruction.
struct Place {
    u32 begin;
    DEVICE explicit Place(const void *place) : begin(address(place)) { asm("" : "+r"(begin)); }
    DEVICE u32 word(int at) const {
        u32 value;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(begin + (u32)at) : "memory");
        return value;
    }
    DEVICE uint4 four(int at) const {
        uint4 value;
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "r"(begin + (u32)at) : "memory");
        return value;
    }
    DEVICE void copy16(int at, u64 from) const {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(begin + (u32)at), "l"(from) : "memory");
    }
};
// Two bytes in shared memory, without a branch: where there is one, compilers do what stands before it and after it in turn.
template <int APART>
DEVICE void put_bytes(u8 *to, u32 first, u32 second, bool wanted) {
    asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p st.shared.u8 [%0], %1; @p st.shared.u8 [%0+%4], %2;}" ::"r"(
                     address(to)),
                 "r"(first), "r"(second), "r"((u32)wanted), "n"(APART)
                 : "memory");
}
DEVICE int from_lane(int value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
#endif

constexpr int STEP = 16, TILE = 8;
constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: a float32 near it has no bits below one, and rounds half to even

// The columns of the tables, as in the Triton kernel.
enum Column {
    SOURCE, SOURCE_C, SOURCE_H, SOURCE_W, IMAGE_HEIGHT, IMAGE_WIDTH, TOP, LEFT, WINDOW_HEIGHT, WINDOW_WIDTH,
    TARGET, TARGET_C, TARGET_H, TARGET_W, HEIGHT, WIDTH_, FLIP_V, FLIP_H, FIRST_BLOCK, IN_A_ROW,
    LIMIT_Y, REACH_Y, LIMIT_X, REACH_X, INTEGERS
};
constexpr int FLOATS = 5 + 36;

DEVICE int least(int a, int b) { return a < b ? a : b; }

// A filter along one axis. Distances are integers in units of half a pixel over the length of the result.
struct Axis {
    int before, after, limit;
    float inverse;  // makes a distance one in units of the filter's scale
    float fraction;  // 1 / (2 * after), almost

    DEVICE Axis(const i64 *row, float inverse, Column length, Column result, Column limit)
        : before((int)row[length]), after((int)row[result]), limit((int)row[limit]), inverse(inverse),
          fraction(__fdividef(0.5f, (float)(int)row[result])) {}
    DEVICE int divided(int value) const {  // by 2 * after
        const int quotient = (int)((float)value * fraction), rest = value - 2 * after * quotient;
        return quotient + (rest >= 2 * after) - (rest < 0);
    }
    // At most so many taps have a weight for one of ``count`` neighbours, as the host has it.
    DEVICE int span(int count) const { return ((count - 1) * before + limit) / after + 1; }
    DEVICE bool fits(int count, int taps) const { return (count - 1) * before + limit < taps * after; }
    DEVICE int low(int at) const {  // the first tap
        const int reach = (2 * at + 1) * before - limit - after;
        return reach <= 0 ? 0 : divided(reach + 2 * after - 1);
    }
    DEVICE int high(int at) const {  // behind the last
        return least(divided((2 * at + 1) * before + limit - after) + 1, before);
    }
};

// The taps of one place along an axis, whose weights are found in turn, twice: for their sum, then as integers.
struct Taps {
    int first, end, count;
    float distance, advance, sum = 0.0f, share;
    u32 bits;

    // ``wanted``: else there are none.
    DEVICE Taps(const Axis &axis, int at, bool wanted)
        : first(axis.low(at)), end(axis.high(at)), count(wanted ? end - first : 0) {
        distance = (float)((2 * first + 1) * axis.after - (2 * at + 1) * axis.before) * axis.inverse;
        advance = (float)(2 * axis.after) * axis.inverse;
    }
    // ``n``: number of the tap, also as a float.
    DEVICE void add(int n, float place) {
        if (n < count) sum += weight(place);
    }
    DEVICE void share_out(float total) {
        share = __fdividef(total, sum);
        bits = __float_as_uint(MAGIC);
        sum = 0.0f;
    }
    // At most 65535. Weights are rounded together, so that their sum is ``total``: where the image is even, there is no error.
    DEVICE u32 next(float place) {
        sum += weight(place);
        const u32 before = bits;
        bits = __float_as_uint(__fmaf_rn(sum, share, MAGIC));
        return (u32)least((int)(bits - before), 65535);
    }
    DEVICE float weight(float place) const { return __saturatef(1.0f - fabsf(__fmaf_rn(place, advance, distance))); }
};

template <int TO>
DEVICE float converted(float value) {
    if (TO == 1) value = fminf(fmaxf(value, 0.0f), 255.0f);
    if (TO == 2) value = fminf(fmaxf(value, -128.0f), 127.0f);
    if (TO == 3) value = fminf(fmaxf(value, -32768.0f), 32767.0f);
    if (TO >= 1 && TO <= 3) value = (value + MAGIC) - MAGIC;
    if (TO == 4) value = from_half(half_pair(value, value));
    if (TO == 5) value = __uint_as_float(bfloat_pair(value, value) << 16);
    return value;
}

// What is the last is rounded to float16 or bfloat16 when it is written.
#define ROUNDS(to, last) ((last) && (to) >= 4 ? 0 : (to))

struct Colours {
    float factor[3], offset[3];

    DEVICE void load(const float *parameters, int channel) {
        const int kinds[3] = {KIND0, KIND1, KIND2}, to[3] = {TO0, TO1, TO2};
        UNROLL for (int n = 0; n < 3; n++)
            if (kinds[n]) {
                const float scale = to[n] == 1 ? 1.0f / 256.0f : 1.0f;
                factor[n] = parameters[12 * n + 4 * channel] * scale;
                offset[n] = parameters[12 * n + 9 + channel] * scale;
            }
    }
    template <int TO>
    DEVICE float change(float value, int n) const {
        value = __fmaf_rn(factor[n], value, offset[n]);
        if (TO != 1) return converted<TO>(value);
        // In units of 256 levels to be clamped below and (almost) above at no cost; the scaling is exact.
        return fminf(__fmaf_rn(__saturatef(value), 256.0f, MAGIC), MAGIC + 255.0f) - MAGIC;
    }
    // Of what the resizing gives.
    DEVICE float of(float value) const {
        if (KIND0) value = change<ROUNDS(TO0, KIND1 == 0)>(value, 0);
        if (KIND1) value = change<ROUNDS(TO1, KIND2 == 0)>(value, 1);
        if (KIND2) value = change<ROUNDS(TO2, true)>(value, 2);
        return value;
    }
    // Of a sum in units of 2^-15, below 2^23.
    DEVICE float of_sum(u32 sum) const {
        const float value = (__uint_as_float(sum + 0x4b000000u) - 8388608.0f) * (1.0f / 32768.0f);
        return of(converted<ROUNDS(FIRST, KIND0 == 0)>(value));
    }
};

// A sum in units of 2^-15 as an integer, rounded half to even. As bits it is a float32 without an exponent (or with the least
// one, which continues them), whose product is rounded just so. Never beyond 0 and 255: no weight is negative.
DEVICE u32 level(u32 sum) { return __float_as_uint(product(__uint_as_float(sum), 1.0f / 32768.0f)); }

#if OUT == 0
typedef u32 Result;
typedef u64 Pair;
#elif OUT <= 2
typedef u8 Result;
typedef u16 Pair;
#else
typedef u16 Result;
typedef u32 Pair;
#endif

// The bits of a result, the lowest ones.
DEVICE u32 bits_of(float value) {
#if OUT == 0
    return __float_as_uint(value);
#elif OUT >= 4
    return OUT == 4 ? half_pair(value, value) : bfloat_pair(value, value);
#else
    return __float_as_uint(value + MAGIC);
#endif
}

// Two neighbours, from the lowest bits of both.
DEVICE Pair pair_of(u32 first, u32 second) {
    if (sizeof(Result) == 4) return (Pair)((u64)second << 32 | first);
    return (Pair)permute(first, second, sizeof(Result) == 2 ? 0x5410 : 0x40);
}

// Two neighbours of a row of the result, of which ``count`` exist; ``whole``: both do, and lie at a multiple of their size.
DEVICE void store(Result *target, u32 first, u32 second, bool whole, int count) {
    if (whole) {
        write(target, pair_of(first, second));
    } else {
        if (count > 0) write(target, (Result)first);
        if (count > 1) write(target + 1, (Result)second);
    }
}
