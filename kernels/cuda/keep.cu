// Keys and values of a step's rows, from f32 to 8 bits. qkv leaves them: there, warps have pairs of a head's numbers, and their scale is
// that of the whole head.
//
// Bytes: those of the rows; a warp has one row's head.
#include "kept.cuh"

struct KeepArgs {
    const float* numbers;  // (rows / PAGE, K | V, kv_heads, PAGE, head_dim)
    uint8_t* cache;        // See kept.cuh.
    int64_t page;          // Bytes of a page.
    int64_t layer;         // From a page's first byte to the layer's.
    const int* places;     // (rows): page * PAGE + token of the page.
    int kv_heads;
    int head_dim;
};

// The largest number that is kept: 127 of its scale do not round to infinity. And a scale's smallest divisor.
constexpr float MOST_KEPT = 3e38f, LEAST_DIVISOR = 1.17549435e-38f;

// Block (b, row) has WARPS of the row's heads, those of keys first.
KERNEL(keep_rows, KeepArgs, a) {
    constexpr int TURNS = 256 / WARP;  // Of the largest heads.
    // Not before: attention reads what steps before this one left before it waits for this kernel.
    wait_for_previous();
    let_next_begin();
    int head = blockIdx.x * WARPS + warp_id(), row = blockIdx.y, dim = a.head_dim;
    if (head >= 2 * a.kv_heads) return;
    const float* from = a.numbers + ((int64_t(row / PAGE) * 2 * a.kv_heads + head) * PAGE + row % PAGE) * dim;
    float x[TURNS], largest = 0.0f;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int d = i * WARP + lane_id();
        x[i] = d < dim ? fresh(from + d) : 0.0f;
        largest = fmaxf(largest, fabsf(x[i]));
    }
    float scale = fminf(warp_max(largest), MOST_KEPT) / 127.0f;
    if (scale < LEAST_DIVISOR) scale = 0.0f;
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    int place = fresh(a.places + row);
    uint8_t* block = a.cache + place / PAGE * a.page + a.layer + head * block_units(IN_Q8_0, dim);
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int d = i * WARP + lane_id();
        if (d < dim) block[place % PAGE * dim + d] = uint8_t(__float2int_rn(fminf(fmaxf(x[i] * inverse, -127.0f), 127.0f)));
    }
    if (lane_id() == 0) reinterpret_cast<float*>(block + PAGE * dim)[place % PAGE] = scale;
}
