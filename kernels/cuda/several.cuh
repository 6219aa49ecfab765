// Packed matrices times 2 to 16 rows of activations, on tensor cores.
//
// A tile is 8 rows of a matrix, which a team of 8 warps computes: of 32 groups each warp has the four 2w, 2w + 1, 2w + 16 and 2w + 17. That
// are those of four lanes where a warp computes a row for one row of activations (stream.cuh), and their sums are added up in the same
// tree: a row's answer does not depend on whether it came alone.
//
// Bytes: the weights once for every M rows of activations, which a block has in shared memory. A lane's fragments are a word of codes of
// row g of the tile (rows and t as in mma.cuh), and 8 bytes of activations of rows g and g + 8: numbers 8t to 8t + 7 of both.
#pragma once

#include "gemv.cuh"

namespace several {

// Rows of a tile, warps that compute it, and teams of a block at most.
constexpr int COLUMNS = 8, TEAM = 8, MOST_TEAMS = 2;
// Groups that a warp has of a round of 32: slot 2q + p is group 16q + 2w + p. Rounds of a lot, and lots under way: several.rs has the same.
constexpr int SLOTS = 4, ROUNDS = 2, LOTS = 3;
static_assert(ROUNDS == TOGETHER<Affine4>, "rests come behind as many rounds as they do of one row");

DEVICE int in_team() { return warp_id() % TEAM; }

// Ends this thread's turn until all of its team have come here.
DEVICE void meet_team() {
#ifdef __CUDACC__
    asm volatile("bar.sync %0,%1;" ::"r"(1 + warp_id() / TEAM), "n"(TEAM * WARP) : "memory");
#else
    host::meet_team(TEAM * WARP);
#endif
}

// A warp's part of a round: 8 rows of its groups, plane behind plane. What groups have one by one lies slot by slot; of two neighbouring
// groups, (q, row), what is less than 8 bytes; of 8 groups that share something, the word that it is in.
template <class W>
DEVICE constexpr int room_of(int plane) {
    return W::planes(plane).groups == 1 ? SLOTS * COLUMNS * W::planes(plane).bytes : SLOTS / 2 * COLUMNS * 4;
}
template <class W>
DEVICE constexpr int place_of(int plane) {
    int at = 0;
    for (int p = 0; p < plane; p++) at += room_of<W>(p);
    return at;
}
template <class W>
constexpr int ROUND = place_of<W>(W::PLANES);
template <class W>
constexpr int LOT = ROUNDS * ROUND<W>;
// Codes of 8 bits: a group's halves are in two planes, and here behind each other.
template <class W>
constexpr bool OCTETS = W::planes(1).bytes == 16;

// A row of a matrix.
struct Line {
    const uint8_t* planes;
    uint64_t all;    // Groups of the matrix.
    uint32_t begin;  // The row's first group.
};

// Begins to copy a round's part, from the warp's first group on; `line` is that of row lane % 8 of the tile.
template <class W, int PLANE = 0>
DEVICE void begin_round(uint8_t* to, const Line& line, int first, int groups) {
    if constexpr (PLANE < W::PLANES) {
        constexpr PlaneOf plane = W::planes(PLANE);
        constexpr int BYTES = plane.bytes;
        const uint8_t* from = line.planes + line.all * plane.before;
        int lane = lane_id();
        if constexpr (BYTES >= 8) {
            int g = first + lane / 16 * 16 + lane / 8 % 2;
            uint8_t* there = OCTETS<W> ? to + 32 * lane + 16 * PLANE : to + place_of<W>(PLANE) + BYTES * lane;
            if (g < groups) begin_copy<BYTES>(there, from + uint64_t(line.begin + g) * BYTES);
        } else if (int g = first + lane / 8 * 16; lane < 16 && g < groups) {
            uint32_t at = line.begin + g;
            uint8_t* there = to + place_of<W>(PLANE) + lane * (plane.groups == 1 ? 2 * BYTES : 4);
            if constexpr (plane.groups == 1) {
                if (at % 2 == 0 && g + 1 < groups) {
                    begin_copy<2 * BYTES>(there, from + uint64_t(at) * BYTES);
                } else {
                    // There is no copy for what is not aligned: odd numbers of groups, which no known model has, take loads.
                    using T = std::conditional_t<BYTES == 2, uint16_t, uint32_t>;
                    for (int i = 0; i < min(2, groups - g); i++)
                        reinterpret_cast<T*>(there)[i] = read<T>(from + uint64_t(at + i) * BYTES);
                }
            } else {
                begin_copy<4>(there, from + uint64_t(at / plane.groups) * BYTES / 4 * 4);
            }
        }
        begin_round<W, PLANE + 1>(to, line, first, groups);
    }
}

// Numbers 8t to 8t + 7 of row g of a slot.
template <class W>
DEVICE uint2 codes_of(const uint8_t* round, int slot, int g, int t, const uint32_t* table) {
    int at = COLUMNS * slot + g;
    if constexpr (OCTETS<W>) {
        return shared<uint2>(round + 32 * at + 8 * t);
    } else {
        uint32_t word = shared<uint32_t>(round + 16 * at + 4 * t);
        if constexpr (std::is_same_v<W, Lut4>) return looked_up_pair(word, table);
        else if constexpr (std::is_same_v<W, Q6K>)
            return six_bits_pair(word, shared<uint32_t>(round + place_of<W>(1) + 8 * at + t / 2 * 4), t);
        else return nibble_pair(word);
    }
}

// What row c of a slot has beside codes; `unit` counts what 8 groups share.
template <class W>
DEVICE typename W::Beside beside_of(const uint8_t* round, int slot, int c, uint32_t unit) {
    constexpr int LAST = W::PLANES - 1, BYTES = W::planes(LAST).bytes;
    int row = slot / 2 * COLUMNS + c, p = slot % 2;
    const uint8_t* last = round + place_of<W>(LAST);
    if constexpr (W::planes(LAST).groups == 1) {
        using T = std::conditional_t<BYTES == 2, uint16_t, uint32_t>;
        return W::Beside::of(shared<T>(last + (2 * row + p) * BYTES));
    } else {
        uint16_t sub = shared<uint16_t>(round + place_of<W>(LAST - 1) + (2 * row + p) * 2);
        if constexpr (BYTES == 4) return W::Beside::of(sub, shared<uint32_t>(last + 4 * row));
        else return W::Beside::of(sub, shared<uint16_t>(last + 4 * row + unit % 2 * 2));
    }
}

// Rows of a matrix on their way to a warp. `Source` has tiles of two rows, as in gemv.cuh; four of them are one here.
template <class W, class Source>
struct Feed {
    const Source& source;
    int groups, tiles;
    uint8_t* room;  // (LOTS, ROUNDS, ROUND), of this warp.
    int tile, from, place;
    Line line;

    DEVICE_MEMBER Feed(const Source& of, int of_k, uint8_t* all)
        : source(of), groups(of_k), tiles((of.tiles() + 3) / 4), room(all + warp_id() * LOTS * LOT<W>), tile(first()), from(0),
          place(0), line{} {
#pragma unroll 1
        for (int i = 0; i < LOTS; i++) ask();
    }

    DEVICE_MEMBER static int teams() { return blockDim.x / (TEAM * WARP); }
    DEVICE_MEMBER static int first() { return warp_id() / TEAM * gridDim.x + blockIdx.x; }
    DEVICE_MEMBER static int stride() { return gridDim.x * teams(); }
    DEVICE_MEMBER int pair(int of, int c) const { return min(4 * of + c / 2, source.tiles() - 1); }
    DEVICE_MEMBER const Matrix& matrix(int of, int c) const { return source.matrix(pair(of, c), c % 2); }
    DEVICE_MEMBER uint32_t begin(int of, int c) const { return uint32_t(source.row(pair(of, c), c % 2)) * groups; }

    DEVICE_MEMBER void ask() {
        if (tile < tiles) {
            int c = lane_id() % COLUMNS;
            if (from == 0) line = {matrix(tile, c).planes, uint64_t(groups_of(matrix(tile, c))), begin(tile, c)};
#pragma unroll
            for (int u = 0; u < ROUNDS; u++)
                begin_round<W>(room + place * LOT<W> + u * ROUND<W>, line, from + u * WARP + 2 * in_team(), groups);
        }
        end_lot();
        from += ROUNDS * WARP;
        if (from >= groups) from = 0, tile += stride();
        if (++place == LOTS) place = 0;
    }
};

// Of a group of a row.
struct __align__(8) Scale {
    float scale;
    int sum;
};

// Rows of activations in a block's shared memory, as another kernel made them; rests stay where they are.
template <int M>
struct Rows {
    uint8_t* codes;       // (groups, M, GROUP)
    Scale* scales;        // (groups, M)
    uint32_t* has_rests;  // (groups): whether a row may have some.
    const Activations& x;
    int first, count;

    DEVICE_MEMBER Rows(uint8_t* room, int groups, const Activations& of, int begin, int all)
        : codes(room), scales(reinterpret_cast<Scale*>(room + groups * M * GROUP)),
          has_rests(reinterpret_cast<uint32_t*>(scales + groups * M)), x(of), first(begin), count(all) {}

    // The room that they take: several.rs has the same.
    DEVICE_MEMBER static int bytes(int groups) { return (groups * (M * (GROUP + 8) + 4) + 15) / 16 * 16; }

    DEVICE_MEMBER bool is(int row) const { return first + row < count; }
    DEVICE_MEMBER int64_t at(int row, int g) const { return int64_t(first + row) * (x.k / GROUP) + g; }

    // By all threads of a block, which see them behind the next barrier. Rows that there are not are zeros: to read the last one once more
    // in their place made blocks wait for the same lines (H100: 2 rows of TinyLlama 1.02 ms a step; 0.80 with zeros and what else changed
    // that day).
    DEVICE_MEMBER void put(int groups) const {
#pragma unroll 2
        for (int begin = warp_id() * WARP; begin < M * groups; begin += blockDim.x) {
            int i = begin + lane_id(), row = i % M, g = i / M;
            int4 low = {}, high = {};
            Scales of = {};
            if (g < groups && is(row)) {
                int64_t from = at(row, g);
                const int4* some = reinterpret_cast<const int4*>(x.codes) + 2 * from;
                low = fresh(some), high = fresh(some + 1), of = fresh_as<int4>(x.scales + from);
            }
            bool any = any_of_warp(of.rest_scale != 0.0f);
            if (g >= groups) continue;
            int4* to = reinterpret_cast<int4*>(codes) + 2 * i;
            to[0] = low, to[1] = high, scales[i] = {of.scale, of.sum};
            if (row == 0) has_rests[g] = any;
        }
    }
};

// A lane's part of a group of activations: of rows g and g + 8.
template <int M>
struct Left {
    uint32_t a[4];
    Scale scales[M / 8];

    DEVICE_MEMBER void set(int h, uint2 codes, Scale scale) { a[h] = codes.x, a[2 + h] = codes.y, scales[h] = scale; }
};

template <int M>
DEVICE Left<M> left_of(const Rows<M>& rows, int group, int g, int t) {
    Left<M> x = {};
#pragma unroll
    for (int h = 0; h < M / 8; h++) {
        int at = group * M + g + 8 * h;
        x.set(h, shared<uint2>(rows.codes + at * GROUP + 8 * t), rows.scales[at]);
    }
    return x;
}

// The same of rests; a row without has a scale of 0.
template <int M>
DEVICE Left<M> rests_of(const Rows<M>& rows, int group, int g, int t) {
    Left<M> x = {};
#pragma unroll
    for (int h = 0; h < M / 8; h++) {
        if (!rows.is(g + 8 * h)) continue;
        int64_t at = rows.at(g + 8 * h, group);
        Scales of = fresh_as<int4>(rows.x.scales + at);
        if (of.rest_scale == 0.0f) continue;
        x.set(h, fresh(reinterpret_cast<const uint2*>(rows.x.rests + at * GROUP + 8 * t)), {of.rest_scale, of.rest_sum});
    }
    return x;
}

// What a lane knows of a tile: the table of row g, and what 8 groups share of rows 2t and 2t + 1 in front of the row.
struct Known {
    uint32_t table[4];
    uint32_t units[2];
};

// Sums of a lane: slot by slot those of rows g and g + 8 of the activations, number 2h + i of row g + 8h and row 2t + i of the tile.
template <int M>
using Sums = float[SLOTS][M / 4];

// The group of a slot of a lot whose first group for this warp is `first`.
DEVICE int group_of(int first, int u, int s) { return first + u * WARP + s / 2 * 16 + s % 2; }

// Adds a lot, or its rests.
template <class W, int M, bool RESTS>
DEVICE void add_lot(const uint8_t* lot, const Rows<M>& rows, const Known& known, int first, int groups, Sums<M>& sums) {
    int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int u = 0; u < ROUNDS; u++) {
        const uint8_t* round = lot + u * ROUND<W>;
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            int group = group_of(first, u, s);
            if (group >= groups || (RESTS && !rows.has_rests[group])) continue;
            uint2 b = codes_of<W>(round, s, g, t, known.table);
            Left<M> x = RESTS ? rests_of(rows, group, g, t) : left_of(rows, group, g, t);
            typename W::Beside beside[2];
#pragma unroll
            for (int i = 0; i < 2; i++) beside[i] = beside_of<W>(round, s, 2 * t + i, known.units[i] + uint32_t(group) / 8);
            int d[4], e[4] = {};
            if constexpr (W::HALVES) {
                // Lanes with t < 2 have the first 16 numbers.
                uint2 none = {0, 0};
                mma_s8(d, x.a, t < 2 ? b : none);
                mma_s8(e, x.a, t < 2 ? none : b);
            } else {
                mma_s8(d, x.a, b);
            }
#pragma unroll
            for (int i = 0; i < M / 4; i++) {
                Scale of = x.scales[i / 2];
                float sum = beside[i % 2].add({d[i], e[i]}, of.scale, of.sum, sums[s][i]);
                sums[s][i] = !RESTS || of.scale != 0.0f ? sum : sums[s][i];
            }
        }
    }
}

// What the warps of a team hand over: of two tiles in turn, (rows / 8, TEAM, 2, WARP) pairs of sums.
template <int M>
constexpr int HANDED = M / 8 * TEAM * 2 * WARP;

// The sum of what eight warps handed over, in the order of `warp_sum`.
DEVICE float2 sum_of_team(const float2* from) {
    float2 sums[2];
#pragma unroll
    for (int p = 0; p < 2; p++) {
        auto of = [&](int w) { return from[(w * 2 + p) * WARP]; };
        auto plus = [](float2 x, float2 y) { return make_float2(x.x + y.x, x.y + y.y); };
        float2 even = plus(plus(of(0), of(4)), plus(of(2), of(6))), odd = plus(plus(of(1), of(5)), plus(of(3), of(7)));
        sums[p] = plus(even, odd);
    }
    return make_float2(sums[0].x + sums[1].x, sums[0].y + sums[1].y);
}

template <class W, class Source>
DEVICE Known known_of(const Feed<W, Source>& feed, int tile) {
    int g = lane_id() / 4, t = lane_id() % 4;
    Known known = {};
    if constexpr (std::is_same_v<W, Lut4>)
        signed_table(feed.matrix(tile, g).codebook, known.table);
    if constexpr (W::HALVES)
        for (int i = 0; i < 2; i++) known.units[i] = feed.begin(tile, 2 * t + i) / 8;
    return known;
}

// Goes through the tiles. Of each, some warps add up what all have: `to.ask(pair, row)` is called by who will, before the tile is computed,
// `to.end(pair, row, x, y)` with the sums of the pair's two rows and the row of the activations.
template <class W, int M, class Source, class To>
DEVICE void multiply(Feed<W, Source>& feed, const Rows<M>& rows, const float* factors, float2* handed, To& to) {
    constexpr int HALVES = M / 8;
    int lane = lane_id(), w = in_team(), turn = 0, row = rows.first + lane / 4 + w % HALVES * 8;
    float factor = fresh(factors + min(row, rows.count - 1));
    handed += warp_id() / TEAM * 2 * HANDED<M>;
#pragma unroll 1
    for (int now = feed.first(); now < feed.tiles; now += feed.stride(), turn++) {
        bool adds_up = w / HALVES == turn % (TEAM / HALVES);
        int pair = 4 * now + lane % 4;
        bool writes = adds_up && row < rows.count && pair < feed.source.tiles();
        if (writes) to.ask(pair, row);
        Known known = known_of(feed, now);
        Sums<M> sums = {};
#pragma unroll 1
        for (int lot = 2 * w; lot < feed.groups + 2 * w; lot += ROUNDS * WARP) {
            wait_for_copies<LOTS - 1>();
            meet_in_warp();
            const uint8_t* here = feed.room + feed.place * LOT<W>;
            add_lot<W, M, false>(here, rows, known, lot, feed.groups, sums);
            int group = group_of(lot, lane / SLOTS % ROUNDS, lane % SLOTS);
            bool has_rests = group < feed.groups && rows.has_rests[group];
            if (any_of_warp(has_rests)) add_lot<W, M, true>(here, rows, known, lot, feed.groups, sums);
            // Before it is written again.
            meet_in_warp();
            feed.ask();
        }
        float2* mine = handed + turn % 2 * HANDED<M> + lane;
#pragma unroll
        for (int h = 0; h < HALVES; h++)
#pragma unroll
            for (int p = 0; p < 2; p++)
                mine[((h * TEAM + w) * 2 + p) * WARP] =
                    make_float2(sums[p][2 * h] + sums[2 + p][2 * h], sums[p][2 * h + 1] + sums[2 + p][2 * h + 1]);
        // Who adds up goes on when the others do; what it reads is written again in the tile after the next.
        meet_team();
        if (!adds_up) continue;
        float2 sum = sum_of_team(mine + w % HALVES * TEAM * 2 * WARP);
        if (writes) to.end(pair, row, sum.x * factor, sum.y * factor);
    }
}

// A kernel: `to.begin(first)` is called as soon as the kernel in front has ended. LETS_EARLY says that the one behind may begin before that.
template <class W, int M, bool LETS_EARLY, class Source, class To>
DEVICE void run(const Source& source, const Input& x, int count, To& to) {
    LAUNCH_SHARED(room);
    int groups = int(x.ready.k / GROUP), first = blockIdx.y * M;
    Rows<M> rows(room, groups, x.ready, first, count);
    float2* handed = reinterpret_cast<float2*>(room + rows.bytes(groups));
    Feed<W, Source> feed(source, groups, reinterpret_cast<uint8_t*>(handed + Feed<W, Source>::teams() * 2 * HANDED<M>));
    if (LETS_EARLY) let_next_begin();
    wait_for_previous();
    if (!LETS_EARLY) let_next_begin();
    to.begin(first);
    rows.put(groups);
    __syncthreads();
    multiply<W, M>(feed, rows, x.ready.factors, handed, to);
}

}  // namespace several
