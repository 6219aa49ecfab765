// Packed matrices times activations in int8.
//
// Every group of 32 numbers is an exact integer, as in dot.cuh, and is added in the order of k by the operations of dot.cuh. So a
// number depends on its own two rows alone, not on their neighbours nor on its place in the tile; it differs from that of
// dot.cuh in the order of the sum.
//
// Weights stay packed in shared memory. Four lanes have 8 neighbouring numbers of k each, in both factors alike: a lane's
// fragment of nibbles is two words then, that of activations one load of 8 bytes, and nothing is permuted.
//
// Estimated, not measured: nvcc 13.0 makes 349 instructions of a stage of Affine4, 16 products of 16 x 8 x 32 for each warp
// (sm_90a, no spills). 13 of the 22 a product are the product itself, and conversion, product of scales and multiply-add of
// its four sums; 5.5 copy. So 132 SMs at 1.7 GHz have issue slots for 330 TOPS, and 190, which is what prompts are to reach, need
// 57 % of them. Minima cost 4 slots a product, the table of Lut4 2.5, the second half of Q6K 13. The tensor cores are busy for 4
// to 8 cycles of those 22. In the 350 cycles of a group an SM's 8 warps need some 190 wavefronts of shared memory, and 5.3 KB of
// L2, 15 bytes a cycle: neither is the limit.
//
// To count from 1.5 * 2^23, so that a subtraction makes f32 of a sum, took 5 more instructions a product: four copies of what to
// count from, where a conversion is one instruction a sum (from sm_86 on one of the quick ones).
#pragma once

#include "packed.cuh"

namespace tile {

// Groups of k that are copied at once, and how many such copies are under way or in use.
constexpr int TOGETHER = 2;
constexpr int STAGES = 3;
// Between the groups of a copy, so that they begin in different banks.
constexpr int SHIFT = 64;

template <class W>
struct __align__(16) Stage {
    uint8_t codes[TOGETHER][ROWS * GROUP + SHIFT];
    uint8_t weights[TOGETHER][COLUMNS * W::BYTES + SHIFT];
    float scales[TOGETHER][COLUMNS];
    float seconds[TOGETHER][SECOND<W> ? COLUMNS : 4];
    float row_scales[TOGETHER][ROWS];
    float row_sums[TOGETHER][SECOND<W> ? ROWS : 4];  // Times the scale.
};

static_assert(TOGETHER * COLUMNS == THREADS, "a thread copies a group of a row of the matrix");
static_assert(TOGETHER * ROWS * GROUP / 16 == THREADS, "a thread copies 16 activations");

// What a thread copies to each stage: a group of a row of the matrix, 16 activations, and scales, which it has in hand meanwhile.
// Threads of the first half have those of a group of activations.
template <class W>
struct Copier {
    Source weights;
    uint32_t at;  // Which group of the matrix is next.
    const int8_t* codes;
    const Scales* scales;
    int left, codes_left;  // Groups from the next ones of this thread on.
    uint2 weight;
    Scales row;

    DEVICE_MEMBER void begin(Stage<W>& to) {
        int i = threadIdx.x;
        W::copy(to.weights[i % TOGETHER], i / TOGETHER, weights, at, left > 0);
        int row = i / (2 * TOGETHER), in = i / 2 % TOGETHER;
        begin_copy<16>(to.codes[in] + row * GROUP + 16 * (i % 2), codes, codes_left > 0);
        codes += TOGETHER * GROUP;
        codes_left -= TOGETHER;
    }

    // Reads scales and goes on to the next stage; whether there are rests. Groups behind the last have none, and scales of 0.
    DEVICE_MEMBER bool fetch() {
        weight = {0, 0};
        row = {0.0f, 0, 0.0f, 0};
        if (left > 0) {
            weight = W::fetch(weights, at);
            if (threadIdx.x < TOGETHER * ROWS) row = *scales;
        }
        at += TOGETHER;
        scales += TOGETHER;
        left -= TOGETHER;
        return row.rest_scale != 0.0f;
    }

    DEVICE_MEMBER void put(Stage<W>& to) const {
        int i = threadIdx.x, in = i % TOGETHER, column = column_of(i / TOGETHER);
        float2 scales = W::scales(weight);
        to.scales[in][column] = scales.x;
        if constexpr (SECOND<W>) to.seconds[in][column] = scales.y;
        if (i >= TOGETHER * ROWS) return;
        to.row_scales[in][i / TOGETHER] = row.scale;
        if constexpr (SECOND<W>) to.row_sums[in][i / TOGETHER] = row.scale * float(row.sum);
    }
};

// Rows of activations from `first` on; those behind the last are computed as the last.
struct Rows {
    const Activations& x;
    int first, count;
    DEVICE_MEMBER int64_t operator[](int i) const { return min(first + i, count - 1); }
};

template <class W>
DEVICE Copier<W> copier(Source weights, const Rows& rows, int groups) {
    int i = threadIdx.x, in = i / 2 % TOGETHER;
    const int8_t* codes = rows.x.codes + rows[i / (2 * TOGETHER)] * rows.x.k + in * GROUP + 16 * (i % 2);
    const Scales* scales = rows.x.scales + rows[i / TOGETHER] * groups + i % TOGETHER;
    return {weights, weights.first + i % TOGETHER, codes, scales, groups - i % TOGETHER, groups - in, {}, {}};
}

// Activations of a lane: fragments of rows, and of those rows that its results are of the scale, and that times the sum.
struct Group {
    uint2 b[WIDE];
    float scales[2 * WIDE], sums[2 * WIDE];
};

template <class W>
DEVICE Group group(const Stage<W>& s, int in, Place p) {
    Group x;
#pragma unroll
    for (int w = 0; w < WIDE; w++) {
        x.b[w] = shared<uint2>(s.codes[in] + (p.row + 8 * w + p.g) * GROUP + 8 * p.t);
#pragma unroll
        for (int i = 2 * w; i < 2 * w + 2; i++) {
            x.scales[i] = s.row_scales[in][row_of(p, i)];
            x.sums[i] = W::beside == MINIMUM ? s.row_sums[in][SECOND<W> ? row_of(p, i) : 0] : 0.0f;
        }
    }
    return x;
}

// Rests of outliers are few: they are read from where they are. Whether one of the warp's rows has some.
DEVICE bool rests(Group& x, const Rows& of, int g, Place p) {
    int groups = int(of.x.k / GROUP);
    if (g >= groups) return false;
    bool some = false;
#pragma unroll
    for (int i = 0; i < 2 * WIDE; i++) {
        Scales scales = of.x.scales[of[row_of(p, i)] * groups + g];
        bool has = scales.rest_scale != 0.0f;
        some = some || has;
        x.scales[i] = scales.rest_scale;
        x.sums[i] = has ? scales.rest_scale * float(scales.rest_sum) : 0.0f;
    }
    if (!__any_sync(~0u, some)) return false;
#pragma unroll
    for (int w = 0; w < WIDE; w++) {
        int64_t row = of[p.row + 8 * w + p.g];
        x.b[w] = {0, 0};
        if (of.x.scales[row * groups + g].rest_scale != 0.0f) {
            x.b[w] = *reinterpret_cast<const uint2*>(of.x.rests + row * of.x.k + g * GROUP + 8 * p.t);
        }
    }
    return true;
}

// Adds a group's products.
template <class W>
DEVICE void add_group(const Stage<W>& s, int in, Place p, const Group& x, const uint32_t* table, Sums& sums) {
    int column = first_column(p);
#pragma unroll
    for (int h = 0; h < HIGH; h++) {
        int slot = p.column + 16 * h + p.g;
        uint2 first = W::pair(s.weights[in], slot, p.t, table), second = W::pair(s.weights[in], slot + 8, p.t, table);
        const uint32_t a[4] = {first.x, second.x, first.y, second.y};
        auto add = [&](const uint32_t (&a)[4], const float* scales, int w) {
            int d[4];
            mma_s8(d, a, x.b[w]);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float& sum = result(sums, w, h, i);
                sum = fmaf(scales[column + 2 * h + i / 2] * x.scales[2 * w + i % 2], float(d[i]), sum);
            }
        };
#pragma unroll
        for (int w = 0; w < WIDE; w++) {
            if constexpr (W::beside == HALVES) {
                // Lanes with t < 2 have the first 16 numbers.
                bool is_first = p.t < 2;
                add({is_first ? a[0] : 0, is_first ? a[1] : 0, is_first ? a[2] : 0, is_first ? a[3] : 0}, s.scales[in], w);
                add({is_first ? 0 : a[0], is_first ? 0 : a[1], is_first ? 0 : a[2], is_first ? 0 : a[3]}, s.seconds[in], w);
            } else {
                add(a, s.scales[in], w);
            }
            if constexpr (W::beside == MINIMUM) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float& sum = result(sums, w, h, i);
                    sum = fmaf(s.seconds[in][column + 2 * h + i / 2], x.sums[2 * w + i % 2], sum);
                }
            }
        }
    }
}

template <class W>
DEVICE void add_stage(const Stage<W>& s, int stage, bool has_rests, const Rows& of, Place p, const uint32_t* table, Sums& sums) {
#pragma unroll
    for (int in = 0; in < TOGETHER; in++) {
        add_group<W>(s, in, p, group<W>(s, in, p), table, sums);
        Group rest;
        if (has_rests && rests(rest, of, stage * TOGETHER + in, p)) add_group<W>(s, in, p, rest, table, sums);
    }
}

// The tile's numbers, of rows `first`, first + 1, … of `x` and of the rows that threads name as `weights`, each the one of its
// slot: thread i of slot i / 2. `codebook` is that of the warp's columns.
template <class W>
struct Packed {
    using Room = Stage<W>[STAGES];

    DEVICE void multiply(Room& room, Source weights, const Activations& x, int first, int count, const uint32_t* codebook,
                         Sums& sums) {
        uint32_t table[4];
        signed_table(codebook, table);
        int groups = int(x.k / GROUP), stages = (groups + TOGETHER - 1) / TOGETHER;
        Rows rows = {x, first, count};
        Copier<W> copies = copier<W>(weights, rows, groups);
        Place p = place();
        clear(sums);
        // Whether this thread has seen rests of the next stage, and of the one behind it.
        bool next = false, then = false;
        for (int s = 0; s < STAGES - 1; s++) {
            copies.begin(room[s]);
            end_lot();
            next = then;
            then = copies.fetch();
            copies.put(room[s]);
        }
        for (int s = 0, now = 0; s < stages; s++) {
            wait_for_copies<STAGES - 2>();
            // All see the stage, and nobody the one before it any more.
            bool has_rests = __syncthreads_or(next);
            Stage<W>& ahead = room[now == 0 ? STAGES - 1 : now - 1];
            copies.begin(ahead);
            end_lot();
            next = then;
            then = copies.fetch();
            add_stage<W>(room[now], s, has_rests, rows, p, table, sums);
            copies.put(ahead);
            now = now == STAGES - 1 ? 0 : now + 1;
        }
        wait_for_copies<0>();
        __syncthreads();
    }
};

}  // namespace tile
