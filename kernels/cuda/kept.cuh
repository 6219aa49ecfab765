// How pages keep keys and values: in f32, in f16, or as codes of 8 bits with a scale of each token and head.
//
// A page's layers are (K | V, kv_heads) blocks of PAGE tokens each; a block's scales, in f32, lie behind its codes. Codes and scales are
// worked out as in src/backend/cpu/pages.rs, so that what is kept means the same on both.
#pragma once

#include "common.cuh"

enum Kept { IN_F32 = 0, IN_F16 = 1, IN_Q8_0 = 2 };

// The unit of places in a page: a number, or a byte of what is kept in 8 bits. Of a block of heads of so many numbers:
DEVICE int64_t block_units(int kept, int dim) { return PAGE * (dim + (kept == IN_Q8_0 ? int(sizeof(float)) : 0)); }

// What the code of a token of the block at `at` is to be multiplied with; of numbers, 1.
DEVICE float scale_of(const uint8_t* cache, int kept, int dim, int64_t at, int token) {
    return kept == IN_Q8_0 ? reinterpret_cast<const float*>(cache + at + PAGE * dim)[token] : 1.0f;
}

// The number, or the code, at a place.
DEVICE float number_of(const uint8_t* cache, int kept, int64_t at) {
    if (kept == IN_Q8_0) return float(int8_t(cache[at]));
    if (kept == IN_F16) return half_bits(reinterpret_cast<const uint16_t*>(cache)[at]);
    return reinterpret_cast<const float*>(cache)[at];
}

// Two of a word's four bytes, which are 128 more than their codes, as f16: 1024 and 0 to 255 more is a byte behind 0x64.
DEVICE uint32_t two_codes(uint32_t word, uint32_t which) {
    uint32_t both = __byte_perm(word, 0x64646464, which);
#ifdef __CUDACC__
    asm("sub.f16x2 %0,%0,%1;" : "+r"(both) : "r"(0x64806480));  // 1024 + 128
    return both;
#else
    auto code = [](uint32_t bits) { return uint32_t(to_half(half_bits(uint16_t(bits)) - 1152.0f)); };
    return code(both) | code(both >> 16) << 16;
#endif
}

// Eight codes as f16, which they are exactly.
DEVICE uint4 halves_of(uint2 codes) {
    uint32_t low = codes.x ^ 0x80808080, high = codes.y ^ 0x80808080;
    return {two_codes(low, 0x4140), two_codes(low, 0x4342), two_codes(high, 0x4140), two_codes(high, 0x4342)};
}

DEVICE uint4 halves_of(uint4 halves) { return halves; }

// What kernels on tensor cores are compiled for: eight neighbouring numbers, and bytes of a unit.
struct Halves {
    using Eight = uint4;
    static constexpr Kept KEPT = IN_F16;
    static constexpr int UNIT = 2;
    static constexpr bool SCALED = false;
};

struct Codes8 {
    using Eight = uint2;
    static constexpr Kept KEPT = IN_Q8_0;
    static constexpr int UNIT = 1;
    static constexpr bool SCALED = true;
};

// A softmax of scores whose values have scales takes its exponentials from the largest score with its value's scale, in powers of two:
// then no exponential times a scale is above 1, which f16 has room for, however large or small scales are. Scales below this do as it does.
constexpr float LEAST_SCALE = 7.888609052210118e-31f;  // 2^-100, so that sums of exponentials do not become infinite

DEVICE float power_of(float scale) { return log2f(fmaxf(scale, LEAST_SCALE)); }
