// Activations in int8: 32 numbers share a scale, max|x| / 127, and a code is round(x * (127 / max|x|)), halves to even.
// The arithmetic is that of src/backend/cpu/rows.rs; so is the second quantization of outliers.
//
// A kernel that makes part of a row cannot know the root mean square that RMSNorm divides by. It hands on the row times the norm's
// weight, and each group's squares: who reads the row divides its sums by the root, since a group's codes do not depend on it.
#pragma once

#include "common.cuh"

// Of one group: the scale and sum of its codes, and those of its rests; a scale of 0 says that there are none.
struct __align__(16) Scales {
    float scale;
    int sum;
    float rest_scale;
    int rest_sum;
};

// Rows of k numbers as matrices read them.
struct Activations {
    int8_t* codes;    // (rows, k)
    int8_t* rests;    // (rows, k)
    Scales* scales;   // (rows, k / 32)
    float* numbers;   // (rows, k), for weights in floating point
    float2* squares;  // (rows, k / 32): of x, and of x times the norm's weight; null for rows that are what they are.
    int64_t k;
};

// A group is an outlier when its largest number is above so many times the root of the row's mean square.
constexpr float OUTLIER = 8.0f;

struct Quantized {
    int code;
    float scale;
    int sum;
    float largest;
};

// Quantizes a warp's 32 numbers.
DEVICE Quantized quantize(float x) {
    float largest = warp_largest(x);
    float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    int code = __float2int_rn(x * inverse);
    return {code, largest / 127.0f, warp_sum(code), largest};
}

// Writes group g of a row; numbers beyond `limit` leave a rest.
DEVICE void put_group(const Activations& to, int row, int g, float x, float limit) {
    Quantized q = quantize(x);
    int64_t at = row * to.k + g * GROUP + lane_id();
    to.codes[at] = q.code;
    to.numbers[at] = x;
    Scales scales = {q.scale, q.sum, 0.0f, 0};
    if (q.largest > limit) {
        Quantized rest = quantize(fmaf(float(q.code), -q.scale, x));
        to.rests[at] = rest.code;
        scales.rest_scale = rest.scale;
        scales.rest_sum = rest.sum;
    }
    if (lane_id() == 0) to.scales[row * (to.k / GROUP) + g] = scales;
}

// Writes group g of a row that is still to be normed with `weight`; its reader decides whether it is an outlier.
DEVICE void put_unnormed(const Activations& to, int row, int g, float x, const float* weight) {
    float y = x * weight[g * GROUP + lane_id()];
    float2 squares = make_float2(warp_sum(x * x), warp_sum(y * y));
    put_group(to, row, g, y, -1.0f);
    if (lane_id() == 0) to.squares[row * (to.k / GROUP) + g] = squares;
}

// What the sums of a row are to be multiplied with, and the square of a scale above which a group's rests count.
struct Normed {
    float factor;
    float least;
};

// This lane's share of a row's squares.
DEVICE float2 own_squares(const Activations& x, int64_t row) {
    int groups = int(x.k / GROUP);
    float2 sums = make_float2(0.0f, 0.0f);
    if (!x.squares) return sums;
#pragma unroll 4
    for (int g = lane_id(); g < groups; g += WARP) {
        float2 squares = fresh(x.squares + row * groups + g);
        sums.x += squares.x;
        sums.y += squares.y;
    }
    return sums;
}

// By a warp, of all its lanes' squares. scale * 127 > OUTLIER * root of the mean square, squared.
DEVICE Normed normed(const Activations& x, float2 squares, float eps) {
    if (!x.squares) return {1.0f, 0.0f};
    float a = warp_sum(squares.x), b = warp_sum(squares.y), k = float(x.k);
    return {rsqrtf(a / k + eps), b * (OUTLIER * OUTLIER / (127.0f * 127.0f)) / k};
}
