// Causal attention of many rows over paged keys and values in f16 or 8 bits, on tensor cores: a block takes neighbouring rows of one
// sequence and all query heads of one key head, so that keys and values are read once for up to 128 queries. A warp has 16.
//
// Pages are gone through in the order of positions, softmax in f32 as it goes: what a page makes of a query depends on nothing
// but the query, the page and what came before, and a page that it does not see leaves it as it was. So a row's answer depends
// neither on the other rows nor on how the prompt was cut.
//
// Codes of 8 bits become f16, exactly, in shared memory; their scales are put to scores, and to weights of values.
//
// Queries are f32 in two f16 pieces and keys what they are, so scores, sums in f32, are as good as f32. Weights of values are
// rounded to f16, 2^-12 of each at most, which leaves a normalized mean square error near 2e-8; those below 2^-25 of a row's
// largest so far are lost.
//
// Estimated, not measured, for a page and a warp with heads of 64 numbers: 48 products of 16 x 8 x 16 (32 of them for the scores,
// in two pieces), 16 loads of fragments, about 250 instructions of softmax and rescaling; 400 cycles of a tensor core at the
// rate of mma.sync. 512 rows of 32 heads over 512 positions are 9 thousand such pages that are seen: 7 thousand cycles of each of
// 528 tensor cores, 4 us a layer at best; 20 us are likely, as warps wait for each other at every page and the last tiles are the
// longest. Registers: 133 for heads of 64 numbers, 238 for 128, which leaves an SM to one block.
#include "kept.cuh"
#include "mma.cuh"

namespace prompt {

struct AttendArgs {
    const float* query;    // (rows, heads, head_dim)
    const uint8_t* cache;  // (pages, layers, K | V, kv_heads, PAGE, head_dim), see kept.cuh.
    int64_t page;          // Units of a page.
    int64_t layer;         // From a page's first unit to the layer's.
    const int* tables;     // Block tables, one behind the other.
    const int* table;      // (rows): where the row's begins.
    const int* positions;  // (rows)
    const int2* tiles;     // Of each blockIdx.y: first row, and how many; together at most QUERIES queries of a key head.
    float* out;            // (rows, heads, head_dim)
    float scale;
    int heads;
    int kv_heads;
    int window;  // Positions that a row sees.
};

constexpr int QUERIES = 16 * WARPS;
constexpr float LOG2_E = 1.4426950408889634f;

// Rows of a page, each 16 bytes longer than it is: eight of them begin in different banks.
template <int DIM>
struct __align__(16) Room {
    static constexpr int STRIDE = DIM + 8;
    uint16_t keys[PAGE][STRIDE];
    uint16_t values[PAGE][STRIDE];
};

// The queries of a lane: those of rows g and g + 8 of its warp's fragments.
struct Query {
    int row, head;
    int position;
    int start;  // The first position that it sees.
    bool there;
};

DEVICE Query query(const AttendArgs& a, int2 tile, int i) {
    int group = a.heads / a.kv_heads, row = tile.x + min(i / group, tile.y - 1), position = a.positions[row];
    return {row, int(blockIdx.x) * group + i % group, position, max(0, position + 1 - a.window), i / group < tile.y};
}

// A token's keys (or values) of a page, which begin at a block.
template <class K, int DIM>
DEVICE const uint8_t* tokens_at(const AttendArgs& a, int page, bool is_value) {
    int64_t head = (is_value ? a.kv_heads : 0) + int(blockIdx.x);
    return a.cache + K::UNIT * (page * a.page + a.layer + head * block_units(K::KEPT, DIM));
}

// The pages that a block is at: the one that is multiplied, and the one behind it, which is being copied; zeros for positions behind
// `last`, of which nobody knows what they are.
template <int DIM, class K>
struct Pages;

template <int DIM>
struct Pages<DIM, Halves> {
    Room<DIM> rooms[2];

    DEVICE_MEMBER void begin(const AttendArgs& a, const int* table, int page, int last) {
        constexpr int PIECES = DIM / 8;
        Room<DIM>& to = rooms[page % 2];
        for (int i = threadIdx.x; i < 2 * PAGE * PIECES; i += THREADS) {
            int block = i / (PAGE * PIECES), token = i / PIECES % PAGE, piece = i % PIECES;
            const uint8_t* from = tokens_at<Halves, DIM>(a, table[page], block) + 16 * (token * PIECES + piece);
            begin_copy<16>((block ? to.values : to.keys)[token] + 8 * piece, from, page * PAGE + token <= last);
        }
        end_lot();
    }

    DEVICE_MEMBER const Room<DIM>& ready(int page) const { return rooms[page % 2]; }
    // None.
    DEVICE_MEMBER float key_scale(int, int) const { return 1.0f; }
    DEVICE_MEMBER float value_scale(int, int) const { return 1.0f; }
    DEVICE_MEMBER float power(int) const { return 0.0f; }
};

template <int DIM>
struct Pages<DIM, Codes8> {
    struct __align__(16) Coded {
        uint8_t codes[2][PAGE][DIM];  // of keys, of values
        float scales[2][PAGE];
    };
    Coded coded[2];
    Room<DIM> room;
    float powers[PAGE];  // Of values' scales.

    DEVICE_MEMBER void begin(const AttendArgs& a, const int* table, int page, int last) {
        constexpr int PIECES = DIM / 16;
        Coded& to = coded[page % 2];
        for (int i = threadIdx.x; i < 2 * PAGE * (PIECES + 1); i += THREADS) {
            int block = i / (PAGE * (PIECES + 1)), token = i / (PIECES + 1) % PAGE, piece = i % (PIECES + 1);
            const uint8_t* from = tokens_at<Codes8, DIM>(a, table[page], block);
            bool there = page * PAGE + token <= last;
            if (piece < PIECES) {
                begin_copy<16>(to.codes[block][token] + 16 * piece, from + token * DIM + 16 * piece, there);
            } else {
                begin_copy<4>(to.scales[block] + token, from + PAGE * DIM + 4 * token, there);
            }
        }
        end_lot();
    }

    // By all threads, after what was copied is there.
    DEVICE_MEMBER const Room<DIM>& ready(int page) {
        constexpr int PIECES = DIM / 8;
        const Coded& from = coded[page % 2];
#pragma unroll 2
        for (int i = threadIdx.x; i < 2 * PAGE * PIECES; i += THREADS) {
            int block = i / (PAGE * PIECES), token = i / PIECES % PAGE, piece = i % PIECES;
            uint2 codes = *reinterpret_cast<const uint2*>(from.codes[block][token] + 8 * piece);
            *reinterpret_cast<uint4*>((block ? room.values : room.keys)[token] + 8 * piece) = halves_of(codes);
        }
        if (threadIdx.x < PAGE) powers[threadIdx.x] = power_of(from.scales[1][threadIdx.x]);
        __syncthreads();
        return room;
    }

    DEVICE_MEMBER float key_scale(int page, int token) const { return coded[page % 2].scales[0][token]; }
    DEVICE_MEMBER float value_scale(int page, int token) const { return coded[page % 2].scales[1][token]; }
    DEVICE_MEMBER float power(int token) const { return powers[token]; }
};

DEVICE uint32_t halves(float a, float b) { return uint32_t(to_half(a)) | uint32_t(to_half(b)) << 16; }

// Queries times the scale of scores, as two f16 fragments whose sum they are; beyond the range of f16 they are cut.
template <int DIM>
DEVICE void load_queries(const AttendArgs& a, const Query (&queries)[2], uint32_t (&high)[DIM / 16][4],
                         uint32_t (&low)[DIM / 16][4]) {
    int t = lane_id() % 4;
    float scale = a.scale * LOG2_E;
#pragma unroll
    for (int k = 0; k < DIM / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const Query& q = queries[i % 2];
            const float* from = a.query + (int64_t(q.row) * a.heads + q.head) * DIM + 16 * k + 8 * (i / 2) + 2 * t;
            float2 two = *reinterpret_cast<const float2*>(from);
            float x = fminf(fmaxf(two.x * scale, -65504.0f), 65504.0f), y = fminf(fmaxf(two.y * scale, -65504.0f), 65504.0f);
            high[k][i] = halves(x, y);
            low[k][i] = halves(x - half_bits(uint16_t(high[k][i])), y - half_bits(uint16_t(high[k][i] >> 16)));
        }
}

constexpr int TILES = PAGE / 8;

template <int DIM>
DEVICE void score(const Room<DIM>& room, const uint32_t (&high)[DIM / 16][4], const uint32_t (&low)[DIM / 16][4],
                  float (&scores)[TILES][4]) {
    int lane = lane_id();
#pragma unroll
    for (int j = 0; j < TILES; j += 2) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[j][i] = scores[j + 1][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            // The two halves of 16 numbers of 8 keys, and of the 8 keys behind them.
            uint32_t keys[4];
            load_matrices(keys, room.keys[8 * (j + lane / 16) + lane % 8] + 16 * k + lane / 8 % 2 * 8);
            mma_f16(scores[j], low[k], keys[0], keys[1]);
            mma_f16(scores[j + 1], low[k], keys[2], keys[3]);
            mma_f16(scores[j], high[k], keys[0], keys[1]);
            mma_f16(scores[j + 1], high[k], keys[2], keys[3]);
        }
    }
}

template <int DIM>
DEVICE void add_values(const Room<DIM>& room, const float (&weights)[TILES][4], float (&sums)[DIM / 8][4]) {
    int lane = lane_id();
#pragma unroll
    for (int k = 0; k < TILES / 2; k++) {
        const float(&first)[4] = weights[2 * k], (&second)[4] = weights[2 * k + 1];
        uint32_t a[4] = {halves(first[0], first[1]), halves(first[2], first[3]), halves(second[0], second[1]),
                         halves(second[2], second[3])};
#pragma unroll
        for (int d = 0; d < DIM / 8; d += 2) {
            // 8 numbers of 16 values, and the 8 numbers behind them.
            uint32_t values[4];
            load_transposed(values, room.values[16 * k + lane / 8 % 2 * 8 + lane % 8] + 8 * (d + lane / 16));
            mma_f16(sums[d], a, values[0], values[1]);
            mma_f16(sums[d + 1], a, values[2], values[3]);
        }
    }
}

// The softmax so far of a lane's two queries: the largest score of all lanes, the sum of this lane's exponentials.
struct State {
    float top[2], total[2];
};

// The token of a page that number i of a tile is for.
DEVICE int token_of(int j, int i) { return 8 * j + 2 * (lane_id() % 4) + i % 2; }

// Scores become 2^(score - top), times what their values are to be multiplied with; what was summed before is to be multiplied with
// `factor`.
template <int DIM, class K>
DEVICE void exponentials(const Pages<DIM, K>& pages, int page, float (&scores)[TILES][4], State& s, float (&factor)[2]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = s.top[h];
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++)
                top = fmaxf(top, K::SCALED ? scores[j][i] + pages.power(token_of(j, i)) : scores[j][i]);
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        // Nothing seen yet: all exponentials are to be 0, not the difference of infinities.
        float from = top == -INFINITY ? 0.0f : top;
        factor[h] = exp2f(s.top[h] - from);
        float total = s.total[h] * factor[h];
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                scores[j][i] = exp2f(scores[j][i] - from);
                total += scores[j][i];
                if (K::SCALED) scores[j][i] *= pages.value_scale(page, token_of(j, i));
            }
        s.top[h] = top;
        s.total[h] = total;
    }
}

template <int DIM, class K>
DEVICE void attend(const AttendArgs& a) {
    __shared__ Pages<DIM, K> pages;
    int2 tile = a.tiles[blockIdx.y];
    int lane = lane_id(), warp = warp_id(), g = lane / 4, t = lane % 4, group = a.heads / a.kv_heads;
    Query queries[2] = {query(a, tile, 16 * warp + g), query(a, tile, 16 * warp + g + 8)};
    uint32_t high[DIM / 16][4], low[DIM / 16][4];
    load_queries<DIM>(a, queries, high, low);

    // Of the block, and of the warp's queries, positions of a sequence's rows being neighbours.
    int position = a.positions[tile.x], last = position + tile.y - 1;
    bool busy = 16 * warp / group < tile.y;
    int least = position + 16 * warp / group, most = position + min((16 * warp + 15) / group, tile.y - 1);
    int first = max(0, position + 1 - a.window) / PAGE, end = last / PAGE + 1;

    float sums[DIM / 8][4];
#pragma unroll
    for (int d = 0; d < DIM / 8; d++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[d][i] = 0.0f;
    State state = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    const int* table = a.tables + a.table[tile.x];
    pages.begin(a, table, first, last);
    for (int page = first; page < end; page++) {
        wait_for_copies<0>();
        // All see the page, and nobody the one before it any more.
        __syncthreads();
        if (page + 1 < end) pages.begin(a, table, page + 1, last);
        const Room<DIM>& room = pages.ready(page);
        int from = page * PAGE;
        if (!busy || from > most || from + PAGE <= max(0, least + 1 - a.window)) continue;
        float scores[TILES][4], factor[2];
        score<DIM>(room, high, low, scores);
        if (K::SCALED)
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) scores[j][i] *= pages.key_scale(page, token_of(j, i));
        if (from + PAGE - 1 > least || from < most + 1 - a.window)
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int at = from + token_of(j, i);
                    if (at > queries[i / 2].position || at < queries[i / 2].start) scores[j][i] = -INFINITY;
                }
        exponentials(pages, page, scores, state, factor);
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[d][i] *= factor[i / 2];
        add_values<DIM>(room, scores, sums);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float total = state.total[h];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        if (!queries[h].there) continue;
        float* to = a.out + (int64_t(queries[h].row) * a.heads + queries[h].head) * DIM + 2 * t;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
            *reinterpret_cast<float2*>(to + 8 * d) = make_float2(sums[d][2 * h] / total, sums[d][2 * h + 1] / total);
    }
}

}  // namespace prompt

KERNEL_OF(attend_many_32, prompt::AttendArgs, a, THREADS, 2) { prompt::attend<32, Halves>(a); }
KERNEL_OF(attend_many_48, prompt::AttendArgs, a, THREADS, 2) { prompt::attend<48, Halves>(a); }
KERNEL(attend_many_64, prompt::AttendArgs, a) { prompt::attend<64, Halves>(a); }
KERNEL(attend_many_80, prompt::AttendArgs, a) { prompt::attend<80, Halves>(a); }
KERNEL(attend_many_96, prompt::AttendArgs, a) { prompt::attend<96, Halves>(a); }
KERNEL(attend_many_112, prompt::AttendArgs, a) { prompt::attend<112, Halves>(a); }
KERNEL(attend_many_128, prompt::AttendArgs, a) { prompt::attend<128, Halves>(a); }
KERNEL_OF(attend_many_q8_32, prompt::AttendArgs, a, THREADS, 2) { prompt::attend<32, Codes8>(a); }
KERNEL_OF(attend_many_q8_48, prompt::AttendArgs, a, THREADS, 2) { prompt::attend<48, Codes8>(a); }
KERNEL(attend_many_q8_64, prompt::AttendArgs, a) { prompt::attend<64, Codes8>(a); }
KERNEL(attend_many_q8_80, prompt::AttendArgs, a) { prompt::attend<80, Codes8>(a); }
KERNEL(attend_many_q8_96, prompt::AttendArgs, a) { prompt::attend<96, Codes8>(a); }
KERNEL(attend_many_q8_112, prompt::AttendArgs, a) { prompt::attend<112, Codes8>(a); }
KERNEL(attend_many_q8_128, prompt::AttendArgs, a) { prompt::attend<128, Codes8>(a); }
