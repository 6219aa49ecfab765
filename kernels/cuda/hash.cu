// A hash of a step's logits, for those who look whether anything raced: where a backend was loaded with it, it comes before a step's last
// kernel.
#include "common.cuh"

struct HashArgs {
    const float* logits;  // (count)
    uint64_t* to;         // Added to.
    int64_t count;        // Below 2^32.
};

// A bijection that changes half of the bits whatever changes: the end of splitmix64.
DEVICE uint64_t mixed(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

// A sum, so that the order of blocks does not show, of what each logit's place and bits make.
KERNEL(hash_logits, HashArgs, a) {
    __shared__ uint64_t sums[THREADS];
    let_next_begin();
    wait_for_previous();
    uint64_t sum = 0;
    for (int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x; i < a.count; i += int64_t(gridDim.x) * THREADS)
        sum += mixed(uint64_t(i) << 32 | __float_as_uint(fresh(a.logits + i)));
    sums[threadIdx.x] = sum;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) atomic_add(a.to, sums[0]);
}
