// Rows of numbers that blocks hand each other, from one kernel to the next or inside one that stays.
//
// Inside a kernel there is nothing to wait for that would be cheap: a fence of a block waits for all the weights that it has under way
// (H100, TinyLlama: 1.1 us of every phase). So a number says by itself whether it is there: its two lowest bits are a tag, of which no two uses
// of a place that follow each other have the same. Readers of either kind of kernel take numbers without those bits, so that answers do
// not depend on which kernels gave them.
#pragma once

#include "common.cuh"

constexpr uint32_t TAG_BITS = 3;

// A number as it is handed on: 22 bits of its significand.
DEVICE float handed(float x) { return __uint_as_float(__float_as_uint(x) & ~TAG_BITS); }
DEVICE float2 handed(float2 x) { return make_float2(handed(x.x), handed(x.y)); }
DEVICE float4 handed(float4 x) { return {handed(x.x), handed(x.y), handed(x.z), handed(x.w)}; }

// Of a kernel before this one: it is there.
struct Settled {
    template <class T>
    DEVICE_MEMBER T ask(const T* from) const {
        return fresh(from);
    }
    template <class T>
    DEVICE_MEMBER bool is_there(T) const {
        return true;
    }
    // `ask_all` asks for numbers, and tells whether they are all there.
    template <class Ask>
    DEVICE_MEMBER void until(Ask ask_all) const {
        ask_all();
    }
};

// Of other blocks of this kernel: they are asked for until all of the warp's are there. As a rule they are at once.
struct Tagged {
    uint32_t tag;
    uint32_t bits = TAG_BITS;  // 0 where all is there anyway.

    // The tag of a layer's rows, of so many layers: of layers that follow each other, the last and the first too, none have the same.
    // Memory is 0 at first, which is no tag.
    DEVICE Tagged of(int layer, int layers) { return {layer == layers - 1 && layers % 2 ? 3u : 1u + layer % 2, TAG_BITS}; }
    DEVICE Tagged settled() { return {0, 0}; }

    DEVICE_MEMBER float4 ask(const float4* from) const {
#ifdef __CUDACC__
        float4 x;
        asm volatile("ld.relaxed.gpu.global.v4.f32 {%0,%1,%2,%3},[%4];"
                     : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                     : "l"(from)
                     : "memory");
        return x;
#else
        return *from;
#endif
    }
    DEVICE_MEMBER float2 ask(const float2* from) const {
#ifdef __CUDACC__
        float2 x;
        asm volatile("ld.relaxed.gpu.global.v2.f32 {%0,%1},[%2];" : "=f"(x.x), "=f"(x.y) : "l"(from) : "memory");
        return x;
#else
        return *from;
#endif
    }
    DEVICE_MEMBER bool is_there(float x) const { return (__float_as_uint(x) & bits) == tag; }
    DEVICE_MEMBER bool is_there(float2 x) const { return is_there(x.x) && is_there(x.y); }
    DEVICE_MEMBER bool is_there(float4 x) const { return is_there(x.x) && is_there(x.y) && is_there(x.z) && is_there(x.w); }
    // Lanes of a warp come here together. One loop for all that is asked for at a time: each begins by letting other warps have their turns.
    template <class Ask>
    DEVICE_MEMBER void until(Ask ask_all) const {
        while (any_of_warp(!ask_all())) let_others_go_on();
    }
    DEVICE_MEMBER float tagged(float x) const { return __uint_as_float((__float_as_uint(x) & ~TAG_BITS) | tag); }
    DEVICE_MEMBER void put(float* to, float x) const {
        x = tagged(x);
#ifdef __CUDACC__
        asm volatile("st.relaxed.gpu.global.f32 [%0],%1;" ::"l"(to), "f"(x) : "memory");
#else
        *to = x;
#endif
    }
    DEVICE_MEMBER void put(float2* to, float2 x) const {
        x.x = tagged(x.x), x.y = tagged(x.y);
#ifdef __CUDACC__
        asm volatile("st.relaxed.gpu.global.v2.f32 [%0],{%1,%2};" ::"l"(to), "f"(x.x), "f"(x.y) : "memory");
#else
        *to = x;
#endif
    }
    DEVICE_MEMBER void put(float4* to, float4 x) const {
        float2* halves = reinterpret_cast<float2*>(to);
        put(halves, make_float2(x.x, x.y));
        put(halves + 1, make_float2(x.z, x.w));
    }
};
