// What kernels/cuda/mma.cuh needs of a GPU beside host.h: tensor cores, whose fragments the lanes of a warp give each other, and
// copies that are made no sooner than they are waited for.
#pragma once

#include <vector>

namespace host {
// What all threads gave lately: in turn one of two, so that nothing is written while it is still read.
template <class T>
struct Given {
    static inline T all[2][host::MOST];
    static inline unsigned turns[host::MOST];

    // Gives `mine` to this thread's warp; what its lanes gave.
    static const T* in_warp(const T& mine) {
        unsigned i = threadIdx.x, turn = turns[i]++ % 2;
        all[turn][i] = mine;
        meet_warp();
        return all[turn] + i / 32 * 32;
    }
};

struct Integers { uint32_t a[4], b[2]; };
struct Halves { float a[8], b[4]; };
struct Singles { float a[4], b[2]; };

// Result i of a lane is of row g + 8 (i / 2) and column 2t + i % 2, whose numbers of k lanes 4 row + t and 4 column + t have.
inline void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint2 b) {
    const Integers* lanes = Given<Integers>::in_warp({{a[0], a[1], a[2], a[3]}, {b.x, b.y}});
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) {
        int sum = 0;
        for (int j = 0; j < 4; j++) {
            const Integers &x = lanes[4 * g + j], &y = lanes[4 * (2 * t + i % 2) + j];
            for (int k = 0; k < 2; k++) sum = __dp4a(int(x.a[i / 2 + 2 * k]), int(y.b[k]), sum);
        }
        d[i] = sum;
    }
}

inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Halves mine;
    for (int i = 0; i < 8; i++) mine.a[i] = half_bits(uint16_t(a[i / 2] >> 16 * (i % 2)));
    for (int i = 0; i < 4; i++) mine.b[i] = half_bits(uint16_t((i < 2 ? b0 : b1) >> 16 * (i % 2)));
    const Halves* lanes = Given<Halves>::in_warp(mine);
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            const Halves &x = lanes[4 * g + j], &y = lanes[4 * (2 * t + i % 2) + j];
            // Register r of the left factor has rows g + 8 (r % 2) and numbers of half r / 2 of k.
            for (int k = 0; k < 4; k++) d[i] += x.a[2 * (i / 2 + k / 2 * 2) + k % 2] * y.b[k];
        }
}

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    auto cut = [](uint32_t bits) { return __uint_as_float(bits & 0xFFFFE000u); };
    const Singles* lanes = Given<Singles>::in_warp({{cut(a[0]), cut(a[1]), cut(a[2]), cut(a[3])}, {cut(b0), cut(b1)}});
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            const Singles &x = lanes[4 * g + j], &y = lanes[4 * (2 * t + i % 2) + j];
            for (int k = 0; k < 2; k++) d[i] += x.a[i / 2 + 2 * k] * y.b[k];
        }
}

inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed) {
    using Row = const uint16_t*;
    const Row* rows = Given<Row>::in_warp(static_cast<Row>(row));
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) {
        uint16_t low = transposed ? rows[8 * i + 2 * t][g] : rows[8 * i + g][2 * t];
        uint16_t high = transposed ? rows[8 * i + 2 * t + 1][g] : rows[8 * i + g][2 * t + 1];
        r[i] = low | uint32_t(high) << 16;
    }
    meet_warp();  // Nobody writes there before all have read.
}

// Copies of each thread, those of the latest lot last.
struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool there;
    unsigned lot;
};
inline std::vector<Copy> copies[host::MOST];
inline unsigned lots[host::MOST];

inline void begin_copy(void* to, const void* from, int bytes, bool there) {
    copies[threadIdx.x].push_back({to, from, bytes, there, lots[threadIdx.x]});
}

inline void end_lot() { lots[threadIdx.x]++; }

inline void wait_for_copies(unsigned but) {
    std::vector<Copy>& mine = copies[threadIdx.x];
    size_t n = 0;
    for (; n < mine.size() && mine[n].lot + but < lots[threadIdx.x]; n++) {
        const Copy& c = mine[n];
        if (c.there) memcpy(c.to, c.from, c.bytes);
        else memset(c.to, 0, c.bytes);
    }
    mine.erase(mine.begin(), mine.begin() + n);
}
}  // namespace host

// As __syncthreads; whether `mine` is true of some thread.
inline bool __syncthreads_or(bool mine) {
    static bool all[2][host::MOST];
    static unsigned turns[host::MOST];
    bool(&now)[host::MOST] = all[turns[threadIdx.x]++ % 2];
    now[threadIdx.x] = mine;
    host::meet_block();
    for (bool some : now)
        if (some) return true;
    return false;
}
