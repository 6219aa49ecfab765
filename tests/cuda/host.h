// What kernels/cuda needs of a GPU, in C++ on the host: the threads of a block take turns on stacks of their own, and change at
// every barrier and shuffle. Slow, but the kernels are the very same text.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace host {
// Threads of a block.
constexpr int MOST = 1024;
struct Index { unsigned x, y, z; };
extern Index thread, block, grid, dim;
extern uint8_t launch_shared[];

// Ends this thread's turn until all of the block, of its so many threads of it, or of its warp, have come here.
void meet_block();
void meet_team(int threads);
void meet_warp();
// A word of each lane of this thread's warp; in turn one of two, so that none is written while it is still read.
uint32_t* lanes();

inline float half_bits(uint16_t bits) {
    _Float16 x;
    memcpy(&x, &bits, 2);
    return x;
}
inline double double_bits(uint32_t low, uint32_t high) {
    uint64_t bits = low | uint64_t(high) << 32;
    double x;
    memcpy(&x, &bits, 8);
    return x;
}
// As `prmt` gives them.
inline uint32_t picked(uint32_t low, uint32_t high, uint32_t which) {
    uint64_t both = low | uint64_t(high) << 32;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = which >> 4 * i & 15, byte = both >> 8 * (nibble & 7) & 0xFF;
        if (nibble > 7) byte = byte & 0x80 ? 0xFF : 0;
        r |= uint32_t(byte) << 8 * i;
    }
    return r;
}
// A clock that goes on by a microsecond whenever it is read; each test has its own.
inline uint64_t nanoseconds() {
    static thread_local uint64_t now;
    return now += 1000;
}
inline uint16_t to_half(float x) {
    _Float16 h = x;
    uint16_t bits;
    memcpy(&bits, &h, 2);
    return bits;
}
}  // namespace host

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define threadIdx host::thread
#define blockIdx host::block
#define gridDim host::grid
#define blockDim host::dim
#define __syncthreads host::meet_block
inline void __threadfence() {}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int __float2int_rn(float x) { return int(std::nearbyintf(x)); }
inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline uint32_t atomicAdd(uint32_t* at, uint32_t x) {
    uint32_t old = *at;
    *at += x;
    return old;
}

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += int8_t(a >> i) * int8_t(b >> i);
    return c;
}

// Byte i of the result: the one of x (0 to 3) or y (4 to 7) that nibble i of `which` names.
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t which) {
    uint64_t both = x | uint64_t(y) << 32;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) r |= uint32_t(both >> 8 * (which >> 4 * i & 7) & 0xFF) << 8 * i;
    return r;
}

template <class T>
T __shfl_xor_sync(uint32_t, T x, int mask) {
    static_assert(sizeof(T) == 4);
    unsigned lane = threadIdx.x % 32;
    uint32_t* words = host::lanes();
    memcpy(&words[lane], &x, 4);
    host::meet_warp();
    memcpy(&x, &words[lane ^ mask], 4);
    return x;
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int __reduce_add_sync(uint32_t mask, int x) {
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(mask, x, o);
    return x;
}
inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t x) {
    for (int o = 16; o; o >>= 1) {
        uint32_t other = __shfl_xor_sync(mask, x, o);
        x = other > x ? other : x;
    }
    return x;
}
inline bool __any_sync(uint32_t mask, bool x) { return __reduce_max_sync(mask, x) != 0; }
