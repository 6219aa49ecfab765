// Causal attention as it is written down: all scores of a query in memory, their softmax, the sum of the values. Slow, and what
// the other kernels of attention are checked by (--flash-attention off).
#include "kept.cuh"

namespace plain {

struct PlainArgs {
    const float* query;    // (rows, heads, head_dim)
    const uint8_t* cache;  // (pages, layers, K | V, kv_heads, PAGE, head_dim), see kept.cuh.
    int64_t page;          // Units of a page.
    int64_t layer;         // From a page's first unit to the layer's.
    const int* tables;     // Block tables, one behind the other.
    const int* table;      // (rows): where the row's begins.
    const int* positions;  // (rows)
    float* scores;         // (rows from `first` on, heads, context)
    float* out;            // (rows, heads, head_dim)
    int64_t context;
    float scale;
    int heads;
    int kv_heads;
    int head_dim;
    int window;   // Positions that a row sees.
    int kept;     // A `Kept`.
    int first;    // The row of blockIdx.z = 0.
    int pad;
};

DEVICE int row(const PlainArgs& a) { return a.first + blockIdx.z; }
DEVICE int start(const PlainArgs& a) { return max(0, a.positions[row(a)] + 1 - a.window); }
DEVICE int end(const PlainArgs& a) { return a.positions[row(a)] + 1; }

DEVICE float* scores(const PlainArgs& a) { return a.scores + (int64_t(blockIdx.z) * a.heads + blockIdx.y) * a.context; }

// Number d of the key, or the value, of a position.
DEVICE float number(const PlainArgs& a, bool is_value, int position, int d) {
    int64_t head = (is_value ? a.kv_heads : 0) + int(blockIdx.y) / (a.heads / a.kv_heads);
    int64_t page = a.tables[a.table[row(a)] + position / PAGE];
    int64_t block = page * a.page + a.layer + head * block_units(a.kept, a.head_dim);
    int token = position % PAGE;
    return number_of(a.cache, a.kept, block + token * a.head_dim + d) * scale_of(a.cache, a.kept, a.head_dim, block, token);
}

}  // namespace plain

// A thread a position, a block a chunk of attention.cu; blockIdx.y is the head, blockIdx.z the row, of all three.
KERNEL(plain_scores, plain::PlainArgs, a) {
    int position = blockIdx.x * THREADS + threadIdx.x;
    if (position < plain::start(a) || position >= plain::end(a)) return;
    const float* query = a.query + (int64_t(plain::row(a)) * a.heads + blockIdx.y) * a.head_dim;
    float score = 0.0f;
    for (int d = 0; d < a.head_dim; d++) score = fmaf(query[d], plain::number(a, false, position, d), score);
    plain::scores(a)[position] = score * a.scale;
}

KERNEL(plain_softmax, plain::PlainArgs, a) {
    __shared__ float room[WARPS];
    float* scores = plain::scores(a);
    int start = plain::start(a), end = plain::end(a);
    float top = -INFINITY, total = 0.0f;
    for (int i = start + threadIdx.x; i < end; i += THREADS) top = fmaxf(top, scores[i]);
    top = warp_max(top);
    if (lane_id() == 0) room[warp_id()] = top;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, room[w]);
    for (int i = start + threadIdx.x; i < end; i += THREADS) {
        scores[i] = expf(scores[i] - top);
        total += scores[i];
    }
    total = block_sum(total, room);
    for (int i = start + threadIdx.x; i < end; i += THREADS) scores[i] /= total;
}

// A thread a number.
KERNEL(plain_values, plain::PlainArgs, a) {
    const float* weights = plain::scores(a);
    float* out = a.out + (int64_t(plain::row(a)) * a.heads + blockIdx.y) * a.head_dim;
    for (int d = threadIdx.x; d < a.head_dim; d += THREADS) {
        float sum = 0.0f;
        for (int i = plain::start(a); i < plain::end(a); i++) sum = fmaf(weights[i], plain::number(a, true, i, d), sum);
        out[d] = sum;
    }
}
