// The product of a group of weights and a group of activations: an exact integer for the codes, then f32.
//
// Integers are those of the scalar kernels in src/backend/cpu/matmul.rs, bit for bit; the order in which groups are added is
// another, so sums differ in their last bits.
#pragma once

#include "quantize.cuh"
#include "unpack.cuh"

// A group of activations in int8.
struct Bytes {
    int4 low, high;
    float scale;
    int sum;
};

DEVICE int dot16(const uint32_t* w, int4 x) {
    int d = __dp4a(int(w[0]), x.x, 0);
    d = __dp4a(int(w[1]), x.y, d);
    d = __dp4a(int(w[2]), x.z, d);
    return __dp4a(int(w[3]), x.w, d);
}

DEVICE int dot32(const Codes& c, const Bytes& x) { return dot16(c.words, x.low) + dot16(c.words + 4, x.high); }

// Each format: `load` reads a group of a row, `integer` is the exact part, `add` puts the product onto a sum.

// scale * (nibble - 8)
struct Affine4 {
    static constexpr bool FLOAT = false;
    Codes codes;
    float scale;

    DEVICE Affine4 load(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {nibbles(stream16(m.planes + 16 * p.at)), half_bits(read<uint16_t>(m.planes + 16 * p.groups + 2 * p.at))};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return dot32(codes, x) - 8 * x.sum; }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return fmaf(scale * x.scale, float(integer(x)), sum); }
};

// scale * nibble + minimum
struct Affine4Min {
    static constexpr bool FLOAT = false;
    Codes codes;
    float scale, min;

    DEVICE Affine4Min load(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        uint32_t both = read<uint32_t>(m.planes + 16 * p.groups + 4 * p.at);
        return {nibbles(stream16(m.planes + 16 * p.at)), half_bits(both & 0xFFFF), half_bits(both >> 16)};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return dot32(codes, x); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const {
        sum = fmaf(scale * x.scale, float(integer(x)), sum);
        return fmaf(min, x.scale * float(x.sum), sum);
    }
};

// scale * the codebook's number
struct Lut4 {
    static constexpr bool FLOAT = false;
    Codes codes;
    float scale;

    DEVICE Lut4 load(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {looked_up(stream16(m.planes + 16 * p.at), m.codebook),
                half_bits(read<uint16_t>(m.planes + 16 * p.groups + 2 * p.at))};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return dot32(codes, x); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return fmaf(scale * x.scale, float(integer(x)), sum); }
};

// scale * byte
struct Int8 {
    static constexpr bool FLOAT = false;
    Codes codes;
    float scale;

    DEVICE Int8 load(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {bytes(m, p), half_bits(read<uint16_t>(m.planes + 32 * p.groups + 2 * p.at))};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return dot32(codes, x); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return fmaf(scale * x.scale, float(integer(x)), sum); }
};

// scale * byte + minimum
struct Int8Min {
    static constexpr bool FLOAT = false;
    Codes codes;
    float scale, min;

    DEVICE Int8Min load(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        uint32_t both = read<uint32_t>(m.planes + 32 * p.groups + 4 * p.at);
        return {bytes(m, p), half_bits(both & 0xFFFF), half_bits(both >> 16)};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return dot32(codes, x); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const {
        sum = fmaf(scale * x.scale, float(integer(x)), sum);
        return fmaf(min, x.scale * float(x.sum), sum);
    }
};

// scale * sub-scale * nibble - minimum scale * sub-minimum: the first of 256 numbers, the second of 32
struct Q4K {
    static constexpr bool FLOAT = false;
    Codes codes;
    int sub_scale, sub_min;
    float scale, min;

    DEVICE Q4K load(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        uint16_t sub = read<uint16_t>(m.planes + 16 * p.groups + 2 * p.at);
        uint32_t both = read<uint32_t>(m.planes + 18 * p.groups + 4 * (p.at / 8));
        return {nibbles(stream16(m.planes + 16 * p.at)), sub & 0xFF, sub >> 8, half_bits(both & 0xFFFF),
                half_bits(both >> 16)};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return sub_scale * dot32(codes, x); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const {
        sum = fmaf(scale * x.scale, float(integer(x)), sum);
        return fmaf(-(min * x.scale), float(sub_min * x.sum), sum);
    }
};

// scale * sub-scale * (6 bits - 32): the first of 256 numbers, the second of 16
struct Q6K {
    static constexpr bool FLOAT = false;
    Codes codes;
    int first, second;
    float scale;

    DEVICE Q6K load(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        uint16_t sub = read<uint16_t>(m.planes + 24 * p.groups + 2 * p.at);
        uint2 high = read<uint2>(m.planes + 16 * p.groups + 8 * p.at);
        return {six_bits(stream16(m.planes + 16 * p.at), high), int8_t(sub & 0xFF), int8_t(sub >> 8),
                half_bits(read<uint16_t>(m.planes + 26 * p.groups + 2 * (p.at / 8)))};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const {
        return first * dot16(codes.words, x.low) + second * dot16(codes.words + 4, x.high);
    }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return fmaf(scale * x.scale, float(integer(x)), sum); }
};

// Weights in floating point: planes of 16 bytes of each group, as many as it takes. They are added in the order of k.
template <class T>
struct Floats {
    static constexpr bool FLOAT = true;
    static constexpr int EACH_PLANE = 16 / T::BYTES;
    static constexpr int PLANES = GROUP / EACH_PLANE;
    uint4 planes[PLANES];

    DEVICE Floats load(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        Floats f;
#pragma unroll
        for (int i = 0; i < PLANES; i++) f.planes[i] = stream16(m.planes + 16 * (i * p.groups + p.at));
        return f;
    }
    DEVICE_MEMBER float add(const float* x, float sum) const {
#pragma unroll
        for (int i = 0; i < PLANES; i++) {
            uint32_t words[4] = {planes[i].x, planes[i].y, planes[i].z, planes[i].w};
#pragma unroll
            for (int j = 0; j < EACH_PLANE; j++) sum = fmaf(T::number(words, j), x[i * EACH_PLANE + j], sum);
        }
        return sum;
    }
};

struct HalfNumber {
    static constexpr int BYTES = 2;
    DEVICE float number(const uint32_t* words, int j) { return half_bits(words[j / 2] >> 16 * (j % 2)); }
};

struct BHalfNumber {
    static constexpr int BYTES = 2;
    DEVICE float number(const uint32_t* words, int j) { return bf16_bits(words[j / 2] >> 16 * (j % 2)); }
};

struct SingleNumber {
    static constexpr int BYTES = 4;
    DEVICE float number(const uint32_t* words, int j) { return __uint_as_float(words[j]); }
};

using Half = Floats<HalfNumber>;
using BHalf = Floats<BHalfNumber>;
using Single = Floats<SingleNumber>;

DEVICE Bytes codes_of(const int8_t* codes, float scale, int sum) {
    const int4* at = reinterpret_cast<const int4*>(codes);
    return {at[0], at[1], scale, sum};
}

// R neighbouring rows of a matrix times M rows of activations from `first` on, a warp's work; the sums are in every lane.
// Rows behind the last are computed as the last.
template <class W, int R, int M>
DEVICE void dots(const Matrix& m, int row, const Activations& x, int first, int rows, float (&sums)[R][M]) {
    int groups = m.k / GROUP;
    for (int r = 0; r < R; r++)
        for (int t = 0; t < M; t++) sums[r][t] = 0.0f;
    for (int g = lane_id(); g < groups; g += WARP) {
        W w[R];
#pragma unroll
        for (int r = 0; r < R; r++) w[r] = W::load(m, min(row + r, m.rows - 1), g);
#pragma unroll
        for (int t = 0; t < M; t++) {
            int64_t which = min(first + t, rows - 1);
            int64_t at = which * x.k + g * GROUP;
            if constexpr (W::FLOAT) {
                for (int r = 0; r < R; r++) sums[r][t] = w[r].add(x.numbers + at, sums[r][t]);
            } else {
                Scales scales = x.scales[which * groups + g];
                Bytes all = codes_of(x.codes + at, scales.scale, scales.sum);
#pragma unroll
                for (int r = 0; r < R; r++) sums[r][t] = w[r].add(all, sums[r][t]);
                if (scales.rest_scale != 0.0f) {
                    Bytes rest = codes_of(x.rests + at, scales.rest_scale, scales.rest_sum);
#pragma unroll
                    for (int r = 0; r < R; r++) sums[r][t] = w[r].add(rest, sums[r][t]);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < M; t++) sums[r][t] = warp_sum(sums[r][t]);
}
