// Matrices times many rows of activations: tiles of 64 rows by 128 rows of a matrix, see tile.cuh, and what becomes of their
// numbers.
//
// blockIdx.y counts tiles along the rows of activations, blockIdx.x along the matrix: neighbouring blocks share activations, and
// all blocks of a matrix that are at work share its weights in L2. 512 rows by 2048 are 128 tiles, for 132 SMs.
#include "gemm.cuh"
#include "gemm_floats.cuh"
#include "matrices.cuh"

namespace tile {

DEVICE void put_four(float* to, const float (&x)[FOUR]) { *reinterpret_cast<float4*>(to) = {x[0], x[1], x[2], x[3]}; }

struct LinearArgs {
    Matrix matrix;
    Activations x;
    float* stream;  // The residual stream, (rows, matrix.rows): added to.
    int rows;
    int pad;
};

// matrix.rows is a multiple of 4.
template <class M>
DEVICE void add_linear(const LinearArgs& a) {
    __shared__ typename M::Room room;
    int first = blockIdx.y * ROWS, columns = blockIdx.x * COLUMNS;
    Sums sums;
    M::multiply(room, source(a.matrix, columns + column_of(threadIdx.x / 2)), a.x, first, a.rows, a.matrix.codebook, sums);
    Place p = place();
    int column = columns + first_column(p), n = a.matrix.rows;
#pragma unroll
    for (int r = 0; r < 2 * WIDE; r++) {
        int row = first + row_of(p, r);
        if (row >= a.rows || column >= n) continue;
        float* to = a.stream + int64_t(row) * n + column;
        float4 old = *reinterpret_cast<const float4*>(to);
        put_four(to, {old.x + sums[r][0], old.y + sums[r][1], old.z + sums[r][2], old.w + sums[r][3]});
    }
}

// Q, K or V: bias, RoPE, keys and values to their pages. blockIdx.x counts the tiles of one part after the other.
template <class M>
DEVICE void qkv(const QkvArgs& a) {
    __shared__ typename M::Room room;
    int tile = blockIdx.x, which = 0;
    for (; which < 2; which++) {
        int tiles = a.parts[which].kind == NONE ? 0 : (a.parts[which].matrix.rows + COLUMNS - 1) / COLUMNS;
        if (tile < tiles) break;
        tile -= tiles;
    }
    const Part& part = a.parts[which];
    int first = blockIdx.y * ROWS, columns = tile * COLUMNS;
    Sums sums;
    M::multiply(room, source(part.matrix, columns + column_of(threadIdx.x / 2)), a.x.ready, first, int(a.rows), part.matrix.codebook, sums);
    Place p = place();
    int column = columns + first_column(p);
    if (column >= part.matrix.rows) return;
    Pair pairs[2] = {pair_of(a, which, column), pair_of(a, which, column + 2)};
#pragma unroll
    for (int r = 0; r < 2 * WIDE; r++) {
        int row = first + row_of(p, r);
        if (row >= a.rows) continue;
        put_pair(a, pairs[0], row, sums[r][0], sums[r][1], goes_to(a, pairs[0], row));
        put_pair(a, pairs[1], row, sums[r][2], sums[r][3], goes_to(a, pairs[1], row));
    }
}

// Quantizes a group of 32 numbers that the eight lanes of a t have, as `put_group` does that of a warp; without rests. All lanes
// come here.
DEVICE void put_group_of_eight(const Activations& to, int64_t row, int column, const float (&x)[FOUR], bool there) {
    float largest = fmaxf(fmaxf(fabsf(x[0]), fabsf(x[1])), fmaxf(fabsf(x[2]), fabsf(x[3])));
    for (int o = 4; o < WARP; o *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, o));
    float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    uint32_t word = 0;
    int sum = 0;
#pragma unroll
    for (int i = 0; i < FOUR; i++) {
        int code = __float2int_rn(x[i] * inverse);
        sum += code;
        word |= uint32_t(code & 0xFF) << 8 * i;
    }
    for (int o = 4; o < WARP; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
    if (!there) return;
    int64_t at = row * to.k + column;
    *reinterpret_cast<uint32_t*>(to.codes + at) = word;
    put_four(to.numbers + at, x);
    if (column % GROUP == 0) to.scales[at / GROUP] = {largest / 127.0f, sum, 0.0f, 0};
}

// gate * sigmoid(gate) * up, quantized. Half of the tile's columns are the gate's, the other half are the same of `up`, which
// their warps hand over when all is added.
template <class M>
DEVICE void gated(const GatedArgs& a) {
    constexpr int N = COLUMNS / 2;
    union Room {
        typename M::Room stages;
        float up[ROWS][N];
    };
    __shared__ Room room;
    int first = blockIdx.y * ROWS, columns = blockIdx.x * N, slot = column_of(threadIdx.x / 2);
    Place p = place();
    bool is_up = p.column >= N;
    const Matrix &copied = slot < N ? a.gate : a.up, &multiplied = is_up ? a.up : a.gate;
    Sums sums;
    M::multiply(room.stages, source(copied, columns + slot % N), a.x.ready, first, int(a.rows), multiplied.codebook, sums);
    int column = first_column(p) % N;
    if (is_up)
#pragma unroll
        for (int r = 0; r < 2 * WIDE; r++) put_four(room.up[row_of(p, r)] + column, sums[r]);
    __syncthreads();
    if (is_up) return;
#pragma unroll
    for (int r = 0; r < 2 * WIDE; r++) {
#pragma unroll
        for (int i = 0; i < FOUR; i++) {
            float gate = sums[r][i];
            sums[r][i] = gate / (1.0f + expf(-gate)) * room.up[row_of(p, r)][column + i];
        }
        int row = first + row_of(p, r);
        put_group_of_eight(a.to, row, columns + column, sums[r], row < a.rows && columns + column < a.gate.rows);
    }
}

}  // namespace tile

#define TILES(W, M)                                                                                                    \
    KERNEL_OF(add_linear_##W##_many, tile::LinearArgs, a, THREADS, 2) { tile::add_linear<tile::M>(a); } \
    KERNEL_OF(qkv_##W##_many, QkvArgs, a, THREADS, 2) { tile::qkv<tile::M>(a); }                                         \
    KERNEL_OF(gated_##W##_many, GatedArgs, a, THREADS, 2) { tile::gated<tile::M>(a); }

TILES(Affine4, Packed<tile::Affine4>)
TILES(Affine4Min, Packed<tile::Affine4Min>)
TILES(Lut4, Packed<tile::Lut4>)
TILES(Int8, Packed<tile::Int8>)
TILES(Int8Min, Packed<tile::Int8Min>)
TILES(Q4K, Packed<tile::Q4K>)
TILES(Q6K, Packed<tile::Q6K>)
TILES(Half, InFloats<tile::Half>)
TILES(BHalf, InFloats<tile::BHalf>)
TILES(Single, InFloats<tile::Single>)
