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

// A warp's keys and values, as its lanes' fragments have them.
template <int D, class K>
struct Strip {
    using Eight = typename K::Eight;
    static constexpr int SCALES = K::SCALED ? 4 : 1;
    Eight keys[2][D / 32];    // Positions g and 8 + g: numbers 32c + 8t, ….
    Eight values[4][D / 64];  // Positions 2t, 2t + 1, 2t + 8, 2t + 9: numbers 64c + 8g, ….
    float key_scales[SCALES], value_scales[SCALES];  // Of the same four positions.

    // Reads what is seen of positions least..most, `first` being the warp's.
    DEVICE_MEMBER void load(const DecodeArgs& a, const Task& task, int page, int first, int least, int most) {
        int g = lane_id() / 4, t = lane_id() % 4, token = first % PAGE;
        const uint8_t* key_block = a.cache + K::UNIT * (page * a.page + a.layer + task.kv * block_units(K::KEPT, D));
        const uint8_t* value_block = key_block + K::UNIT * a.kv_heads * block_units(K::KEPT, D);
        auto eight = [&](const uint8_t* block, int position, int d) {
            return fresh(reinterpret_cast<const Eight*>(block + K::UNIT * token * D) + (position * D + d) / 8);
        };
        auto scale = [&](const uint8_t* block, int position) {
            return fresh(reinterpret_cast<const float*>(block + PAGE * D) + token + position);
        };
        least = max(least, task.begin) - first, most = min(most, task.end) - first;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (8 * i + g >= least && 8 * i + g < most)
#pragma unroll
                for (int c = 0; c < D / 32; c++) keys[i][c] = eight(key_block, 8 * i + g, 32 * c + 8 * t);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int position = value_position(i);
            if (position < least || position >= most) continue;
#pragma unroll
            for (int c = 0; c < D / 64; c++) values[i][c] = eight(value_block, position, 64 * c + 8 * g);
            if constexpr (K::SCALED) key_scales[i] = scale(key_block, position), value_scales[i] = scale(value_block, position);
        }
    }
};

DEVICE uint32_t halves(float x, float y) { return uint32_t(to_half(x)) | uint32_t(to_half(y)) << 16; }

// Two numbers in f16, and what that left of them.
DEVICE void two_pieces(float x, float y, uint32_t& high, uint32_t& low) {
    high = halves(x, y);
    low = halves(x - half_bits(uint16_t(high)), y - half_bits(uint16_t(high >> 16)));
}

// Head g's numbers 32c + 8t, … times the scale of scores; beyond the range of f16 they are cut.
template <int D>
DEVICE void load_query(const DecodeArgs& a, const Task& task, uint32_t (&q)[D / 16][4]) {
    int g = lane_id() / 4, t = lane_id() % 4;
    const float* from = a.query + (int64_t(task.row) * a.heads + task.kv * task.count + min(g, task.count - 1)) * D + 8 * t;
    float scale = a.scale * LOG2_E;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        float4 four = fresh(reinterpret_cast<const float4*>(from + i / 2 * 32 + i % 2 * 4));
        float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) x[j] = fminf(fmaxf(x[j] * scale, -65504.0f), 65504.0f);
        two_pieces(x[0], x[1], q[i][0], q[i][1]);
        two_pieces(x[2], x[3], q[i][2], q[i][3]);
    }
}

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
DEVICE void join_chunks(const DecodeArgs& a) {
    constexpr int UNITS = D / 4, SLICES = THREADS / UNITS, AT_ONCE = 4;
    __shared__ float4 sums[SLICES][UNITS];
    int unit = threadIdx.x % UNITS, slice = threadIdx.x / UNITS, count = a.heads / a.kv_heads, row = blockIdx.y;
    int64_t head = int64_t(row) * a.heads + blockIdx.x, first_head = head - blockIdx.x % count;
    int end = fresh(a.positions + row) + 1, begin = max(0, end - a.window) / SPAN;
    end = (end + SPAN - 1) / SPAN;
    let_next_begin();
    wait_for_previous();
    const float4* numbers =
        reinterpret_cast<const float4*>(a.partials) + (first_head * a.chunks + blockIdx.x % count) * UNITS + unit;
    const float2* softmax =
        reinterpret_cast<const float2*>(a.partials + int64_t(gridDim.y) * a.heads * a.chunks * D) + head * a.chunks;
    float4 some[AT_ONCE];
    float tops[AT_ONCE];
    auto ask = [&](int first) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            int c = min(first + i * SLICES, end - 1);
            some[i] = fresh(numbers + int64_t(c) * count * UNITS);
            tops[i] = fresh(softmax + c).x;
        }
    };
    ask(begin + slice);
    // Every warp finds out what they are to be weighed by.
    Softmax s = {-INFINITY, 0.0f};
    for (int c = begin + lane_id(); c < end; c += WARP) {
        float2 of = fresh(softmax + c);
        float top = fmaxf(s.top, of.x);
        s = {top, fmaf(of.y, exp2f(of.x - top), s.total * exp2f(s.top - top))};
    }
    float top = warp_max(s.top), total = warp_sum(s.top == -INFINITY ? 0.0f : s.total * exp2f(s.top - top));
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int first = begin + slice; first < end; first += AT_ONCE * SLICES) {
        if (first > begin + slice) ask(first);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i * SLICES < end) add(sum, some[i], exp2f(tops[i] - top));
    }
    sums[slice][unit] = sum;
    __syncthreads();
    if (slice > 0) return;
    for (int i = 1; i < SLICES; i++) add(sum, sums[i][unit], 1.0f);
    reinterpret_cast<float4*>(a.out + head * D)[unit] = times(sum, 1.0f / total);
}

template <int D, class K>
DEVICE void decode(const DecodeArgs& a) {
    __shared__ __align__(16) Room<D> room;
    Task task = {int(blockIdx.z), int(blockIdx.y), int(blockIdx.x), a.heads / a.kv_heads, 0, 0};
    task.end = fresh(a.positions + task.row) + 1;
    task.begin = max(0, task.end - a.window);
    int chunks = (task.end + SPAN - 1) / SPAN;
    int first = task.chunk * SPAN + warp_id() * STRIP, g = lane_id() / 4, t = lane_id() % 4;
    bool is_seen = first < task.end && first + STRIP > task.begin;
    int page = is_seen ? fresh(a.tables + fresh(a.table + task.row) + first / PAGE) : 0;
    int known = fresh(a.known + task.row);
    Strip<D, K> strip = {};
    // What earlier steps left, then what the kernel in front did.
#pragma unroll 1
    for (int turn = 0; turn < 2; turn++) {
        if (is_seen && (turn == 0 || first + STRIP > known))
            strip.load(a, task, page, first, turn == 0 ? 0 : known, turn == 0 ? known : task.end);
        if (turn == 1) break;
        let_next_begin();
        wait_for_previous();
    }
    if (task.chunk < task.begin / SPAN || task.chunk >= chunks) return;
    Softmax softmax = {-INFINITY, 0.0f};
    float sums[D / 64][16] = {};
    if (is_seen) {
        uint32_t query[D / 16][4];
        load_query<D>(a, task, query);
        float scores[4];
        score(query, strip, scores);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!task.sees(first + value_position(i))) scores[i] = -INFINITY;
        softmax = exponentials_of_four(scores, strip);
        add_values(scores, strip, sums);
    }
    if (g < task.count) {
        if (t == 0) room.softmax[warp_id()][g] = softmax;
#pragma unroll
        for (int c = 0; c < D / 64; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float4 four = {sums[c][4 * i], sums[c][4 * i + 1], sums[c][4 * i + 2], sums[c][4 * i + 3]};
                *reinterpret_cast<float4*>(&room.sums[warp_id()][g][Room<D>::at(64 * c + 16 * t + 4 * i)]) = four;
            }
    }
    __syncthreads();
    int64_t head = int64_t(task.row) * a.heads + task.kv * task.count;
    for (int unit = threadIdx.x; unit < task.count * D / 4; unit += THREADS) {
        int j = unit / (D / 4), d = unit % (D / 4) * 4;
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
        // A chunk by itself is the answer.
        if (gridDim.x == 1) {
            reinterpret_cast<float4*>(a.out + head * D)[unit] = times(sum, 1.0f / total);
            continue;
        }
        int64_t place = (head * a.chunks + int64_t(task.chunk) * task.count) * (D / 4) + unit;
        reinterpret_cast<float4*>(a.partials)[place] = sum;
        float2* tops = reinterpret_cast<float2*>(a.partials + int64_t(gridDim.z) * a.heads * a.chunks * D);
        if (d == 0) tops[(head + j) * a.chunks + task.chunk] = make_float2(top, total);
    }
}

}  // namespace few

KERNEL_OF(decode_64, few::DecodeArgs, a, THREADS, 2) { few::decode<64, Halves>(a); }
KERNEL(decode_128, few::DecodeArgs, a) { few::decode<128, Halves>(a); }
KERNEL_OF(decode_q8_64, few::DecodeArgs, a, THREADS, 2) { few::decode<64, Codes8>(a); }
KERNEL(decode_q8_128, few::DecodeArgs, a) { few::decode<128, Codes8>(a); }

KERNEL(join_64, few::DecodeArgs, a) { few::join_chunks<64>(a); }
KERNEL(join_128, few::DecodeArgs, a) { few::join_chunks<128>(a); }
