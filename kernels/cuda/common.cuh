// What every kernel stands on. The kernels are also compiled as C++ for the host, where `host.h` of the tests stands in for
// what is the GPU's: see tests/cuda.rs.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define DEVICE static __device__ __forceinline__
// A kernel takes one struct, which Rust lays out as C does, and blocks of THREADS.
#define KERNEL(name, Args, a) extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ Args a)
#define DEVICE_MEMBER __device__ __forceinline__
#else
#include "host.h"
#endif

constexpr int THREADS = 256;
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;
// Numbers of a row that share a scale.
constexpr int GROUP = 32;
// Tokens of a page of keys and values.
constexpr int PAGE = 32;

DEVICE int lane_id() { return threadIdx.x % WARP; }
DEVICE int warp_id() { return threadIdx.x / WARP; }

DEVICE float half_bits(uint16_t bits) {
#ifdef __CUDACC__
    return __half2float(__ushort_as_half(bits));
#else
    return host::half_bits(bits);
#endif
}

// To the nearest f16, halves to even.
DEVICE uint16_t to_half(float x) {
#ifdef __CUDACC__
    return __half_as_ushort(__float2half_rn(x));
#else
    return host::to_half(x);
#endif
}

DEVICE float bf16_bits(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }

// 16 bytes of weights, which are read once: they are not to push out what is read again.
DEVICE uint4 stream16(const void* from) {
#ifdef __CUDACC__
    uint4 r;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
                 : "l"(from));
    return r;
#else
    return *static_cast<const uint4*>(from);
#endif
}

DEVICE float warp_sum(float x) {
    for (int o = WARP / 2; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    return x;
}

DEVICE int warp_sum(int x) {
    for (int o = WARP / 2; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    return x;
}

DEVICE float warp_max(float x) {
    for (int o = WARP / 2; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, o));
    return x;
}

// The sum over the block, the same in every thread. `room` is WARPS numbers that nobody else uses.
DEVICE float block_sum(float x, float* room) {
    x = warp_sum(x);
    __syncthreads();
    if (lane_id() == 0) room[warp_id()] = x;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += room[w];
    return sum;
}
