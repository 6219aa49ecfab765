// Packed matrices times few rows of activations: a warp computes neighbouring rows of a matrix, lane l groups l, l + 32, ….
//
// Bytes: the weights once for every M rows of activations. Operations: about 2 a weight of 4 bits.
//
// Kernels whose numbers are quantized for the next matrix give a group of 32 of them a block. Clusters of four blocks a group were
// slower (H100, TinyLlama: 11.2 us instead of 7.8 for gate and up).
#pragma once

#include "matrices.cuh"
#include "stream.cuh"

// How a kernel is cut: warps of a block, blocks that a multiprocessor is to hold with one row of activations, and registers for
// weights under way. Of some dozens tried on an H100 with TinyLlama these were the quickest.
struct Cut {
    int warps, blocks, ahead;
};
constexpr Cut QKV = {8, 2, 40}, LOGITS = {8, 3, 20}, ADD = {16, 1, 40}, GATED = {16, 1, 20};

struct OneMatrix {
    const Matrix& m;
    int first;

    DEVICE_MEMBER const Matrix& matrix(int) const { return m; }
    DEVICE_MEMBER int row(int r) const { return min(first + r, m.rows - 1); }
};

struct LinearArgs {
    Matrix matrix;
    Activations x;
    Activations to;       // The sums with what was there, for the next norm.
    const float* weight;  // The next norm's, (matrix.rows).
    float* stream;        // The residual stream, (rows, matrix.rows): added to.
    float eps;            // Of the norm of x.
    int rows;
};

// The sums are added to the residual stream, which is quantized for what comes next. matrix.rows is a multiple of 32.
template <class W, int M>
DEVICE void add_linear(const LinearArgs& a) {
    constexpr int R = GROUP / ADD.warps, N = R * M, ROUNDS = (N + WARP - 1) / WARP;
    __shared__ float group[M][GROUP];
    int g = blockIdx.x, first = blockIdx.y * M, in_group = warp_id() * R, row = g * GROUP + in_group;
    OneMatrix source = {a.matrix, row};
    Stream<W, R, ADD.ahead, OneMatrix> stream(source);
    let_next_begin();
    wait_for_previous();
    float old[ROUNDS];
#pragma unroll
    for (int k = 0; k < ROUNDS; k++) {
        int i = k * WARP + lane_id(), t = first + i % M;
        old[k] = i < N && t < a.rows ? fresh(a.stream + int64_t(t) * a.matrix.rows + row + i / M) : 0.0f;
    }
    float sums[R][M];
    dots(stream, a.x, first, a.rows, a.eps, sums);
#pragma unroll
    for (int k = 0; k < ROUNDS; k++) {
        int i = k * WARP + lane_id(), t = first + i % M;
        if (i >= N || t >= a.rows) continue;
        float sum = old[k] + pick(sums, i);
        a.stream[int64_t(t) * a.matrix.rows + row + i / M] = sum;
        group[i % M][in_group + i / M] = sum;
    }
    __syncthreads();
    for (int t = warp_id(); t < M && first + t < a.rows; t += ADD.warps)
        put_unnormed(a.to, first + t, g, group[t][lane_id()], a.weight);
}

struct LogitsArgs {
    Matrix matrix;
    Activations x;
    float* out;      // (rows, matrix.rows)
    uint64_t* best;  // (rows): the largest logit in its upper half, then the complement of its id.
    float eps;
    int rows;
};

// A logit and its id as one number, of which the largest is the likeliest token, the first among equals. 0 is for what is no
// finite number.
DEVICE uint64_t rank_of(float logit, uint32_t id) {
    uint32_t bits = __float_as_uint(logit);
    if ((bits & 0x7F800000u) == 0x7F800000u) return 0;
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(bits) << 32 | uint32_t(~id);
}

template <class W, int M>
DEVICE void logits(const LogitsArgs& a) {
    constexpr int R = 4, N = R * M;
    __shared__ uint64_t best[M][WARPS];
    int row = (blockIdx.x * WARPS + warp_id()) * R, first = blockIdx.y * M;
    OneMatrix source = {a.matrix, row};
    Stream<W, R, LOGITS.ahead, OneMatrix> stream(source);
    let_next_begin();
    wait_for_previous();
    float sums[R][M];
    dots(stream, a.x, first, a.rows, a.eps, sums);
    for (int i = lane_id(); i < N; i += WARP) {
        int r = row + i / M, t = first + i % M;
        if (r < a.matrix.rows && t < a.rows) a.out[int64_t(t) * a.matrix.rows + r] = pick(sums, i);
    }
    if (lane_id() == 0)
#pragma unroll
        for (int t = 0; t < M; t++) {
            uint64_t most = 0;
#pragma unroll
            for (int r = 0; r < R; r++) {
                uint64_t rank = row + r < a.matrix.rows ? rank_of(sums[r][t], row + r) : 0;
                most = rank > most ? rank : most;
            }
            best[t][warp_id()] = most;
        }
    __syncthreads();
    for (int t = threadIdx.x; t < M && first + t < a.rows; t += THREADS) {
        uint64_t most = 0;
        for (int w = 0; w < WARPS; w++) most = best[t][w] > most ? best[t][w] : most;
        atomic_max(a.best + first + t, most);
    }
}

// Rows that a block of `qkv` gives.
constexpr int PAIRS = 2 * WARPS;

// Blocks go through the parts of this format, one behind the other.
template <class W, int M>
DEVICE void qkv(const QkvArgs& a) {
    int block = blockIdx.x, part = 0;
    for (; part < 3; part++) {
        int blocks = a.parts[part].kind == NONE ? 0 : (a.parts[part].matrix.rows + PAIRS - 1) / PAIRS;
        if (block < blocks) break;
        block -= blocks;
    }
    const Part& p = a.parts[part];
    int row = block * PAIRS + warp_id() * 2, first = blockIdx.y * M;
    OneMatrix source = {p.matrix, row};
    Stream<W, 2, QKV.ahead, OneMatrix> stream(source);
    let_next_begin();
    wait_for_previous();
    float sums[2][M];
    dots(stream, a.x, first, a.rows, a.eps, sums);
    int t = lane_id();
    float x = pick(sums, t), y = pick(sums, M + t);
    if (t < M && first + t < a.rows && row < p.matrix.rows) put_pair(a, p, row, first + t, x, y);
}

struct TwoMatrices {
    const Matrix &gate, &up;
    int first, half;

    DEVICE_MEMBER const Matrix& matrix(int r) const { return r < half ? gate : up; }
    DEVICE_MEMBER int row(int r) const { return first + r % half; }
};

// gate * sigmoid(gate) * up, a group of 32 numbers a block.
template <class W, int M>
DEVICE void gated(const GatedArgs& a) {
    constexpr int R = GROUP / GATED.warps;
    __shared__ float group[M][GROUP];
    int g = blockIdx.x, first = blockIdx.y * M, in_group = warp_id() * R;
    TwoMatrices source = {a.gate, a.up, g * GROUP + in_group, R};
    Stream<W, 2 * R, GATED.ahead, TwoMatrices> stream(source);
    let_next_begin();
    wait_for_previous();
    float sums[2 * R][M];
    dots(stream, a.x, first, a.rows, a.eps, sums);
    for (int i = lane_id(); i < R * M; i += WARP) {
        float gate = pick(sums, i), up = pick(sums, R * M + i);
        float silu = gate / (1.0f + expf(-gate));
        group[i % M][in_group + i / M] = silu * up;
    }
    __syncthreads();
    for (int t = warp_id(); t < M && first + t < a.rows; t += GATED.warps)
        put_group(a.to, first + t, g, group[t][lane_id()], INFINITY);
}

// More rows of activations take more registers.
constexpr int blocks_of(Cut cut, int m) { return m == 1 ? cut.blocks : 1; }

#define CUT_KERNEL(name, Args, a, cut, M) KERNEL_OF(name, Args, a, cut.warps* WARP, blocks_of(cut, M))
// All kernels of a format for M rows of activations at once.
#define ROWS(W, M)                                                              \
    CUT_KERNEL(qkv_##W##_##M, QkvArgs, a, QKV, M) { qkv<W, M>(a); }             \
    CUT_KERNEL(logits_##W##_##M, LogitsArgs, a, LOGITS, M) { logits<W, M>(a); } \
    CUT_KERNEL(add_linear_##W##_##M, LinearArgs, a, ADD, M) { add_linear<W, M>(a); } \
    CUT_KERNEL(gated_##W##_##M, GatedArgs, a, GATED, M) { gated<W, M>(a); }
