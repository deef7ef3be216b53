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

// d = a (16 x 32) * b (32 x 8) + c; b of bytes without a sign, or with one
#define PRODUCT32(name, type)                                                                                              \
    DEVICE void name(int(&d)[4], const u32(&a)[4], u32 b0, u32 b1, const int(&c)[4]) {                                     \
        asm("mma.sync.aligned.m16n8k32.row.col.s32.u8." type                                                               \
            ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                                     \
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                                                               \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));   \
    }
PRODUCT32(multiply32, "u8")
PRODUCT32(multiply32_signed, "s8")

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
DEVICE void copy16(void *to, u64 from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address(to)), "l"(from) : "memory");
}
DEVICE void barrier_arrive_copied(u64 *barrier) {  // when this thread's copies so far are there
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address(barrier)) : "memory");
}
DEVICE void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
DEVICE void write(void *to, u8 value) { asm volatile("st.global.u8 [%0], %1;" ::"l"(to), "r"((u32)value)); }
DEVICE void write(void *to, u16 value) { asm volatile("st.global.u16 [%0], %1;" ::"l"(to), "h"(value)); }
DEVICE void write(void *to, u32 value) { asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(value)); }
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
DEVICE float sum_of_four(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
}
#endif

constexpr int STEP = 16, TILE = 8, PARTS = 2, WIDTH = 16 * PARTS;
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
    // The weights of taps ``places[n]`` behind ``tap``, which are increasing; not yet of sum 1.
    template <int COUNT>
    DEVICE void weigh(float (&weights)[COUNT], const int (&places)[COUNT], int tap, int at) const {
        const float distance = (float)((2 * tap + 1) * after - (2 * at + 1) * before) * inverse;
        const float advance = (float)(2 * after) * inverse;
        UNROLL for (int n = 0; n < COUNT; n++)
            weights[n] = __saturatef(1.0f - fabsf(__fmaf_rn((float)places[n], advance, distance)));
        if (tap + places[COUNT - 1] >= before)  // there is nothing any more
            UNROLL for (int n = 0; n < COUNT; n++)
                if (tap + places[n] >= before) weights[n] = 0.0f;
    }
};

template <int COUNT>
DEVICE float sum_of(const float (&values)[COUNT]) {
    float sum = 0.0f;
    UNROLL for (int n = 0; n < COUNT; n++) sum += values[n];
    return sum;
}

// Four weights as integers: the high bytes, and the low ones.
DEVICE uint2 quantized(const float *weights, float scale, float most, float bias) {
    u32 bits[4];
    UNROLL for (int n = 0; n < 4; n++)
        bits[n] = __float_as_uint(fminf(__fmaf_rn(weights[n], scale, MAGIC + bias), MAGIC + most));
    const u32 first = permute(bits[0], bits[1], 0x4051), second = permute(bits[2], bits[3], 0x4051);
    return make_uint2(permute(first, second, 0x5410), permute(first, second, 0x7632));
}

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
    // ``sum`` as bits: 2^23 and the value in units of 2^-15.
    DEVICE float of(u32 sum) const {
        float value = __uint_as_float(sum);
        if (FIRST == 1)  // never beyond 0 and 255: no weight is negative
            value = __fmaf_rn(value, 1.0f / 32768.0f, MAGIC - 256.0f) - MAGIC;
        else
            value = converted<ROUNDS(FIRST, KIND0 == 0)>((value - 8388608.0f) * (1.0f / 32768.0f));
        if (KIND0) value = change<ROUNDS(TO0, KIND1 == 0)>(value, 0);
        if (KIND1) value = change<ROUNDS(TO1, KIND2 == 0)>(value, 1);
        if (KIND2) value = change<ROUNDS(TO2, true)>(value, 2);
        return value;
    }
};

#if OUT == 0
typedef u32 Result;
#elif OUT <= 2
typedef u8 Result;
typedef u16 Pair;
#else
typedef u16 Result;
typedef u32 Pair;
#endif

// Two neighbours of a row of the result, of which ``count`` exist; ``whole``: both do, and lie at a multiple of their size.
DEVICE void store(Result *target, float first, float second, bool whole, int count) {
#if OUT == 0
    if (whole || count > 0) write(target, __float_as_uint(first));
    if (whole || count > 1) write(target + 1, __float_as_uint(second));
#else
#if OUT >= 4
    const u32 pair = OUT == 4 ? half_pair(first, second) : bfloat_pair(first, second);
#else
    const u32 pair = permute(__float_as_uint(first + MAGIC), __float_as_uint(second + MAGIC), OUT == 3 ? 0x5410 : 0x40);
#endif
    if (whole) {
        write(target, (Pair)pair);
    } else {
        if (count > 0) write(target, (Result)pair);
        if (count > 1) write(target + 1, (Result)(pair >> 8 * sizeof(Result)));
    }
#endif
}
