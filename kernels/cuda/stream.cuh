// A warp's rows of a matrix, copied to shared memory ahead of their activations.
//
// Weights are asked for before the kernel in front has ended, and as much ahead as there is room for: they are there when their
// activations are. Under way they take no registers, so that the blocks of more than one kernel fit into a multiprocessor, and the
// first of one's weights come while another computes.
#pragma once

#include "lines.cuh"
#include "numbers.cuh"

#include <type_traits>

// Whether a group has 8 bits a number, or more.
template <class W>
constexpr bool IS_LONG = W::planes(1).before + W::planes(1).bytes >= GROUP;

// Strips of a row that are computed together, one of codes alone having to wait for shared memory at every step; and how many times that
// a warp has room for, of so many rows: few.rs has the same. Three for two rows of 4 bits made TinyLlama 5 % slower and Llama-3.1-8B 1 %, four
// for one row, not three, Llama-3.1-8B 1.8 % faster (H100, matrices alone).
template <class W>
constexpr int TOGETHER = W::FLOAT ? 1 : 2;
template <class W>
constexpr int lots_of(int rows) { return IS_LONG<W> ? 3 : rows == 1 ? 4 : 2; }

// Blocks that share a matrix: which of so many this one is.
struct Share {
    int block, blocks;
};

DEVICE Share whole_grid() { return {int(blockIdx.x), int(gridDim.x)}; }

// A warp's tiles: R rows each, which `Source` finds: `matrix(tile, r)`, the same for all tiles where it IS_FIXED, and `row(tile, r)`. Tiles
// of all warps of a share take turns.
template <class W, int R, class Source>
struct Stream {
    static constexpr int U = TOGETHER<W>, LOT = R * PIECE<W, U>, LOTS = lots_of<W>(R);
    const Source& source;
    Share share;
    int groups, tiles;
    uint8_t* room;  // (LOTS, R, PIECE), of this warp.
    // What is asked for next: a tile, its first group, and where it goes.
    int tile, from, place;
    Begins<W> begins[R];

    // `all` is the room of all warps of the block.
    DEVICE_MEMBER Stream(const Source& of, int k, int count, uint8_t* all, Share by = whole_grid())
        : source(of), share(by), groups(k / GROUP), tiles(count), room(all + warp_id() * LOTS * LOT), tile(first()), from(0), place(0) {
        if (Source::IS_FIXED) find(0);
#pragma unroll 1
        for (int i = 0; i < LOTS; i++) ask();
    }

    // Blocks may have warps without a tile, which help to quantize.
    DEVICE_MEMBER int first() const { return warp_id() * share.blocks + share.block; }
    DEVICE_MEMBER int stride() const { return share.blocks * (blockDim.x / WARP); }
    DEVICE_MEMBER uint8_t* piece(int r) const { return room + place * LOT + r * PIECE<W, U>; }
    DEVICE_MEMBER void find(int of) {
#pragma unroll
        for (int r = 0; r < R; r++) begins[r].find(source.matrix(of, r));
    }

    DEVICE_MEMBER void ask() {
        if (tile < tiles) {
            if (!Source::IS_FIXED && from == 0) find(tile);
#pragma unroll
            for (int r = 0; r < R; r++)
                begin_piece<W, U>(piece(r), begins[r], uint32_t(source.row(tile, r)) * groups + from, groups - from);
        }
        end_lot();
        from += U * WARP;
        if (from >= groups) from = 0, tile += stride();
        if (++place == LOTS) place = 0;
    }

    // Goes through the tiles in lots: `each(load, g)`, where `load(u, w)` gives the R rows' numbers of this lane's group of strip u, g + 32 u;
    // behind the last group they are anything. `end(tile)` behind a tile's last lot.
    template <class Each, class End>
    DEVICE_MEMBER void run(Each each, End end) {
#pragma unroll 1
        for (int now = first(); now < tiles; now += stride()) {
#pragma unroll 1
            for (int lot = 0; lot < groups; lot += U * WARP) {
                wait_for_copies<LOTS - 1>();
                meet_in_warp();
                each([&](int u, W(&w)[R]) {
#pragma unroll
                    for (int r = 0; r < R; r++) w[r] = W::load(Lane<W, U>{piece(r), u}, source.matrix(now, r).codebook);
                }, lot + lane_id());
                // Before it is written again.
                meet_in_warp();
                ask();
            }
            end(now);
        }
    }
};

// Adds the products of R rows' numbers of a group and one row's activations to `sums`, if the group is there.
template <class W, int R, class Group>
DEVICE void add_group(const W (&w)[R], const Group& x, bool there, float (&sums)[R]) {
#pragma unroll
    for (int r = 0; r < R; r++) {
        float sum = w[r].add(x, sums[r]);
        sums[r] = there ? sum : sums[r];
    }
}

// How a kernel gets at its activations: M rows, `first` and those behind it. NORMS says that they are to be normed.
template <class W, int M, bool NORMS>
struct Taken {
    // Whether blocks make of the row what they multiply. Several rows are read where they are.
    static constexpr bool STAGED = M == 1;
    const Input& x;
    int first, rows;
    std::conditional_t<W::FLOAT, NumberStager<NORMS>, Stager<NORMS>> stager;
    float factors[M];

    DEVICE_MEMBER static Row row_at(Row row, int at) {
        row.numbers += at * row.k;
        return row;
    }

    // Asks for what is there before the kernel in front has ended.
    DEVICE_MEMBER Taken(const Input& from, int at, int count, uint8_t* room)
        : x(from), first(at), rows(count), stager(row_at(from.row, at), room) {
        if constexpr (STAGED) stager.ask_early();
    }

    // Of the block's room.
    DEVICE_MEMBER int bytes() const {
        return STAGED ? stager.bytes(int(x.row.k / GROUP)) : 0;
    }

    // As soon as it has.
    DEVICE_MEMBER void ask() {
        if constexpr (STAGED) stager.ask();
    }

    // All threads of a block come here.
    DEVICE_MEMBER void take() {
        if constexpr (STAGED) {
            stager.put();
            factors[0] = stager.norm();
        } else {
#pragma unroll
            for (int t = 0; t < M; t++) factors[t] = fresh(x.ready.factors + min(first + t, rows - 1));
        }
    }
};

// Adds the rests of a lot, which few rows have.
template <int R, class W, int M, bool NORMS, class Load>
DEVICE void add_rests(const Taken<W, M, NORMS>& a, int groups, int first, Load load, float (&sums)[R]) {
    const Staged& row = a.stager.to;
#pragma unroll 1
    for (int u = 0; u < TOGETHER<W>; u++) {
        int g = first + u * WARP, at = min(g, groups - 1);
        W w[R];
        load(u, w);
        Scales s = row.scales[at];
        bool there = g < groups && s.rest_scale != 0.0f;
        add_group<W, R>(w, Bytes{row.rest_low[at], row.rest_high[at], s.rest_scale, s.rest_sum}, there, sums);
    }
}

// Adds a lot of a tile to one row's sums, the row being in shared memory. `first` is the lot's first group of this lane, `load(u, w)` gives
// the numbers of strip u. Without branches, so that strips are computed side by side.
template <int R, class W, bool NORMS, class Load>
DEVICE void add_staged(const Taken<W, 1, NORMS>& a, int groups, int first, Load load, float (&sums)[R]) {
    const auto& row = a.stager.to;
#pragma unroll
    for (int u = 0; u < TOGETHER<W>; u++) {
        int g = first + u * WARP, at = min(g, groups - 1);
        W w[R];
        load(u, w);
        if constexpr (W::FLOAT) {
            add_group<W, R>(w, numbers_by([&](int i) { return row[at].fours[i]; }), g < groups, sums);
        } else {
            Scales s = row.scales[at];
            add_group<W, R>(w, Bytes{row.low[at], row.high[at], s.scale, s.sum}, g < groups, sums);
        }
    }
    if constexpr (NORMS && !W::FLOAT)
        if (a.stager.has_rests) add_rests(a, groups, first, load, sums);
}

// Adds group g of row t of the activations, which another kernel made.
template <int R, class W, int M, bool NORMS>
DEVICE void add_ready(const Taken<W, M, NORMS>& a, int groups, int g, int t, const W (&w)[R], float (&sums)[R]) {
    static_assert(W::FLOAT, "packed matrices take several rows in several.cuh");
    const float4* fours = reinterpret_cast<const float4*>(a.x.ready.numbers + (int64_t(a.first + t) * groups + g) * GROUP);
    add_group<W, R>(w, numbers_by([&](int i) { return fresh(fours + i); }), true, sums);
}

// Adds a lot of a tile to all rows' sums.
template <int R, class W, int M, bool NORMS, class Load>
DEVICE void add_lot(const Taken<W, M, NORMS>& a, int groups, int first, Load load, float (&sums)[M][R]) {
    if constexpr (Taken<W, M, NORMS>::STAGED) {
        add_staged(a, groups, first, load, sums[0]);
    } else {
#pragma unroll 1
        for (int u = 0; u < TOGETHER<W>; u++) {
            int g = first + u * WARP;
            if (g >= groups) break;
            W w[R];
            load(u, w);
#pragma unroll
            for (int t = 0; t < M; t++) {
                if (a.first + t >= a.rows) break;
                add_ready<R>(a, groups, g, t, w, sums[t]);
            }
        }
    }
}

// The products of a warp's tiles and the activations taken: `end(tile, sums)` with the sums of a tile in every lane. Rows from
// `rows` on are left out.
template <int R, class W, int M, bool NORMS, class Source, class End>
DEVICE void multiply(Stream<W, R, Source>& stream, const Taken<W, M, NORMS>& a, End end) {
    float sums[M][R];
    auto clear = [&] {
#pragma unroll
        for (int t = 0; t < M; t++)
#pragma unroll
            for (int r = 0; r < R; r++) sums[t][r] = 0.0f;
    };
    clear();
    auto each = [&](auto load, int first) { add_lot<R>(a, stream.groups, first, load, sums); };
    stream.run(each, [&](int tile) {
#pragma unroll
        for (int t = 0; t < M; t++)
#pragma unroll
            for (int r = 0; r < R; r++) sums[t][r] = warp_sum(sums[t][r]) * a.factors[t];
        end(tile, sums);
        clear();
    });
}

// Sum r of row t.
template <int M, int R>
DEVICE float pick(const float (&sums)[M][R], int t, int r) {
    float picked = sums[0][0];
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < R; j++) picked = t == i && r == j ? sums[i][j] : picked;
    return picked;
}
