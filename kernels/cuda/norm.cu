// RMSNorm of many rows, a block a row. Who reads a tile of them has no time to norm, and none for rests that are none.
//
// Bytes: a row is read three times, the second and third time from the first-level cache.
#include "quantize.cuh"

struct NormArgs {
    const float* x;       // (rows, k)
    const float* weight;  // (k)
    Activations to;
    float eps;
    int pad;
};

// x * weight / sqrt(mean(x^2) + eps), quantized, outliers with rests.
KERNEL(norm_quantize, NormArgs, a) {
    __shared__ float room[WARPS];
    int k = int(a.to.k);
    const float* x = a.x + blockIdx.x * int64_t(k);
    float squares = 0;
    for (int i = threadIdx.x; i < k; i += THREADS) squares = fmaf(x[i], x[i], squares);
    float scale = 1.0f / sqrtf(block_sum(squares, room) / float(k) + a.eps);
    squares = 0;
    for (int i = threadIdx.x; i < k; i += THREADS) {
        float y = x[i] * scale * a.weight[i];
        squares = fmaf(y, y, squares);
    }
    float limit = OUTLIER * sqrtf(block_sum(squares, room) / float(k));
    for (int g = warp_id(); g < k / GROUP; g += WARPS) {
        int i = g * GROUP + lane_id();
        put_group(a.to, blockIdx.x, g, x[i] * scale * a.weight[i], limit);
    }
}
