// A row of numbers, quantized by the block that multiplies it.
//
// A thread has four neighbouring numbers, eight threads a group. Every block does it anew: handing on int8 instead ties a block to
// groups of 32 rows of its matrix, which are too few to fill a GPU (H100, TinyLlama: 64 blocks for `down`, on 132 multiprocessors).
//
// The formulas are those of quantize.cuh, with reciprocals where that divides: scales differ in their last bits, and now and then a code
// does.
#pragma once

#include "quantize.cuh"

// A row of k numbers; `weight` is that of the norm that it is still to go through, or null.
struct Row {
    const float* numbers;
    const float* weight;
    int64_t k;
    float eps;
    float inverse;  // 1 / k
};

constexpr int FOUR = 4;
// Threads of a group.
constexpr int OF_GROUP = GROUP / FOUR;

// What a thread made of its four numbers.
struct Coded {
    uint32_t word;
    float4 left;  // What the codes left.
    float scale;  // This and the sum are the group's.
    int sum;
};

// Added to a number below 2^22 and taken away again, this leaves the nearest integer, halves to even; in between, the sum's lower bits
// are that integer's.
constexpr float ROUNDER = 12582912.0f;

// Of a number that quantize_four() divides by; of none, anything finite.
DEVICE float reciprocal(float x) {
#ifdef __CUDACC__
    float r;
    asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(r) : "f"(fmaxf(x, 1e-30f)));
    return r;
#else
    return 1.0f / fmaxf(x, 1e-30f);
#endif
}

// Quantizes a group, of which eight threads have four numbers each.
DEVICE Coded quantize_four(float4 x) {
    float largest = fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
    for (int o = 1; o < OF_GROUP; o *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, o));
    float inverse = 127.0f * reciprocal(largest);
    Coded q;
    q.scale = largest * (1.0f / 127.0f);
    auto code = [&](float x, float& left) {
        float rounded = x * inverse + ROUNDER;
        left = fmaf(rounded - ROUNDER, -q.scale, x);
        return __float_as_uint(rounded);
    };
    uint32_t a = code(x.x, q.left.x), b = code(x.y, q.left.y), c = code(x.z, q.left.z), d = code(x.w, q.left.w);
    q.word = __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
    q.sum = __dp4a(int(q.word), 0x01010101, 0);
    for (int o = 1; o < OF_GROUP; o *= 2) q.sum += __shfl_xor_sync(~0u, q.sum, o);
    return q;
}

DEVICE float4 times(float4 x, float4 y) { return {x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w}; }

DEVICE float square(float4 x) { return fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, x.x * x.x))); }

// Of 128 numbers of a row that is normed: the sums of their squares, and of those times the norm's weight; the largest scale.
struct __align__(16) Summed {
    float squares, weighted, scale, pad;
};

// A quantized row. The halves of groups lie apart, so that lanes, a group each, read them without conflicts.
struct Staged {
    int4* low;        // (groups)
    int4* high;       // (groups)
    Scales* scales;   // (groups)
    int4* rest_low;   // (groups), of a row that is normed: those of outliers
    int4* rest_high;  // (groups)
    Summed* sums;     // (groups / 4)
};

// Where it lies.
DEVICE Staged places_of(uint8_t* room, int groups) {
    int4* at = reinterpret_cast<int4*>(room);
    return {at, at + groups, reinterpret_cast<Scales*>(at + 2 * groups), at + 3 * groups, at + 4 * groups,
            reinterpret_cast<Summed*>(at + 5 * groups)};
}

// A row on its way into a block's shared memory: a thread has four neighbouring numbers at a time. A kernel's instructions are run once
// or twice, and four or more warps share an issue slot: there are to be few.
template <bool NORMS>
struct Reader {
    Row row;
    int fours;
    // Under way: this thread's next numbers, and the weights of the first.
    static constexpr int AHEAD = NORMS ? 1 : 3;
    float4 numbers[AHEAD], weight;

    DEVICE_MEMBER Reader(const Row& from) : row(from), fours(int(from.k / FOUR)) {}

    // Lanes behind the end do as the last one does, and write nothing.
    DEVICE_MEMBER int which(int t) const { return min(t, fours - 1); }
    DEVICE_MEMBER float4 number(int t) const { return fresh(reinterpret_cast<const float4*>(row.numbers) + which(t)); }
    DEVICE_MEMBER float4 norm_weight(int t) const { return fresh(reinterpret_cast<const float4*>(row.weight) + which(t)); }

    // Asks for what is there before the kernel in front has ended.
    DEVICE_MEMBER void ask_early() {
        if (NORMS) weight = norm_weight(threadIdx.x);
    }

    DEVICE_MEMBER void ask() {
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (i == 0 || int(i * blockDim.x) < fours) numbers[i] = number(i * blockDim.x + threadIdx.x);
    }

    // Hands all of them out, by whole warps: `put(t, numbers, weights)`.
    template <class Put>
    DEVICE_MEMBER void hand_out(Put put) const {
        int begin = warp_id() * WARP;
#pragma unroll
        for (int i = 0; i < AHEAD; i++, begin += blockDim.x)
            if (begin < fours) put(begin + lane_id(), numbers[i], weight);
#pragma unroll 1
        for (; begin < fours; begin += blockDim.x) {
            int t = begin + lane_id();
            put(t, number(t), NORMS ? norm_weight(t) : weight);
        }
    }
};

// Quantizes a row by all threads of a block.
template <bool NORMS>
struct Stager : Reader<NORMS> {
    using Reader<NORMS>::row, Reader<NORMS>::fours, Reader<NORMS>::number, Reader<NORMS>::norm_weight;
    Staged to;
    // What the codes of the last ones left.
    float4 left;
    bool has_rests;

    DEVICE_MEMBER Stager(const Row& from, uint8_t* room) : Reader<NORMS>(from), to(places_of(room, int(from.k / GROUP))), has_rests(false) {}

    // The room that it takes: few.rs has the same.
    DEVICE_MEMBER static int bytes(int groups) { return (groups * (NORMS ? 88 : 48) + 15) / 16 * 16; }

    DEVICE_MEMBER void put() {
        this->hand_out([&](int t, float4 x, float4 w) { put_four(t, x, w); });
    }

    DEVICE_MEMBER void put_four(int t, float4 x, float4 w) {
        Summed sum = {};
        if (NORMS) {
            sum.squares = warp_sum(t < fours ? square(x) : 0.0f);
            x = times(x, w);
            sum.weighted = warp_sum(t < fours ? square(x) : 0.0f);
        }
        Coded q = quantize_four(x);
        left = q.left;
        if (NORMS) {
            sum.scale = warp_largest(q.scale);
            if (lane_id() == 0) to.sums[t / WARP] = sum;
        }
        if (t >= fours) return;
        put_word(to.low, to.high, t, q.word);
        if (t % OF_GROUP == 0) to.scales[t / OF_GROUP] = {q.scale, q.sum, 0.0f, 0};
    }

    DEVICE_MEMBER static void put_word(int4* low, int4* high, int t, uint32_t word) {
        int part = t % OF_GROUP;
        reinterpret_cast<uint32_t*>((part < 4 ? low : high) + t / OF_GROUP)[part % 4] = word;
    }

    // All threads see all of the row behind it: the norm's factor.
    DEVICE_MEMBER float norm() {
        __syncthreads();
        if (!NORMS) return 1.0f;
        Summed all = {};
#pragma unroll 4
        for (int i = 0; i < (fours + WARP - 1) / WARP; i++) {
            Summed some = to.sums[i];
            all.squares += some.squares;
            all.weighted += some.weighted;
            all.scale = fmaxf(all.scale, some.scale);
        }
        float limit = all.weighted * row.inverse * (OUTLIER * OUTLIER / (127.0f * 127.0f));
        has_rests = all.scale * all.scale > limit;
        if (has_rests) {
            put_rests(limit);
            __syncthreads();
        }
        return rsqrtf(fmaf(all.squares, row.inverse, row.eps));
    }

    // Every warp finds the same ones.
    DEVICE_MEMBER bool is_outlier(int g, float limit) const { return to.scales[g].scale * to.scales[g].scale > limit; }

    DEVICE_MEMBER void put_rests(float limit) {
#pragma unroll 1
        for (int begin = warp_id() * WARP; begin < fours; begin += blockDim.x) {
            int t = begin + lane_id();
            bool is = t < fours && is_outlier(t / OF_GROUP, limit);
            if (!any_of_warp(is)) continue;
            if (fours > int(blockDim.x)) left = quantize_four(times(number(t), norm_weight(t))).left;
            Coded q = quantize_four(left);
            if (!is) continue;
            put_word(to.rest_low, to.rest_high, t, q.word);
            Scales& scales = to.scales[t / OF_GROUP];
            if (t % OF_GROUP == 0) scales.rest_scale = q.scale, scales.rest_sum = q.sum;
        }
    }
};

// What a kernel multiplies: a row that its blocks quantize, or rows that are.
struct Input {
    Row row;
    Activations ready;
};
