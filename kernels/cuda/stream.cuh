// A warp's rows of a matrix, read ahead of their activations.
//
// Weights are asked for DEPTH groups a lane ahead, the first of them before the kernel in front has ended: they are there when
// its activations are. AHEAD registers of a thread hold what is under way; with four blocks a multiprocessor, 80 KB are.
#pragma once

#include "dot.cuh"

// Registers of a thread for weights under way.
constexpr int AHEAD = 20;

constexpr int at_least_one(int n) { return n < 1 ? 1 : n; }

// A row of activations in a block's shared memory: halves of groups apart, so that lanes, a group each, read without conflicts.
struct Staged {
    const int4* low;       // (groups)
    const int4* high;      // (groups)
    const Scales* scales;  // (groups)
};

// Bytes of a Staged row: `shared_bytes` of mod.rs.
DEVICE Staged stage(const Activations& x, int64_t row, uint8_t* room) {
    int groups = int(x.k / GROUP);
    int4* codes = reinterpret_cast<int4*>(room);
    Scales* scales = reinterpret_cast<Scales*>(codes + 2 * groups);
    const int4* from = reinterpret_cast<const int4*>(x.codes + row * x.k);
    for (int i = threadIdx.x; i < 2 * groups; i += THREADS) codes[i % 2 * groups + i / 2] = fresh(from + i);
    const int4* factors = reinterpret_cast<const int4*>(x.scales + row * groups);
    for (int i = threadIdx.x; i < groups; i += THREADS) reinterpret_cast<int4*>(scales)[i] = fresh(factors + i);
    __syncthreads();
    return {codes, codes + groups, scales};
}

// R rows, which `Source` finds: `matrix(r)` and `row(r)`.
template <class W, int R, class Source>
struct Stream {
    static constexpr int DEPTH = at_least_one(AHEAD / (W::WORDS * R));
    const Source& source;
    int groups;
    typename W::Raw raw[DEPTH][R];

    DEVICE_MEMBER void fetch(int slot, int g) {
        if (g >= groups) return;
#pragma unroll
        for (int r = 0; r < R; r++) raw[slot][r] = W::fetch(source.matrix(r), source.row(r), g);
    }

    // Asks for the first groups.
    DEVICE_MEMBER explicit Stream(const Source& from) : source(from), groups(from.matrix(0).k / GROUP) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) fetch(d, lane_id() + d * WARP);
    }

    // The rows times M rows of activations from `first` on; the sums are in every lane. `each(w, r, g)` adds one group.
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

// The sums of a warp's R rows times M rows of activations, `first` and those behind it, in every lane. Rows from `rows` on are
// left out. `room` is shared memory for a staged row, which one row of activations takes.
template <class W, int R, int M, class Source>
DEVICE void dots(Stream<W, R, Source>& stream, const Activations& x, int first, int rows, float eps, uint8_t* room,
                 float (&sums)[R][M]) {
    constexpr bool STAGED = M == 1 && !W::FLOAT;
    __shared__ Normed norms[M];
    Normed own;
    Staged staged = {};
    if constexpr (STAGED) staged = stage(x, first, room);
    if constexpr (M == 1) {
        own = normed(x, first, eps);
    } else {
        for (int t = warp_id(); t < M; t += WARPS) {
            Normed n = first + t < rows ? normed(x, first + t, eps) : Normed{0.0f, 0.0f};
            if (lane_id() == 0) norms[t] = n;
        }
        __syncthreads();
    }
    auto norm = [&](int t) -> const Normed& { return M == 1 ? own : norms[t]; };
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < M; t++) sums[r][t] = 0.0f;
    stream.groups_of_lane([&](const W(&w)[R], int g) {
#pragma unroll
        for (int t = 0; t < M; t++) {
            if (first + t >= rows) break;
            int64_t at = (first + t) * x.k + g * GROUP;
            if constexpr (W::FLOAT) {
                float numbers[GROUP];
#pragma unroll
                for (int i = 0; i < GROUP; i += 4) {
                    float4 four = fresh(reinterpret_cast<const float4*>(x.numbers + at + i));
                    numbers[i] = four.x, numbers[i + 1] = four.y, numbers[i + 2] = four.z, numbers[i + 3] = four.w;
                }
#pragma unroll
                for (int r = 0; r < R; r++) sums[r][t] = w[r].add(numbers, sums[r][t]);
            } else {
                Scales scales;
                Bytes all;
                if constexpr (STAGED) {
                    scales = staged.scales[g];
                    all = {staged.low[g], staged.high[g], scales.scale, scales.sum};
                } else {
                    scales = x.scales[(first + t) * int64_t(stream.groups) + g];
                    const int4* codes = reinterpret_cast<const int4*>(x.codes + at);
                    all = {codes[0], codes[1], scales.scale, scales.sum};
                }
#pragma unroll
                for (int r = 0; r < R; r++) sums[r][t] = w[r].add(all, sums[r][t]);
                if (scales.rest_scale != 0.0f && scales.scale > norm(t).least) {
                    Bytes rest = codes_of(x.rests + at, scales.rest_scale, scales.rest_sum);
#pragma unroll
                    for (int r = 0; r < R; r++) sums[r][t] = w[r].add(rest, sums[r][t]);
                }
            }
        }
    });
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < M; t++) sums[r][t] = warp_sum(sums[r][t]) * norm(t).factor;
}

// The sum that thread i of R * M is to write, out of those that every lane has.
template <int R, int M>
DEVICE float pick(const float (&sums)[R][M], int i) {
    float picked = sums[0][0];
#pragma unroll
    for (int j = 1; j < R * M; j++) picked = i == j ? sums[j / M][j % M] : picked;
    return picked;
}
