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
    uint32_t codebook[4];  // Lut4's 16 signed bytes.
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

// Byte b of word w: number 8w + b in the low half, 8w + 4 + b in the high one.
DEVICE Codes nibbles(uint4 q) {
    Codes c;
    uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int w = 0; w < 4; w++) {
        c.words[2 * w] = words[w] & 0x0F0F0F0Fu;
        c.words[2 * w + 1] = words[w] >> 4 & 0x0F0F0F0Fu;
    }
    return c;
}

// Nibble j of word w: number 8w + j, which is looked up in 16 signed bytes. A permutation takes the lower three bits of four
// nibbles; the fourth picks between the table's halves.
DEVICE Codes looked_up(uint4 q, const uint32_t* table) {
    Codes c;
    uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int w = 0; w < 4; w++) {
        uint32_t low = words[w] & 0x77777777u, half = 0x32103210u | (words[w] & 0x88888888u) >> 1;
        c.words[2 * w] = __byte_perm(__byte_perm(table[0], table[1], low), __byte_perm(table[2], table[3], low), half);
        low >>= 16;
        half >>= 16;
        c.words[2 * w + 1] =
            __byte_perm(__byte_perm(table[0], table[1], low), __byte_perm(table[2], table[3], low), half);
    }
    return c;
}

// 32 signed bytes: the first 16 of every group in the first plane, the others in the second.
DEVICE Codes bytes(uint4 low, uint4 high) { return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}}; }

// 6 bits less 32: nibbles, and the upper bits of line l of 4 numbers at bits 2(l % 4) of the bytes of word l / 4. The
// subtraction borrows from no neighbour: the bytes are made 128 larger for it.
DEVICE Codes six_bits(uint4 low, uint2 high) {
    Codes c = nibbles(low);
#pragma unroll
    for (int l = 0; l < 8; l++) {
        uint32_t upper = (l < 4 ? high.x : high.y) >> 2 * (l % 4) & 0x03030303u;
        c.words[l] = ((c.words[l] | upper << 4 | 0x80808080u) - 0x20202020u) ^ 0x80808080u;
    }
    return c;
}
