// Activations in int8: 32 numbers share a scale, max|x| / 127, and a code is round(x * (127 / max|x|)), halves to even.
// The arithmetic is that of src/backend/cpu/rows.rs; so is the second quantization of outliers.
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
    float* factors;   // (rows): what sums with the row are to be multiplied with, see stage.cuh.
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
