// What happens to activations between the matrices: RMSNorm and quantization, a block a row.
//
// Bytes: a row is read three times, the second and third time from the first-level cache; latency is all there is to it.
#include "quantize.cuh"

struct NormArgs {
    const float* x;       // (rows, k)
    const float* weight;  // (k)
    const int* which;     // The row of x for each row of the result; null for all of them in order.
    Activations to;
    float eps;
};

// x * weight / sqrt(mean(x^2) + eps), quantized, outliers with rests.
KERNEL(norm_quantize, NormArgs, a) {
    __shared__ float room[WARPS];
    int k = int(a.to.k);
    const float* x = a.x + (a.which ? a.which[blockIdx.x] : int(blockIdx.x)) * int64_t(k);
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

struct QuantizeArgs {
    const float* x;  // (rows, k)
    Activations to;
};

// Rows as they are, quantized, without rests.
KERNEL(quantize_rows, QuantizeArgs, a) {
    for (int g = warp_id(); g < a.to.k / GROUP; g += WARPS) {
        put_group(a.to, blockIdx.x, g, a.x[blockIdx.x * a.to.k + g * GROUP + lane_id()], INFINITY);
    }
}
