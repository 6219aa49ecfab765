// Packed matrices times few rows of activations: a warp computes neighbouring rows of a matrix, lane l groups l, l + 32, ….
//
// Bytes: the weights once for every M rows of activations. Operations: about 2 a weight of 4 bits. Not yet timed on a GPU.
#include "dot.cuh"
#include "matrices.cuh"

template <class W, int M>
DEVICE void linear(const LinearArgs& a) {
    constexpr int R = 2;
    int row = (blockIdx.x * WARPS + warp_id()) * R, first = blockIdx.y * M;
    if (row >= a.matrix.rows) return;
    float sums[R][M];
    dots<W, R, M>(a.matrix, row, a.x, first, a.rows, sums);
#pragma unroll
    for (int t = 0; t < M; t++) {
        int r = lane_id();
        if (r >= R || row + r >= a.matrix.rows || first + t >= a.rows) continue;
        float sum = r == 0 ? sums[0][t] : sums[1][t];
        float* to = a.out + int64_t(first + t) * a.matrix.rows + row + r;
        *to = a.add ? *to + sum : sum;
    }
}

// Q, K or V, two neighbouring rows a warp: bias, RoPE of a pair (a, b) -> (a cos - b sin, b cos + a sin), keys and values to
// their pages. blockIdx.z is the part.
template <class W, int M>
DEVICE void qkv(const QkvArgs& a) {
    const Part& part = a.parts[blockIdx.z];
    int row = (blockIdx.x * WARPS + warp_id()) * 2, first = blockIdx.y * M;
    if (part.kind == NONE || row >= part.matrix.rows) return;
    float sums[2][M];
    dots<W, 2, M>(part.matrix, row, a.x, first, a.rows, sums);
    int t = lane_id(), row_t = first + t;
    if (t >= M || row_t >= a.rows) return;
    float x = sums[0][0], y = sums[1][0];
#pragma unroll
    for (int i = 1; i < M; i++) {
        x = t == i ? sums[0][i] : x;
        y = t == i ? sums[1][i] : y;
    }
    if (part.bias) {
        x += part.bias[row];
        y += part.bias[row + 1];
    }
    int dim = a.cache.head_dim, head = row / dim, d = row % dim;
    if (part.kind != VALUE) {
        float2 angle = a.angles[int64_t(row_t) * (dim / 2) + d / 2];
        float turned = fmaf(x, angle.x, -(y * angle.y));
        y = fmaf(y, angle.x, x * angle.y);
        x = turned;
    }
    if (part.kind == QUERY) {
        float* to = a.query + int64_t(row_t) * part.matrix.rows + row;
        to[0] = x;
        to[1] = y;
        return;
    }
    int place = a.places[row_t];
    int64_t block = (part.kind == VALUE ? a.cache.kv_heads : 0) + head;
    int64_t at = (place / PAGE) * a.cache.page + a.cache.layer + (block * PAGE + place % PAGE) * dim + d;
    store(a.cache, at, x, y);
}

// gate * sigmoid(gate) * up, 32 numbers a block, which are one group of what the next matrix reads.
template <class W, int M>
DEVICE void gated(const GatedArgs& a) {
    constexpr int R = GROUP / WARPS;
    __shared__ float group[M][GROUP];
    int row = blockIdx.x * GROUP + warp_id() * R, first = blockIdx.y * M;
    float gate[R][M], up[R][M];
    dots<W, R, M>(a.gate, row, a.x, first, a.rows, gate);
    dots<W, R, M>(a.up, row, a.x, first, a.rows, up);
    if (lane_id() == 0)
        for (int r = 0; r < R; r++)
            for (int t = 0; t < M; t++) {
                float silu = gate[r][t] / (1.0f + expf(-gate[r][t]));
                group[t][warp_id() * R + r] = silu * up[r][t];
            }
    __syncthreads();
    int t = warp_id();
    if (t < M && first + t < a.rows) put_group(a.to, first + t, blockIdx.x, group[t][lane_id()], INFINITY);
}

#define KERNELS_OF(W, M)                                        \
    KERNEL(linear_##W##_##M, LinearArgs, a) { linear<W, M>(a); } \
    KERNEL(qkv_##W##_##M, QkvArgs, a) { qkv<W, M>(a); }          \
    KERNEL(gated_##W##_##M, GatedArgs, a) { gated<W, M>(a); }
#define KERNELS(W) KERNELS_OF(W, 1) KERNELS_OF(W, 4)

KERNELS(Affine4)
KERNELS(Affine4Min)
KERNELS(Lut4)
KERNELS(Int8)
KERNELS(Int8Min)
KERNELS(Q4K)
KERNELS(Q6K)
KERNELS(Half)
KERNELS(BHalf)
KERNELS(Single)
