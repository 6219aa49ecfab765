// Weights as src/backend/cuda/layout.rs lays them out, a group of 32 numbers of one row at a time.
//
// A matrix is planes, one behind the other: (rows, groups) of 16 bytes of codes, then what else a format has. A lane reads
// one group, so that a warp reads 512 neighbouring bytes of codes, and a lane's 16 bytes are all it needs for its own sum.
// Words of codes hold 4 neighbouring numbers in the order of k, ready for dp4a.
#pragma once

#include "common.cuh"

struct Matrix {
    const uint8_t* planes;
    int rows;
    int k;
    uint32_t codebook[4];  // Lut4's 16 numbers without their signs: no one of the first eight is above 0, none of the others below.
};

// 32 codes in the order of k, and how an integer sum of them becomes a number; see dot.cuh.
struct Codes {
    uint32_t words[GROUP / 4];
};

// Groups of a matrix.
DEVICE int64_t groups_of(const Matrix& m) { return int64_t(m.rows) * (m.k / GROUP); }

template <class T>
DEVICE T read(const uint8_t* from) {
#ifdef __CUDACC__
    return __ldg(reinterpret_cast<const T*>(from));
#else
    return *reinterpret_cast<const T*>(from);
#endif
}

template <class T>
DEVICE T shared(const uint8_t* from) {
    return *reinterpret_cast<const T*>(from);
}

// The bytes of `low` and `high` that the nibbles of the lower half of `which` name, 0 to 7; 0 for those above, bytes having no sign.
DEVICE uint32_t picked(uint32_t low, uint32_t high, uint32_t which) {
#ifdef __CUDACC__
    // Of a nibble above 7 the byte's sign is copied to all of its bits.
    uint32_t four;
    asm("prmt.b32 %0,%1,%2,%3;" : "=r"(four) : "r"(low), "r"(high), "r"(which));
    return four;
#else
    return host::picked(low, high, which);
#endif
}

// A codebook's 16 signed bytes. Subtractions borrow from no neighbour: the bytes are made 128 larger for it.
DEVICE void signed_table(const uint32_t* codebook, uint32_t (&table)[4]) {
    for (int i = 0; i < 2; i++) table[i] = (0x80808080u - codebook[i]) ^ 0x80808080u, table[2 + i] = codebook[2 + i];
}

// Of a word, the codes of numbers 0 to 3 and 4 to 7: byte b has number b in its low half, 4 + b in the high one.
DEVICE uint2 nibble_pair(uint32_t w) { return {w & 0x0F0F0F0Fu, w >> 4 & 0x0F0F0F0Fu}; }

// The same where nibble j is number j, which is looked up in 16 signed bytes. A permutation takes the lower three bits of four
// nibbles; the fourth picks between the table's halves.
DEVICE uint2 looked_up_pair(uint32_t w, const uint32_t* table) {
    uint32_t low = w & 0x77777777u, half = 0x32103210u | (w & 0x88888888u) >> 1;
    auto four = [&](uint32_t which, uint32_t half) {
        return __byte_perm(__byte_perm(table[0], table[1], which), __byte_perm(table[2], table[3], which), half);
    };
    return {four(low, half), four(low >> 16, half >> 16)};
}

// The same of 6 bits less 32, word t of a group: nibbles, and the upper bits of line l of 4 numbers at bits 2(l % 4) of the bytes of word
// l / 4, which is `high`. The subtraction borrows from no neighbour: the bytes are made 128 larger for it.
DEVICE uint2 six_bits_pair(uint32_t w, uint32_t high, int t) {
    auto four = [](uint32_t low, uint32_t high) { return ((low | high << 4 | 0x80808080u) - 0x20202020u) ^ 0x80808080u; };
    uint2 low = nibble_pair(w);
    high >>= 4 * (t % 2);
    return {four(low.x, high & 0x03030303u), four(low.y, high >> 2 & 0x03030303u)};
}

// A group's codes, of whose words `pair(w, t)` gives two.
template <class Pair>
DEVICE Codes codes_by(uint4 q, Pair pair) {
    Codes c;
    uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int t = 0; t < 4; t++) {
        uint2 both = pair(words[t], t);
        c.words[2 * t] = both.x;
        c.words[2 * t + 1] = both.y;
    }
    return c;
}

DEVICE Codes nibbles(uint4 q) {
    return codes_by(q, [](uint32_t w, int) { return nibble_pair(w); });
}

// 32 signed bytes: the first 16 of every group in the first plane, the others in the second.
DEVICE Codes bytes(uint4 low, uint4 high) { return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}}; }

DEVICE Codes six_bits(uint4 low, uint2 high) {
    return codes_by(low, [&](uint32_t w, int t) { return six_bits_pair(w, t < 2 ? high.x : high.y, t); });
}
