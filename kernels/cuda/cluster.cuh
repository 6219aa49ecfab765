// Clusters of C blocks, which can write each other's shared memory: sm_90 and up. A cluster of 1 is a block.
#pragma once

#include "common.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define HAS_CLUSTERS 1
#else
#define HAS_CLUSTERS 0
#endif

// Whether there is code for clusters of C: kernels for others are empty, and the host does not launch them.
template <int C>
constexpr bool IS_FOR = (C > 1) == HAS_CLUSTERS;

// Which block of its cluster this is.
template <int C>
DEVICE int cluster_rank() {
    return C == 1 ? 0 : int(blockIdx.x % C);
}

// Says that this thread has begun; `cluster_begun` waits until all have, before which no other block's memory may be written.
template <int C>
DEVICE void cluster_begin() {
#if HAS_CLUSTERS
    if constexpr (C > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;");
#endif
}

template <int C>
DEVICE void cluster_begun() {
#if HAS_CLUSTERS
    if constexpr (C > 1) asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
}

// Writes `value` to where `here` is in the shared memory of the cluster's first block.
template <int C>
DEVICE void put_in_first(float* here, float value) {
#if HAS_CLUSTERS
    if constexpr (C > 1) {
        uint32_t own = uint32_t(__cvta_generic_to_shared(here)), there;
        asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(there) : "r"(own));
        asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
        return;
    }
#endif
    *here = value;
}

// Waits for all threads of the cluster; what they wrote to shared memory can be read.
template <int C>
DEVICE void cluster_sync() {
#if HAS_CLUSTERS
    if constexpr (C > 1) {
        asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
        return;
    }
#endif
    __syncthreads();
}
