// The packed formats, as tiles of tensor cores read them.
//
// `copy` begins to copy a group of one row of the matrix to its slot; `pair` gives numbers 8t to 8t + 3 and 8t + 4 to 8t + 7 of a
// slot; `fetch` reads what `scales` makes the group's scale of and, where SECOND says that there is one, its minimum or its
// second scale. Codes of a group take BYTES.
#pragma once

#include "quantize.cuh"
#include "tile.cuh"

namespace tile {

// What a group of weights is beside codes and one scale.
enum Beside {
    NOTHING,
    MINIMUM,  // A number that is added to all.
    HALVES,   // The second scale is of the second 16 numbers.
};

struct Nibbles {
    static constexpr int BYTES = 16;
    DEVICE void copy(uint8_t* to, int slot, const Source& s, uint32_t at, bool there) {
        begin_copy<16>(to + 16 * slot, s.at(0, 16, at), there);
    }
    DEVICE uint2 pair(const uint8_t* from, int slot, int t, const uint32_t*) {
        return nibble_pair(shared<uint32_t>(from + 16 * slot + 4 * t));
    }
};

// Less by 8, and 16 times that: in the upper half of a byte the numbers need no sign of their own. Scales make up for the 16.
struct Sixteenfold : Nibbles {
    DEVICE uint2 pair(const uint8_t* from, int slot, int t, const uint32_t*) {
        uint32_t w = shared<uint32_t>(from + 16 * slot + 4 * t);
        return {(w << 4 ^ 0x80808080u) & 0xF0F0F0F0u, (w ^ 0x80808080u) & 0xF0F0F0F0u};
    }
};

struct LookedUp : Nibbles {
    DEVICE uint2 pair(const uint8_t* from, int slot, int t, const uint32_t* table) {
        return looked_up_pair(shared<uint32_t>(from + 16 * slot + 4 * t), table);
    }
};

// Loads that stay two: one of both words would be followed by copies to where fragments have them.
DEVICE uint32_t word(const uint8_t* from) {
#ifdef __CUDACC__
    uint32_t r;
    asm volatile("ld.shared.u32 %0,[%1];" : "=r"(r) : "r"(shared_address(from)) : "memory");
    return r;
#else
    return shared<uint32_t>(from);
#endif
}

struct Octets {
    static constexpr int BYTES = 32;
    DEVICE void copy(uint8_t* to, int slot, const Source& s, uint32_t at, bool there) {
        begin_copy<16>(to + 32 * slot, s.at(0, 16, at), there);
        begin_copy<16>(to + 32 * slot + 16, s.at(16, 16, at), there);
    }
    DEVICE uint2 pair(const uint8_t* from, int slot, int t, const uint32_t*) {
        return {word(from + 32 * slot + 8 * t), word(from + 32 * slot + 8 * t + 4)};
    }
};

// An f16 scale a group, behind the codes.
template <class Codes>
struct Scaled : Codes {
    static constexpr Beside beside = NOTHING;
    DEVICE uint2 fetch(const Source& s, uint32_t at) { return {read<uint16_t>(s.at(Codes::BYTES, 2, at)), 0}; }
    DEVICE float2 scales(uint2 raw) { return make_float2(half_bits(uint16_t(raw.x)), 0.0f); }
};

struct Affine4 : Scaled<Sixteenfold> {
    DEVICE float2 scales(uint2 raw) { return make_float2(half_bits(uint16_t(raw.x)) / 16.0f, 0.0f); }
};

// An f16 scale and an f16 minimum.
template <class Codes>
struct ScaledMin : Codes {
    static constexpr Beside beside = MINIMUM;
    DEVICE uint2 fetch(const Source& s, uint32_t at) {
        return {read<uint32_t>(s.at(Codes::BYTES, 4, at)), 0};
    }
    DEVICE float2 scales(uint2 raw) {
        return make_float2(half_bits(uint16_t(raw.x)), half_bits(uint16_t(raw.x >> 16)));
    }
};

// An f16 scale times 6 bits, or 8, is exact in f32: a sub-scale costs nothing more here.
struct SubScaled : Nibbles {
    static constexpr Beside beside = MINIMUM;
    DEVICE uint2 fetch(const Source& s, uint32_t at) {
        return {read<uint32_t>(s.at(18, 4, at / 8)), read<uint16_t>(s.at(16, 2, at))};
    }
    DEVICE float2 scales(uint2 raw) {
        return make_float2(half_bits(uint16_t(raw.x)) * float(raw.y & 0xFF),
                           -half_bits(uint16_t(raw.x >> 16)) * float(raw.y >> 8));
    }
};

struct SixBits {
    static constexpr int BYTES = 24;
    static constexpr Beside beside = HALVES;
    DEVICE void copy(uint8_t* to, int slot, const Source& s, uint32_t at, bool there) {
        begin_copy<16>(to + 16 * slot, s.at(0, 16, at), there);
        begin_copy<8>(to + 16 * COLUMNS + 8 * slot, s.at(16, 8, at), there);
    }
    DEVICE uint2 pair(const uint8_t* from, int slot, int t, const uint32_t*) {
        const uint8_t* upper = from + 16 * COLUMNS + 8 * slot + 4 * (t / 2);
        return six_bits_pair(shared<uint32_t>(from + 16 * slot + 4 * t), shared<uint32_t>(upper), t);
    }
    DEVICE uint2 fetch(const Source& s, uint32_t at) {
        return {read<uint16_t>(s.at(26, 2, at / 8)), read<uint16_t>(s.at(24, 2, at))};
    }
    DEVICE float2 scales(uint2 raw) {
        float scale = half_bits(uint16_t(raw.x));
        return make_float2(scale * float(int8_t(raw.y & 0xFF)), scale * float(int8_t(raw.y >> 8)));
    }
};

using Affine4Min = ScaledMin<Nibbles>;
using Lut4 = Scaled<LookedUp>;
using Int8 = Scaled<Octets>;
using Int8Min = ScaledMin<Octets>;
using Q4K = SubScaled;
using Q6K = SixBits;

// Whether a group of weights has a second number.
template <class W>
constexpr bool SECOND = W::beside == MINIMUM || W::beside == HALVES;

}  // namespace tile
