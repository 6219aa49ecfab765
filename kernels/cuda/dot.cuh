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

// Each format: `fetch` begins to read a group of a row and waits for nothing, `unpack` makes numbers of it, `integer` is the
// exact part of a product, `add` puts the product onto a sum. WORDS are what `Raw` takes of a thread's registers.

// scale * (nibble - 8)
struct Affine4 {
    static constexpr bool FLOAT = false;
    static constexpr int WORDS = 5;
    struct Raw {
        uint4 codes;
        uint16_t scale;
    };
    Codes codes;
    float scale;

    DEVICE Raw fetch(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {stream16(m.planes + 16 * p.at), read<uint16_t>(m.planes + 16 * p.groups + 2 * p.at)};
    }
    DEVICE Affine4 unpack(const Raw& r, const uint32_t*) { return {nibbles(r.codes), half_bits(r.scale)}; }
    DEVICE_MEMBER int integer(const Bytes& x) const { return dot32(codes, x) - 8 * x.sum; }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return fmaf(scale * x.scale, float(integer(x)), sum); }
};

// scale * nibble + minimum
struct Affine4Min {
    static constexpr bool FLOAT = false;
    static constexpr int WORDS = 5;
    struct Raw {
        uint4 codes;
        uint32_t both;
    };
    Codes codes;
    float scale, min;

    DEVICE Raw fetch(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {stream16(m.planes + 16 * p.at), read<uint32_t>(m.planes + 16 * p.groups + 4 * p.at)};
    }
    DEVICE Affine4Min unpack(const Raw& r, const uint32_t*) {
        return {nibbles(r.codes), half_bits(r.both & 0xFFFF), half_bits(r.both >> 16)};
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
    static constexpr int WORDS = 5;
    struct Raw {
        uint4 codes;
        uint16_t scale;
    };
    Codes codes;
    float scale;

    DEVICE Raw fetch(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {stream16(m.planes + 16 * p.at), read<uint16_t>(m.planes + 16 * p.groups + 2 * p.at)};
    }
    DEVICE Lut4 unpack(const Raw& r, const uint32_t* codebook) {
        return {looked_up(r.codes, codebook), half_bits(r.scale)};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return dot32(codes, x); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return fmaf(scale * x.scale, float(integer(x)), sum); }
};

// scale * byte
struct Int8 {
    static constexpr bool FLOAT = false;
    static constexpr int WORDS = 9;
    struct Raw {
        uint4 low, high;
        uint16_t scale;
    };
    Codes codes;
    float scale;

    DEVICE Raw fetch(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {stream16(m.planes + 16 * p.at), stream16(m.planes + 16 * (p.groups + p.at)),
                read<uint16_t>(m.planes + 32 * p.groups + 2 * p.at)};
    }
    DEVICE Int8 unpack(const Raw& r, const uint32_t*) { return {bytes(r.low, r.high), half_bits(r.scale)}; }
    DEVICE_MEMBER int integer(const Bytes& x) const { return dot32(codes, x); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return fmaf(scale * x.scale, float(integer(x)), sum); }
};

// scale * byte + minimum
struct Int8Min {
    static constexpr bool FLOAT = false;
    static constexpr int WORDS = 9;
    struct Raw {
        uint4 low, high;
        uint32_t both;
    };
    Codes codes;
    float scale, min;

    DEVICE Raw fetch(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {stream16(m.planes + 16 * p.at), stream16(m.planes + 16 * (p.groups + p.at)),
                read<uint32_t>(m.planes + 32 * p.groups + 4 * p.at)};
    }
    DEVICE Int8Min unpack(const Raw& r, const uint32_t*) {
        return {bytes(r.low, r.high), half_bits(r.both & 0xFFFF), half_bits(r.both >> 16)};
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
    static constexpr int WORDS = 6;
    struct Raw {
        uint4 codes;
        uint16_t sub;
        uint32_t both;
    };
    Codes codes;
    int sub_scale, sub_min;
    float scale, min;

    DEVICE Raw fetch(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {stream16(m.planes + 16 * p.at), read<uint16_t>(m.planes + 16 * p.groups + 2 * p.at),
                read<uint32_t>(m.planes + 18 * p.groups + 4 * (p.at / 8))};
    }
    DEVICE Q4K unpack(const Raw& r, const uint32_t*) {
        return {nibbles(r.codes), r.sub & 0xFF, r.sub >> 8, half_bits(r.both & 0xFFFF), half_bits(r.both >> 16)};
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
    static constexpr int WORDS = 8;
    struct Raw {
        uint4 low;
        uint2 high;
        uint16_t sub, scale;
    };
    Codes codes;
    int first, second;
    float scale;

    DEVICE Raw fetch(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        return {stream16(m.planes + 16 * p.at), read<uint2>(m.planes + 16 * p.groups + 8 * p.at),
                read<uint16_t>(m.planes + 24 * p.groups + 2 * p.at),
                read<uint16_t>(m.planes + 26 * p.groups + 2 * (p.at / 8))};
    }
    DEVICE Q6K unpack(const Raw& r, const uint32_t*) {
        return {six_bits(r.low, r.high), int8_t(r.sub & 0xFF), int8_t(r.sub >> 8), half_bits(r.scale)};
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
    static constexpr int WORDS = 4 * PLANES;
    uint4 planes[PLANES];

    using Raw = Floats;
    DEVICE Raw fetch(const Matrix& m, int row, int g) {
        Plane p = plane(m, row, g);
        Floats f;
#pragma unroll
        for (int i = 0; i < PLANES; i++) f.planes[i] = stream16(m.planes + 16 * (i * p.groups + p.at));
        return f;
    }
    DEVICE Floats unpack(const Raw& raw, const uint32_t*) { return raw; }
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
    return {fresh(at), fresh(at + 1), scale, sum};
}
