// Attention for few rows over keys and values in f16 or 8 bits, on tensor cores: a block goes through 128 positions, a warp 16 of them, for the
// up to 8 query heads that share a key head. A kernel behind it joins the chunks.
//
// Rows 0 to 7 of a tensor core's left factor are the heads, rows 8 to 15 what rounding them to f16 left, for queries and for weights of
// values alike: so sums are as good as those of f32. Numbers of heads and positions are dealt out to lanes in the order in which
// 16 bytes of memory have them, the same in both factors, so that nothing has to be moved between lanes or through shared memory.
//
// Codes of 8 bits are f16 too, exactly; their scales are put to scores, and to weights of values.
//
// What earlier steps left is read before the kernel in front has ended. Sizes of heads and groups that are not compiled here take
// the kernels of attention.cu.
#pragma once

#include "handed.cuh"
#include "kept.cuh"
#include "mma.cuh"
#include "softmax.cuh"

namespace few {

// Positions of a chunk, and of a warp.
constexpr int SPAN = 128, STRIP = 16;
static_assert(SPAN == STRIP * WARPS && PAGE % STRIP == 0, "a warp's positions are of one page");
constexpr int MOST_HEADS = 8;
constexpr float LOG2_E = 1.4426950408889634f;

struct DecodeArgs {
    const float* query;    // (rows, heads, D)
    const uint8_t* cache;  // (pages, layers, K | V, kv_heads, PAGE, D), see kept.cuh.
    int64_t page;          // Units of a page.
    int64_t layer;         // From a page's first unit to the layer's.
    const int* tables;     // Block tables, one behind the other.
    const int* table;      // (rows): where the row's begins.
    const int* positions;  // (rows)
    const int* known;      // (rows): positions of which earlier steps wrote keys and values.
    float* partials;       // (rows, kv_heads, chunks, heads of a key head, D), then (rows, heads, chunks): top and total.
    float* out;            // (rows, heads, D)
    float scale;
    int heads;
    int kv_heads;
    int window;  // Positions that a row sees.
    int chunks;  // Of the longest context for which there is room: blocks in x.
    int pad;
};

// What a block is for: row, key head, chunk, and the positions that the row sees.
struct Task {
    int row, kv, chunk, count, begin, end;

    DEVICE_MEMBER bool sees(int position) const { return position >= begin && position < end; }
};

DEVICE int value_position(int i) { return 2 * (lane_id() % 4) + i % 2 + i / 2 * 8; }

DEVICE uint32_t halves(float x, float y) { return uint32_t(to_half(x)) | uint32_t(to_half(y)) << 16; }

// A warp's keys and values, as its lanes' fragments have them.
template <int D, class K>
struct Strip {
    using Eight = typename K::Eight;
    static constexpr int SCALES = K::SCALED ? 4 : 1;
    Eight keys[2][D / 32];    // Positions g and 8 + g: numbers 32c + 8t, ….
    Eight values[4][D / 64];  // Positions 2t, 2t + 1, 2t + 8, 2t + 9: numbers 64c + 8g, ….
    float key_scales[SCALES], value_scales[SCALES];  // Of the same four positions.

    // Where the lane's numbers of a key and of a value head are, `first` being the warp's position.
    struct Place {
        const uint8_t *keys, *values;
        int token;

        DEVICE_MEMBER Place(const DecodeArgs& a, const Task& task, int page, int first) : token(first % PAGE) {
            keys = a.cache + K::UNIT * (page * a.page + a.layer + task.kv * block_units(K::KEPT, D));
            values = keys + K::UNIT * a.kv_heads * block_units(K::KEPT, D);
        }
        DEVICE_MEMBER const Eight* eight(const uint8_t* block, int position, int d) const {
            return reinterpret_cast<const Eight*>(block + K::UNIT * token * D) + (position * D + d) / 8;
        }
        DEVICE_MEMBER const float* scale(const uint8_t* block, int position) const {
            return reinterpret_cast<const float*>(block + PAGE * D) + token + position;
        }
    };

    // Reads what is seen of positions least..most.
    DEVICE_MEMBER void load(const DecodeArgs& a, const Task& task, int page, int first, int least, int most) {
        int g = lane_id() / 4, t = lane_id() % 4;
        Place at(a, task, page, first);
        least = max(least, task.begin) - first, most = min(most, task.end) - first;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (8 * i + g >= least && 8 * i + g < most)
#pragma unroll
                for (int c = 0; c < D / 32; c++) keys[i][c] = fresh(at.eight(at.keys, 8 * i + g, 32 * c + 8 * t));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int position = value_position(i);
            if (position < least || position >= most) continue;
#pragma unroll
            for (int c = 0; c < D / 64; c++) values[i][c] = fresh(at.eight(at.values, position, 64 * c + 8 * g));
            if constexpr (K::SCALED) {
                key_scales[i] = fresh(at.scale(at.keys, position));
                value_scales[i] = fresh(at.scale(at.values, position));
            }
        }
    }

    // The same on the way: each lane copies its own numbers of positions before `most` to places of its warp's, zeros for others, and takes them
    // there once they have come.
    static constexpr int PIECES = 2 * (D / 32) + 4 * (D / 64);
    using OnTheWay = Eight[PIECES][WARP];

    DEVICE_MEMBER static void begin_copies(OnTheWay& to, const DecodeArgs& a, const Task& task, int page, int first, int most) {
        static_assert(!K::SCALED, "codes alone");
        int g = lane_id() / 4, t = lane_id() % 4, piece = 0;
        Place at(a, task, page, first);
        int least = task.begin - first;
        most -= first;
        auto begin = [&](const uint8_t* block, int position, int d) {
            bool is = position >= least && position < most;
            begin_copy<sizeof(Eight)>(&to[piece++][lane_id()], is ? at.eight(block, position, d) : at.eight(block, 0, 0), is);
        };
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int c = 0; c < D / 32; c++) begin(at.keys, 8 * i + g, 32 * c + 8 * t);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < D / 64; c++) begin(at.values, value_position(i), 64 * c + 8 * g);
        end_lot();
    }
    DEVICE_MEMBER void take_keys(const OnTheWay& from) {
        wait_for_copies<0>();
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int c = 0; c < D / 32; c++) keys[i][c] = from[i * (D / 32) + c][lane_id()];
    }
    DEVICE_MEMBER void take_values(const OnTheWay& from) {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < D / 64; c++) values[i][c] = from[2 * (D / 32) + i * (D / 64) + c][lane_id()];
    }
};

// A lane's part of the key or the value of one position, from a row that another block hands on: COUNT times eight numbers, so far apart.
template <int COUNT, int APART>
struct OwnRow {
    const float4* from;
    float4 fours[COUNT][2];

    template <class From>
    DEVICE_MEMBER bool ask(From source) {
        bool are_there = true;
#pragma unroll
        for (int c = 0; c < COUNT; c++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                fours[c][h] = source.ask(from + c * (APART / 4) + h);
                are_there = are_there && source.is_there(fours[c][h]);
            }
        return are_there;
    }
    // Eight of them as f16.
    DEVICE_MEMBER uint4 take(int c) const {
        float4 low = handed(fours[c][0]), high = handed(fours[c][1]);
        return {halves(low.x, low.y), halves(low.z, low.w), halves(high.x, high.y), halves(high.z, high.w)};
    }
};

// Two numbers in f16, and what that left of them.
DEVICE void two_pieces(float x, float y, uint32_t& high, uint32_t& low) {
    high = halves(x, y);
    low = halves(x - half_bits(uint16_t(high)), y - half_bits(uint16_t(high >> 16)));
}

// Head g's numbers 32c + 8t, … times the scale of scores; beyond the range of f16 they are cut.
template <int D>
struct Query {
    const float4* from;
    float4 fours[D / 16];

    DEVICE_MEMBER Query(const DecodeArgs& a, const Task& task) {
        int g = lane_id() / 4, t = lane_id() % 4;
        from = reinterpret_cast<const float4*>(a.query + (int64_t(task.row) * a.heads + task.kv * task.count + min(g, task.count - 1)) * D + 8 * t);
    }
    template <class From>
    DEVICE_MEMBER bool ask(From source) {
        bool are_there = true;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            fours[i] = source.ask(from + i / 2 * 8 + i % 2);
            are_there = are_there && source.is_there(fours[i]);
        }
        return are_there;
    }
    DEVICE_MEMBER void take(const DecodeArgs& a, uint32_t (&q)[D / 16][4]) const {
        float scale = a.scale * LOG2_E;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            float4 four = handed(fours[i]);
            float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int j = 0; j < 4; j++) x[j] = fminf(fmaxf(x[j] * scale, -65504.0f), 65504.0f);
            two_pieces(x[0], x[1], q[i][0], q[i][1]);
            two_pieces(x[2], x[3], q[i][2], q[i][3]);
        }
    }
};

// Scores of head g with positions 2t, 2t + 1, 8 + 2t and 9 + 2t.
template <int D, class K>
DEVICE void score(const uint32_t (&q)[D / 16][4], const Strip<D, K>& s, float (&scores)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            uint4 key = halves_of(s.keys[i][c]);
            mma_f16(d, q[2 * c], key.x, key.y);
            mma_f16(d, q[2 * c + 1], key.z, key.w);
        }
        scores[2 * i] = d[0] + d[2];
        scores[2 * i + 1] = d[1] + d[3];
    }
    if constexpr (K::SCALED)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[i] *= s.key_scales[i];
}

// Of the four lanes that have a head: scores become 2^(score - top), times what their values are to be multiplied with.
template <int D, class K>
DEVICE Softmax exponentials_of_four(float (&scores)[4], const Strip<D, K>& s) {
    auto with_scale = [&](int i) {
        if constexpr (K::SCALED) return scores[i] + power_of(s.value_scales[i]);
        else return scores[i];
    };
    float top = fmaxf(fmaxf(with_scale(0), with_scale(1)), fmaxf(with_scale(2), with_scale(3)));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    // Nothing seen: all exponentials are to be 0, not the difference of infinities.
    float from = top == -INFINITY ? 0.0f : top, total = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        scores[i] = exp2f(scores[i] - from);
        total += scores[i];
        if constexpr (K::SCALED) scores[i] *= s.value_scales[i];
    }
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    return {top, total};
}

// Head g's numbers 64c + 16t + j in sums[c][j], those 8 behind them in sums[c][8 + j].
template <int D, class K>
DEVICE void add_values(const float (&weights)[4], const Strip<D, K>& s, float (&sums)[D / 64][16]) {
    uint32_t w[4];
    two_pieces(weights[0], weights[1], w[0], w[1]);
    two_pieces(weights[2], weights[3], w[2], w[3]);
#pragma unroll
    for (int c = 0; c < D / 64; c++) {
        uint4 values[4];
#pragma unroll
        for (int i = 0; i < 4; i++) values[i] = halves_of(s.values[i][c]);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            auto word = [&](int i) {
                const uint4& v = values[i];
                return j < 2 ? v.x : j < 4 ? v.y : j < 6 ? v.z : v.w;
            };
            uint32_t half = j % 2 ? 0x7632 : 0x5410;
            float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            mma_f16(d, w, __byte_perm(word(0), word(1), half), __byte_perm(word(2), word(3), half));
            sums[c][j] = d[0] + d[2];
            sums[c][8 + j] = d[1] + d[3];
        }
    }
}

// What a block shares: what its warps found.
template <int D>
struct Room {
    static constexpr int STRIDE = D + 16;
    float sums[WARPS][MOST_HEADS][STRIDE];
    Softmax softmax[WARPS][MOST_HEADS];

    // Where number d of a head is: so that lanes write 16 bytes each to different banks.
    DEVICE_MEMBER static int at(int d) { return d / 64 * 64 + (d % 16 / 4 * 4 + d % 64 / 16) * 4 + d % 4; }
};

// Four neighbouring numbers, and what they are multiplied with.
DEVICE void add(float4& sum, float4 x, float weight) {
    sum.x = fmaf(x.x, weight, sum.x), sum.y = fmaf(x.y, weight, sum.y);
    sum.z = fmaf(x.z, weight, sum.z), sum.w = fmaf(x.w, weight, sum.w);
}

DEVICE float4 times(float4 x, float by) {
    x.x *= by, x.y *= by, x.z *= by, x.w *= by;
    return x;
}

// The chunks of a row and head become one answer, a block each: see `DecodeArgs` for where they are. A thread has four numbers of every
// so-manieth chunk. That blocks of `decode` wait for nobody, and this is a kernel of its own, is faster than that the last of them
// joins: a block would have to read what 128 have written (H100, TinyLlama at 4096 positions: 3.6 us a layer more than without).
template <int D>
constexpr int UNITS = D / 4;
template <int D>
constexpr int SLICES = THREADS / UNITS<D>;

// Of a head of a row, by the first THREADS of a block, all of whose threads come here if they are Team's. Those of slice 0 give
// `put(unit, numbers)`.
template <int D, class Team, class From, class Put>
DEVICE void join_chunks(const DecodeArgs& a, int2 chunks, int row, int in_row, int rows, From source, float4 (*sums)[UNITS<D>], Put put) {
    constexpr int AT_ONCE = 4;
    int unit = threadIdx.x % UNITS<D>, slice = threadIdx.x / UNITS<D>, count = a.heads / a.kv_heads;
    int begin = chunks.x, end = chunks.y;
    int64_t head = int64_t(row) * a.heads + in_row, first_head = head - in_row % count;
    const float4* numbers = reinterpret_cast<const float4*>(a.partials) + (first_head * a.chunks + in_row % count) * UNITS<D> + unit;
    const float2* softmax = reinterpret_cast<const float2*>(a.partials + int64_t(rows) * a.heads * a.chunks * D) + head * a.chunks;
    float4 some[AT_ONCE];
    float2 tops[AT_ONCE];
    auto chunk = [&](int first, int i) { return min(first + slice + i * SLICES<D>, end - 1); };
    auto ask = [&](int first) {
        source.until([&] {
            bool are_there = true;
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                some[i] = source.ask(numbers + int64_t(chunk(first, i)) * count * UNITS<D>);
                tops[i] = source.ask(softmax + chunk(first, i));
                are_there = are_there && source.is_there(some[i]) && source.is_there(tops[i]);
            }
            return are_there;
        });
    };
    ask(begin);
    // Every warp finds out what they are to be weighed by.
    Softmax s = {-INFINITY, 0.0f};
    for (int first = begin; first < end; first += WARP) {
        float2 of;
        source.until([&] { return source.is_there(of = source.ask(softmax + min(first + lane_id(), end - 1))); });
        if (first + lane_id() >= end) continue;
        of = handed(of);
        float top = fmaxf(s.top, of.x);
        s = {top, fmaf(of.y, exp2f(of.x - top), s.total * exp2f(s.top - top))};
    }
    float top = warp_max(s.top), total = warp_sum(s.top == -INFINITY ? 0.0f : s.total * exp2f(s.top - top));
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int first = begin; first < end; first += AT_ONCE * SLICES<D>) {
        if (first > begin) ask(first);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + slice + i * SLICES<D> < end) add(sum, handed(some[i]), exp2f(handed(tops[i].x) - top));
    }
    sums[slice][unit] = sum;
    Team::meet();
    if (slice > 0) return;
    for (int i = 1; i < SLICES<D>; i++) add(sum, sums[i][unit], 1.0f);
    put(unit, times(sum, 1.0f / total));
}

// Scores and weighted values of a warp's positions, of which it sees some or none, for the others of its block. `keys()` and `values()` see
// to it that the strip has them.
template <int D, class K, class Keys, class Values>
DEVICE void attend_strip(const DecodeArgs& a, const Task& task, int first, bool is_seen, const Strip<D, K>& strip,
                         const Query<D>& asked, Room<D>& room, Keys keys, Values values) {
    int g = lane_id() / 4, t = lane_id() % 4;
    Softmax softmax = {-INFINITY, 0.0f};
    float sums[D / 64][16] = {};
    if (is_seen) {
        uint32_t query[D / 16][4];
        asked.take(a, query);
        keys();
        float scores[4];
        score(query, strip, scores);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!task.sees(first + value_position(i))) scores[i] = -INFINITY;
        softmax = exponentials_of_four(scores, strip);
        values();
        add_values(scores, strip, sums);
    }
    if (g >= task.count) return;
    if (t == 0) room.softmax[warp_id()][g] = softmax;
#pragma unroll
    for (int c = 0; c < D / 64; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float4 four = {sums[c][4 * i], sums[c][4 * i + 1], sums[c][4 * i + 2], sums[c][4 * i + 3]};
            *reinterpret_cast<float4*>(&room.sums[warp_id()][g][Room<D>::at(64 * c + 16 * t + 4 * i)]) = four;
        }
}

// What the warps of a block found, as one: `put(unit, numbers, softmax)`, four numbers of a head at a time.
template <int D, class Put>
DEVICE void gather_strips(const Task& task, const Room<D>& room, Put put) {
    for (int unit = threadIdx.x; unit < task.count * UNITS<D>; unit += THREADS) {
        int j = unit / UNITS<D>, d = unit % UNITS<D> * 4;
        float top = -INFINITY, total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, room.softmax[w][j].top);
        float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float weight = exp2f(room.softmax[w][j].top - top);
            total = fmaf(room.softmax[w][j].total, weight, total);
            add(sum, *reinterpret_cast<const float4*>(&room.sums[w][j][Room<D>::at(d)]), weight);
        }
        put(unit, sum, Softmax{top, total});
    }
}

// Where a chunk's numbers and its softmax go, of so many rows.
template <int D>
struct PartialPlace {
    float4* numbers;
    float2* softmax;

    DEVICE_MEMBER PartialPlace(const DecodeArgs& a, const Task& task, int rows, int unit) {
        int64_t head = int64_t(task.row) * a.heads + task.kv * task.count;
        numbers = reinterpret_cast<float4*>(a.partials) + (head * a.chunks + int64_t(task.chunk) * task.count) * UNITS<D> + unit;
        softmax = reinterpret_cast<float2*>(a.partials + int64_t(rows) * a.heads * a.chunks * D) + (head + unit / UNITS<D>) * a.chunks + task.chunk;
    }
};

}  // namespace few
