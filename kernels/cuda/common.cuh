// What every kernel stands on. The kernels are also compiled as C++ for the host, where `host.h` of the tests stands in for
// what is the GPU's: see tests/cuda.rs.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define DEVICE static __device__ __forceinline__
// A kernel takes one struct, which Rust lays out as C does. Its blocks have so many threads, and a multiprocessor is to hold so many
// of them.
#define KERNEL_OF(name, Args, a, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args a)
// The same, where what is to be kept is how many registers a thread takes.
#define KERNEL_WITHIN(name, Args, a, registers) extern "C" __global__ void __maxnreg__(registers) name(const __grid_constant__ Args a)
#define DEVICE_MEMBER __device__ __forceinline__
#else
#include "host.h"
#define KERNEL_OF(name, Args, a, threads, blocks) extern "C" void name(const Args& a)
#define KERNEL_WITHIN(name, Args, a, registers) extern "C" void name(const Args& a)
#endif
#define KERNEL(name, Args, a) KERNEL_OF(name, Args, a, THREADS, 1)

// Of a block, where a kernel does not say otherwise.
constexpr int THREADS = 256;
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;
// Numbers of a row that share a scale.
constexpr int GROUP = 32;
// Tokens of a page of keys and values.
constexpr int PAGE = 32;

// Shared memory whose size the launch says, at most as much as `host.cpp` of the tests has.
#ifdef __CUDACC__
#define LAUNCH_SHARED(name) extern __shared__ __align__(16) uint8_t name[]
#else
#define LAUNCH_SHARED(name) uint8_t* name = host::launch_shared
#endif

// A kernel that may begin before the one in front of it has ended: it says so to the one behind it, and reads nothing but weights
// before `wait_for_previous`. On GPUs older than sm_90 kernels begin one after the other anyway.
DEVICE void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

DEVICE void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Reads what another block or kernel wrote, past the first-level cache, which may still have what was there before.
template <class T>
DEVICE T fresh(const T* from) {
#ifdef __CUDACC__
    return __ldcg(from);
#else
    return *from;
#endif
}

// The same of a struct that is as large as `As`, which the GPU has a load for.
template <class As, class T>
DEVICE T fresh_as(const T* from) {
    static_assert(sizeof(As) == sizeof(T), "one load");
    union Both {
        As as;
        T t;
        DEVICE_MEMBER Both() {}
    } both;
    both.as = fresh(reinterpret_cast<const As*>(from));
    return both.t;
}

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

DEVICE void atomic_max(uint64_t* at, uint64_t x) {
#ifdef __CUDACC__
    atomicMax(reinterpret_cast<unsigned long long*>(at), x);
#else
    if (x > *at) *at = x;
#endif
}

DEVICE void atomic_add(uint64_t* at, uint64_t x) {
#ifdef __CUDACC__
    atomicAdd(reinterpret_cast<unsigned long long*>(at), x);
#else
    *at += x;
#endif
}

// Counts a block that is done; whether it is the last of `count`, after which the counter is 0 again. What the others wrote before
// can then be read with `fresh`.
DEVICE bool is_last(uint32_t* counter, uint32_t count) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1u) + 1 == count;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

DEVICE float warp_sum(float x) {
    for (int o = WARP / 2; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    return x;
}

DEVICE int warp_sum(int x) { return __reduce_add_sync(~0u, x); }

DEVICE float warp_max(float x) {
    for (int o = WARP / 2; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, o));
    return x;
}

// The largest of a warp's magnitudes: without their signs, numbers are in the order of their bits.
DEVICE float warp_largest(float x) { return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(fabsf(x)))); }

// What lanes of a warp wrote before it, all of them see behind it.
DEVICE void meet_in_warp() {
#ifdef __CUDACC__
    __syncwarp();
#else
    host::meet_warp();
#endif
}

DEVICE bool any_of_warp(bool x) { return __any_sync(~0u, x); }

// The sum over a block of THREADS, the same in every thread. `room` is WARPS numbers that nobody else uses.
DEVICE float block_sum(float x, float* room) {
    x = warp_sum(x);
    __syncthreads();
    if (lane_id() == 0) room[warp_id()] = x;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += room[w];
    return sum;
}

// A logit and its id as one number, of which the largest is the likeliest token, the first among equals. 0 is for what is no
// finite number.
DEVICE uint64_t rank_of(float logit, uint32_t id) {
    uint32_t bits = __float_as_uint(logit);
    if ((bits & 0x7F800000u) == 0x7F800000u) return 0;
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(bits) << 32 | uint32_t(~id);
}

// The logit of a rank that is not 0.
DEVICE float logit_of(uint64_t rank) {
    uint32_t bits = uint32_t(rank >> 32);
    return __uint_as_float(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits);
}

DEVICE double double_bits(uint32_t low, uint32_t high) {
#ifdef __CUDACC__
    return __hiloint2double(int(high), int(low));
#else
    return host::double_bits(low, high);
#endif
}

// The GPU's clock.
DEVICE uint64_t nanoseconds() {
#ifdef __CUDACC__
    uint64_t now;
    asm volatile("mov.u64 %0,%%globaltimer;" : "=l"(now));
    return now;
#else
    return host::nanoseconds();
#endif
}

// What this thread wrote before it, the host too sees before what is written behind it.
DEVICE void publish() {
#ifdef __CUDACC__
    __threadfence_system();
#endif
}

// A word that the host waits for.
DEVICE void store_last(uint32_t* to, uint32_t word) { *const_cast<volatile uint32_t*>(to) = word; }
