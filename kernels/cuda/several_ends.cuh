// What becomes of products with 2 to 16 rows of activations, see several.cuh: as gemv.cuh has it for one.
#pragma once

#include "several.cuh"

namespace several {

struct Adding {
    const LinearArgs& a;
    float2 old;

    DEVICE_MEMBER float2* place(int pair, int row) const {
        return reinterpret_cast<float2*>(a.stream + int64_t(row) * a.matrix.rows) + pair;
    }
    DEVICE_MEMBER void begin(int) {}
    DEVICE_MEMBER void ask(int pair, int row) { old = fresh(place(pair, row)); }
    DEVICE_MEMBER void end(int pair, int row, float x, float y) { *place(pair, row) = make_float2(old.x + x, old.y + y); }
};

struct Gating {
    const GatedArgs& a;

    DEVICE_MEMBER void begin(int) {}
    DEVICE_MEMBER void ask(int, int) {}
    DEVICE_MEMBER void end(int pair, int row, float gate, float up) { a.to.numbers[int64_t(row) * a.to.k + pair] = swiglu(gate, up); }
};

struct Placing {
    const QkvArgs& a;
    const Pairs& source;
    Goes to;

    DEVICE_MEMBER void begin(int) {}
    DEVICE_MEMBER void ask(int pair, int row) { to = goes_to(a, source.pair(pair), row); }
    DEVICE_MEMBER void end(int pair, int row, float x, float y) { put_pair(a, source.pair(pair), row, x, y, to); }
};

// A lane has the best of what it wrote; its row is the same for all tiles.
template <int M>
struct Ranking {
    const LogitsArgs& a;
    uint32_t (&banned)[M][MOST_BANNED];
    int first;
    uint64_t most;

    DEVICE_MEMBER void begin(int row) {
        first = row;
        take_banned(a, row, banned);
    }
    DEVICE_MEMBER void ask(int, int) {}
    DEVICE_MEMBER void end(int pair, int row, float x, float y) {
        put_logit(a, row, 2 * pair, x, banned[row - first], most);
        put_logit(a, row, 2 * pair + 1, y, banned[row - first], most);
    }
};

template <class W, int M>
DEVICE void logits(const LogitsArgs& a) {
    constexpr int LANES = MOST_TEAMS * TEAM * WARP;
    __shared__ uint64_t best[LANES];
    __shared__ uint32_t banned[M][MOST_BANNED];
    OneMatrix<2> source = {a.matrix};
    Ranking<M> to = {a, banned, 0, 0};
    run<W, M, true>(source, a.x, a.rows, to);
    best[threadIdx.x] = to.most;
    __syncthreads();
    for (int row = threadIdx.x; row < M && to.first + row < a.rows; row += blockDim.x) {
        uint64_t most = 0;
        // Warps of the row's half, and its four lanes there.
        for (int w = row / 8; w < int(blockDim.x / WARP); w += M / 8)
            for (int t = 0; t < 4; t++) {
                uint64_t one = best[w * WARP + row % 8 * 4 + t];
                most = one > most ? one : most;
            }
        atomic_max(a.best + to.first + row, most);
    }
}

template <class W, int M>
DEVICE void add_linear(const LinearArgs& a) {
    OneMatrix<2> source = {a.matrix};
    Adding to = {a, {}};
    run<W, M, true>(source, a.x, a.rows, to);
}

template <class W, int M>
DEVICE void gated(const GatedArgs& a) {
    TwoMatrices source = {a.gate, a.up};
    Gating to = {a};
    run<W, M, true>(source, a.x, a.rows, to);
}

// The next kernel is not to begin early: attention reads what steps before this one left before it waits for this kernel.
template <class W, int M>
DEVICE void qkv(const QkvArgs& a) {
    Pairs source = {a};
    Placing to = {a, source, {}};
    run<W, M, false>(source, a.x, a.rows, to);
}

}  // namespace several

#define SEVERAL_KERNEL(name, Args, a) KERNEL_OF(name, Args, a, several::MOST_TEAMS* several::TEAM* WARP, 1)
// All kernels of a format for up to M rows of activations at once.
#define SEVERAL(W, M)                                                                       \
    SEVERAL_KERNEL(qkv_##W##_##M, QkvArgs, a) { several::qkv<W, M>(a); }                    \
    SEVERAL_KERNEL(logits_##W##_##M, LogitsArgs, a) { several::logits<W, M>(a); }           \
    SEVERAL_KERNEL(add_linear_##W##_##M, LinearArgs, a) { several::add_linear<W, M>(a); }   \
    SEVERAL_KERNEL(gated_##W##_##M, GatedArgs, a) { several::gated<W, M>(a); }
