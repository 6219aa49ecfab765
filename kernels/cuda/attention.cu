// Causal attention over paged keys and values, in chunks of 256 positions: a block for up to 8 query heads that share a key
// head, so that keys and values are read once for them.
//
// Few rows: a block a chunk, and `attend_join` joins the chunks. Many rows: a block goes through all chunks of its row. Both
// join in the same order with the same arithmetic, so they give the same bits.
#include "kept.cuh"
#include "softmax.cuh"

constexpr int CHUNK = 256;
constexpr int HEADS = 8;
constexpr int MAX_DIM = 256;
static_assert(CHUNK == THREADS, "a thread scores a position");

struct AttendArgs {
    const float* query;    // (rows, heads, head_dim)
    const uint8_t* cache;  // (pages, layers, K | V, kv_heads, PAGE, head_dim), see kept.cuh.
    int64_t page;          // Units of a page.
    int64_t layer;         // From a page's first unit to the layer's.
    const int* tables;     // Block tables, one behind the other.
    const int* table;      // (rows): where the row's begins.
    const int* positions;  // (rows)
    float* partials;       // (rows, heads, chunks, head_dim + 2): numbers, top, total.
    float* out;            // (rows, heads, head_dim)
    float scale;
    int heads;
    int kv_heads;
    int head_dim;
    int window;  // Positions that a row sees.
    int chunks;  // Of the longest context of the step.
    int kept;    // A `Kept`.
    int pad;
};

// What a block shares.
struct Room {
    float query[HEADS][MAX_DIM];
    float scores[HEADS][CHUNK];
    float sums[HEADS][THREADS];
    Softmax softmax[HEADS];
};

// The heads of a block: all of one key head, in turns of HEADS.
struct Heads {
    int kv, first, count;
};

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

DEVICE Heads heads_of(const AttendArgs& a) {
    int group = a.heads / a.kv_heads, turns = ceil_div(group, HEADS);
    int kv = blockIdx.y / turns, turn = blockIdx.y % turns;
    return {kv, kv * group + turn * HEADS, min(HEADS, group - turn * HEADS)};
}

// The number, or code, `at` of the cache, and the 7 behind it.
DEVICE void eight(const AttendArgs& a, int64_t at, float (&x)[8]) {
    if (a.kept == IN_Q8_0) {
        uint2 q = *reinterpret_cast<const uint2*>(a.cache + at);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = float(int8_t((i < 4 ? q.x : q.y) >> 8 * (i % 4)));
    } else if (a.kept == IN_F16) {
        uint4 q = *reinterpret_cast<const uint4*>(a.cache + 2 * at);
        uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = half_bits(words[i / 2] >> 16 * (i % 2));
    } else {
        const float4* q = reinterpret_cast<const float4*>(a.cache + 4 * at);
        float4 low = q[0], high = q[1];
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    }
}

// Where a block of keys (or values) of a position's page begins, and where the position's own do.
DEVICE int64_t block_at(const AttendArgs& a, const int* table, int block, int position) {
    return table[position / PAGE] * a.page + a.layer + block * block_units(a.kept, a.head_dim);
}

DEVICE int64_t place(const AttendArgs& a, const int* table, int block, int position) {
    return block_at(a, table, block, position) + position % PAGE * a.head_dim;
}

DEVICE float scale_at(const AttendArgs& a, const int* table, int block, int position) {
    return scale_of(a.cache, a.kept, a.head_dim, block_at(a, table, block, position), position % PAGE);
}

DEVICE void load_queries(const AttendArgs& a, Heads h, Room& room) {
    const float* from = a.query + (int64_t(blockIdx.z) * a.heads + h.first) * a.head_dim;
    for (int i = threadIdx.x; i < h.count * a.head_dim; i += THREADS) {
        room.query[i / a.head_dim][i % a.head_dim] = from[i];
    }
    __syncthreads();
}

// Weights of values become those of their codes, a thread a position.
DEVICE void scale_weights(const AttendArgs& a, Heads h, const int* table, int from, Room& room) {
    float scale = scale_at(a, table, a.kv_heads + h.kv, from + threadIdx.x);
    for (int j = 0; j < h.count; j++) room.scores[j][threadIdx.x] *= scale;
}

// Positions from..to, at most a chunk: afterwards the block's `softmax` is that of the scores, and thread d < head_dim has
// in sums[head][d] the values' numbers d, weighted by exp(score - top).
DEVICE void chunk(const AttendArgs& a, Heads h, const int* table, int from, int to, Room& room) {
    int n = to - from;
    if (int(threadIdx.x) < n) {
        int64_t at = place(a, table, h.kv, from + threadIdx.x);
        float scale = a.scale * scale_at(a, table, h.kv, from + threadIdx.x), scores[HEADS];
#pragma unroll
        for (int j = 0; j < HEADS; j++) scores[j] = 0.0f;
        for (int d = 0; d < a.head_dim; d += 8) {
            float key[8];
            eight(a, at + d, key);
#pragma unroll
            for (int j = 0; j < HEADS; j++)
                if (j < h.count)
#pragma unroll
                    for (int i = 0; i < 8; i++) scores[j] = fmaf(room.query[j][d + i], key[i], scores[j]);
        }
#pragma unroll
        for (int j = 0; j < HEADS; j++)
            if (j < h.count) room.scores[j][threadIdx.x] = scores[j] * scale;
    }
    __syncthreads();
    for (int j = warp_id(); j < h.count; j += WARPS) {
        Softmax s = exponentials(room.scores[j], n);
        if (lane_id() == 0) room.softmax[j] = s;
    }
    __syncthreads();
    if (a.kept == IN_Q8_0) {
        if (int(threadIdx.x) < n) scale_weights(a, h, table, from, room);
        __syncthreads();
    }
    int slices = THREADS / a.head_dim, d = threadIdx.x % a.head_dim, slice = threadIdx.x / a.head_dim;
    if (slice < slices) {
        float sums[HEADS];
#pragma unroll
        for (int j = 0; j < HEADS; j++) sums[j] = 0.0f;
        for (int p = slice; p < n; p += slices) {
            float value = number_of(a.cache, a.kept, place(a, table, a.kv_heads + h.kv, from + p) + d);
#pragma unroll
            for (int j = 0; j < HEADS; j++)
                if (j < h.count) sums[j] = fmaf(room.scores[j][p], value, sums[j]);
        }
#pragma unroll
        for (int j = 0; j < HEADS; j++)
            if (j < h.count) room.sums[j][threadIdx.x] = sums[j];
    }
    __syncthreads();
    if (int(threadIdx.x) < a.head_dim)
        for (int j = 0; j < h.count; j++) {
            float sum = room.sums[j][threadIdx.x];
            for (int s = 1; s < slices; s++) sum += room.sums[j][s * a.head_dim + threadIdx.x];
            room.sums[j][threadIdx.x] = sum;
        }
}

// The positions that a row sees: first and end.
DEVICE int2 seen(const AttendArgs& a, int row) {
    int end = a.positions[row] + 1;
    return make_int2(max(0, end - a.window), end);
}

KERNEL(attend_chunk, AttendArgs, a) {
    __shared__ Room room;
    Heads h = heads_of(a);
    int row = blockIdx.z;
    int2 see = seen(a, row);
    int from = max(see.x, int(blockIdx.x) * CHUNK), to = min(see.y, (int(blockIdx.x) + 1) * CHUNK);
    if (from >= to) return;
    load_queries(a, h, room);
    chunk(a, h, a.tables + a.table[row], from, to, room);
    int dim = a.head_dim;
    for (int j = 0; j < h.count; j++) {
        float* partial = a.partials + ((int64_t(row) * a.heads + h.first + j) * a.chunks + blockIdx.x) * (dim + 2);
        if (int(threadIdx.x) < dim) partial[threadIdx.x] = room.sums[j][threadIdx.x];
        if (threadIdx.x == 0) partial[dim] = room.softmax[j].top, partial[dim + 1] = room.softmax[j].total;
    }
}

// A block a row and head: the chunks' answers become one.
KERNEL(attend_join, AttendArgs, a) {
    int head = blockIdx.y, row = blockIdx.z, dim = a.head_dim, d = threadIdx.x;
    int2 see = seen(a, row);
    if (d >= dim) return;
    Softmax all = {-INFINITY, 0.0f};
    float sum = 0.0f;
    for (int c = see.x / CHUNK; c * CHUNK < see.y; c++) {
        const float* partial = a.partials + ((int64_t(row) * a.heads + head) * a.chunks + c) * (dim + 2);
        Joined joined = join(all, {partial[dim], partial[dim + 1]});
        sum = fmaf(partial[d], joined.b, sum * joined.a);
        all = joined.both;
    }
    a.out[(int64_t(row) * a.heads + head) * dim + d] = sum / all.total;
}

// A block goes through all of a row's chunks.
KERNEL(attend_row, AttendArgs, a) {
    __shared__ Room room;
    Heads h = heads_of(a);
    int row = blockIdx.z, dim = a.head_dim, d = threadIdx.x;
    int2 see = seen(a, row);
    load_queries(a, h, room);
    Softmax all[HEADS];
    float sums[HEADS];
#pragma unroll
    for (int j = 0; j < HEADS; j++) all[j] = {-INFINITY, 0.0f}, sums[j] = 0.0f;
    for (int c = see.x / CHUNK; c * CHUNK < see.y; c++) {
        chunk(a, h, a.tables + a.table[row], max(see.x, c * CHUNK), min(see.y, (c + 1) * CHUNK), room);
#pragma unroll
        for (int j = 0; j < HEADS; j++)
            if (j < h.count && d < dim) {
                Joined joined = join(all[j], room.softmax[j]);
                sums[j] = fmaf(room.sums[j][d], joined.b, sums[j] * joined.a);
                all[j] = joined.both;
            }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < HEADS; j++)
        if (j < h.count && d < dim) a.out[(int64_t(row) * a.heads + h.first + j) * dim + d] = sums[j] / all[j].total;
}
