// Matrices times one row of activations, those in floating point times up to 4: a warp computes rows of a matrix, lane l groups l, l + 32, ….
//
// Bytes: the weights once for every M rows of activations. Operations: about 2 a weight of 4 bits.
//
// A grid is as many blocks as there are multiprocessors, each with as many warps as it takes to have all tiles, or to have them in
// a few turns, and as many as sharing multiprocessors asks for: `Few::cut` of few.rs.
#pragma once

#include "matrices.cuh"
#include "step.cuh"
#include "stream.cuh"

// Registers of a thread, at most. Kernels of two kinds take turns, those that add to the residual stream and the others, and with 16 warps
// in a block a block of either has room beside one of the other: a kernel begins, and asks for its weights, while the one in front of it
// computes. Two blocks of one kernel are not to be beside each other, since a multiprocessor without any would have nothing to do then: two
// of those that add take too much shared memory, and leave too little of it to two of the others, see few.rs. H100, matrices of a token of
// TinyLlama: 334 us, 352 where two of one do meet, 382 where no two do. Those of 8 bits and more share nothing.
template <class W>
constexpr int most_registers(int m, bool adds) {
    if (W::FLOAT) return m > 1 ? 255 : 128;
    return IS_LONG<W> ? (adds ? 64 : 80) : adds ? 56 : 72;
}
// Warps of a block of the head, which has none of its like before or behind it: `Few::most_warps` of few.rs.
template <class W>
constexpr int most_warps(int m) { return m > 1 ? 8 : W::FLOAT ? 16 : 24; }

// A tile is R neighbouring rows.
template <int R>
struct OneMatrix {
    static constexpr bool IS_FIXED = true;
    const Matrix& m;

    DEVICE_MEMBER const Matrix& matrix(int, int) const { return m; }
    DEVICE_MEMBER int row(int tile, int r) const { return min(tile * R + r, m.rows - 1); }
    DEVICE_MEMBER int tiles() const { return (m.rows + R - 1) / R; }
};

struct LinearArgs {
    Matrix matrix;
    Input x;
    float* stream;  // The residual stream, (rows, matrix.rows): added to.
    int rows;
    int pad;
};

template <class W, int M>
DEVICE void add_linear(const LinearArgs& a) {
    LAUNCH_SHARED(room);
    int first = blockIdx.y * M, rows = a.rows, t = first + lane_id();
    OneMatrix<1> source = {a.matrix};
    Taken<W, M, false> taken(a.x, first, rows, room);
    Stream<W, 1, OneMatrix<1>> stream(source, a.matrix.k, source.tiles(), room + taken.bytes());
    let_next_begin();
    wait_for_previous();
    taken.ask();
    bool writes = lane_id() < M && t < rows;
    auto place = [&](int tile) { return a.stream + int64_t(t) * a.matrix.rows + tile; };
    auto before = [&](int tile) { return writes && tile < source.tiles() ? fresh(place(tile)) : 0.0f; };
    float old = before(stream.first());
    taken.take();
    multiply<1>(stream, taken, [&](int tile, const float(&sums)[M][1]) {
        if (writes) *place(tile) = old + pick(sums, lane_id(), 0);
        old = before(tile + stream.stride());
    });
}

struct LogitsArgs {
    Matrix matrix;
    Input x;
    float* out;      // (rows, matrix.rows)
    uint64_t* best;  // (rows): the largest logit in its upper half, then the complement of its id.
    const Drawn* draws;  // (rows): ids that may not come; null where all may.
    int rows;
    int pad;
};

// Which ids may not come, of M rows from `first` on; a block's threads see them behind the next barrier.
template <int M>
DEVICE void take_banned(const LogitsArgs& a, int first, uint32_t (&banned)[M][MOST_BANNED]) {
    for (int i = threadIdx.x; i < M * MOST_BANNED; i += blockDim.x) {
        int t = min(first + i / MOST_BANNED, a.rows - 1);
        banned[i / MOST_BANNED][i % MOST_BANNED] = a.draws ? fresh(a.draws[t].banned + i % MOST_BANNED) : NO_TOKEN;
    }
}

// Writes a row's logit, and keeps its rank if it is the most so far and may come.
DEVICE void put_logit(const LogitsArgs& a, int row, int id, float logit, const uint32_t (&banned)[MOST_BANNED], uint64_t& most) {
    if (id >= a.matrix.rows) return;
    a.out[int64_t(row) * a.matrix.rows + id] = logit;
    uint64_t rank = rank_of(logit, id);
    bool is_better = rank > most;
#pragma unroll
    for (int b = 0; b < MOST_BANNED; b++) is_better = is_better && banned[b] != uint32_t(id);
    most = is_better ? rank : most;
}

template <class W, int M>
DEVICE void logits(const LogitsArgs& a) {
    constexpr int R = 2;
    __shared__ uint64_t best[M][WARP];
    __shared__ uint32_t banned[M][MOST_BANNED];
    LAUNCH_SHARED(room);
    int first = blockIdx.y * M, rows = a.rows;
    OneMatrix<R> source = {a.matrix};
    Taken<W, M, true> taken(a.x, first, rows, room);
    Stream<W, R, OneMatrix<R>> stream(source, a.matrix.k, source.tiles(), room + taken.bytes());
    let_next_begin();
    wait_for_previous();
    taken.ask();
    take_banned(a, first, banned);
    // All threads of the block meet here.
    taken.take();
    if (M > 1) __syncthreads();
    // Lane t has the best of row t.
    uint64_t most = 0;
    multiply<R>(stream, taken, [&](int tile, const float(&sums)[M][R]) {
        int t = lane_id();
        if (t >= M || first + t >= rows) return;
#pragma unroll
        for (int r = 0; r < R; r++) put_logit(a, first + t, tile * R + r, pick(sums, t, r), banned[t], most);
    });
    if (lane_id() < M) best[lane_id()][warp_id()] = most;
    __syncthreads();
    for (int t = threadIdx.x; t < M && first + t < rows; t += blockDim.x) {
        for (int w = 0; w < int(blockDim.x / WARP); w++) most = best[t][w] > most ? best[t][w] : most;
        atomic_max(a.best + first + t, most);
    }
}

// The rows of two neighbouring numbers of Q, K or V; blocks go through the parts of this format, one behind the other.
struct Pairs {
    static constexpr bool IS_FIXED = false;
    const QkvArgs& a;

    struct Place {
        int part, pair;
    };
    DEVICE_MEMBER static int pairs(const Part& p) { return p.kind == NONE ? 0 : p.matrix.rows / 2; }
    DEVICE_MEMBER int tiles() const { return pairs(a.parts[0]) + pairs(a.parts[1]) + pairs(a.parts[2]); }
    DEVICE_MEMBER Place at(int tile) const {
        int first = pairs(a.parts[0]), second = first + pairs(a.parts[1]);
        if (tile < first) return {0, tile};
        if (tile < second) return {1, tile - first};
        return {2, tile - second};
    }
    DEVICE_MEMBER const Matrix& matrix(int tile, int) const { return a.parts[at(tile).part].matrix; }
    DEVICE_MEMBER int row(int tile, int r) const { return 2 * at(tile).pair + r; }
    DEVICE_MEMBER Pair pair(int tile) const { return pair_of(a, at(tile).part, 2 * at(tile).pair); }
};

template <class W, int M>
DEVICE void qkv(const QkvArgs& a, Share share = whole_grid()) {
    LAUNCH_SHARED(room);
    int first = blockIdx.y * M, t = lane_id();
    Pairs source = {a};
    Taken<W, M, true> taken(a.x, first, a.rows, room);
    Stream<W, 2, Pairs> stream(source, int(a.x.row.k), source.tiles(), room + taken.bytes(), share);
    Pair pair = source.pair(min(stream.first(), source.tiles() - 1));
    wait_for_previous();
    // Not before: attention reads what steps before this one left before it waits for this kernel.
    let_next_begin();
    taken.ask();
    bool writes = t < M && first + t < a.rows;
    Goes to = writes && stream.first() < source.tiles() ? goes_to(a, pair, first + t) : Goes{};
    taken.take();
    multiply<2>(stream, taken, [&](int tile, const float(&sums)[M][2]) {
        if (writes) put_pair(a, pair, first + t, pick(sums, t, 0), pick(sums, t, 1), to);
        tile += stream.stride();
        if (tile >= source.tiles()) return;
        pair = source.pair(tile);
        if (writes) to = goes_to(a, pair, first + t);
    });
}

// Parts of two formats at once: the first `split` blocks have those of the one.
struct TwoQkvArgs {
    QkvArgs first, second;
    int64_t split;
};

template <class V, class W>
DEVICE void two_qkv(const TwoQkvArgs& a) {
    int block = blockIdx.x, split = int(a.split);
    if (block < split) qkv<V, 1>(a.first, {block, split});
    else qkv<W, 1>(a.second, {block - split, int(gridDim.x) - split});
}

// A row of the gate and the same of `up`.
struct TwoMatrices {
    static constexpr bool IS_FIXED = true;
    const Matrix &gate, &up;

    DEVICE_MEMBER const Matrix& matrix(int, int r) const { return r ? up : gate; }
    DEVICE_MEMBER int row(int tile, int) const { return tile; }
    DEVICE_MEMBER int tiles() const { return gate.rows; }
};

template <class W, int M>
DEVICE void gated(const GatedArgs& a) {
    LAUNCH_SHARED(room);
    int first = blockIdx.y * M, t = lane_id();
    TwoMatrices source = {a.gate, a.up};
    Taken<W, M, true> taken(a.x, first, a.rows, room);
    Stream<W, 2, TwoMatrices> stream(source, a.gate.k, source.tiles(), room + taken.bytes());
    let_next_begin();
    wait_for_previous();
    taken.ask();
    taken.take();
    multiply<2>(stream, taken, [&](int tile, const float(&sums)[M][2]) {
        float numbers = swiglu(pick(sums, t, 0), pick(sums, t, 1));
        if (t < M && first + t < a.rows) a.to.numbers[int64_t(first + t) * a.to.k + tile] = numbers;
    });
}

// All kernels of a format for M rows of activations at once.
#define ROWS(W, M)                                                                                                   \
    KERNEL_WITHIN(qkv_##W##_##M, QkvArgs, a, most_registers<W>(M, false)) { qkv<W, M>(a); }                          \
    KERNEL_OF(logits_##W##_##M, LogitsArgs, a, most_warps<W>(M) * WARP, 1) { logits<W, M>(a); }                      \
    KERNEL_WITHIN(add_linear_##W##_##M, LinearArgs, a, most_registers<W>(M, true)) { add_linear<W, M>(a); }          \
    KERNEL_WITHIN(gated_##W##_##M, GatedArgs, a, most_registers<W>(M, false)) { gated<W, M>(a); }
