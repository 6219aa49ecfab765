// A warp's rows of a matrix, read ahead of their activations.
//
// Weights are asked for DEPTH groups a lane ahead, the first of them before the kernel in front has ended: they are there when
// its activations are. AHEAD registers of a thread hold what is under way.
#pragma once

#include "dot.cuh"

constexpr int at_least_one(int n) { return n < 1 ? 1 : n; }

// R rows, which `Source` finds: `matrix(r)` and `row(r)`.
template <class W, int R, int AHEAD, class Source>
struct Stream {
    static constexpr int DEPTH = at_least_one(AHEAD / (W::WORDS * R));
    const Source& source;
    int groups;
    typename W::Raw raw[DEPTH][R];

    // Asks for the first groups.
    DEVICE_MEMBER explicit Stream(const Source& from) : source(from), groups(from.matrix(0).k / GROUP) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) fetch(d, lane_id() + d * WARP);
    }

    DEVICE_MEMBER void fetch(int slot, int g) {
        if (g >= groups) return;
#pragma unroll
        for (int r = 0; r < R; r++) raw[slot][r] = W::fetch(source.matrix(r), source.row(r), g);
    }

    // Goes through this lane's groups: `each(w, g)` with the R rows' numbers of group g.
    template <class Each>
    DEVICE_MEMBER void groups_of_lane(Each each) {
        for (int start = lane_id(); start < groups; start += DEPTH * WARP) {
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                int g = start + d * WARP;
                if (g >= groups) break;
                W w[R];
#pragma unroll
                for (int r = 0; r < R; r++) w[r] = W::unpack(raw[d][r], source.matrix(r).codebook);
                fetch(d, g + DEPTH * WARP);
                each(w, g);
            }
        }
    }
};

// A row of activations in a block's shared memory: the halves of groups apart, so that lanes, a group each, read without conflicts.
// Every warp reading it from the second-level cache took as long as the weights (H100, TinyLlama's head: 40 us instead of 24).
struct Staged {
    const int4* low;       // (groups)
    const int4* high;      // (groups)
    const Scales* scales;  // (groups)
};

// By all threads of a block, which then see it: `shared_bytes` of phases.rs is the room it takes.
DEVICE Staged stage(const Activations& x, int64_t row, uint8_t* room) {
    int groups = int(x.k / GROUP);
    int4* codes = reinterpret_cast<int4*>(room);
    int4* scales = codes + 2 * groups;
    const int4* from = reinterpret_cast<const int4*>(x.codes + row * x.k);
    const int4* from_scales = reinterpret_cast<const int4*>(x.scales + row * groups);
    for (int i = threadIdx.x; i < 3 * groups; i += blockDim.x) {
        if (i < 2 * groups) {
            codes[i % 2 * groups + i / 2] = fresh(from + i);
        } else {
            scales[i - 2 * groups] = fresh(from_scales + i - 2 * groups);
        }
    }
    return {codes, codes + groups, reinterpret_cast<const Scales*>(scales)};
}

// Adds the products of R rows' numbers of a group and one row's activations to `sums`; `sum(r)` is the place of row r's.
template <class W, int R, class Sum>
DEVICE void add_group(const W (&w)[R], const Activations& x, int64_t row, int g, int4 low, int4 high, Scales scales,
                      float least, Sum sum) {
    Bytes all = {low, high, scales.scale, scales.sum};
#pragma unroll
    for (int r = 0; r < R; r++) sum(r) = w[r].add(all, sum(r));
    if (scales.rest_scale != 0.0f && scales.scale * scales.scale > least) {
        Bytes rest = codes_of(x.rests + row * x.k + g * GROUP, scales.rest_scale, scales.rest_sum);
#pragma unroll
        for (int r = 0; r < R; r++) sum(r) = w[r].add(rest, sum(r));
    }
}

template <class W, int R, class Sum>
DEVICE void add_numbers(const W (&w)[R], const Activations& x, int64_t row, int g, Sum sum) {
    float numbers[GROUP];
#pragma unroll
    for (int i = 0; i < GROUP; i += 4) {
        float4 four = fresh(reinterpret_cast<const float4*>(x.numbers + row * x.k + g * GROUP + i));
        numbers[i] = four.x, numbers[i + 1] = four.y, numbers[i + 2] = four.z, numbers[i + 3] = four.w;
    }
#pragma unroll
    for (int r = 0; r < R; r++) sum(r) = w[r].add(numbers, sum(r));
}

// The sums of a warp's R rows times M rows of activations, `first` and those behind it, in every lane. Rows from `rows` on are
// left out. All threads of the block come here.
template <class W, int R, int M, int AHEAD, class Source>
DEVICE void dots(Stream<W, R, AHEAD, Source>& stream, const Activations& x, int first, int rows, float eps,
                 float (&sums)[R][M]) {
    constexpr bool STAGES = M == 1 && !W::FLOAT;
    LAUNCH_SHARED(room);
    __shared__ Normed norms[M];
    Staged staged = {};
    if constexpr (STAGES) staged = stage(x, first, room);
    // The last warps first: those in front have staged more.
    int warps = blockDim.x / WARP;
    for (int t = warps - 1 - warp_id(); t < M; t += warps) {
        int row = min(first + t, rows - 1);
        Normed n = normed(x, own_squares(x, row), eps);
        if (lane_id() == 0) norms[t] = n;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < M; t++) sums[r][t] = 0.0f;
    stream.groups_of_lane([&](const W(&w)[R], int g) {
#pragma unroll
        for (int t = 0; t < M; t++) {
            if (first + t >= rows) break;
            auto sum = [&](int r) -> float& { return sums[r][t]; };
            int64_t row = first + t;
            if constexpr (W::FLOAT) {
                add_numbers<W, R>(w, x, row, g, sum);
            } else if constexpr (STAGES) {
                add_group<W, R>(w, x, row, g, staged.low[g], staged.high[g], staged.scales[g], norms[t].least, sum);
            } else {
                const int4* codes = reinterpret_cast<const int4*>(x.codes + row * x.k + g * GROUP);
                Scales scales = x.scales[row * stream.groups + g];
                add_group<W, R>(w, x, row, g, codes[0], codes[1], scales, norms[t].least, sum);
            }
        }
    });
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < M; t++) sums[r][t] = warp_sum(sums[r][t]) * norms[t].factor;
}

// The sum that thread i of R * M is to write, out of those that every lane has.
template <int R, int M>
DEVICE float pick(const float (&sums)[R][M], int i) {
    float picked = sums[0][0];
#pragma unroll
    for (int j = 1; j < R * M; j++) picked = i == j ? sums[j / M][j % M] : picked;
    return picked;
}
