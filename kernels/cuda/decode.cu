// Attention for few rows over keys and values in f16: a block goes through 128 positions for all query heads that share a key
// head, so that keys and values are read once for them. The last block of a row and key head to be done joins the chunks, in the
// order of positions, and quantizes the result.
//
// Sizes of heads and groups that are not compiled here take the kernels of attention.cu.
#include "quantize.cuh"
#include "softmax.cuh"

// Positions of a chunk.
constexpr int SPAN = 128;
static_assert(THREADS == 2 * SPAN, "two threads score a position");

struct DecodeArgs {
    const float* query;    // (rows, heads, D)
    const uint8_t* cache;  // (pages, layers, K | V, kv_heads, PAGE, D) in f16
    int64_t page;          // Numbers of a page.
    int64_t layer;         // From a page's first number to the layer's.
    const int* tables;     // Block tables, one behind the other.
    const int* table;      // (rows): where the row's begins.
    const int* positions;  // (rows)
    float* partials;       // (rows, heads, chunks, D + 2): numbers, top, total.
    uint32_t* counters;    // (rows, kv_heads): zero.
    float* out;            // (rows, heads, D)
    Activations to;        // The same, quantized.
    float scale;
    int heads;
    int kv_heads;
    int window;  // Positions that a row sees.
    int chunks;  // Of the longest context for which there is room: blocks in x.
    int pad;
};

// f16 numbers 2i and 2i + 1 of a word.
DEVICE float2 two_halves(uint32_t w) {
#ifdef __CUDACC__
    return __half22float2(*reinterpret_cast<const half2*>(&w));
#else
    return make_float2(half_bits(w & 0xFFFF), half_bits(w >> 16));
#endif
}

// What a block shares. Halves of a query lie a bit more apart, so that two threads with one position each read other banks.
template <int D, int H>
struct DecodeRoom {
    float query[H][2][D / 2 + 4];
    float scores[H][SPAN];  // then probabilities
    float sums[WARPS][H][D];
    Softmax softmax[H];
};

// Scores of this thread's half of a position; both of a pair have the whole.
template <int D, int H>
DEVICE void score(const DecodeArgs& a, const DecodeRoom<D, H>& room, const uint4 (&key)[D / 16], float (&scores)[H]) {
    int half = threadIdx.x % 2;
#pragma unroll
    for (int j = 0; j < H; j++) scores[j] = 0.0f;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        float2 k[4] = {two_halves(key[i].x), two_halves(key[i].y), two_halves(key[i].z), two_halves(key[i].w)};
#pragma unroll
        for (int j = 0; j < H; j++) {
            const float4* q = reinterpret_cast<const float4*>(&room.query[j][half][8 * i]);
            float4 q0 = q[0], q1 = q[1];
            float s = scores[j];
            s = fmaf(q0.x, k[0].x, s), s = fmaf(q0.y, k[0].y, s), s = fmaf(q0.z, k[1].x, s), s = fmaf(q0.w, k[1].y, s);
            s = fmaf(q1.x, k[2].x, s), s = fmaf(q1.y, k[2].y, s), s = fmaf(q1.z, k[3].x, s), s = fmaf(q1.w, k[3].y, s);
            scores[j] = s;
        }
    }
#pragma unroll
    for (int j = 0; j < H; j++) scores[j] = (scores[j] + __shfl_xor_sync(~0u, scores[j], 1)) * a.scale;
}

// The chunks from..end of a row and key head become one answer, which is quantized. Weights of chunks are worked out SPAN at a time.
template <int D, int H>
DEVICE void join_chunks(const DecodeArgs& a, DecodeRoom<D, H>& room, int row, int first, int count, int from, int end) {
    auto partial = [&](int j, int c) { return a.partials + ((int64_t(row) * a.heads + first + j) * a.chunks + c) * (D + 2); };
    for (int j = warp_id(); j < count; j += WARPS) {
        float top = -INFINITY, total = 0.0f;
        for (int c = from + lane_id(); c < end; c += WARP) top = fmaxf(top, fresh(partial(j, c) + D));
        top = warp_max(top);
        for (int c = from + lane_id(); c < end; c += WARP)
            total = fmaf(fresh(partial(j, c) + D + 1), expf(fresh(partial(j, c) + D) - top), total);
        total = warp_sum(total);
        if (lane_id() == 0) room.softmax[j] = {top, total};
    }
    constexpr int EACH = (H * D + THREADS - 1) / THREADS;
    float sums[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) sums[k] = 0.0f;
    for (int tile = from; tile < end; tile += SPAN) {
        int n = min(SPAN, end - tile);
        __syncthreads();
        for (int i = threadIdx.x; i < count * n; i += THREADS) {
            int j = i / n, c = i % n;
            room.scores[j][c] = expf(fresh(partial(j, tile + c) + D) - room.softmax[j].top);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            int i = k * THREADS + threadIdx.x, j = i / D;
            if (i >= count * D) break;
#pragma unroll 8
            for (int c = 0; c < n; c++) sums[k] = fmaf(fresh(partial(j, tile + c) + i % D), room.scores[j][c], sums[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int i = k * THREADS + threadIdx.x, j = i / D;
        if (i >= count * D) break;
        float x = sums[k] / room.softmax[j].total;
        a.out[(int64_t(row) * a.heads + first) * D + i] = x;
        put_group(a.to, row, (first * D + i) / GROUP, x, INFINITY);
    }
}

template <int D, int H>
DEVICE void decode(const DecodeArgs& a) {
    static_assert(D % GROUP == 0, "a warp of join_chunks has one group");
    __shared__ __align__(16) DecodeRoom<D, H> room;
    let_next_begin();
    wait_for_previous();
    int row = blockIdx.z, kv = blockIdx.y, chunk = blockIdx.x, count = a.heads / a.kv_heads;
    int end = fresh(a.positions + row) + 1, begin = max(0, end - a.window);
    int from = max(begin, chunk * SPAN), n = min(end, (chunk + 1) * SPAN) - from;
    if (n <= 0) return;
    // Everything that is read from far is asked for first. A chunk is a few pages; the last is taken for those behind it.
    constexpr int PAGES = SPAN / PAGE;
    const int* table = a.tables + fresh(a.table + row) + chunk * PAGES;
    int pages[PAGES];
#pragma unroll
    for (int i = 0; i < PAGES; i++) pages[i] = fresh(table + min(i, (end - 1) / PAGE - chunk * PAGES));
    // Where the key (or value) of a position begins.
    auto place = [&](int block, int position) {
        int i = position / PAGE % PAGES, id = pages[0];
#pragma unroll
        for (int j = 1; j < PAGES; j++) id = i == j ? pages[j] : id;
        return a.cache + 2 * (id * a.page + a.layer + (int64_t(block) * PAGE + position % PAGE) * D);
    };
    constexpr int LINES = SPAN / WARPS, PAIRS = D / WARP / 2;
    int mine = threadIdx.x / 2;
    uint4 key[D / 16];
    const uint4* keys = reinterpret_cast<const uint4*>(place(kv, from + min(mine, n - 1))) + threadIdx.x % 2 * (D / 16);
#pragma unroll
    for (int i = 0; i < D / 16; i++) key[i] = fresh(keys + i);
    uint32_t values[LINES][PAIRS];
#pragma unroll
    for (int i = 0; i < LINES; i++) {
        int p = min(warp_id() + i * WARPS, n - 1);
        const uint32_t* line = reinterpret_cast<const uint32_t*>(place(a.kv_heads + kv, from + p));
#pragma unroll
        for (int j = 0; j < PAIRS; j++) values[i][j] = fresh(line + j * WARP + lane_id());
    }
    const float* query = a.query + (int64_t(row) * a.heads + kv * count) * D;
    for (int i = threadIdx.x; i < count * D; i += THREADS) {
        int d = i % D;
        room.query[i / D][d / (D / 2)][d % (D / 2)] = fresh(query + i);
    }
    __syncthreads();
    float scores[H];
    score<D, H>(a, room, key, scores);
    if (threadIdx.x % 2 == 0 && mine < n)
#pragma unroll
        for (int j = 0; j < H; j++) room.scores[j][mine] = scores[j];
    __syncthreads();
    for (int j = warp_id(); j < count; j += WARPS) {
        Softmax s = exponentials(room.scores[j], n);
        if (lane_id() == 0) room.softmax[j] = s;
    }
    __syncthreads();
    float2 sums[H][PAIRS];
#pragma unroll
    for (int j = 0; j < H; j++)
#pragma unroll
        for (int k = 0; k < PAIRS; k++) sums[j][k] = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < LINES; i++) {
        int p = warp_id() + i * WARPS;
        if (p >= n) break;
#pragma unroll
        for (int k = 0; k < PAIRS; k++) {
            float2 value = two_halves(values[i][k]);
#pragma unroll
            for (int j = 0; j < H; j++) {
                float weight = room.scores[j][p];
                sums[j][k].x = fmaf(weight, value.x, sums[j][k].x);
                sums[j][k].y = fmaf(weight, value.y, sums[j][k].y);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < H; j++)
#pragma unroll
        for (int k = 0; k < PAIRS; k++)
            if (j < count) reinterpret_cast<float2*>(room.sums[warp_id()][j])[k * WARP + lane_id()] = sums[j][k];
    __syncthreads();
    int first_chunk = begin / SPAN, chunks = (end + SPAN - 1) / SPAN;
    for (int i = threadIdx.x; i < count * D; i += THREADS) {
        int j = i / D, d = i % D, head = kv * count + j;
        float sum = room.sums[0][j][d];
        for (int w = 1; w < WARPS; w++) sum += room.sums[w][j][d];
        if (chunks - first_chunk == 1) {
            float x = sum / room.softmax[j].total;
            a.out[(int64_t(row) * a.heads + head) * D + d] = x;
            put_group(a.to, row, (head * D + d) / GROUP, x, INFINITY);
            continue;
        }
        float* partial = a.partials + ((int64_t(row) * a.heads + head) * a.chunks + chunk) * (D + 2);
        partial[d] = sum;
        if (d == 0) partial[D] = room.softmax[j].top, partial[D + 1] = room.softmax[j].total;
    }
    if (chunks - first_chunk == 1) return;
    if (!is_last(a.counters + row * a.kv_heads + kv, chunks - first_chunk)) return;
    join_chunks<D, H>(a, room, row, kv * count, count, first_chunk, chunks);
}

#define DECODE(D, H) \
    KERNEL(decode_##D##_##H, DecodeArgs, a) { decode<D, H>(a); }
DECODE(64, 4)
DECODE(64, 8)
DECODE(128, 4)
DECODE(128, 8)
