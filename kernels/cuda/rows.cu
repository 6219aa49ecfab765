// What happens to activations between the matrices: RMSNorm and quantization, a block a row; and a step's first and last kernel.
//
// Bytes: a row is read up to three times, the second and third time from the first-level cache; latency is all there is to it.
#include "quantize.cuh"

struct QuantizeArgs {
    const float* x;  // (rows, k)
    Activations to;
};

// Rows as they are, quantized, without rests.
KERNEL(quantize_rows, QuantizeArgs, a) {
    let_next_begin();
    wait_for_previous();
    for (int g = warp_id(); g < a.to.k / GROUP; g += WARPS) {
        put_group(a.to, blockIdx.x, g, fresh(a.x + blockIdx.x * a.to.k + g * GROUP + lane_id()), INFINITY);
    }
}

struct HandOnArgs {
    const float* x;       // (rows, k)
    const float* weight;  // (k)
    const int* which;     // The row of x for each row of the result; null for all of them in order.
    Activations to;
};

// Rows that their reader norms.
KERNEL(hand_on, HandOnArgs, a) {
    const float* x = a.x + (a.which ? a.which[blockIdx.x] : int(blockIdx.x)) * a.to.k;
    for (int g = warp_id(); g < a.to.k / GROUP; g += WARPS)
        put_unnormed(a.to, blockIdx.x, g, x[g * GROUP + lane_id()], a.weight);
}

struct BeginArgs {
    const float* embeddings;  // (rows, k), in the host's memory
    const uint32_t* words;    // Of the host's memory: how many there are, then they.
    uint32_t* to_words;
    float* stream;        // (rows, k)
    const float* weight;  // The first norm's, (k).
    Activations to;
    uint64_t* best;  // (rows): set to 0.
};

// Takes a step in: the rows' embeddings, and what else the host says of them. A warp a group: the host's memory is far, and all of
// it is to be asked for at once.
KERNEL(begin_step, BeginArgs, a) {
    let_next_begin();
    wait_for_previous();
    int row = blockIdx.x, g = blockIdx.y * WARPS + warp_id();
    uint32_t count = a.words[0];
    if (g < a.to.k / GROUP) {
        int64_t at = row * a.to.k + g * GROUP + lane_id();
        float x = a.embeddings[at];
        a.stream[at] = x;
        put_unnormed(a.to, row, g, x, a.weight);
    }
    uint32_t first = (row * gridDim.y + blockIdx.y) * THREADS + threadIdx.x;
    for (uint32_t i = first; i < count; i += gridDim.x * gridDim.y * THREADS) a.to_words[i] = a.words[1 + i];
    if (first < gridDim.x) a.best[first] = 0;
}

struct FinishArgs {
    const uint64_t* best;  // (rows)
    uint64_t* out;         // (rows), in the host's memory
    int64_t rows;
};

// Tells the host the likeliest token of each row.
KERNEL(finish_step, FinishArgs, a) {
    let_next_begin();
    wait_for_previous();
    for (int t = threadIdx.x; t < a.rows; t += THREADS) a.out[t] = fresh(a.best + t);
}
