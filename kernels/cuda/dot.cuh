// The product of a group of weights and a group of activations: an exact integer for the codes, then f32.
//
// Integers are those of the scalar kernels in src/backend/cpu/matmul.rs, bit for bit; the order in which groups are added is
// another, so sums differ in their last bits.
#pragma once

#include "quantize.cuh"
#include "unpack.cuh"

#include <utility>

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

// Sums of a group's codes times activations: of all 32, or of each 16 where these have scales of their own.
struct Dots {
    int first, second;
};

// What a format has beside codes. `integer` is the exact part of a product of a group, `add` puts the product onto a sum, both of `dots` with
// activations of a scale and a sum of codes; `number` is number i of a group.

// scale * code
struct Scaled {
    static constexpr bool HALVES = false;
    float scale;

    DEVICE Scaled of(uint16_t bits) { return {half_bits(bits)}; }
    DEVICE_MEMBER int integer(Dots d, int) const { return d.first; }
    DEVICE_MEMBER float add(Dots d, float x_scale, int, float sum) const { return fmaf(scale * x_scale, float(d.first), sum); }
    DEVICE_MEMBER float number(float code, int) const { return scale * code; }
};

// scale * (code - 8)
struct ScaledFrom8 {
    static constexpr bool HALVES = false;
    float scale;

    DEVICE ScaledFrom8 of(uint16_t bits) { return {half_bits(bits)}; }
    DEVICE_MEMBER int integer(Dots d, int x_sum) const { return d.first - 8 * x_sum; }
    DEVICE_MEMBER float add(Dots d, float x_scale, int x_sum, float sum) const {
        return fmaf(scale * x_scale, float(integer(d, x_sum)), sum);
    }
    DEVICE_MEMBER float number(float code, int) const { return scale * (code - 8.0f); }
};

// scale * code + minimum
struct Ranged {
    static constexpr bool HALVES = false;
    float scale, min;

    DEVICE Ranged of(uint32_t both) { return {half_bits(uint16_t(both)), half_bits(uint16_t(both >> 16))}; }
    DEVICE_MEMBER int integer(Dots d, int) const { return d.first; }
    DEVICE_MEMBER float add(Dots d, float x_scale, int x_sum, float sum) const {
        sum = fmaf(scale * x_scale, float(d.first), sum);
        return fmaf(min, x_scale * float(x_sum), sum);
    }
    DEVICE_MEMBER float number(float code, int) const { return scale * code + min; }
};

// scale * sub-scale * code - minimum scale * sub-minimum: the first of 256 numbers, the second of 32
struct SubRanged {
    static constexpr bool HALVES = false;
    int sub_scale, sub_min;
    float scale, min;

    DEVICE SubRanged of(uint16_t sub, uint32_t both) {
        return {int(sub & 0xFF), int(sub >> 8), half_bits(uint16_t(both)), half_bits(uint16_t(both >> 16))};
    }
    DEVICE_MEMBER int integer(Dots d, int) const { return sub_scale * d.first; }
    DEVICE_MEMBER float add(Dots d, float x_scale, int x_sum, float sum) const {
        sum = fmaf(scale * x_scale, float(integer(d, x_sum)), sum);
        return fmaf(-(min * x_scale), float(sub_min * x_sum), sum);
    }
    DEVICE_MEMBER float number(float code, int) const { return scale * float(sub_scale) * code - min * float(sub_min); }
};

// scale * sub-scale * code: the first of 256 numbers, the second of 16
struct SubScaled {
    static constexpr bool HALVES = true;
    int first, second;
    float scale;

    DEVICE SubScaled of(uint16_t sub, uint16_t bits) { return {int8_t(sub & 0xFF), int8_t(sub >> 8), half_bits(bits)}; }
    DEVICE_MEMBER int integer(Dots d, int) const { return first * d.first + second * d.second; }
    DEVICE_MEMBER float add(Dots d, float x_scale, int x_sum, float sum) const {
        return fmaf(scale * x_scale, float(integer(d, x_sum)), sum);
    }
    DEVICE_MEMBER float number(float code, int i) const { return scale * float(i < GROUP / 2 ? first : second) * code; }
};

// Each format: `planes` are what the layout has of a matrix, one behind the other; `load` takes a lane's group out of what
// a warp has of them (see lines.cuh).

// Of `groups` groups so many bytes; `before` are the bytes that planes in front of it have of a group.
struct PlaneOf {
    uint32_t bytes, groups, before;
};

// Groups of a strip: one a lane.
constexpr int STRIP_GROUPS = WARP;

// A group of weights.
template <class B>
struct GroupOf : B {
    using Beside = B;
    static constexpr bool FLOAT = false;
    Codes codes;

    GroupOf() = default;
    DEVICE_MEMBER GroupOf(Codes c, B beside) : B(beside), codes(c) {}
    DEVICE_MEMBER Dots dots(const Bytes& x) const {
        int first = dot16(codes.words, x.low), second = dot16(codes.words + 4, x.high);
        return B::HALVES ? Dots{first, second} : Dots{first + second, 0};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return B::integer(dots(x), x.sum); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return B::add(dots(x), x.scale, x.sum, sum); }
    DEVICE_MEMBER float number(int i) const { return B::number(float(int8_t(codes.words[i / 4] >> 8 * (i % 4))), i); }
};

struct Affine4 : GroupOf<ScaledFrom8> {
    static constexpr int PLANES = 2;
    DEVICE constexpr PlaneOf planes(int p) { return p == 0 ? PlaneOf{16, 1, 0} : PlaneOf{2, 1, 16}; }
    using GroupOf::GroupOf;
    template <class Lane>
    DEVICE Affine4 load(const Lane& at, const uint32_t*) {
        return {nibbles(at.template of<uint4, 0>()), Beside::of(at.template of<uint16_t, 1>())};
    }
};

struct Affine4Min : GroupOf<Ranged> {
    static constexpr int PLANES = 2;
    DEVICE constexpr PlaneOf planes(int p) { return p == 0 ? PlaneOf{16, 1, 0} : PlaneOf{4, 1, 16}; }
    using GroupOf::GroupOf;
    template <class Lane>
    DEVICE Affine4Min load(const Lane& at, const uint32_t*) {
        return {nibbles(at.template of<uint4, 0>()), Beside::of(at.template of<uint32_t, 1>())};
    }
};

// Codes are the codebook's numbers. What is negative and what is not are looked up and added up apart: a permutation gives 0 for those of the
// other kind. To join both took two more of the slower instructions for four codes (H100, TinyLlama in NF4: 466 us a step, not 427).
struct Lut4 : Scaled {
    using Beside = Scaled;
    static constexpr bool FLOAT = false;
    static constexpr int PLANES = 2;
    DEVICE constexpr PlaneOf planes(int p) { return p == 0 ? PlaneOf{16, 1, 0} : PlaneOf{2, 1, 16}; }
    uint4 codes;
    const uint32_t* codebook;

    Lut4() = default;
    DEVICE_MEMBER Lut4(uint4 c, const uint32_t* book, Beside beside) : Scaled(beside), codes(c), codebook(book) {}
    template <class Lane>
    DEVICE Lut4 load(const Lane& at, const uint32_t* codebook) {
        return {at.template of<uint4, 0>(), codebook, Beside::of(at.template of<uint16_t, 1>())};
    }
    // Adds the products of 8 codes.
    DEVICE_MEMBER void add_word(uint32_t w, int x, int y, int& less, int& more) const {
        uint32_t other = w ^ 0x88888888u;
        less = __dp4a(int(picked(codebook[0], codebook[1], w)), x, less);
        more = __dp4a(int(picked(codebook[2], codebook[3], other)), x, more);
        less = __dp4a(int(picked(codebook[0], codebook[1], w >> 16)), y, less);
        more = __dp4a(int(picked(codebook[2], codebook[3], other >> 16)), y, more);
    }
    DEVICE_MEMBER Dots dots(const Bytes& x) const {
        int less[2] = {0, 0}, more[2] = {0, 0};
        add_word(codes.x, x.low.x, x.low.y, less[0], more[0]);
        add_word(codes.z, x.high.x, x.high.y, less[1], more[1]);
        add_word(codes.y, x.low.z, x.low.w, less[0], more[0]);
        add_word(codes.w, x.high.z, x.high.w, less[1], more[1]);
        return {(more[0] + more[1]) - (less[0] + less[1]), 0};
    }
    DEVICE_MEMBER int integer(const Bytes& x) const { return Scaled::integer(dots(x), x.sum); }
    DEVICE_MEMBER float add(const Bytes& x, float sum) const { return Scaled::add(dots(x), x.scale, x.sum, sum); }
    DEVICE_MEMBER float number(int i) const {
        uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w}, code = words[i / 8] >> 4 * (i % 8) & 15;
        float size = float(codebook[code / 4] >> 8 * (code % 4) & 0xFF);
        return Scaled::number(code < 8 ? -size : size, i);
    }
};

struct Int8 : GroupOf<Scaled> {
    static constexpr int PLANES = 3;
    DEVICE constexpr PlaneOf planes(int p) {
        return p == 0 ? PlaneOf{16, 1, 0} : p == 1 ? PlaneOf{16, 1, 16} : PlaneOf{2, 1, 32};
    }
    using GroupOf::GroupOf;
    template <class Lane>
    DEVICE Int8 load(const Lane& at, const uint32_t*) {
        return {bytes(at.template of<uint4, 0>(), at.template of<uint4, 1>()),
                Beside::of(at.template of<uint16_t, 2>())};
    }
};

struct Int8Min : GroupOf<Ranged> {
    static constexpr int PLANES = 3;
    DEVICE constexpr PlaneOf planes(int p) {
        return p == 0 ? PlaneOf{16, 1, 0} : p == 1 ? PlaneOf{16, 1, 16} : PlaneOf{4, 1, 32};
    }
    using GroupOf::GroupOf;
    template <class Lane>
    DEVICE Int8Min load(const Lane& at, const uint32_t*) {
        return {bytes(at.template of<uint4, 0>(), at.template of<uint4, 1>()),
                Beside::of(at.template of<uint32_t, 2>())};
    }
};

struct Q4K : GroupOf<SubRanged> {
    static constexpr int PLANES = 3;
    DEVICE constexpr PlaneOf planes(int p) {
        return p == 0 ? PlaneOf{16, 1, 0} : p == 1 ? PlaneOf{2, 1, 16} : PlaneOf{4, 8, 18};
    }
    using GroupOf::GroupOf;
    template <class Lane>
    DEVICE Q4K load(const Lane& at, const uint32_t*) {
        return {nibbles(at.template of<uint4, 0>()),
                Beside::of(at.template of<uint16_t, 1>(), at.template of<uint32_t, 2>())};
    }
};

// Codes are 6 bits less 32.
struct Q6K : GroupOf<SubScaled> {
    static constexpr int PLANES = 4;
    DEVICE constexpr PlaneOf planes(int p) {
        return p == 0 ? PlaneOf{16, 1, 0} : p == 1 ? PlaneOf{8, 1, 16} : p == 2 ? PlaneOf{2, 1, 24} : PlaneOf{2, 8, 26};
    }
    using GroupOf::GroupOf;
    template <class Lane>
    DEVICE Q6K load(const Lane& at, const uint32_t*) {
        return {six_bits(at.template of<uint4, 0>(), at.template of<uint2, 1>()),
                Beside::of(at.template of<uint16_t, 2>(), at.template of<uint16_t, 3>())};
    }
};

// A group of activations as they are.
struct Numbers {
    float x[GROUP];
};

// Numbers of which `four(i)` gives the four from 4i on.
template <class Four>
DEVICE Numbers numbers_by(Four four) {
    Numbers n;
#pragma unroll
    for (int i = 0; i < GROUP; i += 4) {
        float4 some = four(i / 4);
        n.x[i] = some.x, n.x[i + 1] = some.y, n.x[i + 2] = some.z, n.x[i + 3] = some.w;
    }
    return n;
}

// Weights in floating point: planes of 16 bytes of each group, as many as it takes. Products of even and of odd numbers are added up side
// by side, so that few wait for one another, then to the sum of the groups in front.
template <class T>
struct Floats {
    static constexpr bool FLOAT = true;
    static constexpr int EACH_PLANE = 16 / T::BYTES;
    static constexpr int PLANES = GROUP / EACH_PLANE;
    DEVICE constexpr PlaneOf planes(int p) { return {16, 1, 16u * uint32_t(p)}; }
    uint4 four[PLANES];

    template <class Lane>
    DEVICE Floats load(const Lane& at, const uint32_t*) {
        Floats f;
        f.load_planes(at, std::make_integer_sequence<int, PLANES>());
        return f;
    }
    template <class Lane, int... P>
    DEVICE_MEMBER void load_planes(const Lane& at, std::integer_sequence<int, P...>) {
        ((four[P] = at.template of<uint4, P>()), ...);
    }
    DEVICE_MEMBER float add(const Numbers& n, float sum) const {
        float sums[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < PLANES; i++) {
            uint32_t words[4] = {four[i].x, four[i].y, four[i].z, four[i].w};
#pragma unroll
            for (int j = 0; j < EACH_PLANE; j++) sums[j % 2] = fmaf(T::number(words, j), n.x[i * EACH_PLANE + j], sums[j % 2]);
        }
        return sum + (sums[0] + sums[1]);
    }
    DEVICE_MEMBER float number(int i) const {
        const uint4& plane = four[i / EACH_PLANE];
        uint32_t words[4] = {plane.x, plane.y, plane.z, plane.w};
        return T::number(words, i % EACH_PLANE);
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
